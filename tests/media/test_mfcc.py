"""Cepstral coefficients against the definition of python_speech_features, written out slowly."""

import math

import numpy as np
import pytest
import torch

from merc.media import MFCC, SAMPLE_RATE


def slow(samples, coefficients=13):
    """Row by row, filter by filter, in float64, from samples of 16 bits."""
    samples = np.asarray(samples, dtype=np.float64)
    emphasised = np.concatenate([samples[:1], samples[1:] - 0.97 * samples[:-1]])
    count = 1 if len(samples) <= 400 else 1 + math.ceil((len(samples) - 400) / 160)
    emphasised = np.concatenate([emphasised, np.zeros(400 + 160 * count)])
    top = 2595 * math.log10(1 + 8000 / 700)
    corners = [math.floor(513 * 700 * (10 ** (top * i / 27 / 2595) - 1) / 16000) for i in range(28)]
    rows = []
    for row in range(count):
        window = emphasised[160 * row : 160 * row + 400]
        power = np.abs(np.fft.rfft(window, 512)) ** 2 / 512
        logs = []
        for low, middle, high in zip(corners, corners[1:], corners[2:], strict=False):
            energy = sum(power[k] * (k - low) / (middle - low) for k in range(low, middle))
            energy += sum(power[k] * (high - k) / (high - middle) for k in range(middle, high))
            logs.append(math.log(energy or np.finfo(float).eps))
        cepstra = []
        for n in range(coefficients):
            total = sum(value * math.cos(math.pi * n * (j + 0.5) / 26) for j, value in enumerate(logs))
            scale = math.sqrt((1 if n == 0 else 2) / 26)
            cepstra.append(total * scale * (1 + 11 * math.sin(math.pi * n / 22)))
        cepstra[0] = math.log(power.sum() or np.finfo(float).eps)
        rows.append(cepstra)
    return torch.tensor(rows)


def speech(length, seed=0):
    """Tones that swell, in samples of 16 bits."""
    clock = np.arange(length) / SAMPLE_RATE
    noise = np.random.default_rng(seed).normal(0, 30, length)
    voice = 8000 * np.sin(2 * np.pi * 5 * clock) ** 2 * (np.sin(880 * clock) + 0.4 * np.sin(9000 * clock))
    return np.clip(np.round(voice + noise), -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("length", [1, 399, 400, 401, 560, 561, 4000])
def test_it_equals_the_slow_version(length):
    samples = speech(length)
    found = MFCC()(torch.from_numpy(samples / 32768).float())
    torch.testing.assert_close(found.double(), slow(samples).double(), atol=2e-3, rtol=1e-4)


def test_a_second_has_100_rows_and_each_its_place():
    samples = speech(SAMPLE_RATE)
    sound = torch.from_numpy(samples / 32768).float()
    rows = MFCC()(sound)
    assert rows.shape == (99, 13)
    # But for the first sample, which has none before it, a row depends on its own 25 ms alone.
    torch.testing.assert_close(MFCC()(sound[160 * 20 : 160 * 30 + 400])[1:10], rows[21:30], atol=1e-3, rtol=1e-4)


def test_batches_silence_and_sound_that_is_too_loud():
    quiet, loud = torch.zeros(2000), 3 * torch.sin(torch.arange(2000) / 3)
    both = MFCC(coefficients=5)(torch.stack([quiet, loud]))
    assert both.shape == (2, 11, 5) and both.isfinite().all()
    torch.testing.assert_close(both[0], MFCC(coefficients=5)(quiet))
    torch.testing.assert_close(both[1], MFCC(coefficients=5)(loud.clamp(-1, 32767 / 32768)))
    torch.testing.assert_close(both[0].double(), slow(np.zeros(2000), 5).double(), atol=1e-4, rtol=0)


def test_no_sound_has_no_rows():
    assert MFCC()(torch.zeros(0)).shape == (0, 13)
    assert MFCC()(torch.zeros(3, 0)).shape == (3, 0, 13)


@pytest.mark.parametrize("count", [0, 27])
def test_more_coefficients_than_filters_are_refused(count):
    with pytest.raises(ValueError, match=f"coefficients is {count}, expected 1 to 26"):
        MFCC(coefficients=count)
