"""Channels of a sound: whether their mean can stand for them, or one alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from merc.media.decode import MediaError, Source, Watch, as_media_error

_MANY = 8
"""Number of channels from which PyAV reads wrong planes of a frame."""

_LOOKS = 16
"""Seconds of a file in which its channels are compared."""

_AUDIBLE = 1e-6
"""Mean square of the loudest channel below which a second counts as silent: -60 dB of full scale."""

_CANCELLED = 0.1
"""Share of the least power that the mean of channels has if they do not cancel; below it, they do."""


@dataclass(frozen=True)
class Channel:
    """One channel of a sound.

    Args:
        index: Its place among the channels.
        name: What it is called, such as ``front left``, or ``number 1``.
    """

    index: int
    name: str


def channels_of(frame: Any) -> Tensor:  # noqa: ANN401 - PyAV is optional
    """The channels of a frame of sound, ``(C, S)`` float32 with full scale 1."""
    if frame.format.name in ("s64", "s64p") or (frame.format.is_planar and frame.layout.nb_channels >= _MANY):
        import av

        [frame] = av.AudioResampler(format="flt").resample(frame)
    samples = frame.to_ndarray()
    if samples.dtype == np.uint8:
        samples = samples.astype(np.float32) / 128 - 1
    elif samples.dtype.kind == "i":
        samples = samples.astype(np.float32) / -float(np.iinfo(samples.dtype).min)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    return torch.from_numpy(samples).float().nan_to_num(0.0)


def single_channel(path: str, *, time_limit: float = 60.0) -> Channel | None:
    """The channel that stands for the sound of a file whose channels cancel each other; ``None`` if their mean can.

    Microphones and cables with swapped poles give stereo whose right channel is the inverted left one: their mean is
    silence. The channels are therefore compared in 16 seconds, spread evenly over the file (all of a shorter one). In
    each, the mean of C channels has at least 1 / C² of the power of the loudest channel, even if the others are silent,
    unless they cancel. If anywhere it has less than a tenth of that, the channels cancel, and the channel is taken that
    is loudest where it is quietest, relative to the others. It must be heard wherever any channel is, by the
    same measure; else the mean stays, as for two speakers who have a channel each.

    The answer is one for the whole file, so that the sound of a span depends neither on the other spans nor on how it
    is read. Files with one channel are not decoded for it, and of other files it is kept.

    Args:
        path: The file.
        time_limit: Seconds by which decoding may lag behind real time before it counts as hung.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError):
        return None  # reading says why
    return _remembered(path, state.st_size, state.st_mtime_ns, time_limit)


@lru_cache(maxsize=4096)
def _remembered(path: str, size: int, changed: int, time_limit: float) -> Channel | None:
    watch = Watch(path, time_limit)
    powers: list[Tensor] = []
    with suppress(MediaError), as_media_error(path):  # reading says what is wrong
        source = Source(path, "audio", watch, threads=1)
        channels = source.stream.codec_context.layout.channels
        total = source.container.duration
        source.container.close()
        if len(channels) < 2:
            return None
        for start, seconds in _looks(total / 1e6 if total else inf):
            powers += _powers(Source(path, "audio", watch, threads=1), start, seconds, len(channels))
    index = best_channel(torch.stack(powers)) if powers else None
    if index is None:
        return None
    place = channels[index].description  # "none" in files that do not say what their channels are
    return Channel(index, place if place != "none" else f"number {index + 1}")


def _looks(total: float) -> list[tuple[float, float]]:
    """Where the looks at a file of that many seconds begin, and their lengths in seconds."""
    if total <= _LOOKS or total == inf:
        return [(0.0, _LOOKS)]
    return [((look + 0.5) * total / _LOOKS - 0.5, 1.0) for look in range(_LOOKS)]


def _powers(source: Source, start: float, seconds: float, channels: int) -> Iterator[Tensor]:
    """For each second of sound, the mean squares of the channels and of their mean.

    It is the sound that comes first after a seek, so that a file that cannot seek is not decoded again and again.
    """
    sums, count, left = torch.zeros(channels + 1, dtype=torch.float64), 0, seconds
    for _, frame in source.frames(start):
        if frame.layout.nb_channels != channels:
            continue
        samples = channels_of(frame)
        sums += torch.cat([samples, samples.mean(0, keepdim=True)]).double().square().sum(1)
        count += frame.samples
        if count >= frame.sample_rate:
            yield sums / count
            left -= count / frame.sample_rate
            sums, count = torch.zeros_like(sums), 0
            if left <= 0:
                break
    if count:
        yield sums / count


def best_channel(powers: Tensor) -> int | None:
    """The channel to take instead of the mean of all (:func:`single_channel`); ``None`` for the mean.

    Args:
        powers: ``(T, C + 1)`` mean squares of the C channels and of their mean, at some times.
    """
    loudest = powers[:, :-1].amax(1)
    audible = loudest > _AUDIBLE
    if not audible.any():
        return None
    worst = (powers[audible] / loudest[audible, None]).amin(0)
    heard = worst >= _CANCELLED / (powers.shape[1] - 1) ** 2
    if heard[-1] or not heard.any():
        return None
    return int(worst[:-1].argmax())
