"""The reader of anyone's own conversations: a CSV file, or one per split, with columns recognised by their names."""

from __future__ import annotations

import ast
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from merc.conversation import CORPUS_FILE, SPLITS, WHOLE, Clip, Conversation, Corpus, CorpusError, Utterance, split_name
from merc.labels import LabelSet, UnknownLabelError
from merc.rows import CsvFile, Row, parse_time, read_rows, shown_names

SUFFIXES = (".csv", ".tsv")
"""The files that are read of a folder."""

NAMES: Mapping[str, Sequence[Sequence[str]]] = {
    "dialogue": [["dialogue", "dialogueid", "dialog", "dialogid", "conversation", "conversationid", "conv", "convid"]],
    "text": [["text", "sentence", "transcript", "transcription"], ["utterance"]],
    "utterance": [["utteranceid", "uttid", "utt", "turn", "turnid"], ["utterance"]],
    "speaker": [["speaker", "speakername", "speakerid"]],
    "label": [["emotion", "label", "emotionlabel"]],
    "split": [["split", "set", "partition", "subset"]],
    "start": [["start", "starttime", "begin"]],
    "end": [["end", "endtime", "stop"]],
    "media": [["media", "mediapath", "clip", "clippath"]],
}
"""Names by which a column is recognised, without case and punctuation; later ones if there is none of the first."""

SCENE = ("season", "episode", "scene")
"""Columns that together name a dialogue where none does alone (``sceneid`` as well)."""

_MOST_LABELS = 30
_MOST_DIGITS = 18  # of ids that are taken for numbers
_UNNAMED = "unknown"


@dataclass(frozen=True)
class CsvColumns:
    """Which column holds what. ``None`` recognises it by :data:`NAMES`, an empty name says that there is none.

    Args:
        dialogue: Column of the dialogue id, or several that name it together. They are joined by underscores.
        utterance: Column of the utterance id, unique in its dialogue. Without one, rows are numbered from 0.
        speaker: Column of who speaks, as a name or a Python list of names.
        text: Column of the transcript.
        label: Column of the emotion by name. An empty cell is an utterance without a label.
        split: Column of train, val (or dev) and test. Not read if there is a file for every split.
        partition: Column of the part of the corpus inside which dialogue ids are unique. Never recognised by its
            name. Default: the split.
        start: Column of the start, in seconds (with a decimal point or comma) or as h:mm:ss,mmm.
        end: Column of the end, likewise.
        media: Column of the path of the utterance's own clip, relative to the CSV file.
        video: Column of the path of a longer recording, likewise, in which start and end say where the utterance is.
            Never recognised by its name.
    """

    dialogue: str | Sequence[str] | None = None
    utterance: str | None = None
    speaker: str | None = None
    text: str | None = None
    label: str | None = None
    split: str | None = None
    partition: str | None = None
    start: str | None = None
    end: str | None = None
    media: str | None = None
    video: str | None = None


