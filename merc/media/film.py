"""Writing films: frames as they come, with the sound of the film that they were made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from merc.files import write_aside
from merc.media.decode import (
    MediaError,
    Source,
    Watch,
    as_media_error,
    in_seconds,
    open_media,
    origin_of,
    pyav,
    streams_of,
)
from merc.media.planes import Planes

if TYPE_CHECKING:
    from av.container import OutputContainer

_COPIED = ("aac", "mp3", "ac3", "eac3", "alac")
"""Sound codecs that players accept in mp4."""

_COPIED_FROM = ("mov", "matroska")
"""Containers that pack sound as mp4 needs it."""

_GAP = 0.05
"""Seconds: a larger delay of the sound is a gap, a smaller one is jitter."""

_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)


def write_film(
    path: str | Path,
    frames: Iterable[Planes],
    *,
    fps: float,
    sound_of: str | Path | None = None,
    comment: str = "",
    time_limit: float = 60.0,
) -> None:
    """Write an mp4 of frames that come one by one; it appears when it is whole.

    Memory is that of a few frames, however many come. H.264 if this FFmpeg has it, else MPEG-4 part 2.

    Args:
        path: The film.
        frames: All of one size (:meth:`merc.media.planes.Planes.of_rgb` makes them of RGB).
        fps: Frames per second.
        sound_of: A film whose sound is taken over, from its beginning; as it is where mp4 can hold it, else as AAC at
            the same rate and with the same channels. A film without sound gives none.
        comment: Kept in the file; :func:`film_comment` reads it.
        time_limit: Seconds by which reading the sound may lag behind real time.

    Raises:
        MediaError: There is no frame, or the sound cannot be read.
        OSError: The film cannot be written.
        ImportError: PyAV is missing.
    """
    pyav()
    import av

    try:
        with write_aside(path) as aside, av.open(str(aside), "w", format="mp4") as film:
            film.metadata["comment"] = comment
            _write(film, iter(frames), fps, sound_of, time_limit, path)
    except av.FFmpegError as error:
        raise OSError(f"{path} cannot be written ({type(error).__name__}: {error.strerror}).") from error


def film_comment(path: str | Path) -> str | None:
    """The comment of a film from :func:`write_film`; ``None`` if the file cannot be read."""
    try:
        with open_media(str(path), Watch(str(path), 30.0)) as film:
            return dict(film.metadata).get("comment")
    except MediaError:
        return None


def _write(
    film: OutputContainer,
    frames: Iterator[Planes],
    fps: float,
    sound_of: str | Path | None,
    time_limit: float,
    path: str | Path,
) -> None:
    first = next(frames, None)
    if first is None:
        raise MediaError(f"There is no frame for {path}: expected at least one.", "no frame")
    stream = _video_stream(film, Fraction(fps).limit_denominator(1001), first)
    sound = iter(()) if sound_of is None else _sound(film, str(sound_of), time_limit)
    waiting = next(sound, None)  # makes the stream of the sound, before anything is written
    for index, planes in enumerate(_after(first, frames)):
        frame = planes.frame()
        frame.pts, frame.time_base = index, 1 / stream.codec_context.framerate
        # Interleave: the sound of the same time comes first, close to its frame.
        while waiting is not None and waiting[0] <= index / fps:
            film.mux(waiting[1])
            waiting = next(sound, None)
        film.mux(stream.encode(frame))
    film.mux(stream.encode(None))
    while waiting is not None:
        film.mux(waiting[1])
        waiting = next(sound, None)


def _after(first: Planes, others: Iterator[Planes]) -> Iterator[Planes]:
    yield first
    yield from others


def _video_stream(film: OutputContainer, rate: Fraction, like: Planes) -> Any:  # noqa: ANN401 - PyAV
    import av

    try:
        av.Codec("libx264", "w")
        stream: Any = film.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "23"})
    except av.codec.codec.UnknownCodecError:
        stream = film.add_stream("mpeg4", rate=rate, bit_rate=max(400_000, like.width * like.height * 6))
    stream.width, stream.height, stream.pix_fmt = like.width, like.height, "yuv420p"
    stream.codec_context.colorspace = like.matrix  # else players guess it from the height
    return stream


def _sound(film: OutputContainer, path: str, time_limit: float) -> Iterator[tuple[float, Any]]:
    """Packets of the sound of a film, each with its time in seconds from the beginning of the film."""
    watch = Watch(path, time_limit)
    with as_media_error(path):
        with open_media(path, watch) as source:
            _, audio = streams_of(source)
            if audio is None or audio.codec_context is None:
                return
            if audio.codec_context.name in _COPIED and any(n in source.format.name for n in _COPIED_FROM):
                yield from _copied(film, source, audio, watch)
                return
        yield from _encoded(film, path, watch)


def _copied(film: OutputContainer, source: Any, audio: Any, watch: Watch) -> Iterator[tuple[float, Any]]:  # noqa: ANN401
    import av

    origin = origin_of(source)
    stream = film.add_stream_from_template(audio)
    shift = round(origin / audio.time_base)
    packets, last = source.demux(audio), None
    while True:
        watch.check()
        try:
            packet = next(packets, None)
        except (av.FFmpegError, IndexError):
            return  # unreadable data is the end, as in decoding
        if packet is None:
            return
        when = in_seconds(packet.pts, packet.time_base)
        if not packet.size or when is None or packet.dts is None or (last is not None and packet.dts <= last):
            continue
        last = packet.dts
        packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
        with watch.delivered(in_seconds(packet.duration, packet.time_base) or 0.0):
            yield when - origin, packet


def _encoded(film: OutputContainer, path: str, watch: Watch) -> Iterator[tuple[float, Any]]:
    source = Source(path, "audio", watch, threads=1)
    frames = source.frames(0.0)
    first = next(frames, None)
    if first is None:
        return
    sound = first[1]
    rate = sound.sample_rate if sound.sample_rate in _AAC_RATES else 48000
    layout = {1: "mono", 2: "stereo", 6: "5.1"}.get(sound.layout.nb_channels, "stereo")
    stream: Any = film.add_stream("aac", rate=rate, layout=layout)
    clock = 0
    for when, frame in _chained(first, frames):
        lasts = source.seconds(frame)
        # Sound that starts late or has gaps keeps its time; jitter and overlaps do not create gaps.
        if when > clock / frame.sample_rate + _GAP:
            clock = round(when * frame.sample_rate)
        frame.pts, frame.time_base = clock, Fraction(1, frame.sample_rate)
        clock += frame.samples
        with watch.delivered(lasts):
            for packet in stream.encode(frame):
                yield when, packet
    for packet in stream.encode(None):
        yield clock / sound.sample_rate, packet


def _chained(first: Any, others: Iterator[Any]) -> Iterator[Any]:  # noqa: ANN401
    yield first
    yield from others
