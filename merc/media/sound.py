"""Sound: the sound of a span of any media file as mono samples at one rate, and its log-mel spectrogram."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from merc.conversation import Clip
from merc.media.channels import Channel, channels_of, single_channel
from merc.media.decode import LONGEST_GAP, Source, Watch, as_media_error, outside, undecodable
from merc.media.rates import MEL_BANDS, MEL_RATE, SAMPLE_RATE

_WARM_UP = 0.5
"""Seconds before the clip that decoders and resampler need to get the first samples of the clip right."""

_SLACK = 0.02
"""Seconds: time stamps jitter with rounding and packing. Only a larger step is a gap or an overlap."""


def read_sound(clip: Clip, *, sample_rate: int = SAMPLE_RATE, time_limit: float = 60.0) -> Tensor:
    """The whole sound of a clip: the pieces of :func:`iter_sound` in one tensor.

    Args:
        clip: What to read.
        sample_rate: Samples per second to resample to.
        time_limit: Seconds by which decoding may lag behind real time before it counts as hung.

    Returns:
        ``(S,)`` float32 in -1..1.

    Raises:
        MediaError: The file is broken, has no sound or none in the clip, or took too long.
    """
    return torch.cat(list(iter_sound(clip, sample_rate=sample_rate, time_limit=time_limit)))


def iter_sound(
    clip: Clip, *, sample_rate: int = SAMPLE_RATE, seconds: float = 30.0, time_limit: float = 60.0
) -> Iterator[Tensor]:
    """The sound of a clip piece by piece, in constant memory.

    Sample s belongs to the time s / ``sample_rate`` seconds after the start of the clip, on the clock of the video too.
    If the sound starts late, or packets are missing, there is silence. It ends at the end of the clip or of the sound,
    whichever is first. Several channels are averaged, unless they cancel each other: then one of them stands for all,
    the same in all clips of a file (:func:`merc.media.channels.single_channel`). Of several sound tracks, the default
    one is read, else the first.

    Args:
        clip: The clip to read; its region is ignored.
        sample_rate: Samples per second to resample to.
        seconds: Length of a piece.
        time_limit: Seconds by which decoding may lag behind real time before it counts as hung. Only the
            time inside this generator counts.

    Yields:
        ``(S,)`` float32 in -1..1 of ``seconds`` each; the last may be shorter. Together they do not depend on
        ``seconds``.

    Raises:
        MediaError: The file is broken, has no sound or none in the clip, or took too long.
    """
    watch = Watch(clip.path, time_limit)
    size = max(1, round(seconds * sample_rate))
    with as_media_error(clip.path):
        source = Source(clip.path, "audio", watch, threads=1)
        channel = single_channel(clip.path, time_limit=time_limit)
        decoded = False

        def timed_pieces() -> Iterator[tuple[float, int, Tensor]]:
            nonlocal decoded
            for when, frame in source.frames(max(0.0, clip.start - _WARM_UP)):
                decoded = True
                if clip.end is not None and when >= clip.end + _WARM_UP:
                    return
                yield when - clip.start, frame.sample_rate, _mono(frame, channel)

        length = inf if clip.end is None else round((clip.end - clip.start) * sample_rate)
        pieces: list[Tensor] = []
        held, delivered = 0, False
        for piece in _until(length, _on_clock(timed_pieces(), sample_rate)):
            pieces.append(piece)
            held += len(piece)
            while held >= size:
                joined = torch.cat(pieces)
                with watch.delivered(size / sample_rate):
                    yield joined[:size].clone()
                pieces, held, delivered = [joined[size:]], held - size, True
        if held:
            yield torch.cat(pieces)
        elif not delivered:
            raise outside(clip, "sound") if decoded else undecodable(clip.path, "sound")


def _mono(frame: Any, channel: Channel | None) -> Tensor:  # noqa: ANN401 - PyAV is optional
    """The mean of a frame's channels, or one of them, ``(S,)`` float32 with full scale 1."""
    samples = channels_of(frame)
    if channel is None or channel.index >= len(samples):
        return samples.mean(0)
    return samples[channel.index].contiguous()  # packed channels alternate


