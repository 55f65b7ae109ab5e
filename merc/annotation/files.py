"""Annotations as files: JSON, CSV and subtitles."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from merc.annotation.lines import AnnotatedLine, Annotation, LineTurn, shown_name
from merc.corpora.transcripts.lines import as_clock

_FACE = {
    "track": "track",
    "score": "score",
    "margin": "margin",
    "coverage": "coverage",
    "face_probability": "probability",  # `probability` is that of the emotion
    "activity": "activity",
}
"""Columns of the speaking face, and what they are called in :class:`merc.annotation.SpeakingFace`."""


def as_srt(lines: Sequence[AnnotatedLine]) -> str:
    """Subtitles in which every line starts with its emotion, such as ``[joy 83 %] Monica: Hi``."""
    blocks = []
    for line in lines:
        emotion = f"[{line.emotion} {100 * line.probabilities[line.emotion]:.0f} %]" if line.emotion else "[?]"
        text = ": ".join(filter(None, [shown_name(line), line.text])).replace("-->", "->")
        blocks.append(f"{line.line}\n{as_clock(line.start)} --> {as_clock(line.end)}\n{emotion} {text}\n")
    return "\n".join(blocks)


def as_json(annotation: Annotation, video: Path, transcript: str | Path) -> dict[str, Any]:
    """The whole annotation, as plain values."""
    return {
        "format": "merc.Annotation",
        "version": 1,
        "video": str(video),
        "transcript": str(transcript),
        "run": dict(annotation.run),
        "emotions": list(annotation.labels.report_order),
        "notes": annotation.notes,
        "lines": [{**asdict(line), "used": line.used} for line in annotation.lines],
    }


def as_csv(annotation: Annotation) -> str:
    """A table with one row per line, and a column for the probability of every emotion.

    The column ``turns`` has all faces that speak in the line, such as ``0 1.20-2.60 98% Ann; 1 2.40-3.10 71% Bob``:
    track, seconds of the recording, probability, and the person if people were linked.
    """
    emotions = annotation.labels.report_order
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    about = ["line", "start", "end", "speaker", "text", "emotion", "probability"]
    table.writerow([*about, *emotions, "modalities", *_FACE, "turns", "person", "person_confidence"])
    for line in annotation.lines:
        known = ["" if line.face is None else getattr(line.face, name) for name in _FACE.values()]
        probabilities = [line.probabilities.get(name, "") for name in emotions]
        best = line.probabilities.get(line.emotion or "", "")
        begin = [line.line, line.start, line.end, line.speaker, line.text, line.emotion or "", best]
        turns = "; ".join(map(_turn, line.turns or []))
        table.writerow([*begin, *probabilities, "+".join(line.used), *known, turns, *_person(line)])
    return text.getvalue()


def _turn(span: LineTurn) -> str:
    whose = "" if span.person is None else f" {span.person}"
    return f"{span.track} {span.start:.2f}-{span.end:.2f} {100 * span.probability:.0f}%{whose}"


def _person(line: AnnotatedLine) -> tuple[str, float | str]:
    return line.person or "", "" if line.person_confidence is None else line.person_confidence
