"""Who speaks when: the smoothing against every path of states, and scenes whose turns are known."""

import math
from itertools import combinations, pairwise, product

import pytest
import torch

from merc.speaker import (
    TURN_COLUMNS,
    LikelihoodScorer,
    LipSyncNet,
    MouthTrack,
    SpeakerTimeline,
    SpeakingSpan,
    rows_to_spans,
    spans_to_rows,
)
from support.read_off import ReadOff, heard, mouths, signal

CALIBRATION = torch.tensor([0.6, 0.15])
STEP = 0.2  # seconds


def every_path(timeline, scores, possible):
    """The probability that each face speaks at each step, summed over all paths of states."""
    faces, steps = scores.shape
    together = [any(map(min, possible[a], possible[b])) for a, b in combinations(range(faces), 2)]
    pairs = [pair for pair, met in zip(combinations(range(faces), 2), together, strict=True) if met]
    states = [(), *((face,) for face in range(faces)), *pairs]
    free = [[all(possible[face][step] for face in state) for state in states] for step in range(steps)]
    priors = []
    for row in free:
        share = {1: timeline.visible, 2: timeline.visible * timeline.both}
        count = {
            size: sum(here and len(state) == size for here, state in zip(row, states, strict=True)) for size in share
        }
        prior = [
            here * (share[len(state)] / count[len(state)] if here and state else 1 - timeline.visible)
            for here, state in zip(row, states, strict=True)
        ]
        priors.append([p / sum(prior) for p in prior])
    change = timeline.hop / 25 / timeline.stay
    total, speaks = 0.0, torch.zeros(faces, steps, dtype=torch.double)
    for path in product(range(len(states)), repeat=steps):
        if not all(free[step][state] for step, state in enumerate(path)):
            continue
        weight = priors[0][path[0]]
        for prior, (before, after) in zip(priors[1:], pairwise(path), strict=True):
            weight *= change * prior[after] + (1 - change) * (before == after)
        weight *= math.exp(sum(float(scores[face, step]) for step, state in enumerate(path) for face in states[state]))
        total += weight
        for step, state in enumerate(path):
            for face in states[state]:
                speaks[face, step] += weight
    return speaks / total


@pytest.mark.parametrize(("faces", "steps"), [(1, 1), (1, 5), (2, 4), (3, 3)])
def test_smoothing_is_the_sum_over_every_path(faces, steps):
    timeline = SpeakerTimeline(stay=0.6, both=0.3)
    scores = torch.randn(faces, steps, generator=torch.Generator().manual_seed(faces)) * 2
    possible = torch.rand(faces, steps, generator=torch.Generator().manual_seed(steps)) < 0.7
    found = timeline._smooth(scores, possible)
    torch.testing.assert_close(found.double(), every_path(timeline, scores, possible.tolist()), atol=1e-5, rtol=0)
    assert (found[~possible] == 0).all()


def scene(*turns, frames=200):
    """Lips of each face, which always move, and the sound of those that speak in its turns, each ``(start, stop)``."""
    lips = [signal(10 + face, frames) for face in range(len(turns))]
    sound = signal(99, frames) * 0.05
    for traces, spans in zip(lips, turns, strict=True):
        for start, stop in spans:
            sound[:, start:stop] += traces[:, start:stop]
    return lips, sound


def turns_of(tracks, sound, **options):
    return SpeakerTimeline(**options)(ReadOff(), tracks, heard(sound), CALIBRATION)


def assert_turns(found, expected, within=0.5):
    assert [span.track for span in found] == [track for track, _, _ in expected]
    for span, (_, start, stop) in zip(found, expected, strict=True):
        assert span.start == pytest.approx(start, abs=within) and span.end == pytest.approx(stop, abs=within)
        assert 0.5 < span.probability <= 1


def test_two_in_turn():
    lips, sound = scene([(0, 100)], [(100, 200)])
    found = turns_of([mouths(traces) for traces in lips], sound)
    assert_turns(found, [(0, 0.0, 4.0), (1, 4.0, 8.0)])
    assert all(span.overlap <= 0.6 for span in found)


def test_turns_come_back_in_order_of_time():
    lips, sound = scene([(75, 150)], [(0, 75), (150, 225)], frames=225)
    found = turns_of([mouths(traces) for traces in lips], sound)
    assert_turns(found, [(1, 0.0, 3.0), (0, 3.0, 6.0), (1, 6.0, 9.0)])


def test_both_at_once_are_both_found_and_their_overlap_is_said():
    lips, sound = scene([(0, 200)], [(100, 200)])
    found = turns_of([mouths(traces) for traces in lips], sound)
    assert_turns(found, [(0, 0.0, 8.0), (1, 4.0, 8.0)], within=0.8)
    assert [span.overlap for span in found] == pytest.approx([found[1].end - found[1].start] * 2)


