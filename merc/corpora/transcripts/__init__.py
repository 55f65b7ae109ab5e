"""Transcripts of recordings: a reader for every kind of file, and what they have in common.

pysubs2 and webvtt-py read subtitles too, and the tests read what they write. They are not used here because they leave
out broken subtitles silently and do not know their lines, take a negative time for a positive one, expect the fields
of SubStation in one order, and pysubs2 needs minutes for some lines of 100 kB.
"""

from merc.corpora.transcripts.lines import (
    UNKNOWN,
    Line,
    TranscriptColumns,
    TranscriptOptions,
    TranscriptSource,
    Word,
)
from merc.corpora.transcripts.read import READERS, corpus_of_lines, read_lines, read_transcript, read_turns
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
    "corpus_of_lines",
    "read_lines",
    "read_transcript",
    "read_turns",
]
