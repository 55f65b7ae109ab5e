"""The teacher: a graph encoder on one modality, trained on labels alone."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from merc.batch import ConversationBatch
from merc.graphs import GraphEncoder
from merc.losses import PolynomialCrossEntropy
from merc.tasks.base import EmotionTask, Prediction


class TeacherTask(EmotionTask):
    """Trains a graph encoder by cross-entropy, by default the text teacher of arXiv 2511.13731.

    A student without a teacher is trained by this task as well (ablation "without distillation").

    Args:
        network: The graph encoder; its ``dim`` is checked against the store.
        modality: The features that it reads, and the graph that it uses.
        loss: Module from logits ``(N, C)`` and labels ``(N,)``, -100 ignored, to a scalar. Default: cross-entropy,
            which is 0 (where PyTorch's own is NaN) on a batch without labels.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).
    """

    def __init__(
        self,
        network: GraphEncoder,
        modality: str = "text",
        loss: nn.Module | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(network.num_classes, optimizer, lr_scheduler)
        self.network = network
        self.modality = modality
        self.loss = loss or PolynomialCrossEntropy(alpha=0.0)

    @property
    def modalities(self) -> dict[str, int]:
        """The one modality of the encoder."""
        return {self.modality: self.network.dim}

    def predict(self, batch: ConversationBatch) -> Prediction:
        """Encode the conversations; the term ``ce`` is the loss."""
        name = self.modality
        logits, hidden = self.network(batch.features[name], batch.present[name], batch.edges[name])
        return Prediction(logits, hidden, {"ce": self.loss(logits, batch.label)})