def _on_clock(sound: Iterable[tuple[float, int, Tensor]], sample_rate: int) -> Iterator[Tensor]:
    """Resampled sound without gaps from time 0 on.

    Args:
        sound: Time, rate and samples of each piece of sound.
        sample_rate: Rate of the result.
    """
    position = 0  # next sample of the result
    at = 0  # position of the next resampled sample
    expected, rate = -inf, 0
    resampler: _Resampler | None = None

    def placed(samples: Tensor) -> Iterator[Tensor]:
        nonlocal position, at
        if at > position:
            yield torch.zeros(at - position)
            position = at
        fresh = samples[max(0, position - at) :]
        at += len(samples)
        position += len(fresh)
        yield fresh

    for when, piece_rate, samples in sound:
        if resampler is not None and when - expected > LONGEST_GAP:
            break
        if resampler is None or piece_rate != rate or abs(when - expected) > _SLACK:
            if resampler is not None:
                yield from placed(resampler.rest())
            resampler, rate, expected = _Resampler(piece_rate, sample_rate), piece_rate, when
            at = round(when * sample_rate)
        yield from placed(resampler(samples))
        expected += len(samples) / rate
    if resampler is not None:
        yield from placed(resampler.rest())


def _until(length: float, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """The first ``length`` samples."""
    for piece in pieces:
        yield piece[: int(min(length, len(piece)))]
        length -= len(piece)
        if length <= 0:
            return


class _Resampler:
    """Resamples continuous sound part by part, without delay: sample 0 keeps its time."""

    def __init__(self, source_rate: int, sample_rate: int) -> None:
        import av

        self.source_rate = source_rate
        self._resampler = av.AudioResampler(format="flt", layout="mono", rate=sample_rate)

    def __call__(self, samples: Tensor) -> Tensor:
        """Add a part and return the samples that are ready."""
        import av

        frame = av.AudioFrame.from_ndarray(samples[None].numpy(), format="flt", layout="mono")
        frame.sample_rate = self.source_rate
        return self._joined(self._resampler.resample(frame))

    def rest(self) -> Tensor:
        """Return the remaining samples after the last part."""
        return self._joined(self._resampler.resample(None))

    @staticmethod
    def _joined(frames: list[Any]) -> Tensor:
        parts = [torch.from_numpy(frame.to_ndarray()[0]) for frame in frames]
        return torch.cat([torch.empty(0), *parts]).clamp(-1, 1)


class LogMel(nn.Module):
    """Log-mel spectrogram with 80 bands at 100 frames per second.

    Power in windows of 25 ms (Hann) around every 10 ms, in ``bands`` triangles from 20 Hz to half the sample rate on
    the HTK mel scale, then the natural logarithm with a floor of 1e-6 (about the noise of 16 bits): values from
    -13.8 (digital silence) to about 10. The sound is padded with silence at both ends.

    Args:
        sample_rate: Samples per second of the sound.
        bands: Number of mel bands.

    Example:
        >>> mel = LogMel()(read_sound(Clip("clip.mp4")))  # doctest: +SKIP
    """

    floor = 1e-6
    """Smallest power."""

    def __init__(self, sample_rate: int = SAMPLE_RATE, bands: int = MEL_BANDS) -> None:
        super().__init__()
        try:
            from torchaudio.transforms import MelSpectrogram
        except ImportError as error:
            raise ImportError("Log-mel needs torchaudio: pip install 'merc[media]'.") from error
        if sample_rate % MEL_RATE:
            raise ValueError(
                f"The sample rate is {sample_rate}: expected a multiple of {MEL_RATE}, such as {SAMPLE_RATE}."
            )
        self.bands = bands
        self.mel = MelSpectrogram(
            sample_rate,
            n_fft=max(512, 1 << (sample_rate // 40 - 1).bit_length()),
            win_length=sample_rate // 40,
            hop_length=sample_rate // MEL_RATE,
            f_min=20.0,
            n_mels=bands,
            pad_mode="constant",
        )

    def forward(self, sound: Tensor) -> Tensor:
        """Transform sound.

        Args:
            sound: ``(S,)`` or ``(B, S)`` in -1..1.

        Returns:
            ``(T, bands)`` or ``(B, T, bands)`` with T = 1 + S * 100 // sample rate; row j is centred on j / 100 s.
            Empty sound gives no rows.
        """
        if not sound.shape[-1]:
            return sound.new_zeros(*sound.shape[:-1], 0, self.bands)
        power: Tensor = self.mel(sound)
        return power.clamp(min=self.floor).log().transpose(-1, -2)
