"""The teacher: a graph encoder on one modality, trained on labels alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from merc.batch import ConversationBatch
from merc.datamodules.facts import DataFacts
from merc.graphs import GraphEncoder
from merc.losses import ValueLoss
from merc.tasks.base import EmotionTask
from merc.tasks.classifier import Prediction
from merc.tasks.factory import Factory
from merc.tasks.targets import Targets


class TeacherTask(EmotionTask):
    """Trains a graph encoder by cross-entropy, by default the text teacher of arXiv 2511.13731.

    A student without a teacher is trained by this task as well (ablation "without distillation").

    Args:
        network: Makes the graph encoder from the width of the modality and the number of emotions: a subclass of
            :class:`~merc.graphs.GraphEncoder`, or a :class:`functools.partial` of one with options of its own.
        modality: The features that it reads, and the graph that it uses.
        loss: Module from logits ``(N, C)`` and labels ``(N,)``, -100 ignored, to a scalar; for numbers a
            :class:`merc.losses.ValueLoss`. Default: that of the targets, for emotions cross-entropy, which is 0 (where
            PyTorch's own is NaN) on a batch without labels.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).
        targets: What the outputs mean: emotions (the default), numbers (:class:`merc.tasks.ValueTargets`), or both
            (:class:`merc.tasks.EmotionValueTargets`, which has the loss of the numbers).
    """

    network: GraphEncoder

    def __init__(
        self,
        network: Callable[[int, int], GraphEncoder],
        modality: str = "text",
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        targets: Targets | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, targets)
        self.targets.check_loss(loss, ValueLoss)
        self.make_network = Factory(network)
        self.register_module("network", None)  # its place is before the loss, in reports and among the parameters
        self.modality = modality
        kind, *others = self.targets.parts
        self.loss = loss or kind.default_loss
        self.other_losses = nn.ModuleList(other.default_loss for other in others) if others else ()

    def build_network(self, facts: DataFacts) -> None:
        """Make the graph encoder."""
        self.network = self.make_network(facts.width(self.modality), facts.num_classes)

    @property
    def inputs(self) -> dict[str, int]:
        """The one modality of the encoder, with its width."""
        return {self.modality: self.network.dim}

    def step(self, batch: ConversationBatch) -> Prediction:
        """Encode the conversations; the terms are ``ce``, the loss of emotions, and ``values``, that of numbers."""
        name = self.modality
        logits, hidden = self.network(batch.features[name], batch.present[name], batch.graph(name))
        terms = {
            kind.term: weight * loss(outputs, kind.of(batch, self.known_facts))
            for (kind, weight, outputs), loss in zip(self.kinds(logits), [self.loss, *self.other_losses], strict=True)
        }
        return Prediction(logits, hidden, terms)
