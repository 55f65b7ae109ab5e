"""Utterances as text with their context, tokenised once by the task's encoder, in batches of similar length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from merc.batch import token_batches
from merc.conversation import SPLITS, Conversation, Corpus, UtteranceKey
from merc.datamodules.batches import PlannedBatches, Repeated, SharedBatches, ShuffledBuckets, TrainingLoader
from merc.datamodules.resumable import ResumableBatches
from merc.datamodules.utterances import UtteranceDataModule
from merc.encoders.sentences import ReadBatch, ReadUtterance, UtteranceEncoder
from merc.labels import IGNORE_INDEX
from merc.store import FeatureStore


class TextDataModule(UtteranceDataModule):
    """Deals out utterances with their conversation around them, for the text encoder of the task.

    An utterance without text is not dealt out in prediction: its stores record it as missing.

    How text becomes tokens is said once, in the task's ``encoder``: the datamodule asks it to tokenise a
    split when the split is first used. Training and evaluation go through labelled utterances (the others
    are context), prediction through all, except those that a store writer of the Trainer holds already.

    Args:
        corpus: A corpus, or the ``corpus.json`` that ``merc import`` wrote.
        batch_size: Utterances per training step, of similar length.
        batch_tokens: Tokens, padding included, of a batch in validation, test and prediction; words, where the encoder
            reads whole texts.
        predict_splits: Splits that prediction goes through.
        stores: Feature stores of a teacher, for :class:`merc.tasks.EncoderStudentTask`.
    """

    def __init__(
        self,
        corpus: str | Path | Corpus,
        batch_size: int = 16,
        batch_tokens: int = 4096,
        predict_splits: Sequence[str] = SPLITS,
        stores: Mapping[str, str | Path | FeatureStore] | None = None,
    ) -> None:
        super().__init__(corpus, predict_splits, stores)
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self._inputs: dict[str, list[tuple[ReadUtterance, int]]] = {}

    @property
    def encoder(self) -> UtteranceEncoder:
        """The encoder of the task that the Trainer runs.

        Raises:
            TypeError: There is no such task, or it has no text encoder.
        """
        task = getattr(self.trainer, "lightning_module", None)
        encoder = getattr(task, "encoder", None)
        if not isinstance(encoder, UtteranceEncoder):
            raise TypeError(
                f"TextDataModule needs a text encoder in the task, and {type(task).__name__} has "
                f"{type(encoder).__name__} as its encoder: use TextEncoderTask, EncoderStudentTask or ExtractTask with "
                "a TextEncoder, or with a subclass of merc.encoders.SentenceEncoder."
            )
        return encoder

    def inputs(self, split: str) -> list[tuple[ReadUtterance, int]]:
        """Every utterance of a split as token ids, with its label id; tokenised on first use and kept.

        Args:
            split: ``train``, ``val`` or ``test``.
        """
        if split not in self._inputs:
            conversations: list[Conversation] = self.corpus[split]
            labels = [self.labels.index(u.label) for c in conversations for u in c.utterances]
            self._inputs[split] = list(zip(self.encoder.tokenize(conversations), labels, strict=True))
        return self._inputs[split]

    def without_input(self) -> dict[UtteranceKey, str]:
        """The utterances of ``predict_splits`` that have no text, with a reason for the stores."""
        self.setup()
        conversations = [c for split in self.predict_splits if split in self.corpus for c in self.corpus[split]]
        return {
            key: "no words"
            for conversation in conversations
            for key, utterance in zip(conversation.keys, conversation.utterances, strict=True)
            if not utterance.text.strip()
        }

    def _loader(self, items: list[tuple[ReadUtterance, int]], batches: SharedBatches) -> DataLoader[ReadBatch]:
        data = _Batches(items, self.encoder)
        return DataLoader(data, sampler=batches, batch_size=None, generator=torch.Generator())

    def _evaluation_loader(self, split: str) -> DataLoader[ReadBatch]:
        items = self._labelled(split)
        return self._loader(items, PlannedBatches(self._planned(items), self.trainer))

    def _planned(self, items: list[tuple[ReadUtterance, int]]) -> list[list[int]]:
        return token_batches([len(item) for item, _ in items], self.batch_tokens)

    def _labelled(self, split: str) -> list[tuple[ReadUtterance, int]]:
        return [(item, label) for item, label in self.inputs(split) if label >= 0]

    def train_dataloader(self) -> DataLoader[ReadBatch]:
        """Labelled utterances of ``train``, in shuffled batches of similar length."""
        items = self._labelled("train")
        batches = ShuffledBuckets([len(item) for item, _ in items], self.batch_size, trainer=self.trainer)
        return TrainingLoader(_Batches(items, self.encoder), trainer=self.trainer, sampler=batches, batch_size=None)

    def val_dataloader(self) -> DataLoader[ReadBatch]:
        """Labelled utterances of ``val``."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[ReadBatch]:
        """Labelled utterances of ``test``."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[ReadBatch]:
        """All utterances with text of ``predict_splits``, but for batches that the stores being written hold."""
        wordless = self.without_input()
        given = [item for split in self.predict_splits if split in self.corpus for item in self.inputs(split)]
        items = [(item, label) for item, label in given if item.key not in wordless]
        keys = [item.key for item, _ in items]
        return self._loader(items, ResumableBatches(keys, self._planned(items), self.trainer))


class _Batches(Dataset[ReadBatch]):
    """Collates the items that a list of indices names."""

    def __init__(self, items: list[tuple[ReadUtterance, int]], encoder: UtteranceEncoder) -> None:
        self.items = items
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, indices: list[int]) -> ReadBatch:
        chosen = [self.items[index] for index in indices]
        batch = self.encoder.collate([item for item, _ in chosen])
        labels = [IGNORE_INDEX if isinstance(indices, Repeated) else label for _, label in chosen]
        batch.label = torch.tensor(labels)
        return batch
