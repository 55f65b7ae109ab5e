"""The nouns without tensors: utterance, conversation, and the corpus that holds them by split."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from merc.files import parse_json, write_json
from merc.labels import LabelSet

CORPUS_FILE = "corpus.json"
"""The file of an imported corpus. It is written last: where it is, the import is whole."""

SPLITS = ("train", "val", "test")
"""The names of the splits, everywhere in merc."""

WHOLE = "all"
"""The partition of a corpus whose splits are drawn: one feature store serves every division."""

_SPLIT_ALIASES = {"dev": "val", "valid": "val", "validation": "val", "training": "train", "testing": "test"}


def split_name(name: str) -> str:
    """The name by which merc knows a split: ``dev`` and ``valid`` are ``val``.

    Raises:
        ValueError: The name is none of train, val (dev, valid, validation), test.
    """
    folded = _SPLIT_ALIASES.get(name.strip().lower(), name.strip().lower())
    if folded not in SPLITS:
        raise ValueError(f"Unknown split {name!r}: expected train, val (or dev) or test.")
    return folded


class CorpusError(ValueError):
    """A corpus on disk is not what its format promises; the message says where and what to do.

    Args:
        message: The message. If it quotes very long values of a file, its middle is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message if len(message) <= 2000 else f"{message[:1400]} ... {message[-500:]}")


class UtteranceKey(NamedTuple):
    """What names an utterance in every file that merc writes.

    ``partition`` is the part of the corpus inside which dialogue ids are unique: the split in MELD
    (train, val, test), the session in IEMOCAP, so that one feature store serves every fold.
    """

    partition: str
    dialogue: str
    utterance: str

    def __str__(self) -> str:
        """The key as ``partition/dialogue/utterance``."""
        return "/".join(self)


