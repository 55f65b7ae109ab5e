"""Every sound against every face: the same scores as one by one."""

import pytest
import torch
from tiny_lips import talk

from merc.evaluation.sync import SyncTrial, pair_scores, speaking_threshold
from merc.speaker import LipSyncNet, SyncScorer
from merc.speaker.score import MouthTrack


def test_pair_scores_are_those_of_the_scorer():
    net = LipSyncNet(size=16, width=4, hidden=16).eval().requires_grad_(False)
    scorer = SyncScorer(window=16, hop=8, max_lag=1, activity=0.3)
    clips = [talk(seed, frames=40) for seed in range(3)]
    trials = [SyncTrial.of(net, scorer, MouthTrack(0, crops), sound, 40) for crops, sound in clips]
    scores, still = pair_scores(scorer, trials)
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
    assert SyncTrial.of(net, SyncScorer(), MouthTrack(0, crops), sound, 41) is None
    assert SyncTrial.of(net, SyncScorer(), MouthTrack(0, crops), sound[:100], 40) is None


def test_the_threshold_is_the_best_of_all_and_the_lowest_of_the_best():
    own, others = torch.tensor([-0.9, -0.8, -1.3]), torch.tensor([-1.2, -1.5, -1.4, -0.85])

    def worth(threshold, visible):
        right = sum(float(s > threshold) for s in own) / 3
        return visible * right + (1 - visible) * sum(float(s <= threshold) for s in others) / 4

    for visible in (0.0, 0.3, 0.5, 0.9, 1.0):
        found = speaking_threshold(own, others, visible)
        grid = [t / 1000 for t in range(-1600, 0)]
        assert worth(found, visible) == pytest.approx(max(worth(t, visible) for t in grid))


def test_where_there_is_a_gap_the_threshold_lies_at_its_lower_end():
    assert speaking_threshold(torch.tensor([-0.5, -0.6]), torch.tensor([-1.4, -1.2])) == pytest.approx(-1.2)
