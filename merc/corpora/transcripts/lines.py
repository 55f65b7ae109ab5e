"""What every reader of transcripts takes and gives: a source, and lines with times."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from merc.conversation import CorpusError
from merc.decoding import DecodedText, decode

UNKNOWN = "unknown"
"""The speaker of a line for whom the transcript gives no name."""

_NAMED = 5  # places that a note names before it only counts


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a line with its own times.

    Args:
        text: The word, with its punctuation.
        start: Seconds.
        end: Seconds.
        speaker: Who says it, if the file says so for words.
    """

    text: str
    start: float
    end: float
    speaker: str | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """What is said between two times: a subtitle, a row of a table, an annotation of a tier.

    Args:
        start: Seconds.
        end: Seconds.
        text: What is said; rows of a subtitle are separated by newlines.
        speaker: Who says it; ``None`` if that is not known, or is still part of the text (``Ann: Hi.``).
        words: Its words, where the file gives their times.
        place: Where it stands in the file, for messages, such as ``line 7``.
    """

    start: float
    end: float
    text: str
    speaker: str | None = None
    words: tuple[Word, ...] = ()
    place: str = ""


@dataclass(frozen=True)
class TranscriptColumns:
    """Which column of a CSV or TSV transcript holds what.

    Args:
        start: Start, in seconds, in milliseconds or as ``h:mm:ss,mmm``. Default: recognised by its name.
        end: End, likewise.
        text: What is said. Default: recognised by its name.
        speaker: Who says it. Default: recognised by its name; a file without this column is fine.
    """

    start: str | None = None
    end: str | None = None
    text: str | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class TranscriptOptions:
    """How a transcript is read, where the file alone does not say it.

    Args:
        encoding: Its encoding, such as ``cp1251``. Default: recognised, or refused if that is not certain.
        speakers: A file that says who speaks when: RTTM, or any transcript with speakers. Its names go to the lines
            that have none.
        reader: Import path of a function of your own that takes a :class:`TranscriptSource` and gives
            :class:`Line` s. Default: by the file's suffix.
        columns: Which column of a table holds what.
        tiers: The tiers of an ELAN or Praat file that are speakers. Default: all that stand alone.
        unit: Unit of plain numbers of a table or JSON file. Default: by their size.
    """

    encoding: str | None = None
    speakers: str | Path | None = None
    reader: Callable[[TranscriptSource], Iterable[Line]] | None = None
    columns: TranscriptColumns = field(default_factory=TranscriptColumns)
    tiers: list[str] | None = None
    unit: Literal["s", "ms"] | None = None


@dataclass
class TranscriptSource:
    """A transcript on its way through a reader.

    Args:
        path: The file.
        options: How it is to be read.
        duration: Length of the recording in seconds, if it is known.
        notes: What readers of the results must know. A reader appends to it.
        dropped: Lines that are left out because they are broken, as place and reason.
        exact: A reader sets it where texts are what is said and nothing else, as in the files that merc writes: no
            names, dashes and sounds are looked for in them.
    """

    path: Path
    options: TranscriptOptions = field(default_factory=TranscriptOptions)
    duration: float | None = None
    notes: list[str] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    exact: bool = False

    @cached_property
    def decoded(self) -> DecodedText:
        """The text of the file; how it was decoded is noted.

        Raises:
            CorpusError: The file is missing, or its encoding is not certain.
        """
        if not self.path.is_file():
            raise CorpusError(f"No transcript {self.path}: expected a file. Check the path.")
        found = decode(self.path, self.options.encoding)
        self.notes += found.notes
        return found

    @property
    def text(self) -> str:
        """All of it."""
        return self.decoded.text

    @property
    def rows(self) -> list[str]:
        """Its rows, without line ends."""
        return [line.rstrip("\r\n") for line in self.decoded.lines]

    def drop(self, place: str, reason: str) -> None:
        """Leave a broken line out; a note will name it."""
        self.dropped.append((place, reason))

    def error(self, message: str) -> CorpusError:
        """An error that names the file."""
        return CorpusError(f"{self.path}{'' if message[:1] == ':' else ', '}{message}")


def shown_places(places: Sequence[tuple[str, str]]) -> str:
    """Places with reasons for a note, which must not become as long as a file."""
    shown = "; ".join(f"{place}: {reason}" for place, reason in places[:_NAMED])
    return shown + (f"; and {len(places) - _NAMED} more" if len(places) > _NAMED else "")


