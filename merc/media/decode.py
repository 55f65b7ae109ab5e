"""Decoding: the frames of a span of any media file on a time grid, and the parts shared with sound."""

from __future__ import annotations

import itertools
import os
import struct
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merc.conversation import Clip
from merc.media.planes import BT601, MATRICES, Planes
from merc.media.rates import FRAME_RATE

if TYPE_CHECKING:
    import av
    from av.container import InputContainer

T = TypeVar("T")

SAME_TIME = 1e-3
"""Seconds: tolerance of time stamps, which some containers round to 1 ms."""

LONGEST_GAP = 600.0
"""Seconds: a larger step of the time stamps is damage, and the file counts as ended before it."""

_SEEK_MARGINS = (0.0, 1.0, 4.0, 16.0, 64.0)
"""Seconds before the wanted time to seek to, tried in order until decoding can start there."""

_UNSTAMPED = 1.0
"""Seconds: MPEG program streams stamp only some frames, at least one in 0.7 s; the first after a seek are guesses."""

CONTAINERS = (
    *("mov", "matroska", "avi", "mpeg", "mpegts", "mpegvideo", "flv", "asf", "nut", "m4v", "h264", "hevc", "ivf", "dv"),
    *(
        "yuv4mpegpipe",
        "rm",
        "mxf",
        "wav",
        "w64",
        "mp3",
        "flac",
        "ogg",
        "aac",
        "aiff",
        "au",
        "caf",
        "amr",
        "ac3",
        "eac3",
    ),
)
"""The container formats of FFmpeg that are opened: films and sound. Mov includes mp4, m4a and 3gp, matroska webm.

Each holds its content itself. Playlists, such as concat, hls, dash and sdp, could make any file that the user may read
part of a clip."""

_FULL_RANGE = 2

_MAX_PIXELS = 2**25  # 8K; a damaged header must not make us allocate more

_MOST_STRETCHED = 4
"""Pixels that are wider or narrower than this are a mistake of the header: the widest in use are those of 352 columns
for 16:9, 2.9 times as wide as high."""


