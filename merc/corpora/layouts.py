"""The layouts of community feature files: what the elements of a pickle are, and how each of them looks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from merc.labels import IEMOCAP6, MELD, LabelSet

ROBERTA = ("roberta1", "roberta2", "roberta3", "roberta4")
FEATURES = ("text", "audio", "visual", *ROBERTA)

MOSEI7 = LabelSet(
    "mosei7",
    ("strongly negative", "negative", "weakly negative", "neutral", "weakly positive", "positive", "strongly positive"),
)
"""The seven classes of sentiment that COGMEN and GraphSmile make of CMU-MOSEI."""

MOSEI2 = LabelSet("mosei2", ("negative", "positive"))
"""The two classes of sentiment of COGMEN's CMU-MOSEI; ids as in its pickle."""


@dataclass(frozen=True)
class PickleLayout:
    """What the elements of a community pickle are.

    Args:
        name: Name of the layout, after the system that made it known, and the corpus.
        corpus: ``meld``, ``iemocap`` or ``mosei``.
        elements: Role of every element. ``unverified`` and ``unused`` are ignored; a role with a question mark is used
            if it looks like it; ``labels again`` must agree with ``labels``.
        files: Further files beside ``main``, by name: the roles of their elements, or the one role of the whole file.
        main: The file that holds ``elements``, if there are several.
        labels: The label set, whose ids are those of the pickles.
        text: What is known of where the text vectors come from, unless they are RoBERTa's.
    """

    name: str
    corpus: Literal["meld", "iemocap", "mosei"]
    elements: tuple[str, ...]
    files: Mapping[str, tuple[str, ...] | str] = field(default_factory=dict)
    main: str | None = None
    labels: LabelSet = MELD
    text: str | None = None

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of all elements of all files."""
        others = ((roles,) if isinstance(roles, str) else roles for roles in self.files.values())
        return (*self.elements, *(role for roles in others for role in roles))

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features that files of this layout have: ``text`` is roberta1 where there are four."""
        known = {role.removesuffix(" frames") for role in self.roles} | (
            {"text"} if "roberta1" in self.roles else set()
        )
        return tuple(name for name in FEATURES if name in known and name != "roberta1")

    def misfit(self, value: object, roles: tuple[str, ...] | None = None) -> str | None:
        """Why ``value`` is not of this layout, or ``None`` if it looks as if it were.

        Args:
            value: The content of a file.
            roles: The elements of that file. Default: those of the main one.
        """
        roles = self.elements if roles is None else roles
        if not isinstance(value, list | tuple) or len(value) != len(roles):
            return f"expected a list of {len(roles)}"
        for position, (role, element) in enumerate(zip(roles, value, strict=True)):
            if role in _LOOKS and not looks_like(role, element, self.corpus):
                return f"element {position} is {describe(element)}, expected {role} of {self.corpus}"
            if role in ("labels", "scores") and self.corpus == "mosei" and _are_binary(element) != (role == "labels"):
                found, expected = "only 0 and 1", "numbers from -3 to 3"
                if role == "labels":
                    found, expected = "other labels than 0 and 1", "negative 0 and positive 1"
                return f"element {position} holds {found}, expected {expected}"
        return None


_COMMON = ("ids", "speakers", "labels")
_SPLIT = ("sentences", "train", "test")
_THREE = ("text", "audio", "visual")
_SPEAKERS = ("ids?", "speakers", "labels", *("unverified",) * 3, "sentences?", "train", "test")
_MULTIEMO = {f"{role.capitalize()}Features.pkl": role for role in _THREE}
_EMOBERTA = "EmoBERTa fine-tuned on emotion labels"
_M3NET = ("unused", "audio", "visual", *_SPLIT)
_COSMIC_AGAIN = ("labels again", *ROBERTA, *("unused",) * 4)

LAYOUTS = {
    layout.name: layout
    for layout in (
        PickleLayout("mmgcn-iemocap", "iemocap", (*_COMMON, *_THREE, *_SPLIT), labels=IEMOCAP6),
        PickleLayout("mmgcn-meld", "meld", (*_COMMON, *_THREE, *_SPLIT, "unverified")),
        PickleLayout("bclstm-meld", "meld", (*_COMMON, "text", "audio", *_SPLIT, "sentiment")),
        PickleLayout("sdt-iemocap", "iemocap", (*_COMMON, *ROBERTA, "audio", "visual", *_SPLIT), labels=IEMOCAP6),
        PickleLayout("sdt-meld", "meld", (*_COMMON, *ROBERTA, "audio", "visual", *_SPLIT, "unverified")),
        PickleLayout(
            "cfnesa-meld", "meld", (*_COMMON, "sentiment", *ROBERTA, "audio", "visual", *_SPLIT, "unverified")
        ),
        PickleLayout("cosmic-iemocap", "iemocap", ("speakers", "labels", *ROBERTA, *_SPLIT, "val"), labels=IEMOCAP6),
        PickleLayout("cosmic-meld", "meld", ("speakers", "labels", "sentiment", *ROBERTA, *_SPLIT, "val")),
        PickleLayout(
            "m3net-iemocap",
            "iemocap",
            (*_COMMON, *_M3NET),
            {"iemocap_features_roberta.pkl": ("unused", *_COSMIC_AGAIN)},
            "IEMOCAP_features.pkl",
            IEMOCAP6,
        ),
        PickleLayout(
            "m3net-meld",
            "meld",
            (*_COMMON, *_M3NET, "unverified"),
            {"meld_features_roberta.pkl": ("unused", "labels again", "unused", *_COSMIC_AGAIN[1:])},
            "MELD_features_raw1.pkl",
        ),
        PickleLayout("multiemo-iemocap", "iemocap", _SPEAKERS, _MULTIEMO, "Speakers.pkl", IEMOCAP6, _EMOBERTA),
        PickleLayout("multiemo-meld", "meld", (*_SPEAKERS, "unverified"), _MULTIEMO, "Speakers.pkl", text=_EMOBERTA),
        PickleLayout("cogmen-mosei", "mosei", (*_COMMON, *_THREE, *_SPLIT), labels=MOSEI2),
        PickleLayout("graphsmile-mosei", "mosei", ("ids", "speakers", "scores", *_THREE, *_SPLIT), labels=MOSEI7),
        PickleLayout(
            "tbje-mosei",
            "mosei",
            ("ids", "unused", "scores", "unused", "audio frames", "visual", "words", "train", "val", "test"),
            labels=MOSEI7,
        ),
    )
}
"""The layouts by name."""

