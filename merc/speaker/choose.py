"""The choice of the active speaker among the faces of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

NOBODY = -1
"""The track of a clip in which no visible person speaks."""


SPEAKER_COLUMNS = ("track", "score", "margin", "coverage", "probability", "activity")
"""What the numbers in a row of a ``speaker`` store are: one row per utterance, see :class:`SpeakerChoice`."""

_BOUND = 100.0  # beyond what scores and margins are


@dataclass(frozen=True)
class SpeakerChoice:
    """The face whose lips fit the sound of a clip.

    Args:
        track: Index of the chosen track, or :data:`NOBODY`.
        score: Its score, or the best score there was if it is nobody; minus infinity without any track.
        margin: By how much the score is above the next candidate: another track, or nobody; infinity if there is none.
        coverage: Share of the clip's windows in which the chosen track is visible; 0 for nobody.
        scores: The score of every track; empty where they were not kept.
        probability: How probable the choice is, in 0..1; NaN if the scores say nothing of it.
        activity: How probable it is that the lips of the chosen track move as in speech, whatever the sound, in 0..1;
            NaN if nothing says so.
    """

    track: int
    score: float
    margin: float
    coverage: float
    scores: tuple[float, ...] = ()
    probability: float = math.nan
    activity: float = math.nan

    def to_row(self) -> Tensor:
        """The choice as a row ``(6,)`` of a ``speaker`` store, float32, with the columns :data:`SPEAKER_COLUMNS`.

        Stores hold finite numbers: an infinite score or margin becomes 100 or -100, a margin between two infinite
        scores 0, and an unknown probability or activity -1. The scores of the other tracks are not kept.
        """
        values = {name: float(getattr(self, name)) for name in SPEAKER_COLUMNS}
        values |= {name: -1.0 for name in ("probability", "activity") if math.isnan(values[name])}
        return torch.tensor(list(values.values())).nan_to_num(posinf=_BOUND, neginf=-_BOUND)

    @classmethod
    def from_row(cls, row: Tensor) -> SpeakerChoice:
        """The choice that :meth:`to_row` wrote.

        Raises:
            ValueError: The row is not of a ``speaker`` store.
        """
        if row.shape != (len(SPEAKER_COLUMNS),):
            raise ValueError(
                f"A row of speakers has the {len(SPEAKER_COLUMNS)} numbers {', '.join(SPEAKER_COLUMNS)}, got the shape "
                f"{tuple(row.shape)}."
            )
        track, score, margin, coverage, probability, activity = row.tolist()
        known = (math.nan if value < 0 else value for value in (probability, activity))
        return cls(int(track), score, margin, coverage, (), *known)


def choose_speaker(scores: Tensor, visible: Tensor, threshold: float | None = None) -> SpeakerChoice:
    r"""Choose the track with the highest score (arXiv 2511.13731, eq. 5-6).

    .. math:: s^* = \arg\max_j \frac{1}{W} \sum_w
        \begin{cases} Score(F_j, A)_w & \text{if track j is visible in window w} \\ \theta & \text{if not} \end{cases}

    A track counts as "nobody" where it is not visible, so a face that appears only for a moment must fit very well to
    win against one that speaks all the time. Nobody is chosen if no track is above :math:`\theta`.

    Args:
        scores: ``(K, W)`` scores of K tracks in W windows, higher is better; not read where the track is not visible.
        visible: ``(K, W)`` booleans.
        threshold: :math:`\theta`, the score below which no visible person speaks. ``None`` always chooses a
            visible track, by its mean score over the windows where it is visible.

    Raises:
        ValueError: The shapes do not match.
    """
    if scores.dim() != 2 or scores.shape != visible.shape:
        raise ValueError(
            f"choose_speaker: expected scores and visible of one shape (K, W), got {tuple(scores.shape)} and "
            f"{tuple(visible.shape)}."
        )
    coverage = visible.double().mean(1) if visible.numel() else torch.zeros(len(scores)).double()
    seen = scores.double().masked_fill(~visible, 0.0).sum(1) / visible.sum(1).clamp(min=1)
    nobody = float("-inf") if threshold is None else threshold
    if threshold is None:
        total = seen.masked_fill(coverage == 0, float("-inf"))
    else:
        total = coverage * seen + (1 - coverage) * threshold
    ranked = total.sort(descending=True, stable=True)
    best = float(ranked.values[0]) if len(total) else float("-inf")
    second = max(nobody, float(ranked.values[1]) if len(total) > 1 else float("-inf"))
    values = tuple(total.tolist())
    if not best > nobody:
        return SpeakerChoice(NOBODY, best, nobody - best if len(total) else 0.0, 0.0, values)
    track = int(ranked.indices[0])
    return SpeakerChoice(track, best, best - second, float(coverage[track]), values)
