"""What tasks that fine-tune an encoder share: the classifier on its vectors, what is frozen, its rows for stores."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from merc.datamodules.facts import DataFacts
from merc.datamodules.media import MediaBatch
from merc.encoders.sentences import ReadBatch
from merc.encoders.tuning import checkpoint_gradients, freeze_layers
from merc.evaluation import StoreInfo
from merc.tasks.classifier import ClassifierTask

Batch = TypeVar("Batch", bound=ReadBatch | MediaBatch)


class EncoderTask(ClassifierTask[Batch]):
    """Base of the tasks that fine-tune an encoder with a linear classifier on its vectors.

    An utterance that cannot be read has the vector 0: the bias of the classifier predicts it, and it takes no part in
    training. Prediction gives the encoder's ``features`` and the classifier's ``logits`` of the others, and the reasons
    why those cannot be read.

    Args:
        encoder: The encoder to tune: from batches to vectors ``(B, dim)``, with ``settings()`` and ``provenance()``.
        modality: What the encoder reads, for reports.
        dropout: Dropout before the classifier.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).
        head_lr: Learning rate of the classifier. Default: that of the encoder.
        frozen_layers: The first layers of the encoder that are not tuned, with all before them
            (:func:`merc.encoders.freeze_layers`).
        gradient_checkpointing: Trade time for memory (:func:`merc.encoders.checkpoint_gradients`).
    """

    def __init__(
        self,
        encoder: nn.Module,
        modality: str,
        dropout: float,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        head_lr: float | None,
        frozen_layers: int,
        gradient_checkpointing: bool,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        self.encoder = encoder
        self.modality = modality
        self.dropout = dropout
        self.head_lr = head_lr
        self.frozen_layers = frozen_layers
        self.gradient_checkpointing = gradient_checkpointing
        network: nn.Module = getattr(encoder, "network", encoder)
        freeze_layers(network, frozen_layers)
        if gradient_checkpointing:
            checkpoint_gradients(network)

    def build_network(self, facts: DataFacts) -> None:
        """Make the classifier for the emotions of the data."""
        width: Any = self.encoder.dim
        self.classifier = nn.Sequential(nn.Dropout(self.dropout), nn.Linear(width, facts.num_classes))

    def settings(self) -> dict[str, Any]:
        """What the encoder reads, and how."""
        settings: Any = self.encoder.settings
        found: dict[str, Any] = settings()
        return found

    def present(self, batch: Batch) -> dict[str, Tensor]:
        """Whether an utterance could be read; every utterance has a text."""
        readable = len(batch.keys) - (len(batch.missing) if isinstance(batch, MediaBatch) else 0)
        return {self.modality: torch.arange(len(batch.keys), device=batch.label.device) < readable}

    def stores(self) -> dict[str, StoreInfo]:
        """The encoder in the place of a store, for the report."""
        provenance = self.provenance()
        return {self.modality: StoreInfo(str(provenance.get("encoder", type(self.encoder).__name__)), provenance)}

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``(B, C)``."""
        return self.encode(batch)[1]

    def encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vectors ``(B, d)`` and logits ``(B, C)``, in the order of the keys of the batch."""
        if isinstance(batch, MediaBatch):
            nothing = self._nothing(batch)
            features = nothing if batch.inputs is None else torch.cat([self.encoder(batch.inputs), nothing])
        else:
            features = self.encoder(batch)
        return features, self.classifier(features).float()

    def _nothing(self, batch: MediaBatch) -> Tensor:
        """The vectors of what cannot be read."""
        width: Any = self.encoder.dim
        zeros = torch.zeros(len(batch.missing), width, device=batch.label.device)
        if batch.inputs is None and self.training:
            # Processes that train together expect a gradient of every parameter: here it is 0.
            for parameter in self.encoder.parameters():
                if parameter.requires_grad:
                    zeros = zeros + 0.0 * parameter.sum()
        return zeros

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The keys, vectors and logits of the utterances of a batch that could be read, and why others could not."""
        features, logits = self.encode(batch)
        missing = batch.missing if isinstance(batch, MediaBatch) else {}
        count = len(batch.keys) - len(missing)
        keys = list(batch.keys)[:count]
        return {"keys": keys, "features": features[:count], "logits": logits[:count], "missing": missing}

    def on_predict_start(self) -> None:
        """Warn if nobody has trained the classifier."""
        if not self.origin:
            rank_zero_warn(f"{type(self).__name__} predicts without fine-tuning: pass the checkpoint with --ckpt_path.")

    def provenance(self) -> dict[str, Any]:
        """The encoder's provenance, the data it was tuned on, and the classes of the logits."""
        describe: Any = self.encoder.provenance
        return {
            "task": type(self).__name__,
            **describe(),
            "trained_on": self.origin.get("trained_on", "nothing (frozen)"),
            "classes": self.classes,
        }

    def _optimizer(self) -> Optimizer:
        """Every parameter that is not frozen."""
        tuned = {id(p) for p in self.encoder.parameters()}
        parts = [[p for p in self.parameters() if p.requires_grad and (id(p) in tuned) is own] for own in (True, False)]
        if self.head_lr is None:
            return self.make_optimizer(parts[0] + parts[1])
        return self.make_optimizer([{"params": parts[0]}, {"params": parts[1], "lr": self.head_lr}])