class MediaError(ValueError):
    """A media file is broken or lacks the requested part.

    Args:
        message: What was expected, what was found, what to do.
        reason: A few words that do not depend on file or machine.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[MediaError], tuple[str, str]]:
        """Pickle with the reason, for errors from worker processes."""
        return type(self), (str(self), self.reason)


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """The properties of a media file, from its header.

    Args:
        duration: Seconds from the start of video or sound, whichever is first, to the end. In a damaged or truncated
            file it may be too long.
        width: Width of a displayed frame in square pixels, after rotation; ``None`` without video.
        height: Height, likewise.
        fps: Mean source frames per second, if known.
        sample_rate: Source samples per second; ``None`` without sound.
        channels: Number of source channels.
    """

    duration: float
    width: int | None
    height: int | None
    fps: float | None
    sample_rate: int | None
    channels: int | None


@dataclass(slots=True, eq=False)
class Frames:
    """Some consecutive frames of a clip, on its time grid.

    Args:
        images: ``(T, 3, H, W)`` uint8 RGB.
        first: Index of the first image on the grid: image t shows the screen ``(first + t) / fps`` seconds after the
            start of the clip.
        fps: Images per second.
        scale: Size of the images relative to the displayed source frames (square pixels, upright, inside the region).
    """

    images: Tensor
    first: int
    fps: float
    scale: float


class Watch:
    """A time limit for decoding, which counts only the time inside the decoder and not that of the caller.

    Args:
        path: The file, for the message.
        limit: Seconds by which decoding may lag behind the duration of the delivered media.
    """

    def __init__(self, path: str, limit: float) -> None:
        self.path = path
        self.limit = limit
        self._deadline = time.monotonic() + limit

    def check(self) -> None:
        """Raise :class:`MediaError` if the limit has passed."""
        if time.monotonic() > self._deadline:
            raise MediaError(
                f"Decoding {self.path} lags more than {self.limit:g} s behind: it is damaged, or its disk or this "
                "machine is too slow. Check the file or raise time_limit.",
                "time limit",
            )

    @contextmanager
    def delivered(self, seconds: float) -> Iterator[None]:
        """Do not count the time inside the block, and extend the limit by ``seconds`` of delivered media."""
        pause = time.monotonic()
        yield
        self._deadline += time.monotonic() - pause + seconds


class Source:
    """The video or the sound of one file: its frames from any time on.

    Times are seconds from the start of video or sound, whichever is first, so both share one clock.

    Args:
        path: The file.
        kind: Video or sound.
        watch: The time limit.
        threads: Decoder threads; 0 for as many as there are cores.

    Raises:
        MediaError: The file cannot be opened, or has no such stream.
    """

    def __init__(self, path: str, kind: Literal["video", "audio"], watch: Watch, threads: int) -> None:
        self.path = path
        self.kind: Literal["video", "audio"] = kind
        self.watch = watch
        self.threads = threads
        self.container, self.stream = self._opened()
        self.origin = origin_of(self.container)

    def frames(self, start: float) -> Iterator[tuple[float, Any]]:
        """Decoded frames with their times, from the last one at or before ``start`` or from an earlier one.

        Frames before the first valid one after a seek, and damaged frames, are left out.

        Args:
            start: Seconds.
        """
        try:
            sure = start - (_UNSTAMPED if self.container.format.name == "mpeg" else 0.0)
            for margin in _SEEK_MARGINS:
                if sure - margin <= 0:
                    break
                frames = self._frames_after_seek(sure - margin)
                first = next(frames, None)
                if first is not None and first[0] <= sure + SAME_TIME:
                    yield first
                    yield from frames
                    return
                self.container.close()
                self.container, self.stream = self._opened()
            yield from self._decode(0.0)
        finally:
            self.container.close()

    def _frames_after_seek(self, start: float) -> Iterator[tuple[float, Any]]:
        import av

        if not self.stream.time_base:
            return
        try:
            self.container.seek(int((start + self.origin) / self.stream.time_base), stream=self.stream)
        except av.FFmpegError:
            return  # this format cannot seek: frames() starts from the beginning
        frames = self._decode(None)
        if self.kind == "video":  # before a key frame, frames lack their references
            frames = itertools.dropwhile(lambda frame: not frame[1].key_frame, frames)
        yield from frames

    def _opened(self) -> tuple[InputContainer, Any]:
        """Open the file at its beginning, with a new decoder for the stream; later packets may add more streams."""
        container = open_media(self.path, self.watch)
        video, audio = streams_of(container)
        stream: Any = video if self.kind == "video" else audio
        if stream is None or stream.codec_context is None:
            container.close()
            if stream is not None:
                raise MediaError(f"{self.path} has {self.kind} with an unknown codec. Convert it.", "unknown codec")
            word = "video" if self.kind == "video" else "sound"
            raise MediaError(f"{self.path} has no {word}: expected a file with one.", f"no {word}")
        stream.codec_context.thread_type = "AUTO"
        stream.codec_context.thread_count = self.threads
        stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
        return container, stream

    def _decode(self, clock: float | None) -> Iterator[tuple[float, Any]]:
        """Decode frames from here; ``clock`` is the time of a first frame without time stamp, if known.

        A video frame without a time stamp, or with one that does not increase, follows directly after the previous one.
        """
        import av

        stream = self.stream
        packets = self.container.demux(stream)
        ended, shown = False, -inf
        while not ended:
            self.watch.check()
            try:
                packet = next(packets, None)
            except (av.FFmpegError, IndexError):
                # Unreadable data is the end (an IndexError: the end of a file that added a stream while it was read);
                # the decoder still holds frames.
                self.watch.check()
                packet = None
            ended = packet is None
            if packet is not None and not packet.size:
                continue  # a dropped frame in an AVI file; for the decoder an empty packet means the end
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError:
                continue  # a damaged packet
            for frame in frames:
                if frame.time_base is None and stream.time_base:  # the last frames come without a packet
                    frame.time_base = stream.time_base
                stamp = frame.pts if frame.pts is not None else frame.dts
                stamped = in_seconds(stamp, frame.time_base)
                if stamped is not None:
                    stamped -= self.origin + self.late(frame)
                    if self.kind == "audio" or stamped > shown:  # decoders return frames in display order
                        clock = stamped
                if clock is None:
                    return  # the position after the seek is unknown
                yield clock, frame
                shown, clock = clock, clock + self.seconds(frame)

    def late(self, frame: Any) -> float:  # noqa: ANN401 - video or audio
        """Delay of the time stamp of a frame: AVI stores only the decoding order, which B-frames delay.

        For MPEG-4 it is one frame. H.264 in AVI, which is not standardized, stays as FFmpeg guesses it.
        """
        context = self.stream.codec_context
        delayed = self.kind == "video" and self.container.format.name == "avi" and context.name == "mpeg4"
        return self.seconds(frame) if delayed and context.has_b_frames else 0.0

    def seconds(self, frame: Any) -> float:  # noqa: ANN401 - video or audio
        """The duration of a frame in seconds."""
        if self.kind == "audio":
            return float(frame.samples / frame.sample_rate) if frame.sample_rate else 0.0
        lasts = in_seconds(frame.duration, frame.time_base)
        return lasts or 1 / (frame_rate(self.stream) or FRAME_RATE)


def pyav() -> None:
    """Raise an error that says what to install if PyAV is missing."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise ImportError("Reading media needs PyAV: pip install 'merc[media]'.") from error


