r"""Who speaks in rendered clips? The choices of LipSyncNet in scenes whose truth is known, and where they are wrong.

python benchmarks/rendered_speaker.py runs/video [FOLDER ...] [--weights lipsync] [--splits val test]

The first folder is that of ``merc run demo/video.yaml``; others are made by

    merc import rendered --out FOLDER/data --seed 1 --dialogues '{train: 1, val: 14, test: 1}' \
        --people '{train: 4, val: 12, test: 4}'
    merc predict --config faces.yaml --data.corpus FOLDER/data/corpus.json --out FOLDER/faces \
        --outputs '[faces, crops, sound]'

A choice is right if it is a track of the speaker, who has one in every shot that shows them, or nobody where no track
is the speaker's. "Unseen" are those last ones: the speaker is out of the frame or was not found.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from merc.conversation import UtteranceKey
from merc.datamodules import LipSyncDataModule, LipSyncSource
from merc.datamodules.lipsync import LipSyncClip
from merc.media.rates import MEL_PER_FRAME
from merc.media.tracks import FaceTrack, rows_to_tracks
from merc.speaker import NOBODY, LikelihoodScorer, PretrainedLips, load_lipsync
from merc.store import FeatureStore

Case = tuple[LipSyncClip, set[int], bool]
"""A clip, which of its tracks are the speaker's, and whether the choice is right."""

PARTS: dict[str, Callable[[Case], bool]] = {
    "all clips": lambda case: True,
    "two tracks or more": lambda case: len(case[0].tracks) > 1,
    "  speaker seen": lambda case: len(case[0].tracks) > 1 and bool(case[1]),
    "  speaker unseen": lambda case: len(case[0].tracks) > 1 and not case[1],
    "  a window or less": lambda case: len(case[0].tracks) > 1 and len(case[0].sound) <= 32 * MEL_PER_FRAME,
    "  five tracks or more": lambda case: len(case[0].tracks) > 4,
    "one track": lambda case: len(case[0].tracks) == 1,
}


def speaking(found: Sequence[FaceTrack], true: Sequence[FaceTrack]) -> set[int]:
    """Which of the tracks that were found are a true one of the speaker, who has one in every shot that shows them."""
    return {number for number, track in enumerate(found) if any(overlap(track, other) > 0.4 for other in true)}


def overlap(a: FaceTrack, b: FaceTrack) -> float:
    """Intersection over union of two tracks, over the frames of the shorter one that both have."""
    first, end = max(a.first, b.first), min(a.end, b.end)
    if first >= end:
        return 0.0
    x, y = a.boxes[first - a.first : end - a.first], b.boxes[first - b.first : end - b.first]
    sides = (x[:, 2:].minimum(y[:, 2:]) - x[:, :2].maximum(y[:, :2])).clamp(min=0).prod(1)
    union = (x[:, 2:] - x[:, :2]).prod(1) + (y[:, 2:] - y[:, :2]).prod(1) - sides
    return float((sides / union).sum()) / min(len(a), len(b))


def rendered_truth(run: Path) -> tuple[LipSyncSource, dict[UtteranceKey, set[int]]]:
    """The rendered corpus of a run, and which of the tracks that were found truly are the speaker's: none if unseen."""
    faces = {kind: str(run / "faces" / kind) for kind in ("faces", "crops", "sound")}
    found, true = FeatureStore(faces["faces"]), FeatureStore(run / "data/truth/faces")
    people = json.loads((run / "data/truth/tracks.json").read_text())
    truth = {}
    for key in found.keys:
        tracks = zip(rows_to_tracks(true.sequence(key)), people[str(key)], strict=True)
        own = [track for track, person in tracks if person["speaks"]]
        truth[key] = speaking(rows_to_tracks(found.sequence(key)), own)
    return LipSyncSource(str(run / "data/corpus.json"), **faces), truth


def is_right(track: int, truth: set[int]) -> bool:
    """Whether a choice is a track of the speaker, or nobody if none is."""
    return track in truth if truth else track == NOBODY


def share(wins: Sequence[bool]) -> str:
    """A percentage with its count."""
    return f"{100 * sum(wins) / len(wins):.1f} % of {len(wins)}" if wins else ""


def cases(weights: PretrainedLips, folder: Path, splits: Sequence[str]) -> list[Case]:
    """The choices in the clips of a corpus in which faces were found."""
    source, truth = rendered_truth(folder)
    data = LipSyncDataModule([source])
    data.setup()
    found = []
    for clip in (clip for split in splits for clip in data.clips(split) if clip.tracks):
        choice = LikelihoodScorer().choose(weights.network, clip.tracks, clip.sound, weights.calibration)
        found.append((clip, truth[clip.key], is_right(choice.track, truth[clip.key])))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--weights", default="lipsync", help="a name or a folder")
    parser.add_argument("--splits", nargs="+", default=["val", "test"])
    options = parser.parse_args()
    weights = load_lipsync(options.weights)
    print("| | " + " | ".join(map(str, options.runs)) + " |")
    columns = [cases(weights, folder, options.splits) for folder in options.runs]
    for name, belongs in PARTS.items():
        cells = [share([case[2] for case in column if belongs(case)]) for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")
    first = [share([is_right(0, truth) for clip, truth, _ in column if len(clip.tracks) > 1]) for column in columns]
    print("| first face, two tracks or more | " + " | ".join(first) + " |")


if __name__ == "__main__":
    main()
