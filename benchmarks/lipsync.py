r"""Whose lips fit the sound? Weights of LipSyncNet on films of people whom they have not seen, by source.

merc import films FOLDER --out runs/films/data
merc predict --config faces.yaml --data.corpus runs/films/data/corpus.json --out runs/films/faces \
    --outputs '[faces, crops, sound]'
python benchmarks/lipsync.py runs/films --weights lipsync lipsync-research --trained runs/lipsync-research/data

Every film shows one person who talks. Its folder is its source; films that are in the train or val split of a corpus
that ``--trained`` names, and other films of the people in them, are left out. For trials of 2 s and 3 s, up to three a
film:

other    two talking faces of one source and the sound of one: how often the own face wins, over all ordered pairs
still    a talking face beside itself standing still
kept     a face alone in the frame, under its own sound, is said to speak
refused  under the sound of somebody else of its source, nobody is said to speak
AUC      how often an own score is above one of a face with a foreign sound, over all of both
at 97 %  the share that would be refused if the threshold kept 97 % of the own faces

"motion" is the correlation of mouth motion with loudness. ``LikelihoodScorer`` is how merc chooses; ``SyncScorer`` is
eq. 5 of the paper, over windows of 1.28 s, with the threshold of the films themselves, which is in its favour.
Differences to motion have 95 % intervals from a paired bootstrap over people.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from merc.conversation import Corpus
from merc.datamodules import LipSyncDataModule, LipSyncSource
from merc.datamodules.lipsync import LipSyncClip
from merc.evaluation.synchrony import SynchronyTrials, bootstrap_people, compare_all, motion_scores, synchrony_scores
from merc.media.rates import FRAME_RATE, MEL_PER_FRAME
from merc.speaker import (
    LikelihoodScorer,
    MouthTrack,
    PretrainedLips,
    SpeakerScorer,
    SyncScorer,
    TraceNetwork,
    load_lipsync,
)

Piece = tuple[str, MouthTrack, torch.Tensor]
"""A person, a mouth and a sound of one length."""


def films_of(run: Path, trained: Sequence[Path]) -> dict[str, list[tuple[str, LipSyncClip]]]:
    """The person and the clip of every film of a run that no network was trained on, by source."""
    seen, known = set(), set()
    for folder in trained:
        for split, conversations in Corpus.load(folder).items():
            if split != "test":
                seen |= {Path(c.id).name for c in conversations}
                known |= {c.utterances[0].speaker for c in conversations}
    faces = run / "faces"
    data = LipSyncDataModule(
        [LipSyncSource(str(run / "data/corpus.json"), str(faces / "faces"), str(faces / "crops"), str(faces / "sound"))]
    )
    data.setup()
    films = [(c.id, c.utterances[0].speaker) for split in data.opened[0].corpus.values() for c in split]
    speakers = dict(films)
    known |= {person for name, person in films if Path(name).name in seen}
    found: dict[str, list[tuple[str, LipSyncClip]]] = defaultdict(list)
    for split in data.opened[0].corpus:
        for clip in data.clips(split):
            name, person = Path(clip.key.dialogue), speakers[clip.key.dialogue]
            if clip.talking and name.name not in seen and person not in known:
                found[name.parent.name].append((person, clip))
    return found


def pieces_of(films: Sequence[tuple[str, LipSyncClip]], frames: int, most: int = 3) -> list[Piece]:
    """Up to ``most`` pieces a film, of the longest track that talks."""
    found = []
    for person, clip in films:
        track = max((clip.tracks[index] for index in clip.talking), key=lambda track: len(track.crops))
        length = min(len(track.crops), len(clip.sound) // MEL_PER_FRAME - track.first)
        for start in range(0, min(length - frames + 1, most * frames), frames):
            first = MEL_PER_FRAME * (track.first + start)
            sound = clip.sound[first : first + MEL_PER_FRAME * frames]
            found.append((person, MouthTrack(0, track.crops[start : start + frames]), sound))
    return found


def scorers(weights: PretrainedLips) -> dict[str, SpeakerScorer]:
    """How weights can be used: traces by likelihood and by windows, vectors of a clip as a whole."""
    if isinstance(weights.network, TraceNetwork):
        return {"": LikelihoodScorer(), ", eq. 5": SyncScorer()}
    return {"": SyncScorer(window=None, max_lag=0, activity=0.0)}


def compared(weights: PretrainedLips, scorer: SpeakerScorer, pieces: Sequence[Piece]) -> SynchronyTrials:
    """All pieces of a source against each other."""
    trials = []
    for _, track, sound in pieces:
        trials.append(scorer.trial(weights.network, track, sound, len(track.crops)))
    own = isinstance(scorer, LikelihoodScorer) and len(weights.calibration) == 2
    calibration = weights.calibration if own else scorer.calibrated(trials)
    return compare_all(scorer, trials, [person for person, *_ in pieces], calibration)


def row(found: SynchronyTrials, floor: SynchronyTrials) -> list[str]:
    """The cells of a table."""
    scores = synchrony_scores(found)
    own, foreign = found.scores.diagonal(), found.scores[found.others]
    threshold = own.sort().values[int(0.03 * len(own))]
    above = float((own[:, None] > foreign[None]).float().mean())
    at97 = float((foreign < threshold).float().mean())
    shares = [scores.pair_accuracy, scores.still_accuracy, scores.kept, scores.refused, above, at97]
    cells = [f"{100 * share:.1f}" for share in shares]
    if found is not floor:
        difference, low, high, p = bootstrap_people(found, floor)
        cells.append(f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}], {p:.4f}")
    else:
        cells[1:4] = ["", "", ""]
        cells.append("")
    return cells


def main() -> None:
    """Print a table for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with data/corpus.json and faces/")
    parser.add_argument("--weights", nargs="+", default=["lipsync"], help="names or folders")
    parser.add_argument("--trained", type=Path, nargs="*", default=[], help="corpora that they were trained on")
    parser.add_argument("--seconds", type=float, nargs="+", default=[2.0, 3.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    films = films_of(options.run, options.trained)
    weights = {Path(name).name: load_lipsync(name) for name in options.weights}
    for seconds in options.seconds:
        frames = round(seconds * FRAME_RATE) - 1
        print(f"\n## {seconds:.0f} s\n")
        print("| source | trials, people | method | other | still | kept | refused | AUC | at 97 % | over motion, p |")
        print("|---|---:|---|---:|---:|---:|---:|---:|---:|---|", flush=True)
        means: dict[str, list[list[float]]] = defaultdict(list)
        for source, members in sorted(films.items()):
            pieces = pieces_of(members, frames)
            people = [person for person, *_ in pieces]
            if len(set(people)) < 2:
                continue
            motion = motion_scores([track.crops for _, track, _ in pieces], [sound for *_, sound in pieces])
            floor = SynchronyTrials(people, motion, torch.full((len(people),), float("nan")))
            methods = {"motion": floor}
            for name, own in weights.items():
                methods |= {name + how: compared(own, scorer, pieces) for how, scorer in scorers(own).items()}
            for method, found in methods.items():
                cells = row(found, floor)
                means[method].append([float(cell) for cell in cells[:-1] if cell])
                print(f"| {source} | {len(people)}, {len(set(people))} | {method} | {' | '.join(cells)} |", flush=True)
        for method, rows in means.items():
            mean = [f"{sum(column) / len(column):.1f}" for column in zip(*rows, strict=True)]
            mean = mean if len(mean) > 3 else [mean[0], "", "", "", *mean[1:]]
            print(f"| **mean** | | {method} | {' | '.join(mean)} | |")


if __name__ == "__main__":
    main()