def open_media(path: str, watch: Watch) -> InputContainer:
    """Open a local file of one of the formats in :data:`CONTAINERS`.

    Raises:
        MediaError: It is missing, not a file, not of such a format, or cannot be decoded.
    """
    pyav()
    import av

    file = Path(path)
    try:
        size = os.stat(file).st_size
    except FileNotFoundError as error:
        raise MediaError(f"There is no media file {path}. Check the path.", "no such file") from error
    except (OSError, ValueError) as error:
        raise MediaError(f"{path} cannot be opened ({error}). Check path and permissions.", "cannot be read") from error
    if not file.is_file():
        raise MediaError(f"{path} is not a file, expected a media file.", "not a file")
    if not os.access(file, os.R_OK):
        raise MediaError(f"{path} cannot be read. Check its permissions.", "no permission")
    if size == 0:
        raise MediaError(f"{path} is empty. Copy or download it again.", "empty file")
    try:
        # Whatever its name, a playlist must not make us open URLs or other files.
        return av.open(
            f"file:{path}",
            options={"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)},
            metadata_errors="replace",
            timeout=watch.limit,
        )
    except av.ArgumentError as error:  # FFmpeg's answer if the format is not on the list, among others
        raise MediaError(
            f"{path} is not of a container format that merc opens ({error.strerror}): expected a film or sound, such "
            "as mp4, mkv, webm, avi, mpg, wav, flac or mp3; playlists are not opened. Convert it.",
            "not media or damaged header",
        ) from error
    except av.FFmpegError as error:
        watch.check()
        raise MediaError(
            f"{path} is not a media file, or its header is damaged ({type(error).__name__}: {error.strerror}). Play it "
            "to check it, or convert it.",
            "not media or damaged header",
        ) from error


def streams_of(container: InputContainer) -> tuple[av.VideoStream | None, av.AudioStream | None]:
    """The video and the sound stream that a player would choose.

    A cover image is not a video. Of several sound tracks it is the one that the file marks as its default, else the
    first that is no comment and no description for the blind.
    """
    from av.stream import Disposition

    video: Any = container.streams.best("video")
    if video is not None and video.disposition & Disposition.attached_pic:
        video = None
    special = Disposition.comment | Disposition.hearing_impaired | Disposition.visual_impaired

    def order(stream: Any) -> tuple[bool, bool, bool]:  # noqa: ANN401 - PyAV
        flags, codec = stream.disposition, stream.codec_context
        return codec is None or not codec.sample_rate, not flags & Disposition.default, bool(flags & special)

    return video, min(container.streams.audio, key=order, default=None)


def origin_of(container: InputContainer) -> float:
    """The start of video or sound, whichever is first, in seconds of the container's time stamps."""
    starts = [in_seconds(stream.start_time, stream.time_base) for stream in streams_of(container) if stream is not None]
    starts = [start for start in starts if start is not None] or [in_seconds(container.start_time, Fraction(1, 10**6))]
    return min((start for start in starts if start is not None), default=0.0)


def in_seconds(stamp: int | None, time_base: Fraction | None) -> float | None:
    """A time stamp in seconds; ``None`` if it or its unit is unknown, as in damaged files."""
    return None if stamp is None or not time_base else float(stamp * time_base)


def frame_rate(stream: Any) -> float | None:  # noqa: ANN401 - PyAV
    """Mean frames per second, if the container has it."""
    rate = stream.average_rate or stream.guessed_rate
    return float(rate) if rate else None


@contextmanager
def as_media_error(path: str) -> Iterator[None]:
    """Turn the errors of the underlying libraries into a :class:`MediaError`."""
    pyav()
    import av

    try:
        yield
    except (av.FFmpegError, MemoryError, OverflowError) as error:
        raise MediaError(
            f"{path} cannot be decoded ({type(error).__name__}: {error}). Convert it or leave it out.", "damaged"
        ) from error


def probe(path: str | Path, *, time_limit: float = 30.0) -> MediaInfo:
    """The properties of a media file, from its header and its first frame.

    Args:
        path: The file.
        time_limit: Seconds.

    Raises:
        MediaError: It cannot be opened, has neither video nor sound, or took too long.
    """
    path = str(path)
    watch = Watch(path, time_limit)
    with as_media_error(path), open_media(path, watch) as container:
        video, audio = streams_of(container)
        if video is None and audio is None:
            raise MediaError(f"{path} has neither video nor sound: expected a media file.", "no video and no sound")
        duration = container.duration / 1e6 if container.duration else _scanned_duration(container, watch)
        width = height = None
        if video is not None:
            first = next(Source(path, "video", watch, 1).frames(0.0), None)
            if first is None:
                raise undecodable(path, "video")
            width, height = displayed_size(first[1], pixel_shape(video))
        sound = None if audio is None else audio.codec_context  # none again if no decoder knows the codec
        return MediaInfo(
            duration=duration,
            width=width,
            height=height,
            fps=None if video is None else frame_rate(video),
            sample_rate=None if sound is None else sound.sample_rate,
            channels=None if sound is None else sound.channels,
        )


def _scanned_duration(container: InputContainer, watch: Watch) -> float:
    """The end of the last packet, for files without a duration."""
    origin, end = origin_of(container), 0.0
    video, audio = streams_of(container)
    usual = 1 / (frame_rate(video) or FRAME_RATE) if video is not None else 0.0
    for packet in container.demux([stream for stream in (video, audio) if stream is not None]):
        watch.check()
        if packet.size:
            begin = in_seconds(packet.pts, packet.time_base)
            lasts = in_seconds(packet.duration, packet.time_base) or usual
            end = max(end, (end if begin is None else begin - origin) + lasts)
    return end


def undecodable(path: str, word: str) -> MediaError:
    """The error for a file whose video or sound exists, but is damaged throughout."""
    return MediaError(f"Nothing of the {word} of {path} can be decoded. Copy it again.", f"damaged {word}")


def outside(clip: Clip, word: str) -> MediaError:
    """The error for a clip without video or sound."""
    return MediaError(
        f"{clip.path} has no {word} from {clip.start} to {clip.end or 'its end'} s. Check the times of the clip.",
        f"no {word} in the clip",
    )


def read_frames(
    clip: Clip,
    *,
    fps: float = FRAME_RATE,
    max_height: int | None = None,
    chunk: int = 64,
    time_limit: float = 60.0,
    threads: int = 1,
) -> Generator[Frames, None, None]:
    """The frames of a clip on a grid of ``fps`` frames per second that begins at the start of the clip.

    Frame i shows the screen i / ``fps`` seconds after the start of the clip: the last source frame at or before that
    time. If the video starts late, its first frame is shown from the beginning. The grid ends at the end of the clip or
    of the video, whichever is first. A damaged frame is replaced by the one before it. Frames are as displayed: upright
    and with square pixels (:func:`pixel_shape`).

    Memory is that of one chunk, for any length of the clip. The result does not depend on ``chunk``. It does not depend
    on ``threads`` either, unless the file is damaged: with several threads, more frames around the damage are lost.

    Args:
        clip: What to read.
        fps: Images per second.
        max_height: Images higher than this are scaled down to it.
        chunk: Images at once.
        time_limit: Seconds by which decoding may lag behind real time before it counts as hung. Only the
            time inside this generator counts.
        threads: Decoder threads; 0 for as many as there are cores.

    Yields:
        Chunks of ``chunk`` frames each; the last may have fewer.

    Raises:
        MediaError: The file is broken, has no video or none in the clip, or took too long.
    """
    watch = Watch(clip.path, time_limit)
    with as_media_error(clip.path):
        images, image, last = torch.empty(0), torch.empty(0), None
        first = filled = 0
        view = None
        for frame, view in _screen(clip, fps, max_height, watch, threads):
            if frame is not last:
                image, last = view(frame), frame
            if not filled:
                images = torch.empty((chunk, *image.shape), dtype=torch.uint8)
            images.numpy()[filled] = image.numpy()
            filled += 1
            if filled == chunk:
                with watch.delivered(filled / fps):
                    yield Frames(images, first, fps, view.scale)
                first, filled = first + filled, 0
        if filled and view is not None:
            yield Frames(images[:filled], first, fps, view.scale)


def frames_at(
    clip: Clip,
    numbers: Iterable[int],
    *,
    fps: float = FRAME_RATE,
    max_height: int | None = None,
    time_limit: float = 60.0,
) -> Generator[Frames, None, None]:
    """Some of the frames of :func:`read_frames`, one by one.

    Only these become images, and nothing after the last of them is decoded: that is faster than to read all.

    Args:
        clip: What to read.
        numbers: Their numbers on the grid, in any order; those at which the video has ended are left out.
        fps: As for :func:`read_frames`, as all that follows.
        max_height: Likewise.
        time_limit: Likewise.

    Yields:
        ``Frames`` of one image each, in their order in time, none twice.

    Raises:
        MediaError: As for :func:`read_frames`.
    """
    left = set(numbers)
    if not left:
        return
    watch = Watch(clip.path, time_limit)
    with as_media_error(clip.path):
        for number, (frame, view) in enumerate(_screen(clip, fps, max_height, watch, threads=1)):
            image = view(frame)[None] if number in left else None
            with watch.delivered(1 / fps):
                if image is not None:
                    yield Frames(image, number, fps, view.scale)
            left.discard(number)
            if not left:
                return


def read_planes(
    clip: Clip, *, fps: float = FRAME_RATE, max_height: int | None = None, time_limit: float = 60.0
) -> Generator[tuple[Planes, float], None, None]:
    """The frames of :func:`read_frames`, as films store them and for :func:`merc.media.film.write_film`.

    Args:
        clip: What to read.
        fps: As for :func:`read_frames`, as all that follows.
        max_height: Likewise.
        time_limit: Likewise.

    Yields:
        Frames of even sides, each to draw on as one likes, with their scale: see :class:`Frames`.

    Raises:
        MediaError: As for :func:`read_frames`.
    """
    watch = Watch(clip.path, time_limit)
    with as_media_error(clip.path):
        shown, last = None, None
        for frame, view in _screen(clip, fps, max_height, watch, threads=1, stored=True):
            if shown is None or frame is not last:
                shown, last = view.planes(frame), frame
            with watch.delivered(1 / fps):
                yield Planes(shown.pixels.copy(), shown.matrix), view.scale


def _screen(
    clip: Clip, fps: float, max_height: int | None, watch: Watch, threads: int, stored: bool = False
) -> Iterator[tuple[av.VideoFrame, _View]]:
    """What the screen shows at each time of the grid of :func:`read_frames`, with what makes an image of it.

    Args:
        clip: As for :func:`read_frames`, as all that follows.
        fps: Likewise.
        max_height: Likewise.
        watch: The time limit.
        threads: As for :func:`read_frames`.
        stored: Whether the images are :class:`~merc.media.planes.Planes` instead of RGB.

    Raises:
        MediaError: There is no such time.
    """
    source = Source(clip.path, "video", watch, threads)
    decoded, empty = False, True

    def shown() -> Iterator[tuple[float, float, Any]]:
        nonlocal decoded
        for when, frame in source.frames(clip.start):
            decoded = True
            yield when - clip.start, source.seconds(frame), frame

    view = _View(clip.region, max_height, pixel_shape(source.stream), stored)
    for frame in on_grid(shown(), fps, inf if clip.end is None else clip.end - clip.start):
        watch.check()
        empty = False
        yield frame, view
    if empty:
        raise outside(clip, "video") if decoded else undecodable(clip.path, "video")


def on_grid(frames: Iterable[tuple[float, float, T]], fps: float, end: float) -> Iterator[T]:
    """The content of the screen at the times 0, 1 / ``fps``, 2 / ``fps`` ... before ``end``.

    Args:
        frames: Time, duration and content of the source frames. A frame that is not later than the one
            before it is damaged and left out, and after :data:`LONGEST_GAP` the frames count as ended.
        fps: Times per second.
        end: Where the grid ends if the frames do not end before; in seconds, as all times.

    Yields:
        For every time, the content of the last frame at or before it, or of the first frame. Nothing if the first frame
        starts after ``end``, or the last one ends before the first time.
    """
    index = 0
    current: list[T] = []  # none or one
    since = stop = -inf
    for when, duration, content in frames:
        if current and when - since > LONGEST_GAP:
            break
        if when >= end:
            stop = end
            break
        if when <= since:
            continue
        while current and index / fps + SAME_TIME < when:
            yield current[0]
            index += 1
        current, since, stop = [content], when, when + min(duration, LONGEST_GAP)
    while current and index / fps + SAME_TIME < min(stop, end):
        yield current[0]
        index += 1


class _View:
    """Turns decoded frames of one clip into RGB images of one size: cropped to the region, scaled and upright.

    Args:
        region: Part of the frame that counts, in 0..1 of the frame as it is shown.
        max_height: Greatest height of an image.
        shape: Width of a stored pixel over its height.
        stored: Whether it gives :meth:`planes` instead of RGB; their sides are even.

    Attributes:
        scale: Pixels of the displayed frame times this are pixels of the images.
    """

    def __init__(
        self,
        region: tuple[float, float, float, float] | None,
        max_height: int | None,
        shape: Fraction,
        stored: bool = False,
    ) -> None:
        self.region = region or (0.0, 0.0, 1.0, 1.0)
        self.max_height = max_height
        self.shape = shape
        self.stored = stored
        self.scale = 1.0
        self._size: tuple[int, ...] | None = None
        self._matrix = BT601
        self._frames_are: tuple[Any, ...] = ()
        self._graph: Any = None

    def __call__(self, frame: av.VideoFrame) -> Tensor:
        """The image ``(3, H, W)`` of a frame."""
        shown = self._shown(frame)
        # NumPy copies in this thread; PyTorch would wake all of its own for each frame, which costs more than the copy.
        green, blue, red = _arrays(shown)
        image = torch.from_numpy(np.stack([red, green, blue]))
        transposed, flipped = _orientation(frame)
        if transposed:
            image = image.transpose(1, 2)
        return image.flip(flipped) if flipped else image

    def planes(self, frame: av.VideoFrame) -> Planes:
        """The planes of a frame."""
        shown = self._shown(frame)
        transposed, flipped = _orientation(frame)
        axes = tuple(dimension - 1 for dimension in flipped)
        upright = [np.flip(part.T if transposed else part, axes) for part in _arrays(shown)]
        return Planes.of_parts(upright, self._matrix)

    def _shown(self, frame: av.VideoFrame) -> av.VideoFrame:
        """A frame, cropped and scaled, as it is stored."""
        colours = (frame.colorspace, frame.color_range)
        frames_are = (frame.width, frame.height, frame.format.name, *colours, *_orientation(frame))
        if frames_are != self._frames_are:  # some streams change their size; the images do not
            self._frames_are = frames_are
            self._graph = self._made_for(frame)
        self._graph.push(frame)
        shown: av.VideoFrame = self._graph.pull()
        return shown

    def _made_for(self, frame: av.VideoFrame) -> av.filter.Graph:
        import av

        transposed, flipped = _orientation(frame)
        width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
        (left, right), (top, bottom) = (
            _pixels(low, high, size)
            for low, high, size in zip(self.region[:2], self.region[2:], (width, height), strict=True)
        )
        # Where a frame does not say how its planes make RGB, or has no such planes, as BT.601.
        matrix = int(frame.colorspace) if frame.colorspace in MATRICES else BT601
        if self._size is None:
            self._matrix = matrix  # of all planes, as a film has one
            across, down = _squared(right - left, bottom - top, self.shape, transposed)
            self.scale = min(1.0, (self.max_height or inf) / float(down))
            step = 2 if self.stored else 1  # chroma has half the pixels
            self._size = tuple(max(1, round(side * self.scale / step)) * step for side in (across, down))
        # Everything up to here was as shown; the filters work on frames as they are stored.
        if 2 in flipped:
            left, right = width - right, width - left
        if 1 in flipped:
            top, bottom = height - bottom, height - top
        size = self._size
        if transposed:
            left, right, top, bottom = top, bottom, left, right
            size = size[1], size[0]
        # Without accurate_rnd the fast conversion of a frame that keeps its size leaves up to eight last columns of
        # such widths (854, 1080) as they were in memory (FFmpeg 8.0); elsewhere it takes ten times as long.
        flags = "bilinear+accurate_rnd" if 1 <= size[0] % 16 <= 8 else "bilinear"
        scale = [f"{size[0]}:{size[1]}:flags={flags}", f"in_color_matrix={MATRICES[matrix]}"]
        if frame.color_range == _FULL_RANGE:
            scale.append("in_range=pc")
        if self.stored:
            scale += [f"out_color_matrix={MATRICES[self._matrix]}", "out_range=tv"]
        graph = av.filter.Graph()
        graph.threads = 1
        # Tensors need planes, and swscale writes them faster than packed pixels.
        graph.link_nodes(
            graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 1000)),
            graph.add("crop", f"{right - left}:{bottom - top}:{left}:{top}:exact=1"),
            graph.add("scale", ":".join(scale)),
            graph.add("format", "yuv420p" if self.stored else "gbrp"),
            graph.add("buffersink"),
        ).configure()
        return graph


