r"""Who speaks in rendered clips? The choices of the LipSyncNet of a finished demo, and where they are wrong.

python benchmarks/rendered_speaker.py runs/video [--other FOLDER ...] [--splits val]

The run is the folder of ``merc run demo/video.yaml``. Its network's threshold of "nobody" is set anew, on its own
validation split, and tracks are chosen in the clips of the run and of other rendered corpora, which the network has not
seen and of which each is made by

    merc import rendered --out FOLDER/data --seed 1 --dialogues '{train: 1, val: 14, test: 1}' \
        --people '{train: 4, val: 12, test: 4}'
    merc predict --config faces.yaml --data.corpus FOLDER/data/corpus.json --out FOLDER/faces \
        --outputs '[faces, crops, sound]'

A choice is right if it is a track of the speaker, who has one in every shot that shows him, or nobody where no track
is the speaker's. "Unseen" are those last ones: the speaker is out of the picture or was not found.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from lipsync import KINDS, is_right, opened, quiet_trainer, rendered_truth, share

from merc.datamodules import LipSyncDataModule, LipSyncSource
from merc.datamodules.lipsync import LipSyncClip
from merc.media.rates import MEL_PER_FRAME
from merc.speaker import LipSyncNet
from merc.tasks import LipSyncTask

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


def trained(run: Path) -> LipSyncTask:
    """The best network of the run, its threshold set on the run's validation split."""
    [file] = (run / "lipsync/checkpoints").glob("best*.ckpt")
    task = LipSyncTask(LipSyncNet(), pair_frames=30)
    task.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    places = {kind: str(run / "lips" / kind) for kind in KINDS}
    lips = LipSyncSource(str(run / "lips/corpus.json"), **places, speaker=str(run / "lips/speaker"))
    print(f"threshold {float(task.threshold):.3f} in the checkpoint, ", end="")
    quiet_trainer(accelerator="cpu").validate(
        task, datamodule=LipSyncDataModule([rendered_truth(run)[0], lips]), verbose=False
    )
    print(f"{float(task.threshold):.3f} from validation")
    return task.eval()


def cases(task: LipSyncTask, folder: Path, splits: list[str]) -> list[Case]:
    """The choices in the clips of a corpus in which faces were found."""
    source, truth = rendered_truth(folder)
    found = []
    for clip in (clip for split in splits for clip in opened(source).clips(split) if clip.tracks):
        choice = task.scorer.choose(task.network, clip.tracks, clip.sound, float(task.threshold))
        found.append((clip, truth[clip.key], is_right(choice.track, truth[clip.key])))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--other", type=Path, nargs="*", default=[])
    parser.add_argument("--splits", nargs="+", default=["val"])
    parser.add_argument("--threshold", type=float, help="of nobody, instead of that from validation")
    options = parser.parse_args()
    task = trained(options.run)
    if options.threshold is not None:
        task.threshold.fill_(options.threshold)
    print("| | " + " | ".join(map(str, [options.run, *options.other])) + " |")
    columns = [cases(task, folder, options.splits) for folder in (options.run, *options.other)]
    for name, belongs in PARTS.items():
        cells = [share([case[2] for case in column if belongs(case)]) for column in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")
    first = [share([is_right(0, truth) for clip, truth, _ in column if len(clip.tracks) > 1]) for column in columns]
    print("| first face, two tracks or more | " + " | ".join(first) + " |")


if __name__ == "__main__":
    main()
