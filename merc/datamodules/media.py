"""Utterances as a reader reads their clips, decoded by worker processes, in batches of similar length."""

from __future__ import annotations

import math
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from merc.conversation import SPLITS, Corpus, Utterance, UtteranceKey
from merc.datamodules.batches import PlannedBatches, Repeated, SharedBatches, ShuffledBuckets, TrainingLoader
from merc.datamodules.readers import Reader
from merc.datamodules.resumable import ResumableBatches
from merc.datamodules.utterances import UtteranceDataModule
from merc.labels import IGNORE_INDEX
from merc.media.decode import MediaError
from merc.store import FeatureStore


@dataclass(eq=False)
class MediaBatch:
    """What was read of N utterances.

    Args:
        inputs: What the task takes: a :class:`~merc.encoders.SoundBatch`, a :class:`~merc.encoders.FaceBatch`, or
            sequences for stores; ``None`` if nothing could be read.
        missing: The utterances of which nothing could be read, each with a reason.
        label: ``(N,)`` label ids of those that could be read, then of those that could not; -100 for unlabelled.
    """

    inputs: Any
    missing: Mapping[UtteranceKey, str] = field(default_factory=dict)
    label: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    @property
    def keys(self) -> list[UtteranceKey]:
        """The N utterance keys: of those that could be read, then of those that could not."""
        return [*(() if self.inputs is None else self.inputs.keys), *self.missing]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MediaBatch:
        """The batch on another device; sequences for stores stay where they are."""
        there = self.inputs.to(device, non_blocking=non_blocking) if hasattr(self.inputs, "to") else self.inputs
        return replace(self, inputs=there, label=self.label.to(device, non_blocking=non_blocking))


class MediaDataModule(UtteranceDataModule):
    """Deals out the utterances of a corpus as a reader reads them: to predict with a network, or to fine-tune it.

    Worker processes decode while the device computes, and memory holds the batches at hand alone. Batches are planned
    from the times in the corpus and hold utterances of similar length. In prediction and evaluation the longest come
    first: what takes too much memory fails at once. A clip that cannot be read, whatever the exception, becomes a
    missing utterance with its reason; only a lack of memory stops the run. What the stores being written hold already
    is not decoded again.

    Training goes through the labelled utterances that can be read, as far as that shows without decoding: how many are
    left out, and why, is said once. Validation and test go through all labelled ones.

    Args:
        corpus: A corpus, or the ``corpus.json`` that ``merc import`` wrote.
        reader: What to read of every utterance.
        batch_size: Utterances per training step, and most utterances of another batch.
        batch_seconds: Most seconds of a batch outside of training: its utterances times the longest of them.
        workers: Worker processes; 0 decodes in the main process, as a detector on a GPU needs it.
        predict_splits: Splits that prediction goes through.
        stores: Feature stores of a teacher, for :class:`merc.tasks.EncoderStudentTask`.
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        reader: Reader,
        batch_size: int = 16,
        batch_seconds: float = 120.0,
        workers: int = 2,
        predict_splits: Sequence[str] = SPLITS,
        stores: Mapping[str, str | Path | FeatureStore] | None = None,
    ) -> None:
        super().__init__(corpus, predict_splits, stores)
        self.reader = reader
        self.batch_size = batch_size
        self.batch_seconds = batch_seconds
        self.workers = workers
        self._prepared: L.LightningModule | None = None

    def provenance(self) -> dict[str, Any]:
        """What decides the content of what is read."""
        return self.reader.provenance()

    def train_dataloader(self) -> DataLoader[MediaBatch]:
        """Labelled utterances of ``train`` that can be read, in shuffled batches of similar length.

        Raises:
            ValueError: None can be read.
        """
        self._prepare()
        labelled = self._labelled("train")
        reasons = {key: self._why_not(key, utterance) for key, utterance in labelled}
        found = Counter(reason for reason in reasons.values() if reason)
        why = ", ".join(f"{reason} ({count})" for reason, count in found.most_common())
        if labelled and found.total() == len(labelled):
            raise ValueError(
                f"None of the {len(labelled)} labelled utterances of train can be read: {why}. Give a corpus with such "
                "media, or another reader."
            )
        if found:
            rank_zero_info(
                f"Training leaves out {found.total()} of {len(labelled)} labelled utterances, which cannot be read: "
                f"{why}."
            )
        clips = self._clips([(key, utterance) for key, utterance in labelled if not reasons[key]])
        # One second more: a reader for which all utterances are of length 0 has them shuffled too.
        lengths = [1 + seconds for seconds in clips.seconds()]
        batches = ShuffledBuckets(lengths, self.batch_size, trainer=self.trainer)
        workers = min(self.workers, len(batches))
        return TrainingLoader(clips, trainer=self.trainer, sampler=batches, batch_size=None, num_workers=workers)

    def val_dataloader(self) -> DataLoader[MediaBatch]:
        """Labelled utterances of ``val``, also those that cannot be read."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[MediaBatch]:
        """Labelled utterances of ``test``, also those that cannot be read."""
        return self._evaluation_loader("test")

    def _evaluation_loader(self, split: str) -> DataLoader[MediaBatch]:
        clips = self._clips(self._labelled(split))
        return self._loader(clips, PlannedBatches(self._planned(clips), self.trainer))

    def predict_dataloader(self) -> DataLoader[MediaBatch]:
        """All utterances of ``predict_splits``, but for batches that the stores being written hold already."""
        assert self.trainer is not None
        clips = self._clips([pair for split in self.predict_splits for pair in self._utterances(split)])
        keys = [key for key, _ in clips.utterances]
        return self._loader(clips, ResumableBatches(keys, self._planned(clips), self.trainer))

    def _utterances(self, split: str) -> list[tuple[UtteranceKey, Utterance]]:
        conversations = self.corpus.get(split, [])
        return [pair for talk in conversations for pair in zip(talk.keys, talk.utterances, strict=True)]

    def _labelled(self, split: str) -> list[tuple[UtteranceKey, Utterance]]:
        return [(key, u) for key, u in self._utterances(split) if self.labels.index(u.label) != IGNORE_INDEX]

    def _why_not(self, key: UtteranceKey, utterance: Utterance) -> str:
        """Why an utterance cannot be read, as far as that shows without decoding; empty if it may be."""
        try:
            self.reader.check(key, utterance)
        except MediaError as error:
            return error.reason
        return ""

    def _prepare(self) -> None:
        """Let the reader adapt to the task, once."""
        if self.trainer is not None and self._prepared is not self.trainer.lightning_module:
            self._prepared = self.trainer.lightning_module
            self.reader.prepare(self._prepared)

    def _clips(self, utterances: Sequence[tuple[UtteranceKey, Utterance]]) -> _Clips:
        self._prepare()
        return _Clips(utterances, [self.labels.index(u.label) for _, u in utterances], self.reader)

    def _planned(self, clips: _Clips) -> list[list[int]]:
        each = math.ceil(len(clips.utterances) / max(self.workers, 1))  # all workers get some of few utterances
        return batches_of_seconds(clips.seconds(), self.batch_seconds, max(min(self.batch_size, each), 1))

    def _loader(self, clips: _Clips, batches: SharedBatches) -> DataLoader[MediaBatch]:
        workers = min(self.workers, len(batches))
        return DataLoader(clips, sampler=batches, batch_size=None, num_workers=workers, generator=torch.Generator())