def _arrays(frame: av.VideoFrame) -> list[NDArray[np.uint8]]:
    """The planes of a frame, without the padding of their rows."""
    planes: Any = frame.planes
    rows = [np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size) for plane in planes]
    return [array[: plane.height, : plane.width] for plane, array in zip(planes, rows, strict=True)]


def _pixels(low: float, high: float, size: int) -> tuple[int, int]:
    """The pixel range between two shares of a side, at least one pixel."""
    first = min(round(low * size), size - 1)
    return first, max(round(high * size), first + 1)


def displayed_size(frame: av.VideoFrame, shape: Fraction) -> tuple[int, int]:
    """Width and height of a frame as it is displayed, in square pixels.

    Args:
        frame: The frame, as it is stored.
        shape: The width of its pixels over their height, from :func:`pixel_shape`.
    """
    transposed, _ = _orientation(frame)
    width, height = (frame.height, frame.width) if transposed else (frame.width, frame.height)
    across, down = _squared(width, height, shape, transposed)
    return max(1, round(across)), max(1, round(down))


def _squared(width: int, height: int, shape: Fraction, transposed: bool) -> tuple[Fraction, Fraction]:
    """A size in stored pixels of an upright frame, in square pixels: the stored rows are stretched."""
    return (Fraction(width), height * shape) if transposed else (width * shape, Fraction(height))


