"""Annotations as files: JSON, tables, subtitles, and what ELAN, Praat and scorers of diarization read."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from merc.annotation.lines import AnnotatedLine, Annotation, LineTurn, shown_name
from merc.annotation.page import as_html
from merc.corpora.transcripts import UNKNOWN
from merc.corpora.transcripts.lines import as_clock
from merc.corpora.transcripts.subtitles import WRITTEN_BY_MERC
from merc.corpora.transcripts.tiers import AUTHOR, EMOTION_TIER
from merc.files import write_text

_FACE = {
    "track": "track",
    "score": "score",
    "margin": "margin",
    "coverage": "coverage",
    "face_probability": "probability",  # `probability` is that of the emotion
    "activity": "activity",
}
"""Columns of the speaking face, and what they are called in :class:`merc.annotation.SpeakingFace`."""

_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def as_srt(annotation: Annotation) -> str:
    """Subtitles in which every line starts with its emotion, such as ``[joy 83 %] Monica: Hi``."""
    blocks = []
    for line in annotation.lines:
        text = ": ".join(filter(None, [shown_name(line), line.text])).replace("-->", "->")
        times = f"{as_clock(line.start)} --> {as_clock(line.end)}"
        blocks.append(f"{line.line}\n{times}\n[{_emotion(line)}] {text}\n")
    return "\n".join(blocks)


def as_vtt(annotation: Annotation) -> str:
    """WebVTT with voice tags, such as ``[joy 83 %] <v Monica>Hi.</v>``.

    A line without a name has the voice ``unknown``. merc reads these files as they are.
    """
    blocks = [f"WEBVTT\n\n{WRITTEN_BY_MERC}\n"]
    for line in annotation.lines:
        times = f"{as_clock(line.start)} --> {as_clock(line.end)}".replace(",", ".")
        said = f"[{_emotion(line)}] <v {_in_vtt(line.speaker)}>{_in_vtt(line.text)}</v>"
        blocks.append(f"{line.line}\n{times}\n{said}\n")
    return "\n".join(blocks)


def as_textgrid(annotation: Annotation) -> str:
    """A TextGrid of Praat, with two interval tiers per speaker: ``Monica`` with the text, ``Monica (emotion)``.

    Intervals of a tier cannot overlap, so lines of one speaker that do go to further tiers of the same names. merc
    reads these files as they are.
    """
    end = max((line.end for line in annotation.lines), default=0.0)
    tiers = [
        (_one_row(speaker) + suffix, [(line.start, line.end, text(line)) for line in lines])
        for speaker, lines in _lanes(annotation.lines)
        for suffix, text in (("", lambda line: line.text), (EMOTION_TIER, _emotion))
    ]
    rows = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.3f}"]
    rows += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, spans) in enumerate(tiers, start=1):
        filled = list(_without_gaps(spans, end))
        rows += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_in_praat(name)}"]
        rows += ["        xmin = 0", f"        xmax = {end:.3f}", f"        intervals: size = {len(filled)}"]
        for place, (first, last, text) in enumerate(filled, start=1):
            rows += [
                f"        intervals [{place}]:",
                f"            xmin = {first:.3f}",
                f"            xmax = {last:.3f}",
            ]
            rows.append(f"            text = {_in_praat(text)}")
    return "\n".join(rows) + "\n"


def as_eaf(annotation: Annotation) -> str:
    """A file of ELAN, with a tier of text per speaker, and a tier of emotions that depends on it.

    Annotations of a tier cannot overlap, so lines of one speaker that do go to further tiers (``Monica 2``) with the
    same participant. Characters that XML cannot hold become �.
    """
    document = ElementTree.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": AUTHOR,
            "DATE": "2000-01-01T00:00:00Z",  # required, and the same annotation gives the same file
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
            "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
        },
    )
    header = ElementTree.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if annotation.video is not None:
        video = annotation.video.resolve()
        kind = {".mp4": "video/mp4", ".wav": "audio/x-wav"}.get(video.suffix.lower(), "unknown")
        links = {"MEDIA_URL": video.as_uri(), "RELATIVE_MEDIA_URL": f"./{video.name}", "MIME_TYPE": kind}
        ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", links)
    order = ElementTree.SubElement(document, "TIME_ORDER")  # which ELAN expects to be one
    slots = [
        (time, 2 * line.line + place) for line in annotation.lines for place, time in enumerate((line.start, line.end))
    ]
    for time, slot in sorted((round(1000 * time), slot) for time, slot in slots):
        ElementTree.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=f"ts{slot}", TIME_VALUE=str(time))
    names: set[str] = set()
    for speaker, lines in _lanes(annotation.lines):
        name = free_name(_in_xml(_one_row(speaker)), names)
        emotions = free_name(name + EMOTION_TIER, names)
        about = {"PARTICIPANT": _in_xml(_one_row(speaker))}
        tier = ElementTree.SubElement(document, "TIER", {**about, "TIER_ID": name, "LINGUISTIC_TYPE_REF": "utterance"})
        depending = ElementTree.SubElement(
            document, "TIER", {**about, "TIER_ID": emotions, "LINGUISTIC_TYPE_REF": "emotion", "PARENT_REF": name}
        )
        for line in lines:
            refs = {"TIME_SLOT_REF1": f"ts{2 * line.line}", "TIME_SLOT_REF2": f"ts{2 * line.line + 1}"}
            _note(tier, "ALIGNABLE_ANNOTATION", f"a{line.line}", refs, line.text)
            _note(depending, "REF_ANNOTATION", f"e{line.line}", {"ANNOTATION_REF": f"a{line.line}"}, _emotion(line))
    for name, more in (
        ("utterance", {"TIME_ALIGNABLE": "true"}),
        ("emotion", {"TIME_ALIGNABLE": "false", "CONSTRAINTS": "Symbolic_Association"}),
    ):
        ElementTree.SubElement(
            document, "LINGUISTIC_TYPE", {"LINGUISTIC_TYPE_ID": name, "GRAPHIC_REFERENCES": "false", **more}
        )
    said = "1-1 association with a parent annotation"
    ElementTree.SubElement(document, "CONSTRAINT", STEREOTYPE="Symbolic_Association", DESCRIPTION=said)
    ElementTree.indent(document, "    ")
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(document, encoding="unicode") + "\n"


def _note(tier: ElementTree.Element, kind: str, name: str, refs: Mapping[str, str], text: str) -> None:
    outer = ElementTree.SubElement(tier, "ANNOTATION")
    inner = ElementTree.SubElement(outer, kind, {"ANNOTATION_ID": name, **refs})
    ElementTree.SubElement(inner, "ANNOTATION_VALUE").text = _in_xml(text)


def as_rttm(annotation: Annotation) -> str:
    """RTTM with one row per line: ``SPEAKER talk 1 0.500 1.200 <NA> <NA> Monica <NA> <NA>``.

    The recording is named after the film; ``_`` stands for the blanks of names, which RTTM cannot hold.
    """
    recording = "recording" if annotation.video is None else "_".join(annotation.video.stem.split()) or "recording"
    rows = (
        f"SPEAKER {recording} 1 {line.start:.3f} {line.end - line.start:.3f} <NA> <NA> "
        f"{'_'.join(line.speaker.split()) or UNKNOWN} <NA> <NA>\n"
        for line in annotation.lines
    )
    return "".join(rows)


def as_json(annotation: Annotation) -> dict[str, Any]:
    """The whole annotation, as plain values."""
    return {
        "format": "merc.Annotation",
        "version": 1,
        "video": None if annotation.video is None else str(annotation.video),
        "transcript": None if annotation.transcript is None else str(annotation.transcript),
        "run": dict(annotation.run),
        "emotions": list(annotation.labels.report_order),
        "dimensions": {name: list(scale) for name, scale in annotation.dimensions.items()},
        "notes": annotation.notes,
        "lines": [{**asdict(line), "used": line.used} for line in annotation.lines],
    }


def table_of(annotation: Annotation) -> tuple[list[str], list[list[Any]]]:
    """A table with one row per line: the names of its columns, and the rows, with ``None`` for what is not known.

    There is a column for the probability of every emotion, and one for every dimension, such as ``valence``. The column
    ``turns`` has all faces that speak in the line, such as ``0 1.20-2.60 98% Ann; 1 2.40-3.10 71% Bob``: track, seconds
    of the recording, probability, and the person if people were linked. A model that fuses late has columns for the
    probabilities of its parts too, such as ``text_joy`` and ``face_joy``.
    """
    emotions = annotation.labels.report_order
    parts = list(dict.fromkeys(part for line in annotation.lines for part in line.parts))
    about = ["line", "start", "end", "speaker", "text", "emotion", "probability"]
    rows: list[list[Any]] = []
    for line in annotation.lines:
        known = [None if line.face is None else getattr(line.face, name) for name in _FACE.values()]
        probabilities = [line.probabilities.get(name) for name in emotions]
        best = line.probabilities.get(line.emotion or "")
        begin = [line.line, line.start, line.end, line.speaker, line.text, line.emotion, best]
        turns = "; ".join(map(_turn, line.turns or []))
        told = [line.parts.get(part, {}).get(name) for part in parts for name in emotions]
        person = [line.person, line.person_confidence]
        numbers = [line.values.get(name) for name in annotation.dimensions]
        rows.append([*begin, *probabilities, *numbers, "+".join(line.used), *known, turns, *person, *told])
    of_parts = [f"{part}_{name}" for part in parts for name in emotions]
    about += [*emotions, *annotation.dimensions]
    return [*about, "modalities", *_FACE, "turns", "person", "person_confidence", *of_parts], rows


def as_csv(annotation: Annotation) -> str:
    """The table of :func:`table_of`, as CSV."""
    columns, rows = table_of(annotation)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(rows)
    return text.getvalue()


def _json_text(annotation: Annotation) -> str:
    return json.dumps(as_json(annotation), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[Annotation], str]] = {
    "json": _json_text,
    "csv": as_csv,
    "srt": as_srt,
    "vtt": as_vtt,
    "eaf": as_eaf,
    "TextGrid": as_textgrid,
    "rttm": as_rttm,
    "html": as_html,
}
"""What makes the text of each kind of file, by its suffix."""


def format_of(name: str) -> str:
    """The format of a suffix, whatever its case.

    Raises:
        ValueError: merc writes no such files.
    """
    found = {known.lower(): known for known in FORMATS}.get(name.strip().lower().removeprefix("."))
    if found is None:
        raise ValueError(f"merc writes no annotation as {name!r}: expected one of {', '.join(FORMATS)}.")
    return found


def save_annotation(annotation: Annotation, path: str | Path) -> None:
    """Write an annotation, whole or not at all, in the format of the suffix.

    Args:
        annotation: The annotation.
        path: The file, such as ``talk.eaf``: see :data:`FORMATS`.

    Raises:
        ValueError: merc writes no such files.
    """
    make = FORMATS[format_of(Path(path).suffix)]
    # The link of a page to its film depends on where the page is.
    write_text(path, as_html(annotation, beside=Path(path).parent) if make is as_html else make(annotation))


def _turn(span: LineTurn) -> str:
    whose = "" if span.person is None else f" {span.person}"
    return f"{span.track} {span.start:.2f}-{span.end:.2f} {100 * span.probability:.0f}%{whose}"


def _emotion(line: AnnotatedLine) -> str:
    """``joy 83 %``, or ``?`` if there is none."""
    return f"{line.emotion} {100 * line.probabilities[line.emotion]:.0f} %" if line.emotion else "?"


def _lanes(lines: Sequence[AnnotatedLine]) -> list[tuple[str, list[AnnotatedLine]]]:
    """Speakers with their lines; a speaker whose lines overlap comes several times."""
    lanes: dict[str, list[list[AnnotatedLine]]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: (line.start, line.end)):
        own = lanes[line.speaker]
        free = next((lane for lane in own if round(lane[-1].end, 3) <= round(line.start, 3)), None)
        if free is None:
            own.append([line])
        else:
            free.append(line)
    return [(speaker, lane) for speaker, own in lanes.items() for lane in own]


def _without_gaps(spans: Sequence[tuple[float, float, str]], end: float) -> Iterator[tuple[float, float, str]]:
    """Intervals from 0 to ``end``, with empty ones where there is nothing."""
    last = 0.0
    for span in spans:
        if round(span[0], 3) > round(last, 3):
            yield last, span[0], ""
        yield span
        last = span[1]
    if round(end, 3) > round(last, 3):
        yield last, end, ""


def free_name(name: str, taken: set[str]) -> str:
    """A name that is not taken, such as ``Ann 2`` for ``Ann``; it then is.

    Args:
        name: The name.
        taken: Names that others have.
    """
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name} {number}"
    taken.add(free)
    return free


def _one_row(text: str) -> str:
    return " ".join(text.split())


def _in_vtt(text: str) -> str:
    return _one_row(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _in_praat(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _in_xml(text: str) -> str:
    return _NOT_IN_XML.sub("\ufffd", text)
