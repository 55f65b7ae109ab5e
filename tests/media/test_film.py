"""Films that are written: the same pictures and sound as went in, whole or not at all, and what is drawn on them."""

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="writing films needs PyAV: pip install 'merc[media]'")

import av

from merc.annotation.drawing import bar_panel, draw_box
from merc.conversation import Clip
from merc.media import MediaError, probe, read_frames, read_sound
from merc.media.film import film_comment, write_film
from merc.media.planes import Planes
from support.tiny_clips import write_clip

RED, BLUE = (255, 0, 0), (0, 0, 255)


def grey(levels, height=32, width=48):
    return (Planes.of_rgb(torch.full((3, height, width), level, dtype=torch.uint8)) for level in levels)


def black(height, width):
    return Planes.of_rgb(torch.zeros(3, height, width, dtype=torch.uint8))


def loudness(path):
    sound = read_sound(Clip(str(path)))
    return sound[: len(sound) // 400 * 400].view(-1, 400).square().mean(1).sqrt()


def test_pictures_come_back_at_their_times(tmp_path):
    levels = [int(level) for level in np.linspace(20, 220, 30)]
    write_film(tmp_path / "a.mp4", grey(levels), fps=15, comment="of levels")
    info = probe(tmp_path / "a.mp4")
    assert (info.width, info.height, info.fps, info.sample_rate) == (48, 32, 15.0, None)
    assert info.duration == pytest.approx(2.0, abs=0.01)
    [chunk] = read_frames(Clip(str(tmp_path / "a.mp4")), fps=15)
    found = chunk.images.float().mean((1, 2, 3))
    assert float((found - torch.tensor(levels)).abs().max()) < 4
    assert film_comment(tmp_path / "a.mp4") == "of levels"


def test_sound_is_taken_over_as_it_is(tmp_path):
    source = write_clip(tmp_path / "source.mp4", 50)
    write_film(tmp_path / "a.mp4", grey([90] * 50), fps=25, sound_of=source)

    def packets(path):
        with av.open(str(path)) as file:
            return [bytes(packet) for packet in file.demux(audio=0) if packet.size]

    assert packets(tmp_path / "a.mp4") == packets(source)
    torch.testing.assert_close(loudness(tmp_path / "a.mp4"), loudness(source))


def other_sound(path, codec, rate, layout, silence=0.0):
    """A film without picture whose sound starts late."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        clock = np.arange(2 * rate) / rate
        tone = np.where(clock > 1, 0.5 * np.sin(2 * np.pi * 300 * clock), 0).astype(np.float32)
        channels = {"mono": 1, "stereo": 2}[layout]
        for start in range(0, len(tone), 1024):
            block = np.ascontiguousarray(np.tile(tone[start : start + 1024], (channels, 1)))
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, start
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate", "layout"),
    [("a.wav", "pcm_s16le", 22050, "stereo"), ("a.mpg", "mp2", 44100, "stereo"), ("a.flac", "flac", 10000, "mono")],
)
def test_other_sound_is_encoded_anew_at_its_times(name, codec, rate, layout, tmp_path):
    source = other_sound(tmp_path / name, codec, rate, layout)
    write_film(tmp_path / "film.mp4", grey([90] * 50), fps=25, sound_of=source)
    with av.open(str(tmp_path / "film.mp4")) as film:
        [stream] = film.streams.audio
        assert stream.codec_context.name == "aac" and stream.codec_context.layout.name == layout
        assert stream.rate == (rate if rate != 10000 else 48000)
    ours, theirs = loudness(tmp_path / "film.mp4"), loudness(source)
    length = min(len(ours), len(theirs))
    assert length > 70 and float((ours[:length] - theirs[:length]).abs().mean()) < 0.01


def test_a_film_without_sound_gives_none(tmp_path):
    source = write_clip(tmp_path / "source.mp4", 10, silent=True)
    write_film(tmp_path / "a.mp4", grey([90] * 10), fps=25, sound_of=source)
    assert probe(tmp_path / "a.mp4").sample_rate is None


def test_a_cut_leaves_the_old_film_and_nothing_else(tmp_path):
    write_film(tmp_path / "a.mp4", grey([90] * 10), fps=25, comment="old")

    def cut():
        yield from grey([10] * 30)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_film(tmp_path / "a.mp4", cut(), fps=25, comment="new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"] and film_comment(tmp_path / "a.mp4") == "old"


def test_nothing_makes_no_film(tmp_path):
    with pytest.raises(MediaError, match="no frame"):
        write_film(tmp_path / "a.mp4", iter(()), fps=25)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.mp4").write_text("no film")
    assert film_comment(tmp_path / "a.mp4") is None and film_comment(tmp_path / "b.mp4") is None


def test_a_frame_is_round_its_box_and_may_leave_the_picture():
    picture = black(40, 60)
    draw_box(picture, (10, 6, 30, 26), RED, "too small for words")
    expected = torch.zeros(40, 60, dtype=torch.bool)
    expected[6:26, 10:30] = True
    expected[8:24, 12:28] = False
    red, green, blue = picture.rgb().int()
    assert torch.equal(red > 200, expected) and int(green.max()) < 40 and int(blue.max()) < 40
    for box in ((-9, -9, 80, 90), (50, 30, 200, 200), (-30, -30, -10, -10), (70, 50, 90, 90)):
        draw_box(picture, box, RED, "anywhere")


def test_a_label_stands_above_the_frame_where_there_is_room():
    picture = black(360, 480)
    draw_box(picture, (100, 100, 200, 200), RED, "joy")
    assert (picture.rgb()[0, 80:99, 100:140] > 225).float().mean() > 0.4
    draw_box(picture, (100, 2, 200, 90), BLUE, "joy")  # no room above: inside
    assert (picture.rgb()[2, 4:18, 102:120] > 225).float().mean() > 0.4


def test_bars_are_as_long_as_their_values():
    panel = bar_panel(200, 40, {"a": 0.25, "b": 1.0, "c": 0.0}, {"a": RED, "b": BLUE, "c": RED})
    assert (panel.height, panel.width) == (40, 200)
    image = panel.rgb().int()
    red = (image[0] > 200) & (image[1] < 60)
    blue = (image[2] > 200) & (image[1] < 60)
    assert red.any(0).sum() / blue.any(0).sum() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("size", [(2, 2), (10, 24), (64, 24), (320, 90), (1920, 240)])
@pytest.mark.parametrize("values", [{}, {"joy": 0.5, "sadness": 0.5}, {str(n): 0.1 for n in range(10)}])
def test_a_panel_of_any_size_has_what_fits(size, values):
    text = "Привет, a long sentence with a very" + "l" * 300 + "ong word. " * 30
    colours = dict.fromkeys(values, RED)
    panel = bar_panel(*size, values, colours, "Anna: joy", text)
    assert (panel.width, panel.height) == size and panel.rgb().shape == (3, *size[::-1])
