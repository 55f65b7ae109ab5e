"""Scores window by window: what is visible counts, and nothing else does; and every sound against every face."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merc.speaker import LipSyncNet, MouthTrack, SyncScorer, speaking_threshold
from support.tiny_lips import talk


@pytest.fixture
def net():
    return LipSyncNet(size=16, width=4, hidden=16).eval()


def track(first, frames):
    return MouthTrack(first, torch.randint(0, 256, (frames, 16, 16), dtype=torch.uint8))


@given(st.integers(1, 200), st.integers(2, 40), st.integers(1, 40))
def test_windows_cover_the_clip_and_stay_inside(length, window, hop):
    spans = SyncScorer(window=window, hop=min(hop, window)).windows(length)
    assert spans[0][0] == 0 and spans[-1][1] == length
    assert {b - a for a, b in spans} == {min(window, length)}
    assert all(a < c <= b for (a, b), (c, _) in pairwise(spans))


def test_score_is_the_distance_of_the_best_lag_and_the_activity(net):
    scorer = SyncScorer(window=16, hop=8, max_lag=2, activity=0.5)
    face, sound = track(0, 40), torch.randn(160, 80)
    spans = scorer.windows(40)
    scores, visible = scorer.score(net, [face], sound, spans)
    assert visible.all()
    net.requires_grad_(False)
    padded = torch.cat([sound[:1].expand(8, -1), sound, sound[-1:].expand(8, -1)])
    by_lag = []
    for lag in range(-2, 3):
        row = []
        for start, stop in spans:
            video, activity = net.embed_video(face.crops[None, start:stop])
            audio = net.embed_audio(padded[None, 4 * (start + lag) + 8 : 4 * (stop + lag) + 8])
            row.append((-(video - audio).norm(), 0.5 * torch.sigmoid(activity[0])))
        by_lag.append(row)
    best = max(by_lag, key=lambda row: sum(float(sync) for sync, _ in row))
    torch.testing.assert_close(scores[0], torch.stack([a + b for a, b in best]), atol=1e-4, rtol=0)


def test_a_track_is_scored_where_it_is_visible(net):
    scorer = SyncScorer(window=16, hop=16, shortest=8)
    sound = torch.randn(192, 80)
    late = track(22, 20)
    _, visible = scorer.score(net, [late], sound, scorer.windows(48))
    assert visible.tolist() == [[False, True, True]]  # 10 pictures of the second window, 10 of the third
    part, _ = scorer.score(net, [MouthTrack(22, late.crops[:10])], sound, [(16, 32)])
    video, activity = net.embed_video(late.crops[None, :10])
    assert part[0, 0] <= 0 and activity.shape == (1,) and video.shape == (1, 80)


def test_a_track_is_scored_alike_alone_and_beside_others(net):
    scorer = SyncScorer(window=16, hop=8)
    faces, sound = [track(0, 40), track(3, 30), track(20, 20)], torch.randn(160, 80)
    together, visible = scorer.score(net, faces, sound, scorer.windows(40))
    for index, face in enumerate(faces):
        alone, seen = scorer.score(net, [face], sound, scorer.windows(40))
        assert torch.equal(seen[0], visible[index])
        torch.testing.assert_close(alone[0], together[index], atol=1e-5, rtol=0)


def test_a_clip_shorter_than_a_window_is_one_window(net):
    choice = SyncScorer().choose(net, [track(0, 6), track(0, 6)], torch.randn(24, 80))
    assert choice.track in (0, 1) and choice.coverage == 1


def test_a_clip_without_faces_has_nobody(net):
    choice = SyncScorer().choose(net, [], torch.randn(240, 80), torch.tensor([-1.0]))
    assert choice.track == -1 and choice.scores == ()


def test_pair_scores_are_those_of_the_scorer():
    net = LipSyncNet(size=16, width=4, hidden=16).eval().requires_grad_(False)
    scorer = SyncScorer(window=16, hop=8, max_lag=1, activity=0.3)
    clips = [talk(seed, frames=40) for seed in range(3)]
    trials = [scorer.trial(net, MouthTrack(0, crops), sound, 40) for crops, sound in clips]
    scores, still = scorer.pairs(trials, scorer.uncalibrated())
    spans = scorer.windows(40)
    for i, (own, sound) in enumerate(clips):
        for j, (crops, _) in enumerate(clips):
            one, _ = scorer.score(net, [MouthTrack(0, crops)], sound, spans)
            assert scores[i, j].item() == pytest.approx(one.mean().item(), abs=1e-5)
        frozen = own[20].expand(40, -1, -1)
        one, _ = scorer.score(net, [MouthTrack(0, frozen)], sound, spans)
        assert still[i].item() == pytest.approx(one.mean().item(), abs=1e-5)


def test_a_track_that_is_too_short_is_no_trial():
    net, (crops, sound) = LipSyncNet(size=16, width=4, hidden=16).eval(), talk(0, frames=40)
    assert SyncScorer().trial(net, MouthTrack(0, crops), sound, 41) is None
    assert SyncScorer().trial(net, MouthTrack(0, crops), sound[:100], 40) is None


@pytest.mark.parametrize("visible", [0.3, 0.5, 0.95])
def test_the_threshold_is_the_best_on_many_draws(visible):
    own, others = torch.randn(200_000) * 0.15 - 0.7, torch.randn(200_000) * 0.1 - 1.3

    def worth(threshold):
        right = (own > threshold).double().mean(), (others <= threshold).double().mean()
        return float(visible * right[0] + (1 - visible) * right[1])

    found = speaking_threshold(own, others, visible)
    assert worth(found) == pytest.approx(max(worth(t / 100) for t in range(-160, -40)), abs=2e-3)


def test_a_few_listeners_taken_for_speakers_do_not_move_the_threshold():
    own, others = torch.randn(40) * 0.15 - 0.7, torch.randn(2000) * 0.1 - 1.3
    clean, mixed = (speaking_threshold(torch.cat([own, others[:listeners]]), others) for listeners in (0, 6))
    assert mixed == pytest.approx(clean, abs=0.05)


def test_a_rarer_nobody_asks_for_a_lower_score():
    own, others = torch.tensor([-0.6, -0.7, -0.9]), torch.tensor([-1.2, -1.4, -1.3])
    thresholds = [speaking_threshold(own, others, visible) for visible in (0.5, 0.9, 0.99)]
    assert thresholds == sorted(thresholds, reverse=True)
    assert others.min() <= thresholds[-1] and thresholds[0] <= own.max()


def test_scores_that_are_all_the_same_give_a_threshold_too():
    assert -1.3 <= speaking_threshold(torch.full((3,), -0.5), torch.full((3,), -1.3)) <= -0.5
