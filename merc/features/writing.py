"""Writing: how an utterance is written down, which encoders of its meaning average away."""

from __future__ import annotations

import math
import re

import torch

from merc.conversation import Corpus
from merc.features.table import FeatureTable
from merc.store import FeatureStore

WRITING = ("words", "letters", "exclamations", "questions", "ellipses", "commas", "shouted")
"""What the numbers of :func:`measure_writing` are, in order."""

_MOST = 3
"""Marks beyond this many are not counted: a fourth exclamation mark says nothing new."""


def measure_writing(text: str) -> list[float]:
    """Length and punctuation of a transcript as numbers of one scale, in the order of :data:`WRITING`.

    Transcribers write down what they hear: a raised voice ends in an exclamation mark, hesitation in dots. A sentence
    encoder hardly keeps these, and nothing of the length.

    Args:
        text: The transcript of one utterance.

    Returns:
        ``log(1 + n)`` for the numbers of words and of letters; how many exclamation marks, question marks, ellipses,
        commas and words in capitals there are, 3 at most.
    """
    words = text.split()
    marks = (
        text.count("!"),
        text.count("?"),
        len(re.findall(r"\.{2,}|…", text)),
        text.count(","),
        sum(word.isupper() and sum(map(str.isalpha, word)) > 1 for word in words),
    )
    lengths = (math.log1p(len(words)), math.log1p(sum(map(str.isalpha, text))))
    return [*lengths, *(float(min(count, _MOST)) for count in marks)]


def writing_table(corpus: Corpus, store: FeatureStore | None = None) -> FeatureTable:
    """How every utterance of a corpus is written, alone or behind the features of a store.

    Args:
        corpus: The corpus, with transcripts.
        store: Features that stand in front of the numbers; an utterance that it lacks is missing here too.

    Returns:
        Features ``(N, 7)``, or ``(N, d + 7)`` behind the store's.

    Raises:
        StoreError: The store holds something else than features.
    """
    texts = {
        key: utterance.text
        for split in corpus.values()
        for conversation in split
        for key, utterance in zip(conversation.keys, conversation.utterances, strict=True)
    }
    provenance: dict[str, object] = {"source": "writing", "columns": list(WRITING)}
    if store is not None:
        store.require(kind="features")
    keys = [key for key in texts if store is None or key in store]
    rows = torch.tensor([measure_writing(texts[key]) for key in keys]).reshape(-1, len(WRITING))
    if store is None:
        return FeatureTable(keys, rows, {}, provenance)
    features, _ = store.gather(keys)
    provenance |= {
        "source": "writing behind the features",
        "of": {"path": str(store.path), "digest": store.digest, **store.provenance},
    }
    return FeatureTable(keys, torch.cat([features.float(), rows], dim=1), store.why_missing(list(texts)), provenance)
