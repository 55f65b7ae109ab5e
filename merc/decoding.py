"""Text of files of unknown origin: byte order marks, UTF-8, old code pages, punctuation that was converted wrongly."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from merc.code_pages import guess_code_page
from merc.conversation import CorpusError

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark begins it
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_NEW_LINE = re.compile(r"(?<=\n)|(?<=\r)(?!\n)")
_CONTROLS = {code: bytes([code]).decode("cp1252", "ignore") for code in range(0x80, 0xA0)}
_CONTROL = re.compile("[\x80-\x9f]")


@dataclass(frozen=True)
class DecodedText:
    """The text of a file, and what had to be assumed to read it.

    Args:
        path: The file.
        lines: Its lines with their line ends.
        encoding: How it is encoded; ``utf-8`` also if some lines are not.
        legacy: The code page of lines that are not UTF-8, if there are any in a file without a byte order mark.
        legacy_lines: How many.
        control_lines: Lines with control characters of Unicode that are punctuation of cp1252.
    """

    path: Path
    lines: list[str]
    encoding: str = "utf-8"
    legacy: str | None = None
    legacy_lines: int = 0
    control_lines: int = 0

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self.lines)

    @property
    def notes(self) -> list[str]:
        """Sentences for the notes of a corpus, if it is not plain UTF-8."""
        name, notes = self.path.name, []
        if self.encoding != "utf-8":
            notes.append(f"{name} was read as {self.encoding}.")
        if self.legacy_lines:
            notes.append(f"{name}: {self.legacy_lines} lines were not UTF-8 and were read as {self.legacy}.")
        if self.control_lines:
            notes.append(
                f"{name}: {self.control_lines} lines had control characters (U+0080 to U+009F) in place of cp1252's "
                "punctuation, as in old copies of MELD. They were read as \u2019 \u2026 \u2014 and the like."
            )
        return notes


def map_controls(text: str) -> str:
    r"""The text with C1 control characters as the punctuation of cp1252 that they were before a wrong conversion.

    Example:
        >>> map_controls("I can\x92t\x85 he\x92s late") == "I can\u2019t\u2026 he\u2019s late"
        True
    """
    return text.translate(_CONTROLS) if _CONTROL.search(text) else text


def decode(path: Path, encoding: str | None = None, *, legacy: str | None = None) -> DecodedText:
    """The text of a file.

    A byte order mark decides. Without one it is UTF-8, or UTF-16 if every other byte is zero. What is neither is in an
    old code page: the one that makes words of it (:func:`merc.code_pages.guess_code_page`). Only the lines that are not
    UTF-8 are read in it, for copies exist in which a few such bytes were pasted into UTF-8.

    Args:
        path: The file.
        encoding: Its encoding, if that is known.
        legacy: The code page of lines that are not UTF-8, if that is known.

    Raises:
        CorpusError: The encoding is unknown to Python or does not fit, no code page makes sense of it, or several do.
    """
    data = path.read_bytes()
    if encoding is not None:
        return _decode_as(path, data, encoding)
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            data = data.removeprefix(mark)
            if name != "utf-8":
                return _checked(path, _strict(path, data, name), name)
            break
    if b"\0" in data:
        wide = _without_mark(data)
        if wide is None:
            line = data[: data.index(b"\0")].count(b"\n") + 1
            raise CorpusError(
                f"{path}, line {line}: holds zero bytes, so it is not UTF-8. Save it as UTF-8, or name its encoding."
            )
        return _checked(path, _strict(path, data, wide), wide)
    try:
        return _checked(path, data.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        return _decode_lines(path, data, legacy)


def _decode_as(path: Path, data: bytes, encoding: str) -> DecodedText:
    try:
        codec = codecs.lookup(encoding)
        if not getattr(codec, "_is_text_encoding", True):
            raise LookupError
    except (LookupError, ValueError):
        raise CorpusError(
            f"{path}: there is no encoding {encoding!r}. Expected one such as utf-8, utf-16, cp1251 or gb18030."
        ) from None
    text = _strict(path, data, codec.name)
    return _checked(path, text.removeprefix("\ufeff"), codec.name)


def _strict(path: Path, data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        line = data[: getattr(error, "start", 0)].count(b"\n") + 1
        raise CorpusError(
            f"{path}, line {line}: it is not {encoding} ({getattr(error, 'reason', error)}). Name the right encoding, "
            "or save the file as UTF-8."
        ) from None


def _checked(path: Path, text: str, encoding: str, **old: str | int) -> DecodedText:
    """Lines in which nothing stands that no text holds."""
    lines = _NEW_LINE.split(text)
    if not lines[-1]:
        lines.pop()
    if "\0" in text:
        line = next(number for number, line in enumerate(lines, start=1) if "\0" in line)
        raise CorpusError(f"{path}, line {line}: holds zero bytes, so it is no text in {encoding}. Save it as UTF-8.")
    controls = 0
    if _CONTROL.search(text):
        controls = sum(bool(_CONTROL.search(line)) for line in lines)
        lines = [map_controls(line) for line in lines]
    return DecodedText(path, lines, encoding, control_lines=controls, **old)  # type: ignore[arg-type]


def _without_mark(data: bytes) -> str | None:
    """UTF-16 without a byte order mark, of text that is mostly ASCII: every other byte is zero."""
    half = len(data) // 2
    even, odd = data[::2].count(0), data[1::2].count(0)
    if len(data) % 2 == 0 and min(even, odd) == 0 and max(even, odd) > half / 4:
        return "utf-16-be" if even else "utf-16-le"
    return None


def _decode_lines(path: Path, data: bytes, legacy: str | None) -> DecodedText:
    raw = data.splitlines(keepends=True)
    lines: list[str | None] = []
    for line in raw:
        try:
            lines.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            lines.append(None)
    old = [number for number, line in enumerate(lines) if line is None]
    if legacy is None:
        # ASCII lines belong to both.
        legacy, pages = guess_code_page(
            b"".join(line for line, text in zip(raw, lines, strict=True) if text is None or line.isascii())
        )
        if legacy is None:
            raise _unclear(path, old, raw, pages)
    for number in old:
        try:
            lines[number] = raw[number].decode(legacy)
        except UnicodeDecodeError as error:
            raise CorpusError(
                f"{path}, line {number + 1}: neither UTF-8 nor {legacy} ({error.reason}). Save the file as UTF-8."
            ) from None
    text = "".join(line for line in lines if line is not None)
    return _checked(path, text, "utf-8", legacy=legacy, legacy_lines=len(old))


def _unclear(path: Path, old: list[int], raw: list[bytes], pages: list[str]) -> CorpusError:
    where = f"{path}, line {old[0] + 1}: it is not UTF-8, and "
    advice = "Name its encoding (--encoding of merc annotate and merc import csv), or save it as UTF-8."
    if not pages:
        return CorpusError(f"{where}no code page that merc tries makes words of it. {advice}")
    readings: Counter[str] = Counter()
    shown = []
    for page in pages[:4]:
        # The line that tells them apart: the first that they read in different ways.
        number = next((n for n in old if len({raw[n].decode(p, "replace") for p in pages}) > 1), old[0])
        text = raw[number].decode(page, "replace").strip()
        if not readings[text]:
            shown.append(f"{page} ({text[:40]!r})")
        readings[text] += 1
    return CorpusError(f"{where}several code pages make words of it: {', '.join(shown)}. {advice}")
