"""Annotation: the speaker and the emotion of every line, from a recording and its transcript; and who speaks when."""

from merc.annotation.diarization import Diarization, FaceTurn, as_rttm, diarize, turns_as_csv, turns_as_json
from merc.annotation.files import as_csv, as_json, as_srt
from merc.annotation.lines import AnnotatedLine, Annotation, LineTurn, SpeakingFace, describe
from merc.annotation.persons import FilmPersons, PersonSearch, spoken_lines, with_persons
from merc.annotation.video import annotate

__all__ = [
    "AnnotatedLine",
    "Annotation",
    "Diarization",
    "FaceTurn",
    "FilmPersons",
    "LineTurn",
    "PersonSearch",
    "SpeakingFace",
    "annotate",
    "as_csv",
    "as_json",
    "as_rttm",
    "as_srt",
    "describe",
    "diarize",
    "spoken_lines",
    "turns_as_csv",
    "turns_as_json",
    "with_persons",
]
