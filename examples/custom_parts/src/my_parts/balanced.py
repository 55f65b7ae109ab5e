"""A loss that counts rare emotions more, and learns from the data how rare they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.losses import ClassificationLoss


class BalancedCrossEntropy(ClassificationLoss):
    r"""Cross-entropy, weighted by the effective number of utterances of each emotion.

    .. math:: w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad \sum_c w_c = C

    Cui et al. 2019 (arXiv 1901.05555), eq. 5. Every task passes the counts :math:`n_c` of the training split to losses
    that have a method ``set_class_counts``. An emotion without any utterance counts as if it had one.

    Args:
        beta: :math:`\beta` in 0..1 without 1: 0 weighs all emotions alike, close to 1 by their inverse frequency.
    """

    def __init__(self, beta: float = 0.999) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"BalancedCrossEntropy: beta is {beta}, expected at least 0 and less than 1.")
        self.beta = beta
        self.weight: Tensor | None = None

    def set_class_counts(self, counts: Sequence[int]) -> None:
        """Weigh the emotions by how many utterances each has."""
        effective = [(1 - self.beta) / (1 - self.beta ** max(1, count)) for count in counts]
        self.weight = torch.tensor(effective) * len(effective) / sum(effective)

    def per_utterance(self, log_probabilities: Tensor, label: Tensor) -> Tensor:
        """The loss per utterance, ``(N,)``; 0 where the label is -100."""
        weight = None if self.weight is None else self.weight.to(log_probabilities)
        return F.nll_loss(log_probabilities, label, weight=weight, reduction="none")
