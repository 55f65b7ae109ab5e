"""Small images of the speaking faces of lines."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from merc.annotation.lines import AnnotatedLine, SpeakingFaces
from merc.conversation import Clip
from merc.media.decode import MediaError, read_frames
from merc.media.rates import FRAME_RATE
from merc.pipeline.apply import AppliedRun

SIDE = 72
"""Pixels."""


def face_thumbnails(
    lines: Sequence[AnnotatedLine], applied: AppliedRun, video: str | Path, known: Mapping[int, bytes] | None = None
) -> dict[int, bytes]:
    """JPEG images of the speaking faces, by the number of their line; a frame that cannot be read gives none.

    Args:
        lines: The lines of the run.
        applied: The run, applied to the video.
        video: The recording.
        known: Those that are there already: a film need not be searched for them, which takes 0.3 s per line at 720p.
    """
    faces = SpeakingFaces(applied)
    [conversation] = [c for split in applied.corpus.values() for c in split]
    found = dict(known or {})
    for key, line in zip(conversation.keys, lines, strict=True):
        track = None if line.face is None or line.line in found else faces.track(key, line.face.track)
        if track is None:
            continue
        middle = len(track) // 2
        time = line.start + (track.first + middle) / FRAME_RATE
        try:
            chunk = next(read_frames(Clip(str(video), time, time + 1 / FRAME_RATE), chunk=1))
        except MediaError:
            continue
        found[line.line] = face_jpeg(chunk.images[0], track.boxes[middle].tolist())
    return found


def face_jpeg(image: Tensor, box: Sequence[float]) -> bytes:
    """The square round a face in a frame ``(3, H, W)``, a fifth wider on each side.

    Args:
        image: uint8 RGB.
        box: x1, y1, x2, y2 in its pixels.
    """
    from PIL import Image

    x1, y1, x2, y2 = box
    half = 0.7 * max(x2 - x1, y2 - y1)
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    whole = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    square = (round(x - half), round(y - half), round(x + half), round(y + half))
    file = io.BytesIO()
    whole.crop(square).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(file, "JPEG", quality=80)
    return file.getvalue()
