"""A student that is an encoder: fine-tuned on raw text, sound or frames, taught by what is stored of a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from merc.conversation import UtteranceKey
from merc.datamodules.media import MediaBatch
from merc.datamodules.utterances import UtteranceDataModule
from merc.encoders.sentences import ReadBatch
from merc.labels import IGNORE_INDEX
from merc.losses import DistillationLoss, FeatureSimilarityLoss, StudentLoss
from merc.tasks.classifier import Prediction
from merc.tasks.encoder import EncoderTask
from merc.tasks.gather import gather_in_order
from merc.tasks.schedules import WarmupLinearLR
from merc.tasks.student import Taught
from merc.tasks.trainer import datamodule_of


class EncoderStudentTask(EncoderTask[ReadBatch | MediaBatch], Taught):
    """Fine-tunes an encoder on labels and on a teacher, as TelME does (eq. 4-15 of arXiv 2401.12987).

    The sibling of :class:`merc.tasks.TextEncoderTask` for any modality: an :class:`~merc.encoders.AudioEncoder` or
    :class:`~merc.encoders.VisualEncoder` with a :class:`merc.datamodules.MediaDataModule`, a text encoder with a
    :class:`merc.datamodules.TextDataModule`. The teacher's logits and vectors come from the feature stores of the
    datamodule, written once by ``merc predict``; without them (``alpha`` of the loss that needs none, no
    ``feature_loss``) it is a fine-tuning on labels alone, of a teacher of any modality for example.

    An utterance that cannot be read takes no part in training. In validation and test the bias of the classifier
    predicts it, so that all systems are judged on the same utterances; the report says how many there were and why.

    Args:
        encoder: The encoder to tune: from batches to vectors ``(B, dim)``, with ``settings()`` and ``provenance()``.
        modality: What the encoder reads, for reports.
        loss: The loss on labels and on the teacher's logits. Default: :class:`merc.losses.DistillationLoss`.
        teacher: Name under which the datamodule has the teacher's logits, if the loss needs them.
        dropout: Dropout before the classifier; TelME has none.
        optimizer: Makes the optimizer from the parameters. Default: AdamW with learning rate 1e-5.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`); ``None`` for a
            constant learning rate. Default: linear warm-up over a tenth of all steps, then linear decay to 0.
        feature_loss: A further loss on the teacher's vectors, over the utterances that can be read. Default: none.
        teacher_hidden: Name under which the datamodule has these vectors, as wide as those of the encoder.
        head_lr: Learning rate of the classifier. Default: that of the encoder.
        frozen_layers: The first layers of the encoder that are not tuned, with all before them
            (:func:`merc.encoders.freeze_layers`).
        gradient_checkpointing: Trade time for memory (:func:`merc.encoders.checkpoint_gradients`).
    """

    def __init__(
        self,
        encoder: nn.Module,
        modality: str = "audio",
        loss: DistillationLoss | StudentLoss | None = None,  # the first for configs that name no class
        teacher: str = "teacher",
        dropout: float = 0.0,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=1e-5),
        lr_scheduler: LRSchedulerCallable | None = lambda optimizer: WarmupLinearLR(optimizer, warmup=0.1),
        feature_loss: FeatureSimilarityLoss | None = None,
        teacher_hidden: str = "teacher_hidden",
        head_lr: float | None = None,
        frozen_layers: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__(
            encoder, modality, dropout, optimizer, lr_scheduler, head_lr, frozen_layers, gradient_checkpointing
        )
        self.loss = loss or DistillationLoss()
        self.other_losses = ()
        self.teacher = teacher
        self.feature_loss = feature_loss
        self.teacher_hidden = teacher_hidden
        self._unread: dict[UtteranceKey, str] = {}

    @property
    def data(self) -> UtteranceDataModule:
        """The datamodule of the trainer.

        Raises:
            TypeError: The trainer has none, or one of another kind.
        """
        return datamodule_of(self, UtteranceDataModule)

    @property
    def hidden_dim(self) -> int:
        """Width of the encoder's vectors."""
        width: Any = self.encoder.dim
        return int(width)

    def setup(self, stage: str) -> None:
        """Check also that the teacher's logits mean the emotions of this corpus, and how wide its vectors are."""
        super().setup(stage)
        self._unread = {}
        if stage in ("fit", "validate"):
            self.require_teacher(self.data)

    def on_fit_start(self) -> None:
        """Note what the weights are trained on, before the first of them moves."""
        super().on_fit_start()
        self.origin["stores"] = {name: store.digest for name, store in self.data.stores.items()}

    def step(self, batch: ReadBatch | MediaBatch) -> Prediction:
        """Encode and classify; the terms are those of the losses for which the teacher is at hand."""
        features, logits = self.encode(batch)
        there = self.present(batch)[self.modality]
        label = batch.label.masked_fill(~there, IGNORE_INDEX)
        terms = self.taught(logits, features, [label], there, lambda name: self._stored(name, batch))
        return Prediction(logits, features, terms)

    def compared(self, batch: ReadBatch | MediaBatch) -> Tensor:
        """Those that could be read."""
        return super().compared(batch) & self.present(batch)[self.modality]

    def _stored(self, name: str, batch: ReadBatch | MediaBatch) -> tuple[Tensor, Tensor] | None:
        """What a store of the datamodule has of the utterances of a batch, on its device."""
        found = None if self._trainer is None else self.data.stored(name, batch.keys)
        return None if found is None else (found[0].to(self.device), found[1].to(self.device))

    def test_step(self, batch: ReadBatch | MediaBatch, batch_idx: int) -> None:
        """Keep also why utterances could not be read."""
        super().test_step(batch, batch_idx)
        self._unread.update(batch.missing if isinstance(batch, MediaBatch) else {})

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test split and write the report."""
        self._unread = {key: why for part in gather_in_order([self._unread]) for key, why in part.items()}
        super().on_test_epoch_end()

    def missing(self, split: str) -> Mapping[str, Mapping[UtteranceKey, str]]:
        """The utterances of the tested split that could not be read and why, for the report."""
        return {self.modality: self._unread}

    def provenance(self) -> dict[str, Any]:
        """That of every encoder, and the teacher's stores that it was trained with."""
        return {**super().provenance(), "trained_with": self.origin.get("stores", {})}
