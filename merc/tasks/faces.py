"""Faces: what was found in every clip goes into stores of face tracks, mouth crops and sound."""

from __future__ import annotations

from typing import Any

import lightning as L

from merc.datamodules.media import MediaBatch
from merc.store import Kind, Sequences


class FacesTask(L.LightningModule):
    """Predicts the ``faces``, ``crops`` and ``sound`` of utterances.

    All work is done where the clips are decoded, by :class:`merc.datamodules.TrackReader` in worker processes, so
    that pictures need not pass from one process to another. Run it with
    :class:`merc.callbacks.StoreWriterCallback`.
    """

    def predict_step(self, batch: MediaBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[Kind, Sequences]:
        """The sequences of each kind."""
        found: dict[Kind, Sequences] = batch.inputs
        return found

    def provenance(self) -> dict[str, Any]:
        """The name of the task; the datamodule says the rest."""
        return {"task": type(self).__name__, "trained_on": "nothing (frozen)"}
