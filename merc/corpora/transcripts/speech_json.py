"""JSON of speech recognizers: whisper, whisperX, faster-whisper, whisper.cpp, transformers, FunASR, and their like."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from merc.corpora.transcripts.lines import (
    Line,
    TranscriptSource,
    Word,
    finite,
    in_seconds,
    joined,
    lines_of_words,
    parse_clock,
    parse_number,
)
from merc.files import parse_json

# Where segments stand, the most telling first: those that name speakers before those that do not.
_SEGMENTS = ["sentence_info", "utterances", "speakers", "lines", "segments", "chunks", "transcription", "sentences"]
_WORDS = ["words", "word_segments"]
_INSIDE = ["results", "result", "channels", "alternatives", "data"]
_TIMES = [("start", "end"), ("start_time", "end_time"), ("startTime", "endTime"), ("begin", "end"), ("from", "to")]
_TEXT = ["text", "transcript", "sentence", "content", "punctuated_word", "word"]
_SPEAKER = ["speaker", "spk", "speaker_id", "speaker_label", "speaker_name"]
_MARK = re.compile(r"<\|[^|<>]*+\|>")  # of whisper and SenseVoice
_TOKEN = re.compile(r"[\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff]|[^\W_\u2e80-\uffff]+(?:['\u2019][^\W_]+)*")
_SENTENCE = re.compile(r"[^.!?\u2026。\uff01\uff1f]*+[.!?\u2026。\uff01\uff1f]*+")
_DEEPEST = 5


def read_speech_json(source: TranscriptSource) -> list[Line]:
    """Segments of a speech recognizer, with the speakers and words that they have.

    A segment whose words name several speakers becomes a line for each. A file of words alone is put together into
    lines at the ends of sentences and at pauses.
    """
    text = source.text
    try:
        data = parse_json(text)
    except ValueError as error:
        raise source.error(f": not JSON ({error}).") from None
    kind, found = _find(data)
    lines: list[Line] = []
    if kind == "words":
        lines += lines_of_words(_words(found))
    elif kind == "tokens":
        for number, part in enumerate(found, start=1):
            lines += _lines_of_tokens(part, f"part {number}")
    else:
        for number, segment in enumerate(found, start=1):
            line = _line(segment, f"segment {number}", source)
            if line is not None:
                lines += _by_speaker(line)
    if not lines and not source.dropped:
        raise source.error(f": it has no segments with times and text; expected a list of them as {_SEGMENTS[4]!r}.")
    return lines if kind == "clocks" else in_seconds(lines, source)


def _find(data: Any, depth: int = 0) -> tuple[str, Sequence[Any]]:  # noqa: ANN401 - JSON
    """What a file holds: segments, ``clocks`` (segments with times like 00:01:02,500), words or tokens."""
    if depth > _DEEPEST:
        return "segments", []
    if isinstance(data, list):
        parts = [part for part in data if isinstance(part, Mapping)]
        inner = [found for kind, found in (_find(part, depth + 1) for part in parts) if kind == "segments" and found]
        if inner:  # FunASR: a list of recordings or parts of one
            return "segments", [segment for found in inner for segment in found]
        if parts and any("timestamp" in part and isinstance(part["timestamp"], list) and _text(part) for part in parts):
            if all(_span(part) is None for part in parts):
                return "tokens", parts
        if any(_span(part) is not None for part in parts) or any(_is_tuple(part) for part in data):
            return "segments", data
        return "segments", []
    if not isinstance(data, Mapping):
        return "segments", []
    for key in _SEGMENTS:
        found = data.get(key)
        if isinstance(found, list) and any(isinstance(part, Mapping | list) for part in found):
            clocks = any(isinstance(part, Mapping) and isinstance(part.get("timestamps"), Mapping) for part in found)
            return ("clocks" if clocks else "segments"), found
    for key in _INSIDE:
        kind, found = _find(data.get(key), depth + 1)
        if found:
            return kind, found
    for key in _WORDS:
        found = data.get(key)
        if isinstance(found, list) and found:
            return "words", found
    if isinstance(data.get("timestamp"), list) and _text(data) and _span(data) is None:
        return "tokens", [data]
    return "segments", []


def _is_tuple(part: Any) -> bool:  # noqa: ANN401 - JSON
    """A named tuple of faster-whisper as JSON: id, seek, start, end, text, ..."""
    return isinstance(part, list) and len(part) >= 5 and isinstance(part[4], str) and finite(part[2]) is not None


def _time(value: Any) -> float | None:  # noqa: ANN401 - JSON
    if isinstance(value, str):
        number = parse_number(value)
        return parse_clock(value) if number is None else number
    return finite(value)


def _span(part: Mapping[str, Any]) -> tuple[float, float | None] | None:
    """Start and end of a segment or word; some recognizers leave the last end out."""
    stamps = part.get("timestamps")
    if isinstance(stamps, Mapping):
        part = stamps
    pair = part.get("timestamp")
    if isinstance(pair, list) and len(pair) == 2 and _time(pair[0]) is not None:
        return _time(pair[0]) or 0.0, _time(pair[1])
    for first, last in _TIMES:
        start = _time(part.get(first))
        if start is not None:
            return start, _time(part.get(last))
    return None


def _text(part: Mapping[str, Any]) -> str:
    value = next((part[key] for key in _TEXT if isinstance(part.get(key), str)), "")
    return str(_MARK.sub("", value))


def _speaker(part: Mapping[str, Any]) -> str | None:
    for key in _SPEAKER:
        value = part.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9:
            return f"speaker {value}"
    return None


def _line(segment: Any, place: str, source: TranscriptSource) -> Line | None:  # noqa: ANN401 - JSON
    if _is_tuple(segment):
        segment = dict(zip(("id", "seek", "start", "end", "text"), segment, strict=False)) | {
            "words": next((part for part in segment[5:] if isinstance(part, list) and _tuples_of_words(part)), None)
        }
    if not isinstance(segment, Mapping):
        source.drop(place, "it is no object with start, end and text")
        return None
    given = segment.get("words")
    words = _words(given) if isinstance(given, list) else []
    span = _span(segment)
    start, end = span or (words[0].start if words else None, words[-1].end if words else None)
    if end is None and words:
        end = words[-1].end
    text = _text(segment) or joined(words)
    if start is None or end is None:
        if not (text and start is not None):
            source.drop(place, "it has no times")
            return None
        end = start  # of zero length: it gets the time to the next
    return Line(start, end, text, _speaker(segment), tuple(words), place)


def _tuples_of_words(part: list[Any]) -> bool:
    return bool(part) and all(isinstance(word, list) and len(word) >= 3 and isinstance(word[2], str) for word in part)


def _words(given: Sequence[Any]) -> list[Word]:
    """Words with times; one without, as whisperX leaves numerals, gets the end of the one before."""
    words: list[Word] = []
    for part in given:
        if isinstance(part, list) and len(part) >= 3:
            part = {"start": part[0], "end": part[1], "word": part[2]}
        if not isinstance(part, Mapping) or not _text({**part, "text": part.get("text", part.get("word"))}).strip():
            continue
        text = _text({**part, "text": part.get("punctuated_word", part.get("word", part.get("text")))})
        span = _span(part)
        start = span[0] if span else words[-1].end if words else None
        if start is None:
            continue
        end = span[1] if span and span[1] is not None else start
        words.append(Word(text.strip(), start, max(start, end), _speaker(part)))
    return words


def _by_speaker(line: Line) -> Iterator[Line]:
    """A line for each speaker of its words."""
    yield from split_words(line, [word.speaker or line.speaker for word in line.words])


def split_words(line: Line, speakers: Sequence[str | None]) -> Iterator[Line]:
    """A line for each run of words of one speaker.

    A single word between two runs of the same speaker counts as theirs: diarization flickers.

    Args:
        line: The line.
        speakers: Of each of its words.
    """
    who = list(speakers)
    for index in range(1, len(who) - 1):
        if who[index - 1] == who[index + 1] != who[index]:
            who[index] = who[index - 1]
    if len(set(who)) <= 1:
        yield Line(line.start, line.end, line.text, who[0] if who else line.speaker, line.words, line.place)
        return
    starts = [0, *(index for index in range(1, len(who)) if who[index] != who[index - 1])]
    cuts = _cuts(line, starts)
    for number, (first, behind) in enumerate(zip(starts, [*starts[1:], len(who)], strict=True)):
        words = line.words[first:behind]
        text = joined(words) if cuts is None else line.text[cuts[number] : cuts[number + 1]]
        start = line.start if first == 0 else words[0].start
        end = line.end if behind == len(who) else words[-1].end
        yield Line(start, end, text.strip(), who[first], words, line.place)


def _cuts(line: Line, starts: Sequence[int]) -> list[int] | None:
    """Where in the text of a line these words start; ``None`` if the text does not consist of its words."""
    places, at = [], 0
    for word in line.words:
        found = line.text.find(word.text, at, at + 100 + len(word.text))
        if found < 0:
            return None
        places.append(found)
        at = found + len(word.text)
    return [0, *(places[start] for start in starts[1:]), len(line.text)]


def _lines_of_tokens(part: Mapping[str, Any], place: str) -> Iterator[Line]:
    """Sentences of FunASR's text with a time for every character or word, in milliseconds."""
    text = _text(part).strip()
    spans = [
        (_time(pair[0]) or 0.0, _time(pair[1]) or 0.0)
        for pair in part["timestamp"]
        if isinstance(pair, list) and len(pair) == 2
    ]
    if not text or not spans:
        return
    tokens = _TOKEN.findall(text)
    if len(tokens) != len(spans):
        yield Line(spans[0][0], spans[-1][1], text, _speaker(part), place=place)
        return
    at = 0
    for sentence in filter(str.strip, _SENTENCE.findall(text)):
        inside = _TOKEN.findall(sentence)
        if inside:
            here = spans[at : at + len(inside)]
            words = tuple(Word(token, *span) for token, span in zip(inside, here, strict=True))
            yield Line(here[0][0], here[-1][1], sentence.strip(), _speaker(part), words, place)
            at += len(inside)
