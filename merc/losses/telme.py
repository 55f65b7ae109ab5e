"""TelME's distillation: a student learns the relations in its teacher's predictions and hidden states."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from merc.losses._checks import full_precision, require_range, require_rows
from merc.losses.classification import ClassificationLoss, PolynomialCrossEntropy
from merc.losses.distillation import StudentLoss


class DISTLoss(StudentLoss):
    r"""Cross-entropy with the labels, and correlation with the teacher's predictions.

    .. math:: L = L_{cls} + \alpha (L_{inter} + L_{intra})

    with the predictions :math:`Y = \mathrm{softmax}(Z / \tau)` of B utterances for C emotions and the Pearson
    correlation :math:`\rho`,

    .. math::
        L_{inter} &= \frac{\tau^2}{B} \sum_{i=1}^B 1 - \rho(Y^s_{i,:}, Y^t_{i,:}) \\
        L_{intra} &= \frac{\tau^2}{C} \sum_{j=1}^C 1 - \rho(Y^s_{:,j}, Y^t_{:,j})

    Eq. 6-12 of TelME (arXiv 2401.12987), after DIST (Huang et al. 2022, arXiv 2205.10536). A student that is too weak
    to match its teacher's probabilities can still learn the same ranking.

    :math:`L_{intra}` correlates over the utterances of a batch, so its value depends on the batch. Use it for training,
    not to measure a student. It includes all utterances that have teacher logits, labelled or not. Constant vectors,
    such as those of a single utterance, have the correlation 0. No gradient reaches the teacher.

    Args:
        alpha: :math:`\alpha`, at least 0. TelME: 1 on MELD, 0.1 on IEMOCAP. With 0 no teacher is needed.
        temperature: :math:`\tau`, above 0. TelME: 4 on MELD, 2 on IEMOCAP.
        ce: The loss on the labels. Default: cross-entropy.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, alpha: float = 1.0, temperature: float = 4.0, ce: ClassificationLoss | None = None) -> None:
        super().__init__()
        self.alpha = require_range("DISTLoss", "alpha", alpha, 0.0)
        self.temperature = require_range("DISTLoss", "temperature", temperature, 0.0, open_low=True)
        self.ce = ce or PolynomialCrossEntropy(alpha=0.0)

    @property
    def needs_teacher(self) -> bool:
        """Whether ``alpha`` is above 0."""
        return self.alpha > 0

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
            teacher_logits: ``(N, C)``; may be ``None`` if ``alpha`` is 0.
            teacher_present: ``(N,)`` booleans, where the teacher has logits. Default: everywhere.

        Returns:
            Scalars ``ce``, ``inter`` and ``intra``; only ``ce`` if ``alpha`` is 0. A term without utterances is 0 and
            still part of the autograd graph.

        Raises:
            ValueError: The shapes do not match, or required teacher logits are missing.
        """
        require_rows("DISTLoss", "student_logits", student_logits, label)
        terms = {"ce": self.ce(student_logits, label)}
        if self.alpha > 0:
            teacher_rows, student_rows = _rows_with_teacher(
                "DISTLoss", "logits", student_logits, teacher_logits, teacher_present
            )
            teacher = (teacher_rows / self.temperature).softmax(-1)
            student = (student_rows / self.temperature).softmax(-1)
            weight = self.alpha * self.temperature**2
            terms["inter"] = weight * _distance(student, teacher, dim=1)
            terms["intra"] = weight * _distance(student, teacher, dim=0)
        return terms


class FeatureSimilarityLoss(nn.Module):
    r"""Makes the student's hidden states as similar to the teacher's as these are among themselves.

    .. math:: \beta L_{feature} = \frac{\beta}{B} \sum_{i=1}^B KL(P_i \,\|\, Q_i), \quad
        P = \mathrm{softmax}(T T^\top / \tau), \quad Q = \mathrm{softmax}(T S^\top / \tau)

    Eq. 13-15 of TelME (arXiv 2401.12987), with the L2-normalised hidden states T of the teacher and S of the student
    of B utterances, and the softmax over each row. It compares the utterances of a batch with each other, so its
    value depends on the batch. Use it for training only. No gradient reaches the teacher.

    Args:
        beta: :math:`\beta`, at least 0. TelME: 1. With 0 no teacher is needed.
        temperature: :math:`\tau`, above 0. TelME: 1.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, beta: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        self.beta = require_range("FeatureSimilarityLoss", "beta", beta, 0.0)
        self.temperature = require_range("FeatureSimilarityLoss", "temperature", temperature, 0.0, open_low=True)

    @property
    def needs_teacher(self) -> bool:
        """Whether ``beta`` is above 0."""
        return self.beta > 0

    @full_precision
    def forward(
        self, student_hidden: Tensor, teacher_hidden: Tensor | None = None, present: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The weighted term.

        Args:
            student_hidden: ``(N, d)``; half precision is widened to float32.
            teacher_hidden: ``(N, d)``; may be ``None`` if ``beta`` is 0.
            present: ``(N,)`` booleans: which utterances to include. Default: all.

        Returns:
            The scalar ``feature``, or nothing if ``beta`` is 0. Without utterances it is 0 and still part of the
            autograd graph.

        Raises:
            ValueError: The shapes do not match, or required hidden states of the teacher are missing.
        """
        if not self.beta:
            return {}
        teacher, student = _rows_with_teacher(
            "FeatureSimilarityLoss", "hidden states", student_hidden, teacher_hidden, present
        )
        teacher, student = F.normalize(teacher, dim=-1), F.normalize(student, dim=-1)
        target = (teacher @ teacher.T / self.temperature).log_softmax(-1)
        found = (teacher @ student.T / self.temperature).log_softmax(-1)
        divergence = F.kl_div(found, target, reduction="none", log_target=True).sum()
        return {"feature": self.beta * divergence / max(len(target), 1)}


def _rows_with_teacher(
    loss: str, what: str, student: Tensor, teacher: Tensor | None, present: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The rows of teacher and student for the utterances that have a teacher."""
    if teacher is None or teacher.shape != student.shape:
        found = "none" if teacher is None else f"shape {tuple(teacher.shape)}"
        raise ValueError(
            f"{loss}: expected {what} of the teacher of shape {tuple(student.shape)}, got {found}. "
            "Add the teacher's store of these, with the student's width, or set the weight to 0 to train without it."
        )
    teacher = teacher.detach()
    return (teacher, student) if present is None else (teacher[present], student[present])


def _distance(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    """Mean of 1 - Pearson correlation along ``dim`` (eq. 7); 0 without utterances."""
    if not len(student):
        return student.sum()
    # The correlation is the cosine of the centred values; centred probabilities below eps are rounding errors.
    correlation = F.cosine_similarity(
        student - student.mean(dim, keepdim=True), teacher - teacher.mean(dim, keepdim=True), dim=dim, eps=1e-6
    )
    return (1 - correlation).mean()
