"""Faces: what was found in every clip goes into stores of face tracks, mouth crops and sound."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L

from merc.datamodules.media import MediaBatch
from merc.store import SEQUENCES, Kind, Sequences


class FacesTask(L.LightningModule):
    """Predicts the ``faces``, ``crops`` and ``sound`` of utterances.

    All work is done where the clips are decoded, by :class:`merc.datamodules.TrackReader` in worker processes, so
    that frames need not pass from one process to another. Run it with
    :class:`merc.callbacks.StoreWriterCallback`.
    """

    def predict_step(self, batch: MediaBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[Kind, Sequences]:
        """The sequences of each kind, and why clips have none."""
        found: dict[Kind, Sequences] = batch.inputs or {kind: Sequences([], []) for kind in SEQUENCES}
        return {kind: replace(rows, missing={**rows.missing, **batch.missing}) for kind, rows in found.items()}

    def provenance(self) -> dict[str, Any]:
        """The name of the task; the datamodule says the rest."""
        return {"task": type(self).__name__, "trained_on": "nothing (frozen)"}
