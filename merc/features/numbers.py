"""Tables of numbers: CSV files with one row per utterance become features of a corpus."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any, Literal

import torch
from torch import Tensor

from merc.conversation import Corpus, CorpusError, UtteranceKey, split_name
from merc.features.table import FeatureTable, check_bound
from merc.rows import CsvFile, Row, read_rows

CLIP_PATTERN = r"(?:.*[/\\])?dia(?P<dialogue>\d+)_utt(?P<utterance>\d+)(?:\.\w+)?"
"""MELD's file names, for example ``dia12_utt3.wav``: the default for :class:`KeyColumns`."""

_LARGEST = float(torch.finfo(torch.float32).max)


@dataclass(frozen=True)
class KeyColumns:
    """The columns of a table that identify the utterance of a row.

    Args:
        key: Column that ``pattern`` is matched against. Default: the first column.
        pattern: Regular expression for the whole cell with the groups ``dialogue`` and ``utterance``,
            and ``partition`` if the cell contains it.
        partition: Column of the partition, if there is one.
        dialogue: Column of the dialogue id, instead of ``pattern``; needs ``utterance`` too.
        utterance: Column of the utterance id, instead of ``pattern``; needs ``dialogue`` too.

    Raises:
        ValueError: The pattern is not a regular expression or lacks a group, or only one of ``dialogue`` and
            ``utterance`` is given.
    """

    key: str | None = None
    pattern: str = CLIP_PATTERN
    partition: str | None = None
    dialogue: str | None = None
    utterance: str | None = None

    def __post_init__(self) -> None:
        """Check that the columns or the pattern identify an utterance."""
        if (self.dialogue is None) != (self.utterance is None):
            raise ValueError("Give both a dialogue and an utterance column, or neither to match a pattern.")
        try:
            groups = re.compile(self.pattern).groupindex
        except re.error as error:
            raise ValueError(f"{self.pattern!r} is not a regular expression: {error}.") from error
        if not {"dialogue", "utterance"} <= groups.keys():
            raise ValueError(f"{self.pattern!r} needs the groups (?P<dialogue>...) and (?P<utterance>...).")

    def used(self, table: CsvFile) -> list[str]:
        """The columns of ``table`` that identify the utterance, and therefore contain no features."""
        chosen = [self.dialogue, self.utterance] if self.dialogue else [self.key or table.columns[0]]
        return [column for column in (*chosen, self.partition) if column is not None]

    def find(self, table: CsvFile, row: Row) -> tuple[str | None, str, str]:
        """Partition (``None`` if the row does not contain it), dialogue and utterance of a row.

        Raises:
            CorpusError: The pattern does not match.
        """
        if self.dialogue and self.utterance:
            found: dict[str, str | None] = {
                "dialogue": row.cells[self.dialogue],
                "utterance": row.cells[self.utterance],
            }
        else:
            cell = row.cells[self.key or table.columns[0]].strip("'")  # SMILExtract quotes names
            match = re.fullmatch(self.pattern, cell)
            if match is None:
                raise CorpusError(
                    f"{table.path}, line {row.line}: {cell!r} does not match {self.pattern!r}. "
                    "Pass a pattern that matches your names."
                )
            found = match.groupdict()
        partition = row.cells[self.partition] if self.partition else found.get("partition")
        return partition, found["dialogue"] or "", found["utterance"] or ""


