"""Reading CSV files of unknown origin: encodings, delimiters, columns by name, and line numbers for every complaint."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from merc.conversation import CorpusError

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""What may stand between the cells of a row, with its name in messages."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a CSV file.

    Args:
        line: Line of the file on which the record starts, counted from 1.
        cells: Cells by column name, stripped of surrounding blanks.
    """

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class CsvFile:
    """A CSV file, decoded and split into rows.

    Args:
        path: Where it was read from.
        columns: Column names in order.
        rows: At least one row.
        legacy_lines: Lines that were not UTF-8 and were read as cp1252.
        delimiter: What stands between the cells, a key of :data:`DELIMITERS`.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Sequence[Row]
    legacy_lines: int
    delimiter: str = ","

    @property
    def notes(self) -> list[str]:
        """Sentences for the corpus's notes: what was assumed if the file is not plain UTF-8 with commas."""
        notes = []
        if self.legacy_lines:
            notes.append(
                f"{self.path.name}: {self.legacy_lines} lines were not UTF-8 and were read as cp1252 (an older copy)."
            )
        if self.delimiter != ",":
            notes.append(f"{self.path.name}: cells are separated by {DELIMITERS[self.delimiter]}.")
        return notes


def decode_lines(path: Path) -> tuple[list[str], int]:
    """The lines of a text file, as UTF-8 or, line by line where that fails, as cp1252.

    Line by line, because copies exist in which a few cp1252 bytes were pasted into UTF-8: decoding the
    whole file as cp1252 would spoil every other non-ASCII character.

    Returns:
        The lines with their line ends, and how many of them were not UTF-8.

    Raises:
        CorpusError: A line is neither, or holds zero bytes (UTF-16, or no text at all).
    """
    lines, legacy = [], 0
    for number, raw in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(keepends=True), start=1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            legacy += 1
            try:
                line = raw.decode("cp1252")
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{path}, line {number}: neither UTF-8 nor cp1252 ({error.reason}). Save the file as UTF-8."
                ) from error
        if "\0" in line:
            raise CorpusError(f"{path}, line {number}: holds zero bytes, so it is not UTF-8 text. Save it as UTF-8.")
        lines.append(line)
    return lines, legacy


def read_rows(path: str | Path, required: Sequence[str] = ()) -> CsvFile:
    """Read a CSV file whose first line names the columns.

    Cells are separated by commas, semicolons, tabs or vertical bars, whichever gives the required columns, and every
    row as many cells as there are columns. If several do, the one that gives the most columns is meant.

    Args:
        path: The file; UTF-8, with or without byte order mark, or cp1252.
        required: Columns that must be there.

    Raises:
        CorpusError: The file is missing, empty or not CSV, lacks a column, names one twice, or has a row
            of another width; the message gives the line.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"No file {path}: expected a CSV file. Check the path.")
    lines, legacy = decode_lines(path)
    text = "".join(lines)
    first, *others = _delimiters(text, required)
    try:
        return CsvFile(path, *_parse(path, text, first, required), legacy, first)
    except CorpusError:
        for delimiter in others:
            with suppress(CorpusError):
                return CsvFile(path, *_parse(path, text, delimiter, required), legacy, delimiter)
        raise


def _delimiters(text: str, required: Sequence[str]) -> list[str]:
    """Delimiters that part the line of column names, the likeliest first; a comma if none does."""
    ranks: dict[str, tuple[bool, int]] = {}
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            names = [name.strip() for name in next((record for record in reader if record), [])]
        except csv.Error:
            names = []
        if len(names) > 1:
            ranks[delimiter] = (set(required) <= set(names), len(names))
    return sorted(ranks, key=lambda delimiter: ranks[delimiter], reverse=True) or [","]


def _parse(path: Path, text: str, delimiter: str, required: Sequence[str]) -> tuple[tuple[str, ...], list[Row]]:
    """The columns and rows of a CSV file, if this is what separates its cells."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: tuple[str, ...] = ()
    rows = []
    line = 1
    try:
        for record in reader:
            if not columns:
                if record:
                    columns = _check_columns(path, record, required)
            elif record:
                if len(record) != len(columns):
                    raise CorpusError(
                        f"{path}, line {line}: {len(record)} cells, expected {len(columns)} ({shown_names(columns)}). "
                        f"Quote cells that hold {DELIMITERS[delimiter]}."
                    )
                rows.append(Row(line, dict(zip(columns, map(str.strip, record), strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(f"{path}, from line {line} on: not CSV ({error}). Correct the quoting.") from error
    if not rows:
        raise CorpusError(f"{path} is empty: expected a line of column names and at least one row.")
    return columns, rows


def _check_columns(path: Path, record: list[str], required: Sequence[str]) -> tuple[str, ...]:
    columns = tuple(name.strip() for name in record)
    for name, count in Counter(columns).items():
        if count > 1:
            raise CorpusError(f"{path} has two columns named {name!r}: column names must be unique.")
    if absent := [name for name in required if name not in columns]:
        raise CorpusError(
            f"{path} has no column {', '.join(map(repr, absent))}: found {shown_names(columns)}. "
            "Rename the columns, or name yours where the reader takes column names."
        )
    return columns


def shown_names(names: Sequence[str]) -> str:
    """Names for a message, which must not become as long as a file."""
    return ", ".join(map(shown, names[:40])) + (f", ... ({len(names)})" if len(names) > 40 else "")


def shown(text: str) -> str:
    """A text of a file for a message, shortened if it is long."""
    return repr(text if len(text) <= 40 else f"{text[:40]}...")


# Ten digits are 300 years. Without a bound, 400 digits are infinite, and 5000 are no number for Python.
_CLOCK = re.compile(r"(?:(\d{1,10}):)?(\d{1,10}):(\d{1,10}(?:[.,]\d+)?)")
_SECONDS = re.compile(r"\d{1,10}(?:[.,]\d*)?|[.,]\d+")


def parse_time(cell: str, path: Path, line: int) -> float | None:
    """Seconds from ``0:12:43,012``, ``12:43.012``, ``763.012`` or ``763,012``; ``None`` from an empty cell.

    A comma is a decimal one: no recording is so long that its seconds need one between thousands.

    Raises:
        CorpusError: The cell is neither.
    """
    if not cell:
        return None
    if match := _CLOCK.fullmatch(cell):
        hours, minutes, seconds = match.groups()
        return round(int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", ".")), 6)
    if _SECONDS.fullmatch(cell):
        return float(cell.replace(",", "."))
    raise CorpusError(f"{path}, line {line}: {shown(cell)} is not a time: expected seconds or hours:minutes:seconds.")
