"""What datamodules of a corpus share: opening it, its stores, and what networks must fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import lightning as L

from merc.conversation import Corpus, split_name
from merc.datamodules.facts import DataFacts
from merc.labels import LabelSet
from merc.store import FeatureStore, Kind


class CorpusDataModule(L.LightningDataModule):
    """Base of the datamodules of a corpus and of feature stores that use its keys.

    Args:
        corpus: A corpus, or the ``corpus.json`` that ``merc import`` wrote.
        stores: Feature stores by name.
        predict_splits: Splits that prediction goes through.
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        stores: Mapping[str, str | Path | FeatureStore],
        predict_splits: Sequence[str],
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # of few utterances some process has none
        self._corpus = corpus
        self._stores = dict(stores)
        self._facts: DataFacts | None = None
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
        """What networks must fit: the widths of the stores, the emotions, and how often each is in ``train``."""
        if self._facts is None:
            self.setup()
            self._facts = DataFacts.of(self.corpus, self.stores)
        return self._facts

    def setup(self, stage: str | None = None) -> None:
        """Open the corpus and the stores, once.

        Raises:
            FileNotFoundError: The corpus or a store is not there.
            StoreError: A store is damaged, has no utterance of this corpus, or uses the keys of another one.
        """
        if hasattr(self, "corpus"):
            return
        corpus = self._corpus if isinstance(self._corpus, Corpus) else Corpus.load(self._corpus)
        for name, given in self._stores.items():
            store = given if isinstance(given, FeatureStore) else FeatureStore(given)
            store.require_corpus(corpus)
            self.stores[name] = store
        self.corpus = corpus

    def require(
        self, name: str, *, kind: Kind | None = None, dim: int | None = None, classes: Sequence[str] | None = None
    ) -> None:
        """Check that a store is there and is what a task needs (see :meth:`merc.store.FeatureStore.require`).

        Raises:
            StoreError: There is no store of that name, or it does not fit.
        """
        self.facts.width(name)  # refuses a store that is not there
        self.stores[name].require(kind=kind, dim=dim, classes=classes)
