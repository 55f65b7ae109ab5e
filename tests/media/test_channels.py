"""Channels that cancel each other: one stands for all, in every span of the file; else their mean does."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

import av

from merc.conversation import Clip
from merc.media import iter_sound, media_notes, read_sound
from merc.media.channels import best_channel, single_channel
from support.made_media import write_media

CASES = Path(__file__).resolve().parents[3] / "shared/cases"
RATE = 16000
CANCEL = "cancel each other: only one of them"


def voice(seconds, seed=0):
    """Noise with syllables and pauses, (S,)."""
    noise = np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    loudness = np.maximum(np.sin(np.arange(len(noise)) / RATE * 2 * np.pi * 1.3 + seed), 0)
    return (0.2 * noise * loudness).clip(-1, 1).astype(np.float32)


def quiet(sound):
    return np.zeros_like(sound)


def early(sound):
    """Its first half, then silence."""
    return np.where(np.arange(len(sound)) < len(sound) / 2, sound, 0).astype(np.float32)


def power(sound):
    return float(torch.as_tensor(sound).square().mean())


def test_a_phone_recording_with_swapped_poles_is_heard():
    case = CASES / "20_out_of_phase_stereo/phone.mp4"
    if not case.exists():
        pytest.skip("needs the recordings of ../shared/cases")
    assert read_sound(Clip(str(case))).abs().max() > 0.1
    assert media_notes(case) == ["The channels of the sound cancel each other: only one of them, front left, is used."]


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.wav", "pcm_s16le"), ("a.mkv", "flac")])
@pytest.mark.parametrize("level", [-1.0, -0.9])
def test_inverted_stereo_gives_the_louder_channel(name, codec, level, tmp_path):
    one = voice(3.0)
    path = write_media(tmp_path / name, sound=np.stack([level * one, one]), sound_codec=codec)
    sound = read_sound(Clip(path))
    assert power(sound) == pytest.approx(power(one), rel=0.1)
    assert any(CANCEL in note for note in media_notes(path))
    if level != -1:
        assert f"one of them, {'number 2' if name == 'a.wav' else 'front right'}, is used" in media_notes(path)[0]


STEREO = {
    "in phase": lambda a, b: [a, a],
    "right louder": lambda a, b: [0.2 * a, a],
    "right silent": lambda a, b: [a, quiet(a)],
    "left silent": lambda a, b: [quiet(a), a],
    "unrelated": lambda a, b: [a, b],
    "a speaker each": lambda a, b: [
        np.where(np.arange(len(a)) < len(a) / 2, a, 0),
        np.where(np.arange(len(a)) < len(a) / 2, 0, a),
    ],
    "wide": lambda a, b: [a + b, a - 0.9 * b],
    "half a channel inverted": lambda a, b: [a, -0.4 * a],
    "silence": lambda a, b: [quiet(a), quiet(a)],
}


@pytest.mark.parametrize("kind", STEREO)
def test_channels_that_do_not_cancel_are_averaged(kind, tmp_path):
    sound = np.stack(STEREO[kind](voice(4.0, 1), voice(4.0, 2))).astype(np.float32)
    path = write_media(tmp_path / "a.wav", sound=sound, sound_codec="pcm_f32le")
    torch.testing.assert_close(read_sound(Clip(path)), torch.from_numpy(sound.mean(0)).clamp(-1, 1), atol=2e-4, rtol=0)
    assert media_notes(path) == []


@pytest.mark.parametrize("speaks", ["front centre", "inverted fronts", "inverted fronts beside a centre"])
def test_surround(speaks, tmp_path):
    one = voice(3.0)
    sound = np.stack([quiet(one)] * 6)
    if speaks != "front centre":
        sound[0], sound[1] = one, -one
    if speaks != "inverted fronts":
        sound[2] = one  # FL, FR, FC, LFE, BL, BR
    path = write_media(tmp_path / "a.wav", sound=sound, layout="5.1", sound_codec="pcm_s16le")
    alone = speaks == "inverted fronts"
    assert power(read_sound(Clip(path))) == pytest.approx(power(one) / (1 if alone else 36), rel=0.05)
    assert any(CANCEL in note for note in media_notes(path)) == alone


@pytest.mark.parametrize("seconds", [6.0, 60.0])
@pytest.mark.parametrize("codec", ["pcm_s16le", "aac"])
def test_a_film_half_of_which_is_out_of_phase_sounds_the_same_in_every_span(seconds, codec, tmp_path):
    one = voice(seconds)
    sound = np.stack([one, np.where(np.arange(len(one)) < len(one) / 2, one, -one)])
    path = write_media(tmp_path / "a.mkv", sound=sound, sound_codec=codec)
    whole = read_sound(Clip(path))
    for half in whole.chunk(2):
        assert power(half) == pytest.approx(power(one), rel=0.1)
    for start in (0.5, seconds / 2 - 0.7, seconds / 2 + 1):
        part = read_sound(Clip(path, start=start, end=start + 1.4))
        begin = round(start * RATE)
        assert (part - whole[begin : begin + len(part)]).abs().mean() < 0.02
    pieces = list(iter_sound(Clip(path), seconds=0.3))
    assert torch.equal(torch.cat(pieces), whole)


def test_one_channel_and_broken_files_have_no_choice(tmp_path):
    mono = write_media(tmp_path / "mono.wav", sound=voice(1.0)[None], sound_codec="pcm_s16le")
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    for path in (mono, tmp_path / "broken.wav", tmp_path / "absent.wav"):
        assert single_channel(str(path)) is None


def test_a_file_that_changes_is_looked_at_again(tmp_path):
    one = voice(2.0)
    path = write_media(tmp_path / "a.wav", sound=np.stack([one, -one]), sound_codec="pcm_s16le")
    assert single_channel(path) is not None
    write_media(tmp_path / "a.wav", sound=np.stack([one, one])[:, :-16], sound_codec="pcm_s16le")
    assert single_channel(path) is None


@given(st.integers(2, 8), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_mean_stays_where_no_channel_is_heard_throughout(channels, times, seed):
    draw = torch.Generator().manual_seed(seed)
    powers = torch.rand(times, channels + 1, generator=draw, dtype=torch.float64) + 0.2
    powers[:, -1] = powers[:, :-1].mean(1) / channels  # unrelated channels
    assert best_channel(powers) is None
    powers[0, -1] = 0  # once they cancel
    chosen = best_channel(powers)
    assert chosen is not None
    relative = powers[:, :-1] / powers[:, :-1].amax(1, keepdim=True)
    assert relative[:, chosen].min() == relative.amin(0).max()
    powers[0, :-1] = torch.eye(channels + 1, dtype=torch.float64)[0, :-1]
    powers = torch.cat([powers, powers[:1].roll(1, 1)])  # another time, another channel alone
    powers[-1, -1] = powers[-1, 0] = 0
    powers[-1, 1] = 1
    assert best_channel(powers) is None
    assert best_channel(powers * 1e-9) is None  # silence


def two_tracks(path, default, flags=(0, 0)):
    """A film with a low and a high tone on two tracks."""
    from av.stream import Disposition

    clock = np.arange(RATE) / RATE
    with av.open(str(path), "w") as file:
        tracks = []
        for number, language in enumerate(("deu", "eng")):
            track = file.add_stream("pcm_s16le", rate=RATE, layout="mono")
            track.metadata["language"] = language
            track.disposition = Disposition.default if default == number else Disposition(flags[number])
            tracks.append(track)
        packets = []
        for track, frequency in zip(tracks, (200, 2000), strict=True):
            tone = (8000 * np.sin(2 * np.pi * frequency * clock)).astype(np.int16)[None]
            for start in range(0, RATE, 1000):
                frame = av.AudioFrame.from_ndarray(tone[:, start : start + 1000], format="s16", layout="mono")
                frame.sample_rate, frame.pts = RATE, start
                packets += track.encode(frame)
            packets += track.encode(None)
        file.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return str(path)


@pytest.mark.parametrize(
    ("default", "flags", "heard", "note"),
    [
        (1, (0, 0), 2000, "number 2 (eng) is used, the default."),
        (0, (0, 0), 200, "number 1 (deu) is used, the default."),
        (None, (0, 0), 200, "number 1 (deu) is used, as no track is the default."),
        (None, (256, 0), 2000, "number 2 (eng) is used, as no track is the default."),  # the first describes the film
    ],
)
def test_of_several_sound_tracks_one_is_chosen_and_named(default, flags, heard, note, tmp_path):
    path = two_tracks(tmp_path / "a.mkv", default, flags)
    sound = read_sound(Clip(path))
    assert int(torch.fft.rfft(sound).abs().argmax()) * RATE / len(sound) == pytest.approx(heard, abs=2)
    assert media_notes(path) == [f"The file has 2 sound tracks: {note}"]
