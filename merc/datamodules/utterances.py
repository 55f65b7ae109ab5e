"""What deals out single utterances: the corpus, the splits to predict, and what is stored of a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from merc.conversation import SPLITS, Corpus, UtteranceKey
from merc.datamodules.base import CorpusDataModule
from merc.store import FeatureStore


class UtteranceDataModule(CorpusDataModule):
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
        super().__init__(corpus, stores or {}, predict_splits)

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