def pixel_shape(stream: av.VideoStream) -> Fraction:
    """The width of a stored pixel over its height (the sample aspect ratio, SAR), which is 1 for square pixels.

    Frames are displayed with their stored rows stretched by it, before they are rotated. What the container says
    counts more than what the codec says, as in players. It is one for the whole file, so that all spans of a film have
    frames of one size. A ratio beyond 1:4 to 4:1, or one that would make a frame larger than 8K, is a mistake of the
    header: then it is 1.
    """
    told = told_shape(stream)
    context = stream.codec_context
    possible = Fraction(1, _MOST_STRETCHED) <= told <= _MOST_STRETCHED
    return told if possible and context.width * context.height * told <= _MAX_PIXELS else Fraction(1)


def told_shape(stream: av.VideoStream) -> Fraction:
    """The width of a stored pixel over its height as the header has it, whether or not it can be right."""
    return stream.sample_aspect_ratio or Fraction(1)


def _orientation(frame: av.VideoFrame) -> tuple[bool, tuple[int, ...]]:
    """How to show a stored frame ``(3, H, W)``: whether to transpose it, and which dimensions to flip then."""
    from av.sidedata.sidedata import SideDataContainer

    # frame.side_data would create a reference cycle, which keeps every frame until the garbage collector runs.
    make: Any = SideDataContainer
    matrix = make(frame).get("DISPLAYMATRIX")
    if matrix is None:
        return False, ()
    # A stored pixel (x, y) is displayed at (a x + c y, b x + d y); angles are rounded to right angles.
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    transposed = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if transposed else (a, d)
    return transposed, tuple(dimension for dimension, sign in ((1, down), (2, across)) if sign < 0)
