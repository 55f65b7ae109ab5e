"""Text encoders of one's own: what the library asks of one, and a base class that leaves only texts to vectors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from merc.batch import FlatBatch
from merc.conversation import Conversation, UtteranceKey
from merc.labels import IGNORE_INDEX


class ReadUtterance(Sized, Protocol):
    """One utterance, prepared for an encoder; its length is what batches are measured in."""

    @property
    def key(self) -> UtteranceKey:
        """The utterance."""


class ReadBatch(Protocol):
    """A batch of prepared utterances, with labels to be filled in."""

    keys: Sequence[UtteranceKey]
    label: Tensor


@runtime_checkable
class UtteranceEncoder(Protocol):
    """What :class:`merc.datamodules.TextDataModule` asks of the encoder of a task.

    :class:`merc.encoders.TextEncoder` is one. To write your own from texts to vectors, subclass
    :class:`SentenceEncoder`; implement this protocol to decide yourself what an utterance reads of its conversation.
    ``forward`` takes the batch and returns ``(B, dim)``.
    """

    dim: int

    def tokenize(self, conversations: Sequence[Conversation]) -> Sequence[ReadUtterance]:
        """Prepare every utterance of the conversations, in order."""

    def collate(self, inputs: Sequence[Any]) -> ReadBatch:
        """Make a batch of prepared utterances; labels are -100."""

    def provenance(self) -> dict[str, Any]:
        """What the vectors depend on, in plain values."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One utterance as the text that is encoded.

    Args:
        key: The utterance.
        text: What the encoder reads.
    """

    key: UtteranceKey
    text: str

    def __len__(self) -> int:
        """Words of the text, at least 1."""
        return max(1, len(self.text.split()))


@dataclass(slots=True, eq=False)
class SentenceBatch(FlatBatch):
    """B utterances as texts.

    Args:
        keys: The B utterance keys.
        texts: The B texts.
        label: ``(B,)`` label ids, -100 for unlabelled.
    """

    keys: Sequence[UtteranceKey]
    texts: Sequence[str]
    label: Tensor


class SentenceEncoder(nn.Module):
    """The base of text encoders that turn each text into a vector by itself.

    A subclass sets :attr:`dim` and implements :meth:`encode` and :meth:`provenance`. It is then used by its import
    path, ``--model.encoder my_package.MyEncoder``, by :class:`merc.tasks.ExtractTask` as it is, and by
    :class:`merc.tasks.TextEncoderTask` to be fine-tuned.

    Override :meth:`read` to let an utterance read its speaker or what was said before.

    Attributes:
        dim: Width of the vectors.

    Example:
        >>> class Length(SentenceEncoder):
        ...     dim = 1
        ...     def encode(self, texts):
        ...         return torch.tensor([[float(len(text))] for text in texts])
        ...     def provenance(self):
        ...         return {"encoder": "length"}
        >>> from merc.conversation import Conversation, Utterance
        >>> talk = Conversation("d", (Utterance("0", "Ann", "No!"),))
        >>> encoder = Length()
        >>> encoder(encoder.collate(encoder.tokenize([talk])))
        tensor([[3.]])
    """

    dim: int

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Turn B texts into ``(B, dim)`` float vectors. The vector of a text must not depend on the other texts."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What the vectors depend on, in plain values: a store that was made with others is not continued."""

    def settings(self) -> dict[str, Any]:
        """What the weights of a fine-tuning fit to, in plain values: a checkpoint with others is refused."""
        return {}

    def read(self, conversation: Conversation, index: int) -> str:
        """The text that stands for an utterance. Default: its own.

        Args:
            conversation: The whole conversation.
            index: Position of the utterance in it.
        """
        return conversation.utterances[index].text

    def tokenize(self, conversations: Sequence[Conversation]) -> list[Sentence]:
        """The text of every utterance, in order."""
        return [
            Sentence(key, self.read(conversation, index))
            for conversation in conversations
            for index, key in enumerate(conversation.keys)
        ]

    def collate(self, inputs: Sequence[Sentence]) -> SentenceBatch:
        """Texts as a batch; labels are -100."""
        unlabelled = torch.full((len(inputs),), IGNORE_INDEX)
        return SentenceBatch([sentence.key for sentence in inputs], [sentence.text for sentence in inputs], unlabelled)

    def forward(self, batch: SentenceBatch) -> Tensor:
        """Encode a batch.

        Returns:
            ``(B, dim)``.
        """
        return self.encode(batch.texts)
