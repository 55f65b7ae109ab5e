"""Batches of random conversations, for tests of networks and graphs."""

from collections.abc import Sequence

import torch

from merc.batch import ConversationBatch
from merc.conversation import Conversation, Utterance
from merc.datamodules import DataFacts
from merc.labels import LabelSet

FOUR = LabelSet("four", ("calm", "glad", "sad", "cross"))


def make_batch(
    lengths: Sequence[int],
    dims: dict[str, int],
    absent: float = 0.2,
    unlabelled: float = 0.2,
    speakers: int = 3,
    seed: int = 0,
) -> ConversationBatch:
    """Conversations of these lengths with normal features, some of them absent, labels of :data:`FOUR`."""
    random = torch.Generator().manual_seed(seed)

    def chance() -> float:
        return torch.rand((), generator=random).item()

    def utterance(index: int) -> Utterance:
        label = None if chance() < unlabelled else FOUR.names[int(4 * chance())]
        return Utterance(str(index), f"speaker{int(speakers * chance())}", label=label)

    conversations = [
        Conversation(str(number), tuple(utterance(index) for index in range(length)))
        for number, length in enumerate(lengths)
    ]
    batch = ConversationBatch.from_conversations(conversations, FOUR)
    for name, dim in dims.items():
        there = torch.rand(batch.num_utterances, generator=random) >= absent
        batch.present[name] = there
        batch.features[name] = torch.randn(batch.num_utterances, dim, generator=random) * there[:, None]
    return batch


def facts_of(dims: dict[str, int], classes: int | LabelSet = FOUR, logits: Sequence[str] = ("teacher",)) -> DataFacts:
    """Facts of data with these features: those of ``logits`` are no modalities."""
    names = classes.names if isinstance(classes, LabelSet) else tuple(f"emotion{index}" for index in range(classes))
    counts = tuple(10 * (index + 1) for index in range(len(names)))
    return DataFacts(dims, tuple(names), counts, tuple(name for name in dims if name not in logits))
