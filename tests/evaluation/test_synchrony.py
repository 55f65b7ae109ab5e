"""Shares of sounds and faces that are told apart, against loops over every pair."""

import math
import random

import pytest
import torch

from merc.evaluation.synchrony import (
    SynchronyTrials,
    bootstrap_people,
    compare_all,
    motion_scores,
    synchrony_scores,
)
from merc.speaker import LikelihoodScorer
from support.read_off import ReadOff, heard, like, mouths, signal

PEOPLE = ["a", "b", "a", "c", "b", "d"]


def trials(seed, own=1.0, nobody=0.0):
    scores = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed))
    return SynchronyTrials(PEOPLE, scores + own * torch.eye(6), scores.mean(1), nobody)


def share(values):
    values = list(values)
    return sum(values) / len(values)


def slow_accuracy(found, people="abcd"):
    """Own face against every face of somebody else; ``people`` may have drawn somebody twice."""
    return share(
        bool(found.scores[i, i] > found.scores[i, j])
        for who in people
        for other in people
        for i, name in enumerate(PEOPLE)
        for j, beside in enumerate(PEOPLE)
        if name == who and beside == other and who != other
    )


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_loops_over_pairs(seed):
    found = trials(seed, nobody=0.3)
    scores = synchrony_scores(found)
    foreign = [(i, j) for i in range(6) for j in range(6) if PEOPLE[i] != PEOPLE[j]]
    assert (scores.trials, scores.people) == (6, 4)
    assert scores.pair_accuracy == pytest.approx(share(bool(found.wins[i, j]) for i, j in foreign))
    assert scores.pair_accuracy == pytest.approx(
        share(bool(found.scores[i, i] > found.scores[i, j]) for i, j in foreign)
    )
    assert scores.still_accuracy == pytest.approx(share(bool(found.scores[i, i] > found.still[i]) for i in range(6)))
    assert scores.kept == pytest.approx(share(bool(found.scores[i, i] > 0.3) for i in range(6)))
    assert scores.refused == pytest.approx(share(bool(found.scores[i, j] <= 0.3) for i, j in foreign))


def test_faces_of_the_same_person_are_no_pairs():
    scores = torch.tensor([[1.0, 9.0, 0.0], [9.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = synchrony_scores(SynchronyTrials(["a", "a", "b"], scores, torch.zeros(3)))
    assert found.pair_accuracy == 1 and found.kept == 1 and found.refused == 0


def test_the_bootstrap_is_one_over_people():
    first, second = trials(1, own=2.0), trials(2, own=0.5)
    difference, low, high, against = bootstrap_people(first, second, draws=2000)
    assert difference == pytest.approx(slow_accuracy(first) - slow_accuracy(second))
    names, drawn, found = sorted(set(PEOPLE)), random.Random(0), []
    while len(found) < 400:
        people = drawn.choices(names, k=4)
        if len(set(people)) > 1:
            found.append(slow_accuracy(first, people) - slow_accuracy(second, people))
    found.sort()
    assert low == pytest.approx(found[10], abs=0.08) and high == pytest.approx(found[389], abs=0.08)
    assert low < difference < high
    assert against == pytest.approx(share(value <= 0 for value in found), abs=0.06)


def test_a_method_that_is_always_better_is_never_worse_however_few_the_people():
    # Half of the resamples of two people draw one of them alone, and hold no pair.
    right, wrong = torch.eye(2), -torch.eye(2)
    pair = [SynchronyTrials(["a", "b"], scores, torch.zeros(2)) for scores in (right, wrong)]
    assert bootstrap_people(*pair) == (1.0, 1.0, 1.0, 0.0)
    assert bootstrap_people(pair[0], pair[0])[::3] == (0.0, 1.0)


def test_the_seed_decides_the_resamples():
    pair = trials(1), trials(2)
    assert bootstrap_people(*pair, draws=50) == bootstrap_people(*pair, draws=50)
    assert bootstrap_people(*pair, draws=50) != bootstrap_people(*pair, draws=50, seed=1)


def test_a_bootstrap_needs_the_same_trials_of_two_people():
    other = SynchronyTrials([*PEOPLE[1:], "a"], torch.zeros(6, 6), torch.zeros(6))
    with pytest.raises(ValueError, match="Both methods need the same trials of two people or more"):
        bootstrap_people(trials(1), other)
    alone = SynchronyTrials(["a", "a"], torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(ValueError, match="2 trials of 1 people"):
        bootstrap_people(alone, alone)


def test_all_trials_are_compared_as_the_scorer_does():
    scorer, net, calibration = LikelihoodScorer(visible=0.8), ReadOff(), torch.tensor([0.5, 0.1])
    voices = [signal(seed, 60) for seed in range(3)]
    encoded = [scorer.trial(net, mouths(like(v, 0.6, 9)), heard(v), 60) for v in voices]
    found = compare_all(scorer, encoded, ["a", "b", "c"], calibration)
    scores, still = scorer.pairs(encoded, calibration)
    assert torch.equal(found.scores, scores) and torch.equal(found.still, still)
    assert found.nobody == pytest.approx(math.log(0.2 / 0.8)) and found.people == ["a", "b", "c"]
    assert synchrony_scores(found).pair_accuracy == 1


def slow_motion(crops, sound, reach):
    frames = len(crops)
    moves = [float((crops[t].float() - crops[t - 1].float()).abs().mean()) for t in range(1, frames)]
    moves = [moves[0], *moves]
    loud = [math.sqrt(sum(math.exp(v) for v in sound[4 * t : 4 * t + 4].flatten().tolist()) / 4) for t in range(frames)]
    best = -math.inf
    for shift in range(-reach, reach + 1):
        pairs = [(moves[t + shift], loud[t]) for t in range(frames) if 0 <= t + shift < frames]
        best = max(best, float(torch.corrcoef(torch.tensor(pairs).T)[0, 1]))
    return best


def test_motion_is_the_best_correlation_with_loudness():
    drawn = torch.Generator().manual_seed(1)
    crops = [torch.randint(0, 256, (12, 4, 4), generator=drawn, dtype=torch.uint8) for _ in range(3)]
    sounds = [torch.randn(48, 5, generator=drawn) for _ in range(3)]
    found = motion_scores(crops, sounds, reach=2)
    for i, sound in enumerate(sounds):
        for j, mouth in enumerate(crops):
            assert found[i, j].item() == pytest.approx(slow_motion(mouth, sound, 2), abs=1e-4)


def test_what_keeps_still_has_no_motion_to_correlate():
    found = motion_scores([torch.zeros(10, 4, 4)], [torch.randn(40, 5)])
    assert found.tolist() == [[0.0]]
