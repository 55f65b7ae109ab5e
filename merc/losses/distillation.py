"""Distillation losses: a student learns from labels and from the softened predictions of a teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from merc.losses._checks import full_precision, require_range, require_rows
from merc.losses.classification import ClassificationLoss, PolynomialCrossEntropy


class StudentLoss(nn.Module, ABC):
    """Base of the losses of a student: labels and the teacher's predictions. For :class:`merc.tasks.StudentTask`."""

    @property
    @abstractmethod
    def needs_teacher(self) -> bool:
        """Whether the loss reads the teacher's logits."""

    @abstractmethod
    def forward(
        self,
        student_logits: Tensor,
        label: Tensor,
        teacher_logits: Tensor | None = None,
        teacher_present: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms, whose sum is the loss.

        Args:
            student_logits: ``(N, C)``.
            label: ``(N,)`` ids in ``0..C-1``, -100 for unlabelled.
            teacher_logits: ``(N, C)``; ``None`` only if no teacher is needed.
            teacher_present: ``(N,)`` booleans, where the teacher has logits. Default: everywhere.
        """


class DistillationLoss(StudentLoss):
    r"""Cross-entropy with the labels, and divergence from the teacher's softened predictions.

    .. math:: L_{dis} = \alpha L_{ce}(f_s, y) + (1 - \alpha) \tau^2
        KL(\mathrm{softmax}(f_t / \tau) \,\|\, \mathrm{softmax}(f_s / \tau))

    Eq. 10, with the cross-entropy of eq. 21 and the divergence of eq. 22 of arXiv 2511.13731, after Hinton
    et al. 2015 (arXiv 1503.02531). The factor :math:`\tau^2` keeps both gradients on the same scale.

    The cross-entropy is the mean over labelled utterances. The divergence is the mean over the utterances
    that have teacher logits, labelled or not. An utterance without them contributes its cross-entropy
    only. No gradient reaches the teacher.

    Args:
        alpha: Weight of the cross-entropy, in 0..1. With 1 there is no distillation: the divergence is not
            computed and no teacher is needed.
        temperature: :math:`\tau`, above 0.
        ce: The loss on the labels. Default: cross-entropy.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, alpha: float = 0.65, temperature: float = 2.0, ce: ClassificationLoss | None = None) -> None:
        super().__init__()
        self.alpha = require_range("DistillationLoss", "alpha", alpha, 0.0, 1.0)
        self.temperature = require_range("DistillationLoss", "temperature", temperature, 0.0, open_low=True)
        self.ce = ce or PolynomialCrossEntropy(alpha=0.0)

    @property
    def needs_teacher(self) -> bool:
        """Whether ``alpha`` is below 1."""
        return self.alpha < 1

    @full_precision
    def forward(
        self,
        student_logits: Tensor,
        label: Tensor,
        teacher_logits: Tensor | None = None,
        teacher_present: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The weighted terms, whose sum is the loss.

        Args:
            student_logits: ``(N, C)``; half precision is widened to float32.
            label: ``(N,)`` ids in ``0..C-1``, -100 for unlabelled.
            teacher_logits: ``(N, C)``, finite everywhere; may be ``None`` if ``alpha`` is 1.
            teacher_present: ``(N,)`` booleans, where the teacher has logits. Default: everywhere.

        Returns:
            Scalars ``ce`` and ``kl``. A term of weight 0 is left out; a term without utterances is 0 and
            still part of the autograd graph.

        Raises:
            ValueError: The shapes do not match, or required teacher logits are missing.
        """
        require_rows("DistillationLoss", "student_logits", student_logits, label)
        terms = {}
        if self.alpha > 0:
            terms["ce"] = self.alpha * self.ce(student_logits, label)
        if self.alpha < 1:
            terms["kl"] = (1 - self.alpha) * self._divergence(student_logits, teacher_logits, teacher_present)
        return terms

    def _divergence(self, student: Tensor, teacher: Tensor | None, present: Tensor | None) -> Tensor:
        if teacher is None or teacher.shape != student.shape:
            found = "none" if teacher is None else f"shape {tuple(teacher.shape)}"
            raise ValueError(
                f"DistillationLoss: expected teacher logits of shape {tuple(student.shape)}, got {found}. "
                "Add the teacher's store of logits, or set alpha to 1 to train without a teacher."
            )
        divergence = F.kl_div(
            (student / self.temperature).log_softmax(-1),
            (teacher.detach() / self.temperature).log_softmax(-1),
            reduction="none",
            log_target=True,
        ).sum(dim=-1)
        if present is None:
            total = divergence.sum() / max(len(divergence), 1)
        else:
            total = divergence.masked_fill(~present, 0.0).sum() / present.sum().clamp(min=1)
        return self.temperature**2 * total
