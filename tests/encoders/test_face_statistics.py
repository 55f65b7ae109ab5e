"""Face statistics against known pictures and slow, obvious versions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.encoders import FaceBatch, FaceStatisticsEncoder
from merc.encoders.face_statistics import GRID, ORIENTATIONS, REGIONS
from support.tiny_media import crops, keys

ENCODER = FaceStatisticsEncoder()


def measure(clip, encoder=ENCODER):
    vector = encoder(FaceBatch.pad(keys(1), [clip]))[0]
    return dict(zip(encoder.names, vector.tolist(), strict=True))


def test_names_and_width():
    assert ENCODER.dim == len(ENCODER.names) == len(set(ENCODER.names)) == 325
    assert (ENCODER.frames, ENCODER.size) == (32, 64)
    assert ENCODER.state_dict() == {}


def test_colour_of_flat_pictures():
    clip = torch.tensor([[255, 0, 51], [255, 102, 51]], dtype=torch.uint8)[:, :, None, None].expand(2, 3, 64, 64)
    found = measure(clip)
    assert found["colour/red_mean"] == pytest.approx(1) and found["colour/red_std"] == pytest.approx(0, abs=1e-6)
    assert found["colour/green_mean"] == pytest.approx(0.2) and found["colour/green_std"] == pytest.approx(0.2)
    assert found["colour/blue_mean"] == pytest.approx(0.2)
    assert found["colour/brightness_mean"] == pytest.approx(0.299 + 0.587 * 0.2 + 0.114 * 0.2)
    assert found["colour/contrast_mean"] == pytest.approx(0, abs=1e-6)
    assert found["colour/saturation_mean"] == pytest.approx((1 + 0.8) / 2)
    assert found["texture/mouth_p8"] == 1 and found["texture/mouth_p4"] == 0
    for name, value in found.items():
        if name.startswith("gradient/"):
            assert value == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("angle", "bin"), [(0, 0), (45, 2), (90, 4), (135, 6), (180, 0), (315, 6)])
def test_gradients_of_a_ramp(angle, bin):
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    ramp = 128 + 1.0 * ((x - 32) * math.cos(math.radians(angle)) + (y - 32) * math.sin(math.radians(angle)))
    found = measure(ramp.round().byte().expand(1, 3, 64, 64))
    for row, column in ((1, 1), (2, 1)):  # inner cells, away from the repeated edge
        bins = [found[f"gradient/r{row}c{column}_o{o}_mean"] for o in range(ORIENTATIONS)]
        assert max(range(ORIENTATIONS), key=bins.__getitem__) == bin and bins[bin] > 0.9


def test_a_noisy_clip_equals_loops_over_its_pixels():
    encoder = FaceStatisticsEncoder(size=32)
    (clip,) = crops(2, seed=3)
    found = measure(clip, encoder)
    rgb = (clip.double() / 255).tolist()
    size, frames = 32, len(rgb)
    grey = [
        [[0.299 * f[0][y][x] + 0.587 * f[1][y][x] + 0.114 * f[2][y][x] for x in range(size)] for y in range(size)]
        for f in rgb
    ]

    def at(picture, y, x):
        return picture[min(max(y, 0), size - 1)][min(max(x, 0), size - 1)]

    def region(name):
        x1, y1, x2, y2 = (round(share * size) for share in REGIONS[name])
        return [(y, x) for y in range(y1, y2) for x in range(x1, x2)]

    cells = torch.zeros(frames, GRID, GRID, ORIENTATIONS, dtype=torch.float64)
    patterns = torch.zeros(frames, size, size)
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    for t, picture in enumerate(grey):
        for y in range(size):
            for x in range(size):
                dx = at(picture, y, x + 1) - at(picture, y, x - 1)
                dy = at(picture, y + 1, x) - at(picture, y - 1, x)
                place = (math.degrees(math.atan2(dy, dx)) % 180) / 180 * ORIENTATIONS
                low, share = int(place) % ORIENTATIONS, place % 1
                cell = cells[t, y * GRID // size, x * GRID // size]
                cell[low] += (1 - share) * math.hypot(dx, dy) / (size // GRID) ** 2
                cell[(low + 1) % ORIENTATIONS] += share * math.hypot(dx, dy) / (size // GRID) ** 2
                bits = [at(picture, y + b, x + a) >= picture[y][x] for b, a in ring]
                turns = sum(bits[i] != bits[i - 1] for i in range(8))
                patterns[t, y, x] = sum(bits) if turns <= 2 else 9
    cells /= (cells.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    for row in range(GRID):
        for column in range(GRID):
            for o in range(ORIENTATIONS):
                name, track = f"gradient/r{row}c{column}_o{o}", cells[:, row, column, o]
                assert found[f"{name}_mean"] == pytest.approx(float(track.mean()), abs=1e-4)
                assert found[f"{name}_std"] == pytest.approx(float(track.std(correction=0)), abs=1e-4)
    for name in ("brows", "eyes", "nose", "mouth"):
        codes = [float(patterns[t, y, x]) for t in range(frames) for y, x in region(name)]
        for code in range(10):  # rounding may turn a tie of two neighbours
            assert found[f"texture/{name}_p{code}"] == pytest.approx(codes.count(code) / len(codes), abs=0.02)
    picture = torch.tensor(grey)
    even = picture / picture.std((1, 2), correction=0).mean()
    for name in REGIONS:
        change = sum(abs(float(even[1, y, x] - even[0, y, x])) for y, x in region(name)) / len(region(name))
        assert found[f"motion/{name}_mean"] == pytest.approx(change, rel=1e-3)
        assert found[f"motion/{name}_max"] == pytest.approx(change, rel=1e-3)


def test_motion_is_found_where_it_is():
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8, generator=generator).repeat(6, 1, 1, 1)
    clip[::2, :, 48:54, 26:38] = 0  # the mouth opens and shuts
    found = measure(clip)
    assert found["motion/mouth_mean"] > 5 * found["motion/face_mean"] > 0
    assert all(found[f"motion/{part}_mean"] == 0 for part in ("brows", "eyes", "nose"))
    still = measure(clip[:1].repeat(6, 1, 1, 1))
    assert all(value == 0 for name, value in still.items() if name.startswith("motion/"))


def test_a_single_frame_has_no_motion_and_no_spread():
    (clip,) = crops(1)
    found = measure(clip)
    assert all(v == 0 for name, v in found.items() if name.startswith("motion/") or name.endswith("_std"))


def test_light_changes_the_colour_but_neither_texture_nor_motion():
    (clip,) = crops(5, size=64)
    dark = (clip // 4 * 4, clip // 4)
    bright, dim = (measure(c) for c in dark)
    for name in ENCODER.names:
        if name.startswith("texture/"):
            assert bright[name] == pytest.approx(dim[name], abs=0.02), name
        if name.startswith("motion/"):
            assert bright[name] == pytest.approx(dim[name], rel=1e-3), name
    assert bright["colour/brightness_mean"] == pytest.approx(4 * dim["colour/brightness_mean"], rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4), size=st.sampled_from([24, 64, 90]))
def test_a_vector_depends_neither_on_its_batch_nor_on_what_padding_holds(lengths, size):
    clips = crops(*lengths, size=size)
    batch = FaceBatch.pad(keys(len(clips)), clips)
    batch.frames[~batch.mask] = 255
    alone = torch.cat([ENCODER(FaceBatch.pad(keys(1), [clip])) for clip in clips])
    torch.testing.assert_close(ENCODER(batch), alone, atol=1e-5, rtol=0)


def test_autocast_changes_nothing():
    batch = FaceBatch.pad(keys(2), crops(4, 2))
    with torch.autocast("cpu", torch.bfloat16):
        vectors = ENCODER(batch)
    assert torch.equal(vectors, ENCODER(batch))


def test_provenance_says_what_each_number_is():
    provenance = FaceStatisticsEncoder(frames=8, size=32).provenance()
    assert (provenance["frames"], provenance["size"]) == (8, 32)
    assert len(provenance["names"]) == ENCODER.dim


@pytest.mark.parametrize(
    ("options", "message"),
    [({"frames": 0}, "at least 1"), ({"size": 50}, "multiple of 4"), ({"size": 16}, "at least 32")],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        FaceStatisticsEncoder(**options)


def test_bad_batches():
    batch = FaceBatch.pad(keys(1), crops(2))
    batch.mask[:] = False
    with pytest.raises(ValueError, match="Utterance train/0/0 has no frame at all"):
        ENCODER(batch)
