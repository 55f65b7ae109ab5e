"""How faces look: the shape of the numbers, a slow version of the edges, and what they tell apart."""

import math

import pytest
import torch

from merc.media import face_appearance
from merc.media.appearance import APPEARANCE_DIM, COLOURS
from merc.media.appearance import face_appearance as by_path
from merc.media.crops import crop_squares, grey, resample


def images(count, seed=0):
    return torch.randint(0, 256, (count, 3, 80, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


BOX = torch.tensor([[20.0, 15.0, 60.0, 65.0]])


def test_both_halves_have_length_one_and_a_face_depends_on_itself_alone():
    looks = face_appearance(images(3), BOX.expand(3, 4))
    assert looks.shape == (3, APPEARANCE_DIM) and by_path is face_appearance
    for part in (looks[:, :COLOURS], looks[:, COLOURS:]):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(face_appearance(images(3)[1:2], BOX)[0], looks[1])
    assert face_appearance(images(0), torch.zeros(0, 4)).shape == (0, APPEARANCE_DIM)


def test_edges_are_histograms_of_gradients():
    [found] = face_appearance(images(1), BOX)
    face = resample(grey(images(1)), crop_squares(BOX, "face", 0.1), (50, 50))[0, 0] / 255
    sums = torch.zeros(8, 6, 6)
    for row in range(48):
        for column in range(48):
            down = float(face[row + 2, column + 1] - face[row, column + 1])
            right = float(face[row + 1, column + 2] - face[row + 1, column])
            place = (math.atan2(down, right) / math.pi * 4 + 4) % 8
            low = int(place)
            strength = math.hypot(down, right)
            sums[low, row // 8, column // 8] += strength * (1 - (place - low))
            sums[(low + 1) % 8, row // 8, column // 8] += strength * (place - low)
    expected = (sums / 64).sqrt().flatten()
    torch.testing.assert_close(found[COLOURS:], expected / expected.norm(), atol=1e-3, rtol=0)


def test_light_changes_edges_little_and_another_face_much():
    base = images(1)
    darker = (base.float() * 0.7).to(torch.uint8)
    [here], [dark], [other] = (face_appearance(given, BOX)[:, COLOURS:] for given in (base, darker, images(1, 1)))
    assert float(here @ dark) > 0.99 > float(here @ other)


def test_colours_tell_red_from_green():
    red, green = torch.zeros(1, 3, 80, 90, dtype=torch.uint8), torch.zeros(1, 3, 80, 90, dtype=torch.uint8)
    red[:, 0], green[:, 1] = 255, 255
    [first], [second] = (face_appearance(given, BOX)[:, :COLOURS] for given in (red, green))
    assert float(first @ second) == pytest.approx(-1 / 3, abs=1e-3)
