"""Tables (.csv, .tsv): whisper, whisper.cpp, spreadsheets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from merc.corpora.transcripts.lines import Line, TranscriptSource, in_seconds, parse_clock, parse_number
from merc.rows import CsvFile, parse_rows, shown, shown_names

NAMES: Mapping[str, Sequence[str]] = {
    "start": ["start", "starttime", "begin", "begintime", "from", "onset", "tmin", "starts", "startms", "startseconds"],
    "end": ["end", "endtime", "stop", "stoptime", "to", "offset", "tmax", "ends", "endms", "endseconds"],
    "text": ["text", "sentence", "transcript", "transcription", "utterance", "content", "caption", "subtitle"],
    "speaker": ["speaker", "speakername", "speakerid", "who", "name", "actor", "participant", "tier"],
}
"""Names by which a column is recognised, without case and punctuation, the best first."""

_HEADLESS = ("start", "end", "text")


def read_table(source: TranscriptSource) -> list[Line]:
    """Rows of a table. Delimiter, decimal comma, the columns and the unit of times are recognised."""
    table = _table(source)
    source.notes += table.notes[len(table.decoded.notes) :]
    columns = _columns(source, table)
    lines, plain = [], True
    for row in table.rows:
        times = []
        for column in (columns["start"], columns["end"]):
            cell = row.cells[column]
            number = parse_number(cell)
            plain = plain and (number is not None or ":" not in cell)
            value = parse_clock(cell) if number is None else number
            if value is None:
                reason = f"column {column!r} is empty" if not cell else f"{shown(cell)} is not a time"
                source.drop(f"line {row.line}", reason)
                break
            times.append(value)
        else:
            speaker = row.cells[columns["speaker"]] if columns["speaker"] else ""
            lines.append(
                Line(times[0], times[1], row.cells[columns["text"]], speaker or None, place=f"line {row.line}")
            )
    return in_seconds(lines, source) if plain else lines


def _table(source: TranscriptSource) -> CsvFile:
    decoded, given = source.decoded, source.options.columns
    rows = source.rows
    first = re.split(r"[,;\t|]", rows[0], maxsplit=2) if rows else []
    if len(first) == 3 and all(
        parse_number(cell.strip()) is not None or parse_clock(cell) is not None for cell in first[:2]
    ):
        source.notes.append(f"{source.path.name} has no line of column names: start, end and text were assumed.")
        return parse_rows(decoded, columns=_HEADLESS, delimiter=rows[0][len(first[0])])
    return parse_rows(decoded, [name for name in (given.start, given.end, given.text, given.speaker) if name])


def _columns(source: TranscriptSource, table: CsvFile) -> dict[str, str]:
    folded = {re.sub(r"[\W_]+", "", column.lower()): column for column in reversed(table.columns)}
    found = {}
    for role, names in NAMES.items():
        given = getattr(source.options.columns, role)
        found[role] = given or next((folded[name] for name in names if name in folded), "")
        if not found[role] and role != "speaker":
            raise source.error(
                f": no column {role!r} and none of another name that is recognised: found "
                f"{shown_names(table.columns)}. Pass --columns.{role} COLUMN."
            )
    return found
