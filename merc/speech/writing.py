"""Transcripts as files: SubRip, WebVTT, a table, JSON."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Mapping
from pathlib import Path

from merc.corpora.transcripts.lines import as_clock
from merc.files import write_text
from merc.speech.base import Transcript


def _srt(transcript: Transcript) -> str:
    cues = [
        f"{number}\n{as_clock(line.start)} --> {as_clock(line.end)}\n{line.text.replace('-->', '->')}\n"
        for number, line in enumerate(transcript.lines, start=1)
    ]
    return "\n".join(cues)


def _vtt(transcript: Transcript) -> str:
    cues = []
    for line in transcript.lines:
        start, end = (as_clock(time).replace(",", ".") for time in (line.start, line.end))
        cues.append(f"\n{start} --> {end}\n{html.escape(line.text, quote=False)}\n")
    return "WEBVTT\n" + "".join(cues)


def _tsv(transcript: Transcript) -> str:
    text = io.StringIO()
    table = csv.writer(text, delimiter="\t", lineterminator="\n")
    table.writerow(["start", "end", "text"])
    table.writerows([f"{line.start:.3f}", f"{line.end:.3f}", line.text] for line in transcript.lines)
    return text.getvalue()


_WRITERS: Mapping[str, Callable[[Transcript], str]] = {".srt": _srt, ".vtt": _vtt, ".tsv": _tsv}

TRANSCRIPT_FORMATS = (*_WRITERS, ".json")
"""Suffixes of the files that :func:`write_transcript` writes. JSON has the words with their times, too."""


def write_transcript(transcript: Transcript, path: str | Path) -> None:
    """Write a transcript in the format that the suffix of the file names; whole or not at all.

    Args:
        transcript: The transcript.
        path: One of :data:`TRANSCRIPT_FORMATS` is its suffix.

    Raises:
        ValueError: It is another one.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in TRANSCRIPT_FORMATS:
        raise ValueError(f"{path} ends in none of {', '.join(TRANSCRIPT_FORMATS)}: rename it.")
    if suffix == ".json":
        transcript.save(path)
    else:
        write_text(path, _WRITERS[suffix](transcript))
