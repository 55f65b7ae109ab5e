"""Kinds of rows that a store holds, and the error of a store that does not fit."""

from __future__ import annotations

from typing import Literal

Kind = Literal["features", "hidden", "logits", "faces", "crops", "sound", "turns", "speaker"]
"""What the rows of a store are.

One row per utterance: ``features`` of an encoder, ``hidden`` states of a network, class ``logits``, and the ``speaker``
(:meth:`merc.speaker.SpeakerChoice.from_row` reads it). Any number of rows per utterance: ``faces``
(:func:`merc.media.rows_to_tracks` reads them), ``crops`` (one per row of ``faces``,
:func:`merc.media.rows_to_crops` reads them), ``sound`` (log-mel frames, 100 per second) and ``turns`` (who speaks when,
:func:`merc.speaker.rows_to_spans` reads them).
"""

SEQUENCES: frozenset[Kind] = frozenset({"faces", "crops", "sound", "turns"})
"""The kinds of which an utterance has any number of rows, perhaps none, instead of one."""


class StoreError(ValueError):
    """A store is damaged, is something else, or does not fit; the message says what to do."""
