"""Losses of LFVD (Zhu and Jiang 2025): contrast across modalities, contrast by emotion, variational distillation."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merc.labels import IGNORE_INDEX
from merc.losses._checks import full_precision, require_range, require_rows


class ModalityContrastiveLoss(nn.Module):
    r"""L_self: pulls the modalities of one utterance together and pushes those of different utterances apart.

    .. math:: L_{self} = -\sum_{a \neq b} \frac{1}{|A_{ab}|} \sum_{i \in A_{ab}}
        \log \frac{\exp(x_i^a \cdot x_i^b / \tau)}{\sum_{j \neq i} \exp(x_i^a \cdot x_j^b / \tau)}

    with x L2-normalised, over ordered pairs of modalities (eq. 10 of LFVD; as printed, the positive is not in the
    denominator). :math:`A_{ab}` are the utterances that have both modalities, and j runs over those that have b. An
    utterance without such a j is left out of the mean. Labels are not used.

    Args:
        temperature: :math:`\tau`, above 0.

    Raises:
        ValueError: The temperature is out of its range.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = require_range("ModalityContrastiveLoss", "temperature", temperature, 0.0, open_low=True)

    @full_precision
    def forward(self, views: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Sum over the ordered pairs of modalities; 0 if there is nothing to compare.

        Args:
            views: By modality ``(N, d)``, not normalised; half precision is widened to float32.
            present: By modality ``(N,)`` booleans: whether the utterance has it.
        """
        unit = _normalised(views)
        total = torch.stack([x.sum() for x in unit.values()]).sum() * 0.0
        for a, b in permutations(unit, 2):
            similarity = _similarity(unit[a], unit[b], self.temperature)
            others = present[b].expand_as(similarity).clone().fill_diagonal_(False)
            anchors = present[a] & present[b] & others.any(1)
            loss = _log_sum(similarity, others) - similarity.diagonal()
            total = total + loss.masked_fill(~anchors, 0.0).sum() / anchors.sum().clamp(min=1)
        return total


class EmotionContrastiveLoss(nn.Module):
    r"""L_full: within each modality, pulls utterances of one emotion together and pushes others apart.

    .. math:: L_{full} = -\sum_m \frac{1}{|A_m|} \sum_{i \in A_m} \frac{1}{|P_i|} \sum_{p \in P_i}
        \log \frac{\exp(x_i^m \cdot x_p^m / \tau)}{\sum_{k \in N_i} \exp(x_i^m \cdot x_k^m / \tau)}

    with x L2-normalised (eq. 11 of LFVD). :math:`P_i` are the other utterances with the label of i, :math:`N_i` those
    with another label; as printed, the denominator contains no positive. :math:`A_m` are the utterances that have
    both a positive and a negative. Utterances without a label or without the modality are ignored.

    Args:
        temperature: :math:`\tau`, above 0.

    Raises:
        ValueError: The temperature is out of its range.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = require_range("EmotionContrastiveLoss", "temperature", temperature, 0.0, open_low=True)

    @full_precision
    def forward(self, views: Mapping[str, Tensor], present: Mapping[str, Tensor], label: Tensor) -> Tensor:
        """Sum over the modalities; 0 without labels.

        Args:
            views: By modality ``(N, d)``, not normalised; half precision is widened to float32.
            present: By modality ``(N,)`` booleans: whether the utterance has it.
            label: ``(N,)`` ids, -100 for unlabelled.

        Raises:
            ValueError: The shapes do not match.
        """
        unit = _normalised(views)
        total = torch.stack([x.sum() for x in unit.values()]).sum() * 0.0
        alike = label[:, None] == label
        for name, x in unit.items():
            require_rows("EmotionContrastiveLoss", name, x, label)
            similarity = _similarity(x, x, self.temperature)
            valid = present[name] & (label != IGNORE_INDEX)
            positive = (alike & valid).fill_diagonal_(False)
            negative = ~alike & valid
            anchors = valid & positive.any(1) & negative.any(1)
            drawn = (similarity * positive).sum(1) / positive.sum(1).clamp(min=1)
            loss = _log_sum(similarity, negative) - drawn
            total = total + loss.masked_fill(~anchors, 0.0).sum() / anchors.sum().clamp(min=1)
        return total


class Gaussian(NamedTuple):
    """Normal distributions of N utterances with independent dimensions.

    Attributes:
        mean: ``(N, d)``.
        scale: ``(N, d)`` standard deviations, above 0.
    """

    mean: Tensor
    scale: Tensor

    def divergence(self, other: Gaussian) -> Tensor:
        r"""KL(self || other) per dimension, ``(N, d)``; the sum over dimensions is the divergence of the distributions.

        .. math:: \log \frac{s_2}{s_1} + \frac{s_1^2 + (m_1 - m_2)^2}{2 s_2^2} - \frac{1}{2}
        """
        ratio = self.scale / other.scale
        return (ratio.square() + ((self.mean - other.mean) / other.scale).square() - 1) / 2 - ratio.log()

    def divergence_from_normal(self) -> Tensor:
        """KL(self || N(0, I)) per dimension, ``(N, d)``."""
        return self.divergence(Gaussian(torch.zeros_like(self.mean), torch.ones_like(self.scale)))

    def detach(self) -> Gaussian:
        """The same distributions, detached from the autograd graph."""
        return Gaussian(self.mean.detach(), self.scale.detach())


class VariationalDistillationLoss(nn.Module):
    r"""Pulls the distributions of the other modalities to that of the dominant one, and all to the standard normal.

    .. math:: L_{distillation} = \sum_{m \neq l} KL(q_m \,\|\, q_l) + \sum_m KL(q_m \,\|\, N(0, I))

    Eq. 13 of LFVD. Each divergence is the sum over dimensions, averaged over the utterances that have the modality (for
    the first sum: both). No gradient of the first sum reaches the dominant modality, which is the teacher.

    Args:
        dominant: The modality that teaches.
    """

    def __init__(self, dominant: str = "text") -> None:
        super().__init__()
        self.dominant = dominant

    @full_precision
    def forward(self, gaussians: Mapping[str, Gaussian], present: Mapping[str, Tensor]) -> Tensor:
        """The sum of all divergences.

        Args:
            gaussians: By modality; half precision is widened to float32.
            present: By modality ``(N,)`` booleans: whether the utterance has it.
        """
        teacher = gaussians[self.dominant].detach()
        terms = []
        for name, gaussian in gaussians.items():
            terms.append(_mean(gaussian.divergence_from_normal().sum(-1), present[name]))
            if name != self.dominant:
                both = present[name] & present[self.dominant]
                terms.append(_mean(gaussian.divergence(teacher).sum(-1), both))
        return torch.stack(terms).sum()


def _normalised(views: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: F.normalize(x, dim=-1) for name, x in views.items()}


def _similarity(rows: Tensor, columns: Tensor, temperature: float) -> Tensor:
    return rows @ columns.T / temperature


def _log_sum(similarity: Tensor, chosen: Tensor) -> Tensor:
    """Log-sum-exp over the chosen entries of each row; value and gradient are finite if there are none."""
    return similarity.masked_fill(~chosen, torch.finfo(similarity.dtype).min / 2).logsumexp(1)


def _mean(values: Tensor, chosen: Tensor) -> Tensor:
    return values.masked_fill(~chosen, 0.0).sum() / chosen.sum().clamp(min=1)
