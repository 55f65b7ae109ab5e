"""Fine-tuning of the text encoder on emotions, and its features afterwards."""

from __future__ import annotations

from typing import Any, Self, cast

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torchmetrics.classification import MulticlassF1Score

from merc.datamodules.facts import DataFacts
from merc.encoders.text import TextBatch, TextEncoder
from merc.tasks.checkpoints import facts_of, refuse_other_model
from merc.tasks.describe import DescribedTask
from merc.tasks.factory import Factory, give_class_counts, initial_weights
from merc.tasks.optimizers import scheduled
from merc.tasks.schedules import WarmupLinearLR


class TextEncoderTask(DescribedTask):
    """Fine-tunes a text encoder with a linear classifier on its vectors (arXiv 2511.13731, section 3.3.1).

    Validation logs ``val/weighted_f1``, by which checkpoints are chosen. Prediction gives the
    encoder's ``features`` and the classifier's ``logits``; give it the checkpoint of the fine-tuning.

    The classifier is built when the emotions are known: by the Trainer, from its datamodule; by
    ``load_from_checkpoint``, from the checkpoint; or by :meth:`build`.

    Args:
        encoder: The encoder to tune.
        loss: From logits ``(B, C)`` and label ids ``(B,)`` to a scalar. Default: cross-entropy.
        dropout: Dropout before the classifier.
        optimizer: Makes the optimizer from the parameters. Default: AdamW with learning rate 2e-5.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`); ``None`` for a
            constant learning rate. Default: linear warm-up over a tenth of all steps, then linear decay to 0.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        loss: nn.Module | None = None,
        dropout: float = 0.1,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=2e-5),
        lr_scheduler: LRSchedulerCallable | None = lambda optimizer: WarmupLinearLR(optimizer, warmup=0.1),
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = dropout
        self.loss = loss or nn.CrossEntropyLoss()
        self.make_optimizer = Factory(optimizer)
        self.make_lr_scheduler = None if lr_scheduler is None else Factory(lr_scheduler)
        self.facts: DataFacts | None = None
        """What the classifier was built from; nothing before it is built."""
        self.trained_on: str | None = None

    @property
    def classes(self) -> list[str]:
        """The emotions that the classifier tells apart; none before it is built."""
        return list(self.facts.classes) if self.facts else []

    def build(self, facts: DataFacts) -> Self:
        """Build the classifier for the emotions of the data.

        Args:
            facts: What :attr:`merc.datamodules.TextDataModule.facts` gives, or a checkpoint records.

        Returns:
            The task itself.
        """
        with initial_weights():
            self.classifier = nn.Sequential(nn.Dropout(self.dropout), nn.Linear(self.encoder.dim, facts.num_classes))
            self.weighted_f1 = nn.ModuleDict(
                {part: MulticlassF1Score(facts.num_classes, average="weighted") for part in ("val", "test")}
            )
        give_class_counts(self, facts.class_counts)
        self.facts = facts
        return self.train(self.training)

    def configure_model(self) -> None:
        """Build the classifier for the data of the Trainer, unless it is built or there is no Trainer."""
        if self.facts is None and self._trainer is not None:
            self.build(self.trainer.datamodule.facts)  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Build the classifier, or check that the corpus has its emotions.

        Raises:
            ValueError: The corpus has other emotions than the classifier.
        """
        self.configure_model()
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.classes != list(data.labels.names):
            raise ValueError(
                f"TextEncoderTask was trained on {self.trained_on or 'nothing'}, with the classes {self.classes}, and "
                f"corpus {data.corpus.name!r} has {list(data.labels.names)}: give a checkpoint that was trained on "
                "these."
            )
        if stage == "fit":
            self.trained_on = f"{data.corpus.name}/train"

    def forward(self, batch: TextBatch) -> Tensor:
        """Logits ``(B, C)``."""
        logits: Tensor = self.classifier(self.encoder(batch))
        return logits

    def training_step(self, batch: TextBatch, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss: Tensor = self.loss(self(batch).float(), batch.label)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch.label))
        return loss

    def validation_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Count the predictions of a validation batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: TextBatch, batch_idx: int) -> None:
        """Count the predictions of a test batch."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: TextBatch, part: str) -> None:
        logits = self(batch).float()
        metric = cast(MulticlassF1Score, self.weighted_f1[part])
        metric.update(logits, batch.label)
        size = len(batch.label)
        self.log(f"{part}/loss", self.loss(logits, batch.label), batch_size=size, sync_dist=True)
        self.log(f"{part}/weighted_f1", metric, prog_bar=True, on_epoch=True, on_step=False, batch_size=size)

    def predict_step(self, batch: TextBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The keys, vectors and logits of a batch."""
        features = self.encoder(batch)
        return {"keys": batch.keys, "features": features, "logits": self.classifier(features)}

    def on_predict_start(self) -> None:
        """Warn if nobody has trained the classifier."""
        if self.trained_on is None:
            rank_zero_warn("TextEncoderTask predicts without fine-tuning: pass the checkpoint with --ckpt_path.")

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer over all parameters, with its schedule."""
        optimizer = self.make_optimizer(self.parameters())
        return scheduled(self, optimizer, self.make_lr_scheduler, monitor="val/weighted_f1")

    def provenance(self) -> dict[str, Any]:
        """The encoder's provenance, the data it was tuned on, and the classes of the logits."""
        return {
            "task": type(self).__name__,
            **self.encoder.provenance(),
            "trained_on": self.trained_on or "nothing (frozen)",
            "classes": self.classes,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add, in plain values, what the weights fit to."""
        super().on_save_checkpoint(checkpoint)
        facts = None if self.facts is None else self.facts.plain()
        about = {"classes": self.classes, "trained_on": self.trained_on, "facts": facts}
        checkpoint["merc"] = {**self._signature(), **about}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model, one tuned with other context, prompt or pooling, or on other emotions.

        Raises:
            ValueError: The checkpoint does not fit; the message says what differs.
        """
        facts, found = facts_of(checkpoint, self)
        if self.facts is None:
            self.build(facts)
        expected = {**self._signature(), "classes": self.classes}
        refuse_other_model(expected, found, self.state_dict(), checkpoint["state_dict"])
        give_class_counts(self, facts.class_counts)
        self.facts = facts
        self.trained_on = found["trained_on"]

    def _signature(self) -> dict[str, Any]:
        return {"task": type(self).__name__, **self.encoder.settings()}
