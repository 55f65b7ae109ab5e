"""The synchrony loss: it pulls lips towards their own sound and pushes them away from any other."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.losses._checks import full_precision, require_range

NEGATIVES = ("shifted", "same_clip", "other_clip", "silent")
"""Kinds of negatives: the same track at another time, another track of the same clip, a track of another clip, lips
that do not speak. Batches refer to them by their position here, starting at 1; 0 is a pair that is not a negative."""


class SyncLoss(nn.Module):
    r"""Ranking and alignment of lips and sound.

    .. math:: L_{sync} = \alpha L_{rank} + \beta L_{align}, \quad
        L_{rank} = \sum_k w_k \, E_k[\max(0, m + d_{pos} - d_{neg})], \quad L_{align} = E[d_{pos}]

    Eq. 2-4 of arXiv 2511.13731, with the Euclidean distance d of unit vectors. The paper does not define
    the negatives; here they are of the kinds :data:`NEGATIVES`, each with its share :math:`w_k` of the mean. A pair of
    a sound and other lips is a negative for the sound, and also for the lips if they have their own sound.

    Unrelated unit vectors are :math:`\sqrt 2` apart, so with the paper's margin every negative has the same weight,
    however close it is. A contrastive term (van den Oord et al. 2018, arXiv 1807.03748) gives close negatives the
    largest weight. It is an addition to the paper and off by default:

    .. math:: L_{contrast} = -E \log \frac{e^{s_{pos} / \tau}}{e^{s_{pos} / \tau} + \sum_{neg} e^{s_{neg} / \tau}},
        \quad s = 1 - d^2 / 2,

    over sounds and, likewise, over lips. Negatives of a kind with weight 0 are left out.

    Args:
        rank: :math:`\alpha`.
        align: :math:`\beta`.
        contrast: Weight of the contrastive term.
        temperature: :math:`\tau`, above 0.
        margin: m, in 0..2: distances of unit vectors are at most 2.
        negatives: Weight of each kind. If a batch lacks a kind, the others take its share.

    Raises:
        ValueError: An option is out of its range, a kind of negatives is unknown, or all weights are 0.
    """

    def __init__(
        self,
        rank: float = 0.7,
        align: float = 0.3,
        contrast: float = 0.0,
        temperature: float = 0.07,
        margin: float = 1.5,
        negatives: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        given = dict.fromkeys(NEGATIVES, 1.0) if negatives is None else dict(negatives)
        if unknown := sorted(given.keys() - set(NEGATIVES)):
            raise ValueError(f"SyncLoss: unknown negatives {', '.join(unknown)}: expected {', '.join(NEGATIVES)}.")
        self.rank = require_range("SyncLoss", "rank", rank, 0.0)
        self.align = require_range("SyncLoss", "align", align, 0.0)
        self.contrast = require_range("SyncLoss", "contrast", contrast, 0.0)
        self.temperature = require_range("SyncLoss", "temperature", temperature, 0.0, open_low=True)
        self.margin = require_range("SyncLoss", "margin", margin, 0.0, 2.0)
        self.negatives = {name: require_range("SyncLoss", name, given.get(name, 0.0), 0.0) for name in NEGATIVES}
        if not any(self.negatives.values()):
            raise ValueError("SyncLoss: the weights of all negatives are 0. Give at least one kind a weight above 0.")

    @full_precision
    def forward(self, video: Tensor, audio: Tensor, kinds: Tensor) -> dict[str, Tensor]:
        """The weighted terms, whose sum is the loss.

        Args:
            video: ``(V, d)`` unit vectors of lips; the first A of them belong to the A sounds.
            audio: ``(A, d)`` unit vectors of sounds.
            kinds: ``(A, V)`` kind of each pair of sound and lips: 0 for no negative, k for the k-th of
                :data:`NEGATIVES`.

        Returns:
            Scalars ``rank``, ``align`` and ``contrast``. A term of weight 0 is left out. Without negatives, ``rank``
            is 0 and still part of the autograd graph.

        Raises:
            ValueError: The shapes do not match.
        """
        count = len(audio)
        if video.shape[1:] != audio.shape[1:] or len(video) < count or kinds.shape != (count, len(video)):
            raise ValueError(
                f"SyncLoss: expected video (V, d), audio (A, d), kinds (A, V) with A <= V, got "
                f"{tuple(video.shape)}, {tuple(audio.shape)}, {tuple(kinds.shape)}."
            )
        distance = pairwise_distance(audio, video)
        terms = {}
        if self.rank:
            terms["rank"] = self.rank * self._ranking(distance, kinds)
        if self.align:
            terms["align"] = self.align * distance.diagonal().mean()
        if self.contrast:
            terms["contrast"] = self.contrast * self._contrast(distance, kinds)
        return terms

    def _ranking(self, distance: Tensor, kinds: Tensor) -> Tensor:
        count, own = len(distance), distance.diagonal()
        for_sound = (self.margin + own[:, None] - distance).clamp(min=0)
        for_lips = (self.margin + own[None, :] - distance[:, :count]).clamp(min=0)
        total, weights = distance.sum() * 0, 0.0
        for kind, weight in enumerate(self.negatives.values(), start=1):
            chosen = kinds == kind
            terms = torch.cat([for_sound[chosen], for_lips[chosen[:, :count]]])
            if weight and len(terms):
                total, weights = total + weight * terms.mean(), weights + weight
        return total / (weights or 1.0)

    def _contrast(self, distance: Tensor, kinds: Tensor) -> Tensor:
        count = len(distance)
        weighs = torch.tensor([0.0, *self.negatives.values()], device=kinds.device)[kinds] > 0
        own = torch.eye(count, len(distance.T), dtype=torch.bool, device=kinds.device)
        scores = ((1 - distance.square() / 2) / self.temperature).masked_fill(~(weighs | own), float("-inf"))
        places = torch.arange(count, device=kinds.device)
        return (F.cross_entropy(scores, places) + F.cross_entropy(scores[:, :count].T, places)) / 2


@full_precision
def pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances ``(..., A, B)`` of unit vectors ``(..., A, d)``, ``(..., B, d)``; finite gradient at 0."""
    return (2 - 2 * a @ b.mT).clamp(min=1e-6).sqrt()