ALIASES = {
    "mmdfn-iemocap": "mmgcn-iemocap",
    "mmdfn-meld": "mmgcn-meld",
    "ga2mif-iemocap": "mmgcn-iemocap",
    "ga2mif-meld": "mmgcn-meld",
    "dialoguernn-iemocap": "mmgcn-iemocap",
    "dialoguernn-meld": "bclstm-meld",
    "cogmen-iemocap": "mmgcn-iemocap",
    "corect-iemocap": "mmgcn-iemocap",
    "cfnesa-iemocap": "sdt-iemocap",
    "graphsmile-iemocap": "sdt-iemocap",
    "graphsmile-iemocap4": "mmgcn-iemocap",
    "graphsmile-meld": "cfnesa-meld",
}
"""Systems whose files have the layout of another one."""


def text_of(value: object) -> str:
    """A string or Python 2's bytes as text; nothing (``None``, or the NaN of pandas) is no text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def is_number(value: object) -> bool:
    """Whether a value is a number of Python or numpy."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_name(value: object) -> bool:
    return isinstance(value, str | bytes | int | np.integer)


def _is_sequence(value: object) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_vector(value: Any) -> bool:  # noqa: ANN401 - anything that a file holds
    return _is_sequence(value) and len(value) > 0 and is_number(value[0])


_LOOKS: dict[str, Callable[[Any], bool]] = {
    "ids": _is_name,
    "speakers": lambda item: isinstance(item, str) or is_number(item) or _is_vector(item),
    "labels": is_number,
    "labels again": is_number,
    "scores": lambda item: is_number(item) or _is_vector(item),
    "sentiment": is_number,
    "sentences": lambda item: isinstance(item, str | bytes),
    "words": lambda item: _is_sequence(item) and all(isinstance(word, str | bytes) for word in item),
    "audio frames": lambda item: _is_sequence(item) and len(item) > 0 and _is_vector(item[0]),
    **dict.fromkeys(FEATURES, _is_vector),
    **dict.fromkeys(("train", "val", "test"), _is_name),
}
"""What one entry of an element looks like: of one utterance, or of one dialogue id in a split."""


def looks_like(role: str, element: Any, corpus: str) -> bool:  # noqa: ANN401 - anything that a file holds
    """Whether an element can have a role, by its type, its names of dialogues and its first dialogue."""
    if role in ("train", "val", "test"):
        if not isinstance(element, set | frozenset) and not _is_sequence(element):
            return False
        return all(_is_name(name) and _of_corpus(name, corpus) for name in element)
    if not isinstance(element, dict) or not element or not all(_of_corpus(key, corpus) for key in element):
        return False
    first = next(iter(element.values()))
    return _is_sequence(first) and all(map(_LOOKS[role], first))


def _of_corpus(name: object, corpus: str) -> bool:
    is_iemocap = re.fullmatch(r"Ses0[1-5][FM].*", text_of(name)) is not None
    if corpus == "mosei":  # names of films, or numbers
        return not is_iemocap
    return is_iemocap if corpus == "iemocap" else re.fullmatch(r"\s*[0-9]+\s*", text_of(name)) is not None


def _are_binary(labels: Mapping[Any, Any]) -> bool:
    """Whether all labels of a file are 0 or 1: the first dialogue does not tell classes from sentiments."""
    return all(is_number(label) and label in (0, 1) for rows in labels.values() if _is_sequence(rows) for label in rows)


def describe(value: object) -> str:
    """A value in a few words: its type, its size and its first entry."""
    if isinstance(value, dict) and value:
        key, first = next(iter(value.items()))
        return f"a dict of {len(value)} ({key!r}: {describe(first)})"
    if isinstance(value, np.ndarray):
        return f"an array {value.shape} of {value.dtype}"
    if isinstance(value, list | tuple | set | frozenset | dict):
        inner = f" ({type(next(iter(value))).__name__})" if value else ""
        return f"a {type(value).__name__} of {len(value)}{inner}"
    return f"a {type(value).__name__}"


def describe_all(value: object) -> str:
    """The elements of a pickle in a few words each."""
    if not isinstance(value, list | tuple):
        return describe(value)
    return f"a {type(value).__name__} of {len(value)}: " + "; ".join(map(describe, value))


def fitting(value: object, folder: Path) -> list[str]:
    """Names of the layouts that the main file of a folder has, if their other files lie beside it."""
    return [
        layout.name
        for layout in LAYOUTS.values()
        if layout.misfit(value) is None and all((folder / name).is_file() for name in layout.files)
    ]
