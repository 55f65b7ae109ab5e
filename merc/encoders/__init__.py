"""Encoders: raw inputs to vectors, one an utterance."""

from merc.encoders.evidence import GaussianEvidence, evidence_table
from merc.encoders.text import TextBatch, TextEncoder, TextInput

__all__ = ["GaussianEvidence", "TextBatch", "TextEncoder", "TextInput", "evidence_table"]
