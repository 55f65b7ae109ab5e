"""Advanced SubStation Alpha (.ass, .ssa): events whose field Name is the speaker."""

from __future__ import annotations

import re
from collections.abc import Iterator

from merc.corpora.transcripts.lines import Line, TranscriptSource, parse_clock
from merc.corpora.transcripts.subtitles import plain
from merc.rows import shown

_FIELDS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
_OVERRIDE = re.compile(r"\{[^{}]*+\}")
_DRAWING = re.compile(r"\\p[1-9]")


def read_substation(source: TranscriptSource) -> Iterator[Line]:
    """The events of the kind Dialogue; comments and drawings are not said by anybody.

    pysubs2 reads these files too, but not fields in another order than usual, and it needs minutes for a line with many
    override tags.
    """
    fields, events = _FIELDS, False
    for number, row in enumerate(source.rows, start=1):
        if row.startswith("["):
            events = row.strip().lower() == "[events]"
        kind, _, rest = row.partition(":")
        kind = kind.strip().lower()
        if not events:
            continue
        if kind == "format":
            fields = [field.strip().lower() for field in rest.split(",")]
            if not {"start", "end", "text"} <= set(fields) or fields[-1] != "text":
                raise source.error(
                    f"line {number}: expected fields with Start, End and, last, Text; found {shown(rest)}."
                )
        elif kind == "dialogue":
            cells = [cell.strip() for cell in rest.split(",", len(fields) - 1)]
            if len(cells) < len(fields):
                source.drop(f"line {number}", f"{len(cells)} fields, expected {len(fields)}")
                continue
            event = dict(zip(fields, cells, strict=True))
            start, end = parse_clock(event["start"]), parse_clock(event["end"])
            if start is None or end is None:
                source.drop(f"line {number}", f"{shown(event['start' if start is None else 'end'])} is no time")
                continue
            if any(_DRAWING.search(override) for override in _OVERRIDE.findall(event["text"])):
                continue
            text = _OVERRIDE.sub("", event["text"]).replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " ")
            speaker = event.get("name") or event.get("actor") or None
            yield Line(start, end, plain(text), speaker, place=f"line {number}")
