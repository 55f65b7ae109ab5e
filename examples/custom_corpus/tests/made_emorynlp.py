"""Files in the layout of EmoryNLP with made-up scenes: nothing of the corpus itself is copied."""

import csv
import random
from pathlib import Path

HEADER = "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time".split(",")
SAID = {
    "Joyful": "That is so great!!",
    "Mad": "GET OUT OF HERE!",
    "Neutral": "I am at home.",
    "Peaceful": "it is all right",
    "Powerful": "We did it, you see?",
    "Sad": "oh...",
    "Scared": "What?! Who is there?",
}
PEOPLE = ["Ann Example", "Bob Example", "Cy Example"]


def make_emorynlp(root: Path, scenes: int = 8, seed: int = 0) -> Path:
    """Write the three files, with so many scenes in train and half of them in the others."""
    rng = random.Random(seed)
    root.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(("train", "dev", "test")):
        with (root / f"emorynlp_{split}_final.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(HEADER)
            for scene in range(scenes if split == "train" else scenes // 2):
                for turn in range(rng.randint(2, 6)):
                    emotion = rng.choice(list(SAID))
                    speakers = rng.sample(PEOPLE, 2 if rng.random() < 0.1 else 1)
                    times = [f"00:{turn:02}:0{second}.500" for second in (1, 4)]
                    where = [scene % 3 + 1, turn + 1, number + 1, scene // 3 + 1]  # scenes restart in every episode
                    writer.writerow([SAID[emotion], str(speakers), emotion, *where, *times])
    return root
