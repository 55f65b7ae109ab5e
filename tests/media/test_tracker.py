from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from merc.media.decode import Frames
from merc.media.faces import Faces
from merc.media.tracker import FaceTracker
from merc.media.tracks import rows_to_tracks, tracks_to_rows

pytest.importorskip("scipy", reason="tracking needs merc[media]")

CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "clips"
HEIGHT, WIDTH = 96, 160


class Oracle:
    """A detector that knows the faces of every frame; frames carry their number in their first two pixels."""

    def __init__(self, faces):
        self.faces = faces  # frame -> list of (box, score)
        self.seen = []

    def __call__(self, images):
        out = []
        for image in images:
            frame = int(image[0, 0, 0]) * 256 + int(image[0, 0, 1])
            self.seen.append(frame)
            known = self.faces(frame)
            boxes = torch.tensor([box for box, _ in known], dtype=torch.float32).reshape(-1, 4)
            out.append(Faces(boxes, torch.tensor([score for _, score in known], dtype=torch.float32)))
        return out

    def provenance(self):
        return {"detector": "oracle"}


@cache
def texture(seed, height=HEIGHT, width=WIDTH, cells=12):
    coarse = torch.rand(1, 3, cells, cells, generator=torch.Generator().manual_seed(seed)) * 255
    return functional.interpolate(coarse, (height, width), mode="bilinear")[0].to(torch.uint8)


