"""Text files (.txt): what whisper prints, Audacity's labels, transcripts of meetings, or another kind by this name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from merc.corpora.transcripts.lines import Line, TranscriptSource, parse_clock, parse_number
from merc.corpora.transcripts.speech_json import read_speech_json
from merc.corpora.transcripts.substation import read_substation
from merc.corpora.transcripts.subtitles import read_subtitles
from merc.corpora.transcripts.tables import read_table
from merc.corpora.transcripts.tiers import read_eaf, read_textgrid

_TIME = r"\d{1,4}:\d{2}(?::\d{2})?(?:[.,]\d{1,3})?"
_SPAN = re.compile(r"\[([^\[\]<>]{1,30}?)-{1,2}>([^\[\]<>]{1,30}+)\]\s*+(.*)")
_TIME_FIRST = re.compile(rf"[\[(]?({_TIME})[\])]?(?:\s*+[-\u2013|]|:)?(?:\s++(\S.*))?")
_NAME_FIRST = re.compile(rf"\[?([^\W\d_][^\[\]:]{{0,59}}?)\]?\s++[\[(]?({_TIME})[\])]?")
_LABEL = re.compile(r"\d{1,10}(?:[.,]\d+)?\t\d{1,10}(?:[.,]\d+)?\t")


def read_plain_text(source: TranscriptSource) -> Iterable[Line]:
    """Lines of a text file.

    Read are ``[00:00.031 --> 00:01.492] Hi.`` as whisper prints it, Audacity's labels, rows that begin with a time
    (``00:03 Ann: Hi.``) and names with a time above what they say (``Ann Example  0:03``). Of these two the end is not
    known: a line goes on to the next one, or as long as a slow speaker takes for it.
    """
    rows = [row.strip() for row in source.rows]
    start = source.text[:4000].lstrip()
    if any(_SPAN.match(row) for row in rows[:100]):
        return _spans(source, rows)
    if start.startswith("[Script Info]"):
        return read_substation(source)
    if start.startswith(("{", "[{", "[[")) or re.match(r"\[\s+[\[{]", start):
        return read_speech_json(source)
    if start.startswith("File type"):
        return read_textgrid(source)
    if "<ANNOTATION_DOCUMENT" in start:
        return read_eaf(source)
    if any("-->" in row for row in rows):
        return read_subtitles(source)
    if any(_LABEL.match(row) for row in rows[:3]) or re.match(r"(?i)\w*start\w*[\t,;|]", start):
        return read_table(source)
    return _starts(source, rows)


def _spans(source: TranscriptSource, rows: Sequence[str]) -> list[Line]:
    lines: list[Line] = []
    for number, row in enumerate(rows, start=1):
        match = _SPAN.match(row)
        if match is None:
            continue  # "Detecting language ...", and the like
        times = [parse_clock(cell) if ":" in cell else parse_number(cell.strip()) for cell in match.group(1, 2)]
        start, end = times
        if start is None or end is None:
            source.drop(f"line {number}", "it has no times")
        else:
            lines.append(Line(start, end, match[3], place=f"line {number}"))
    return lines


def _starts(source: TranscriptSource, rows: Sequence[str]) -> list[Line]:
    """Lines from a file that gives start times but no end times."""
    heads = []
    for index, row in enumerate(rows):
        if match := _TIME_FIRST.fullmatch(row):
            heads.append((index, match[1], "", match[2] or ""))
        elif match := _NAME_FIRST.fullmatch(row):
            heads.append((index, match[2], match[1].strip(), ""))
    if not heads:
        raise source.error(
            ": it has no times. Expected rows such as 00:03 Ann: Hi., or a file with times: .srt, .vtt, .csv, .json."
        )
    below = [
        [row for row in rows[index + 1 : behind] if row]
        for (index, *_), behind in zip(heads, [*(index for index, *_ in heads[1:]), len(rows)], strict=True)
    ]
    named = sum(map(bool, below)) >= 0.8 * len(heads)  # then names stand beside the times
    found = []
    for (index, clock, name, rest), more in zip(heads, below, strict=True):
        if named and more:
            name, rest = name or rest, ""
        text = "\n".join(filter(None, [rest, *more]))
        start = parse_clock(clock)
        if start is None:
            source.drop(f"line {index + 1}", f"{clock!r} is no time")
        elif text:
            found.append((start, text, name, f"line {index + 1}"))
    lines = []
    for number, (start, text, name, place) in enumerate(found):
        later = found[number + 1][0] if number + 1 < len(found) else start
        end = start + 1 + 0.2 * len(text)
        lines.append(Line(start, min(end, later) if later > start else end, text, name or None, place=place))
    source.notes.append(
        f"{source.path.name} gives starts only: a line ends where the next one begins, or after 1 s and 0.2 s a letter."
    )
    return lines
