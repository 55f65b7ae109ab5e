"""What the data knows and a network must fit: widths, emotions, how often each occurs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from merc.conversation import Corpus
from merc.labels import IGNORE_INDEX
from merc.store import FeatureStore, StoreError


@dataclass(frozen=True)
class DataFacts:
    """What a datamodule tells of its data, so that no config has to: plain values.

    Args:
        widths: Width of every store, by its name in the datamodule.
        classes: The emotions, in the order of their ids.
        class_counts: Labelled utterances of the training split, by class; zeros without a training split.
        modalities: Names of the stores that describe the utterance, in the datamodule's order: all but those of logits.
        values: By dimension of the corpus, mean and standard deviation of its numbers in the training split.

    Example:
        >>> facts = DataFacts({"text": 384, "audio": 40}, ("neutral", "joy"), (70, 30), ("text", "audio"))
        >>> facts.width("audio"), facts.num_classes
        (40, 2)
    """

    widths: Mapping[str, int]
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]
    modalities: tuple[str, ...]
    values: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, corpus: Corpus, stores: Mapping[str, FeatureStore]) -> DataFacts:
        """Count and measure.

        Args:
            corpus: The corpus.
            stores: The opened stores, by name.

        Raises:
            StoreError: A store holds nothing.
        """
        for store in stores.values():
            if not store.dim:
                store.require(dim=1)
        counts = [0] * len(corpus.labels)
        for conversation in corpus["train"] if "train" in corpus else ():
            for utterance in conversation.utterances:
                label = corpus.labels.index(utterance.label)
                if label != IGNORE_INDEX:
                    counts[label] += 1
        return cls(
            widths={name: store.dim for name, store in stores.items()},
            classes=tuple(corpus.labels.names),
            class_counts=tuple(counts),
            modalities=tuple(name for name, store in stores.items() if store.kind != "logits"),
            values={name: _spread(corpus, name) for name in corpus.dimensions},
        )

    @classmethod
    def from_plain(cls, values: Any) -> DataFacts:  # noqa: ANN401 - whatever a checkpoint holds
        """The facts that :meth:`plain` gave.

        Raises:
            ValueError: The values are no facts.
        """
        try:
            if any(int(width) < 1 for width in values["widths"].values()):
                raise ValueError("a width is at least 1")
            return cls(
                widths={str(name): int(width) for name, width in values["widths"].items()},
                classes=tuple(map(str, values["classes"])),
                class_counts=tuple(map(int, values["class_counts"])),
                modalities=tuple(map(str, values["modalities"])),
                values={str(n): (float(m), float(s)) for n, (m, s) in values.get("values", {}).items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"Expected widths, classes, class_counts and modalities, found {values!r}.") from error

    def plain(self) -> dict[str, Any]:
        """All of it as values that JSON and checkpoints take."""
        plain = {name: list(v) if isinstance(v, tuple) else dict(v) for name, v in asdict(self).items()}
        return {**plain, "values": {name: list(spread) for name, spread in self.values.items()}}

    @property
    def num_classes(self) -> int:
        """Number of emotions C."""
        return len(self.classes)

    def width(self, name: str) -> int:
        """The width of a store.

        Raises:
            StoreError: There is no store of that name.
        """
        if name not in self.widths:
            raise StoreError(
                f"The task needs features {name!r}, the datamodule has {sorted(self.widths)}: "
                f"add --data.stores.{name} PATH."
            )
        return self.widths[name]


def _spread(corpus: Corpus, dimension: str) -> tuple[float, float]:
    """Mean and standard deviation of a dimension in ``train``; 0 and 1 without numbers, 1 where all are the same."""
    talks = corpus["train"] if "train" in corpus else []
    known = [u.values[dimension] for talk in talks for u in talk.utterances if u.values and dimension in u.values]
    return (statistics.fmean(known), statistics.pstdev(known) or 1.0) if known else (0.0, 1.0)
