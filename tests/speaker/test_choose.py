"""The choice of the active speaker against a slow, obvious version."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merc.speaker import NOBODY, SPEAKER_COLUMNS, SpeakerChoice, choose_speaker


def slow(scores, visible, threshold):
    totals = []
    for row, seen in zip(scores, visible, strict=True):
        values = [s for s, v in zip(row, seen, strict=True) if v]
        if threshold is None:
            totals.append(sum(values) / len(values) if values else -math.inf)
        else:
            totals.append((sum(values) + threshold * (len(row) - len(values))) / len(row))
    best = max(range(len(totals)), key=lambda j: totals[j], default=None)
    if best is None or totals[best] == -math.inf or (threshold is not None and totals[best] <= threshold):
        return NOBODY, totals
    return best, totals


tables = st.integers(0, 4).flatmap(
    lambda k: st.integers(1, 5).flatmap(
        lambda w: st.tuples(
            st.lists(
                st.lists(st.integers(-20, 0).map(lambda x: x / 10), min_size=w, max_size=w), min_size=k, max_size=k
            ),
            st.lists(st.lists(st.booleans(), min_size=w, max_size=w), min_size=k, max_size=k),
            st.one_of(st.none(), st.integers(-20, 0).map(lambda x: x / 10 + 0.05)),
        )
    )
)


@given(tables)
def test_choice_equals_the_slow_version(table):
    scores, visible, threshold = table
    width = len(scores[0]) if scores else 1
    choice = choose_speaker(
        torch.tensor(scores).view(-1, width), torch.tensor(visible, dtype=torch.bool).view(-1, width), threshold
    )
    expected, totals = slow(scores, visible, threshold)
    assert list(choice.scores) == pytest.approx(totals, abs=1e-6)
    if expected == NOBODY:
        assert choice.track == NOBODY and choice.coverage == 0
    else:
        assert choice.scores[choice.track] == pytest.approx(totals[expected], abs=1e-6)
        assert choice.coverage == pytest.approx(sum(visible[choice.track]) / width)
        assert choice.margin >= 0


def test_the_margin_is_over_the_next_track_or_over_nobody():
    scores = torch.tensor([[-0.5, -0.7], [-1.0, -1.0]])
    seen = torch.ones(2, 2, dtype=torch.bool)
    assert choose_speaker(scores, seen, -1.3).margin == pytest.approx(0.4)
    assert choose_speaker(scores, seen, -0.8).margin == pytest.approx(0.2)


def test_a_face_seen_for_a_moment_must_fit_very_well_to_win():
    scores = torch.tensor([[-0.8, -0.8, -0.8, -0.8], [-0.6, 0.0, 0.0, 0.0]])
    seen = torch.tensor([[True, True, True, True], [True, False, False, False]])
    assert choose_speaker(scores, seen, -1.2).track == 0
    assert choose_speaker(scores, seen, None).track == 1


def test_scores_where_a_track_is_not_visible_are_not_read():
    scores = torch.tensor([[-0.5, float("nan")], [-0.9, -0.9]])
    seen = torch.tensor([[True, False], [True, True]])
    assert choose_speaker(scores, seen, -1.0).track == 1 - 1
    assert choose_speaker(scores, seen, -1.0).scores == pytest.approx((-0.75, -0.9))


@given(tables)
def test_a_choice_comes_back_from_its_row(table):
    scores, visible, threshold = table
    width = len(scores[0]) if scores else 1
    choice = choose_speaker(
        torch.tensor(scores).view(-1, width), torch.tensor(visible, dtype=torch.bool).view(-1, width), threshold
    )
    row = choice.to_row()
    assert row.dtype == torch.float32 and row.isfinite().all()
    again = SpeakerChoice.from_row(row)
    assert (again.track, again.scores) == (choice.track, ())
    assert torch.equal(again.to_row(), row)
    for name in ("score", "margin", "coverage"):
        value = getattr(choice, name)
        if math.isfinite(value):
            assert getattr(again, name) == pytest.approx(value)


def test_a_row_holds_what_its_columns_say_and_no_infinity():
    choice = SpeakerChoice(3, -0.5, 0.25, 0.75, (1.0,), 0.5, 0.25)
    assert dict(zip(SPEAKER_COLUMNS, choice.to_row().tolist(), strict=True)) == {
        "track": 3.0,
        "score": -0.5,
        "margin": 0.25,
        "coverage": 0.75,
        "probability": 0.5,
        "activity": 0.25,
    }
    assert SpeakerChoice(0, -0.5, math.inf, 1.0).to_row().tolist() == [0, -0.5, 100, 1, -1, -1]
    assert SpeakerChoice(NOBODY, -math.inf, math.nan, 0.0).to_row().tolist() == [-1, -100, 0, 0, -1, -1]
    for row in (torch.zeros(3), torch.zeros(1, 4)):
        with pytest.raises(ValueError, match=r"track, score, .*, activity, got the shape"):
            SpeakerChoice.from_row(row)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 2\)"):
        choose_speaker(torch.zeros(2, 3), torch.ones(3, 2, dtype=torch.bool))
