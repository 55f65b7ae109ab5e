"""Broken media: each file decodes, as far as it goes, or is refused with a reason; none crashes or hangs."""

import os
import random
import shutil
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

from merc.conversation import Clip
from merc.media import MediaError, probe, read_frames, read_sound
from merc.media.decode import in_seconds
from support.made_media import HEIGHT, WIDTH, beeps, numbered, numbers, turned, write_media

WHOLE = {
    "mp4": {"options": {"bf": "2", "g": "10"}, "mux_options": {"movflags": "faststart"}},
    "mov": {"options": {"bf": "2", "g": "10"}},  # its index is at the end
    "mkv": {"options": {"bf": "2", "g": "10"}},
    "ts": {"options": {"bf": "2", "g": "10"}},
    "mpg": {"codec": "mpeg1video", "sound_codec": "mp2", "options": {"g": "10"}},
    "avi": {"codec": "mpeg4", "sound_codec": "pcm_s16le", "options": {"g": "10"}},
    "nut": {"sound_codec": "flac", "options": {"g": "10"}},
}
DAMAGES = [("truncated", share) for share in (0.0005, 0.02, 0.3, 0.6, 0.97)] + [("flipped", seed) for seed in range(6)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One sound file a container: 40 numbered pictures, 1.6 s of sound."""
    folder = tmp_path_factory.mktemp("whole")
    pictures = [numbered(i, noise=10) for i in range(40)]
    for name, how in WHOLE.items():
        rate = 44100 if name == "mpg" else 16000
        write_media(folder / f"a.{name}", pictures=pictures, sound=beeps([0.4, 1.2], 1.6, rate), rate=rate, **how)
    return folder


def outcome(path, start=0.0):
    """What becomes of picture, sound and header of a file: what was read, or the reason."""

    def attempt(read):
        try:
            return read()
        except MediaError as error:
            assert error.reason and len(error.reason) < 40 and str(path) in str(error)
            return error.reason

    clip = Clip(str(path), start=start)
    picture = attempt(lambda: torch.cat([frames.images for frames in read_frames(clip, chunk=16, time_limit=10)]))
    sound = attempt(lambda: read_sound(clip, time_limit=10))
    return picture, sound, attempt(lambda: probe(path, time_limit=10))


def equal(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: "-".join(map(str, damage)))
@pytest.mark.parametrize("container", WHOLE)
def test_truncated_and_flipped_files(whole, tmp_path, container, damage):
    data = bytearray((whole / f"a.{container}").read_bytes())
    kind, amount = damage
    if kind == "truncated":
        data = data[: int(len(data) * amount)]
    else:
        dice = random.Random(amount)
        for _ in range(1 + amount * 3):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    file = tmp_path / f"a.{container}"
    file.write_bytes(data)
    picture, sound, _ = found = outcome(file)
    if isinstance(picture, torch.Tensor):
        assert picture.dtype == torch.uint8 and 1 <= len(picture) < 25 * 600
    if isinstance(sound, torch.Tensor):
        assert torch.isfinite(sound).all() and 1 <= len(sound) and sound.abs().max() <= 1
    assert all(equal(a, b) for a, b in zip(found, outcome(file), strict=True))
    outcome(file, start=0.81)


@pytest.mark.parametrize("container", ["mp4", "mkv", "ts", "mpg"])
def test_what_comes_before_a_cut_decodes_as_in_the_whole_file(whole, tmp_path, container):
    data = (whole / f"a.{container}").read_bytes()
    share = 0.4 if container == "mpg" else 0.7  # there the picture is far ahead of the sound
    (tmp_path / f"cut.{container}").write_bytes(data[: int(len(data) * share)])
    good, _, _ = outcome(whole / f"a.{container}")
    cut, _, _ = outcome(tmp_path / f"cut.{container}")
    assert 10 < len(cut) < len(good)
    assert torch.equal(cut[: len(cut) - 5], good[: len(cut) - 5])


def test_decoding_goes_on_behind_damaged_frames(whole, tmp_path):
    data = bytearray((whole / "a.ts").read_bytes())
    middle = len(data) // 2 // 188 * 188
    data[middle : middle + 188 * 8] = bytes(188 * 8)
    (tmp_path / "hole.ts").write_bytes(data)
    good, good_sound, _ = outcome(whole / "a.ts")
    holed, sound, _ = outcome(tmp_path / "hole.ts")
    assert len(holed) == len(good) and abs(len(sound) - len(good_sound)) <= 2
    assert not torch.equal(holed, good)
    assert torch.equal(holed[-8:], good[-8:]) and torch.equal(holed[:8], good[:8])


def test_a_picture_that_is_damaged_all_through_is_an_error(whole, tmp_path):
    data = (whole / "a.mp4").read_bytes()
    begin = data.index(b"mdat") + 4
    (tmp_path / "empty.mp4").write_bytes(data[:begin] + bytes(len(data) - begin))
    picture, _, info = outcome(tmp_path / "empty.mp4")
    assert picture == info == "damaged video"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "empty file"),
        ("text.mp4", b"This is a transcript, not a film.\n" * 50, None),
        ("subtitles.mp4", b"1\n00:00:01,000 --> 00:00:02,000\nHello\n\n" * 9, None),
        ("list.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n", None),
        ("stream.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nhttp://127.0.0.1:9/a.ts\n", None),
        ("html.avi", b"<!DOCTYPE html><html><body>404 Not Found</body></html>", None),
        ("zeros.mkv", bytes(5000), None),
        ("noise.wav", np.random.default_rng(0).bytes(20000), None),
        ("header.wav", b"RIFF\xff\xff\xff\xffWAVEfmt ", None),
        ("box.mp4", b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom\xff\xff\xff\xffmoov", None),
    ],
)
def test_what_is_no_media_has_a_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    for found in outcome(tmp_path / name):
        assert isinstance(found, str)
        assert reason is None or found == reason


def test_what_is_no_file_has_a_reason(whole, tmp_path):
    assert set(outcome(tmp_path)) == {"not a file"}
    assert set(outcome(tmp_path / "missing.mp4")) == {"no such file"}
    assert set(outcome(f"{tmp_path}/no\0name.mp4")) == {"cannot be read"}
    assert set(outcome("http://127.0.0.1:9/a.mp4")) == {"no such file"}
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    assert set(outcome(tmp_path / "pipe.mp4")) == {"not a file"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission_has_a_reason(whole, tmp_path):
    shutil.copy(whole / "a.mp4", tmp_path / "secret.mp4")
    (tmp_path / "secret.mp4").chmod(0)
    assert set(outcome(tmp_path / "secret.mp4")) == {"no permission"}


def test_names_that_look_like_something_else_are_files(whole, tmp_path, monkeypatch):
    for name in ("pipe:0.mp4", "a%03d.mp4", "übung & mehr.mp4", "http:x.mp4"):
        shutil.copy(whole / "a.mp4", tmp_path / name)
        assert len(outcome(tmp_path / name)[0]) == 40
        monkeypatch.chdir(tmp_path)
        assert len(outcome(name)[0]) == 40


ODD = {
    "no sound": ({"pictures": 10}, 10, "no sound"),
    "no picture": ({"sound": beeps([0.1], 0.5)}, "no video", 8000),
    "sound longer than the picture": ({"pictures": 10, "sound": beeps([0.1], 2.0)}, 10, 32000),
    "picture longer than the sound": ({"pictures": 30, "sound": beeps([0.1], 0.5)}, 30, 8000),
    "one picture": ({"pictures": 1, "sound": beeps([0.1], 0.5)}, 1, 8000),
    "8 kHz": ({"pictures": 5, "sound": beeps([0.1], 0.5, 8000), "rate": 8000}, 5, 8000),
    "5.1": ({"pictures": 5, "sound": beeps([0.1], 0.5, 48000, 6), "rate": 48000, "layout": "5.1"}, 5, 8000),
    "variable frame rate": ({"pictures": 3, "times": [0.0, 0.5, 0.52]}, 14, "no sound"),
    "120 frames a second": ({"pictures": 60, "fps": 120}, 13, "no sound"),
    "no length": ({"pictures": 10, "sound": beeps([0.1], 0.5), "mux_options": {"live": "1"}}, 10, 8000),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_decode_rightly(tmp_path, name):
    how, pictures, samples = ODD[name]
    how = {"sound_codec": "pcm_s16le", **how}
    if "pictures" in how:
        how["pictures"] = [numbered(i) for i in range(how["pictures"])]
    picture, sound, _ = outcome(write_media(tmp_path / "odd.mkv", **how))
    assert picture == pictures if isinstance(pictures, str) else len(picture) == pictures
    assert sound == samples if isinstance(samples, str) else abs(len(sound) - samples) <= 16
    if not isinstance(samples, str):
        assert sound.abs().max() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("container", ["avi", "nut", "mkv"])
def test_dropped_frames_do_not_end_the_film(tmp_path, container):
    av = pytest.importorskip("av")
    write_media(
        tmp_path / f"all.{container}", pictures=[numbered(i) for i in range(20)], codec="mjpeg", pix_fmt="yuvj420p"
    )
    with (
        av.open(str(tmp_path / f"all.{container}")) as source,
        av.open(str(tmp_path / f"dropped.{container}"), "w") as file,
    ):
        stream = file.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if packet.size:
                kept = av.Packet(0) if index in (5, 6) else packet
                kept.stream, kept.pts, kept.dts, kept.time_base = stream, packet.pts, packet.dts, packet.time_base
                file.mux(kept)
    picture, _, _ = outcome(tmp_path / f"dropped.{container}")
    assert numbers(picture) == [0, 1, 2, 3, 4, 4, 4, *range(7, 20)]


def test_a_rotated_file_decodes_rightly(tmp_path):
    write_media(tmp_path / "turned.mp4", pictures=[numbered(i) for i in range(5)])
    picture, _, info = outcome(turned(tmp_path / "turned.mp4", (0, 1, -1, 0)))
    assert picture.shape == (5, 3, WIDTH, HEIGHT) and (info.width, info.height) == (HEIGHT, WIDTH)
    assert numbers(picture.transpose(2, 3)) == list(range(5))


def test_a_cover_is_no_picture(tmp_path):
    av = pytest.importorskip("av")
    file = tmp_path / "song.mka"
    write_media(file, sound=beeps([0.1], 0.5), sound_codec="pcm_s16le")
    cover = tmp_path / "cover.mkv"
    write_media(cover, pictures=[numbered(0)], codec="mjpeg", pix_fmt="yuvj420p", options={"strict": "-1"})
    with av.open(str(file)) as sound, av.open(str(cover)) as picture, av.open(str(tmp_path / "both.mp4"), "w") as both:
        heard = both.add_stream("aac", rate=16000, layout="mono")
        seen = both.add_stream_from_template(picture.streams.video[0])
        seen.disposition = av.stream.Disposition.attached_pic
        for frame in sound.decode(audio=0):
            both.mux(heard.encode(frame))
        both.mux(heard.encode(None))
        for packet in picture.demux(video=0):
            if packet.size:
                packet.stream = seen
                both.mux(packet)
    picture, sound, info = outcome(tmp_path / "both.mp4")
    assert picture == "no video" and len(sound) > 7000 and info.width is None


def test_a_header_that_claims_more_than_it_holds(whole, tmp_path):
    """A film whose header says 1000 s but which ends after 1.6 s, as after a download that was cut."""
    data = bytearray((whole / "a.mp4").read_bytes())
    at = data.index(b"mvhd") + 4 + 12
    scale = int.from_bytes(data[at : at + 4], "big")
    data[at + 4 : at + 8] = (scale * 1000).to_bytes(4, "big")
    (tmp_path / "lies.mp4").write_bytes(data)
    clip = Clip(str(tmp_path / "lies.mp4"))
    assert list(chain(*(numbers(frames.images) for frames in read_frames(clip)))) == list(range(40))


def test_stamps_without_a_unit_are_unknown():
    assert in_seconds(500, Fraction(1, 1000)) == 0.5
    assert in_seconds(0, Fraction(1, 1000)) == 0.0
    assert in_seconds(500, None) is in_seconds(None, Fraction(1, 25)) is None


def test_a_picture_too_large_for_memory_is_refused(tmp_path):
    head = b"P6\n60000 60000\n255\n"
    (tmp_path / "huge.ppm").write_bytes(head + bytes(1000))
    assert isinstance(outcome(tmp_path / "huge.ppm")[0], str)
