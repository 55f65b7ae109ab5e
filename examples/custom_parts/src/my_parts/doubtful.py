"""A stage that lists what a trained system is least sure of, for somebody to listen to or to annotate."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

from merc.conversation import Corpus
from merc.files import write_text
from merc.pipeline.kinds import FunctionStage
from merc.pipeline.stage import Stage
from merc.store import FeatureStore


def list_doubtful(corpus: Path, logits: Path, out: Path, split: str = "test", most: int = 100) -> None:
    """Write ``doubtful.csv``: the utterances of a split by the entropy of their probabilities, largest first.

    Args:
        corpus: The corpus, for speaker and text.
        logits: The store of logits.
        out: Folder for the table.
        split: ``train``, ``val`` or ``test``.
        most: Rows at most.
    """
    read, store = Corpus.load(corpus), FeatureStore(logits)
    rows = []
    for conversation in read[split]:
        for key, utterance in zip(conversation.keys, conversation.utterances, strict=True):
            if key in store:
                p = store[key].softmax(-1)
                entropy = float(-(p * p.clamp(min=1e-12).log()).sum())
                guess = read.labels.names[int(p.argmax())]
                rows.append((f"{entropy:.4f}", key.dialogue, key.utterance, guess, utterance.speaker, utterance.text))
    rows.sort(key=lambda row: -float(row[0]))
    lines = [("entropy", "dialogue", "utterance", "predicted", "speaker", "text"), *rows[:most]]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "doubtful.csv", _table(lines))


def _table(lines: list[tuple[str, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


class DoubtfulStage(FunctionStage):
    """``command: my_parts.DoubtfulStage`` in a pipeline; its options are those of :func:`list_doubtful`."""

    per_seed = True

    def function(self, stage: Stage) -> Callable[..., None]:
        """What the stage calls."""
        return list_doubtful

    def corpus_option(self, stage: Stage) -> str | None:
        """The option that takes the corpus of the pipeline."""
        return "corpus"
