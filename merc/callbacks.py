"""Callbacks for the Lightning Trainer: writing predictions into feature stores, averaging weights."""

from __future__ import annotations

import math
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, get_args

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from merc import __version__
from merc.conversation import Corpus, UtteranceKey
from merc.store import Kind, Sequences, StoreWriter


class StoreWriterCallback(Callback):
    """Writes what a task predicts into feature stores, and resumes where a killed run stopped.

    The task's ``predict_step`` returns a dict with ``keys``, the N utterance keys of the batch, one
    tensor ``(N, d)`` for every kind of row it can give (``features``, ``hidden``, ``logits``, ``speaker``), and,
    if it wants to record utterances that have no vector, ``missing``: a dict from key to reason. Kinds of which an
    utterance has many rows (``faces``, ``crops``, ``sound``) come as :class:`~merc.store.Sequences`, each with
    keys and missing utterances of its own. A task that is made of others gives the dict of each under its name; the
    output ``audio/hidden`` is then the ``hidden`` of ``audio``.

    The task's ``provenance()`` returns plain JSON values that say where the rows come from; with ``logits`` they
    must hold ``classes``, the emotions in the order of the columns. A datamodule with ``provenance()`` adds its own;
    one with ``without_input()``, a dict from key to reason, names utterances that it does not deal out.

    Rows reach the disk, in all stores at once, as soon as one of the three limits is reached. The same command after
    a kill takes over what is there, as long as the provenance is the same; a datamodule that asks :meth:`settled`
    for its prediction dataloader saves that work. On several devices every process writes its own shards, and the
    first one makes a store of all of them in the end; no utterance may be given to two of them.

    Args:
        outputs: Folder of the store for each kind of row to keep, for example
            ``{"hidden": "run/hidden/text", "logits": "run/logits/text"}``.
        shard_rows: Utterances a shard.
        shard_bytes: Bytes of rows in memory, of one store, after which shards are written.
        shard_seconds: Seconds of work after which shards are written: what a kill can lose at most.

    Raises:
        ValueError: No output is named, or one that is not a kind of row.

    Example:
        >>> writer = StoreWriterCallback({"features": "run/features/text"})
        >>> Trainer(callbacks=[writer]).predict(task, datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        outputs: dict[str, str],
        shard_rows: int = 1024,
        shard_bytes: int = 2**26,
        shard_seconds: float = 120.0,
    ) -> None:
        kinds = get_args(Kind)
        unknown = [name for name in outputs if _kind(name) not in kinds]
        if unknown or not outputs:
            raise ValueError(
                f"StoreWriterCallback got the outputs {sorted(outputs)}: expected a folder for one or more of "
                f"{', '.join(kinds)}."
            )
        self.outputs = dict(outputs)
        self.shard_rows = shard_rows
        self.shard_bytes = shard_bytes
        self.shard_seconds = shard_seconds
        self._writers: dict[str, StoreWriter] = {}
        self._flushed = 0.0

    def settled(self, trainer: Trainer) -> set[UtteranceKey]:
        """The utterances of which every store knows already, from a run of the same provenance that was cut.

        Ask only once the task's weights are in place (as in ``predict_dataloader``): they are part of the
        provenance.
        """
        self._open(trainer)
        return set.intersection(*(writer.settled for writer in self._writers.values()))

    def _open(self, trainer: Trainer) -> None:
        if self._writers:
            return
        task = trainer.lightning_module
        describe: Any = getattr(task, "provenance", None)
        if not callable(describe):
            raise TypeError(
                f"{type(task).__name__} cannot be written into a store: it has no provenance(), "
                "a method that says in plain values where its rows come from."
            )
        of_data: Any = getattr(getattr(trainer, "datamodule", None), "provenance", dict)
        provenance = {**describe(), **of_data(), "merc": __version__}
        if "logits" in map(_kind, self.outputs) and "classes" not in provenance:
            raise TypeError(f"{type(task).__name__}.provenance() lacks 'classes', which a store of logits needs.")
        # Process 0 first: it holds the locks, so that the others see what it has seen, and nobody else writes.
        if not trainer.is_global_zero:
            trainer.strategy.barrier("merc: the stores are locked")
        corpus = getattr(getattr(trainer, "datamodule", None), "corpus", None)
        for name, folder in self.outputs.items():
            self._writers[name] = StoreWriter(
                folder,
                kind=_kind(name),  # type: ignore[arg-type]
                corpus=corpus.digest if isinstance(corpus, Corpus) else None,
                provenance=provenance,
                # When to write is decided below, at the end of a batch and for all stores together.
                shard_rows=sys.maxsize,
                shard_bytes=sys.maxsize,
                part=not trainer.is_global_zero,
            )
        if trainer.is_global_zero:
            trainer.strategy.barrier("merc: the stores are locked")
            without: Any = getattr(getattr(trainer, "datamodule", None), "without_input", dict)
            for key, reason in without().items():
                for writer in self._writers.values():
                    writer.skip(key, reason)
        # Nobody may write before everybody has seen what is there: processes that see different things would not
        # share out the same work.
        trainer.strategy.barrier("merc: the stores are open")
        self._flushed = time.monotonic()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew."""
        self._close()

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers = {}

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the stores, unless a datamodule has asked for :meth:`settled` and so opened them."""
        self._open(trainer)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401 - whatever predict_step returned; checked below
        batch: Any,  # noqa: ANN401 - the task's own batch
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the rows of one batch to their stores, and let them reach the disk if it is time."""
        for name, writer in self._writers.items():
            given, kind = _part(outputs, name), writer.kind
            if isinstance(given, Mapping) and isinstance(given.get(kind), Sequences):
                missing = self._add_sequences(writer, given[kind])
            elif isinstance(given, Mapping) and {"keys", kind} <= given.keys():
                missing = given.get("missing", {})
                new = [row for row, key in enumerate(given["keys"]) if key not in writer.done]
                if new:
                    writer.add([given["keys"][row] for row in new], given[kind][new].float())
            else:
                found = ", ".join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
                raise ValueError(
                    f"{type(pl_module).__name__}.predict_step gave {found}: expected a dict with 'keys' and {name!r} "
                    f"for the store {writer.path}. Remove that store from the outputs or use a task that gives it."
                )
            for key, reason in missing.items():
                writer.skip(key, reason)
        writers = self._writers.values()
        if (
            time.monotonic() - self._flushed >= self.shard_seconds
            or max(writer.pending for writer in writers) >= self.shard_rows
            or max(writer.pending_bytes for writer in writers) >= self.shard_bytes
        ):
            self._flush()
        # Lightning catches the signal, and obeys it while it trains and tests, but not while it predicts.
        if trainer.received_sigterm:
            raise SIGTERMException(128 + signal.SIGTERM)

    @staticmethod
    def _add_sequences(writer: StoreWriter, given: Sequences) -> Mapping[UtteranceKey, str]:
        new = [(key, rows) for key, rows in zip(given.keys, given.rows, strict=True) if key not in writer.done]
        if new:
            keys, rows = zip(*new, strict=True)
            writer.add(keys, torch.cat(rows), [len(part) for part in rows])
        return given.missing

    def _flush(self) -> None:
        """Write what is pending in every store: a store that were behind the others would make their work vain."""
        for writer in self._writers.values():
            writer.flush()
        self._flushed = time.monotonic()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what was predicted for the next run."""
        with suppress(OSError, ValueError):  # the first error is the one to see
            self._flush()
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Commit the stores; Lightning comes here after success only, so a cut run keeps its shards."""
        if not self._writers:
            return
        if trainer.world_size > 1:
            self._flush()
            trainer.strategy.barrier("merc: the parts are written")
        if trainer.is_global_zero:
            for writer in self._writers.values():
                if trainer.world_size > 1:
                    writer.take_parts()
                writer.commit()
        trainer.strategy.barrier("merc: the stores are whole")
        self._close()


