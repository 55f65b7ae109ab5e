"""The reader of transcripts with times, as subtitles or a table: one conversation along one recording."""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from merc.conversation import Clip, Conversation, Corpus, CorpusError, Utterance
from merc.labels import LabelSet
from merc.rows import decode_lines, parse_time, read_rows, shown

UNKNOWN = "unknown"
"""The speaker of a line for whom the transcript gives no name."""

_SPLIT = "test"
_CLOCK = re.compile(r"(?:(\d{1,4}):)?([0-5]?\d):([0-5]?\d)[.,](\d{1,3})")
_NUMBER = re.compile(r"\s*\d+\s*")
# Possessive, and up to the next "<" only, so that the time stays linear in the length of the text.
_VOICE = re.compile(r"<v(?:\.[^\s<>]*+)?\s++([^<>]*+)>")
_TAG = re.compile(r"</?[A-Za-z0-9][^<>]*+>|\{\\[^{}]*+\}")
_PREFIX = re.compile(r"(?:[-\u2013\u2014]\s*)?([^\W\d_][^:<>]{0,39}?)\s*:\s+(?=\S)")
_DASH = re.compile(r"[-\u2013\u2014]\s*(?=\S)")


@dataclass(frozen=True)
class TranscriptColumns:
    """Which column of a CSV transcript holds what.

    Args:
        start: Start, in seconds or as ``h:mm:ss,mmm``.
        end: End, likewise.
        text: What is said.
        speaker: Who says it; a file without this column is fine.
    """

    start: str = "start"
    end: str = "end"
    text: str = "text"
    speaker: str = "speaker"


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one speaker says, with the line of the file where it stands."""

    line: int
    start: float
    end: float
    text: str
    speaker: str | None = None


def read_transcript(
    path: str | Path,
    video: str | Path,
    *,
    labels: LabelSet,
    columns: TranscriptColumns | None = None,
) -> Corpus:
    """Read the transcript of a recording: SubRip (``.srt``), WebVTT (``.vtt``) or CSV.

    Subtitles name speakers by WebVTT's voice tags (``<v Monica>Hi.``) or by a prefix (``Monica: Hi.``). A prefix is
    taken for a name if it is at most three words, each with a capital first letter, and if it comes twice or most of
    the lines have one: ``Remember: no notes.`` once among many lines is text. A subtitle with several names is several
    utterances of the same time. Lines may overlap; they are put in the order of their starts. Who has no name is
    :data:`UNKNOWN`.

    Args:
        path: The transcript; UTF-8, with or without byte order mark, or cp1252.
        video: The recording that it belongs to; it need not be there.
        labels: The emotions that are to be told of it.
        columns: Which column of a CSV file holds what.

    Returns:
        A corpus with one conversation, without labels, in split ``test``, that is named after the recording. Its
        utterances are called 1, 2, 3 ... and have their place in the recording as ``video``.

    Raises:
        CorpusError: The file is missing, of another format, or has no line with text; a time is none, or ends before
            it starts; with file and line.
    """
    path, video = Path(path), Path(video)
    readers = {".srt": _read_srt, ".vtt": _read_vtt}
    notes: list[str] = []
    if path.suffix.lower() == ".csv":
        turns = _read_table(path, columns or TranscriptColumns(), notes)
    elif path.suffix.lower() in readers:
        if not path.is_file():
            raise CorpusError(f"No transcript {path}: expected a .srt, .vtt or .csv file. Check the path.")
        lines, legacy = decode_lines(path)
        if legacy:
            notes.append(f"{path.name}: {legacy} lines were not UTF-8 and were read as cp1252.")
        turns = _without_prefixes(list(readers[path.suffix.lower()](path, [line.rstrip("\r\n") for line in lines])))
    else:
        raise CorpusError(f"{path} is no transcript that merc reads: expected a .srt, .vtt or .csv file.")
    spoken = sorted((turn for turn in turns if turn.text), key=lambda turn: (turn.start, turn.end))
    if not spoken:
        raise CorpusError(f"{path} has no line with text: expected at least one.")
    if silent := len(turns) - len(spoken):
        notes.append(f"{silent} lines of {path.name} have no text and were left out.")
    if nameless := sum(not turn.speaker for turn in spoken):
        notes.append(
            f"{nameless} of {len(spoken)} lines have no speaker's name and count as said by one {UNKNOWN!r}: a face is "
            "followed within one line only and cannot name anybody."
        )
    source = str(video.resolve())
    utterances = tuple(
        Utterance(
            id=str(number),
            speaker=turn.speaker or UNKNOWN,
            text=turn.text,
            start=turn.start,
            end=turn.end,
            video=Clip(source, turn.start, turn.end),
        )
        for number, turn in enumerate(spoken, start=1)
    )
    conversation = Conversation(video.stem, utterances, _SPLIT)
    return Corpus(video.stem, labels, {_SPLIT: [conversation]}, f"transcript {path.name}, without labels", notes)


def _read_table(path: Path, columns: TranscriptColumns, notes: list[str]) -> list[_Turn]:
    table = read_rows(path, [columns.start, columns.end, columns.text])
    notes += table.notes
    turns = []
    for row in table.rows:
        start, end = (parse_time(row.cells[column], path, row.line) for column in (columns.start, columns.end))
        if start is None or end is None:
            empty = columns.start if start is None else columns.end
            raise CorpusError(f"{path}, line {row.line}: column {empty!r} is empty. Fill it in.")
        _check_span(path, row.line, start, end)
        speaker = row.cells.get(columns.speaker) or None
        turns.append(_Turn(row.line, start, end, " ".join(row.cells[columns.text].split()), speaker))
    return turns


def _read_srt(path: Path, lines: Sequence[str]) -> Iterator[_Turn]:
    """Text goes on to the next times, blank lines and all, but for the number above those."""
    places = [index for index, line in enumerate(lines) if "-->" in line]
    for index, line in enumerate(lines[: places[0]] if places else lines, start=1):
        if line.strip() and not _NUMBER.fullmatch(line):
            raise CorpusError(f"{path}, line {index}: {shown(line)} stands before the first times. {_EXPECTED}")
    for place, behind in zip(places, [*places[1:], len(lines)], strict=False):
        text = list(lines[place + 1 : behind])
        if behind < len(lines) and text and _NUMBER.fullmatch(text[-1]):
            text.pop()
        start, end = _times(path, place + 1, lines[place])
        yield _Turn(place + 1, start, end, _TAG.sub("", "\n".join(text)))


def _read_vtt(path: Path, lines: Sequence[str]) -> Iterator[_Turn]:
    """Blocks between blank lines: cues, and notes, styles and regions, which say nothing here."""
    if not lines or not re.fullmatch(r"WEBVTT(?:[ \t].*)?", lines[0]):
        raise CorpusError(f"{path}, line 1: expected WEBVTT, found {shown(lines[0] if lines else '')}. {_EXPECTED}")
    for first, block in _blocks(lines):
        if first == 0 or re.match(r"(NOTE|STYLE|REGION)(\s|$)", block[0]):
            continue
        place = next((index for index, line in enumerate(block[:2]) if "-->" in line), None)
        if place is None:
            raise CorpusError(f"{path}, line {first + 1}: {shown(block[0])} has no times. {_EXPECTED}")
        line = first + place + 1
        start, end = _times(path, line, block[place])
        text = "\n".join(block[place + 1 :])
        before, *voices = re.split(_VOICE, text)
        if before.strip() or not voices:
            yield _Turn(line, start, end, _plain(before))
        for name, said in zip(voices[::2], voices[1::2], strict=True):
            yield _Turn(line, start, end, _plain(said), _plain(name).strip() or None)


def _plain(marked: str) -> str:
    text = _TAG.sub("", marked)
    try:
        return html.unescape(text)
    except ValueError:  # a character with a number of thousands of digits
        return text


def _blocks(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    block: list[str] = []
    for index, line in enumerate([*lines, ""]):
        if line.strip():
            block.append(line)
        elif block:
            yield index - len(block), block
            block = []


_EXPECTED = "Expected blocks of a line such as 00:01:02,500 --> 00:01:04,000 with text below it."


def _times(path: Path, line: int, given: str) -> tuple[float, float]:
    before, _, after = given.partition("-->")
    words = [before.strip(), *after.split(maxsplit=1)[:1]]  # settings of WebVTT may follow
    if len(words) < 2 or not words[0]:
        raise CorpusError(f"{path}, line {line}: {shown(given)} are no times. {_EXPECTED}")
    start, end = (_clock(path, line, time) for time in words)
    _check_span(path, line, start, end)
    return start, end


def _clock(path: Path, line: int, time: str) -> float:
    match = _CLOCK.fullmatch(time)
    if match is None:
        raise CorpusError(f"{path}, line {line}: {shown(time)} is no time. Expected one such as 00:01:02,500.")
    hours, minutes, seconds, fraction = match.groups()
    return round(int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + int(fraction.ljust(3, "0")) / 1000, 3)


def _check_span(path: Path, line: int, start: float, end: float) -> None:
    if not start < end < math.inf:
        raise CorpusError(f"{path}, line {line}: it ends at {end:g} s, but starts at {start:g} s: correct the times.")


def _without_prefixes(turns: Sequence[_Turn]) -> list[_Turn]:
    """Turns of subtitles with their text on one line, and names in front of it as speakers."""
    rows = [(turn, [" ".join(row.split()) for row in turn.text.splitlines()]) for turn in turns]
    found = [[_prefix(row) for row in plain] for _, plain in rows]
    count = Counter(name for names in found for name in names if name)
    most = 2 * sum(any(names) for names in found) >= len(turns)
    return [turn for row in rows for turn in _by_name(*row, {name for name in count if most or count[name] > 1})]


def _prefix(row: str) -> str | None:
    """The name that a row of text seems to begin with."""
    match = _PREFIX.match(row)
    name = "" if match is None else match[1]
    words = name.split()
    return name if 0 < len(words) <= 3 and all(word[0].isupper() or word[0].isdigit() for word in words) else None


def _by_name(turn: _Turn, rows: Sequence[str], names: set[str]) -> Iterator[_Turn]:
    speaker, said = turn.speaker, list[str]()
    for row in rows:
        name = _prefix(row)
        if turn.speaker is None and name in names:
            if said:
                yield _Turn(turn.line, turn.start, turn.end, " ".join(said), speaker)
            speaker, said = name, []
            row = _PREFIX.sub("", row, count=1)
        if row := _DASH.sub("", row, count=1) if _DASH.match(row) else row:
            said.append(row)
    yield _Turn(turn.line, turn.start, turn.end, " ".join(said), speaker)
