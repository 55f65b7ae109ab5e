"""Writing: length and punctuation of transcripts, which sentence encoders average away."""

from __future__ import annotations

import math
import re

import torch

from merc.conversation import Corpus
from merc.features.table import FeatureTable
from merc.store import FeatureStore

WRITING = ("words", "letters", "exclamations", "questions", "ellipses", "commas", "shouted")
"""The numbers of :func:`measure_writing`, in order."""

_LARGEST_COUNT = 3
"""Largest count of a mark: a fourth exclamation mark carries no new information."""


def measure_writing(text: str) -> list[float]:
    """Measure length and punctuation of a transcript, on one scale and in the order of :data:`WRITING`.

    Transcribers write down what they hear: a raised voice ends in an exclamation mark, hesitation in dots. A sentence
    encoder keeps little of this, and nothing of the length.

    Args:
        text: The transcript of one utterance.

    Returns:
        ``log(1 + n)`` for the numbers of words and of letters; the numbers of exclamation marks, question marks,
        ellipses, commas and words in capitals, each at most 3.
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
    return [*lengths, *(float(min(count, _LARGEST_COUNT)) for count in marks)]


def writing_table(corpus: Corpus, store: FeatureStore | None = None) -> FeatureTable:
    """The writing of every utterance of a corpus, alone or behind the features of a store.

    An utterance without text is missing.

    Args:
        corpus: The corpus, with transcripts.
        store: Features to put in front of the numbers; an utterance that it lacks is missing here too.

    Returns:
        Features ``(N, 7)``, or ``(N, d + 7)`` behind the store's.

    Raises:
        StoreError: The store does not contain features.
    """
    texts = {key: utterance.text for key, utterance in corpus.utterances()}
    provenance: dict[str, object] = {"source": "writing", "columns": list(WRITING)}
    if store is not None:
        store.require(kind="features")
        store.require_corpus(corpus)
    wordless = {key: "no words" for key, text in texts.items() if not text.strip()}
    keys = [key for key in texts if key not in wordless and (store is None or key in store)]
    rows = torch.tensor([measure_writing(texts[key]) for key in keys]).reshape(-1, len(WRITING))
    if store is None:
        return FeatureTable(keys, rows, wordless, provenance)
    features, _ = store.gather(keys)
    missing = wordless | store.why_missing(list(texts))
    provenance |= {
        "source": "writing behind the features",
        "of": {"path": str(store.path), "digest": store.digest, **store.provenance},
    }
    return FeatureTable(keys, torch.cat([features.float(), rows], dim=1), missing, provenance)
