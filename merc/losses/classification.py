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
        A scalar; 0, still part of the autograd graph, if nothing is labelled.
    """
    return values.sum() / (label != IGNORE_INDEX).sum().clamp(min=1)


class ClassificationLoss(nn.Module):
    """A loss on class logits that can start from log-probabilities which somebody else has computed.

    Subclass it and write :meth:`per_utterance`; :class:`merc.losses.FusionLoss` takes any such loss.
    """

    def per_utterance(self, log_probabilities: Tensor, label: Tensor) -> Tensor:
        """The loss of every utterance.

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
            A scalar; 0, still part of the autograd graph, if nothing is labelled.

        Raises:
            ValueError: The shapes do not fit.
        """
        require_rows(type(self).__name__, "logits", logits, label)
        return mean_over_labelled(self.per_utterance(logits.log_softmax(-1), label), label)


class PolynomialCrossEntropy(ClassificationLoss):
    r"""Cross-entropy with a polynomial term that keeps pushing on hard utterances.

    .. math:: L_{comp} = -\log p_y + \alpha (1 - p_y)^{1 + \gamma}

    Eq. 19 of arXiv 2511.13731, after PolyLoss (Leng et al. 2022, arXiv 2204.12511). ``alpha=0`` is plain
    cross-entropy (eq. 21).

    Args:
        alpha: Weight of the polynomial term, at least -1 (where it cancels the first term of the
            cross-entropy's own expansion in powers of ``1 - p`` when ``gamma`` is 0).
        gamma: Focus of the polynomial term, at least 0.

    Raises:
        ValueError: An option is out of its range.
    """

    def __init__(self, alpha: float = 1.2, gamma: float = 1.2) -> None:
        super().__init__()
        self.alpha = require_range("PolynomialCrossEntropy", "alpha", alpha, -1.0)
        self.gamma = require_range("PolynomialCrossEntropy", "gamma", gamma, 0.0)

    def per_utterance(self, log_probabilities: Tensor, label: Tensor) -> Tensor:
        """The loss of every utterance, ``(N,)``; see :meth:`ClassificationLoss.per_utterance`."""
        # nll_loss gives 0 for an ignored utterance, that is p = 1, where the polynomial vanishes too.
        nll = F.nll_loss(log_probabilities, label, ignore_index=IGNORE_INDEX, reduction="none")
        if self.alpha == 0:
            return nll
        return nll + self.alpha * (-(-nll).expm1()).pow(1 + self.gamma)


class LabelSmoothingCrossEntropy(ClassificationLoss):
    r"""Cross-entropy against a target that is mixed with the uniform distribution.

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
        """The loss of every utterance, ``(N,)``; see :meth:`ClassificationLoss.per_utterance`."""
        nll = F.nll_loss(log_probabilities, label, ignore_index=IGNORE_INDEX, reduction="none")
        uniform = -log_probabilities.mean(dim=-1).masked_fill(label == IGNORE_INDEX, 0.0)
        return (1 - self.epsilon) * nll + self.epsilon * uniform


class LogitAdjusted(ClassificationLoss):
    r"""A classification loss on logits that are shifted by the logarithm of how frequent each emotion is.

    .. math:: L(f + \tau \log \pi, y)

    after Menon et al. 2021 (arXiv 2007.07314), eq. 10. Where seven of ten utterances are neutral or joyful, a network
    that is not sure names one of these, and hardly ever a rare emotion: good for accuracy, bad for F1. Trained on
    shifted logits, the network need not learn the frequencies; its own logits, which predict, are those of a
    corpus whose emotions are more even: as they come with :math:`\tau = 0`, equally frequent with 1.

    The frequencies :math:`\pi` are those of the training split, and one more of each emotion. The task that trains
    under the loss tells them by :meth:`set_class_counts`; in a training loop of your own, give ``class_counts``.

    Args:
        tau: :math:`\tau`, at least 0.
        loss: The loss on the shifted logits. Default: cross-entropy.
        class_counts: Labelled utterances of every emotion, by id. Default: the task tells them.

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
        """Tell how many labelled utterances of every emotion the training split has.

        Args:
            counts: C numbers, by id.

        Raises:
            ValueError: A number is negative.
        """
        if len(counts) < 2 or min(counts) < 0:
            raise ValueError(f"LogitAdjusted: class_counts are {list(counts)}, expected at least two numbers >= 0.")
        self.class_counts = [int(count) for count in counts]

    def per_utterance(self, log_probabilities: Tensor, label: Tensor) -> Tensor:
        """The loss of every utterance, ``(N,)``; see :meth:`ClassificationLoss.per_utterance`.

        Raises:
            ValueError: The counts are unknown, or of another number of emotions than the logits.
        """
        if self.class_counts is None or len(self.class_counts) != log_probabilities.shape[-1]:
            raise ValueError(
                f"LogitAdjusted: expected class_counts of {log_probabilities.shape[-1]} emotions, found "
                f"{self.class_counts}: give them to the loss, or train it in a task of merc, which counts them."
            )
        count = log_probabilities.new_tensor(self.class_counts) + 1
        shifted = (log_probabilities + self.tau * (count / count.sum()).log()).log_softmax(-1)
        return self.loss.per_utterance(shifted, label)