class WeightEMA(WeightAveraging):
    r"""Validates, and keeps, an exponential moving average of the weights, whose horizon is a share of the training.

    .. math:: \bar w_t = d \bar w_{t-1} + (1 - d) w_t, \qquad d = 1 - 1 / \max(1, \text{horizon} \cdot \text{steps})

    It starts from the weights after the first step. A decay that is a number fits one length of training:
    0.99 averages over the last tenth of 1,000 steps, over all 100 steps of a short training, and over nothing that
    matters in a long one. Buffers are not averaged but copied.

    Args:
        horizon: Steps over which weights are averaged, as a share of all steps of the training, above 0.

    Raises:
        ValueError: ``horizon`` is not positive, or the training has no end.
    """

    def __init__(self, horizon: float = 0.15) -> None:
        if horizon <= 0:
            raise ValueError(f"horizon is a share of all steps: expected a number above 0, found {horizon}.")
        super().__init__(device=None, use_buffers=False, multi_avg_fn=self._average)
        self.horizon = horizon
        self.decay = 0.0
        """How much of the average stays in every step, in 0..1; known once the training starts."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Copy the task whose weights are to be averaged."""
        with warnings.catch_warnings():
            # It concerns weights that are spread over several devices, of which there are none here.
            warnings.filterwarnings("ignore", message=".*overrides the configure_model callback.*")
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the decay from the number of steps, and put the average where the weights are."""
        self.decay = 1 - 1 / max(1.0, self.horizon * training_steps(trainer, "WeightEMA"))
        assert self._average_model is not None
        self._average_model.to(pl_module.device)

    def _average(self, averages: list[Tensor], weights: list[Tensor], _: Tensor | int) -> None:
        torch._foreach_lerp_(averages, weights, 1 - self.decay)


def training_steps(trainer: Trainer, wanted_by: str) -> int:
    """The steps of the optimizer in the whole training.

    Args:
        trainer: The Trainer that is about to train.
        wanted_by: Who needs to know, for the message.

    Raises:
        ValueError: The training has no end.
    """
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps) or steps < 0:
        raise ValueError(
            f"{wanted_by} follows the number of training steps, and this training has no end: set trainer.max_steps or "
            "trainer.max_epochs."
        )
    return int(steps)


def _kind(output: str) -> str:
    """The kind of row of an output: ``hidden`` of ``audio/hidden``."""
    return output.rpartition("/")[2]


def _part(given: Any, output: str) -> Any:  # noqa: ANN401 - whatever predict_step returned
    """What the part of a task gave that an output names: ``audio`` of ``audio/hidden``, or the task itself."""
    for part in output.split("/")[:-1]:
        given = given.get(part) if isinstance(given, Mapping) else None
    return given


def predicted_already(trainer: Trainer | None) -> set[UtteranceKey]:
    """What the store writers among a Trainer's callbacks know already: nothing of it needs to be predicted again.

    Args:
        trainer: The Trainer that is about to predict, with the task's weights in place.
    """
    writers = [c for c in getattr(trainer, "callbacks", []) if isinstance(c, StoreWriterCallback)]
    if trainer is None or not writers:
        return set()
    return set.intersection(*(writer.settled(trainer) for writer in writers))
