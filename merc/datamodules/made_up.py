"""Batches of random numbers, to ask a network about itself before there is any data."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from merc.batch import ConversationBatch
from merc.conversation import Conversation, Utterance
from merc.graphs import GraphBuilder
from merc.labels import LabelSet


def made_up_batch(
    widths: Mapping[str, int],
    num_classes: int,
    graphs: Mapping[str, GraphBuilder] | None = None,
    lengths: Sequence[int] = (1, 3, 6, 9, 12, 15),
    seed: int = 0,
) -> ConversationBatch:
    """A batch like those of a training, of random numbers: conversations of two speakers, a tenth of it absent.

    PyTorch's global random numbers are not touched.

    Args:
        widths: Width by feature.
        num_classes: Number of emotions C.
        graphs: The graphs to build, by feature.
        lengths: Utterances of every conversation.
        seed: Decides the numbers.
    """
    labels = LabelSet("made up", tuple(f"emotion{index}" for index in range(num_classes)))
    draws, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    conversations = [
        Conversation(
            str(dialogue),
            tuple(
                Utterance(str(turn), speaker="AB"[draws.randrange(2)], text="", label=draws.choice(labels.names))
                for turn in range(length)
            ),
            "train",
        )
        for dialogue, length in enumerate(lengths)
    ]
    batch = ConversationBatch.from_conversations(conversations, labels)
    for name in sorted(widths):
        there = torch.rand(batch.num_utterances, generator=generator) >= 0.1
        features = torch.randn(batch.num_utterances, widths[name], generator=generator)
        batch.features[name], batch.present[name] = features * there[:, None], there
    for name, build in (graphs or {}).items():
        batch.edges[name] = build(batch, name)
    return batch
