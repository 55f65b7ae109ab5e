"""Speech: transcripts of recordings that have none, by voice activity and Whisper."""

from merc.speech.activity import VoiceActivity
from merc.speech.base import Transcriber, Transcript, transcribed, transcript_corpus
from merc.speech.silero import SileroNet, load_silero
from merc.speech.whisper import WhisperTranscriber
from merc.speech.writing import TRANSCRIPT_FORMATS, write_transcript

__all__ = [
    "TRANSCRIPT_FORMATS",
    "SileroNet",
    "Transcriber",
    "Transcript",
    "VoiceActivity",
    "WhisperTranscriber",
    "load_silero",
    "transcribed",
    "transcript_corpus",
    "write_transcript",
]
