"""What deals out single utterances: the corpus, the splits to predict, and what is stored of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L
from torch import Tensor

from merc.conversation import SPLITS, Corpus, UtteranceKey, split_name
from merc.datamodules.facts import DataFacts
from merc.labels import LabelSet
from merc.store import FeatureStore, Kind, StoreError


class UtteranceDataModule(L.LightningDataModule):
    """Base of the datamodules that deal out utterances one by one, for encoders.

    Args:
        corpus: A corpus, or the ``corpus.json`` that ``merc import`` wrote.
        predict_splits: Splits that prediction goes through.
        stores: Feature stores by name, with what is stored of a teacher. Tasks look them up by utterance; they are in
            no batch.
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        predict_splits: Sequence[str] = SPLITS,
        stores: Mapping[str, str | Path | FeatureStore] | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # of few utterances some process has none
        self._corpus = corpus
        self._stores = dict(stores or {})
        self.predict_splits = [split_name(split) for split in predict_splits]
        self.stores: dict[str, FeatureStore] = {}
        """The opened stores, by name; known after :meth:`setup`."""
        self.corpus: Corpus

    @property
    def labels(self) -> LabelSet:
        """The label set of the corpus; known after :meth:`setup`."""
        return self.corpus.labels

    @property
    def facts(self) -> DataFacts:
        """What a classifier must fit: the emotions, and how often each is in ``train``."""
        self.setup()
        return DataFacts.of(self.corpus, {})

    def setup(self, stage: str | None = None) -> None:
        """Open the corpus and the stores, once.

        Raises:
            FileNotFoundError: The corpus or a store is not there.
            StoreError: A store is damaged, has no utterance of this corpus, or uses the keys of another one.
        """
        if not hasattr(self, "corpus"):
            corpus = self._corpus if isinstance(self._corpus, Corpus) else Corpus.load(self._corpus)
            self.stores = open_stores(corpus, self._stores)
            self.corpus = corpus

    def require(
        self, name: str, *, kind: Kind | None = None, dim: int | None = None, classes: Sequence[str] | None = None
    ) -> None:
        """Check that a store is there and is what a task needs (see :meth:`merc.store.FeatureStore.require`).

        Raises:
            StoreError: There is no store of that name, or it does not fit.
        """
        if name not in self.stores:
            raise StoreError(
                f"The task needs {name!r}, the datamodule has {sorted(self.stores)}: add --data.stores.{name} PATH."
            )
        self.stores[name].require(kind=kind, dim=dim, classes=classes)

    def stored(self, name: str, keys: Sequence[UtteranceKey]) -> tuple[Tensor, Tensor] | None:
        """What a store has of some utterances.

        Args:
            name: Name of the store.
            keys: N utterances.

        Returns:
            Features ``(N, d)`` float32, zero where the store lacks an utterance, and presence ``(N,)``; nothing without
            such a store.
        """
        if name not in self.stores:
            return None
        features, present = self.stores[name].gather(keys)
        return features.float(), present


def open_stores(corpus: Corpus, stores: Mapping[str, str | Path | FeatureStore]) -> dict[str, FeatureStore]:
    """Open feature stores of a corpus.

    Args:
        corpus: The corpus.
        stores: Stores or their folders, by name.

    Raises:
        FileNotFoundError: A store is not there.
        StoreError: A store is damaged, has no utterance of this corpus, or uses the keys of another one.
    """
    opened = {}
    for name, given in stores.items():
        opened[name] = given if isinstance(given, FeatureStore) else FeatureStore(given)
        opened[name].require_corpus(corpus)
    return opened
