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
from merc.decoding import DecodedText, decode

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
        decoded: The text that they were read from.
        delimiter: What stands between the cells, a key of :data:`DELIMITERS`.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Sequence[Row]
    decoded: DecodedText
    delimiter: str = ","

    @property
    def notes(self) -> list[str]:
        """Sentences for the corpus's notes: what was assumed if the file is not plain UTF-8 with commas."""
        notes = self.decoded.notes
        if self.delimiter != ",":
            notes.append(f"{self.path.name}: cells are separated by {DELIMITERS[self.delimiter]}.")
        return notes


def read_rows(
    path: str | Path, required: Sequence[str] = (), *, encoding: str | None = None, legacy: str | None = None
) -> CsvFile:
    """Read a CSV file whose first line names the columns.

    Cells are separated by commas, semicolons, tabs or vertical bars, whichever gives the required columns, and every
    row as many cells as there are columns. If several do, the one that gives the most columns is meant. A line such as
    ``sep=;`` above the columns, as Excel writes it, says so itself.

    Args:
        path: The file.
        required: Columns that must be there.
        encoding: How it is encoded. Default: see :func:`merc.decoding.decode`.
        legacy: The code page of lines that are not UTF-8, if that is known.

    Raises:
        CorpusError: The file is missing, empty or not CSV, lacks a column, names one twice, or has a row
            of another width; the message gives the line.
    """
    path = Path(path)
    if not path.is_file():
        raise CorpusError(f"No file {path}: expected a CSV file. Check the path.")
    return parse_rows(decode(path, encoding, legacy=legacy), required)


def parse_rows(
    decoded: DecodedText, required: Sequence[str] = (), *, columns: Sequence[str] = (), delimiter: str | None = None
) -> CsvFile:
    """Read a CSV file that is decoded already; see :func:`read_rows`.

    Args:
        decoded: Its text.
        required: Columns that must be there.
        columns: The columns of a file without a line that names them.
        delimiter: What separates its cells, if that is known.
    """
    path, text = decoded.path, decoded.text
    if delimiter is not None:
        return CsvFile(path, *_parse(path, text, delimiter, required, columns), decoded, delimiter)
    if said := _SAID.match(text):
        text = "\n" + text[said.end() :]  # so that lines keep their numbers
        return CsvFile(path, *_parse(path, text, said[1], required), decoded, said[1])
    first, *others = _delimiters(text, required)
    try:
        return CsvFile(path, *_parse(path, text, first, required), decoded, first)
    except CorpusError:
        for delimiter in others:
            with suppress(CorpusError):
                return CsvFile(path, *_parse(path, text, delimiter, required), decoded, delimiter)
        raise


_SAID = re.compile(r"sep=([,;\t|])\r?\n?")


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


def _parse(
    path: Path, text: str, delimiter: str, required: Sequence[str], named: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[Row]]:
    """The columns and rows of a CSV file, if this is what separates its cells."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns = tuple(named)
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
                        f"Quote cells that hold {DELIMITERS[delimiter]}"
                        + (", or write decimals with a point." if delimiter == "," else ".")
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
