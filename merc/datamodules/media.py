"""Utterances as a reader reads their clips, decoded by worker processes, in batches of similar length."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from merc.conversation import SPLITS, Corpus, Utterance, UtteranceKey, split_name
from merc.datamodules.readers import Reader
from merc.datamodules.resumable import ResumableBatches
from merc.media.decode import MediaError


@dataclass
class MediaBatch:
    """What was read of some utterances.

    Args:
        inputs: What the task takes: a :class:`~merc.encoders.SoundBatch`, a :class:`~merc.encoders.FaceBatch`, or
            sequences for stores; ``None`` if nothing could be read.
        missing: The utterances of which nothing could be read, each with a reason.
    """

    inputs: Any
    missing: Mapping[UtteranceKey, str] = field(default_factory=dict)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MediaBatch:
        """The batch on another device; sequences for stores stay where they are."""
        if not hasattr(self.inputs, "to"):
            return self
        return replace(self, inputs=self.inputs.to(device, non_blocking=non_blocking))


class MediaDataModule(L.LightningDataModule):
    """Deals out the utterances of a corpus as a reader reads them, for prediction with a pretrained network.

    Worker processes decode while the device computes. Batches are planned from the times in the corpus; they hold
    utterances of similar length, the longest first: what takes too much memory fails at once. A clip that cannot be
    read, whatever the exception, becomes a missing utterance with its reason; only a lack of memory stops the run. What
    the stores hold already is not decoded again.

    Args:
        corpus: A corpus, or the ``corpus.json`` that ``merc import`` wrote.
        reader: What to read of every utterance.
        batch_size: Most utterances of a batch.
        batch_seconds: Most seconds of a batch: its utterances times the longest of them.
        workers: Worker processes; 0 decodes in the main process, as a detector on a GPU needs it.
        predict_splits: Splits that prediction goes through.
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        reader: Reader,
        batch_size: int = 16,
        batch_seconds: float = 120.0,
        workers: int = 2,
        predict_splits: Sequence[str] = SPLITS,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # of few utterances some process has none
        self._corpus = corpus
        self.reader = reader
        self.batch_size = batch_size
        self.batch_seconds = batch_seconds
        self.workers = workers
        self.predict_splits = [split_name(split) for split in predict_splits]
        self.corpus: Corpus

    def setup(self, stage: str | None = None) -> None:
        """Open the corpus.

        Raises:
            FileNotFoundError: The corpus is not there.
        """
        if not hasattr(self, "corpus"):
            self.corpus = self._corpus if isinstance(self._corpus, Corpus) else Corpus.load(self._corpus)

    def provenance(self) -> dict[str, Any]:
        """What decides the content of what is read."""
        return self.reader.provenance()

    def predict_dataloader(self) -> DataLoader[MediaBatch]:
        """All utterances of ``predict_splits``, but for batches that the stores being written hold already."""
        assert self.trainer is not None
        self.reader.prepare(self.trainer.lightning_module)
        utterances = [
            pair
            for split in self.predict_splits
            for conversation in self.corpus.get(split, [])
            for pair in zip(conversation.keys, conversation.utterances, strict=True)
        ]
        seconds = [self._seconds(utterance) for _, utterance in utterances]
        batches = batches_of_seconds(seconds, self.batch_seconds, self.batch_size)
        remaining = ResumableBatches([key for key, _ in utterances], batches, self.trainer)
        return DataLoader(
            _Clips(utterances, self.reader),
            sampler=remaining,
            batch_size=None,
            num_workers=min(self.workers, len(remaining)),
        )

    def _seconds(self, utterance: Utterance) -> float:
        """How much there is to read; 0 where that fails, as reading the clip will then, and say why."""
        try:
            return self.reader.seconds(utterance)
        except MemoryError:
            raise
        except Exception:
            return 0.0


class _Clips(Dataset[MediaBatch]):
    """Reads the utterances that a list of indices names."""

    def __init__(self, utterances: Sequence[tuple[UtteranceKey, Utterance]], reader: Reader) -> None:
        self.utterances = utterances
        self.reader = reader
        self._warned: set[type[Exception]] = set()

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
        return MediaBatch(inputs, missing)

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
