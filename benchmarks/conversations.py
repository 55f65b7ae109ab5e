"""Who speaks when, and who speaks a line, in conversations put together from clips of one talking face each.

    python benchmarks/conversations.py FOLDER --include 'misc/*' 'dhfacevid/dh_??[05].*' --weights lipsync

Each film shows two or three people of one folder side by side, who speak seven turns of 1.5 to 3 s. The others are
frozen, or go on talking without their sound; in half of the films half of the turns begin up to a second early. Leave
out people whom the weights were trained on.
"""

import argparse
import random
import sys
import tempfile
from collections import Counter, defaultdict
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from merc.annotation import diarize
from merc.conversation import Clip, Utterance, UtteranceKey
from merc.corpora.films import FILM_SUFFIXES
from merc.datamodules.readers import TrackReader
from merc.media import FRAME_RATE, FaceTracker, MTCNNDetector, rows_to_tracks
from merc.speaker import LikelihoodScorer, load_lipsync, mouth_tracks
from support.conversations import diarization_error, person_at, plan_turns, right_turns, write_conversation

TURNS = 7

_COUNTS = (("known", "right"), ("line", "line_right"))


def line_of(reader, lips, film, turn):
    """The box of the face that is chosen for a turn, or ``None``."""
    clip = Clip(str(film), turn.start / FRAME_RATE, turn.end / FRAME_RATE)
    rows = reader.read(UtteranceKey("film", film.name, "0"), Utterance("0", "", video=clip))
    if any(isinstance(part, str) for part in rows.values()):
        return None
    tracks = rows_to_tracks(rows["faces"])
    mouths = mouth_tracks(tracks, rows["crops"])
    choice = LikelihoodScorer().choose(lips.network, mouths, rows["sound"], lips.calibration)
    return None if choice.track < 0 else tracks[choice.track].boxes[0].tolist()


def main() -> None:
    """Print one row per film, and the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--include", nargs="+", default=["*"])
    parser.add_argument("--weights", default="lipsync")
    parser.add_argument("--rounds", type=int, default=2, help="films of each of the eight kinds")
    given = parser.parse_args()
    sources = defaultdict(list)
    for file in sorted(given.folder.rglob("*")):
        name = file.relative_to(given.folder).as_posix()
        if file.suffix.lower() in FILM_SUFFIXES and any(fnmatchcase(name, pattern) for pattern in given.include):
            sources[file.parent].append(file)
    casts = [files for files in sources.values() if len(files) >= 3]
    if not casts:
        parser.error(f"no folder below {given.folder} holds three films that --include names")
    draw, tracker, lips = random.Random(5), FaceTracker(MTCNNDetector()), load_lipsync(given.weights)
    reader = TrackReader(tracker, crop_size=lips.network.size)
    sums: dict[str, Counter[str]] = defaultdict(Counter)
    for number, (_, people, frozen, overlap) in enumerate(
        product(range(given.rounds), (2, 3), (True, False), (0.0, 0.5)), start=1
    ):
        cast = draw.sample(draw.choices(casts, [len(files) for files in casts])[0], people)
        plan = plan_turns(people, TURNS, number, overlap=overlap)
        with tempfile.TemporaryDirectory() as folder:
            film = Path(write_conversation(Path(folder) / "talk.mp4", cast, plan, frozen))
            turns = diarize(film, given.weights, tracker=tracker).turns
            boxes = [line_of(reader, lips, film, turn) for turn in plan]
        found = [(person_at(turn.box, people), turn.start, turn.end) for turn in turns]
        error = diarization_error(plan, found, people)
        known, right = right_turns(plan, found)
        chosen = [
            person_at(box, people) == turn.person for box, turn in zip(boxes, plan, strict=True) if box is not None
        ]
        row = Counter(films=1, known=known, right=right, line=len(chosen), line_right=sum(chosen))
        row += Counter(dict(zip(("missed", "false", "confused"), error, strict=True)))
        kinds = ("frozen" if frozen else "talking", "overlaps" if overlap else "turns", "all")
        for kind in kinds:
            sums[kind] += row
        print(", ".join(file.name for file in cast), *kinds[:2], told(row), flush=True)
    for kind, total in sums.items():
        print(f"{kind}: {told(total)}")


def told(row: Counter[str]) -> str:
    """A row of means in per cent."""
    films, turns = row["films"], row["films"] * TURNS
    parts = [100 * row[name] / films for name in ("missed", "false", "confused")]
    heard, line = ((row[name] / turns, row[good] / max(row[name], 1)) for name, good in _COUNTS)
    return (
        f"error {sum(parts):.1f} (missed {parts[0]:.1f}, false {parts[1]:.1f}, confused {parts[2]:.1f}); "
        f"of {turns} turns {heard[0]:.0%} known, {heard[1]:.0%} of these right; "
        f"as lines {line[0]:.0%} known, {line[1]:.0%} of these right"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
