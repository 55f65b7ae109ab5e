"""Annotations of research: Praat's .TextGrid and ELAN's .eaf, whose tiers are speakers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar
from xml.etree import ElementTree

from merc.corpora.transcripts.lines import Line, TranscriptSource, Word, lines_of_words
from merc.rows import shown, shown_names

T = TypeVar("T")
# Praat reads free-standing strings, numbers and flags, and takes all else for comments.
_TOKEN = re.compile(r'(?<!\S)(?:"((?:[^"]++|"")*+)"|(-?\d[\d.eE+-]{0,40})|(<exists>|<absent>))(?=\s|$)')
_SILENCE = frozenset(["sil", "sp", "spn", "<sil>", "<eps>", "<p:>", "#", "_"])
_PHONES = re.compile(r"\b(?:phones?|phonemes?|segments?|phon|MAU)\b", re.IGNORECASE)
EMOTION_TIER = " (emotion)"
"""What follows the name of a speaker in the name of the tier of emotions, in the files that merc writes."""

AUTHOR = "merc"
"""The author of the files of ELAN that merc writes, which are read as they are."""

_WORDS = re.compile(r"(?:^|[\W_])(?:words?|ORT(?:-MAU)?)$", re.IGNORECASE)


def read_textgrid(source: TranscriptSource) -> list[Line]:
    """The interval tiers of a TextGrid, long or short.

    A tier is a speaker. Tiers of words, as forced aligners write them, are put together into lines if there are no
    others; tiers of phones and of points are not read. merc's own files have a tier of emotions for every speaker
    (``Ann (emotion)`` for ``Ann``), which says that the other is a speaker and is not read itself.
    """
    every = [(name, spans) for name, spans in _praat_tiers(source) if spans]
    names = {name for name, _ in every}
    speakers = {name for name in names if name + EMOTION_TIER in names}
    emotions = set() if source.options.tiers else {name + EMOTION_TIER for name in speakers}
    tiers = _chosen(source, [(name, spans) for name, spans in every if name not in emotions])
    parts = {name for name in names - speakers if _PHONES.search(name) or _WORDS.search(name)}
    whole = [(name, spans) for name, spans in tiers if name not in parts]
    source.exact = bool(names) and names == speakers | emotions
    lines = []
    for name, spans in whole:
        lines += [Line(start, end, text, name, place=f"tier {name!r}, {start:g} s") for start, end, text in spans]
    if not whole:
        for name, spans in tiers:
            if _WORDS.search(name):
                speaker = _WORDS.sub("", name).strip(" -_.") or None
                words = [Word(text, start, end, speaker) for start, end, text in spans if text.lower() not in _SILENCE]
                lines += lines_of_words(words, f"tier {name!r}")
    unread = [name for name, _ in tiers if name in parts and (whole or _PHONES.search(name))]
    _note_unread(source, unread)
    return lines


def _praat_tiers(source: TranscriptSource) -> Iterator[tuple[str, list[tuple[float, float, str]]]]:
    tokens = [
        (match[1].replace('""', '"'), None) if match[1] is not None else (None, match[2] or match[3])
        for match in _TOKEN.finditer(source.text)
    ]
    if [text for text, _ in tokens[:2]] != ["ooTextFile", "TextGrid"]:
        raise source.error(': expected a text file of Praat: File type = "ooTextFile", Object class = "TextGrid".')
    place = 2

    def take(*, number: bool) -> str:
        nonlocal place
        text, value = tokens[place] if place < len(tokens) else (None, None)
        found = value if number else text
        if found is None:
            raise source.error(f": it breaks off, or is no TextGrid: expected {'a number' if number else 'a text'}.")
        place += 1
        return found

    def time() -> float:
        given = take(number=True)
        try:
            value = float(given)
        except ValueError:
            value = math.inf
        if not abs(value) < 1e9:
            raise source.error(f": {shown(given)} is no time.")
        return value

    time(), time()
    if take(number=True) != "<exists>":
        return
    for _ in range(int(time())):
        kind, name = take(number=False), " ".join(take(number=False).split())
        time(), time()
        spans = []
        for _ in range(int(time())):
            start = time()
            end = time() if kind == "IntervalTier" else start
            text = take(number=False).strip()
            if text and kind == "IntervalTier":
                spans.append((start, end, text))
        yield name, spans


def read_eaf(source: TranscriptSource) -> list[Line]:
    """The tiers of an ELAN file that stand alone; those that depend on others (glosses, translations) are not read.

    The speaker is the participant of the tier, or else its name. Times that ELAN has not aligned are put evenly between
    those that it has.
    """
    text = source.text
    if re.search(r"<!(?:DOCTYPE|ENTITY)", text):
        raise source.error(": it declares a document type or entities, which files of ELAN do not.")
    try:
        root = ElementTree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except (ElementTree.ParseError, ValueError) as error:
        raise source.error(f": not XML ({error}). Export it from ELAN again.") from None
    if root.tag != "ANNOTATION_DOCUMENT":
        raise source.error(f": expected a file of ELAN, found XML of {shown(root.tag)}.")
    source.exact = root.get("AUTHOR") == AUTHOR
    times = _slots(root)
    every = [(tier.get("TIER_ID", ""), tier) for tier in root.iter("TIER")]
    alone = [pair for pair in every if pair[1].get("PARENT_REF") is None or source.options.tiers]
    lines = []
    for name, tier in _chosen(source, alone):
        speaker = (tier.get("PARTICIPANT") or name).strip() or None
        for note in tier.iter("ALIGNABLE_ANNOTATION"):
            place = f"annotation {note.get('ANNOTATION_ID')}"
            start, end = (times.get(note.get(f"TIME_SLOT_REF{which}", "")) for which in (1, 2))
            said = (note.findtext("ANNOTATION_VALUE") or "").strip()
            if start is None or end is None:
                source.drop(place, "it has no times")
            elif said:
                lines.append(Line(start, end, said, speaker, place=place))
    _note_unread(source, [name for name, tier in every if tier.get("PARENT_REF") and not source.options.tiers])
    return lines


def _slots(root: ElementTree.Element) -> dict[str, float]:
    """Seconds of every time slot."""
    slots = [(slot.get("TIME_SLOT_ID", ""), slot.get("TIME_VALUE", "")) for slot in root.iter("TIME_SLOT")]
    known = [(index, int(value) / 1000) for index, (_, value) in enumerate(slots) if re.fullmatch(r"\d{1,10}", value)]
    times = {slots[index][0]: seconds for index, seconds in known}
    for (first, start), (last, end) in pairwise(known):
        for index in range(first + 1, last):
            times[slots[index][0]] = start + (end - start) * (index - first) / (last - first)
    return times


def _chosen(source: TranscriptSource, tiers: Sequence[tuple[str, T]]) -> list[tuple[str, T]]:
    wanted = source.options.tiers
    if not wanted:
        return list(tiers)
    if absent := [name for name in wanted if name not in {name for name, _ in tiers}]:
        found = shown_names([name for name, _ in tiers])
        raise source.error(f": no tier {', '.join(map(repr, absent))} with text: found {found}. Correct --tiers.")
    return [(name, tier) for name, tier in tiers if name in wanted]


def _note_unread(source: TranscriptSource, names: Sequence[str]) -> None:
    if names:
        source.notes.append(f"Tiers of {source.path.name} that were not read: {shown_names(names)}. --tiers chooses.")
