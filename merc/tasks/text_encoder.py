"""Fine-tuning of the text encoder on emotions, and its features afterwards."""

from __future__ import annotations

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from merc.datamodules.text import TextDataModule
from merc.encoders.sentences import ReadBatch, SentenceEncoder
from merc.encoders.text import TextEncoder
from merc.tasks.classifier import Prediction
from merc.tasks.encoder import EncoderTask
from merc.tasks.schedules import WarmupLinearLR
from merc.tasks.trainer import datamodule_of


class TextEncoderTask(EncoderTask[ReadBatch]):
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
        head_lr: Learning rate of the classifier. Default: that of the encoder.
        frozen_layers: The first layers of the encoder that are not tuned, with all before them
            (:func:`merc.encoders.freeze_layers`).
        gradient_checkpointing: Trade time for memory (:func:`merc.encoders.checkpoint_gradients`).
    """

    def __init__(
        self,
        encoder: TextEncoder | SentenceEncoder,
        loss: nn.Module | None = None,
        dropout: float = 0.1,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=2e-5),
        lr_scheduler: LRSchedulerCallable | None = lambda optimizer: WarmupLinearLR(optimizer, warmup=0.1),
        head_lr: float | None = None,
        frozen_layers: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            encoder, "text", dropout, optimizer, lr_scheduler, head_lr, frozen_layers, gradient_checkpointing
        )
        self.loss = loss or nn.CrossEntropyLoss()

    @property
    def data(self) -> TextDataModule:
        """The datamodule of the trainer.

        Raises:
            TypeError: The trainer has none, or one of another kind.
        """
        return datamodule_of(self, TextDataModule)

    def step(self, batch: ReadBatch) -> Prediction:
        """Encode and classify; the only term is that of the loss."""
        features, logits = self.encode(batch)
        return Prediction(logits, features, {"ce": self.loss(logits, batch.label)})