def import_table(
    files: Sequence[str | Path] | Mapping[str, str | Path],
    corpus: Corpus,
    *,
    keys: KeyColumns | None = None,
    values: Sequence[str] | None = None,
    standardize: bool = True,
    bound: float | None = 10.0,
    frames: Literal["mean", "mean-std"] | None = None,
) -> FeatureTable:
    """Read columns of numbers as features of a corpus.

    Columns in which no cell is a number, such as file, start and end of openSMILE, are left out, and so are the frame
    times of openSMILE and what OpenFace says of its frames beside the face. A table of OpenFace has a row for every
    frame, and the name of its file says the utterance; frames without a face are left out.

    Empty cells are never read as zeros. A column with empty cells is filled with its median over the train split, and
    a column ``<name>_empty`` of zeros and ones is appended, which marks the empty cells. A row without any number is
    recorded as missing, and so is an utterance without a row. Rows of utterances that are not in the corpus are left
    out and counted.

    With ``standardize`` every column has mean 0 and standard deviation 1 over the train split; a column that is
    constant there is only centred. Standardized values beyond ``bound`` are clipped and counted: a wrongly cut clip
    that lasts minutes would otherwise be a hundred deviations from all others. All statistics come from the train split
    and are recorded in the provenance.

    Args:
        files: CSV files, either by partition (``{"train": ...}``) or as a list. In a list, the partition comes from the
            row, otherwise from the name of the file (``dev_audio.csv`` is ``val``), otherwise from the only utterance
            of the corpus with these dialogue and utterance ids.
        corpus: The corpus that contains the utterances.
        keys: Columns that identify an utterance. Default: a first column of names like ``dia12_utt3.wav``.
        values: Columns of numbers, in this order. Default: all columns that are not part of the key.
        standardize: Scale by the statistics of the train split.
        bound: Largest absolute standardized value; ``None`` for no bound.
        frames: What to make of several rows of an utterance: ``mean``, or mean and standard deviation of every column.
            Without it they are refused.

    Returns:
        Features ``(N, d)`` in the order of the corpus: the columns and their indicators.

    Raises:
        CorpusError: A file or column is missing, a cell is neither empty nor a finite number, a row
            identifies no utterance, an utterance has two rows, or a column has no number in the train split. The
            message gives file and line.
        ValueError: ``bound`` is not positive.
    """
    keys = keys or KeyColumns()
    if bound is not None:
        check_bound(bound)
    if "train" not in corpus:
        raise CorpusError(f"Corpus {corpus.name!r} has no train split, which is needed for the statistics.")
    order = [key for split in corpus.values() for conversation in split for key in conversation.keys]
    finder = KeyFinder(order)
    tables, columns, collected, skipped = _collect(files, finder, keys, values, frames is not None)
    rows = {key: found[0] for key, found in collected.items()} if frames is None else {}
    if frames is not None:
        rows = {key: _aggregated(found, frames) for key, found in collected.items()}
        if frames == "mean-std":
            columns = [f"{column}_mean" for column in columns] + [f"{column}_std" for column in columns]
    if not columns:
        raise CorpusError("There are no columns of numbers, expected at least one beside the key. Check the files.")
    extra = [key for key in rows if key not in finder.known]
    if len(extra) == len(rows):
        raise CorpusError(
            f"No row belongs to an utterance of corpus {corpus.name!r}: the first row is {extra[0]}, "
            f"the first utterance is {order[0]}. Check partitions and key columns."
        )
    missing = {key: "no row in the table" for key in order if key not in rows}
    missing |= {key: "its row contains no number" for key in order if key in rows and set(rows[key]) == {None}}
    present = [key for key in order if key not in missing]
    train = {key for conversation in corpus["train"] for key in conversation.keys}
    features, statistics = _to_tensor([rows[key] for key in present], columns, [key in train for key in present])
    notes = [note for table in tables for note in table.notes]
    if skipped:
        notes.append(f"Columns that are no features were left out: {', '.join(skipped)}.")
    if extra:
        notes.append(f"{len(extra)} rows belong to utterances that are not in the corpus: {_some(extra)}.")
    if standardize:
        numbers = features[:, : len(columns)]
        numbers -= torch.tensor([entry["mean"] for entry in statistics], dtype=torch.float64)
        numbers /= torch.tensor([entry["std"] or 1.0 for entry in statistics], dtype=torch.float64)
        if bound is not None and (beyond := numbers.abs() > bound).any():
            where_beyond = [key for key, hit in zip(present, beyond.any(dim=1).tolist(), strict=True) if hit]
            notes.append(f"{int(beyond.sum())} values beyond {bound:g} deviations were clipped: {_some(where_beyond)}.")
            numbers.clamp_(-bound, bound)
    with_empty_cells = [entry["column"] for entry in statistics if "median" in entry]
    provenance = {
        "source": "table of numbers",
        "files": [{"name": table.path.name, "sha256": _sha256(table.path)} for table in tables],
        "corpus": corpus.name,
        "columns": columns + [f"{column}_empty" for column in with_empty_cells],
        "standardized": standardize,
        "bound": bound if standardize else None,
        "statistics": statistics,
        "statistics_of": "train split",
        "filled": "empty cells with the median of the train split; columns *_empty mark them"
        if with_empty_cells
        else "",
        "notes": notes,
    }
    return FeatureTable(present, features.float(), {key: missing[key] for key in order if key in missing}, provenance)


