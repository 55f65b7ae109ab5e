"""Annotation: the speaker and the emotion of every line, from a recording and its transcript."""

from merc.annotation.files import as_csv, as_json, as_srt
from merc.annotation.lines import AnnotatedLine, Annotation, SpeakingFace, describe
from merc.annotation.video import annotate

__all__ = ["AnnotatedLine", "Annotation", "SpeakingFace", "annotate", "as_csv", "as_json", "as_srt", "describe"]
