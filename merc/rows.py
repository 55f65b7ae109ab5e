"""Reading CSV files of unknown origin: encodings, columns by name, and line numbers for every complaint."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from merc.conversation import CorpusError


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
    """

    path: Path
    columns: tuple[str, ...]
    rows: Sequence[Row]
    legacy_lines: int

    @property
    def encoding_note(self) -> str | None:
        """A sentence for the corpus's notes if the file is not plain UTF-8."""
        if not self.legacy_lines:
            return None
        return f"{self.path.name}: {self.legacy_lines} lines were not UTF-8 and were read as cp1252 (an older copy)."


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


def read_rows(path: str | Path, required: Sequence[str]) -> CsvFile:
    """Read a CSV file whose first line names the columns.

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
    reader = csv.reader(io.StringIO("".join(lines), newline=""), strict=True)
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
                        f"{path}, line {line}: {len(record)} cells, expected {len(columns)} ({', '.join(columns)}). "
                        "Quote cells that hold commas."
                    )
                rows.append(Row(line, dict(zip(columns, map(str.strip, record), strict=True))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CorpusError(f"{path}, from line {line} on: not CSV ({error}). Correct the quoting.") from error
    if not rows:
        raise CorpusError(f"{path} is empty: expected a line of column names and at least one row.")
    return CsvFile(path, columns, rows, legacy)


def _check_columns(path: Path, record: list[str], required: Sequence[str]) -> tuple[str, ...]:
    columns = tuple(name.strip() for name in record)
    for name in columns:
        if columns.count(name) > 1:
            raise CorpusError(f"{path} has two columns named {name!r}: column names must be unique.")
    if absent := [name for name in required if name not in columns]:
        raise CorpusError(
            f"{path} has no column {', '.join(map(repr, absent))}: found {', '.join(map(repr, columns))}. "
            "Rename the columns, or name yours where the reader takes column names."
        )
    return columns


_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")
_SECONDS = re.compile(r"\d+(?:\.\d*)?|\.\d+")


def parse_time(cell: str, path: Path, line: int) -> float | None:
    """Seconds from ``0:12:43,012``, ``12:43.012`` or ``763.012``; ``None`` from an empty cell.

    Raises:
        CorpusError: The cell is neither.
    """
    if not cell:
        return None
    if match := _CLOCK.fullmatch(cell):
        hours, minutes, seconds = match.groups()
        return round(int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", ".")), 6)
    if _SECONDS.fullmatch(cell):
        return float(cell)
    raise CorpusError(f"{path}, line {line}: {cell!r} is not a time: expected seconds or hours:minutes:seconds.")
