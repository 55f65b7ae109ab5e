"""The base class of fusion heads, and their output."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from merc.batch import ConversationBatch


@dataclass(eq=False)
class FusionOutput:
    """The output of a fusion head for a batch of N utterances.

    Args:
        logits: ``(N, C)``.
        losses: The head's own loss terms by name, each a scalar, unweighted; the task weighs, adds and logs them.
        aux_logits: ``(N, C)`` of auxiliary classifiers by name, for example one per modality.
        embeddings: ``(N, d)`` fused representation before the classifier, for contrastive losses and for stores.
        uncertainty: ``(N,)`` measures of uncertainty by name.
        votes: ``(K, N, C)`` logits of the K members of an ensemble, whose mean is ``logits``. The task takes the loss
            of each member, not of their mean: under a loss of the mean, all members have the same gradient.
    """

    logits: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    aux_logits: dict[str, Tensor] = field(default_factory=dict)
    embeddings: Tensor | None = None
    uncertainty: dict[str, Tensor] = field(default_factory=dict)
    votes: Tensor | None = None


class FusionHead(nn.Module, ABC):
    """Base of every fusion head. Subclass it to write your own.

    The prediction for an utterance may depend on its own conversation, but on nothing else in the batch.

    Args:
        dims: Width of every modality that the head reads, for example ``{"text": 256, "audio": 256}``.
        num_classes: Number of outputs: of emotions C, of dimensions D where a task's targets are numbers, or C + D.

    Raises:
        ValueError: There is no modality, or a width or C is not positive.
    """

    emotion_losses: ClassVar[tuple[str, ...]] = ()
    """Its losses that need emotions; a task whose targets are numbers alone leaves them out."""

    num_values: int
    """How many of the outputs, the last ones, are numbers and no logits of emotions: 0 unless the task says so."""

    def __init__(self, dims: dict[str, int], num_classes: int) -> None:
        super().__init__()
        if not dims or min(dims.values()) < 1 or num_classes < 1:
            raise ValueError(f"A fusion head needs positive widths and at least 1 output, got {dims}, {num_classes}.")
        self.dims = dict(dims)
        self.num_classes = num_classes
        self.num_values = 0

    def emotion_logits(self, outputs: Tensor) -> Tensor:
        """The outputs that are logits, ``(..., C)`` of ``(..., num_classes)``; only these may go through a softmax."""
        return outputs[..., : self.num_classes - self.num_values]

    @abstractmethod
    def forward(self, batch: ConversationBatch) -> FusionOutput:
        """Fuse the modalities of every utterance.

        Args:
            batch: ``features[name]`` and ``present[name]`` for every name in ``dims``. During training it
                also has ``label``, which a prediction must not read.
        """
