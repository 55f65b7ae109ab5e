"""Community feature files: what published systems train on, by layout."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from merc.conversation import Conversation, Corpus, CorpusError, Utterance, UtteranceKey
from merc.corpora.feature_json import JSON_LAYOUTS, layouts_of, read_feature_json
from merc.corpora.iemocap import USUAL_VALIDATION, draw
from merc.corpora.layouts import (
    ALIASES,
    FEATURES,
    LAYOUTS,
    ROBERTA,
    PickleLayout,
    describe,
    describe_all,
    fitting,
    is_number,
    looks_like,
    text_of,
)
from merc.corpora.unpickle import load_pickle
from merc.features.table import FeaturedCorpus, FeatureTable
from merc.labels import IEMOCAP4, LabelSet, MergeRule, merge_rule

_MELD_VAL, _MELD_TEST, _MELD_END = 1039, 1153, 1433
_NAMES = ("text", "audio", "visual", *ROBERTA[1:])


def import_pickle(
    file: str | Path,
    *,
    layout: str,
    features: Sequence[str] | None = None,
    standardize: Sequence[str] = ("audio", "visual"),
    validation: Literal["usual"] | float | Sequence[str] = "usual",
    seed: int = 0,
    merge: Literal["six", "excited-as-happy", "excited-dropped"] | None = None,
) -> FeaturedCorpus:
    """Read community features: a pickle, several that belong together, or JSON.

    Labels are mapped by name and ids are sorted, so that the result depends on no hash seed. Rows of
    zeros or with NaN, which these files hold where a clip was missing or broken, become missing
    utterances. Layouts without a validation split get one: in IEMOCAP the usual validation dialogues,
    in MELD the dialogues of dev, which such files count as train and number from 1039 on; if there are
    none, a tenth of train in the order of a hash. The protocol says which. Files that belong together are joined by
    the position of the utterance in its dialogue, after their labels have proved that these are the same utterances.

    Args:
        file: The file; for layouts of several files the folder that holds them.
        layout: A name of :data:`LAYOUTS`, :data:`ALIASES` or :data:`JSON_LAYOUTS`.
        features: The features to import; the file must have all of them. Default: every feature of the file.
        standardize: Features, of those that the file has, whose columns get mean 0 and standard deviation 1 over
            train: openSMILE's are in hertz, decibels and counts, and a network, or the error of a reconstruction,
            would see the largest alone. Vectors of text encoders have one scale and stay as they are.
        validation: ``usual`` as above, a fraction in (0, 1) of the dialogues that are not test, or dialogue ids.
        seed: Decides dialogues that are drawn by a fraction.
        merge: For IEMOCAP: six emotions, or four with excited merged into happy or dropped. A file that holds four
            only needs this: it cannot say what became of the excited utterances. Default: six.

    Returns:
        Corpus and features: ``text``, ``audio``, ``visual`` as far as the file has them. ``text`` is
        roberta1 where there are four, and the others are called ``roberta2`` to ``roberta4``.

    Raises:
        FileNotFoundError: A file is missing.
        UnsafePickleError: The pickle asks for more than arrays and containers.
        CorpusError: The file is damaged or of another layout; the message says what it looks like and
            which layouts would fit.
        ValueError: There is no such layout, or there are no such features in it.
    """
    layout = ALIASES.get(layout, layout)
    known = LAYOUTS | JSON_LAYOUTS
    if layout not in known:
        raise ValueError(f"Unknown layout {layout!r}: expected one of {', '.join([*known, *ALIASES])}.")
    if unknown := set(standardize) - set(_NAMES):
        raise ValueError(f"Unknown features {sorted(unknown)} to standardize: expected some of {', '.join(_NAMES)}.")
    has = known[layout].features
    if lacking := [name for name in features or () if name not in has]:
        others = [name for name, other in known.items() if set(features or ()) <= set(other.features)]
        raise ValueError(
            f"Files of layout {layout} have no {' and no '.join(lacking)}: expected some of {', '.join(has)}. "
            + (f"Layouts that have {', '.join(features or ())}: {', '.join(others)}." if others else "")
        )
    if merge is not None and known[layout].corpus != "iemocap":
        raise ValueError(f"Emotions are merged in IEMOCAP only: layout {layout} takes no merge rule.")
    wanted = has if features is None else tuple(features)
    if layout in JSON_LAYOUTS:
        rule = None if merge is None else merge_rule(merge)
        featured = read_feature_json(Path(file), JSON_LAYOUTS[layout], wanted, rule)
    else:
        featured = _read_pickles(Path(file), LAYOUTS[layout], wanted, merge)
    corpus = featured.corpus if validation == "usual" else _with_validation(featured.corpus, validation, seed)
    if merge is not None:
        corpus = replace(corpus, protocol=f"{corpus.protocol}; labels {merge}")
    train = {key for conversation in corpus["train"] for key in conversation.keys}
    for name, table in featured.features.items():
        if name in standardize and train.isdisjoint(table.keys):
            raise CorpusError(
                f"{file}: no training utterance has {name}, over which it would be standardized. Leave it out with "
                "--features, or name in --standardize what is to be standardized."
            )
    tables = {
        name: table.standardized(train) if name in standardize else table for name, table in featured.features.items()
    }
    return FeaturedCorpus(corpus, tables)


def _read_pickles(file: Path, layout: PickleLayout, wanted: Sequence[str], merge: str | None) -> FeaturedCorpus:
    """Corpus and features of one file, or of several that belong together."""
    if layout.main is None and file.is_dir():
        whole = [name for name, other in LAYOUTS.items() if other.main and (file / other.main).is_file()]
        whole += layouts_of(file)
        raise CorpusError(
            f"{file} is a folder, but a layout {layout.name} is one file: give that file."
            + (f" Layouts that this folder may have: {', '.join(whole)}." if whole else "")
        )
    main = file if layout.main is None else (file if file.is_dir() else file.parent) / layout.main
    value = load_pickle(main)
    if why := layout.misfit(value):
        raise CorpusError(
            f"{main} is not of layout {layout.name}: {why}. It is {describe_all(value)}. "
            f"Layouts that fit: {', '.join(fitting(value, main.parent)) or 'none'}."
        )
    parts = dict(zip(layout.elements, value, strict=True))
    sources = dict.fromkeys(parts, main)
    for name, roles in layout.files.items():
        source = main.parent / name
        value = load_pickle(source)
        if isinstance(roles, str):
            if not looks_like(roles, value, layout.corpus):
                raise CorpusError(f"{source} is {describe(value)}, expected {roles} of {layout.corpus}.")
            found = {roles: value}
        else:
            if why := layout.misfit(value, roles):
                raise CorpusError(
                    f"{source} is not what layout {layout.name} has beside {main.name}: {why}. It is "
                    f"{describe_all(value)}. Give a folder with both files."
                )
            found = dict(zip(roles, value, strict=True))
        parts |= found
        sources |= dict.fromkeys(found, source)
    try:
        return _Importer(layout, main, parts, sources, merge).run(wanted)
    except CorpusError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise CorpusError(
            f"{main} looks like {layout.name} at its first dialogue, but not throughout "
            f"({type(error).__name__}: {error}). Download it again."
        ) from error


def _with_validation(corpus: Corpus, validation: float | str | Sequence[str], seed: int) -> Corpus:
    """The corpus with other validation dialogues: keys of utterances stay."""
    rest = sorted([*corpus["train"], *corpus["val"]], key=lambda c: (c.partition, _order(c.id)))
    ids = [conversation.id for conversation in rest]
    repeated = len(set(ids)) < len(ids)
    names = [f"{c.partition}/{c.id}" if repeated else c.id for c in rest]
    if isinstance(validation, float | int):
        if not 0 < validation < 1:
            raise ValueError(f"The validation fraction is {validation}, expected one between 0 and 1.")
        chosen = draw(sorted(names), max(1, math.floor(validation * len(names))), seed)
        rule = f"{validation:.0%} of the other dialogues drawn as validation (seed {seed})"
    elif isinstance(validation, str):
        raise ValueError(f"Unknown validation {validation!r}: expected usual, a fraction or dialogue ids.")
    else:
        chosen, rule = list(validation), f"{len(validation)} validation dialogues as given"
    if wrong := sorted(set(chosen) - set(names)):
        raise CorpusError(
            f"Validation dialogues {', '.join(wrong)} are not among the {len(names)} that are not test: expected ids "
            f"such as {names[0]}."
        )
    splits = {
        "train": [c for c, name in zip(rest, names, strict=True) if name not in chosen],
        "val": [c for c, name in zip(rest, names, strict=True) if name in chosen],
        "test": corpus["test"],
    }
    protocol = f"{corpus.protocol.split(':')[0]}: its own test dialogues; {rule}"
    return Corpus(corpus.name, corpus.labels, splits, protocol, corpus.notes)


class _Importer:
    """Turns the named parts of pickles into conversations and tables."""

    def __init__(
        self,
        layout: PickleLayout,
        path: Path,
        parts: Mapping[str, Any],
        sources: Mapping[str, Path],
        merge: str | None,
    ) -> None:
        self.layout = layout
        self.path = path
        self.sources = dict(sources)
        # Keys become text at once: files mix int, numpy integers and strings for the same dialogue.
        self.parts = {
            role: _by_name(part, role, sources[role]) if isinstance(part, dict) else part
            for role, part in parts.items()
        }
        self.notes: list[str] = []
        for role in ("ids", "sentences"):
            if role not in parts and looks_like(role, parts.get(f"{role}?"), layout.corpus):
                self.parts[role] = self.parts[f"{role}?"]
        if "scores" in self.parts:
            self.parts["labels"] = self._classes(self.parts["scores"])
        if "words" in self.parts:
            self.parts["sentences"] = {
                name: [" ".join(map(text_of, words)) for words in rows] for name, rows in self.parts["words"].items()
            }
        if "audio frames" in self.parts:
            self.parts["audio"] = {
                name: [np.asarray(frames, np.float64).mean(0) for frames in rows]
                for name, rows in self.parts["audio frames"].items()
            }
            self.sources["audio"] = path
        self._check_alignment()
        self.labels, self.rule = self._merging(merge)

    def run(self, wanted: Sequence[str]) -> FeaturedCorpus:
        splits, protocol = self._splits()
        offsets = self.layout.corpus == "meld" and all(_is_of(split, names) for split, names in splits.items())
        conversations = {
            split: [self._conversation(name, *self._place(split, name, offsets)) for name in names]
            for split, names in splits.items()
        }
        self._note_origin(splits, offsets)
        labels = self.labels if self.rule is None else self.rule.target
        corpus = Corpus(self.layout.corpus, labels, conversations, protocol, tuple(self.notes))
        keys = {
            name: conversation.keys
            for split, names in splits.items()
            for name, conversation in zip(names, conversations[split], strict=True)
        }
        roles = {"text" if role == "roberta1" else role: role for role in FEATURES if role in self.parts}
        return FeaturedCorpus(corpus, {name: self._table(roles[name], keys) for name in wanted})

    def _check_alignment(self) -> None:
        """Refuse files whose rows are not of the same utterances: they are joined by position."""
        again = self.parts.get("labels again", {})
        beside = [role for role, source in self.sources.items() if again and source == self.sources["labels again"]]
        for role in set(beside) & set(FEATURES):
            if unproved := sorted(self.parts[role].keys() & self.parts["labels"].keys() - again.keys(), key=_order):
                raise CorpusError(
                    f"{self.sources[role]} has {role} of dialogue {unproved[0]!r} but no labels, which would prove "
                    f"that its rows are the utterances of {self.path}: damaged?"
                )
        for name, labels in again.items():
            mine = self.parts["labels"].get(name)
            if mine is not None and list(map(_whole, mine)) != list(map(_whole, labels)):
                raise CorpusError(
                    f"{self.sources['labels again']} has other labels in dialogue {name!r} than {self.path}: expected "
                    "the same ones, for these files are joined by the position of utterances. Take both files from one "
                    "release."
                )

    def _merging(self, merge: str | None) -> tuple[LabelSet, MergeRule | None]:
        """What label ids mean, and the rule to apply to that: a file may hold four emotions already."""
        rule = None if merge is None else merge_rule(merge)
        every = self.parts["labels"]
        ids = [_whole(label) for labels in every.values() for label in labels]
        if self.layout.corpus != "iemocap" or not all(index in range(len(IEMOCAP4)) for index in ids):
            return self.layout.labels, rule
        if rule is None or rule.target != IEMOCAP4:
            happy = sum(_whole(label) == 0 for name in every if name.startswith("Ses05") for label in every[name])
            raise CorpusError(
                f"{self.path} holds the label ids 0 to 3 only: it is a four-way file, and what became of the excited "
                "utterances decides which scores it can be compared with. Expected --merge excited-dropped (the usual "
                "files have 144 happy utterances in session 5 then) or --merge excited-as-happy (443); this one has "
                f"{happy}."
            )
        self.notes.append("The file holds four emotions: whoever made it merged or dropped the others.")
        return IEMOCAP4, None

    def _classes(self, scores: Mapping[str, Any]) -> dict[str, list[int]]:
        """The classes of sentiments from -3 to 3, as COGMEN and GraphSmile cut them."""
        values = {
            name: [float(np.ravel(np.asarray(score, np.float64))[0]) for score in rows] for name, rows in scores.items()
        }
        flat = [value for rows in values.values() for value in rows]
        if wrong := [value for value in flat if not -3 <= value <= 3]:
            raise CorpusError(f"{self.path} holds the sentiment {wrong[0]}, expected numbers from -3 to 3: damaged?")
        self.notes.append(
            "The file holds sentiments from -3 to 3. Classes are: below -2, below -1, below 0, 0, up to 1, up to 2, "
            "above 2, as COGMEN and GraphSmile have them, which is not rounding."
        )
        return {name: [_class_of(value) for value in rows] for name, rows in values.items()}

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
        for one, other in combinations(found, 2):
            if twice := sorted(set(found[one]) & set(found[other])):
                raise CorpusError(f"{self.path}: dialogue {twice[0]!r} is in {one} and {other}: damaged?")
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
        elif self.layout.corpus == "meld" and _is_of("train", [name for name in train if int(name) < _MELD_VAL]):
            dev = {name for name in train if _MELD_VAL <= int(name) < _MELD_TEST}
            if dev:
                return dev, f"validation is MELD's dev, the {len(dev)} train dialogues numbered from {_MELD_VAL} on"
        tenth = set(draw(train, max(1, len(train) // 10), seed=0))
        return tenth, f"validation is a tenth of train ({len(tenth)} dialogues in the order of a hash)"

    def _place(self, split: str, name: str, offsets: bool) -> tuple[str, str]:
        """Partition and dialogue id."""
        if self.layout.corpus == "iemocap":
            return f"session{name[4]}", name
        if not offsets:
            return split, name
        return split, str(int(name) - {"train": 0, "val": _MELD_VAL, "test": _MELD_TEST}[split])

    def _conversation(self, name: str, partition: str, dialogue: str) -> Conversation:
        labels = self.parts["labels"][name]
        columns: dict[str, Sequence[Any]] = {"labels": labels}
        for role in ("speakers", "sentences", "ids"):
            empty = "speaker" if role == "speakers" else ""
            columns[role] = self.parts[role].get(name, ()) if role in self.parts else (empty,) * len(labels)
            if len(columns[role]) != len(labels):
                raise CorpusError(
                    f"{self.path}: dialogue {name!r} has {len(labels)} labels but {len(columns[role])} {role}: damaged?"
                )
        utterances = tuple(
            Utterance(
                id=self._utterance_id(ids, index) if "ids" in self.parts else str(index),
                speaker=self._speaker(name, speaker),
                text=text_of(sentence),
                label=self._label(name, label),
            )
            for index, (ids, speaker, sentence, label) in enumerate(
                zip(columns["ids"], columns["speakers"], columns["sentences"], labels, strict=True)
            )
        )
        return Conversation(dialogue, utterances, partition)

    def _utterance_id(self, found: object, index: int) -> str:
        """The id as the corpus's own reader spells it: MELD's files hold ``3`` or ``dia0_utt3``."""
        name = text_of(found)
        match = re.fullmatch(r"(?:.*utt)?(\d+)", name) if self.layout.corpus == "meld" else None
        return str(int(match[1])) if match else name

    def _label(self, dialogue: str, label: object) -> str | None:
        names = self.labels.names
        index = _whole(label)
        if index is None or not 0 <= index < len(names):
            raise CorpusError(
                f"{self.path}: dialogue {dialogue!r} has label id {label}, expected 0 to {len(names) - 1} "
                f"({', '.join(names)})."
            )
        return names[index] if self.rule is None else self.rule.apply(names[index])

    def _speaker(self, dialogue: str, speaker: object) -> str:
        name = text_of(speaker)
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
        elif self.layout.corpus == "meld" and not offsets:
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
    if role in ROBERTA:  # COSMIC's script stores hidden states -1 to -4 of one checkpoint
        layer = ROBERTA.index(role) + 1
        return f"RoBERTa fine-tuned on the labels of train, hidden state {layer} from the top"
    if layout.text is not None and role == "text":
        return layout.text
    return _KNOWN.get((layout.corpus, role, width), "unknown: the file does not say which encoder made them")


def _is_of(split: str, names: Iterable[str]) -> bool:
    """Whether dialogue numbers are train = d, dev = 1039 + d, test = 1153 + d; train has no dialogue 60."""
    first, end = {"train": (0, _MELD_VAL), "val": (_MELD_VAL, _MELD_TEST), "test": (_MELD_TEST, _MELD_END)}[split]
    return all(first <= int(name) < end and int(name) != 60 for name in names)


def _name(key: object) -> str:
    """A dialogue's name: text, without the blanks or the leading zeros of numbers."""
    name = text_of(key).strip()
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
    return int(value) if is_number(value) and float(value).is_integer() else None


def _order(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (-1, name)


def _class_of(sentiment: float) -> int:
    """Which of the seven classes a sentiment is of; positive ones are open below, negative ones above."""
    return 3 + sum(sentiment > bound for bound in (0, 1, 2)) - sum(sentiment < bound for bound in (0, -1, -2))
