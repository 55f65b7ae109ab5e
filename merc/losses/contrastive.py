"""Contrastive losses: they pull utterances of the same emotion together and push others apart."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from merc.labels import IGNORE_INDEX
from merc.losses._checks import full_precision, require_range, require_rows


class SupervisedContrastiveLoss(nn.Module):
    r"""Supervised contrastive loss over the labelled utterances of a batch.

    .. math:: L_{cont} = \frac{1}{|A|} \sum_{i \in A} \frac{-1}{|P_i|} \sum_{p \in P_i}
        \log \frac{\exp(z_i \cdot z_p / \tau)}{\sum_{j \neq i} \exp(z_i \cdot z_j / \tau)}

    with z the L2-normalised projections (eq. 25), :math:`P_i` the other utterances with the label of i, and
    A the anchors that have such a positive; other anchors are left out of the mean and do not count as 0. Eq. 26
    of arXiv 2511.13731 has one positive per anchor, eq. 2 of Khosla et al. 2020 (arXiv 2004.11362) has
    all. Unlabelled utterances are neither anchors, nor positives, nor negatives.

    Args:
        temperature: :math:`\tau`, above 0.
        positives: ``all`` takes the mean over all positives. ``one`` draws one positive per anchor at random in
            training (from PyTorch's generator, so a seed makes it reproducible), and takes the mean over all, which is
            the expectation of the draw, in evaluation mode.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, temperature: float = 0.07, positives: Literal["all", "one"] = "all") -> None:
        super().__init__()
        self.temperature = require_range("SupervisedContrastiveLoss", "temperature", temperature, 0.0, open_low=True)
        if positives not in ("all", "one"):
            raise ValueError(f"SupervisedContrastiveLoss: positives is {positives!r}, expected 'all' or 'one'.")
        self.positives = positives

    @full_precision
    def forward(self, projections: Tensor, label: Tensor) -> Tensor:
        """Mean loss over the anchors that have a positive.

        Args:
            projections: ``(N, d)``, not normalised; half precision is widened to float32.
            label: ``(N,)`` ids, -100 for unlabelled.

        Returns:
            A scalar. If no two utterances share a label, it is 0 and still part of the autograd graph.

        Raises:
            ValueError: The shapes do not match.
        """
        require_rows("SupervisedContrastiveLoss", "projections", projections, label)
        if not len(label):
            return projections.sum()
        z = F.normalize(projections, dim=-1)
        similarity = z @ z.T / self.temperature
        labelled = label != IGNORE_INDEX
        others = labelled.expand(len(label), -1).clone().fill_diagonal_(False)
        positive = others & (label[:, None] == label)
        anchors = positive.any(dim=1)
        # Half of the lowest number, because -inf would make the gradient NaN for a row without other utterances.
        log_share = similarity.masked_fill(~others, torch.finfo(similarity.dtype).min / 2).log_softmax(dim=1)
        if self.positives == "one" and self.training:
            drawn = torch.rand_like(similarity).masked_fill(~positive, -1.0).argmax(dim=1)
            return -log_share.gather(1, drawn[:, None])[:, 0].mul(anchors).sum() / anchors.sum().clamp(min=1)
        weight = positive / (positive.sum(dim=1, keepdim=True) * anchors.sum()).clamp(min=1)
        return -(log_share * weight).sum()
