"""Label sets: the emotions of a corpus, their ids, their order in papers, and how sets are merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

IGNORE_INDEX = -100
"""Label id of an utterance that has no label: ignored by every loss and metric."""


class UnknownLabelError(ValueError):
    """A label name that its label set does not hold."""


@dataclass(frozen=True)
class LabelSet:
    """The emotions that a corpus is annotated with.

    Args:
        name: Name of the set, as reports print it.
        names: Emotion names; the position of a name is its id. The order is that of the community
            feature pickles, so that ids agree with files that people already have. None for a corpus of numbers alone.
        report_order: The same names in the column order of the published tables. Default: ``names``.
        aliases: Other spellings found in files, for example ``{"hap": "happy"}``.

    Raises:
        ValueError: Names repeat (whatever their case), the report order is not a permutation of them, or
            an alias means none of them.

    Example:
        >>> MELD.index("joy"), MELD.index("Joy")
        (4, 4)
    """

    name: str
    names: tuple[str, ...]
    report_order: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Check that names are unique and that the report order is a permutation of them."""
        if len({name.lower() for name in self.names}) != len(self.names):
            raise ValueError(f"Label set {self.name!r} needs unique names, got {self.names}.")
        if not self.report_order:
            object.__setattr__(self, "report_order", self.names)
        if sorted(self.report_order) != sorted(self.names):
            raise ValueError(
                f"Label set {self.name!r}: report_order {self.report_order} is not a permutation of {self.names}."
            )
        for alias, name in self.aliases.items():
            if name not in self.names:
                raise ValueError(f"Label set {self.name!r}: alias {alias!r} means {name!r}, which is not in the set.")

    @cached_property
    def _spellings(self) -> dict[str, str]:
        return {k.lower(): v for k, v in self.aliases.items()} | {name.lower(): name for name in self.names}

    def __len__(self) -> int:
        """Number of emotions C."""
        return len(self.names)

    def canonical(self, label: str) -> str:
        """The set's own spelling of ``label``; case and known aliases are forgiven.

        Raises:
            UnknownLabelError: The set holds no such label.
        """
        name = self._spellings.get(label.strip().lower())
        if name is None:
            raise UnknownLabelError(
                f"Unknown label {label!r}: label set {self.name!r} has {', '.join(self.names)}. "
                "Correct the file or use another label set."
            )
        return name

    def index(self, label: str | None) -> int:
        """Id of a label in ``0..C-1``, or -100 for ``None`` (an utterance without a label)."""
        return IGNORE_INDEX if label is None else self.names.index(self.canonical(label))

    @property
    def report_ids(self) -> list[int]:
        """Label ids in the column order of the published tables."""
        return [self.names.index(name) for name in self.report_order]


@dataclass(frozen=True)
class MergeRule:
    """How the labels of one set become labels of another.

    Args:
        name: Name of the rule, as configs and reports give it.
        target: The resulting label set.
        mapping: Source label to target label; a source label that is absent loses its label, but its
            utterance stays in the conversation as context.
    """

    name: str
    target: LabelSet
    mapping: Mapping[str, str] = field(hash=False)

    def apply(self, label: str | None) -> str | None:
        """The target label, or ``None`` where the rule drops the source label."""
        return None if label is None else self.mapping.get(label)


MELD = LabelSet(
    "meld",
    ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger"),
    report_order=("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"),
)
"""MELD's seven emotions; ids as in the community pickles, columns as in Table 1 of arXiv 2511.13731."""

FER2013 = LabelSet(
    "fer2013",
    ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
)
"""The seven expressions of FER2013, ids as in its files."""

FER2013_TO_MELD = MergeRule(
    "fer2013-meld",
    MELD,
    {
        "angry": "anger",
        "disgust": "disgust",
        "fear": "fear",
        "happy": "joy",
        "sad": "sadness",
        "surprise": "surprise",
        "neutral": "neutral",
    },
)
"""The expressions of faces as the emotions of MELD: both name Ekman's six and neutral."""

IEMOCAP6 = LabelSet(
    "iemocap6",
    ("happy", "sad", "neutral", "angry", "excited", "frustrated"),
    aliases={
        "hap": "happy",
        "happiness": "happy",
        "sadness": "sad",
        "neu": "neutral",
        "ang": "angry",
        "anger": "angry",
        "exc": "excited",
        "excitement": "excited",
        "fru": "frustrated",
        "frustration": "frustrated",
    },
)
"""IEMOCAP's six emotions; ids as in the community pickles, columns as in Table 2 of arXiv 2511.13731."""

IEMOCAP4 = LabelSet(
    "iemocap4",
    ("happy", "sad", "neutral", "angry"),
    aliases={k: v for k, v in IEMOCAP6.aliases.items() if v not in {"excited", "frustrated"}},
)
"""IEMOCAP's four-way set; name the merge rule that made it in every report."""

KEEP_SIX = MergeRule("six", IEMOCAP6, {name: name for name in IEMOCAP6.names})
"""All six emotions of IEMOCAP, unchanged."""

EXCITED_AS_HAPPY = MergeRule("excited-as-happy", IEMOCAP4, {n: n for n in IEMOCAP4.names} | {"excited": "happy"})
"""Four-way IEMOCAP with excited merged into happy (5531 utterances in the raw annotation)."""

EXCITED_DROPPED = MergeRule("excited-dropped", IEMOCAP4, {n: n for n in IEMOCAP4.names})
"""Four-way IEMOCAP without the excited utterances (943 of session 5 remain)."""


def merge_rule(name: str) -> MergeRule:
    """The IEMOCAP merge rule ``six``, ``excited-as-happy`` or ``excited-dropped``.

    Raises:
        ValueError: There is no rule of that name.
    """
    rules = {rule.name: rule for rule in (KEEP_SIX, EXCITED_AS_HAPPY, EXCITED_DROPPED)}
    if name not in rules:
        raise ValueError(f"Unknown merge rule {name!r}: expected one of {', '.join(rules)}.")
    return rules[name]