class _Clips(Dataset[MediaBatch]):
    """Reads the utterances that a list of indices names."""

    def __init__(
        self, utterances: Sequence[tuple[UtteranceKey, Utterance]], labels: Sequence[int], reader: Reader
    ) -> None:
        self.utterances = utterances
        self.labels = dict(zip((key for key, _ in utterances), labels, strict=True))
        self.reader = reader
        self._warned: set[type[Exception]] = set()

    def seconds(self) -> list[float]:
        """How much there is to read of every utterance."""
        return [self._seconds(utterance) for _, utterance in self.utterances]

    def _seconds(self, utterance: Utterance) -> float:
        """How much there is to read; 0 where that fails, as reading the clip will then, and say why."""
        try:
            return self.reader.seconds(utterance)
        except MemoryError:
            raise
        except Exception:
            return 0.0

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, indices: list[int]) -> MediaBatch:
        samples: dict[UtteranceKey, Any] = {}
        missing: dict[UtteranceKey, str] = {}
        for key, utterance in (self.utterances[index] for index in indices):
            try:
                samples[key] = self.reader.read(key, utterance)
            except MediaError as error:
                missing[key] = error.reason
            except (MemoryError, torch.OutOfMemoryError):
                raise  # no fault of the clip: the next one would fail too
            except Exception as error:
                missing[key] = f"{type(error).__name__}: {' '.join(str(error).split())}"
                self._warn(key, utterance, error)
        inputs = self.reader.collate(list(samples), list(samples.values())) if samples else None
        labels = [IGNORE_INDEX if isinstance(indices, Repeated) else self.labels[key] for key in (*samples, *missing)]
        return MediaBatch(inputs, missing, torch.tensor(labels, dtype=torch.long))

    def _warn(self, key: UtteranceKey, utterance: Utterance, error: Exception) -> None:
        """Show once what nobody has foreseen: it may be a defect of the reader, not of the clip."""
        if type(error) in self._warned:
            return
        self._warned.add(type(error))
        rank_zero_warn(
            f"{key}, {utterance.media or utterance.video}, could not be read. It is recorded as missing with its "
            f"reason, as is every other clip that fails with {type(error).__name__}; this is shown once.\n"
            + "".join(traceback.format_exception(error, limit=-2))
        )


def batches_of_seconds(seconds: Sequence[float], budget: float, most: int) -> list[list[int]]:
    """Cut utterances, longest first, into batches of at most ``budget`` padded seconds and ``most`` utterances.

    Args:
        seconds: Length of every utterance.
        budget: Most seconds per batch, its utterances times the longest of them; an utterance that is longer is alone.
        most: Most utterances a batch.

    Returns:
        Batches of indices into ``seconds``.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(seconds)), key=seconds.__getitem__, reverse=True):
        count = len(batches[-1]) + 1 if batches else most + 1
        if count > most or count * seconds[batches[-1][0]] > budget:
            batches.append([])
        batches[-1].append(index)
    return batches