def _collect(
    files: Sequence[str | Path] | Mapping[str, str | Path],
    finder: KeyFinder,
    keys: KeyColumns,
    values: Sequence[str] | None,
    several: bool,
) -> tuple[list[CsvFile], list[str], dict[UtteranceKey, list[list[float | None]]], list[str]]:
    """Read the files: contents, the columns of numbers that they share, rows per utterance, and columns left out."""
    tables: list[CsvFile] = []
    columns: list[str] = []
    skipped: list[str] = []
    rows: dict[UtteranceKey, list[list[float | None]]] = {}
    places: dict[UtteranceKey, tuple[Path, str]] = {}
    for given, path in files.items() if isinstance(files, Mapping) else [(None, path) for path in files]:
        named = (*(values or ()), keys.key, keys.partition, keys.dialogue, keys.utterance)
        table = read_rows(path, [column for column in named if column])
        tables.append(table)
        of_frames = set(table.columns) >= {"frame", "timestamp"}  # of OpenFace, where no column names the utterance
        used = (
            set(table.columns) & _NO_FACE if of_frames else {*keys.used(table), *(set(table.columns) & {"frameTime"})}
        )
        others = [column for column in table.columns if column not in used]
        found = list(values) if values else [column for column in others if not _is_text(table, column)]
        skipped += [column for column in table.columns if column not in (*found, *skipped, table.columns[0])]
        if columns and found != columns:
            raise CorpusError(
                f"{path} has the columns {found}, {tables[0].path} has {columns}. Expected the same columns."
            )
        columns = found
        partition = finder.partition_of(table.path) if given is None else finder.canonical(given)
        for row in table.rows:
            where = f"{table.path}, line {row.line}"
            if of_frames and row.cells.get("success", "1") == "0":
                continue
            said, dialogue, utterance = _of_name(table, keys) if of_frames else keys.find(table, row)
            key = finder.find(partition if said is None else finder.canonical(said), dialogue, utterance, where)
            if key in places and not (several and places[key][0] == table.path):
                advice = "" if several else " If they are frames, pass --frames mean or --frames mean-std."
                raise CorpusError(
                    f"{where}: {key} already has a row in {places[key][1]}. Expected one row per utterance.{advice}"
                )
            places.setdefault(key, (table.path, where))
            rows.setdefault(key, []).append([_number(row.cells[column], column, where) for column in columns])
    return tables, columns, rows, skipped


_NO_FACE = {"frame", "face_id", "timestamp", "confidence", "success"}
"""Columns of OpenFace that count frames and say how sure it is."""


def _is_text(table: CsvFile, column: str) -> bool:
    """Whether a column has words in its cells, and no number."""
    cells = [cell for row in table.rows if (cell := row.cells[column])]
    return bool(cells) and not any(map(_is_number, cells))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _of_name(table: CsvFile, keys: KeyColumns) -> tuple[str | None, str, str]:
    """Partition, dialogue and utterance that the name of a file of frames says."""
    match = re.fullmatch(keys.pattern, table.path.name)
    if match is None:
        raise CorpusError(
            f"{table.path} has a row for every frame, as OpenFace writes it, and its name does not say of which "
            "utterance: expected a file for every clip, named like dia0_utt0.csv. Pass a pattern that matches yours."
        )
    found = match.groupdict()
    return found.get("partition"), found["dialogue"], found["utterance"]


