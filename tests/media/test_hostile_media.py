"""Media files that are made to read other files or to crash: each is decoded or refused."""

import random
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

from conftest import REAL_DATA
from merc.conversation import Clip
from merc.media import MediaError, probe, read_frames, read_sound
from support.made_media import beeps, numbered, write_media

PICTURES = [numbered(index) for index in range(10)]
SOUND = beeps([0.1], 0.4)

FORMATS = {
    "mp4": {}, "mov": {}, "mkv": {}, "ts": {}, "m4v": {}, "3gp": {}, "flv": {},
    "webm": {"codec": "libvpx", "sound_codec": "libopus", "rate": 48000},
    "avi": {"codec": "mpeg4", "sound_codec": "pcm_s16le"},
    "mpg": {"codec": "mpeg1video", "sound_codec": "mp2", "rate": 44100},
    "nut": {"sound_codec": "flac"},
    "wmv": {"codec": "mpeg4", "sound_codec": "pcm_s16le"},
}  # fmt: skip
SOUNDS = {
    "wav": "pcm_s16le", "mp3": "libmp3lame", "flac": "flac", "ogg": "libopus", "opus": "libopus", "m4a": "aac",
    "aac": "aac", "aiff": "pcm_s16be", "au": "pcm_s16be", "ac3": "ac3", "w64": "pcm_s16le", "caf": "pcm_s16be",
}  # fmt: skip


@pytest.mark.parametrize("suffix", FORMATS)
def test_films_of_usual_formats_open(tmp_path, suffix):
    how = {"rate": 16000, **FORMATS[suffix]}
    sound = beeps([0.1], 0.4, how["rate"])
    path = write_media(tmp_path / f"a.{suffix}", pictures=PICTURES, sound=sound, **how)
    assert probe(path).width == 64
    assert len(torch.cat([frames.images for frames in read_frames(Clip(path))])) >= 10
    assert read_sound(Clip(path)).abs().max() > 0.3


@pytest.mark.parametrize("suffix", SOUNDS)
def test_sounds_of_usual_formats_open(tmp_path, suffix):
    rate = 48000 if suffix in ("opus", "ac3", "mp3", "ogg") else 16000
    path = tmp_path / f"a.{suffix}"
    write_media(path, sound=beeps([0.1], 0.4, rate), rate=rate, sound_codec=SOUNDS[suffix])
    assert read_sound(Clip(str(path))).abs().max() > 0.3


def test_real_clips_open():
    clips = sorted((REAL_DATA / "clips").glob("*.*"))
    if not clips:
        pytest.skip(f"the real clips are not here: expected {REAL_DATA}/clips")
    for path in clips:
        info = probe(path)
        assert info.width and info.duration > 0.5


def playlists(folder, film):
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n"
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="P1D">'
        '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="9"><BaseURL>{}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>"
    )
    return {
        "concat.mp4": f"ffconcat version 1.0\nfile {film.name}\n",
        "concat.txt": f"ffconcat version 1.0\nfile {film.name}\n",
        "relative.m3u8": hls.format(film.name),
        "absolute.m3u8": hls.format(film),
        "url.m3u8": hls.format(f"file://{film}"),
        "renamed.mp4": hls.format(film.name),
        "dash.mpd": dash.format(film.name),
        "session.sdp": sdp,
        "frames.mp4": "a%03d.png",
    }


def test_playlists_are_refused_whatever_their_names(tmp_path):
    film = tmp_path / "secret.ts"
    write_media(film, pictures=PICTURES, sound=SOUND)
    assert probe(film).width == 64
    for name, content in playlists(tmp_path, film).items():
        path = tmp_path / name
        path.write_text(content)
        for read in (lambda p: probe(p), lambda p: list(read_frames(Clip(str(p)))), lambda p: read_sound(Clip(str(p)))):
            with pytest.raises(MediaError, match=name) as caught:
                read(path)
            assert caught.value.reason == "not media or damaged header"


def test_a_playlist_is_named_as_the_reason(tmp_path):
    write_media(tmp_path / "secret.mp4", pictures=PICTURES)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with pytest.raises(MediaError, match=r"list\.mp4 is not of a container format .* playlists are not opened"):
        probe(tmp_path / "list.mp4")


def test_sound_behind_the_end_of_the_clip_is_not_called_damaged(tmp_path):
    film = write_media(tmp_path / "late.mkv", pictures=[numbered(i) for i in range(75)], sound=SOUND, sound_start=2.0)
    with pytest.raises(MediaError, match=r"no sound from 0\.0 to 1\.0 s\. Check the times") as caught:
        read_sound(Clip(film, 0.0, 1.0))
    assert caught.value.reason == "no sound in the clip"
    assert read_sound(Clip(film, 0.0, 2.2)).abs().max() > 0.3


def mutated(data, dice):
    """Bytes of a media file with some flips, cuts, repetitions and large numbers."""
    data = bytearray(data)
    for _ in range(dice.choice([1, 3, 30])):
        at = dice.randrange(len(data)) if dice.random() < 0.5 else dice.randrange(min(4096, len(data)))
        kind = dice.randrange(5)
        if kind == 0:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x00\x00\x00\x01"])
        elif kind == 2 and len(data) > 2000:
            del data[at : at + dice.choice([1, 100, 1000])]
        elif kind == 3:
            data[at:at] = data[at : at + dice.choice([1, 100, 1000])]
        elif dice.random() < 0.2:
            del data[max(at, 200) :]
    return bytes(data)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    for suffix in ("mp4", "mkv", "avi", "mpg", "ts"):
        how = {"rate": 16000, **FORMATS[suffix]}
        write_media(folder / f"a.{suffix}", pictures=PICTURES, sound=beeps([0.1], 0.4, how["rate"]), **how)
    return sorted(folder.iterdir())


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6))
def test_mutated_films_are_decoded_or_refused(seeds, tmp_path_factory, seed):
    dice = random.Random(seed)
    film = dice.choice(seeds)
    path = tmp_path_factory.mktemp("mutated") / film.name
    path.write_bytes(mutated(film.read_bytes(), dice))
    clip = Clip(str(path), end=5.0)
    for read in (lambda: probe(path), lambda: list(read_frames(clip, time_limit=10)), lambda: read_sound(clip)):
        try:
            read()
        except MediaError as error:
            assert str(path) in str(error)
    shutil.rmtree(path.parent)
