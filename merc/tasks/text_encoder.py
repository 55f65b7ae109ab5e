"""Fine-tuning of the text encoder on emotions, and its features afterwards."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from merc.datamodules.facts import DataFacts
from merc.datamodules.text import TextDataModule
from merc.encoders.sentences import ReadBatch, SentenceEncoder
from merc.encoders.text import TextEncoder
from merc.evaluation import StoreInfo
from merc.tasks.classifier import ClassifierTask, Prediction
from merc.tasks.schedules import WarmupLinearLR
from merc.tasks.trainer import datamodule_of


class TextEncoderTask(ClassifierTask[ReadBatch]):
    """Fine-tunes a text encoder with a linear classifier on its vectors (arXiv 2511.13731, section 3.3.1).

    Validation, test and report are those of every task (:class:`merc.tasks.classifier.ClassifierTask`). Prediction
    gives the encoder's ``features`` and the classifier's ``logits``; give it the checkpoint of the fine-tuning.

    The classifier is built when the emotions are known: by the Trainer, from its
    :class:`merc.datamodules.TextDataModule`; by ``load_from_checkpoint``, from the checkpoint; or by :meth:`build`.

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
        encoder: TextEncoder | SentenceEncoder,
        loss: nn.Module | None = None,
        dropout: float = 0.1,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=2e-5),
        lr_scheduler: LRSchedulerCallable | None = lambda optimizer: WarmupLinearLR(optimizer, warmup=0.1),
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.encoder = encoder
        self.dropout = dropout
        self.loss = loss or nn.CrossEntropyLoss()

    @property
    def data(self) -> TextDataModule:
        """The datamodule of the trainer.

        Raises:
            TypeError: The trainer has none, or one of another kind.
        """
        return datamodule_of(self, TextDataModule)

    def build_network(self, facts: DataFacts) -> None:
        """Make the classifier for the emotions of the data."""
        self.classifier = nn.Sequential(nn.Dropout(self.dropout), nn.Linear(self.encoder.dim, facts.num_classes))

    def settings(self) -> dict[str, Any]:
        """What the encoder reads, and how."""
        return self.encoder.settings()

    def present(self, batch: ReadBatch) -> dict[str, Tensor]:
        """Every utterance has a text."""
        return {"text": torch.ones_like(batch.label, dtype=torch.bool)}

    def stores(self) -> dict[str, StoreInfo]:
        """The encoder in the place of a store, for the report."""
        provenance = self.provenance()
        return {"text": StoreInfo(str(provenance.get("encoder", type(self.encoder).__name__)), provenance)}

    def forward(self, batch: ReadBatch) -> Tensor:
        """Logits ``(B, C)``."""
        return self._encode(batch)[1]

    def _encode(self, batch: ReadBatch) -> tuple[Tensor, Tensor]:
        features = self.encoder(batch)
        return features, self.classifier(features).float()

    def step(self, batch: ReadBatch) -> Prediction:
        """Encode and classify; the only term is that of the loss."""
        features, logits = self._encode(batch)
        return Prediction(logits, features, {"ce": self.loss(logits, batch.label)})

    def predict_step(self, batch: ReadBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The keys, vectors and logits of a batch."""
        features, logits = self._encode(batch)
        return {"keys": batch.keys, "features": features, "logits": logits}

    def on_predict_start(self) -> None:
        """Warn if nobody has trained the classifier."""
        if not self.origin:
            rank_zero_warn("TextEncoderTask predicts without fine-tuning: pass the checkpoint with --ckpt_path.")

    def provenance(self) -> dict[str, Any]:
        """The encoder's provenance, the data it was tuned on, and the classes of the logits."""
        return {
            "task": type(self).__name__,
            **self.encoder.provenance(),
            "trained_on": self.origin.get("trained_on", "nothing (frozen)"),
            "classes": self.classes,
        }
