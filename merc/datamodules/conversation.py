"""Whole conversations with stored features, labels and graphs, ready for training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from merc.batch import ConversationBatch, consecutive_batches
from merc.conversation import SPLITS, Corpus, UtteranceKey
from merc.datamodules.base import CorpusDataModule
from merc.datamodules.batches import PlannedBatches, Repeated, TrainingLoader, UtteranceBatches
from merc.datamodules.resumable import ResumableBatches
from merc.graphs import GraphBuilder
from merc.labels import IGNORE_INDEX
from merc.store import FeatureStore, StoreError, difference, identity


class ConversationDataModule(CorpusDataModule):
    """Reads a corpus and any number of feature stores, and deals out conversations.

    A batch is whole conversations, at least one, and is counted in utterances: a training step sees about as many on
    any corpus, however long its conversations are. Features are read once and kept (memory-mapped where the store has
    them in the corpus's order); graphs are built once for each split.

    Args:
        corpus: A corpus, or the ``corpus.json`` that ``merc import`` wrote.
        stores: Feature stores by name. Modalities are ``text``, ``audio`` and ``visual``; the logits of a teacher
            come under a name of their own, for example ``teacher``.
        graphs: The graphs to build, by the name of the features that decide similarity.
        batch_size: Utterances per training step, about (:class:`merc.datamodules.batches.UtteranceBatches`). 160 are 16
            dialogues of MELD.
        eval_batch_size: Most utterances per step of validation, test and prediction; a longer conversation is a batch
            of its own.
        predict_splits: Splits that ``predict`` goes through.
        other_encoders: Give a network stores of other encoders than it was trained on, if they have the same width.
            They are refused otherwise (:meth:`require_encoders`).
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        stores: Mapping[str, str | Path | FeatureStore],
        graphs: Mapping[str, GraphBuilder] | None = None,
        batch_size: int = 160,
        eval_batch_size: int = 1024,
        predict_splits: Sequence[str] = SPLITS,
        other_encoders: bool = False,
    ) -> None:
        super().__init__(corpus, stores, predict_splits)
        self.graphs = dict(graphs or {})
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.other_encoders = other_encoders
        self._splits: dict[str, ConversationBatch] = {}
        unknown = self.graphs.keys() - self._stores.keys()
        if unknown:
            raise ValueError(f"Graphs are asked for {sorted(unknown)}, but the stores are {sorted(self._stores)}.")

    def encoders(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What the stores of some names say of their encoders (:func:`merc.store.identity`), for checkpoints."""
        return {name: identity(self.stores[name].provenance) for name in names}

    def require_encoders(self, known: Mapping[str, Mapping[str, Any]]) -> None:
        """Check that stores come from the encoders that a network was trained on: of equal width is not enough.

        Args:
            known: By store, what :meth:`encoders` has told in training. Names that are not of a store are ignored.

        Raises:
            StoreError: A store comes from another encoder, and ``other_encoders`` is false.
        """
        for name in () if self.other_encoders else known.keys() & self.stores.keys():
            store = self.stores[name]
            if differs := difference(known[name], store.provenance):
                raise StoreError(
                    f"{store.path} holds {name!r} of another encoder than the network was trained on ({differs}): give "
                    "the store of that encoder, or pass --data.other_encoders true if you know that they mean the same."
                )

    @cached_property
    def _annotated(self) -> dict[UtteranceKey, list[float]]:
        """The numbers of every utterance, in the order of the dimensions."""
        return {key: utterance.numbers(self.corpus.dimensions) for key, utterance in self.corpus.utterances()}

    def on_before_batch_transfer(self, batch: ConversationBatch, dataloader_idx: int) -> ConversationBatch:
        """Undo what a trainer in half precision does to annotated numbers: losses and scores are of the corpus' own.

        Args:
            batch: A batch of a trainer, which converts all of its floating-point tensors (``bf16-true``).
            dataloader_idx: Not used.
        """
        if batch.values is None or batch.values.dtype == torch.float32:
            return batch
        exact = torch.tensor([self._annotated[key] for key in batch.keys], dtype=torch.float32)
        # Those of utterances that are repeated to fill a batch stay hidden.
        return replace(batch, values=exact.where(~batch.values.isnan(), math.nan))

    def split(self, name: str) -> ConversationBatch:
        """A whole split as one batch, with features and edges; made on first use and kept.

        Args:
            name: ``train``, ``val`` or ``test``.
        """
        self.setup()
        if name not in self._splits:
            batch = ConversationBatch.from_conversations(self.corpus[name], self.labels, list(self.corpus.dimensions))
            for feature, store in self.stores.items():
                features, batch.present[feature] = store.gather(batch.keys)
                batch.features[feature] = features.float()  # stores may hold half precision; networks do not
            for feature, build in self.graphs.items():
                batch.edges[feature] = build(batch, feature)
            self._splits[name] = batch
        return self._splits[name]

    def missing(self, split: str) -> dict[str, dict[UtteranceKey, str]]:
        """By store, the utterances of a split that it lacks and why."""
        keys = self.split(split).keys
        return {name: store.why_missing(keys) for name, store in self.stores.items()}

    def train_dataloader(self) -> DataLoader[ConversationBatch]:
        """Conversations of ``train``, shuffled."""
        data = _Conversations(self.split("train"))
        batches = UtteranceBatches(data.lengths, self.batch_size, self.trainer)
        return TrainingLoader(data, trainer=self.trainer, sampler=batches, **self._whole_batches)

    def _evaluation_loader(self, split: str, predicts: bool = False) -> DataLoader[ConversationBatch]:
        data = _Conversations(self.split(split))
        planned = consecutive_batches(data.lengths, self.eval_batch_size)
        if predicts:
            firsts = [data.whole.keys[start] for start in data.whole.ptr[:-1].tolist()]
            batches: PlannedBatches = ResumableBatches(firsts, planned, self.trainer)
        else:
            batches = PlannedBatches(planned, self.trainer)
        return DataLoader(data, sampler=batches, generator=torch.Generator(), **self._whole_batches)

    @property
    def _whole_batches(self) -> dict[str, Any]:
        return {"batch_size": None, "pin_memory": torch.cuda.is_available()}  # the sampler gives whole batches

    def val_dataloader(self) -> DataLoader[ConversationBatch]:
        """Conversations of ``val``."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[ConversationBatch]:
        """Conversations of ``test``."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> list[DataLoader[ConversationBatch]]:
        """Conversations of every split in ``predict_splits`` that are not yet in the stores being written."""
        self.setup()
        splits = [split for split in self.predict_splits if split in self.corpus]
        return [self._evaluation_loader(split, predicts=True) for split in splits]


class _Conversations(Dataset[ConversationBatch]):
    """Selects the conversations that a list of indices names."""

    def __init__(self, whole: ConversationBatch) -> None:
        self.whole = whole
        self.lengths: list[int] = whole.lengths.tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, indices: int | list[int]) -> ConversationBatch:
        # Trainer(overfit_batches=...) puts a sampler of its own into the place of ours, which gives single indices.
        batch = self.whole.select([indices] if isinstance(indices, int) else indices)
        if isinstance(indices, Repeated):
            batch.label = torch.full_like(batch.label, IGNORE_INDEX)
            batch.values = None if batch.values is None else torch.full_like(batch.values, math.nan)
        return batch
