"""Whole conversations with stored features, labels and graphs, ready for training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader

from merc.batch import ConversationBatch
from merc.conversation import SPLITS, Corpus, UtteranceKey, split_name
from merc.datamodules.facts import DataFacts
from merc.graphs import GraphBuilder
from merc.labels import LabelSet
from merc.store import FeatureStore, Kind, StoreError


class ConversationDataModule(L.LightningDataModule):
    """Reads a corpus and any number of feature stores, and deals out conversations.

    A batch is ``batch_size`` conversations, never single utterances. Features are read once and kept
    (memory-mapped where the store has them in the corpus's order); graphs are built once for each split.

    Args:
        corpus: A corpus, or the ``corpus.json`` that ``merc import`` wrote.
        stores: Feature stores by name. Modalities are ``text``, ``audio`` and ``visual``; the logits of a teacher
            come under a name of their own, for example ``teacher``.
        graphs: The graphs to build, by the name of the features that decide similarity.
        batch_size: Conversations a training step.
        eval_batch_size: Conversations a step of validation, test and prediction.
        predict_splits: Splits that ``predict`` goes through.
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        stores: Mapping[str, str | Path | FeatureStore],
        graphs: Mapping[str, GraphBuilder] | None = None,
        batch_size: int = 16,
        eval_batch_size: int = 64,
        predict_splits: Sequence[str] = SPLITS,
    ) -> None:
        super().__init__()
        self._corpus = corpus
        self._stores = dict(stores)
        self.graphs = dict(graphs or {})
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.predict_splits = [split_name(split) for split in predict_splits]
        self.corpus: Corpus
        self.stores: dict[str, FeatureStore] = {}
        self._splits: dict[str, ConversationBatch] = {}
        self._facts: DataFacts | None = None
        unknown = self.graphs.keys() - self._stores.keys()
        if unknown:
            raise ValueError(f"Graphs are asked for {sorted(unknown)}, but the stores are {sorted(self._stores)}.")

    @property
    def labels(self) -> LabelSet:
        """The label set of the corpus; known after :meth:`setup`."""
        return self.corpus.labels

    @property
    def facts(self) -> DataFacts:
        """What networks must fit: the widths of the stores, the emotions, and how often each is in ``train``."""
        if self._facts is None:
            self.setup()
            self._facts = DataFacts.of(self.corpus, self.stores)
        return self._facts

    def setup(self, stage: str | None = None) -> None:
        """Open the corpus and the stores, once.

        Raises:
            FileNotFoundError: The corpus or a store is not there.
            StoreError: A store is damaged or has no utterance of this corpus.
        """
        if self.stores or hasattr(self, "corpus"):
            return
        corpus = self._corpus
        self.corpus = corpus if isinstance(corpus, Corpus) else Corpus.load(corpus)
        keys = {key for split in self.corpus for c in self.corpus[split] for key in c.keys}
        for name, store in self._stores.items():
            opened = store if isinstance(store, FeatureStore) else FeatureStore(store)
            if not any(key in keys for key in (*opened.keys, *opened.missing)):
                example = next(iter(opened.keys), None)
                raise StoreError(
                    f"{opened.path} has no utterance of corpus {self.corpus.name!r}: expected keys such as "
                    f"{next(iter(keys), None)}, found {example}. Give the store of this corpus."
                )
            self.stores[name] = opened

    def require(
        self, name: str, *, kind: Kind | None = None, dim: int | None = None, classes: Sequence[str] | None = None
    ) -> None:
        """Check that a store is there and is what a task needs (see :meth:`FeatureStore.require`).

        Raises:
            StoreError: There is no store of that name, or it does not fit.
        """
        self.facts.width(name)  # refuses a store that is not there
        self.stores[name].require(kind=kind, dim=dim, classes=classes)

    def split(self, name: str) -> ConversationBatch:
        """A whole split as one batch, with features and edges; made on first use and kept.

        Args:
            name: ``train``, ``val`` or ``test``.
        """
        self.setup()
        if name not in self._splits:
            batch = ConversationBatch.from_conversations(self.corpus[name], self.labels)
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

    def _loader(self, split: str, training: bool = False) -> DataLoader[ConversationBatch]:
        whole = self.split(split)
        return DataLoader(
            range(whole.num_conversations),  # type: ignore[arg-type]
            batch_size=self.batch_size if training else self.eval_batch_size,
            shuffle=training,
            collate_fn=whole.select,
            pin_memory=torch.cuda.is_available(),
        )

    def train_dataloader(self) -> DataLoader[ConversationBatch]:
        """Conversations of ``train``, shuffled."""
        return self._loader("train", training=True)

    def val_dataloader(self) -> DataLoader[ConversationBatch]:
        """Conversations of ``val``."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[ConversationBatch]:
        """Conversations of ``test``."""
        return self._loader("test")

    def predict_dataloader(self) -> list[DataLoader[ConversationBatch]]:
        """Conversations of every split in ``predict_splits`` that the corpus has."""
        self.setup()
        return [self._loader(split) for split in self.predict_splits if split in self.corpus]
