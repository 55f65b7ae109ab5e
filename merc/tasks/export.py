"""Export of a trained LipSyncNet: its weights in a folder, with a card that says what it can do."""

from __future__ import annotations

from pathlib import Path


def export_lipsync(
    trained: Path,
    corpus: Path,
    faces: Path,
    out: Path,
    *,
    name: str = "lipsync",
    data: str = "",
    licence: str = "",
) -> None:
    """Put the weights of a trained LipSyncNet into a folder, with a card that says what it can do."""
    raise NotImplementedError
