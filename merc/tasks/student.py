"""A student: a graph encoder on audio or visual features, taught by the stored logits of a teacher."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from merc.batch import ConversationBatch
from merc.graphs import GraphEncoder
from merc.losses import DistillationLoss
from merc.tasks.base import EmotionTask, Prediction


class StudentTask(EmotionTask):
    """Trains a graph encoder on labels and on a teacher (eq. 10 of arXiv 2511.13731).

    The teacher's logits come from a feature store, written once by ``merc predict``; they are never
    computed again, and nothing of the teacher can move.

    Args:
        network: The graph encoder; its ``dim`` is checked against the store.
        modality: The features that it reads, and the graph that it uses.
        loss: The distillation loss.
        teacher: Name under which the datamodule has the teacher's logits; a loss with ``alpha=1`` needs none.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule, stepped once an epoch.
    """

    def __init__(
        self,
        network: GraphEncoder,
        modality: str = "audio",
        loss: DistillationLoss | None = None,
        teacher: str = "teacher",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(network.num_classes, optimizer, lr_scheduler)
        self.network = network
        self.modality = modality
        self.loss = loss or DistillationLoss()
        self.teacher = teacher

    @property
    def modalities(self) -> dict[str, int]:
        """The one modality of the student."""
        return {self.modality: self.network.dim}

    def setup(self, stage: str) -> None:
        """Check also that the teacher's logits mean the emotions of this corpus."""
        super().setup(stage)
        if stage in ("fit", "validate") and self.loss.alpha < 1:
            self.data.require(self.teacher, kind="logits", dim=self.num_classes, classes=self.data.labels.names)

    def predict(self, batch: ConversationBatch) -> Prediction:
        """Encode the conversations; the terms are those of the loss, where the teacher's logits are at hand."""
        name = self.modality
        logits, hidden = self.network(batch.features[name], batch.present[name], batch.edges[name])
        teacher = batch.features.get(self.teacher)
        terms = {}
        if teacher is not None or self.loss.alpha == 1:
            terms = self.loss(logits, batch.label, teacher, batch.present.get(self.teacher))
        return Prediction(logits, hidden, terms)