def film(length, paths=(), cuts=(), first=0, blank=False):
    """Frames with a textured square wherever a path says that a face is, a new background after every cut."""
    images = torch.zeros(length, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    patches = [texture(1000 + number, 24, 24, 6) for number in range(len(paths))]
    for frame in range(length):
        if not blank:
            images[frame] = texture(sum(cut <= frame for cut in cuts))
        for path, patch in zip(paths, patches, strict=True):
            x, y = (round(value) for value in path(frame)[:2])
            left, top = max(x, 0), max(y, 0)
            part = patch[:, top - y : max(HEIGHT - y, 0), left - x : max(WIDTH - x, 0)]
            images[frame, :, top : top + part.shape[1], left : left + part.shape[2]] = part
        images[frame, :, 0, :2] = torch.tensor([(frame + first) // 256, (frame + first) % 256])
    return images


def chunks(images, size=64, first=0, fps=25.0, scale=1.0):
    return [Frames(images[i : i + size], first + i, fps, scale) for i in range(0, len(images), size)]


def straight(x, y, dx=0.0, dy=0.0):
    return lambda frame: (x + dx * frame, y + dy * frame, x + dx * frame + 24, y + dy * frame + 24)


def deviation(track, path):
    expected = torch.tensor([path(frame) for frame in range(track.first, track.end)])
    return float((track.boxes - expected).abs().max())


def owner(track, paths):
    """The path that a track follows, if it is one and the same in all frames."""
    errors = [deviation(track, path) for path in paths]
    best = int(np.argmin(errors))
    assert errors[best] < 5, errors
    return best


def test_one_still_face():
    path = straight(40, 30)
    (track,) = FaceTracker(Oracle(lambda frame: [(path(frame), 1.0)]))(chunks(film(50, [path])))
    assert (track.first, track.end, track.score) == (0, 50, 1.0)
    assert deviation(track, path) < 0.2


def test_faces_are_detected_in_every_kth_frame_from_the_start_of_the_shot():
    oracle = Oracle(lambda frame: [])
    assert FaceTracker(oracle, every=7)(chunks(film(40, cuts=[24]), 9)) == []
    assert sorted(oracle.seen) == [0, 7, 14, 21, 24, 31, 38]


def test_where_faces_stay_every_second_detection_is_left_out():
    path = straight(40, 30)
    sure = Oracle(lambda frame: [(path(frame), 1.0)])
    (track,) = FaceTracker(sure)(chunks(film(32, [path]), 9))
    assert (track.first, track.end) == (0, 32)
    assert sorted(sure.seen) == [0, 10, 20, 30]
    cut = Oracle(lambda frame: [(path(frame), 1.0)])
    FaceTracker(cut)(chunks(film(63, [path], cuts=[28]), 9))
    assert sorted(cut.seen) == [0, 10, 20, 25, 28, 38, 48, 58]  # the last one before a cut has none after it
    rare = Oracle(lambda frame: [(path(frame), 1.0)])
    FaceTracker(rare, every=12)(chunks(film(50, [path])))
    assert sorted(rare.seen) == [0, 12, 24, 36, 48]  # two steps would be longer than a gap within a track


@pytest.mark.parametrize(
    "faces",
    [
        lambda frame: [(straight(40, 30)(frame), 0.8 if frame == 10 else 1.0)],
        lambda frame: [(straight(40, 30)(frame), 1.0)] * (frame != 10),
        lambda frame: [(straight(40, 30)(frame), 1.0), (straight(100, 30)(frame), 1.0)][: 1 + (frame == 10)],
        lambda frame: [(straight(48 if frame == 10 else 40, 30)(frame), 1.0)],
    ],
    ids=["doubtful", "missed", "one more", "elsewhere"],
)
def test_where_one_detection_differs_its_neighbours_are_not_left_out(faces):
    oracle = Oracle(faces)
    FaceTracker(oracle)(chunks(film(36, [straight(40, 30)])))
    assert sorted(oracle.seen) == [0, 5, 10, 15, 20, 30, 35]


@settings(max_examples=20, deadline=None)
@given(
    lanes=st.lists(
        st.tuples(st.integers(0, 130), st.floats(-0.8, 0.8)),
        min_size=1,
        max_size=3,
        unique_by=lambda lane: lane[0] // 33,
    ),
    cuts=st.lists(st.integers(15, 75), max_size=2).filter(lambda cuts: len(cuts) < 2 or abs(cuts[0] - cuts[1]) > 14),
    missed=st.sets(st.integers(0, 90), max_size=30),
    noise=st.floats(0, 1.5),
    blank=st.booleans(),
    seed=st.integers(0, 99),
)
def test_identities_stay_apart_and_no_track_crosses_a_cut(lanes, cuts, missed, noise, blank, seed):
    # Each face keeps to a lane of its own, 32 lines below the next, and several may pass one another along it.
    paths = [straight(x, 2 + 32 * number, speed) for number, (x, speed) in enumerate(lanes)]
    if blank:
        cuts = []
    draw = np.random.default_rng(seed)

    def faces(frame):
        kept = [path(frame) for number, path in enumerate(paths) if (frame * 3 + number) % 91 not in missed]
        return [(tuple(np.array(box) + draw.normal(0, noise, 4).clip(-3, 3)), 1.0) for box in kept]

    tracks = FaceTracker(Oracle(faces), min_seconds=0.0)(chunks(film(90, [] if blank else paths, cuts, blank=blank)))
    shown = np.zeros((len(paths), 90), dtype=int)
    for track in tracks:
        assert track.boxes.shape == (len(track), 4) and len(track) > 0
        assert not any(track.first < cut < track.end for cut in cuts)
        shown[owner(track, paths), track.first : track.end] += 1
    assert shown.max(initial=0) <= 1  # a face has one track at a time
    if not missed:
        assert shown.min() == 1
        assert len(tracks) == len(paths) * (len(cuts) + 1)


@settings(max_examples=15, deadline=None)
@given(speed=st.floats(0.7, 2.0), lower=st.floats(-6, 6), missed=st.integers(0, 3), blank=st.booleans())
def test_crossing_faces_keep_their_identity(speed, lower, missed, blank):
    paths = [straight(0, 40, speed), straight(130, 40 + lower, -speed)]
    meeting = 130 / (2 * speed)

    def faces(frame):
        boxes = [(path(frame), 1.0) for path in paths]
        # Where one hides the other a detector gives a single box, and some more detections fail.
        return boxes[:1] if abs(frame - meeting) * 2 * speed < 8 + 4 * missed else boxes

    length = int(130 / speed)
    tracks = FaceTracker(Oracle(faces), max_gap=2.0)(chunks(film(length, [] if blank else paths, blank=blank)))
    assert len(tracks) == 2
    assert [len(track) for track in tracks] == [length, length]
    for track in tracks:
        ends = [abs(float(track.boxes[-1, 0]) - path(length - 1)[0]) for path in paths]
        starts = [abs(float(track.boxes[0, 0]) - path(0)[0]) for path in paths]
        assert np.argmin(ends) == np.argmin(starts)


def test_of_two_faces_that_begin_together_the_second_may_end_first():
    first, second = straight(20, 30), straight(100, 30)
    faces = Oracle(lambda frame: [(first(frame), 1.0), *([(second(frame), 1.0)] if frame < 30 else [])])
    tracks = FaceTracker(faces)(chunks(film(90, [first, second])))
    assert sorted((track.first, track.end) for track in tracks) == [(0, 26), (0, 90)]


BOXES = st.builds(
    lambda start, length, x, y, dx, dy, size, score: (start, start + length, (x, y, dx, dy, size), score),
    start=st.integers(0, 40),
    length=st.integers(1, 50),
    x=st.floats(-30, WIDTH),
    y=st.floats(-30, HEIGHT),
    dx=st.floats(-4, 4),
    dy=st.floats(-3, 3),
    size=st.floats(4, 60),
    score=st.sampled_from([0.6, 0.89, 0.9, 1.0]),
)
"""Detections along a line for some time: several of them make faces that appear, end, cross, jump and vanish."""


@settings(max_examples=25, deadline=None)
@given(
    boxes=st.lists(BOXES, max_size=6),
    vanished=st.sets(st.integers(0, 49), max_size=25),
    together=st.booleans(),
    cuts=st.sets(st.sampled_from([12, 28, 31])),
    every=st.integers(1, 7),
    max_gap=st.sampled_from([0.0, 0.2, 0.8]),
    size=st.sampled_from([1, 13, 50]),
)
def test_faces_may_do_what_they_like(boxes, vanished, together, cuts, every, max_gap, size):
    def faces(frame):
        here = []
        for start, end, (x, y, dx, dy, side), score in boxes:
            begin = 0 if together else start  # many faces in one frame, which end in any order
            if begin <= frame < end and frame not in vanished:
                x1, y1 = x + dx * (frame - begin), y + dy * (frame - begin)
                here.append(((x1, y1, x1 + side, y1 + side), score))
        return here

    tracker = FaceTracker(Oracle(faces), every=every, max_gap=max_gap, min_seconds=0.0)
    tracks = tracker(chunks(film(50, cuts=sorted(cuts)), size))
    for track in tracks:
        assert len(track) and torch.isfinite(track.boxes).all()
        assert 0 <= track.first and track.end <= 50
        assert not any(track.first < cut < track.end for cut in cuts)
    rows = tracks_to_rows(tracks)
    assert torch.equal(tracks_to_rows(rows_to_tracks(rows)), rows)


def test_short_gaps_are_filled_and_long_ones_end_a_track():
    path = straight(20, 30, 0.5)
    film_ = film(120, [path])
    short = FaceTracker(Oracle(lambda frame: [] if 40 <= frame < 55 else [(path(frame), 1.0)]), max_gap=0.8)(
        chunks(film_)
    )
    assert [(track.first, track.end) for track in short] == [(0, 120)]
    assert deviation(short[0], path) < 1.5
    long = FaceTracker(Oracle(lambda frame: [] if 40 <= frame < 75 else [(path(frame), 1.0)]), max_gap=0.8)(
        chunks(film_)
    )
    assert [(track.first, track.end) for track in long] == [(0, 36), (75, 120)]


def test_short_tracks_are_dropped():
    path = straight(40, 30)
    oracle = Oracle(lambda frame: [(path(frame), 1.0)] if 30 <= frame <= 40 else [])
    assert FaceTracker(oracle, min_seconds=0.4)(chunks(film(90, [path])))[0].first == 30
    assert FaceTracker(oracle, min_seconds=0.5)(chunks(film(90, [path]))) == []


def test_doubtful_detections_continue_a_track_but_start_none():
    path, other = straight(20, 30), straight(110, 30)

    def faces(frame):
        return [(path(frame), 0.99 if frame < 20 else 0.7), (other(frame), 0.7)]

    (track,) = FaceTracker(Oracle(faces))(chunks(film(80, [path, other])))
    assert (track.first, track.end) == (0, 80) and deviation(track, path) < 1
    assert 0.7 < track.score < 0.99


def test_two_boxes_on_one_face_make_one_track():
    path = straight(40, 30)

    def faces(frame):
        x1, y1, x2, y2 = path(frame)
        return [((x1, y1, x2, y2), 1.0), ((x1 + 3, y1 - 4, x2 + 5, y2), 0.98)]

    assert len(FaceTracker(Oracle(faces))(chunks(film(60, [path])))) == 1


def test_a_head_that_starts_suddenly_is_not_lost():
    def path(frame):
        x = 20 + max(0, frame - 30) * 3.5
        return x, 30, x + 24, 54

    tracks = FaceTracker(Oracle(lambda frame: [(path(frame), 1.0)]))(chunks(film(60, [path])))
    assert [(track.first, track.end) for track in tracks] == [(0, 60)]


def test_boxes_follow_the_head_and_not_the_detector():
    """A head that nods at 3 Hz, seen by a detector that errs by a tenth of its size."""
    path = lambda frame: (60 + 3 * np.sin(frame / 25 * 6), 30 + 5 * np.sin(frame / 25 * 2 * np.pi * 3), 0, 0)  # noqa: E731
    boxes = np.array([path(frame)[:2] for frame in range(150)]).round()  # where the pixels really are
    draw = np.random.default_rng(0)
    errors = draw.normal(0, 2, (150, 4))

    def faces(frame):
        x, y = boxes[frame]
        return [(tuple(np.array([x, y, x + 24, y + 24]) + errors[frame]), 1.0)]

    (track,) = FaceTracker(Oracle(faces))(chunks(film(150, [path])))
    centre = (track.boxes[:, :2] + track.boxes[:, 2:]).numpy() / 2 - 12
    jitter = np.diff(centre - boxes, axis=0)
    assert np.sqrt((jitter**2).mean()) < 0.25  # the nod alone moves 1.3 pixels a frame
    assert np.sqrt(((centre - boxes) ** 2).mean()) < 1
    linear = np.stack(
        [np.interp(range(150), range(0, 150, 5), (boxes + errors[:, :2])[::5, axis]) for axis in (0, 1)], 1
    )
    assert np.sqrt((np.diff(linear - boxes, axis=0) ** 2).mean()) > 0.9  # what interpolation would leave


def test_chunks_do_not_matter():
    paths = [straight(10, 10, 1.0), straight(100, 50, -0.7)]
    draw = np.random.default_rng(3).normal(0, 1, (400, 4))

    def faces(frame):
        return [(tuple(np.array(path(frame)) + draw[frame]), 0.95) for path in paths if frame % 3]

    film_ = film(120, paths, [47])
    results = [tracks_to_rows(FaceTracker(Oracle(faces))(chunks(film_, size))) for size in (1, 7, 120)]
    assert len(results[0]) > 100
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_boxes_are_in_source_pixels_on_the_grid_of_the_frames():
    path = straight(40, 30)
    film_ = film(40, [path], first=300)
    oracle = Oracle(lambda frame: [(path(frame), 1.0)])
    (track,) = FaceTracker(oracle)(chunks(film_, first=300, scale=0.25))
    assert (track.first, track.end) == (300, 340)
    assert torch.allclose(track.boxes[7], torch.tensor(path(0)) * 4, atol=0.5)


def test_detection_runs_on_a_small_picture():
    sizes = []

    def detector(images):
        sizes.append(tuple(images.shape[2:]))
        return [Faces(torch.tensor([[10.0, 10, 20, 20]]), torch.ones(1)) for _ in images]

    frames = chunks(torch.zeros(30, 3, 192, 321, dtype=torch.uint8), scale=2.0)
    (track,) = FaceTracker(detector, max_height=96)(frames)
    assert set(sizes) == {(96, 160)}
    assert torch.allclose(track.boxes, torch.tensor([10.0, 10, 20, 20]))


def test_nothing_in_nothing_out():
    oracle = Oracle(lambda frame: [])
    assert FaceTracker(oracle)([]) == []
    assert FaceTracker(oracle)(chunks(film(1))) == []
    assert FaceTracker(oracle, min_seconds=0.0)(chunks(film(1))) == []


def test_frames_with_holes_are_refused():
    frames = chunks(film(60), 20)
    with pytest.raises(ValueError, match="expected frame 20"):
        FaceTracker(Oracle(lambda frame: []))([frames[0], frames[2]])
    with pytest.raises(ValueError, match="1 or more"):
        FaceTracker(Oracle(lambda frame: []), every=0)


@pytest.mark.parametrize(
    ("name", "faces"), [("grid_lrwp9a.mpg", 1), ("portrait_d12.mp4", 1), ("two_faces_obama.mp4", 2)]
)
def test_faces_of_real_clips_are_tracked_throughout(name, faces):
    if not (CLIPS / name).is_file():
        pytest.skip(f"no {name} under ../shared/data/clips")
    pytest.importorskip("av", reason="decoding needs merc[media]")
    pytest.importorskip("facenet_pytorch", reason="MTCNN needs facenet-pytorch")
    from merc.conversation import Clip
    from merc.media.decode import read_frames
    from merc.media.faces import MTCNNDetector

    frames = list(read_frames(Clip(str(CLIPS / name)), max_height=240))
    count = sum(len(chunk.images) for chunk in frames)
    tracks = FaceTracker(MTCNNDetector(min_face=20))(frames)
    assert [(track.first, track.end) for track in tracks] == [(0, count)] * faces
    # A face stays in view and does not jump: half its width a frame is more than any of them moves.
    for track in tracks:
        width = (track.boxes[:, 2] - track.boxes[:, 0]).mean()
        assert (track.boxes.diff(dim=0).abs().max() / width) < 0.5
