"""What merc does about a media file that a reader of results must know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from merc.media.channels import single_channel
from merc.media.decode import Watch, as_media_error, open_media, pixel_shape, streams_of, told_shape

if TYPE_CHECKING:
    from av import AudioStream, VideoStream
    from av.container import InputContainer


def media_notes(path: str | Path, *, time_limit: float = 60.0) -> list[str]:
    """What merc does about a media file that a reader of results must know, in sentences.

    Pixels that are not square, a choice among several sound tracks, channels that cancel each other.

    Args:
        path: The file.
        time_limit: Seconds by which decoding may lag behind real time before it counts as hung.

    Raises:
        MediaError: It cannot be opened.

    Example:
        >>> media_notes("phone.mp4")  # doctest: +SKIP
        ['The channels of the sound cancel each other: only one of them, front left, is used.']
    """
    path = str(path)
    with as_media_error(path), open_media(path, Watch(path, time_limit)) as container:
        video, audio = streams_of(container)
        notes = [] if video is None else list(_on_pixels(video))
        if audio is not None:
            notes += _on_tracks(container, audio)
    channel = single_channel(path, time_limit=time_limit)
    if channel is not None:
        notes.append(f"The channels of the sound cancel each other: only one of them, {channel.name}, is used.")
    return notes


def _on_pixels(video: VideoStream) -> Iterator[str]:
    told = told_shape(video)
    if told != 1:
        words = f"The pixels of the video are {told.numerator}:{told.denominator}, not square"
        if pixel_shape(video) == told:
            yield f"{words}: frames are stretched as players do, and faces are measured in the displayed frame."
        else:
            yield f"{words}: this cannot be right and is ignored."


def _on_tracks(container: InputContainer, audio: AudioStream) -> Iterator[str]:
    from av.stream import Disposition

    tracks = container.streams.audio
    if len(tracks) > 1:
        number = [track.index for track in tracks].index(audio.index) + 1
        told = dict(audio.metadata)
        about = ", ".join(told[name] for name in ("language", "title") if told.get(name, "und") != "und")
        why = "the default" if audio.disposition & Disposition.default else "as no track is the default"
        yield f"The file has {len(tracks)} sound tracks: number {number}{about and f' ({about})'} is used, {why}."
