"""SubRip (.srt), WebVTT (.vtt) and YouTube's .sbv: rows of times with text below them."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence

from merc.corpora.transcripts.lines import Line, TranscriptSource, parse_clock
from merc.corpora.transcripts.timing import unroll
from merc.rows import shown

# Possessive, and up to the next "<" only, so that the time stays linear in the length of the text.
_VOICE = re.compile(r"<v(?:\.[^\s<>]*+)?\s++([^<>]*+)>")
_TAG = re.compile(r"</?[A-Za-z0-9][^<>]*+>|\{\\[^{}]*+\}")
_ENTITY = re.compile(r"&(?:#\d{1,6}|amp|quot|apos|lt|gt|nbsp);")
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"))
_COMMENT = re.compile(r"(?:NOTE|STYLE|REGION)(?:\s|$)")
_ARROWS = ("-->", "->", "\u2013>", "\u2014>")
# merc's own subtitles begin with the emotion.
_EMOTION = re.compile(r"\[(?:\?|[^\[\]%]{1,30} \d{1,3} %)\] ")

WRITTEN_BY_MERC = "NOTE Written by merc, with the emotion of every line"
"""Follows ``WEBVTT`` in the subtitles that merc writes, whose entities are exact."""

EXPECTED = "Expected blocks of a row such as 00:01:02,500 --> 00:01:04,000 with text below it."


def read_subtitles(source: TranscriptSource) -> list[Line]:
    """Lines of SubRip, WebVTT or YouTube's SubViewer; which of them is seen from the rows.

    The text of a subtitle goes on to the next times, blank rows and all, but for the number or name above those. Voice
    tags (``<v Ann>``) are speakers. What rolling captions repeat is read once. WebVTT of merc itself is read as it is.
    """
    source.exact = source.rows[:3] == ["WEBVTT", "", WRITTEN_BY_MERC]
    lines = list(_subtitles(source))
    return lines if source.exact else unroll(lines, source)


def _subtitles(source: TranscriptSource) -> Iterator[Line]:
    rows = source.rows
    web = bool(rows) and rows[0].startswith("WEBVTT")
    places = [index for index, row in enumerate(rows) if _is_times(rows, index, row)]
    head = (
        [] if web else [row for row in rows[: places[0] if places else 0] if row.strip() and not row.strip().isdigit()]
    )
    if head and places:
        source.notes.append(f"{source.path.name}: {shown(head[0])} stands before the first times and was not read.")
    number = rows[places[0] - 1].strip() if places and places[0] else ""
    for place, behind in zip(places, [*places[1:], len(rows)], strict=False):
        block = rows[place + 1 : behind]
        named = behind < len(rows) and _is_name(block, number, web=web)
        number = block.pop().strip() if named else ""
        times = _times(rows[place])
        if isinstance(times, str):
            source.drop(f"line {place + 1}", times)
            continue
        text = "\n".join(_without_comments(block) if web else block)
        for speaker, said in _voices(_EMOTION.sub("", text, count=1) if text.startswith("[") else text, source):
            yield Line(*times, _decoded(said, source), speaker, place=f"line {place + 1}")


def _is_times(rows: Sequence[str], index: int, row: str) -> bool:
    if "-->" in row:
        start = row[:64].lstrip()
        before = rows[index - 1].strip() if index else ""
        return start[:1].isdigit() or (start[:1] == "-" and start[1:2].isdigit()) or before.isdigit() or not before
    if len(row) < 100 and row.strip()[:1].isdigit() and (">" in row or "," in row):
        return not isinstance(_times(row), str)
    return False


def _times(row: str) -> tuple[float, float] | str:
    """The times of a row, or what is wrong with it."""
    for arrow in _ARROWS:
        before, found, after = row.partition(arrow)
        if found:
            break
    else:
        arrow = ","
        before, found, after = row.partition(arrow)
        if before.count(":") != 2 or "." not in before or "." not in after:
            return "these are no times"
    if arrow in after:
        return f"{shown(row.strip())} are no times"
    start, end = parse_clock(before), parse_clock(after)
    if end is None:  # settings may follow: the longest beginning that is a time
        words = after[:200].split()
        ends = (parse_clock(" ".join(words[:count])) for count in range(min(len(words), 8), 0, -1))
        end = next((value for value in ends if value is not None), None)
    if start is None or end is None:
        wrong = before if start is None else after
        return f"{shown(wrong.strip())} is no time"
    return start, end


def _is_name(block: Sequence[str], number: str, *, web: bool) -> bool:
    """Whether the last row of a block is the number or name of the next subtitle."""
    if not block or not block[-1].strip():
        return False
    last, apart = block[-1].strip(), len(block) == 1 or not block[-2].strip()
    if last.isdigit():
        follows = number.isdigit() and len(number) < 10 > len(last) and int(last) == int(number) + 1
        return follows or (apart and len(block) > 1) or (apart and not number)
    return web and apart and len(block) > 1


def _without_comments(block: Sequence[str]) -> list[str]:
    """Rows without WebVTT's notes, styles and regions, which go from an empty row to the next."""
    kept, inside, before = [], False, "x"
    for row in block:
        inside = bool(row.strip()) and (inside or (not before.strip() and _COMMENT.match(row) is not None))
        if not inside:
            kept.append(row)
        before = row
    return kept


def _voices(text: str, source: TranscriptSource) -> Iterator[tuple[str | None, str]]:
    """What each voice says; what stands outside voice tags is said by nobody in particular."""
    before, *voices = _VOICE.split(text)
    if before.strip() or not voices:
        yield None, before
    for name, said in zip(voices[::2], voices[1::2], strict=True):
        inside, _, outside = said.partition("</v>")
        yield " ".join(_decoded(name, source).split()) or None, inside
        if outside.strip():
            yield None, outside


def _decoded(marked: str, source: TranscriptSource) -> str:
    return html.unescape(marked) if source.exact else plain(marked)


def plain(marked: str) -> str:
    """Text without tags and invisible characters, and with its entities decoded."""
    text = _TAG.sub("", marked)
    for _ in range(2):  # some programs encode what is encoded already
        if "&" in text:
            try:
                text = html.unescape(text)
            except ValueError:  # a character with a number of thousands of digits
                break
        if not _ENTITY.search(text):
            break
    return text.translate(_INVISIBLE)
