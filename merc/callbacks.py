"""Callbacks for the Lightning Trainer: writing predictions into feature stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer

from merc import __version__
from merc.conversation import UtteranceKey
from merc.store import Kind, StoreWriter


class StoreWriterCallback(Callback):
    """Writes what a task predicts into feature stores, and resumes where a killed run stopped.

    The task's ``predict_step`` returns a dict with ``keys``, the N utterance keys of the batch, one
    tensor ``(N, d)`` for every kind of row it can give (``features``, ``hidden``, ``logits``), and, if it
    wants to record utterances that have no vector, ``missing``: a dict from key to reason. The task's
    ``provenance()`` returns plain JSON values that say where the rows come from; with ``logits`` they
    must hold ``classes``, the emotions in the order of the columns.

    Rows reach the disk every ``shard_rows`` utterances. The same command after a kill takes over what is
    there, as long as the provenance is the same; a datamodule that asks :meth:`done` for its prediction
    dataloader saves that work. Prediction must run on one device.

    Args:
        outputs: Folder of the store for each kind of row to keep, for example
            ``{"hidden": "run/hidden/text", "logits": "run/logits/text"}``.
        shard_rows: Utterances a shard: what a kill can lose at most.

    Raises:
        ValueError: No output is named, or one that is not a kind of row.

    Example:
        >>> writer = StoreWriterCallback({"features": "run/features/text"})
        >>> Trainer(callbacks=[writer]).predict(task, datamodule=data)  # doctest: +SKIP
    """

    def __init__(self, outputs: dict[str, str], shard_rows: int = 1024) -> None:
        kinds = get_args(Kind)
        unknown = [name for name in outputs if name not in kinds]
        if unknown or not outputs:
            raise ValueError(
                f"StoreWriterCallback got the outputs {sorted(outputs)}: expected a folder for one or more of "
                f"{', '.join(kinds)}."
            )
        self.outputs = dict(outputs)
        self.shard_rows = shard_rows
        self._writers: dict[str, StoreWriter] = {}

    def done(self, task: LightningModule) -> set[UtteranceKey]:
        """The utterances that every store holds already, from a run of the same provenance that was cut.

        Ask only once the task's weights are in place (as in ``predict_dataloader``): they are part of the
        provenance.
        """
        self._open(task)
        return set.intersection(*(writer.done for writer in self._writers.values()))

    def _open(self, task: LightningModule) -> None:
        if self._writers:
            return
        describe: Any = getattr(task, "provenance", None)
        if not callable(describe):
            raise TypeError(
                f"{type(task).__name__} cannot be written into a store: it has no provenance(), "
                "a method that says in plain values where its rows come from."
            )
        provenance = {**describe(), "merc": __version__}
        if "logits" in self.outputs and "classes" not in provenance:
            raise TypeError(f"{type(task).__name__}.provenance() lacks 'classes', which a store of logits needs.")
        self._writers = {
            kind: StoreWriter(folder, kind=kind, provenance=provenance, shard_rows=self.shard_rows)  # type: ignore[arg-type]
            for kind, folder in self.outputs.items()
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to predict on several devices: two writers would overwrite each other's manifest."""
        self._writers = {}
        if stage == "predict" and trainer.world_size > 1:
            raise ValueError(
                f"Prediction into {', '.join(self.outputs.values())} runs on {trainer.world_size} devices, expected 1: "
                "run it with --trainer.devices 1."
            )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the stores, unless a datamodule has asked for :meth:`done` and so opened them."""
        self._open(pl_module)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - whatever predict_step returned; checked below
        batch: Any,  # noqa: ANN401 - the task's own batch
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the rows of one batch to their stores."""
        for kind, writer in self._writers.items():
            if not isinstance(outputs, Mapping) or not {"keys", kind} <= outputs.keys():
                found = ", ".join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
                raise ValueError(
                    f"{type(pl_module).__name__}.predict_step gave {found}: expected a dict with 'keys' and {kind!r} "
                    f"for the store {writer.path}. Remove that store from the outputs or use a task that gives it."
                )
            new = [row for row, key in enumerate(outputs["keys"]) if key not in writer.done]
            writer.add([outputs["keys"][row] for row in new], outputs[kind][new].float())
            for key, reason in outputs.get("missing", {}).items():
                writer.skip(key, reason)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Commit the stores; Lightning comes here after success only, so a cut run keeps its shards."""
        for writer in self._writers.values():
            writer.commit()
        self._writers = {}


def predicted_already(trainer: Trainer | None) -> set[UtteranceKey]:
    """What the store writers among a Trainer's callbacks hold already: nothing of it needs to be predicted again.

    Args:
        trainer: The Trainer that is about to predict, with the task's weights in place.
    """
    writers = [c for c in getattr(trainer, "callbacks", []) if isinstance(c, StoreWriterCallback)]
    if trainer is None or not writers:
        return set()
    return set.intersection(*(writer.done(trainer.lightning_module) for writer in writers))
