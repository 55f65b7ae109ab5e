"""Losses between predicted and annotated numbers, such as valence or sentiment; NaN marks a number that is missing."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.losses._checks import full_precision, require_range


class ValueLoss(nn.Module, ABC):
    """Base of the losses of numbers. Subclass it and write :meth:`of_dimensions`.

    Every dimension is reduced to one number, and the loss is their mean over the dimensions that have a target. Missing
    targets reach neither the loss nor its gradient.
    """

    @full_precision
    def forward(self, predicted: Tensor, target: Tensor) -> Tensor:
        """The mean over the dimensions.

        Args:
            predicted: ``(N, D)``; half precision is widened to float32.
            target: ``(N, D)``, NaN where there is none.

        Returns:
            A scalar. Without any target it is 0 and still part of the autograd graph.

        Raises:
            ValueError: The shapes do not match.
        """
        if predicted.dim() != 2 or predicted.shape != target.shape:
            raise ValueError(
                f"{type(self).__name__}: predictions have shape {tuple(predicted.shape)}, targets "
                f"{tuple(target.shape)}, expected (N, D) twice. Flatten padded sequences with the batch's mask first."
            )
        known = ~target.isnan()
        # Zeros in the place of NaN, before any arithmetic: NaN times 0 is NaN, in the gradient too.
        losses = self.of_dimensions(predicted.where(known, 0.0), target.where(known, 0.0), known)
        some = known.any(0)
        return losses.where(some, 0.0).sum() / some.sum().clamp(min=1)

    @abstractmethod
    def of_dimensions(self, predicted: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """The loss of each dimension.

        Args:
            predicted: ``(N, D)``, 0 where there is no target.
            target: ``(N, D)``, 0 where there is none.
            known: ``(N, D)`` booleans: where there is a target.

        Returns:
            ``(D,)``, finite; the loss of a dimension without a target does not count.
        """


class ConcordanceLoss(ValueLoss):
    r"""One minus the concordance correlation coefficient (Lin 1989) of the batch.

    .. math:: L = 1 - \frac{2 \sigma_{xy} + \epsilon}{\sigma_x^2 + \sigma_y^2 + (\mu_x - \mu_y)^2 + \epsilon}

    with the moments of the known utterances of a batch, which should be many: those of two say nothing. Unlike a
    squared error it does not pull predictions towards the mean.

    Args:
        epsilon: Keeps the quotient finite where all numbers of a batch are equal; above 0.
    """

    def __init__(self, epsilon: float = 1e-4) -> None:
        super().__init__()
        self.epsilon = require_range("ConcordanceLoss", "epsilon", epsilon, 0.0, open_low=True)

    def of_dimensions(self, predicted: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """One minus the coefficient of each dimension, in 0..2."""
        count = known.sum(0).clamp(min=1)
        means = predicted.sum(0) / count, target.sum(0) / count
        x, y = ((values - mean) * known for values, mean in zip((predicted, target), means, strict=True))
        shared, spread = (x * y).sum(0) / count, (x.square() + y.square()).sum(0) / count
        gap = (means[0] - means[1]).square()
        return 1 - (2 * shared + self.epsilon) / (spread + gap + self.epsilon)


class _Pointwise(ValueLoss):
    """The mean of a distance over the utterances that have a target."""

    def of_dimensions(self, predicted: Tensor, target: Tensor, known: Tensor) -> Tensor:
        """The mean distance of each dimension."""
        return self.distance(predicted, target).sum(0) / known.sum(0).clamp(min=1)  # 0 between the zeros of the missing

    @abstractmethod
    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """``(N, D)`` distances."""


class ValueMSELoss(_Pointwise):
    """The mean squared error of each dimension."""

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Squared differences."""
        return (predicted - target).square()


class ValueL1Loss(_Pointwise):
    """The mean absolute error of each dimension, the usual loss on CMU-MOSI."""

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Absolute differences."""
        return (predicted - target).abs()


class ValueHuberLoss(_Pointwise):
    r"""Squared for errors below :math:`\delta`, absolute beyond (:class:`torch.nn.HuberLoss`).

    Args:
        delta: In standard deviations of the training split, above 0.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        self.delta = require_range("ValueHuberLoss", "delta", delta, 0.0, open_low=True)

    def distance(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Huber's distance."""
        return F.huber_loss(predicted, target, reduction="none", delta=self.delta)


class ValueDistillationLoss(nn.Module):
    r"""A loss on annotated numbers, and the squared distance from the teacher's.

    .. math:: L = \alpha L_{values}(f_s, y) + (1 - \alpha) \lVert f_s - f_t \rVert^2

    The counterpart of :class:`DistillationLoss` (eq. 10 of arXiv 2511.13731) for numbers. No gradient reaches the
    teacher.

    Args:
        alpha: Weight of the loss on the annotated numbers, in 0..1. With 1 no teacher is needed.
        values: That loss. Default: :class:`ConcordanceLoss`.
    """

    def __init__(self, alpha: float = 0.65, values: ValueLoss | None = None) -> None:
        super().__init__()
        self.alpha = require_range("ValueDistillationLoss", "alpha", alpha, 0.0, 1.0)
        self.values = values or ConcordanceLoss()
        self.distance = ValueMSELoss()

    @property
    def needs_teacher(self) -> bool:
        """Whether ``alpha`` is below 1."""
        return self.alpha < 1

    def forward(
        self, predicted: Tensor, target: Tensor, teacher: Tensor | None = None, teacher_present: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted terms, whose sum is the loss.

        Args:
            predicted: ``(N, D)``.
            target: ``(N, D)``, NaN where there is none.
            teacher: ``(N, D)`` predictions of the teacher; may be ``None`` if ``alpha`` is 1.
            teacher_present: ``(N,)`` booleans, where there are some. Default: everywhere.

        Returns:
            Scalars ``values`` and ``distillation``; a term of weight 0 is left out.

        Raises:
            ValueError: The shapes do not match, or the teacher is missing.
        """
        terms = {"values": self.alpha * self.values(predicted, target)} if self.alpha else {}
        if self.needs_teacher:
            if teacher is None:
                raise ValueError(
                    "ValueDistillationLoss: expected the teacher's numbers, got none. Add the teacher's store of "
                    "logits, or set alpha to 1."
                )
            known = teacher.detach()
            if teacher_present is not None:
                known = known.masked_fill(~teacher_present[:, None], torch.nan)
            terms["distillation"] = (1 - self.alpha) * self.distance(predicted, known)
        return terms
