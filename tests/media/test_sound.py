"""Sound on the clip's clock: any rate and layout, gaps, seeks, and the log-mel spectrogram."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

from merc.conversation import Clip
from merc.media import LogMel, MediaError, iter_sound, read_sound
from merc.media.sound import _on_clock
from support.made_media import beeps, numbered, onsets, write_media


def tone(frequency, seconds, rate, channels=1):
    clock = np.arange(round(seconds * rate)) / rate
    return np.repeat(0.5 * np.sin(2 * np.pi * frequency * clock)[None], channels, 0).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_any_rate_becomes_16_khz_without_a_shift(tmp_path, rate):
    path = write_media(tmp_path / "tone.wav", sound=tone(440, 1.0, rate), rate=rate, sound_codec="pcm_s16le")
    sound = read_sound(Clip(path))
    assert sound.dtype == torch.float32 and abs(len(sound) - 16000) <= 16
    expected = torch.from_numpy(tone(440, 1.0, 16000)[0])[: len(sound)]
    assert (sound[100:-100] - expected[100 : len(sound) - 100]).abs().max() < 0.01


@pytest.mark.parametrize(
    ("layout", "codec", "file"),
    [
        ("mono", "pcm_u8", "a.wav"),
        ("stereo", "pcm_s16le", "b.wav"),
        ("stereo", "pcm_s32le", "c.wav"),
        ("5.1", "pcm_s24le", "d.wav"),
        ("5.1", "pcm_f32le", "e.mov"),
        ("7.1", "flac", "f.mkv"),
        ("7.1", "pcm_s24le", "g.wav"),
        ("stereo", "pcm_s64le", "h.nut"),
    ],
)
def test_channels_become_one_by_their_mean(tmp_path, layout, codec, file):
    channels = {"mono": 1, "stereo": 2, "5.1": 6, "7.1": 8}[layout]
    sound = np.concatenate([tone(200 * (i + 1), 0.5, 48000) for i in range(channels)])
    path = write_media(tmp_path / file, sound=sound, rate=48000, layout=layout, sound_codec=codec)
    read = read_sound(Clip(path), sample_rate=48000)
    expected = torch.from_numpy(sound.mean(0))
    assert len(read) == len(expected)
    assert (read - expected).abs().max() < 0.02


@pytest.mark.parametrize("file", ["a.mp4", "a.mkv", "a.wav", "a.ogg", "a.mp3"])
def test_a_seek_gives_the_sound_of_the_whole(tmp_path, file):
    codec, rate = {"wav": ("pcm_s16le", 44100), "ogg": ("libopus", 48000), "mp3": ("libmp3lame", 44100)}.get(
        file.split(".")[1], ("aac", 44100)
    )
    sound = tone(50, 4.0, rate) * (0.6 + 0.4 * np.sin(np.arange(4 * rate) / rate * 5))
    path = write_media(tmp_path / file, sound=sound.astype(np.float32), rate=rate, sound_codec=codec)
    whole = read_sound(Clip(path))
    for start in (0.1, 1.003, 2.5):
        part = read_sound(Clip(path, start=start, end=start + 1.25))
        assert len(part) == 20000
        begin = round(start * 16000)
        # Matroska rounds time stamps to 1 ms, so after a seek there may be a shift of half of that.
        assert (part - whole[begin : begin + 20000]).abs().max() < 0.09


def test_pieces_of_any_length_make_the_same_whole(tmp_path):
    path = write_media(tmp_path / "tone.mp4", sound=tone(300, 2.0, 44100, 2), rate=44100)
    whole = read_sound(Clip(path, start=0.3))
    for seconds in (0.01, 0.4, 5.0):
        pieces = list(iter_sound(Clip(path, start=0.3), seconds=seconds))
        assert {len(piece) for piece in pieces[:-1]} <= {round(seconds * 16000)}
        assert torch.equal(torch.cat(pieces), whole)


def test_sound_that_starts_late_is_silence_until_then(tmp_path):
    path = write_media(
        tmp_path / "late.mkv",
        pictures=[numbered(i) for i in range(50)],
        sound=beeps([0.2], 1.0, 44100),
        rate=44100,
        sound_start=0.7,
    )
    sound = read_sound(Clip(path))
    assert onsets(sound) == pytest.approx([0.9], abs=0.002)
    assert not sound[: int(0.65 * 16000)].any()
    assert onsets(read_sound(Clip(path, start=0.8, end=1.2))) == pytest.approx([0.1], abs=0.002)
    assert not read_sound(Clip(path, start=0.5, end=0.8))[:2000].any()
    with pytest.raises(MediaError) as caught:
        read_sound(Clip(path, start=1.9))
    assert caught.value.reason == "no sound in the clip"


def test_sound_ends_with_the_clip_or_the_file(tmp_path):
    path = write_media(tmp_path / "tone.wav", sound=tone(300, 1.0, 16000), sound_codec="pcm_s16le")
    assert len(read_sound(Clip(path, end=0.5))) == 8000
    assert len(read_sound(Clip(path, start=0.25, end=9.0))) == 12000
    assert len(read_sound(Clip(path, start=0.25))) == 12000
    with pytest.raises(MediaError):
        read_sound(Clip(path, start=5.0))


def test_a_picture_is_no_sound_and_a_limit_is_kept(tmp_path):
    path = write_media(tmp_path / "mute.mp4", pictures=[numbered(0)] * 5)
    with pytest.raises(MediaError) as caught:
        read_sound(Clip(path))
    assert caught.value.reason == "no sound"
    path = write_media(tmp_path / "tone.wav", sound=tone(300, 1.0, 16000), sound_codec="pcm_s16le")
    with pytest.raises(MediaError) as caught:
        read_sound(Clip(path), time_limit=0.0)
    assert caught.value.reason == "time limit"


@given(
    st.lists(st.tuples(st.integers(-300, 4000), st.integers(1, 1500)), min_size=1, max_size=6),
    st.booleans(),
)
def test_the_clock_fills_gaps_and_never_repeats(blocks, sorted_in_time):
    """At one rate nothing is resampled, so the slow version can lay the blocks on the clock one by one."""
    rate = 16000
    if sorted_in_time:
        blocks = sorted(blocks)
    heard = [(begin / rate, rate, torch.full((length,), 0.01 * (i + 1))) for i, (begin, length) in enumerate(blocks)]
    expected: list[float] = []
    at = None
    for begin, length in blocks:
        value = 0.01 * (1 + blocks.index((begin, length))) if blocks.count((begin, length)) == 1 else None
        at = begin if at is None or abs(begin - at) > 0.02 * rate else at
        expected += [0.0] * (at - len(expected))
        expected += [value] * (at + length - max(at, len(expected)))
        at += length
    found = torch.cat(list(_on_clock(heard, rate))).tolist()
    assert len(found) == len(expected)
    assert all(b is None or a == pytest.approx(b) for a, b in zip(found, expected, strict=True))


def test_log_mel_is_centred_and_has_its_pitch():
    pytest.importorskip("torchaudio", reason="log-mel needs torchaudio: pip install 'merc[media]'")
    mel = LogMel()
    sound = torch.zeros(16000)
    sound[8000] = 0.9  # a click at 0.5 s
    spectrum = mel(sound)
    assert spectrum.shape == (101, 80) and spectrum.dtype == torch.float32
    energy = spectrum.sum(1)
    assert energy.argmax() == 50
    assert torch.allclose(energy[49], energy[51], atol=0.1)
    assert spectrum.min() == pytest.approx(np.log(1e-6), abs=1e-4)
    peaks = [mel(torch.from_numpy(tone(f, 0.5, 16000)[0]))[20].argmax().item() for f in (200, 800, 3000)]
    assert peaks == sorted(set(peaks))


def test_log_mel_of_a_batch_of_nothing_and_of_a_wrong_rate():
    pytest.importorskip("torchaudio", reason="log-mel needs torchaudio: pip install 'merc[media]'")
    mel = LogMel()
    sound = torch.randn(2, 4000).clamp(-1, 1)
    assert torch.allclose(mel(sound)[1], mel(sound[1]), atol=1e-5)
    assert mel(torch.zeros(0)).shape == (0, 80)
    assert mel(torch.zeros(3, 0)).shape == (3, 0, 80)
    assert mel(torch.zeros(1)).shape == (1, 80)
    assert len(mel(torch.zeros(47360))) == 297  # 74 pictures at 25 a second: four frames each, and the last one's end
    with pytest.raises(ValueError, match="multiple of 100"):
        LogMel(11025)
