"""Annotation: the speaker and the emotion of every line, from a recording and its transcript; and who speaks when."""

from merc.annotation.diarization import Diarization, FaceTurn, diarize, turns_as_csv, turns_as_json, turns_as_rttm
from merc.annotation.files import (
    FORMATS,
    as_csv,
    as_eaf,
    as_json,
    as_rttm,
    as_srt,
    as_textgrid,
    as_vtt,
    save_annotation,
)
from merc.annotation.lines import AnnotatedLine, Annotation, LineTurn, SpeakingFace, describe
from merc.annotation.many import Outcome, Recording, annotate_many, find_recordings, is_many
from merc.annotation.page import as_html
from merc.annotation.persons import FilmPersons, PersonSearch, spoken_lines, with_persons
from merc.annotation.thumbnails import face_thumbnails
from merc.annotation.video import annotate

__all__ = [
    "FORMATS",
    "AnnotatedLine",
    "Annotation",
    "Diarization",
    "FaceTurn",
    "FilmPersons",
    "LineTurn",
    "Outcome",
    "PersonSearch",
    "Recording",
    "SpeakingFace",
    "annotate",
    "annotate_many",
    "as_csv",
    "as_eaf",
    "as_html",
    "as_json",
    "as_rttm",
    "as_srt",
    "as_textgrid",
    "as_vtt",
    "describe",
    "diarize",
    "face_thumbnails",
    "find_recordings",
    "is_many",
    "save_annotation",
    "spoken_lines",
    "turns_as_csv",
    "turns_as_json",
    "turns_as_rttm",
    "with_persons",
]
