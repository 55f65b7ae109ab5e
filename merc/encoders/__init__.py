"""Encoders: raw inputs to vectors, one an utterance."""

from merc.encoders.audio import AudioEncoder
from merc.encoders.evidence import GaussianEvidence, evidence_table
from merc.encoders.face_statistics import FaceStatisticsEncoder
from merc.encoders.inputs import SAMPLE_RATE, FaceBatch, SoundBatch
from merc.encoders.opensmile import OpenSmileEncoder
from merc.encoders.prosody import ProsodyEncoder
from merc.encoders.text import TextBatch, TextEncoder, TextInput
from merc.encoders.visual import VisualEncoder
from merc.encoders.writing import measure_writing, writing_table

__all__ = [
    "SAMPLE_RATE",
    "AudioEncoder",
    "FaceBatch",
    "FaceStatisticsEncoder",
    "GaussianEvidence",
    "OpenSmileEncoder",
    "ProsodyEncoder",
    "SoundBatch",
    "TextBatch",
    "TextEncoder",
    "TextInput",
    "VisualEncoder",
    "evidence_table",
    "measure_writing",
    "writing_table",
]