_CLOCK = re.compile(r"(-?) ?(?:(\d{1,4}) ?: ?)?(\d{1,3}) ?: ?(\d{1,2})(?: ?([.,:]) ?(\d{1,9}))?")
_NUMBER = re.compile(r"-?(?:\d{1,10}(?:[.,]\d{0,12})?|[.,]\d{1,12})s?")


def parse_clock(given: str) -> float | None:
    """Seconds from ``00:01:02,500`` as people and programs write it, or ``None`` if it is no time.

    Hours and fractions may be absent, digits too few, blanks between them, the sign negative, the comma a point or a
    colon. A fraction of ``1000`` is a second, which programs that round write.
    """
    match = _CLOCK.fullmatch(" ".join(unicodedata.normalize("NFKC", given[:64]).split())) if len(given) < 64 else None
    if match is None:
        return None
    sign, hours, minutes, seconds, point, fraction = match.groups()
    if int(seconds) > 59 or (hours and int(minutes) > 59) or (point == ":" and len(fraction) != 3):
        return None
    rest = 0.0 if not fraction else 1.0 if fraction == "1000" else float(f"0.{fraction}")
    value = round(int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + rest, 6)
    return -value if sign else value


def as_clock(seconds: float) -> str:
    """Seconds as SubRip writes them.

    Example:
        >>> as_clock(3662.5)
        '01:01:02,500'
    """
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{milliseconds:03}"


def parse_number(given: str) -> float | None:
    """A plain number, with a decimal point or comma, or ``None``."""
    return float(given.rstrip("s").replace(",", ".")) if _NUMBER.fullmatch(given) else None


def in_seconds(lines: Sequence[Line], source: TranscriptSource) -> list[Line]:
    """Lines whose times are plain numbers, from milliseconds into seconds if that is what they are.

    They are taken for milliseconds if a usual line would last more than 100 seconds, and if they fit the recording only
    then. The option ``unit`` decides where both are possible.

    Raises:
        CorpusError: Both are possible.
    """
    unit = source.options.unit
    lengths = sorted(line.end - line.start for line in lines)
    if unit is None and lengths and lengths[len(lengths) // 2] >= 100:
        unit, last, film = "ms", max(line.end for line in lines), source.duration
        if film is not None and last <= 1.05 * film + 10:
            raise source.error(
                f": its times go to {last:g} and could be seconds or milliseconds of a recording of {film:.0f} s. "
                "Name the unit: --unit s or --unit ms."
            )
        source.notes.append(f"The times of {source.path.name} are plain numbers of a size that only milliseconds have.")
    if unit != "ms":
        return list(lines)
    return [
        replace(
            line,
            start=line.start / 1000,
            end=line.end / 1000,
            words=tuple(replace(word, start=word.start / 1000, end=word.end / 1000) for word in line.words),
        )
        for line in lines
    ]


_SENTENCE_END = (".", "!", "?", "\u2026", "。", "\uff01", "\uff1f")
_PAUSE = 0.8  # seconds


def lines_of_words(words: Sequence[Word], place: str = "") -> Iterator[Line]:
    """Lines of a file that gives words alone: to the end of a sentence, a pause, or another speaker."""
    run: list[Word] = []
    for word in words:
        if run and (
            word.speaker != run[-1].speaker
            or word.start - run[-1].end >= _PAUSE
            or run[-1].text.rstrip("\"'\u201d\u2019)").endswith(_SENTENCE_END)
        ):
            yield _line_of(run, place)
            run = []
        run.append(word)
    if run:
        yield _line_of(run, place)


def _line_of(words: Sequence[Word], place: str) -> Line:
    return Line(words[0].start, words[-1].end, joined(words), words[0].speaker, tuple(words), place)


def joined(words: Sequence[Word]) -> str:
    """The text of words: with blanks between them, but not between those of scripts that have none."""
    text = ""
    for word in words:
        glued = not text or text[-1] >= "\u2e80" or word.text[:1] >= "\u2e80" or word.text[:1] in "',.!?"
        text += word.text.strip() if glued else " " + word.text.strip()
    return text


def finite(value: object) -> float | None:
    """A number of a JSON file, or ``None``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
