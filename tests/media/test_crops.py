import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.media.crops import crop_faces, crop_squares, grey, resample, rows_to_crops, track_crops
from merc.media.decode import Frames
from merc.media.tracks import FaceTrack, tracks_to_rows


def noise(count, height=40, width=50, seed=0):
    return torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(seed)).to(
        torch.uint8
    )


def slow_axis(low, high, size, length):
    """For each output pixel the list of (input pixel, weight)."""
    step = (high - low) / size
    reach = max(step, 1.0)
    table = []
    for place in range(size):
        centre = low + (place + 0.5) * step
        taps = []
        for pixel in range(int(centre - reach) - 2, int(centre + reach) + 3):
            weight = 1 - abs(pixel + 0.5 - centre) / reach
            if weight > 0:
                taps.append((min(max(pixel, 0), length - 1), weight))
        total = sum(weight for _, weight in taps)
        table.append([(pixel, weight / total) for pixel, weight in taps])
    return table


def slow_resample(image, rectangle, size):
    x1, y1, x2, y2 = rectangle
    rows, columns = slow_axis(y1, y2, size, image.shape[1]), slow_axis(x1, x2, size, image.shape[2])
    out = torch.zeros(image.shape[0], size, size)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            for y, a in row:
                for x, b in column:
                    out[:, i, j] += image[:, y, x] * (a * b)
    return out


@settings(max_examples=15, deadline=None)
@given(
    x=st.floats(-30, 60),
    y=st.floats(-30, 50),
    width=st.floats(3, 40),
    height=st.floats(3, 40),
    size=st.integers(1, 7),
    seed=st.integers(0, 99),
)
def test_resampling_is_the_obvious_one(x, y, width, height, size, seed):
    image, rectangle = noise(1, seed=seed), (x, y, x + width, y + height)
    got = resample(image, torch.tensor([rectangle]), (size, size))[0]
    expected = slow_resample(image[0].float(), torch.tensor([rectangle])[0].tolist(), size)
    assert (got - expected).abs().max() < 3.0  # the weights are rounded to 1/256


def test_pixels_that_lie_on_the_grid_come_out_as_they_are():
    image = noise(1)
    crop = resample(image, torch.tensor([[7.0, 3.0, 27.0, 23.0]]), (20, 20))
    assert torch.equal(crop.to(torch.uint8), image[:, :, 3:23, 7:27])


@settings(max_examples=20, deadline=None)
@given(value=st.integers(0, 255), x=st.floats(-100, 100), side=st.floats(1, 90), size=st.integers(1, 30))
def test_a_flat_image_stays_flat_also_beyond_its_edge(value, x, side, size):
    image = torch.full((1, 3, 40, 50), value, dtype=torch.uint8)
    assert (crop_faces(image, torch.tensor([[x, 5.0, x + side, 5 + side]]), size) == value).all()


def test_beyond_the_edge_the_outermost_pixels_are_repeated():
    image = noise(1)
    outside = resample(image, torch.tensor([[-20.0, 10.0, -10.0, 20.0]]), (10, 10)).to(torch.uint8)
    assert torch.equal(outside, image[:, :, 10:20, :1].expand(1, 3, 10, 10))


def test_a_crop_does_not_depend_on_the_others():
    images = noise(70, seed=3)
    boxes = torch.rand(70, 4, generator=torch.Generator().manual_seed(1)) * 20
    boxes[:, 2:] += boxes[:, :2] + 3
    together = crop_faces(images, boxes, 24, region="mouth")
    alone = torch.cat([crop_faces(images[i : i + 1], boxes[i : i + 1], 24, region="mouth") for i in range(70)])
    assert torch.equal(together, alone)


def test_the_regions_lie_where_they_should():
    box = torch.tensor([[100.0, 50.0, 180.0, 150.0]])
    face, mouth = crop_squares(box, "face", 0.0)[0], crop_squares(box, "mouth", 0.0)[0]
    assert face.tolist() == [90, 50, 190, 150]
    assert mouth.tolist() == [110, 100, 170, 160]
    assert crop_squares(box, "face", 0.5)[0].tolist() == [65, 25, 215, 175]


def test_crops_of_a_moved_picture_at_a_moved_box_are_the_same():
    image = noise(1, 80, 80)
    moved = image.roll((5, -3), (2, 3))
    box = torch.tensor([[30.3, 30.7, 50.1, 55.9]])
    first, second = crop_faces(image, box, 16), crop_faces(moved, box + torch.tensor([-3.0, 5.0, -3.0, 5.0]), 16)
    assert (first.int() - second.int()).abs().max() <= 2


def test_grey_is_luma():
    image = noise(2)
    luma = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert (grey(image) - luma).abs().max() <= 1.5  # weights of 1/128


@pytest.mark.parametrize("chunk", [1, 4, 30])
def test_crops_are_rows_of_the_tracks(chunk):
    images = noise(30, seed=5)
    line = torch.arange(30.0)[:, None]
    tracks = [
        FaceTrack(2, torch.tensor([[10.0, 8, 30, 32]]) + line[:20] * 0.3, 0.9),
        FaceTrack(5, torch.tensor([[30.0, 4, 44, 20]]) - line[:25] * 0.2, 0.8),
    ]
    frames = [Frames(images[i : i + chunk], i, 25.0, 0.5) for i in range(0, 30, chunk)]
    tracks = [FaceTrack(track.first, track.boxes * 2, track.score) for track in tracks]  # source pixels
    crops = track_crops(frames, tracks, 12)
    assert crops.shape == (len(tracks_to_rows(tracks)), 144) and crops.dtype == torch.uint8
    for track, mouths in zip(tracks, rows_to_crops(crops, tracks), strict=True):
        assert mouths.shape == (len(track), 12, 12)
        alone = crop_faces(grey(images[track.first : track.end]), track.boxes / 2, 12, region="mouth")[:, 0]
        assert (mouths.int() - alone.int()).abs().max() <= 1
    with pytest.raises(ValueError, match="Pass all frames"):
        track_crops(frames[:-1], tracks, 12)
    nothing = track_crops(frames, [], 12)
    assert nothing.shape == (0, 144) and rows_to_crops(nothing, []) == []


def test_rows_that_are_no_crops_of_the_tracks_are_refused():
    tracks = [FaceTrack(0, torch.ones(3, 4), 1.0), FaceTrack(1, torch.ones(2, 4), 1.0)]
    first, second = rows_to_crops(torch.arange(5).to(torch.uint8)[:, None].expand(5, 4), tracks)
    assert first[:, 1, 1].tolist() == [0, 1, 2] and second[:, 1, 1].tolist() == [3, 4]
    with pytest.raises(ValueError, match="one crop for every frame of a track, 5, got 4 crops"):
        rows_to_crops(torch.zeros(4, 9, dtype=torch.uint8), tracks)
    with pytest.raises(ValueError, match="got rows of width 8"):
        rows_to_crops(torch.zeros(5, 8, dtype=torch.uint8), tracks)


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, 4), "uint8"),
        (noise(2), torch.zeros(3, 4), "boxes"),
        (noise(1), torch.tensor([[5.0, 5, 5, 9]]), "empty"),
        (noise(1), torch.tensor([[5.0, 5, float("nan"), 9]]), "finite"),
    ],
)
def test_unfit_input_is_refused(images, boxes, message):
    with pytest.raises(ValueError, match=message):
        crop_faces(images, boxes, 8)


def test_no_images_give_no_crops():
    assert crop_faces(noise(0), torch.zeros(0, 4), 8).shape == (0, 3, 8, 8)