def read_csv(
    files: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    *,
    labels: LabelSet | Sequence[str] | None = None,
    values: dict[str, tuple[float, float]] | list[str] | None = None,
    name: str | None = None,
    seed: int = 0,
    encoding: str | None = None,
    **columns: Any,  # noqa: ANN401 - those of CsvColumns
) -> Corpus:
    """Read conversations from CSV files of your own, one row per utterance.

    The utterances of a dialogue are taken in the order of their rows, which need not be adjacent. Cells are separated
    by commas, semicolons, tabs or vertical bars. Whatever is inferred is said in the notes of the corpus.

    Args:
        files: One file, one for every split whose names say it (train.csv, dev.csv), or a folder of either. In Python
            also a mapping from splits to files. Dialogues of one file without a column of splits are drawn: 80 %
            train, 10 % val, 10 % test.
        labels: Emotions in the order of their ids. Default: those found in the files, in alphabetical order.
        values: Columns of numbers, such as valence, with the lowest and the highest of their scale; a list of columns
            takes these from the files. An empty cell is a number that is missing. With numbers there may be no labels.
        name: Name of the corpus, for reports. Default: that of the file, or of the folder of several.
        seed: Decides which dialogues are train, val and test where the files do not say it.
        encoding: How the files are encoded, such as cp1251. Default: recognised, or refused if that is not certain.
        **columns: Columns, see :class:`CsvColumns`.

    Returns:
        The corpus. Its notes say which columns were recognised and which were not read, and count utterances without
        a label, clips that are not there, and dialogues whose numeric ids do not ascend in the order of the rows.

    Raises:
        CorpusError: A file or column is missing, several columns could be meant, a label, split or time is unknown,
            an id or speaker is empty, an utterance occurs twice, or a dialogue lies in two splits; with file and line.

    Example:
        >>> corpus = read_csv("my_corpus.csv", speaker="who", dialogue=["show", "scene"])  # doctest: +SKIP
    """
    paths = _files(files)
    first = next(iter(paths.values()))
    table = read_rows(first, encoding=encoding)
    found = _Columns(CsvColumns(**columns), table, split="" in paths, values=list(values or ()))
    tables = {
        split: table if path == first else read_rows(path, found.names, encoding=encoding)
        for split, path in paths.items()
    }
    notes = [note for table in tables.values() for note in table.notes] + found.notes
    name = name or (first.stem if len(paths) == 1 else first.resolve().parent.name) or "csv"
    scales, note = _scales(values or [], tables.values())
    notes += [note] if note else []
    if labels is None and found.label is None and scales:
        labels = ()
    if labels is None:
        labels, note = _found_labels(tables.values(), found)
        notes.append(note)
    if not isinstance(labels, LabelSet):
        labels = LabelSet(name, tuple(label.strip().lower() for label in labels))
    reader = _Reader(labels, found)
    drawn = "" in paths and found.split is None
    for split, table in tables.items():
        reader.read(table, ((WHOLE if drawn else split or _split(table, row, found.split), row) for row in table.rows))
    origin = ", ".join(table.path.name for table in tables.values())
    protocol = f"splits and labels as given in {origin}"
    if drawn:
        protocol = f"{reader.draw(seed)}; labels as given in {origin}"
    return Corpus(name, labels, reader.splits(), protocol, tuple(notes + reader.notes()), scales)


def read_corpus(source: str | Path, **options: Any) -> Corpus:  # noqa: ANN401 - those of read_csv
    """Read a corpus of any kind: one that was imported before, or CSV files.

    Args:
        source: An imported corpus (its folder or its corpus.json), a CSV file, or a folder with one for every split.
        **options: Options of :func:`read_csv`.

    Returns:
        The corpus. Features of an imported corpus stay where they are.

    Raises:
        FileNotFoundError: There is no such file or folder.
        CorpusError: It holds no corpus, or options are given for a corpus that was imported before.
    """
    source = Path(source)
    imported = (source / CORPUS_FILE).is_file() if source.is_dir() else source.suffix.lower() == ".json"
    if not imported:
        return read_csv(source, **options)
    if given := [name for name, value in options.items() if value not in (None, 0)]:
        raise CorpusError(
            f"{source} is an imported corpus: {', '.join(given)} can only be chosen for CSV files. Leave them out, or "
            "import the CSV files again."
        )
    return Corpus.load(source)