def test_a_face_speaks_only_while_it_is_in_the_picture():
    lips, sound = scene([(0, 200)])
    tracks = [mouths(lips[0][:, :60]), mouths(lips[0][:, 120:], 120)]
    found = turns_of(tracks, sound)
    assert_turns(found, [(0, 0.0, 2.4), (1, 4.8, 8.0)], within=STEP)
    probabilities = SpeakerTimeline().probabilities(ReadOff(), tracks, heard(sound), CALIBRATION)
    assert (probabilities[:, 13:23] == 0).all()


def test_where_it_is_silent_nobody_speaks():
    lips, sound = scene([(0, 200)])
    rows = heard(sound)
    rows[400:600] = rows.min() - 20
    tracks = [mouths(lips[0])]
    assert_turns(SpeakerTimeline()(ReadOff(), tracks, rows, CALIBRATION), [(0, 0.0, 4.0), (0, 6.0, 8.0)])
    for silence, never in ((6.0, True), (100.0, False)):
        found = SpeakerTimeline(silence=silence).probabilities(ReadOff(), tracks, rows, CALIBRATION)
        assert bool((found[0, 20:30] == 0).all()) is never


def test_somebody_who_is_not_in_the_picture_is_nobody():
    lips, _ = scene([], [])
    assert turns_of([mouths(traces) for traces in lips], signal(5, 200)) == []


def test_short_pauses_are_closed_and_short_spans_dropped():
    timeline, low, high = SpeakerTimeline(), 0.1, 0.9
    rows = [
        [high] * 5 + [low] + [high] * 4,  # 0.2 s are no pause
        [high] * 4 + [low] * 2 + [high] * 4,  # 0.4 s are one
        [low] * 4 + [high] + [low] * 5,  # 0.2 s are no speech
        [low] + [high] * 4 + [low] * 5,  # the start is no pause
    ]
    found = timeline._spans(torch.tensor(rows), 50)
    spans = [(span.track, round(span.start, 2), round(span.end, 2)) for span in found]
    assert spans == [(0, 0.0, 2.0), (1, 0.0, 0.8), (3, 0.2, 1.0), (1, 1.2, 2.0)]
    first = found[0]
    assert first.probability == pytest.approx((9 * high + low) / 10) and first.overlap == pytest.approx(1.8)
    finer = SpeakerTimeline(shortest=0.1)._spans(torch.tensor(rows[2:3]), 50)
    assert [(span.start, span.end) for span in finer] == [(pytest.approx(0.8), pytest.approx(1.0))]


def test_a_late_sound_moves_no_turn():
    lips, sound = scene([(0, 100)], [(100, 200)])
    late = sound.roll(5, 1)
    assert_turns(turns_of([mouths(traces) for traces in lips], late), [(0, 0.0, 4.0), (1, 4.0, 8.0)], within=0.6)


def test_spans_end_with_the_sound():
    lips, sound = scene([(0, 200)])
    [span] = turns_of([mouths(lips[0])], sound[:, :103])
    assert span.end == pytest.approx(103 / 25)
    assert turns_of([mouths(lips[0], 150)], sound[:, :103]) == []  # a face that appears after the sound


@pytest.mark.parametrize("frames", [0, 1, 3, 12])
def test_clips_of_hardly_any_length_and_without_faces(frames):
    timeline, net = SpeakerTimeline(), LipSyncNet(size=16, width=4, hidden=8).eval()
    sound = torch.zeros(4 * frames, 80)
    crops = torch.zeros(max(frames, 1), 16, 16, dtype=torch.uint8)
    assert timeline(net, [], sound) == []
    found = timeline.probabilities(net, [MouthTrack(0, crops)], sound)
    assert found.shape == (1, math.ceil(frames / 5)) and ((found >= 0) & (found <= 1)).all()
    assert isinstance(timeline(net, [MouthTrack(0, crops)], sound), list)


def test_tracks_too_short_to_score_do_not_speak():
    lips, sound = scene([(0, 200)])
    assert turns_of([mouths(lips[0][:, :11])], sound, scorer=LikelihoodScorer(shortest=12)) == []


def test_spans_come_back_from_their_rows():
    spans = [SpeakingSpan(1, 0.5, 2.25, 0.75, 0.5), SpeakingSpan(0, 2.0, 3.0, 1.0)]
    rows = spans_to_rows(spans)
    assert rows.shape == (2, 5) and rows.dtype == torch.float32
    assert dict(zip(TURN_COLUMNS, rows[0].tolist(), strict=True)) == {
        "track": 1.0,
        "start": 0.5,
        "end": 2.25,
        "probability": 0.75,
        "overlap": 0.5,
    }
    assert rows_to_spans(rows) == spans
    assert rows_to_spans(spans_to_rows([])) == []
    for wrong in (torch.zeros(5), torch.zeros(2, 4)):
        with pytest.raises(ValueError, match=r"Rows of turns have the shape \(n, 5\), got"):
            rows_to_spans(wrong)
