"""Every sound against every face: the same scores as one by one."""

import pytest
import torch

from merc.speaker import LipSyncNet, MouthTrack, SyncScorer, speaking_threshold
from support.tiny_lips import talk


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