@dataclass(frozen=True, slots=True)
class Clip:
    """A span of a media file, and the part of its picture that counts.

    Args:
        path: The media file.
        start: Where the span begins, in seconds of the file.
        end: Where it ends, or ``None`` for the end of the file.
        region: Part of the picture as ``(x1, y1, x2, y2)``, each from 0 to 1 (left to right, top to bottom);
            ``None`` for the whole picture.

    Raises:
        CorpusError: The span or the region is empty, or not of these ranges.
    """

    path: str
    start: float = 0.0
    end: float | None = None
    region: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse a span or a region in which there can be nothing."""
        if not 0 <= self.start < (math.inf if self.end is None else self.end):
            raise CorpusError(f"The clip of {self.path} goes from {self.start} to {self.end} s: expected start < end.")
        if self.region is not None:
            x1, y1, x2, y2 = self.region
            if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1):
                raise CorpusError(
                    f"The clip of {self.path} has the region {self.region}: expected x1 < x2 and y1 < y2 within 0..1."
                )


@dataclass(frozen=True, slots=True)
class Utterance:
    """One turn of one speaker.

    Args:
        id: Name of the utterance inside its dialogue; ids need not be contiguous.
        speaker: Who speaks.
        text: Transcript.
        start: Start of the utterance in seconds of its medium, if known.
        end: End in seconds, if known.
        label: Emotion by name, or ``None`` if it is not annotated.
        media: Path of its own file, if there is one: a clip with picture and sound, or sound alone.
        video: Where its picture is, if not in ``media``: a span of a longer recording, or a part of the frame.
        values: Annotated numbers by dimension, such as valence, in the units of the corpus; ``None`` if there are none.
    """

    id: str
    speaker: str
    text: str = ""
    start: float | None = None
    end: float | None = None
    label: str | None = None
    media: str | None = None
    video: Clip | None = None
    values: Mapping[str, float] | None = field(default=None, hash=False)

    @property
    def sound(self) -> Clip | None:
        """Where it is heard: its own file, else the recording that shows it."""
        return self.video if self.media is None else Clip(self.media)

    @property
    def picture(self) -> Clip | None:
        """Where it is seen: the recording that shows it, else its own file."""
        return self.video if self.video is not None or self.media is None else Clip(self.media)

    def numbers(self, dimensions: Iterable[str]) -> list[float]:
        """The annotated numbers of some dimensions, in their order; NaN where there is none."""
        values = self.values or {}
        return [values.get(name, math.nan) for name in dimensions]


@dataclass(frozen=True, slots=True)
class Conversation:
    """The utterances of one dialogue, in order: the unit of a sample.

    Args:
        id: Dialogue id.
        utterances: At least one utterance, in the order of speech.
        partition: Part of the corpus inside which ``id`` is unique (see :class:`UtteranceKey`).

    Raises:
        CorpusError: There are no utterances, two share an id, or an id is not a string.
    """

    id: str
    utterances: tuple[Utterance, ...]
    partition: str = "train"

    def __post_init__(self) -> None:
        """Refuse a dialogue that is empty, names an utterance twice, or has ids that are not strings."""
        where = f"Dialogue {self.id!r} of {self.partition!r}"
        if not self.utterances:
            raise CorpusError(f"{where} has no utterances: expected at least one. Remove it or fill it.")
        seen: set[str] = set()
        for name in (self.partition, self.id, *(utterance.id for utterance in self.utterances)):
            if not isinstance(name, str):  # a store would never find 3 under "3"
                raise CorpusError(f"{where} has the id {name!r}: ids must be strings, got {type(name).__name__}.")
        for utterance in self.utterances:
            if utterance.id in seen:
                raise CorpusError(f"{where} holds utterance id {utterance.id!r} twice: ids must be unique.")
            seen.add(utterance.id)

    def __len__(self) -> int:
        """Number of utterances."""
        return len(self.utterances)

    @property
    def keys(self) -> list[UtteranceKey]:
        """The key of every utterance, in order."""
        return [UtteranceKey(self.partition, self.id, utterance.id) for utterance in self.utterances]

    @property
    def speakers(self) -> list[str]:
        """The speakers in order of first appearance."""
        return list(dict.fromkeys(utterance.speaker for utterance in self.utterances))

    @property
    def speaker_ids(self) -> list[int]:
        """For every utterance the index of its speaker in :attr:`speakers`, local to this conversation."""
        order = {name: index for index, name in enumerate(self.speakers)}
        return [order[utterance.speaker] for utterance in self.utterances]


@dataclass(frozen=True)
class Corpus(Mapping[str, list[Conversation]]):
    """Conversations by split, with the labels they carry and where they came from.

    Behaves as a mapping from split name (``train``, ``val``, ``test``) to a list of conversations.

    Args:
        name: For example ``meld``.
        labels: The label set of the utterances.
        splits: Conversations by split name.
        protocol: Which split rule and label source were used; printed in every report.
        notes: What a reader of results must know: stray or missing files, label source, leaks.
        dimensions: Lowest and highest number of the scale of every dimension of which utterances have values. A mean of
            raters may lie outside.

    Raises:
        CorpusError: A conversation occurs twice, a label is not of the set, or a value is not of a dimension.
    """

    name: str
    labels: LabelSet
    splits: Mapping[str, list[Conversation]]
    protocol: str = ""
    notes: Sequence[str] = field(default=())
    dimensions: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check split names, that no dialogue is in two places, and every label."""
        object.__setattr__(self, "notes", tuple(self.notes))
        object.__setattr__(self, "dimensions", _checked_dimensions(self.name, self.dimensions))
        seen: dict[tuple[str, str], str] = {}
        for split, conversations in self.splits.items():
            if split not in SPLITS:
                raise CorpusError(f"Corpus {self.name!r} has a split {split!r}: expected one of {', '.join(SPLITS)}.")
            for conversation in conversations:
                identity = (conversation.partition, conversation.id)
                if identity in seen:
                    raise CorpusError(
                        f"Dialogue {conversation.id!r} of {conversation.partition!r} occurs twice "
                        f"(splits {seen[identity]!r} and {split!r}): a dialogue belongs to one split."
                    )
                seen[identity] = split
                for utterance in conversation.utterances:
                    if utterance.label is not None and utterance.label not in self.labels.names:
                        raise CorpusError(
                            f"Utterance {conversation.partition}/{conversation.id}/{utterance.id} has label "
                            f"{utterance.label!r}: expected one of {', '.join(self.labels.names)}."
                        )
                    for name, value in (utterance.values or {}).items():
                        if name not in self.dimensions or not math.isfinite(value):
                            raise CorpusError(
                                f"Utterance {conversation.partition}/{conversation.id}/{utterance.id} has {name!r} "
                                f"{value!r}: expected finite numbers of {', '.join(self.dimensions) or 'no dimension'}."
                            )

    def __getitem__(self, split: str) -> list[Conversation]:
        """The conversations of a split.

        Raises:
            KeyError: The corpus has no such split.
        """
        if split not in self.splits:
            raise KeyError(f"Corpus {self.name!r} has no split {split!r}; it has {', '.join(self.splits) or 'none'}.")
        return self.splits[split]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the split names."""
        return iter(self.splits)

    def __len__(self) -> int:
        """Number of splits."""
        return len(self.splits)

    def utterances(self) -> Iterator[tuple[UtteranceKey, Utterance]]:
        """Iterate over the utterances of all splits with their keys."""
        for split in self.values():
            for conversation in split:
                yield from zip(conversation.keys, conversation.utterances, strict=True)

    @property
    def digest(self) -> str:
        """A digest of the keys of all utterances, whatever their split: stores record whose keys they use."""
        keys = sorted(key for split in self.values() for conversation in split for key in conversation.keys)
        return hashlib.sha256("\n".join(map(repr, map(tuple, keys))).encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write the corpus to one JSON file, whole or not at all."""
        write_json(
            path,
            {
                "format": "merc.Corpus",
                "version": 1,
                "name": self.name,
                "protocol": self.protocol,
                "notes": list(self.notes),
                "labels": {**dataclasses.asdict(self.labels), "aliases": dict(self.labels.aliases)},
                **({"dimensions": {n: list(r) for n, r in self.dimensions.items()}} if self.dimensions else {}),
                "splits": {
                    split: [
                        {
                            "id": conversation.id,
                            "partition": conversation.partition,
                            "utterances": [_written(utterance) for utterance in conversation.utterances],
                        }
                        for conversation in conversations
                    ]
                    for split, conversations in self.splits.items()
                },
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> Corpus:
        """Read a corpus that :meth:`save` wrote.

        Args:
            path: The file, or the folder of an imported corpus, which holds it as ``corpus.json``.

        Raises:
            FileNotFoundError: There is no such file.
            CorpusError: The file is something else, or damaged.
        """
        path = Path(path)
        path = path / CORPUS_FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"No corpus at {path}: expected a JSON file that `merc import` wrote. Run `merc import --help`."
            )
        try:
            raw = parse_json(path.read_bytes())
        except ValueError as error:
            raise CorpusError(
                f"{path} is not JSON in UTF-8 ({error}). Import the corpus again with `merc import`."
            ) from error
        if not isinstance(raw, dict) or raw.get("format") != "merc.Corpus":
            raise CorpusError(f"{path} is not a merc corpus: expected a file that `merc import` wrote.")
        if raw.get("version") != 1:
            raise CorpusError(f"{path} has version {raw.get('version')}, this merc reads 1: upgrade merc.")
        try:
            labels = raw["labels"]
            names, order, notes = _texts(labels["names"]), _texts(labels["report_order"]), _texts(raw["notes"])
            _texts([raw["name"], raw["protocol"], labels["name"], *labels["aliases"], *labels["aliases"].values()])
            return cls(
                name=raw["name"],
                labels=LabelSet(labels["name"], names, order, dict(labels["aliases"])),
                splits={
                    split: [
                        Conversation(c["id"], tuple(map(_read, c["utterances"])), c["partition"]) for c in conversations
                    ]
                    for split, conversations in raw["splits"].items()
                },
                protocol=raw["protocol"],
                notes=notes,
                dimensions={n: _range(r) for n, r in raw.get("dimensions", {}).items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise CorpusError(
                f"{path} is damaged ({type(error).__name__}: {error}). Import the corpus again with `merc import`."
            ) from error


def _written(record: Utterance | Clip) -> dict[str, Any]:
    """The fields that say something, as JSON values."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    values = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    return {k: _written(v) if isinstance(v, Clip) else v for k, v in values.items() if v is not None}


def _read(utterance: Mapping[str, Any]) -> Utterance:
    values = {name: value for name, value in utterance.items() if name not in ("video", "values")}
    _check_types(values)
    if "values" in utterance:
        values["values"] = {name: _number(value) for name, value in utterance["values"].items()}
    if "video" not in utterance:
        return Utterance(**values)
    clip = dict(utterance["video"])
    region = clip.pop("region", None)
    _check_types(clip)
    return Utterance(**values, video=Clip(**clip, region=None if region is None else tuple(region)))


def _check_types(values: Mapping[str, Any]) -> None:
    """Refuse times that are not finite numbers, and other values that are not strings."""
    for name, value in values.items():
        if name in ("start", "end"):
            _number(value, name)
        elif not isinstance(value, str):
            raise TypeError(f"{name} is {value!r}, expected a string")


def _number(value: Any, name: str = "a value") -> float:  # noqa: ANN401 - whatever the file has
    if type(value) not in (int, float) or not math.isfinite(value):
        raise TypeError(f"{name} is {value!r}, expected a finite number")
    return float(value)


def _range(value: Any) -> tuple[float, float]:  # noqa: ANN401 - whatever the file has
    low, high = value
    return _number(low), _number(high)


def _checked_dimensions(
    corpus: str, dimensions: Mapping[str, tuple[float, float]]
) -> Mapping[str, tuple[float, float]]:
    """Refuse names that cannot be columns, and empty ranges."""
    for name, (low, high) in dimensions.items():
        if not re.fullmatch(r"\w+", name) or not -math.inf < low < high < math.inf:
            raise CorpusError(
                f"Corpus {corpus!r} has the dimension {name!r} from {low} to {high}: expected a name of letters, "
                "digits and underscores, and a finite range with low < high."
            )
    return {name: (float(low), float(high)) for name, (low, high) in dimensions.items()}


def _texts(values: Any) -> tuple[str, ...]:  # noqa: ANN401 - whatever the file has
    """A list of strings as a tuple."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError(f"{values!r}, expected a list of strings")
    return tuple(values)
