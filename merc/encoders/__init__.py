"""Encoders: from raw inputs to one vector per utterance."""

from merc.encoders.audio import AudioEncoder
from merc.encoders.face_statistics import FaceStatisticsEncoder
from merc.encoders.fer import EXPRESSIONS, FerEncoder
from merc.encoders.inputs import FaceBatch, SoundBatch
from merc.encoders.opensmile import OpenSmileEncoder
from merc.encoders.prosody import ProsodyEncoder
from merc.encoders.sentences import Sentence, SentenceBatch, SentenceEncoder, UtteranceEncoder
from merc.encoders.text import TextBatch, TextEncoder, TextInput
from merc.encoders.tuning import checkpoint_gradients, freeze_layers
from merc.encoders.visual import VisualEncoder
from merc.encoders.voice import VoiceEncoder, VoiceModel, XVectorEncoder

__all__ = [
    "EXPRESSIONS",
    "AudioEncoder",
    "FaceBatch",
    "FaceStatisticsEncoder",
    "FerEncoder",
    "OpenSmileEncoder",
    "ProsodyEncoder",
    "Sentence",
    "SentenceBatch",
    "SentenceEncoder",
    "SoundBatch",
    "TextBatch",
    "TextEncoder",
    "TextInput",
    "UtteranceEncoder",
    "VisualEncoder",
    "VoiceEncoder",
    "VoiceModel",
    "XVectorEncoder",
    "checkpoint_gradients",
    "freeze_layers",
]
