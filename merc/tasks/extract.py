"""Extraction: a frozen encoder gives its vectors to a store."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import nn

from merc.datamodules.media import MediaBatch
from merc.encoders.sentences import ReadBatch


class ExtractTask(L.LightningModule):
    """Predicts the vectors of a pretrained encoder, as it is.

    Run it with :class:`merc.callbacks.StoreWriterCallback`. For an encoder that was fine-tuned,
    predict with the task that tuned it.

    Args:
        encoder: Turns a batch of text, sound or faces into vectors ``(B, dim)``; has a ``dim`` and ``provenance()``.

    Raises:
        ValueError: The encoder has a projection, which means nothing before it is trained.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        if getattr(encoder, "projection", None) is not None:
            raise ValueError("ExtractTask got an encoder with an untrained projection: leave projection out.")
        self.encoder = encoder.requires_grad_(False)

    def predict_step(self, batch: ReadBatch | MediaBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The keys and the vectors of a batch, and why utterances without media have none."""
        if not isinstance(batch, MediaBatch):
            return {"keys": batch.keys, "features": self.encoder(batch)}
        if batch.inputs is None:
            return {"keys": [], "features": torch.zeros(0, int(self.encoder.dim)), "missing": batch.missing}  # type: ignore[arg-type]
        return {"keys": batch.inputs.keys, "features": self.encoder(batch.inputs), "missing": batch.missing}

    def provenance(self) -> dict[str, Any]:
        """The encoder's provenance, and that it was not tuned on any labels."""
        describe: Any = self.encoder.provenance
        return {"task": type(self).__name__, **describe(), "trained_on": "nothing (frozen)"}
