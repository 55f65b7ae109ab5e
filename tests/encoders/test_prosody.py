"""Prosody against known signals and slow, obvious versions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.encoders import ProsodyEncoder, SoundBatch
from merc.encoders.prosody import FRAME, HOP, pitch
from support.tiny_media import keys, noises

ENCODER = ProsodyEncoder()
TIME = torch.arange(3 * 16_000, dtype=torch.float64) / 16_000


def measure(sound):
    vector = ENCODER(SoundBatch.pad(keys(1), [sound.float()]))[0]
    return dict(zip(ENCODER.names, vector.tolist(), strict=True))


def voice(hz, seconds=3.0, amplitude=0.1):
    """Eight harmonics that fall like those of a voice; ``hz`` is a number, or one for every sample."""
    hz = torch.as_tensor(hz, dtype=torch.float64).expand(round(seconds * 16_000))
    phase = 2 * math.pi * (hz / 16_000).cumsum(0)
    return amplitude * sum((k * phase).sin() / k for k in range(1, 9))


def test_names_and_width():
    assert ENCODER.dim == len(ENCODER.names) == len(set(ENCODER.names)) == 125
    assert {name.split("/")[0] for name in ENCODER.names} == {
        *("duration_s", "pitch", "voice", "level", "pause", "rate", "spectrum", "mel")
    }
    assert ENCODER.state_dict() == {}


@pytest.mark.parametrize("hz", [70, 100, 155.3, 200, 333, 450, 590])
def test_pitch_of_a_harmonic_tone(hz):
    found = measure(voice(hz))
    for name in ("mean", "p5", "p50", "p95"):
        assert found[f"pitch/{name}_hz"] == pytest.approx(hz, rel=2e-3)
    assert found["pitch/std_semitones"] < 0.05
    assert found["voice/share"] == 1
    assert found["voice/jitter"] < 1e-3 and found["voice/shimmer"] < 0.05 and found["voice/aperiodicity_mean"] < 0.02


def test_pitch_equals_yin_written_out():
    """The definition of de Cheveigné and Kawahara with loops, on a voice in noise."""
    sound = (voice(171.0, 0.3) + 0.01 * noises(4800)[0]).float()
    frames = sound.unfold(0, FRAME, HOP)[::6]
    hz, aperiodicity = pitch(frames)
    shortest, longest = round(16_000 / 600), round(16_000 / 60)
    width = FRAME - longest - 1
    for frame, found_hz, found_aperiodicity in zip(frames.double(), hz.tolist(), aperiodicity.tolist(), strict=True):
        d = [float((frame[:width] - frame[lag : lag + width]).square().sum()) for lag in range(longest + 2)]
        even = [1.0] + [d[lag] * lag / sum(d[1 : lag + 1]) for lag in range(1, longest + 2)]
        lag = shortest
        while lag <= longest and not (even[lag] < 0.15 and even[lag - 1] >= even[lag] < even[lag + 1]):
            lag += 1
        if lag > longest:
            lag = min(range(shortest, longest + 1), key=even.__getitem__)
        a, b, c = even[lag - 1 : lag + 2]
        assert found_hz == pytest.approx(16_000 / (lag + 0.5 * (a - c) / (a - 2 * b + c)), rel=1e-3)
        assert found_aperiodicity == pytest.approx(b, abs=1e-3)


def test_pitch_trend_and_movement():
    rising = measure(voice(150 * 2 ** (TIME / 3)))  # one octave in three seconds
    assert rising["pitch/trend_semitones_per_s"] == pytest.approx(4, rel=0.02)
    assert rising["pitch/change_semitones_per_s"] == pytest.approx(4, rel=0.05)
    assert rising["pitch/rising_share"] > 0.9
    assert rising["voice/jitter_smooth"] < 0.2 * rising["voice/jitter"]
    falling = measure(voice(300 * 2 ** (-TIME / 3)))
    assert falling["pitch/trend_semitones_per_s"] == pytest.approx(-4, rel=0.02)


def test_jitter_and_shimmer_tell_a_rough_voice_from_a_smooth_one():
    steps = torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wander = steps.repeat_interleave(160)
    smooth = measure(voice(150.0))
    assert measure(voice(150 * (1 + 0.03 * wander)))["voice/jitter"] > 10 * smooth["voice/jitter"] + 1e-3
    assert measure(voice(150.0) * (1 + 0.3 * wander))["voice/shimmer"] > 0.05 > 5 * smooth["voice/shimmer"]


@pytest.mark.parametrize("hz", [2.0, 4.0, 6.5])
@pytest.mark.parametrize("carrier", [voice(140.0), noises(48_000)[0]])
def test_rate_of_a_modulated_sound(hz, carrier):
    found = measure(carrier * (1 - 0.9 * (2 * math.pi * hz * TIME).cos()))
    assert found["rate/peaks_per_s"] == pytest.approx(hz, abs=0.4)
    assert found["rate/modulation_hz"] == pytest.approx(hz, abs=0.15)
    band = "1.5_3" if hz < 3 else "3_5" if hz < 5 else "5_8"
    assert found[f"rate/modulation_{band}_hz_share"] > 0.8
    assert measure(carrier)["rate/peaks_per_s"] < 0.5


def test_level_and_its_trend():
    found = measure(0.1 * (2 * math.pi * 440 * TIME).sin())
    assert found["level/mean_db"] == pytest.approx(20 * math.log10(0.1 / math.sqrt(2)), abs=0.05)
    assert found["duration_s"] == 3
    fading = measure(voice(200.0) * 10 ** (-6 * TIME / 20))
    assert fading["level/trend_db_per_s"] == pytest.approx(-6, rel=0.02)
    assert fading["level/range_db"] == pytest.approx(0.9 * 2.95 * 6, rel=0.02)


def test_pauses_and_voiced_stretches():
    speaking = (TIME % 1.0) < 0.6  # 0.6 s of voice, 0.4 s of nothing, three times; the last pause is no pause
    found = measure(voice(200.0) * speaking)
    assert found["pause/per_s"] == pytest.approx(2 / 2.6, rel=0.03)
    assert found["pause/mean_s"] == pytest.approx(0.4, abs=0.06)
    assert found["voice/stretches_per_s"] == pytest.approx(1, rel=0.03)
    assert found["voice/stretch_mean_s"] == pytest.approx(0.6, abs=0.06)


def test_spectrum_of_known_sounds():
    tone = measure(0.1 * (2 * math.pi * 3000 * TIME).sin())
    assert tone["spectrum/centroid_hz_mean"] == pytest.approx(3000, abs=5)
    assert tone["spectrum/rolloff_hz_mean"] == pytest.approx(3000, abs=32)
    assert tone["spectrum/crossings_per_s_mean"] == pytest.approx(6000, rel=0.01)
    assert tone["spectrum/below_1khz_db_mean"] < -40
    noise = measure(noises(48_000)[0])
    assert noise["spectrum/centroid_hz_mean"] == pytest.approx(4000, abs=60)
    assert noise["spectrum/bandwidth_hz_mean"] == pytest.approx(8000 / math.sqrt(12), rel=0.02)
    assert noise["spectrum/slope_db_per_khz_mean"] == pytest.approx(0, abs=0.1)
    assert noise["spectrum/flatness_db_mean"] == pytest.approx(-2.51, abs=0.1)  # of an exponential distribution
    assert noise["spectrum/flux_mean"] > 10 * tone["spectrum/flux_mean"]
    assert noise["voice/share"] < 0.02
    bands = [noise[f"mel/{band}_mean_db"] for band in range(16)]
    assert max(bands) - min(bands) < 2.5
    loudest = max(range(16), key=lambda band: tone[f"mel/{band}_mean_db"])
    mel = [2595 * math.log10(1 + hz / 700) for hz in (60, 3000, 8000)]
    assert loudest == round((mel[1] - mel[0]) / (mel[2] - mel[0]) * 17 - 1)


def test_gain_moves_the_level_and_nothing_else():
    sound = voice(180.0) * (1 - 0.9 * (2 * math.pi * 3 * TIME).cos()) + 0.005 * noises(48_000)[0]
    loud, quiet = measure(sound), measure(0.1 * sound)
    for name in ENCODER.names:
        gain = (
            20
            if name.startswith("level/")
            and name.split("/")[1] in (*("mean_db", "max_db", "p5_db", "p25_db", "p50_db", "p75_db", "p95_db"),)
            else 0
        )
        assert loud[name] - quiet[name] == pytest.approx(gain, abs=1e-2 + 1e-4 * abs(loud[name])), name


@pytest.mark.parametrize("length", [1, 2, 100, 799, 800, 961, 16_000])
def test_silence_and_very_short_sounds_are_finite(length):
    silence = measure(torch.zeros(length))
    assert all(math.isfinite(value) for value in silence.values())
    assert silence["voice/share"] == silence["pitch/mean_hz"] == silence["rate/peaks_per_s"] == 0
    assert silence["level/mean_db"] == pytest.approx(-120)
    assert all(math.isfinite(value) for value in measure(noises(length)[0]).values())
    assert all(math.isfinite(value) for value in measure(torch.ones(length)).values())


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_a_vector_depends_neither_on_its_batch_nor_on_what_padding_holds(lengths, seed):
    sounds = noises(*lengths, seed=seed)
    sounds[0] = sounds[0] + voice(200.0, 9000 / 16_000)[: lengths[0]].float()
    batch = SoundBatch.pad(keys(len(sounds)), sounds)
    batch.sound[~batch.mask] = float("nan")
    together = ENCODER(batch)
    alone = torch.cat([ENCODER(SoundBatch.pad(keys(1), [sound])) for sound in sounds])
    assert together.isfinite().all()
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_autocast_changes_nothing():
    batch = SoundBatch.pad(keys(2), noises(8000, 5000))
    with torch.autocast("cpu", torch.bfloat16):
        vectors = ENCODER(batch)
    assert torch.equal(vectors, ENCODER(batch))


def test_provenance_says_what_each_number_is():
    provenance = ENCODER.provenance()
    assert provenance["encoder"] == "ProsodyEncoder" and len(provenance["names"]) == ENCODER.dim


def test_bad_batches():
    batch = SoundBatch.pad(keys(2), [torch.zeros(0), *noises(900)])
    with pytest.raises(ValueError, match=r"Utterance train/0/0 has no sample at all. Leave it out"):
        ENCODER(batch)
    with pytest.raises(ValueError, match="NaN or infinite"):
        ENCODER(SoundBatch.pad(keys(1), [torch.full((900,), float("nan"))]))
