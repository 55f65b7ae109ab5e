"""Frames as films store them: the colours of RGB, and drawing within them."""

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="films need PyAV: pip install 'merc[media]'")

import av

from merc.conversation import Clip
from merc.media import read_frames
from merc.media.decode import read_planes
from merc.media.film import write_film
from merc.media.planes import Planes
from support.made_media import write_media

BT709, BT601 = 1, 5
COLOURS = [(255, 0, 0), (0, 200, 0), (30, 60, 250), (240, 240, 10), (128, 128, 128)]


def flat(colour, height=16, width=24):
    return torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width)


@pytest.mark.parametrize("matrix", [BT601, BT709, 9])
@pytest.mark.parametrize("colour", COLOURS)
def test_rgb_comes_back(matrix, colour):
    planes = Planes.of_rgb(flat(colour), matrix)
    assert (planes.height, planes.width, planes.matrix) == (16, 24, matrix)
    assert float((planes.rgb().int() - flat(colour).int()).abs().max()) <= 4
    painted = Planes.of_rgb(flat((0, 0, 0)), matrix)
    painted.fill(0, 0, 24, 16, colour)
    np.testing.assert_array_equal(painted.pixels, planes.pixels)


def test_odd_sides_lose_their_last_row_and_column():
    planes = Planes.of_rgb(flat((9, 9, 9), 17, 25))
    assert (planes.height, planes.width) == (16, 24)


def test_what_is_painted_and_pasted_stays_inside():
    planes = Planes.of_rgb(flat((0, 0, 0)))
    planes.fill(-5, -5, 4, 4, (255, 255, 255))
    planes.fill(100, 100, 200, 200, (255, 255, 255))
    planes.fill(8, 8, 8, 12, (255, 255, 255))
    planes.fill(12, 8, 6, 12, (255, 255, 255))
    white = planes.parts[0] > 200
    assert white[:4, :4].all() and white.sum() == 16
    planes.paste(Planes.of_rgb(flat((255, 0, 0), 8, 8)), 19, 13)  # at 18, 12
    red = planes.rgb()[0].int() > 200
    assert red[12:, 18:].all() and red.sum() == 16 + 4 * 6


def test_one_above_the_other():
    both = Planes.of_rgb(flat((255, 0, 0), 6, 10)).above(Planes.of_rgb(flat((0, 0, 255), 4, 10)))
    image = both.rgb().int()
    assert image.shape == (3, 10, 10)
    assert int(image[0, :6].min()) > 240 and int(image[2, 6:].min()) > 240 and int(image[0, 6:].max()) < 15


def stored(path, matrix, full, size=(64, 48)):
    """A film whose header says which matrix and range its planes have: red, green, blue and grey fields."""
    width, height = size
    fields = [flat(colour, height, width // 4) for colour in [(220, 20, 20), (20, 200, 20), (20, 20, 220), (99,) * 3]]
    image = np.ascontiguousarray(torch.cat(fields, 2).permute(1, 2, 0).numpy())
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuvj420p" if full else "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        for index in range(5):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = frame.reformat(format=stream.pix_fmt, dst_colorspace=matrix, dst_color_range=2 if full else 1)
            frame.pts = index
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return image


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", [BT601, BT709])
def test_a_film_keeps_its_colours(tmp_path, matrix, full):
    image = stored(tmp_path / "a.mp4", matrix, full)
    [chunk] = read_frames(Clip(str(tmp_path / "a.mp4")))
    planes = [planes for planes, _ in read_planes(Clip(str(tmp_path / "a.mp4")), fps=25)]
    assert len(planes) == 5
    write_film(tmp_path / "b.mp4", planes, fps=25)
    [again] = read_frames(Clip(str(tmp_path / "b.mp4")))
    for x in (8, 24, 40, 56):  # the middle of every field
        want = torch.from_numpy(image[24, x]).int()
        for found in (chunk.images[0], planes[0].rgb(), again.images[0]):
            assert float((found[:, 24, x].int() - want).abs().max()) <= 10, (x, found[:, 24, x], want)


@pytest.mark.parametrize(("codec", "layout"), [("libx264rgb", "rgb24"), ("ffv1", "gray"), ("ffv1", "yuv420p")])
def test_a_film_that_tells_no_matrix_is_written_with_the_one_that_was_taken(tmp_path, codec, layout):
    image = np.full((48, 64, 3), (90, 90, 90) if layout == "gray" else (200, 40, 30), np.uint8)
    write_media(tmp_path / "a.mkv", pictures=[image] * 5, codec=codec, pix_fmt=layout)
    write_film(tmp_path / "b.mp4", (planes for planes, _ in read_planes(Clip(str(tmp_path / "a.mkv")))), fps=25)
    with av.open(str(tmp_path / "b.mp4")) as film:
        assert next(film.decode(video=0)).colorspace == BT601  # 0, that of RGB, would turn planes into nonsense
    [again] = read_frames(Clip(str(tmp_path / "b.mp4")))
    assert float((again.images[0, :, 24, 32].int() - torch.from_numpy(image[24, 32]).int()).abs().max()) <= 4


def test_a_film_has_the_matrix_of_its_first_frame(tmp_path):
    both = b""
    for matrix in (BT709, BT601):
        image = stored(tmp_path / "a.h264", matrix, False)
        both += (tmp_path / "a.h264").read_bytes()
    (tmp_path / "a.h264").write_bytes(both)
    planes = [planes for planes, _ in read_planes(Clip(str(tmp_path / "a.h264")), fps=25)]
    assert len(planes) == 10 and {one.matrix for one in planes} == {BT709}
    assert float((planes[-1].rgb()[:, 24, 8].int() - torch.from_numpy(image[24, 8]).int()).abs().max()) <= 8


def test_frames_are_scaled_to_even_sides_and_are_each_ones_own(tmp_path):
    stored(tmp_path / "a.mp4", BT601, False, (100, 76))
    frames = list(read_planes(Clip(str(tmp_path / "a.mp4")), fps=50, max_height=37))
    assert len(frames) == 10 and {(p.height, p.width, scale) for p, scale in frames} == {(36, 48, 37 / 76)}
    first, second = (planes for planes, _ in frames[:2])
    first.fill(0, 0, 48, 36, (0, 0, 0))
    assert int(second.rgb().int().max()) > 150  # it shows the same frame of the film
