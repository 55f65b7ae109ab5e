"""Export of a trained LipSyncNet: its weights in a folder, with a card that says how far they can be trusted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from merc.conversation import SPLITS, UtteranceKey
from merc.datamodules.lipsync import LipSyncClip, LipSyncDataModule, LipSyncSource
from merc.evaluation.synchrony import SynchronyScores, compare_all, synchrony_scores
from merc.media.rates import FRAME_RATE
from merc.speaker import SpeakerScorer, SyncNetwork
from merc.speaker.pretrained import save_lipsync
from merc.tasks.lipsync import LipSyncTask, trials_of

LENGTHS = (2.0, 3.0)
"""Seconds of the trials of a card."""


def export_lipsync(
    trained: Path,
    corpus: Path,
    faces: Path,
    out: Path,
    *,
    name: str = "lipsync",
    data: str | None = None,
    licence: str | None = None,
) -> None:
    """Put the weights of a trained LipSyncNet into a folder, with a card that says how far they can be trusted.

    The card's figures are of the people in the test split, whom training and the choice of the checkpoint have not
    seen.

    Args:
        trained: Folder of the stage that trained it, with best.ckpt.
        corpus: The films: corpus.json of `merc import films`.
        faces: Folder with their stores faces, crops and sound.
        out: Folder to write to; `merc.speaker.load_lipsync` reads it.
        name: Name of the weights.
        data: What they were trained on, for the card. Default: what the checkpoint says.
        licence: Under which licence they may be used, for the card.

    Raises:
        ValueError: Somebody is in two splits.
    """
    task = LipSyncTask.load_from_checkpoint(trained / "best.ckpt", map_location="cpu", weights_only=True).eval()
    source = LipSyncSource(str(corpus), str(faces / "faces"), str(faces / "crops"), str(faces / "sound"))
    films = LipSyncDataModule([source])
    films.setup()
    people = _people(films)
    everyone = [set(shown.values()) for shown in people.values()]
    if twice := sorted(who for who in set().union(*everyone) if sum(who in some for some in everyone) > 1):
        raise ValueError(
            f"{corpus} has {', '.join(twice[:3])} in more than one split, so its test split says nothing of people who "
            "were not seen: expected the people of each split in no other, as `merc import films` leaves them."
        )
    heard = [trials_of(task.network, task.scorer, clip, _frames(LENGTHS[-1])) for clip in films.clips("val")]
    pieces = [piece for clip in heard for piece in clip]
    enough = sum(map(bool, heard)) >= task.scorer.enough
    calibration = task.scorer.calibrated(pieces) if enough else task.calibration
    found = {
        seconds: synchrony_by_source(
            task.network, task.scorer, calibration, films.clips("test"), people["test"], _frames(seconds)
        )
        for seconds in LENGTHS
    }
    told = data or task.trained_on
    card = _card(name, told, licence, found, {split: (len(s), len(set(s.values()))) for split, s in people.items()})
    save_lipsync(out, task.network, calibration, trained_on=told, card=card)


def _frames(seconds: float) -> int:
    """Frames of a trial: one less than a film of that length has at least."""
    return round(seconds * FRAME_RATE) - 1


def synchrony_by_source(
    network: SyncNetwork,
    scorer: SpeakerScorer[Any],
    calibration: Tensor,
    clips: Iterable[LipSyncClip],
    people: dict[UtteranceKey, str],
    frames: int,
) -> dict[str, SynchronyScores]:
    """What a network gets right on each source of films: the folder in which a film is.

    Args:
        network: In evaluation mode.
        scorer: Compares lips and sounds.
        calibration: Of the scorer.
        clips: Films, each with one person who talks.
        people: Who that is.
        frames: Length of a trial; a film gives up to three.

    Returns:
        Scores by source, of those that show two people or more.
    """
    trials: dict[str, list[tuple[Any, str]]] = defaultdict(list)
    for clip in clips:
        source = clip.key.dialogue.rpartition("/")[0]
        trials[source] += [(trial, people[clip.key]) for trial in trials_of(network, scorer, clip, frames)]
    found = {}
    for source, members in sorted(trials.items()):
        encoded, who = zip(*members, strict=True) if members else ((), ())
        if len(set(who)) > 1:
            found[source] = synchrony_scores(compare_all(scorer, encoded, who, calibration))
    return found


def _people(films: LipSyncDataModule) -> dict[str, dict[UtteranceKey, str]]:
    """Who is in the films of each split, of those that the stores hold."""
    who = {key: utterance.speaker for source in films.opened for key, utterance in source.corpus.utterances()}
    return {split: {key: who[key] for source in films.opened for key in source.keys(split)} for split in SPLITS}


def _card(
    name: str,
    data: str,
    licence: str | None,
    found: dict[float, dict[str, SynchronyScores]],
    counts: dict[str, tuple[int, int]],
) -> str:
    numbers = ", ".join(f"{films} films of {people} people in {split}" for split, (films, people) in counts.items())
    lines = [
        f"# {name}",
        "",
        "Weights of merc's LipSyncNet, which tells the face that speaks by how lips and sound move together.",
        "",
        f'    merc.speaker.load_lipsync("{name}")',
        "",
        "## Data",
        "",
        f"{data}. {numbers}; nobody is in two splits. Training uses `train`, the checkpoint is chosen on `val`.",
        "",
        f"Licence of the weights: {licence or 'not given'}.",
        "",
        "## Scores on the people of the test split",
        "",
        "Every sound with every face of another person of the same source. *Other face*: the own face beats another",
        "talking face. *Still face*: it beats itself standing still. *Kept*: alone in the frame and under its own",
        "sound, it is said to speak. *Refused*: under the sound of somebody else, nobody is said to speak.",
        "",
        "| source | length | trials | people | other face | still face | kept | refused |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for seconds, sources in found.items():
        for source, scores in sources.items():
            shares = (scores.pair_accuracy, scores.still_accuracy, scores.kept, scores.refused)
            cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
            lines.append(f"| {source or 'films'} | {seconds:.0f} s | {scores.trials} | {scores.people} | {cells} |")
    lines += [
        "",
        "## Use and limits",
        "",
        "For choosing the face of the speaker in films with sound, at 25 frames per second, on the mouth crops of",
        "merc's face tracker. Lines of less than two seconds, dubbed films, and mouths that are turned away, covered",
        "or smaller than about 15 pixels are often misjudged. It was tested on films of one talking person. It",
        "identifies nobody.",
        "",
    ]
    return "\n".join(lines)
