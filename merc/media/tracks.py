"""Face tracks, and their rows in a ``faces`` store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FACE_COLUMNS = ("track", "frame", "x1", "y1", "x2", "y2", "score")
"""Columns of the rows of a ``faces`` store: one row per face and frame, sorted by track, then frame.

``track`` counts the tracks of the clip from 0, ``frame`` is the index on its grid of
:data:`~merc.media.rates.FRAME_RATE` frames per second, the box is in pixels of the displayed source frame, ``score`` is
that of the track.
"""

_TRACK, _FRAME, _BOX, _SCORE = 0, 1, slice(2, 6), 6


@dataclass(frozen=True, slots=True, eq=False)
class FaceTrack:
    """One face over consecutive frames of one shot.

    Args:
        first: Its first frame on the grid of :data:`~merc.media.rates.FRAME_RATE` frames per second.
        boxes: ``(T, 4)`` float32 x1, y1, x2, y2 in pixels of the displayed source frame, one per frame; may exceed the
            image.
        score: Mean score of its detections.
    """

    first: int
    boxes: Tensor
    score: float

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.boxes)

    @property
    def end(self) -> int:
        """The frame after its last one."""
        return self.first + len(self.boxes)


def tracks_to_rows(tracks: Sequence[FaceTrack]) -> Tensor:
    """Tracks as the rows ``(n, 7)`` of a ``faces`` store, float32, with the columns :data:`FACE_COLUMNS`."""
    rows = [torch.zeros(0, len(FACE_COLUMNS))]
    for number, track in enumerate(tracks):
        part = torch.empty(len(track), len(FACE_COLUMNS))
        part[:, _TRACK] = number
        part[:, _FRAME] = torch.arange(track.first, track.end)
        part[:, _BOX] = track.boxes
        part[:, _SCORE] = track.score
        rows.append(part)
    return torch.cat(rows)


def rows_to_tracks(rows: Tensor) -> list[FaceTrack]:
    """The tracks from the rows of :func:`tracks_to_rows`.

    Raises:
        ValueError: The rows are not those of a ``faces`` store: tracks are out of order or have gaps.
    """
    _check_columns(rows)
    lengths = torch.unique_consecutive(rows[:, _TRACK], return_counts=True)[1].tolist()
    parts = torch.split(rows, lengths) if lengths else ()
    return [_track(part, number) for number, part in enumerate(parts)]


def track_of(rows: Tensor, number: int) -> FaceTrack | None:
    """One track from the rows of :func:`tracks_to_rows`; ``None`` if there is no track with this number.

    Args:
        rows: ``(n, 7)`` rows of a ``faces`` store.
        number: Number of the track, from 0.

    Raises:
        ValueError: The rows are not those of a ``faces`` store, or the track has gaps.
    """
    _check_columns(rows)
    own = rows[rows[:, _TRACK] == number]
    return _track(own, number) if len(own) else None


def _check_columns(rows: Tensor) -> None:
    if rows.ndim != 2 or rows.shape[1] != len(FACE_COLUMNS):
        raise ValueError(f"Rows of faces have the shape (n, {len(FACE_COLUMNS)}), got {tuple(rows.shape)}.")


def _track(rows: Tensor, number: int) -> FaceTrack:
    """The track of that number, from its own rows."""
    steps = rows[:, _FRAME].diff()
    if int(rows[0, _TRACK]) != number or not bool((steps == 1).all()):
        raise ValueError(f"Rows of faces must be sorted by track and frame without gaps: track {number} is not.")
    return FaceTrack(int(rows[0, _FRAME]), rows[:, _BOX].clone(), float(rows[0, _SCORE]))
