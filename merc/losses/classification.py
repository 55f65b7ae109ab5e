"""Classification losses: polynomial, label smoothing, logit adjustment, all from shared log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from merc.labels import IGNORE_INDEX
from merc.losses._checks import full_precision, require_range, require_rows


def mean_over_labelled(values: Tensor, label: Tensor) -> Tensor:
    """Mean of per-utterance values over the labelled utterances.

    Args:
        values: ``(N,)``, zero where the utterance is unlabelled.
        label: ``(N,)`` ids, -100 for unlabelled.

    Returns:
        A scalar. If nothing is labelled, it is 0 and still part of the autograd graph.
    """
    return values.sum() / (label != IGNORE_INDEX).sum().clamp(min=1)


class ClassificationLoss(nn.Module):
    """Base of the losses on class logits.

    To write your own, implement :meth:`per_utterance`. It takes log-probabilities, so that
    :class:`merc.losses.FusionLoss` can compute them once for several losses.
    """

    def per_utterance(self, log_probabilities: Tensor, label: Tensor) -> Tensor:
        """The loss per utterance.

        Args:
            log_probabilities: ``(N, C)``, the log-softmax of the logits in float32.
            label: ``(N,)`` ids in ``0..C-1``, -100 for unlabelled.

        Returns:
            ``(N,)``, zero where the utterance is unlabelled.
        """
        raise NotImplementedError

    @full_precision
    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """Mean loss over the labelled utterances.

        Args:
            logits: ``(N, C)``; half precision is widened to float32.
            label: ``(N,)`` ids in ``0..C-1``, -100 for unlabelled.

        Returns:
            A scalar. If nothing is labelled, it is 0 and still part of the autograd graph.

        Raises:
            ValueError: The shapes do not match.
        """
        require_rows(type(self).__name__, "logits", logits, label)
        return mean_over_labelled(self.per_utterance(logits.log_softmax(-1), label), label)


class PolynomialCrossEntropy(ClassificationLoss):
    r"""Cross-entropy with a polynomial term, which gives hard utterances more weight.

    .. math:: L_{comp} = -\log p_y + \alpha (1 - p_y)^{1 + \gamma}

    Eq. 19 of arXiv 2511.13731, after PolyLoss (Leng et al. 2022, arXiv 2204.12511). ``alpha=0`` is plain
    cross-entropy (eq. 21).

    Args:
        alpha: Weight of the polynomial term, at least -1. With -1 and ``gamma=0`` it cancels the first term of the
            expansion of the cross-entropy in powers of ``1 - p``.
        gamma: The larger, the more the polynomial term focuses on hard utterances; at least 0.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, alpha: float = 1.2, gamma: float = 1.2) -> None:
        super().__init__()
        self.alpha = require_range("PolynomialCrossEntropy", "alpha", alpha, -1.0)
        self.gamma = require_range("PolynomialCrossEntropy", "gamma", gamma, 0.0)

    def per_utterance(self, log_probabilities: Tensor, label: Tensor) -> Tensor:
        """The loss per utterance, ``(N,)``; see :meth:`ClassificationLoss.per_utterance`."""
        # nll_loss returns 0 for an ignored utterance. This means p = 1, where the polynomial is 0 too.
        nll = F.nll_loss(log_probabilities, label, ignore_index=IGNORE_INDEX, reduction="none")
        if self.alpha == 0:
            return nll
        return nll + self.alpha * (-(-nll).expm1()).pow(1 + self.gamma)


class LabelSmoothingCrossEntropy(ClassificationLoss):
    r"""Cross-entropy with a target that is mixed with the uniform distribution.

    .. math:: L_{smooth} = -\sum_c q_c \log p_c, \qquad q_c = (1 - \epsilon)[c = y] + \epsilon / C

    Eq. 23 and 24 of arXiv 2511.13731, after Müller et al. 2019 (arXiv 1906.02629).

    Args:
        epsilon: Share of the uniform distribution, in 0..1.

    Raises:
        ValueError: ``epsilon`` is out of its range.
    """

    def __init__(self, epsilon: float = 0.1) -> None:
        super().__init__()
        self.epsilon = require_range("LabelSmoothingCrossEntropy", "epsilon", epsilon, 0.0, 1.0)

    def per_utterance(self, log_probabilities: Tensor, label: Tensor) -> Tensor:
        """The loss per utterance, ``(N,)``; see :meth:`ClassificationLoss.per_utterance`."""
        nll = F.nll_loss(log_probabilities, label, ignore_index=IGNORE_INDEX, reduction="none")
        uniform = -log_probabilities.mean(dim=-1).masked_fill(label == IGNORE_INDEX, 0.0)
        return (1 - self.epsilon) * nll + self.epsilon * uniform


class LogitAdjusted(ClassificationLoss):
    r"""A classification loss on logits that are shifted by the log frequencies of the emotions.

    .. math:: L(f + \tau \log \pi, y)

    Menon et al. 2021 (arXiv 2007.07314), eq. 10. If seven of ten utterances are neutral or joyful, an uncertain network
    predicts one of these and almost never a rare emotion, which is good for accuracy but bad for F1. With shifted
    logits, the network does not need to learn the frequencies. Its own, unshifted logits then predict as on a corpus
    with more balanced emotions: unchanged with :math:`\tau = 0`, equally frequent with :math:`\tau = 1`.

    The frequencies :math:`\pi` are those of the training split, with one utterance added per emotion. Tasks pass the
    counts to :meth:`set_class_counts`; in your own training loop, pass ``class_counts``.

    Args:
        tau: :math:`\tau`, at least 0.
        loss: The loss on the shifted logits. Default: cross-entropy.
        class_counts: Labelled utterances per emotion, by id. Default: the task sets them.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(
        self, tau: float = 0.4, loss: ClassificationLoss | None = None, class_counts: list[int] | None = None
    ) -> None:
        super().__init__()
        self.tau = require_range("LogitAdjusted", "tau", tau, 0.0)
        self.loss = loss or PolynomialCrossEntropy(alpha=0.0)
        self.class_counts: list[int] | None = None
        if class_counts is not None:
            self.set_class_counts(class_counts)

    def set_class_counts(self, counts: Sequence[int]) -> None:
        """Set the number of labelled utterances per emotion in the training split.

        Args:
            counts: C numbers, by id.

        Raises:
            ValueError: A number is negative.
        """
        if len(counts) < 2 or min(counts) < 0:
            raise ValueError(f"LogitAdjusted: class_counts are {list(counts)}, expected at least two numbers >= 0.")
        self.class_counts = [int(count) for count in counts]

    def per_utterance(self, log_probabilities: Tensor, label: Tensor) -> Tensor:
        """The loss per utterance, ``(N,)``; see :meth:`ClassificationLoss.per_utterance`.

        Raises:
            ValueError: The counts are not set, or their number differs from the number of classes.
        """
        if self.class_counts is None or len(self.class_counts) != log_probabilities.shape[-1]:
            raise ValueError(
                f"LogitAdjusted: expected class_counts of {log_probabilities.shape[-1]} emotions, found "
                f"{self.class_counts}. Pass class_counts to the loss, or train it in a task of merc, which sets them."
            )
        count = log_probabilities.new_tensor(self.class_counts) + 1
        shifted = (log_probabilities + self.tau * (count / count.sum()).log()).log_softmax(-1)
        return self.loss.per_utterance(shifted, label)
