"""Mel-frequency cepstral coefficients as the package python_speech_features defines them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from merc.media.rates import MEL_RATE, SAMPLE_RATE

_FULL_SCALE = 32768  # those features are of samples of 16 bits
_WINDOW = SAMPLE_RATE // 40
_STEP = SAMPLE_RATE // MEL_RATE
_FFT = 512
_FILTERS = 26
_PRE_EMPHASIS = 0.97
_LIFTER = 22
_SMALLEST = 2.220446049250313e-16  # for an energy of 0, before the logarithm


class MFCC(nn.Module):
    r"""Cepstral coefficients at 100 rows per second, with the defaults of python_speech_features 0.6.

    The sound, rounded to 16 bits, is pre-emphasised, :math:`y_t = x_t - 0.97 x_{t-1}`, and cut into windows of 25 ms
    every 10 ms, without a taper. The power :math:`|X|^2 / 512` of each window is summed in 26 triangles on the HTK mel
    scale from 0 to 8 kHz, whose corners lie on bins of the transform. The orthonormal discrete cosine transform of
    their logarithms, lifted by :math:`1 + 11 \sin(\pi n / 22)`, gives the coefficients; the first is replaced by the
    logarithm of the window's energy.

    Args:
        coefficients: Number of coefficients N, at most 26.

    Raises:
        ValueError: The number of coefficients is out of its range.
    """

    filters: Tensor
    cosines: Tensor

    def __init__(self, coefficients: int = 13) -> None:
        super().__init__()
        if not 1 <= coefficients <= _FILTERS:
            raise ValueError(f"MFCC: coefficients is {coefficients}, expected 1 to {_FILTERS}.")
        self.coefficients = coefficients
        self.register_buffer("filters", _triangles(), persistent=False)
        self.register_buffer("cosines", _lifted_cosines(coefficients), persistent=False)

    def forward(self, sound: Tensor) -> Tensor:
        """Transform sound.

        Args:
            sound: ``(S,)`` or ``(B, S)`` in -1..1, at 16 kHz.

        Returns:
            ``(M, N)`` or ``(B, M, N)`` with M = 1 + ceil((S - 400) / 160), at least 1; row j covers the 25 ms from
            j / 100 s on. What lies beyond the end is silence. Empty sound gives no rows.
        """
        length = sound.shape[-1]
        if not length:
            return sound.new_zeros(*sound.shape[:-1], 0, self.coefficients)
        samples = (sound.float() * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE - 1)
        samples = samples - _PRE_EMPHASIS * functional.pad(samples, (1, 0))[..., :-1]
        missing = -(length - _WINDOW) % _STEP if length > _WINDOW else _WINDOW - length
        windows = functional.pad(samples, (0, missing)).unfold(-1, _WINDOW, _STEP)
        power = torch.fft.rfft(windows, _FFT).abs().square() / _FFT
        energy = _log(power.sum(-1))
        return torch.cat([energy[..., None], (_log(power @ self.filters) @ self.cosines)[..., 1:]], dim=-1)


def _log(energy: Tensor) -> Tensor:
    return energy.masked_fill(energy == 0, _SMALLEST).log()


def _triangles() -> Tensor:
    """``(257, 26)`` weights of the bins of the transform in every filter."""
    highest = 2595 * math.log10(1 + SAMPLE_RATE / 2 / 700)
    mels = torch.linspace(0, highest, _FILTERS + 2, dtype=torch.float64)
    corners = ((_FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SAMPLE_RATE).floor()
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    bins = torch.arange(_FFT // 2 + 1, dtype=torch.float64)[:, None]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    return torch.minimum(rising, falling).clamp(min=0).float()


def _lifted_cosines(coefficients: int) -> Tensor:
    """``(26, N)``: the discrete cosine transform of type 2, orthonormal, with the lifter."""
    index = torch.arange(coefficients, dtype=torch.float64)
    places = (torch.arange(_FILTERS, dtype=torch.float64) + 0.5)[:, None] * math.pi / _FILTERS
    scale = torch.full((coefficients,), math.sqrt(2 / _FILTERS), dtype=torch.float64)
    scale[0] = math.sqrt(1 / _FILTERS)
    lifter = 1 + _LIFTER / 2 * (math.pi * index / _LIFTER).sin()
    return ((places * index).cos() * scale * lifter).float()