def _aggregated(rows: Sequence[Sequence[float | None]], frames: str) -> list[float | None]:
    """One row of several: the mean of every column over the rows that have it, and perhaps the standard deviation."""
    columns = [[cell for cell in cells if cell is not None] for cells in zip(*rows, strict=True)]
    means = [fmean(cells) if cells else None for cells in columns]
    if frames == "mean":
        return means
    return [*means, *(pstdev(cells) if cells else None for cells in columns)]


def _to_tensor(
    rows: Sequence[Sequence[float | None]], columns: Sequence[str], is_train: Sequence[bool]
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Rows ``(N, d + indicators)`` in float64 with empty cells filled, and the train statistics of each column."""
    filled, indicators, entries = [], [], []
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        known = [cell for cell, train in zip(cells, is_train, strict=True) if train and cell is not None]
        if not known:
            raise CorpusError(
                f"Column {column!r} has no number in the train split, so its statistics are unknown. Leave it out."
            )
        entry: dict[str, Any] = {"column": column}
        if None in cells:
            entry["median"] = median(known)
            indicators.append([float(cell is None) for cell in cells])
        whole = [entry["median"] if cell is None else cell for cell in cells]
        in_train = torch.tensor(
            [cell for cell, train in zip(whole, is_train, strict=True) if train], dtype=torch.float64
        )
        # Rounding gives a constant column a deviation near 1e-17; dividing by it would blow up rounding errors.
        constant = bool((in_train == in_train[0]).all())
        entry |= {"mean": float(in_train.mean()), "std": 0.0 if constant else float(in_train.std(correction=0))}
        filled.append(whole)
        entries.append(entry)
    return torch.tensor(filled + indicators, dtype=torch.float64).T.contiguous(), entries


class KeyFinder:
    """Completes the ids in a row, or in the name of a file, to the key of an utterance."""

    def __init__(self, order: Sequence[UtteranceKey]) -> None:
        self.known = set(order)
        self.partitions = {key.partition for key in order}
        self.by_ids: dict[tuple[str, str], list[UtteranceKey]] = {}
        for key in order:
            self.by_ids.setdefault((key.dialogue, key.utterance), []).append(key)

    def canonical(self, name: str) -> str:
        """The name of a partition as the corpus spells it; splits have other names too (``dev``)."""
        try:
            return name if name in self.partitions else split_name(name)
        except ValueError:
            return name

    def partition_of(self, path: Path) -> str | None:
        """The partition in the name of a file, or that its folder is named after, if the corpus has it."""
        words = map(self.canonical, [*re.split(r"[^a-z0-9]+", path.stem.lower()), path.parent.name])
        return next((word for word in words if word in self.partitions), None)

    def find(self, partition: str | None, dialogue: str, utterance: str, where: str) -> UtteranceKey:
        """The key of some ids; without a partition, that of the only utterance of the corpus with these ids."""
        if partition is not None:
            return UtteranceKey(partition, dialogue, utterance)
        fitting = self.by_ids.get((dialogue, utterance), [])
        if len(fitting) > 1:
            raise CorpusError(
                f"{where}: dialogue {dialogue!r}, utterance {utterance!r} is in the partitions "
                f"{', '.join(key.partition for key in fitting)}, and nothing says which. Name the file or its "
                "folder after its partition (train, val, dev or test), or let a column or a pattern say it."
            )
        return fitting[0] if fitting else UtteranceKey("unknown", dialogue, utterance)


def _number(cell: str, column: str, where: str) -> float | None:
    if not cell:
        return None
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not abs(number) <= _LARGEST or "_" in cell:
        raise CorpusError(
            f"{where}, column {column!r}: {cell!r} is not a finite number. Leave the cell empty if it is unknown, "
            "or choose the columns of numbers."
        )
    return number


def _some(keys: Sequence[UtteranceKey], most: int = 10) -> str:
    return ", ".join(map(str, keys[:most])) + (", ..." if len(keys) > most else "")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
