"""The choice of the active speaker among the faces of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NOBODY = -1
"""The track of a clip in which no visible person speaks."""


@dataclass(frozen=True)
class SpeakerChoice:
    """The face whose lips fit the sound of a clip.

    Args:
        track: Index of the chosen track, or :data:`NOBODY`.
        score: Its score, or the best score of all tracks if nobody is chosen; minus infinity without any track.
        margin: Difference to the score of the next candidate: another track, or nobody.
        coverage: Share of the clip's windows in which the chosen track is visible; 0 for nobody.
        scores: The score of every track.
    """

    track: int
    score: float
    margin: float
    coverage: float
    scores: tuple[float, ...]


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
