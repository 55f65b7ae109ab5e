"""Metrics: all scores of the published tables, from one confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multiclass_confusion_matrix

from merc.labels import IGNORE_INDEX, LabelSet


def confusion_matrix(predicted: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count utterances by label and prediction.

    Args:
        predicted: ``(N,)`` ids, or ``(N, C)`` logits or probabilities, of which the largest is the prediction.
        label: ``(N,)`` ids in ``0..C-1``; -100 is not counted.
        num_classes: C.

    Returns:
        ``(C, C)`` long; rows are labels, columns predictions.
    """
    return multiclass_confusion_matrix(
        predicted, label, num_classes=num_classes, ignore_index=IGNORE_INDEX, validate_args=False
    )


def class_scores(confusion: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision, recall and F1 of every class; 0 for a division by zero.

    Args:
        confusion: ``(..., C, C)`` counts in floating point; rows are labels.

    Returns:
        Three tensors ``(..., C)``, in 0..1.
    """
    correct = confusion.diagonal(dim1=-2, dim2=-1)
    support, predicted = confusion.sum(-1), confusion.sum(-2)
    f1 = 2 * correct / (support + predicted).clamp(min=1)
    return correct / predicted.clamp(min=1), correct / support.clamp(min=1), f1


def weighted_f1(confusion: Tensor) -> Tensor:
    """F1 of every class averaged by its support.

    Args:
        confusion: ``(..., C, C)`` counts in floating point; rows are labels.

    Returns:
        ``(...)`` in 0..1; 0 for an empty matrix.
    """
    support = confusion.sum(-1)
    return (class_scores(confusion)[2] * support).sum(-1) / support.sum(-1).clamp(min=1)


def scores(confusion: Tensor, labels: LabelSet) -> dict[str, Tensor]:
    """All scores of a confusion matrix, as fractions in 0..1.

    They equal scikit-learn's with ``labels=range(C)`` and ``zero_division=0``: macro F1 is the mean over all classes of
    the label set, including those that do not occur.

    Args:
        confusion: ``(C, C)`` counts in floating point; rows are labels.
        labels: Names of the classes.

    Returns:
        ``weighted_f1``, ``macro_f1``, ``accuracy``, and ``f1/<emotion>`` in the order of the published tables.
    """
    f1 = class_scores(confusion)[2]
    return {
        "weighted_f1": weighted_f1(confusion),
        "macro_f1": f1.mean(),
        "accuracy": confusion.trace() / confusion.sum().clamp(min=1),
        **{f"f1/{labels.names[index]}": f1[index] for index in labels.report_ids},
    }


class EmotionMetrics(Metric):
    """The metrics of emotion recognition, accumulated over batches and processes.

    Args:
        labels: The label set of the corpus.

    Example:
        >>> from merc.labels import IEMOCAP4
        >>> metrics = EmotionMetrics(IEMOCAP4)
        >>> metrics.update(torch.eye(4), torch.tensor([0, 1, 2, -100]))
        >>> metrics.compute()["accuracy"]
        tensor(1.)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor

    def __init__(self, labels: LabelSet) -> None:
        super().__init__()
        self.labels = labels
        self.add_state("confusion", torch.zeros(len(labels), len(labels), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def update_called(self) -> bool:
        """Always true: zero counts are valid, so torchmetrics should not warn about them."""
        return True

    def update(self, logits: Tensor, label: Tensor) -> None:
        """Count the utterances of a batch.

        Args:
            logits: ``(N, C)`` logits or probabilities.
            label: ``(N,)`` ids in ``0..C-1``, -100 for unlabelled.
        """
        self.confusion += confusion_matrix(logits, label, len(self.labels))

    def compute(self) -> dict[str, Tensor]:
        """The scores of all utterances so far; 0 if there are none.

        Returns:
            The scores of :func:`scores`, and ``confusion``, ``(C, C)`` long with rows as labels, both in the order
            of ids.
        """
        return {**scores(self.confusion.float(), self.labels), "confusion": self.confusion}
