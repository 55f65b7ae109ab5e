"""Encoders: raw inputs to vectors, one an utterance."""

from merc.encoders.text import TextBatch, TextEncoder, TextInput

__all__ = ["TextBatch", "TextEncoder", "TextInput"]
