"""Prosody: measures of the voice in an utterance, as named numbers, without pretrained weights."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.encoders.inputs import SoundBatch
from merc.media.rates import SAMPLE_RATE

HOP = SAMPLE_RATE // 100
"""Samples between frames: 100 frames per second."""

FRAME = SAMPLE_RATE // 20
"""Samples in a frame: 50 ms, three periods of the lowest pitch."""

FFT = 1024
PITCH_RANGE = (60.0, 600.0)
"""Lowest and highest pitch in Hz."""

FLOOR_DB = -120.0
"""The level of silence, in dB of full scale."""

ACTIVE_DB = 35.0
"""Difference to the loud frames of the utterance (95th percentile) up to which a frame counts as speech."""

SPAN_DB = 60.0
"""Difference to the whole up to which a part of the spectrum counts; below are codecs and rounding, not voices."""

APERIODIC = 0.3
"""The aperiodicity (YIN's d') above which a frame has no pitch; 0.1 to 0.3 in the literature."""

MEL_BANDS = 16
PERCENTS = (5, 25, 50, 75, 95)
MODULATION_BANDS = ((0.5, 1.5), (1.5, 3.0), (3.0, 5.0), (5.0, 8.0), (8.0, 16.0))
"""Bands of loudness modulation in Hz: phrases, stressed syllables, syllables, fast syllables, sounds."""


class ProsodyEncoder(nn.Module):
    """Pitch, loudness, rhythm, voice quality and spectrum of an utterance as named numbers; no weights, no download.

    Frames of 50 ms every 10 ms. :attr:`names` are ``group/measure_unit``, in the order of the vector:

    - ``duration_s``.
    - ``pitch``: fundamental frequency of the voiced frames by YIN (de Cheveigné and Kawahara 2002) in 60..600 Hz:
      statistics in Hz, spread and range in semitones, trend in semitones per second, and how fast it changes.
    - ``voice``: share of voiced frames, voiced stretches per second and their length; aperiodicity (0 for a pure
      period, 1 for noise); jitter- and shimmer-like measures: mean change of period and of peak amplitude from one
      voiced frame to the next, 10 ms on, relative to their means. (True jitter compares single periods.)
    - ``level``: RMS level in dB of full scale, its trend, and how fast it changes.
    - ``pause``: share and rate of the pauses inside speech, and their mean length.
    - ``rate``: syllable-like peaks of the loudness envelope per second; the strongest modulation of the envelope
      between 1 and 16 Hz, and the shares of the modulation in five bands.
    - ``spectrum``: centroid and bandwidth, 85 % roll-off, slope, flux, flatness, zero crossings, and energy below
      relative to above 1 kHz, each as mean and standard deviation.
    - ``mel``: 16 mel bands from 60 Hz to 8 kHz in dB relative to the utterance's mean level: mean, standard deviation,
      10th and 90th percentile.

    Level, spectrum and mel statistics are over the active frames, those at most 35 dB below the loud ones, or over all
    frames of silence. Measures without any frame are 0, so silence gives finite numbers. Gain changes the ``level``
    statistics and nothing else (until the floor of -120 dB is reached).

    Every utterance is measured alone, over its real samples, in float32 for any precision of the run. Scales
    differ widely (Hz, shares): standardize the columns by the training split before you train on them.

    Attributes:
        names: The name of each number.
        dim: Number of numbers.

    Example:
        >>> encoder = ProsodyEncoder()
        >>> tone = torch.sin(2 * torch.pi * 200 * torch.arange(16000) / 16000)
        >>> vector = encoder(SoundBatch.pad([UtteranceKey("train", "0", "0")], [tone]))[0]
        >>> round(vector[encoder.names.index("pitch/mean_hz")].item())
        200
    """

    def __init__(self) -> None:
        super().__init__()
        self.names = tuple(self.measure(torch.zeros(FRAME)))
        self.dim = len(self.names)

    def forward(self, batch: SoundBatch) -> Tensor:
        """Measure a batch.

        Returns:
            ``(B, dim)`` float32 numbers in the order of :attr:`names`.

        Raises:
            ValueError: The batch is not what :class:`~merc.encoders.SoundBatch` says, or holds a sound that is empty
                or not finite.
        """
        return torch.stack([torch.stack(list(self.measure(sound).values())) for sound in batch.rows()])

    def measure(self, sound: Tensor) -> dict[str, Tensor]:
        """The numbers of one utterance by name.

        Args:
            sound: ``(S,)`` samples in -1..1 at 16 kHz; less than one frame (50 ms) is padded with zeros.

        Returns:
            Scalars.
        """
        with torch.autocast(sound.device.type, enabled=False):
            return self._measure(sound.float())

    def _measure(self, sound: Tensor) -> dict[str, Tensor]:
        frames = F.pad(sound, (0, max(0, FRAME - len(sound)))).unfold(0, FRAME, HOP)  # (T, FRAME)
        frames = frames - frames.mean(1, keepdim=True)
        level = _db(frames.square().mean(1))
        loud = level.quantile(0.95)
        active = (level > loud - ACTIVE_DB) & (level > FLOOR_DB + 20)
        if not active.any():
            active = torch.ones_like(active)
        window = torch.hann_window(FRAME, device=sound.device)
        power = torch.fft.rfft(frames * window, n=FFT).abs().square() / window.square().sum()  # (T, FFT / 2 + 1)
        frequency, aperiodicity = pitch(frames)
        voiced = active & (aperiodicity < APERIODIC)
        return {
            "duration_s": sound.new_tensor(len(sound) / SAMPLE_RATE),
            **grouped("pitch", _pitch_measures(frequency, voiced)),
            **grouped("voice", _voice_measures(frames, frequency, aperiodicity, voiced)),
            **grouped("level", _level_measures(level, active)),
            **grouped("pause", _pause_measures(active)),
            **grouped("rate", _rate_measures(sound)),
            **grouped("spectrum", _spectrum_measures(frames, power, active)),
            **grouped("mel", _mel_measures(power[active], level[active].mean())),
        }

    def provenance(self) -> dict[str, Any]:
        """The name of the encoder, for the provenance of a store; it has no weights and no options."""
        return {"encoder": type(self).__name__, "version": 1, "names": list(self.names)}


def pitch(frames: Tensor) -> tuple[Tensor, Tensor]:
    r"""Pitch by YIN (de Cheveigné and Kawahara 2002, JASA 111), without its search for a better neighbouring frame.

    .. math:: d_\tau = \sum_j (x_j - x_{j+\tau})^2, \qquad d'_\tau = d_\tau \, \tau \, / \sum_{k \le \tau} d_k

    The period is the first local minimum of d' below 0.15, or its lowest point if there is none, made finer by a
    parabola.

    Args:
        frames: ``(T, FRAME)`` samples at 16 kHz.

    Returns:
        Pitch in Hz and aperiodicity d' at the period, each ``(T,)``; silence has an aperiodicity of 1.
    """
    shortest, longest = (round(SAMPLE_RATE / hz) for hz in reversed(PITCH_RANGE))
    width = FRAME - longest - 1
    lags = torch.arange(longest + 2, device=frames.device)
    spectrum = torch.fft.rfft(frames[:, :width], n=FFT).conj() * torch.fft.rfft(frames, n=FFT)
    correlation = torch.fft.irfft(spectrum, n=FFT)[:, : len(lags)]
    energy = F.pad(frames.square().cumsum(1), (1, 0))
    energy = energy[:, width : width + len(lags)] - energy[:, : len(lags)]
    difference = (energy[:, :1] + energy - 2 * correlation).clamp(min=0)
    difference[:, 0] = 0
    total = difference.cumsum(1)
    aperiodicity = torch.where(total > 1e-9 * width, difference * lags / total.clamp(min=1e-20), 1.0)

    left, inside, right = (aperiodicity[:, shortest + i : longest + 1 + i] for i in (-1, 0, 1))
    good = (inside < 0.15) & (inside <= left) & (inside < right)
    chosen = torch.where(good.any(1), good.int().argmax(1), inside.argmin(1))
    a, b, c = (values.gather(1, chosen[:, None])[:, 0] for values in (left, inside, right))
    bend = a - 2 * b + c
    shift = torch.where(bend > 1e-9, (a - c) / (2 * bend).clamp(min=1e-9), 0.0).clamp(-0.5, 0.5)
    return SAMPLE_RATE / (chosen + shortest + shift), b


def _pitch_measures(frequency: Tensor, voiced: Tensor) -> dict[str, Tensor]:
    hz = frequency[voiced]
    tones = 12 * torch.log2(frequency / PITCH_RANGE[0])
    low, _, middle, _, high = _percentiles(tones[voiced])
    return {
        "mean_hz": _mean(hz),
        "std_hz": _std(hz),
        **{f"p{p}_hz": value for p, value in zip(PERCENTS, _percentiles(hz), strict=True)},
        "std_semitones": _std(tones[voiced]),
        "range_semitones": high - low,
        "skew_semitones": high + low - 2 * middle,
        "trend_semitones_per_s": _trend(tones, voiced),
        "change_semitones_per_s": 100 * _mean(_steps(tones, voiced).abs()),
        "rising_share": _mean((_steps(tones, voiced) > 0).float()),
    }


def _voice_measures(frames: Tensor, frequency: Tensor, aperiodicity: Tensor, voiced: Tensor) -> dict[str, Tensor]:
    period, peak = 1 / frequency, frames.abs().amax(1)
    stretches = _stretches(voiced)
    return {
        "share": _mean(voiced.float()),
        "stretches_per_s": 100 * stretches / len(voiced),
        "stretch_mean_s": voiced.sum() / (100 * stretches.clamp(min=1)),
        "aperiodicity_mean": _mean(aperiodicity[voiced]),
        "aperiodicity_std": _std(aperiodicity[voiced]),
        "jitter": _relative_change(period, voiced),
        "jitter_smooth": _relative_bend(period, voiced),
        "shimmer": _relative_change(peak, voiced),
        "shimmer_smooth": _relative_bend(peak, voiced),
    }


def _level_measures(level: Tensor, active: Tensor) -> dict[str, Tensor]:
    percentiles = _percentiles(level[active])
    return {
        "mean_db": level[active].mean(),
        "std_db": _std(level[active]),
        "max_db": level.amax(),
        **{f"p{p}_db": value for p, value in zip(PERCENTS, percentiles, strict=True)},
        "range_db": percentiles[-1] - percentiles[0],
        "trend_db_per_s": _trend(level, active),
        "change_db_per_s": 100 * _mean(_steps(level, active).abs()),
    }


def _pause_measures(active: Tensor) -> dict[str, Tensor]:
    where = active.nonzero()[:, 0]
    inside = ~active[where[0] : where[-1] + 1]
    pauses = _stretches(inside)
    return {
        "share": inside.float().mean(),
        "per_s": 100 * pauses / len(inside),
        "mean_s": inside.sum() / (100 * pauses.clamp(min=1)),
    }


def _rate_measures(sound: Tensor) -> dict[str, Tensor]:
    envelope = _envelope(sound)
    db = _db(envelope.square())
    # A syllable-like peak is the maximum of 150 ms, and 3 dB above the minimum of the surrounding half second.
    summit = db == _around(db, 7, torch.amax)
    risen = db - _around(db, 25, torch.amin) > 3.0
    peaks = summit & risen & (db > db.amax() - ACTIVE_DB)
    peaks[[0, -1]] = False  # still rising, or falling already

    shares = (envelope - envelope.mean()) / envelope.mean().clamp(min=1e-9)
    size = max(1024, 2 ** math.ceil(math.log2(len(shares))))  # steps of at most 0.1 Hz
    window = torch.hann_window(len(shares), periodic=False, device=sound.device) if len(shares) > 2 else 1.0
    power = torch.fft.rfft(shares * window, n=size).abs().square()
    hz = torch.arange(len(power), device=sound.device) * (100 / size)
    bands = torch.stack([power[(hz >= low) & (hz < high)].sum() for low, high in MODULATION_BANDS])
    moving = bands.sum() > 1e-6 * len(shares)  # otherwise rounding would determine the strongest modulation
    syllabic = power * ((hz >= 1) & (hz < 16))
    measures = {
        "peaks_per_s": 100 * _stretches(peaks) / len(db),
        "modulation_hz": torch.where(moving, hz[syllabic.argmax()], 0.0),
        "modulation_depth": shares.square().mean().sqrt(),
    }
    for (low, high), band in zip(MODULATION_BANDS, bands, strict=True):
        measures[f"modulation_{low:g}_{high:g}_hz_share"] = torch.where(moving, band / bands.sum().clamp(min=1e-9), 0.0)
    return measures


def _envelope(sound: Tensor) -> Tensor:
    """RMS of 20 ms windows, 100 per second, smoothed over 50 ms, which rises and falls with syllables."""
    power = F.pad(sound, (0, max(0, 2 * HOP - len(sound)))).unfold(0, 2 * HOP, HOP).square().mean(1)
    weights = torch.hann_window(9, periodic=False, device=sound.device)[1:-1]
    padded = F.pad(power[None, None], (3, 3), mode="replicate")
    return F.conv1d(padded, (weights / weights.sum())[None, None])[0, 0].clamp(min=0).sqrt()


def _spectrum_measures(frames: Tensor, power: Tensor, active: Tensor) -> dict[str, Tensor]:
    hz = torch.arange(power.shape[1], device=power.device) * (SAMPLE_RATE / FFT)
    total = power.sum(1).clamp(min=1e-10)
    shares = power / total[:, None]
    centroid = shares @ hz
    db = _db(shares, -SPAN_DB - 30)
    centred = (hz - hz.mean()) / 1000
    root = shares.sqrt()
    low, high = shares[:, hz < 1000].sum(1), shares[:, hz >= 1000].sum(1)
    sums = shares.cumsum(1)
    tracks = {
        "centroid_hz": centroid,
        "bandwidth_hz": (shares * (hz - centroid[:, None]).square()).sum(1).sqrt(),
        "rolloff_hz": hz[(sums < 0.85 * sums[:, -1:]).sum(1)],
        "slope_db_per_khz": (db @ centred) / centred.square().sum(),
        "flux": F.pad((root[1:] - root[:-1]).square().sum(1).sqrt(), (1, 0)),
        "flatness_db": db.mean(1) - _db(shares.mean(1), -SPAN_DB - 30),
        "crossings_per_s": SAMPLE_RATE * ((frames[:, 1:] >= 0) != (frames[:, :-1] >= 0)).float().mean(1),
        "below_1khz_db": _db(low, -SPAN_DB) - _db(high, -SPAN_DB),
    }
    measures = {}
    for name, track in tracks.items():
        measures[f"{name}_mean"] = track[active].mean()
        measures[f"{name}_std"] = _std(track[active])
    return measures


def _mel_measures(power: Tensor, level: Tensor) -> dict[str, Tensor]:
    bands = (_db(power @ _mel_filters().to(power.device)) - level).clamp(min=-SPAN_DB)
    low, high = bands.quantile(bands.new_tensor([0.1, 0.9]), dim=0)
    statistics = {"mean": bands.mean(0), "std": _std(bands), "p10": low, "p90": high}
    return {f"{band}_{name}_db": s[band] for name, s in statistics.items() for band in range(MEL_BANDS)}


def grouped(name: str, measures: dict[str, Tensor]) -> dict[str, Tensor]:
    """Prefix the names of measures with that of their group."""
    return {f"{name}/{measure}": value for measure, value in measures.items()}


def _db(power: Tensor, floor: float = FLOOR_DB) -> Tensor:
    return 10 * power.clamp(min=10 ** (floor / 10)).log10()


def _mean(values: Tensor) -> Tensor:
    return values.mean() if len(values) else values.new_zeros(())


def _std(values: Tensor) -> Tensor:
    """Standard deviation along the first axis; 0 without values."""
    return values.std(0, correction=0) if len(values) else values.new_zeros(values.shape[1:])


def _percentiles(values: Tensor) -> Tensor:
    at = values.new_tensor(PERCENTS) / 100
    return values.quantile(at) if len(values) else torch.zeros_like(at)


def _trend(values: Tensor, chosen: Tensor) -> Tensor:
    """Slope of the least-squares line through the chosen frames, in units per second."""
    time = chosen.nonzero()[:, 0] / 100
    time = time - _mean(time)
    return (time * values[chosen]).sum() / time.square().sum().clamp(min=1e-4)


def _steps(values: Tensor, chosen: Tensor) -> Tensor:
    """Differences between neighbouring frames that are both chosen."""
    return (values[1:] - values[:-1])[chosen[1:] & chosen[:-1]]


def _relative_change(values: Tensor, chosen: Tensor) -> Tensor:
    return _mean(_steps(values, chosen).abs()) / _mean(values[chosen]).clamp(min=1e-9)


def _relative_bend(values: Tensor, chosen: Tensor) -> Tensor:
    """Like the relative change, but from the mean of both neighbours, so that an even glide gives 0."""
    bend = values[1:-1] - (values[:-2] + values[2:]) / 2
    bend = bend[chosen[:-2] & chosen[1:-1] & chosen[2:]]
    return _mean(bend.abs()) / _mean(values[chosen]).clamp(min=1e-9)


def _stretches(chosen: Tensor) -> Tensor:
    """Number of runs of chosen frames."""
    return chosen[:1].sum() + (chosen[1:] & ~chosen[:-1]).sum()


def _around(values: Tensor, reach: int, reduce: Any) -> Tensor:  # noqa: ANN401 - torch.amax or torch.amin
    """The maximum or minimum of the values up to ``reach`` frames away."""
    padded = F.pad(values[None], (reach, reach), mode="replicate")[0]
    result: Tensor = reduce(padded.unfold(0, 2 * reach + 1, 1), 1)
    return result


@cache
def _mel_filters() -> Tensor:
    """Triangles ``(FFT / 2 + 1, MEL_BANDS)`` between 60 Hz and 8 kHz, each summing to 1 (Slaney's area, HTK's mel)."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (60.0, SAMPLE_RATE / 2))
    corners = 700 * (10 ** (torch.linspace(low, high, MEL_BANDS + 2) / 2595) - 1)
    hz = torch.arange(FFT // 2 + 1) * (SAMPLE_RATE / FFT)
    rising = (hz[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hz[:, None]) / (corners[2:] - corners[1:-1])
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return triangles / triangles.sum(0)
