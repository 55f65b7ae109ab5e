"""Small media files whose every frame says which one it is, and whose sound says when it is."""

from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT, BITS = 64, 48, 8
TICKS = 90000


def numbered(index, noise=0):
    """A picture (HEIGHT, WIDTH, 3) of eight upright bars: the bits of ``index``, with some noise."""
    bars = np.array([40 + 180 * ((index >> bit) & 1) for bit in range(BITS)]).repeat(WIDTH // BITS)
    grain = np.random.default_rng(index).integers(-noise, noise + 1, (HEIGHT, WIDTH, 3))
    return np.clip(bars[None, :, None] + grain, 0, 255).astype(np.uint8)


def numbers(images):
    """The numbers that images (T, 3, H, W) show."""
    bars = images.float().mean((1, 2)).reshape(len(images), BITS, -1).mean(-1) > 130
    return [sum(int(bar) << bit for bit, bar in enumerate(row)) for row in bars]


def beeps(times, seconds, rate=16000, channels=1):
    """Silence with 40 ms of 1 kHz from each of ``times`` on, (channels, S)."""
    clock = np.arange(round(seconds * rate)) / rate
    sound = np.zeros_like(clock)
    for time in times:
        inside = (clock >= time) & (clock < time + 0.04)
        sound[inside] = 0.8 * np.sin(2 * np.pi * 1000 * (clock[inside] - time))
    return np.repeat(sound[None], channels, 0).astype(np.float32)


def onsets(sound, rate=16000):
    """When sound (S,) begins after silence of 0.1 s, in seconds."""
    loud = np.flatnonzero(np.abs(np.asarray(sound)) > 0.2) / rate
    return [float(time) for i, time in enumerate(loud) if i == 0 or time - loud[i - 1] > 0.1]


def write_media(
    path,
    *,
    pictures=None,
    times=None,
    sound=None,
    rate=16000,
    sound_start=0.0,
    layout=None,
    codec="libx264",
    sound_codec="aac",
    options=None,
    fps=25,
    pix_fmt="yuv420p",
    mux_options=None,
    sar=None,
):
    """Write a media file.

    ``pictures`` are (H, W, 3) arrays shown from ``times`` (seconds; i / fps if None) on; ``sound`` is
    (channels, S) in -1..1, heard from ``sound_start`` on. ``sar`` is the width of
    a pixel over its height.
    """
    with av.open(str(path), "w", options=mux_options or {}) as file:
        packets = []
        video = audio = None
        if pictures is not None:
            video = file.add_stream(codec, rate=fps)
            video.height, video.width = pictures[0].shape[:2]
            video.pix_fmt = pix_fmt
            video.options = options or {}
            if sar is not None:
                video.codec_context.sample_aspect_ratio = Fraction(sar)
            video.codec_context.thread_count = 1
            exact = codec not in ("mpeg1video", "mpeg2video", "mpeg4")
            video.codec_context.time_base = Fraction(1, TICKS) if exact else Fraction(1, fps)
        if sound is not None:
            audio = file.add_stream(sound_codec, rate=rate, layout=layout or {1: "mono", 2: "stereo"}[len(sound)])
        if video is not None:
            base = video.codec_context.time_base
            for index, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(
                    format=pix_fmt, threads=1
                )
                time = index / fps if times is None else times[index]
                frame.pts, frame.time_base = round(Fraction(time).limit_denominator(TICKS) / base), base
                packets += video.encode(frame)
            packets += video.encode(None)
        if audio is not None:
            for begin in range(0, sound.shape[1], 1024):
                block = np.ascontiguousarray(sound[:, begin : begin + 1024].T).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(block, format="flt", layout=audio.layout.name)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = begin + round(sound_start * rate)
                for ready in av.AudioResampler(format=audio.format, layout=audio.layout, rate=rate).resample(frame):
                    ready.pts, ready.time_base = frame.pts, frame.time_base
                    packets += audio.encode(ready)
            packets += audio.encode(None)
        file.mux(sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)))
    return str(path)


def turned(path, matrix):
    """Put the display matrix (a, b, c, d) into an mp4 whose first track is the picture."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    at += 40 if data[at] == 0 else 52
    a, b, c, d = (value * 65536 for value in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(data)
    return str(path)
