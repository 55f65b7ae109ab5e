"""JSON features of DAG-ERC and of the systems built on it: a file for each split, without ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from merc.conversation import Conversation, Corpus, CorpusError, Utterance, UtteranceKey
from merc.corpora.layouts import text_of
from merc.features.table import FeaturedCorpus, FeatureTable
from merc.files import parse_json
from merc.labels import IEMOCAP6, MELD, LabelSet, MergeRule, UnknownLabelError


@dataclass(frozen=True)
class JsonLayout:
    """What the JSON files of a system hold: for each split a list of dialogues, each a list of utterances.

    An utterance is an object with ``text``, ``speaker``, perhaps ``label``, and ``cls``: the vector of a RoBERTa that
    was fine-tuned on the corpus, or a list of vectors of text, sound and face.

    Args:
        name: Name of the layout.
        corpus: Name of the corpus.
        suffix: Files are called ``train``, ``dev`` and ``test`` and end in this.
        features: What ``cls`` holds, in order.
        labels: The label set; ``None`` for the labels of the files in alphabetical order.
    """

    name: str
    corpus: Literal["meld", "iemocap", "emorynlp", "dailydialog"]
    suffix: str
    features: tuple[str, ...]
    labels: LabelSet | None


_DAGERC, _MULTIDAG = "_data_roberta.json.feature", "_data_roberta_mm.json.feature"
_THREE = ("text", "audio", "visual")

JSON_LAYOUTS = {
    layout.name: layout
    for layout in (
        JsonLayout("dagerc-meld", "meld", _DAGERC, ("text",), MELD),
        JsonLayout("dagerc-iemocap", "iemocap", _DAGERC, ("text",), IEMOCAP6),
        JsonLayout("dagerc-emorynlp", "emorynlp", _DAGERC, ("text",), None),
        JsonLayout("dagerc-dailydialog", "dailydialog", _DAGERC, ("text",), None),
        JsonLayout("multidag-meld", "meld", _MULTIDAG, _THREE, MELD),
        JsonLayout("multidag-iemocap", "iemocap", _MULTIDAG, _THREE, IEMOCAP6),
    )
}
"""The layouts by name."""


def read_feature_json(
    folder: Path, layout: JsonLayout, wanted: Sequence[str], rule: MergeRule | None = None
) -> FeaturedCorpus:
    """Read the files of a folder.

    They name neither dialogues nor utterances: ids are positions, so these features go with no other source.

    Args:
        folder: Holds the files of the three splits; one of the files will do.
        layout: What is in them.
        wanted: The features to keep.
        rule: How to merge the emotions of IEMOCAP.

    Raises:
        FileNotFoundError: A file is missing.
        CorpusError: A file holds something else.
    """
    folder = folder if folder.is_dir() else folder.parent
    files = {split: folder / f"{name}{layout.suffix}" for split, name in _FILES.items()}
    for file in files.values():
        if not file.is_file():
            raise FileNotFoundError(
                f"No file {file}: expected {', '.join(f.name for f in files.values())}.{_hint(folder)}"
            )
    dialogues = {split: list(_dialogues(file)) for split, file in files.items()}
    found = sorted({str(u["label"]) for talks in dialogues.values() for talk in talks for u in talk if _has_label(u)})
    labels = LabelSet(layout.corpus, tuple(found)) if layout.labels is None else layout.labels
    conversations: dict[str, list[Conversation]] = {}
    keys: list[UtteranceKey] = []
    rows: dict[str, list[Any]] = {name: [] for name in layout.features}
    for split, talks in dialogues.items():
        conversations[split] = []
        for number, talk in enumerate(talks):
            where = f"{files[split]}, dialogue {number}"
            utterances = tuple(_utterance(u, str(i), labels, rule, where, _hint(folder)) for i, u in enumerate(talk))
            conversations[split].append(Conversation(str(number), utterances, split))
            keys += conversations[split][-1].keys
            for index, utterance in enumerate(talk):
                vectors = [utterance["cls"]] if len(rows) == 1 else utterance["cls"]
                if not _are_vectors(vectors, len(rows)):
                    raise CorpusError(
                        f"{where}, utterance {index}: cls is not {'a vector' if len(rows) == 1 else 'three vectors'}, "
                        f"as layout {layout.name} has it.{_hint(folder)}"
                    )
                for name, vector in zip(rows, vectors, strict=True):
                    rows[name].append(vector)
    notes = [
        "The files name neither dialogues nor utterances: ids are positions. Do not mix these features with others.",
        *(["Labels as found, in alphabetical order."] if layout.labels is None else []),
    ]
    protocol = f"{layout.name} JSON: its own train, validation and test dialogues"
    corpus = Corpus(layout.corpus, labels if rule is None else rule.target, conversations, protocol, tuple(notes))
    about = "RoBERTa fine-tuned on the labels of train"
    provenance = {
        "source": "community JSON",
        "layout": layout.name,
        "files": [{"name": f.name, "sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in files.values()],
    }
    tables = {
        name: _table(keys, rows[name], {**provenance, "about": about if name == "text" else "unknown"}, name, folder)
        for name in wanted
    }
    return FeaturedCorpus(corpus, tables)


_FILES = {"train": "train", "val": "dev", "test": "test"}


def layouts_of(folder: Path) -> list[str]:
    """Which layouts the files in a folder can be of, by their names."""
    return [layout.name for layout in JSON_LAYOUTS.values() if (folder / f"train{layout.suffix}").is_file()]


def _hint(folder: Path) -> str:
    names = ", ".join(layouts_of(folder))
    return f" By their names the files of this folder can be of {names}." if names else ""


def _dialogues(file: Path) -> Iterator[list[dict[str, Any]]]:
    """The dialogues of a file, each checked to be a list of utterances."""
    try:
        value = parse_json(file.read_bytes())
    except ValueError as error:
        raise CorpusError(f"{file} is not JSON ({error}). Download it again.") from error
    if not isinstance(value, list):
        raise CorpusError(f"{file} holds a {type(value).__name__}, expected a list of dialogues.")
    for number, talk in enumerate(value):
        if not isinstance(talk, list) or not talk or not all(isinstance(u, dict) and _NEEDED <= u.keys() for u in talk):
            raise CorpusError(
                f"{file}, dialogue {number}: expected a list of objects with {', '.join(sorted(_NEEDED))}. Is it the "
                "file with features (.json.feature), not the transcripts?"
            )
        yield talk


_NEEDED = {"text", "speaker", "cls"}


def _utterance(
    found: Mapping[str, Any], name: str, labels: LabelSet, rule: MergeRule | None, where: str, hint: str
) -> Utterance:
    try:
        label = labels.canonical(str(found["label"])) if _has_label(found) else None
    except UnknownLabelError as error:
        raise CorpusError(f"{where}, utterance {name}: {error}{hint}") from error
    return Utterance(
        name,
        text_of(found["speaker"]),
        text_of(found["text"]),
        label=label if rule is None else rule.apply(label),
    )


def _has_label(found: Mapping[str, Any]) -> bool:
    return found.get("label") not in (None, "")  # 0 is one


def _are_vectors(value: object, count: int) -> bool:
    """Whether a value is so many lists of numbers."""
    return (
        isinstance(value, list)
        and len(value) == count
        and all(isinstance(v, list) and v and all(type(x) in (int, float) for x in v) for v in value)
    )


def _table(
    keys: Sequence[UtteranceKey], rows: Sequence[list[float]], provenance: Mapping[str, Any], name: str, folder: Path
) -> FeatureTable:
    """The vectors of all utterances; zeros, by which the files mark missing clips, become missing utterances."""
    if len(widths := {len(row) for row in rows}) != 1:
        raise CorpusError(f"{folder}: vectors of {name} have the widths {sorted(widths)}, expected one: damaged?")
    try:
        features = torch.tensor(rows, dtype=torch.float64).float()
    except OverflowError as error:
        raise CorpusError(f"{folder}: a vector of {name} has a number that no float holds: damaged?") from error
    finite = torch.isfinite(features).all(1)
    present = finite & features.ne(0).any(1)
    missing = {
        key: "all zeros in the file" if fine else "NaN or infinite in the file"
        for key, fine, there in zip(keys, finite.tolist(), present.tolist(), strict=True)
        if not there
    }
    kept = [key for key, there in zip(keys, present.tolist(), strict=True) if there]
    return FeatureTable(kept, features[present], missing, provenance)
