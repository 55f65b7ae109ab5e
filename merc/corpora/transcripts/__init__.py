"""Transcripts of recordings: a reader for every kind of file, and what they have in common."""

from merc.corpora.transcripts.lines import (
    UNKNOWN,
    Line,
    TranscriptColumns,
    TranscriptOptions,
    TranscriptSource,
    Word,
)
from merc.corpora.transcripts.read import READERS, read_lines, read_transcript, read_turns
from merc.corpora.transcripts.speaking import SpeakerTurn

__all__ = [
    "READERS",
    "UNKNOWN",
    "Line",
    "SpeakerTurn",
    "TranscriptColumns",
    "TranscriptOptions",
    "TranscriptSource",
    "Word",
    "read_lines",
    "read_transcript",
    "read_turns",
]
