"""Community feature pickles: the files that published systems train on, by layout."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from merc.conversation import Conversation, Corpus, CorpusError, Utterance, UtteranceKey
from merc.corpora.iemocap import USUAL_VALIDATION, draw
from merc.corpora.unpickle import load_pickle
from merc.features.table import FeaturedCorpus, FeatureTable
from merc.labels import IEMOCAP6, MELD, LabelSet

_ROBERTA = ("roberta1", "roberta2", "roberta3", "roberta4")
_FEATURES = ("text", "audio", "visual", *_ROBERTA)
_MELD_VAL, _MELD_TEST, _MELD_END = 1039, 1153, 1433


@dataclass(frozen=True)
class PickleLayout:
    """What the elements of a community pickle are.

    Args:
        name: Name of the layout, after the system that made it known, and the corpus.
        corpus: ``meld`` or ``iemocap``.
        elements: Role of every element. ``unverified`` is ignored; a role with a question mark is used
            if it looks like it.
        files: Features that lie in files of their own, beside ``main``.
        main: The file that holds ``elements``, if there are several.
    """

    name: str
    corpus: Literal["meld", "iemocap"]
    elements: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    main: str | None = None

    @property
    def labels(self) -> LabelSet:
        """The label set, whose ids are those of the pickles."""
        return MELD if self.corpus == "meld" else IEMOCAP6

    def misfit(self, value: object) -> str | None:
        """Why ``value`` is not of this layout, or ``None`` if it looks as if it were."""
        if not isinstance(value, list | tuple) or len(value) != len(self.elements):
            return f"expected a list of {len(self.elements)}"
        for position, (role, element) in enumerate(zip(self.elements, value, strict=True)):
            if role in _LOOKS and not _looks_like(role, element, self.corpus):
                return f"element {position} is {_describe(element)}, expected {role} of {self.corpus}"
        return None


_COMMON = ("ids", "speakers", "labels")
_SPLIT = ("sentences", "train", "test")
_SPEAKERS = ("ids?", "speakers", "labels", *("unverified",) * 3, "sentences?", "train", "test")
_MULTIEMO = {"text": "TextFeatures.pkl", "audio": "AudioFeatures.pkl", "visual": "VisualFeatures.pkl"}

LAYOUTS = {
    layout.name: layout
    for layout in (
        PickleLayout("mmgcn-iemocap", "iemocap", (*_COMMON, "text", "audio", "visual", *_SPLIT)),
        PickleLayout("mmgcn-meld", "meld", (*_COMMON, "text", "audio", "visual", *_SPLIT, "unverified")),
        PickleLayout("bclstm-meld", "meld", (*_COMMON, "text", "audio", *_SPLIT, "sentiment")),
        PickleLayout("sdt-iemocap", "iemocap", (*_COMMON, *_ROBERTA, "audio", "visual", *_SPLIT)),
        PickleLayout("sdt-meld", "meld", (*_COMMON, *_ROBERTA, "audio", "visual", *_SPLIT, "unverified")),
        PickleLayout("cosmic-iemocap", "iemocap", ("speakers", "labels", *_ROBERTA, *_SPLIT, "val")),
        PickleLayout("cosmic-meld", "meld", ("speakers", "labels", "sentiment", *_ROBERTA, *_SPLIT, "val")),
        PickleLayout("multiemo-iemocap", "iemocap", _SPEAKERS, _MULTIEMO, "Speakers.pkl"),
        PickleLayout("multiemo-meld", "meld", (*_SPEAKERS, "unverified"), _MULTIEMO, "Speakers.pkl"),
    )
}
"""The layouts by name: MMGCN and MM-DFN, bc-LSTM, SDT (also M3NET, CMATH, LFVD), COSMIC, MultiEMO."""


def import_pickle(file: str | Path, *, layout: str, standardize: Sequence[str] = ("audio", "visual")) -> FeaturedCorpus:
    """Read a community feature pickle.

    Labels are mapped by name and ids are sorted, so that the result depends on no hash seed. Rows of
    zeros or with NaN, which these files hold where a clip was missing or broken, become missing
    utterances. Layouts without a validation split get one: in IEMOCAP the usual validation dialogues,
    in MELD the dialogues of dev, which such files count as train and number from 1039 on; if there are
    none, a tenth of train in the order of a hash. The protocol says which.

    Args:
        file: The pickle; for MultiEMO the folder with its four files.
        layout: A name of :data:`LAYOUTS`.
        standardize: Features, of those that the file has, whose columns get mean 0 and standard deviation 1 over
            train: openSMILE's are in hertz, decibels and counts, and a network, or the error of a reconstruction,
            would see the largest alone. Vectors of text encoders have one scale and stay as they are.

    Returns:
        Corpus and features: ``text``, ``audio``, ``visual`` as far as the file has them. ``text`` is
        roberta1 where there are four, and the others are called ``roberta2`` to ``roberta4``.

    Raises:
        FileNotFoundError: A file is missing.
        UnsafePickleError: The pickle asks for more than arrays and containers.
        CorpusError: The file is damaged or of another layout; the message says what it looks like and
            which layouts would fit.
        ValueError: There is no such layout, or there are no such features in any.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"Unknown layout {layout!r}: expected one of {', '.join(LAYOUTS)}.")
    names = ("text", "audio", "visual", *_ROBERTA[1:])
    if unknown := set(standardize) - set(names):
        raise ValueError(f"Unknown features {sorted(unknown)} to standardize: expected some of {', '.join(names)}.")
    chosen = LAYOUTS[layout]
    main = Path(file)
    if chosen.main is not None:
        folder = main if main.is_dir() else main.parent
        main = folder / chosen.main
    value = load_pickle(main)
    if why := chosen.misfit(value):
        fitting = [name for name, other in LAYOUTS.items() if other.misfit(value) is None]
        raise CorpusError(
            f"{main} is not of layout {layout}: {why}. It is {_describe_all(value)}. "
            f"Layouts that fit: {', '.join(fitting) or 'none'}."
        )
    parts = dict(zip(chosen.elements, value, strict=True))
    sources = dict.fromkeys(parts, main)
    for role, name in chosen.files.items():
        sources[role] = main.parent / name
        parts[role] = load_pickle(sources[role])
        if not _looks_like(role, parts[role], chosen.corpus):
            raise CorpusError(f"{sources[role]} is {_describe(parts[role])}, expected {role} of {chosen.corpus}.")
    try:
        featured = _Importer(chosen, main, parts, sources).run()
    except CorpusError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise CorpusError(
            f"{main} looks like {layout} at its first dialogue, but not throughout ({type(error).__name__}: {error}). "
            "Download it again."
        ) from error
    train = {key for conversation in featured.corpus["train"] for key in conversation.keys}
    tables = {
        name: table.standardized(train) if name in standardize else table for name, table in featured.features.items()
    }
    return FeaturedCorpus(featured.corpus, tables)


