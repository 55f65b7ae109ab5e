import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merc.media.tracks import FACE_COLUMNS, FaceTrack, rows_to_tracks, track_of, tracks_to_rows


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 6), st.floats(0, 1, width=32)), max_size=5))
def test_rows_give_the_tracks_back(spans):
    tracks = [FaceTrack(first, torch.rand(length, 4) * 100, score) for first, length, score in spans]
    rows = tracks_to_rows(tracks)
    assert rows.dtype == torch.float32 and rows.shape == (sum(len(track) for track in tracks), 7)
    for old, new in zip(tracks, rows_to_tracks(rows), strict=True):
        assert (old.first, old.score) == (new.first, new.score)
        assert torch.equal(old.boxes, new.boxes)
    for number, old in enumerate(tracks):
        alone = track_of(rows, number)
        assert (old.first, old.score) == (alone.first, alone.score) and torch.equal(old.boxes, alone.boxes)
    assert track_of(rows, len(tracks)) is None and track_of(rows, -1) is None


def test_the_columns_are_those_that_are_documented():
    track = FaceTrack(7, torch.tensor([[1.0, 2, 3, 4]]), 0.5)
    assert FACE_COLUMNS == ("track", "frame", "x1", "y1", "x2", "y2", "score")
    assert tracks_to_rows([track, track]).tolist() == [[0, 7, 1, 2, 3, 4, 0.5], [1, 7, 1, 2, 3, 4, 0.5]]


def test_tracks_keep_their_boxes_when_the_rows_change():
    rows = tracks_to_rows([FaceTrack(0, torch.ones(2, 4), 1.0)])
    tracks = [*rows_to_tracks(rows), track_of(rows, 0)]
    rows.zero_()
    assert all(track.boxes.eq(1).all() for track in tracks)


@pytest.mark.parametrize(
    "rows",
    [
        torch.zeros(3, 6),
        torch.tensor([[0.0, 1, 0, 0, 1, 1, 1], [0, 3, 0, 0, 1, 1, 1]]),
        torch.tensor([[1.0, 1, 0, 0, 1, 1, 1]]),
    ],
)
def test_rows_that_are_no_tracks_are_refused(rows):
    with pytest.raises(ValueError, match="Rows of faces"):
        rows_to_tracks(rows)


def test_a_track_with_holes_is_refused_alone_too():
    rows = torch.tensor([[0.0, 1, 0, 0, 1, 1, 1], [0, 3, 0, 0, 1, 1, 1]])
    with pytest.raises(ValueError, match="without gaps: track 0 is not"):
        track_of(rows, 0)
    with pytest.raises(ValueError, match=r"shape \(n, 7\), got \(2, 6\)"):
        track_of(rows[:, 1:], 0)
