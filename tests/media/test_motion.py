import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from merc.media.crops import resample
from merc.media.motion import CutFinder, _means, follow


def scene(seed, height=120, width=160, cells=8):
    """A smooth coloured picture."""
    coarse = torch.rand(1, 3, cells, cells, generator=torch.Generator().manual_seed(seed)) * 255
    return functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 255).to(torch.uint8)


def shot(seed, length, speed=0.5):
    """A slow pan over a scene."""
    wide = scene(seed, 120, 400, 16)
    starts = [int(frame * speed) for frame in range(length)]
    return torch.cat([wide[..., start : start + 160] for start in starts])


def found(images, chunk=64):
    finder = CutFinder()
    begins = [flag for part in images.split(chunk) for flag in finder.push(part)] + finder.finish()
    assert len(begins) == len(images)
    return [frame for frame, begin in enumerate(begins) if begin]


@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(7, 20), min_size=1, max_size=4), seed=st.integers(0, 500), chunk=st.integers(1, 30))
def test_cuts_are_found_where_they_are(lengths, seed, chunk):
    film = torch.cat([shot(seed * 10 + number, length) for number, length in enumerate(lengths)])
    assert found(film, chunk) == torch.tensor(lengths).cumsum(0)[:-1].tolist()


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("light", ["white", "bright", "black"])
def test_a_flash_is_no_cut(length, light):
    film = shot(1, 40)
    flash = film[15 : 15 + length]
    film[15 : 15 + length] = {"white": flash * 0 + 255, "black": flash * 0, "bright": flash // 4 + 190}[light]
    assert found(film) == []


def test_fast_motion_and_fading_light_are_no_cuts():
    assert found(shot(2, 30, speed=7)) == []
    fading = (shot(3, 40).float() * torch.linspace(1, 0.1, 40)[:, None, None, None]).to(torch.uint8)
    assert found(fading) == []


def test_a_cut_into_motion_is_found():
    assert found(torch.cat([shot(4, 20), shot(5, 30, speed=5)])) == [20]


def test_empty_pictures_and_single_frames_have_no_cut():
    assert found(torch.zeros(20, 3, 20, 30, dtype=torch.uint8)) == []
    assert found(shot(1, 1)) == []


@pytest.mark.parametrize("speed", [(0.3, -0.2), (1.7, 0.9), (-4.0, 2.5)])
def test_following_measures_motion_to_a_fraction_of_a_pixel(speed):
    face = scene(7, 200, 260, 24)
    velocity = torch.tensor(speed).repeat(2)
    # The picture moves: frame i shows the scene from a place that is i steps back.
    views = torch.tensor([[40.0, 30.0, 200.0, 150.0]]) - torch.arange(6)[:, None] * velocity
    images = resample(face.expand(6, -1, -1, -1), views, (120, 160)).round().to(torch.uint8)[:, :1]
    boxes = torch.tensor([[50.0, 30.0, 110.0, 100.0]]).repeat(6, 1)
    moved, known = follow(images, boxes, torch.arange(6))
    assert known.all()
    assert (moved - torch.tensor(speed)).abs().max() < 0.12
    # A box that goes along sees no motion.
    moved, known = follow(images, boxes + torch.arange(6)[:, None] * velocity, torch.arange(6))
    assert known.all() and moved.abs().max() < 0.12


def test_following_does_not_pretend_to_know():
    boxes = torch.tensor([[20.0, 20.0, 60.0, 70.0]]).repeat(2, 1)
    moved, known = follow(torch.cat([scene(1), scene(2)])[:, :1], boxes, torch.arange(2))
    assert not known.any() and not moved.any()
    moved, known = follow(torch.full((2, 1, 120, 160), 77, dtype=torch.uint8), boxes, torch.arange(2))
    assert not moved.any()


def test_a_single_box_has_no_motion():
    shift, known = follow(
        torch.zeros(1, 1, 40, 40, dtype=torch.uint8), torch.tensor([[5.0, 5, 30, 30]]), torch.zeros(1).long()
    )
    assert shift.shape == (0, 2) and known.shape == (0,)


@pytest.mark.parametrize(("height", "width"), [(360, 640), (37, 53), (10, 20)])
def test_thumbnails_are_means_over_areas(height, width):
    image = torch.rand(3, height, width)
    means = _means(height, 18) @ image @ _means(width, 32).T
    torch.testing.assert_close(means, functional.interpolate(image[None], (18, 32), mode="area")[0])