def _files(files: str | Path | Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """Files by their split, or one file of all splits under an empty name."""
    if isinstance(files, Mapping):
        named = {split_name(split): Path(path) for split, path in files.items()}
        if len(named) < len(files):
            raise CorpusError(f"Two of the files {', '.join(files)} are the same split: give one file per split.")
        return named
    paths = [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise CorpusError(f"{folder} holds no {CORPUS_FILE} and no CSV file: expected one of them. Check the path.")
    if len(paths) == 1:
        return {"": paths[0]}
    by_split: dict[str, Path] = {}
    for path in paths:
        splits = {split for word in re.split(r"[^a-z]+", path.stem.lower()) if (split := _as_split(word))}
        if len(splits) != 1:
            raise CorpusError(
                f"{path}: its name should say one split: expected train, val (or dev) or test in it. Rename it, name "
                "the files one by one, or give one file with a column of splits."
            )
        if other := by_split.get(split := splits.pop()):
            raise CorpusError(
                f"{other} and {path} are both {split}: expected one file per split. Name them one by one."
            )
        by_split[split] = path
    return by_split


def _as_split(word: str) -> str | None:
    try:
        return split_name(word)
    except ValueError:
        return None


class _Columns:
    """The columns of a file, given or recognised by their names; ``None`` for what it does not have."""

    def __init__(self, given: CsvColumns, table: CsvFile, *, split: bool, values: Sequence[str] = ()) -> None:
        self.table = table
        self.given = {field.name: getattr(given, field.name) for field in fields(given)}
        if not split:
            self.given["split"] = ""
        self.values = list(values)
        self.used = {*self.values, *(column for value in self.given.values() for column in _names(value))}
        if absent := [column for column in self.values if column not in table.columns]:
            raise self._error(f"no column {', '.join(map(repr, absent))} (--values)", "values", several=True)
        for role, value in self.given.items():
            if absent := [column for column in _names(value) if column not in table.columns]:
                raise self._error(f"no column {', '.join(map(repr, absent))} (--{role})", role)
        self.recognised: dict[str, tuple[str, ...]] = {}
        self.dialogue = self._dialogue()
        self.text = self._one("text", required=True)
        self.utterance = self._one("utterance")
        self.speaker = self._one("speaker", required=True)
        self.label = self._one("label", required=not self.values)
        self.split = self._one("split")
        self.start, self.end = self._one("start"), self._one("end")
        self.media = self._one("media")
        self.partition, self.video = given.partition or None, given.video or None

    @property
    def names(self) -> list[str]:
        """All columns that are read."""
        return sorted(self.used)

    @property
    def notes(self) -> list[str]:
        """What was inferred."""
        notes = []
        if self.recognised:
            columns = ", ".join(f"{role} = {' + '.join(names)}" for role, names in self.recognised.items())
            unread = [column for column in self.table.columns if column not in self.used]
            notes.append(
                f"Columns recognised by their names: {columns}." + f" Not read: {', '.join(unread)}." * bool(unread)
            )
        if self.utterance is None:
            notes.append("There is no column of utterance ids: rows are numbered from 0 in their dialogue.")
        if self.speaker is None:
            notes.append(f"There is no column of speakers: all utterances are by one, {_UNNAMED!r}.")
        return notes

    def _dialogue(self) -> tuple[str, ...]:
        if given := _names(self.given["dialogue"]):
            return given
        if (found := self._recognise("dialogue")) is not None:
            return (found,)
        folded = {_fold(column).removesuffix("id"): column for column in self.table.columns if column not in self.used}
        if "scene" not in folded:
            raise self._error("no column of dialogues recognised", "dialogue", several=True)
        columns = tuple(folded[part] for part in SCENE if part in folded)
        self.recognised["dialogue"] = columns
        self.used |= set(columns)
        return columns

    def _one(self, role: str, *, required: bool = False) -> str | None:
        if (given := self.given[role]) is not None:
            return given or None
        found = self._recognise(role)
        if found is None and required:
            raise self._error(f"no column of the {role} recognised", role, absent=True)
        return found

    def _recognise(self, role: str) -> str | None:
        """The one column whose name says that it holds this."""
        for tier in NAMES[role]:
            found = [column for column in self.table.columns if column not in self.used and _fold(column) in tier]
            if role == "text" and tier == ["utterance"]:
                found = [column for column in found if not self._numbers(column)]  # else they are its ids
            if len(found) > 1:
                raise self._error(f"{' and '.join(map(repr, found))} could both be the {role}", role)
            if found:
                self.recognised[role] = (found[0],)
                self.used.add(found[0])
                return found[0]
        return None

    def _numbers(self, column: str) -> bool:
        return all(row.cells[column].isdigit() for row in self.table.rows)

    def _error(self, what: str, role: str, *, several: bool = False, absent: bool = False) -> CorpusError:
        advice = f"Pass --{role} COLUMN" + " (or several columns that name it together)" * several
        advice += f", or --{role}= if there is none" * absent
        return CorpusError(f"{self.table.path}: {what}: found {shown_names(self.table.columns)}. {advice}.")


def _fold(column: str) -> str:
    """A name without case and punctuation: ``Dialogue_ID`` is ``dialogueid``."""
    return re.sub(r"[\W_]+", "", column.lower())


def _names(column: str | Sequence[str] | None) -> tuple[str, ...]:
    """The columns of an option that names none, one or several."""
    if isinstance(column, str):
        return (column,) if column else ()
    return tuple(column or ())


def _found_labels(tables: Iterable[CsvFile], columns: _Columns) -> tuple[tuple[str, ...], str]:
    """The labels of the files in alphabetical order, and a note that says so.

    Not by frequency: whoever corrects a cell, or adds a file, keeps the ids.
    """
    if columns.label is None:
        raise CorpusError("There is no column of labels: expected the emotions. Pass --labels, for example joy anger.")
    counts = Counter(label for table in tables for row in table.rows if (label := row.cells[columns.label].lower()))
    if not 0 < len(counts) <= _MOST_LABELS:
        raise CorpusError(
            f"{columns.table.path}: column {columns.label!r} has {len(counts)} different labels: expected 1 to "
            f"{_MOST_LABELS} emotions. Pass --label COLUMN, or all emotions as --labels, for example joy anger."
        )
    names = tuple(sorted(counts))
    return names, f"Labels as found, in alphabetical order: {', '.join(f'{name} ({counts[name]})' for name in names)}."


def _scales(
    values: Mapping[str, tuple[float, float]] | Sequence[str], tables: Iterable[CsvFile]
) -> tuple[dict[str, tuple[float, float]], str]:
    """The scale of every dimension, and a note if it is that of the numbers in the files."""
    columns: dict[str, list[str]] = {}
    for column in values:
        columns.setdefault(_dimension(column), []).append(column)
    if same := next((found for found in columns.values() if len(found) > 1), None):
        raise CorpusError(
            f"The columns {', '.join(map(repr, same))} would be one dimension, {_dimension(same[0])!r}: expected names "
            "that differ in letters or digits. Rename one of them, or leave it out of --values."
        )
    if isinstance(values, Mapping):
        return {_dimension(column): (low, high) for column, (low, high) in values.items()}, ""
    found: dict[str, tuple[float, float]] = {}
    rows = [(f"{table.path}, line {row.line}", row) for table in tables for row in table.rows]
    for column in values:
        numbers = [_number(row.cells[column], where, column) for where, row in rows if row.cells[column]]
        if len(set(numbers)) < 2:
            raise CorpusError(f"Column {column!r} has {len(set(numbers))} different numbers: expected two or more.")
        found[_dimension(column)] = min(numbers), max(numbers)
    told = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in found.items())
    return found, f"Scales are those of the numbers in the files: {told}." if found else ""


def _dimension(column: str) -> str:
    """The name of a dimension: that of its column, with underscores for all but letters and digits."""
    return re.sub(r"\W+", "_", column).strip("_")


def _number(cell: str, where: str, column: str) -> float:
    try:
        number = float(cell.replace(",", "."))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise CorpusError(f"{where}: column {column!r} has {cell!r}, expected a number or an empty cell.")
    return number


def _split(table: CsvFile, row: Row, column: str | None) -> str:
    assert column is not None
    try:
        return split_name(row.cells[column])
    except ValueError as error:
        raise CorpusError(
            f"{table.path}, line {row.line}, column {column!r}: {error} Pass --split COLUMN, or --split= to draw "
            "splits by dialogue."
        ) from error


class _Reader:
    """Collects the rows of all files, so that ids are unique and dialogues whole across files."""

    def __init__(self, labels: LabelSet, columns: _Columns) -> None:
        self.labels = labels
        self.columns = columns
        self.dialogues: dict[tuple[str, str], list[Utterance]] = {}
        self.split_of: dict[tuple[str, str], str] = {}
        self.parts: dict[str, tuple[str, ...]] = {}
        self.places: dict[tuple[str, str, str], str] = {}
        self.lost_clips = 0
        self.listed = 0
        self.together = 0

    def read(self, table: CsvFile, rows: Iterable[tuple[str, Row]]) -> None:
        columns = self.columns
        split_of_id: dict[str, str] = {}
        for split, row in rows:
            where = f"{table.path}, line {row.line}"
            for column in (*columns.dialogue, columns.utterance, columns.speaker, columns.partition):
                if column is not None and not row.cells[column]:
                    raise CorpusError(f"{where}: column {column!r} is empty. Fill it in.")
            parts = tuple(row.cells[column] for column in columns.dialogue)
            dialogue = "_".join(parts)
            if (known := self.parts.setdefault(dialogue, parts)) != parts:
                raise CorpusError(
                    f"{where}: the dialogues {known} and {parts} are both called {dialogue!r}. Rename one."
                )
            partition = split if columns.partition is None else row.cells[columns.partition]
            identity = (partition, dialogue)
            # Without a partition column the same id in two splits of one file is a leak, not two dialogues.
            held = self.split_of.setdefault(identity, split)
            if columns.partition is None:
                held = split_of_id.setdefault(dialogue, split)
            if held != split:
                raise CorpusError(
                    f"{where}: dialogue {dialogue!r} is of split {split!r}, its earlier rows are of {held!r}: "
                    "a dialogue belongs to one split. Name a partition column if ids are unique only inside it."
                )
            utterances = self.dialogues.setdefault(identity, [])
            name = str(len(utterances)) if columns.utterance is None else row.cells[columns.utterance]
            first = self.places.setdefault((*identity, name), where)
            if first != where:
                raise CorpusError(
                    f"{where}: utterance {name!r} of dialogue {dialogue!r} stands in {first} already: "
                    "an utterance occurs once. Remove one of them, or name all columns that make up the dialogue."
                )
            utterances.append(self._utterance(name, table, row, where))

    def _utterance(self, name: str, table: CsvFile, row: Row, where: str) -> Utterance:
        def cell(column: str | None) -> str:
            return "" if column is None else row.cells[column]

        columns = self.columns
        try:
            label = self.labels.canonical(cell(columns.label)) if cell(columns.label) else None
        except UnknownLabelError as error:
            raise CorpusError(f"{where}: {error}") from error
        media, video = (self._file(table.path.parent, cell(column)) for column in (columns.media, columns.video))
        start, end = (parse_time(cell(column), table.path, row.line) for column in (columns.start, columns.end))
        try:
            clip = None if video is None else Clip(video, start or 0.0, end)
        except CorpusError as error:
            raise CorpusError(f"{where}: {error}") from error
        numbers = {_dimension(c): _number(row.cells[c], where, c) for c in columns.values if row.cells[c]}
        return Utterance(
            id=name,
            speaker=self._speaker(cell(columns.speaker)) or _UNNAMED,
            text=cell(columns.text),
            start=start,
            end=end,
            label=label,
            media=media,
            video=clip,
            values=numbers or None,
        )

    def _speaker(self, cell: str) -> str:
        """The name in a cell, which may be a Python list of names: ``['Monica Geller']``."""
        if not (cell.startswith("[") and cell.endswith("]")):
            return cell
        try:
            names = [str(name).strip() for name in ast.literal_eval(cell)]
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return cell
        self.listed += 1
        self.together += len(names) > 1
        return " & ".join(names)

    def _file(self, folder: Path, name: str) -> str | None:
        """A file that a cell names, or ``None`` if the cell is empty or the file is not there."""
        if not name:
            return None
        if not (folder / name).is_file():
            self.lost_clips += 1
            return None
        return str((folder / name).resolve())

    def draw(self, seed: int) -> str:
        """Say of every dialogue whether it is train, val or test, in the order of a hash of seed and id.

        Unlike a shuffle this depends on neither library versions nor the order of the rows.

        Returns:
            The rule.
        """
        names = sorted(self.dialogues, key=lambda name: hashlib.sha256(f"{seed}:{'/'.join(name)}".encode()).digest())
        if len(names) < 3:
            self.split_of = dict.fromkeys(names, "train")
            return f"all dialogues are train, for {len(names)} cannot be divided into train, val and test"
        tenth = max(1, round(len(names) / 10))
        parts = {"val": names[:tenth], "test": names[tenth : 2 * tenth], "train": names[2 * tenth :]}
        self.split_of = {name: split for split, part in parts.items() for name in part}
        return f"splits drawn by dialogue, 80/10/10 % with seed {seed}"

    def splits(self) -> dict[str, list[Conversation]]:
        splits: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
        for (partition, dialogue), utterances in self.dialogues.items():
            conversation = Conversation(dialogue, tuple(utterances), partition)
            splits[self.split_of[partition, dialogue]].append(conversation)
        return {split: conversations for split, conversations in splits.items() if conversations}

    def notes(self) -> list[str]:
        notes = []
        utterances = [u for dialogue in self.dialogues.values() for u in dialogue]
        if (unlabelled := sum(u.label is None for u in utterances)) and len(self.labels):
            notes.append(f"{unlabelled} of {len(utterances)} utterances have no label and serve as context only.")
        if self.lost_clips:
            notes.append(f"{self.lost_clips} clips that the file names are not there.")
        if self.listed:
            notes.append(
                f"{self.listed} speakers are written as Python lists: their names were taken. {self.together} "
                "utterances are by several people together, who count as one speaker."
            )
        longest = max(map(len, self.dialogues.values()))
        alone = all(len({u.speaker for u in talk}) == len(talk) for talk in self.dialogues.values())
        if (longest > 2 and alone) or len({u.speaker for u in utterances}) == len(utterances) > 1:
            notes.append(
                f"There are as many speakers as utterances: column {self.columns.speaker!r} probably holds ids of "
                "utterances. Networks that follow who speaks learn nothing from it: pass --speaker COLUMN."
            )
        if unsorted := sum(map(_descends, self.dialogues.values())):
            notes.append(f"{unsorted} dialogues have numeric utterance ids that do not ascend; rows give the order.")
        return notes


def _descends(dialogue: Sequence[Utterance]) -> bool:
    ids = [utterance.id for utterance in dialogue]
    if not all(name.isascii() and name.isdigit() and len(name) <= _MOST_DIGITS for name in ids):
        return False
    numbers = [int(name) for name in ids]
    return numbers != sorted(numbers)