class _Importer:
    """Turns the named parts of a pickle into conversations and tables."""

    def __init__(self, layout: PickleLayout, path: Path, parts: Mapping[str, Any], sources: Mapping[str, Path]) -> None:
        self.layout = layout
        self.path = path
        self.sources = sources
        # Keys become text at once: files mix int, numpy integers and strings for the same dialogue.
        self.parts = {
            role: _by_name(part, role, sources[role]) if isinstance(part, dict) else part
            for role, part in parts.items()
        }
        self.notes: list[str] = []
        for role in ("ids", "sentences"):
            if role not in parts and _looks_like(role, parts.get(f"{role}?"), layout.corpus):
                self.parts[role] = self.parts[f"{role}?"]

    def run(self) -> FeaturedCorpus:
        splits, protocol = self._splits()
        offsets = self.layout.corpus == "meld" and all(
            _follows_offsets(split, names) for split, names in splits.items()
        )
        places: dict[str, tuple[str, str]] = {}
        conversations: dict[str, list[Conversation]] = {}
        for split, names in splits.items():
            for name in names:
                places[name] = self._place(split, name, offsets)
            conversations[split] = [self._conversation(name, *places[name]) for name in names]
        self._note_origin(splits, offsets)
        corpus = Corpus(self.layout.corpus, self.layout.labels, conversations, protocol, tuple(self.notes))
        keys = {
            name: conversation.keys
            for split, names in splits.items()
            for name, conversation in zip(names, conversations[split], strict=True)
        }
        features = {
            "text" if role == "roberta1" else role: self._table(role, keys) for role in _FEATURES if role in self.parts
        }
        return FeaturedCorpus(corpus, features)

    def _splits(self) -> tuple[dict[str, list[str]], str]:
        """Sorted dialogue names of every split, and how they came about."""
        found: dict[str, list[str]] = {
            split: sorted({_name(name) for name in self.parts[split]}, key=_order)
            for split in ("train", "val", "test")
            if split in self.parts
        }
        for split, names in found.items():
            if unknown := [name for name in names if name not in self.parts["labels"]]:
                raise CorpusError(f"{self.path}: {split} names dialogue {unknown[0]!r}, which has no labels: damaged?")
        if twice := sorted(set(found["train"]) & set(found["test"])):
            raise CorpusError(f"{self.path}: dialogue {twice[0]!r} is in train and test: damaged?")
        protocol = f"{self.layout.name} pickle: its own train and test dialogues"
        if "val" in found:
            return found, f"{self.layout.name} pickle: its own train, validation and test dialogues"
        chosen, rule = self._validation(found["train"])
        found["val"] = [name for name in found["train"] if name in chosen]
        found["train"] = [name for name in found["train"] if name not in chosen]
        return {split: found[split] for split in ("train", "val", "test")}, f"{protocol}; {rule}"

    def _validation(self, train: Sequence[str]) -> tuple[set[str], str]:
        if self.layout.corpus == "iemocap":
            usual = set(USUAL_VALIDATION).intersection(train)
            if usual:
                return (
                    usual,
                    f"{len(usual)} of the {len(USUAL_VALIDATION)} usual validation dialogues taken out of train",
                )
        elif _follows_offsets("train", [name for name in train if int(name) < _MELD_VAL]):
            dev = {name for name in train if _MELD_VAL <= int(name) < _MELD_TEST}
            if dev:
                return dev, f"validation is MELD's dev, the {len(dev)} train dialogues numbered from {_MELD_VAL} on"
        tenth = set(draw(train, max(1, len(train) // 10), seed=0))
        return tenth, f"validation is a tenth of train ({len(tenth)} dialogues in the order of a hash)"

    def _place(self, split: str, name: str, offsets: bool) -> tuple[str, str]:
        """Partition and dialogue id."""
        if self.layout.corpus == "iemocap":
            return f"session{name[4]}", name
        start = {"train": 0, "val": _MELD_VAL, "test": _MELD_TEST}[split] if offsets else 0
        return split, str(int(name) - start)

    def _conversation(self, name: str, partition: str, dialogue: str) -> Conversation:
        labels = self.parts["labels"][name]
        columns: dict[str, Sequence[Any]] = {"labels": labels}
        for role in ("speakers", "sentences", "ids"):
            columns[role] = self.parts[role].get(name, ()) if role in self.parts else ("",) * len(labels)
            if len(columns[role]) != len(labels):
                raise CorpusError(
                    f"{self.path}: dialogue {name!r} has {len(labels)} labels but {len(columns[role])} {role}: damaged?"
                )
        utterances = tuple(
            Utterance(
                id=self._utterance_id(ids, index) if "ids" in self.parts else str(index),
                speaker=self._speaker(name, speaker),
                text=_text(sentence),
                label=self._label(name, label),
            )
            for index, (ids, speaker, sentence, label) in enumerate(
                zip(columns["ids"], columns["speakers"], columns["sentences"], labels, strict=True)
            )
        )
        return Conversation(dialogue, utterances, partition)

    def _utterance_id(self, found: object, index: int) -> str:
        """The id as the corpus's own reader spells it: MELD's files hold ``3`` or ``dia0_utt3``."""
        name = _text(found)
        match = re.fullmatch(r"(?:.*utt)?(\d+)", name) if self.layout.corpus == "meld" else None
        return str(int(match[1])) if match else name

    def _label(self, dialogue: str, label: object) -> str:
        names = self.layout.labels.names
        index = _whole(label)
        if index is None or not 0 <= index < len(names):
            raise CorpusError(
                f"{self.path}: dialogue {dialogue!r} has label id {label}, expected 0 to {len(names) - 1} "
                f"({', '.join(names)})."
            )
        return names[index]

    def _speaker(self, dialogue: str, speaker: object) -> str:
        name = _text(speaker)
        if not isinstance(speaker, str | bytes):
            vector = np.asarray(speaker).ravel()
            if vector.size > 1 and np.count_nonzero(vector) != 1:
                raise CorpusError(
                    f"{self.path}: dialogue {dialogue!r} has speaker {vector.tolist()}, expected one-hot."
                )
            index = int(vector.argmax()) if vector.size > 1 else _whole(vector[0])
            if index is None or index < 0:
                raise CorpusError(
                    f"{self.path}: dialogue {dialogue!r} has speaker {vector.tolist()}, expected a whole number."
                )
            name = "MF"[index] if self.layout.corpus == "iemocap" and index < 2 else f"speaker{index}"
        return f"{dialogue[:5]}{name}" if self.layout.corpus == "iemocap" else name

    def _note_origin(self, splits: Mapping[str, Sequence[str]], offsets: bool) -> None:
        if unused := len(self.parts["labels"].keys() - {name for names in splits.values() for name in names}):
            self.notes.append(f"{unused} dialogues of the file are in none of its splits and were left out.")
        if self.layout.corpus == "iemocap":
            self.notes.append("Labels are those of the community pickles; a fresh parse of EmoEvaluation differs.")
        elif not offsets:
            self.notes.append("Dialogue numbers are the file's own: they do not follow MELD's 0, 1039 and 1153.")
        if "ids" not in self.parts:
            self.notes.append(
                "The file has no utterance ids: ids are positions in the dialogue, which differ from the ids of the "
                "corpus's own files wherever those have gaps. Do not mix these features with features of other files."
            )
        if "unverified" in self.layout.elements:
            self.notes.append("The meaning of some elements of this layout is not verified; they were ignored.")

    def _table(self, role: str, keys: Mapping[str, Sequence[UtteranceKey]]) -> FeatureTable:
        rows: list[np.ndarray[Any, np.dtype[np.float32]]] = []
        kept: list[UtteranceKey] = []
        missing: dict[UtteranceKey, str] = {}
        for name, own in keys.items():
            if name not in self.parts[role]:
                missing |= dict.fromkeys(own, "the file has no such dialogue")
                continue
            matrix = self._matrix(role, name, len(own))
            if rows and matrix.shape[1] != rows[0].shape[1]:
                raise CorpusError(
                    f"{self.sources[role]}: {role} of dialogue {name!r} has width {matrix.shape[1]}, "
                    f"others have {rows[0].shape[1]}: damaged?"
                )
            fine = []
            for index, (key, row) in enumerate(zip(own, matrix, strict=True)):
                if not np.isfinite(row).all():
                    missing[key] = "NaN or infinite in the file"
                elif not row.any():
                    missing[key] = "all zeros in the file"
                else:
                    kept.append(key)
                    fine.append(index)
            rows.append(matrix[fine])
        if not rows:
            raise CorpusError(f"{self.sources[role]}: {role} has none of the dialogues that have labels.")
        features = torch.from_numpy(np.concatenate(rows))
        provenance = {
            "source": "community pickle",
            "layout": self.layout.name,
            "file": self.sources[role].name,
            "sha256": hashlib.sha256(self.sources[role].read_bytes()).hexdigest(),
            "element": role,
            "about": _about(self.layout, role, features.shape[1]),
        }
        return FeatureTable(kept, features, missing, provenance)

    def _matrix(self, role: str, name: str, length: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        try:
            matrix = np.asarray(list(self.parts[role][name]), dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise CorpusError(f"{self.sources[role]}: {role} of dialogue {name!r} are no numbers ({error}).") from error
        if matrix.ndim != 2 or len(matrix) != length:
            raise CorpusError(
                f"{self.sources[role]}: {role} of dialogue {name!r} has shape {matrix.shape}, expected ({length}, d)."
            )
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is reported as such
            return matrix.astype(np.float32)


_KNOWN = {
    ("meld", "text", 600): "trained on MELD's labels",
    ("meld", "audio", 300): "trained on MELD's labels",
    ("iemocap", "audio", 1582): "openSMILE IS10",
    ("iemocap", "visual", 342): "DenseFace",
    ("meld", "visual", 342): "DenseFace",
    ("iemocap", "audio", 100): "of the older family of this file (audio 100, visual 512)",
    ("iemocap", "visual", 512): "of the older family of this file (audio 100, visual 512)",
}


def _about(layout: PickleLayout, role: str, width: int) -> str:
    """What is known of where these features come from; above all, whether they have seen labels."""
    if role in _ROBERTA:  # COSMIC's script stores hidden states -1 to -4 of one checkpoint
        layer = _ROBERTA.index(role) + 1
        return f"RoBERTa fine-tuned on the labels of train, hidden state {layer} from the top"
    if layout.files and role == "text":
        return "EmoBERTa fine-tuned on emotion labels"
    return _KNOWN.get((layout.corpus, role, width), "unknown: the file does not say which encoder made them")


def _follows_offsets(split: str, names: Iterable[str]) -> bool:
    """Whether dialogue numbers are train = d, dev = 1039 + d, test = 1153 + d; train has no dialogue 60."""
    first, end = {"train": (0, _MELD_VAL), "val": (_MELD_VAL, _MELD_TEST), "test": (_MELD_TEST, _MELD_END)}[split]
    return all(first <= int(name) < end and int(name) != 60 for name in names)


def _text(value: object) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _name(key: object) -> str:
    """A dialogue's name: text, without the blanks or the leading zeros of numbers."""
    name = _text(key).strip()
    return str(int(name)) if re.fullmatch(r"[0-9]+", name) else name


def _by_name(part: Mapping[Any, Any], role: str, source: Path) -> dict[str, Any]:
    """The same items by the names of their dialogues."""
    named: dict[str, Any] = {}
    for key, item in part.items():
        if (name := _name(key)) in named:
            raise CorpusError(f"{source}: {role} has dialogue {name!r} twice, the second time as {key!r}: damaged?")
        named[name] = item
    return named


def _whole(value: Any) -> int | None:  # noqa: ANN401 - anything that a file holds
    """A whole number, also if it is written as 2.0; ``None`` for anything else."""
    return int(value) if _is_number(value) and float(value).is_integer() else None


def _order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (-1, name)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_name(value: object) -> bool:
    return isinstance(value, str | bytes | int | np.integer)


def _is_sequence(value: object) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_vector(value: Any) -> bool:  # noqa: ANN401 - anything that a file holds
    return _is_sequence(value) and len(value) > 0 and _is_number(value[0])


_LOOKS: dict[str, Callable[[Any], bool]] = {
    "ids": _is_name,
    "speakers": lambda item: isinstance(item, str) or _is_number(item) or _is_vector(item),
    "labels": _is_number,
    "sentiment": _is_number,
    "sentences": lambda item: isinstance(item, str | bytes),
    **dict.fromkeys(_FEATURES, _is_vector),
    **dict.fromkeys(("train", "val", "test"), _is_name),
}
"""What one entry of an element looks like: of one utterance, or of one dialogue id in a split."""


def _looks_like(role: str, element: Any, corpus: str) -> bool:  # noqa: ANN401 - anything that a file holds
    if role in ("train", "val", "test"):
        if not isinstance(element, set | frozenset) and not _is_sequence(element):
            return False
        return all(_is_name(name) and _of_corpus(name, corpus) for name in element)
    if not isinstance(element, dict) or not element or not all(_of_corpus(key, corpus) for key in element):
        return False
    first = next(iter(element.values()))
    return _is_sequence(first) and all(map(_LOOKS[role], first))


def _of_corpus(name: object, corpus: str) -> bool:
    return re.fullmatch(r"Ses0[1-5][FM].*" if corpus == "iemocap" else r"\s*[0-9]+\s*", _text(name)) is not None


def _describe(value: object) -> str:
    if isinstance(value, dict) and value:
        key, first = next(iter(value.items()))
        return f"a dict of {len(value)} ({key!r}: {_describe(first)})"
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    if isinstance(value, list | tuple | set | frozenset | dict):
        inner = f" ({type(next(iter(value))).__name__})" if value else ""
        return f"a {type(value).__name__} of {len(value)}{inner}"
    return f"a {type(value).__name__}"


def _describe_all(value: object) -> str:
    if not isinstance(value, list | tuple):
        return _describe(value)
    return f"a {type(value).__name__} of {len(value)}: " + "; ".join(map(_describe, value))
