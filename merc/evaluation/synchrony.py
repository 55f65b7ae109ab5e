"""Evaluation of lip synchrony: every sound of some people against every face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.speaker.base import SpeakerScorer


@dataclass(frozen=True, eq=False)
class SynchronyTrials:
    """Scores of N sounds against N faces, of people whom a network has not seen.

    Args:
        people: Who each trial is of; a person may have several.
        scores: ``(N, N)``: row i holds the score of each face with sound i.
        still: ``(N,)`` score of each sound with its own face standing still.
        nobody: The score above which a face that is alone in the frame is said to speak.
    """

    people: Sequence[str]
    scores: Tensor
    still: Tensor
    nobody: float = float("-inf")

    @property
    def others(self) -> Tensor:
        """``(N, N)`` booleans: the sound and the face are of different people."""
        return torch.tensor([[a != b for b in self.people] for a in self.people], dtype=torch.bool).view(
            len(self.people), -1
        )

    @property
    def wins(self) -> Tensor:
        """``(N, N)`` booleans: the own face beats the other under the sound of the row."""
        return self.scores.diagonal()[:, None] > self.scores


@dataclass(frozen=True)
class SynchronyScores:
    """Shares, in 0..1, over the trials of one source.

    Args:
        trials: Number of trials.
        people: Number of people.
        pair_accuracy: How often the own face beats another person's talking face under its sound.
        still_accuracy: How often it beats itself standing still.
        kept: How often a face alone in the frame is chosen under its own sound.
        refused: How often nobody is chosen under a sound of somebody else.
    """

    trials: int
    people: int
    pair_accuracy: float
    still_accuracy: float
    kept: float
    refused: float


def synchrony_scores(found: SynchronyTrials) -> SynchronyScores:
    """Count what a scorer gets right.

    Args:
        found: At least two trials, of two people.

    Example:
        >>> scores = torch.tensor([[2.0, 0.5], [-1.0, 1.0]])
        >>> found = synchrony_scores(SynchronyTrials(["A", "B"], scores, torch.tensor([0.0, 3.0]), nobody=0.0))
        >>> found.pair_accuracy, found.still_accuracy, found.kept, found.refused
        (1.0, 0.5, 1.0, 0.5)
    """
    own, others = found.scores.diagonal(), found.others
    return SynchronyScores(
        trials=len(own),
        people=len(set(found.people)),
        pair_accuracy=float(found.wins[others].float().mean()),
        still_accuracy=float((own > found.still).float().mean()),
        kept=float((own > found.nobody).float().mean()),
        refused=float((found.scores[others] <= found.nobody).float().mean()),
    )


def bootstrap_people(
    first: SynchronyTrials, second: SynchronyTrials, draws: int = 4000, seed: int = 0
) -> tuple[float, float, float, float]:
    """Difference in pair accuracy of two methods on the same trials, by a paired bootstrap over people.

    Args:
        first: The trials by one method.
        second: The same by another.
        draws: Resamples.
        seed: Decides them.

    Returns:
        The difference, its 95 % interval (low, high), and the share of resamples in which it is not positive. A
        resample that draws one person alone has no pair, and does not count.

    Raises:
        ValueError: The trials are not of the same people, or of fewer than two.
    """
    names = sorted(set(first.people))
    if list(first.people) != list(second.people) or len(names) < 2:
        raise ValueError(
            f"Both methods need the same trials of two people or more, got {len(first.people)} and "
            f"{len(second.people)} trials of {len(names)} people."
        )
    drawn = torch.randint(len(names), (draws, len(names)), generator=torch.Generator().manual_seed(seed))
    counts = F.one_hot(drawn, len(names)).sum(1).double()
    owner = F.one_hot(torch.tensor([names.index(person) for person in first.people])).double()
    others = first.others.double()
    difference = (first.wins.double() - second.wins.double()).cpu() * others
    # Summed by the people of sound and face first: a draw counts each pair of people, however many trials they have.
    total, pairs = (((counts @ (owner.T @ table @ owner)) * counts).sum(1) for table in (difference, others))
    found = (total / pairs)[pairs > 0]
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return float(difference.sum() / others.sum()), low, high, float((found <= 0).double().mean())


def motion_scores(crops: Sequence[Tensor], sounds: Sequence[Tensor], reach: int = 2) -> Tensor:
    """The simplest cue: how mouth motion correlates with loudness, at the best shift.

    Args:
        crops: N times ``(T, S, S)`` grey mouths.
        sounds: N times ``(4 T, 80)`` log-mels.
        reach: Largest shift in frames.

    Returns:
        ``(N, N)``: row i holds the score of each face with sound i.
    """
    moves = torch.stack([_motion(mouth) for mouth in crops])
    loud = torch.stack([sound.exp().sum(1).view(-1, 4).mean(1).sqrt() for sound in sounds])
    frames = moves.shape[1]
    found = []
    for shift in range(-reach, reach + 1):
        a = moves[:, max(0, shift) : frames + min(0, shift)]
        b = loud[:, max(0, -shift) : frames - max(0, shift)]
        a, b = (F.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (a, b))
        found.append(b @ a.T)
    return torch.stack(found).amax(0)


def _motion(crops: Tensor) -> Tensor:
    move = crops[1:].float().sub(crops[:-1].float()).abs().mean((1, 2))
    return torch.cat([move[:1], move])


def compare_all(
    scorer: SpeakerScorer[Any], trials: Sequence[Any], people: Sequence[str], calibration: Tensor
) -> SynchronyTrials:
    """Score encoded trials against each other.

    Args:
        scorer: The scorer that encoded them.
        trials: N trials of one length.
        people: Who each is of.
        calibration: Of the scorer.
    """
    scores, still = scorer.pairs(trials, calibration)
    return SynchronyTrials(list(people), scores, still, scorer.nobody(calibration))
