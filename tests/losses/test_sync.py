"""The synchrony loss against a slow, obvious version."""

import math

import pytest
import torch
from torch.nn import functional as F

from merc.losses import SyncLoss

WEIGHTS = {"shifted": 1.0, "same_clip": 0.5, "other_clip": 2.0, "silent": 0.0}


def case(seed=0, sounds=5, mouths=8, dim=12):
    generator = torch.Generator().manual_seed(seed)
    video = F.normalize(torch.randn(mouths, dim, generator=generator), dim=-1).double()
    audio = F.normalize(torch.randn(sounds, dim, generator=generator), dim=-1).double()
    kinds = torch.randint(0, 5, (sounds, mouths), generator=generator)
    kinds[torch.arange(sounds), torch.arange(sounds)] = 0
    return video, audio, kinds


def slow_rank(video, audio, kinds, margin):
    total = weights = 0.0
    for kind, weight in enumerate(WEIGHTS.values(), start=1):
        terms = []
        for i in range(len(audio)):
            for j in range(len(video)):
                if kinds[i, j] == kind:
                    distance = math.dist(audio[i], video[j])
                    terms.append(max(0.0, margin + math.dist(audio[i], video[i]) - distance))
                    if j < len(audio):
                        terms.append(max(0.0, margin + math.dist(audio[j], video[j]) - distance))
        if terms and weight:
            total += weight * sum(terms) / len(terms)
            weights += weight
    return total / weights


def slow_contrast(video, audio, kinds, temperature):
    def one(own, others):
        powers = [math.exp((1 - d**2 / 2) / temperature) for d in [own, *others]]
        return -math.log(powers[0] / sum(powers))

    counts = [None, *WEIGHTS.values()]
    losses = []
    for i in range(len(audio)):
        own = math.dist(audio[i], video[i])
        losses.append(
            one(own, [math.dist(audio[i], video[j]) for j in range(len(video)) if kinds[i, j] and counts[kinds[i, j]]])
        )
        losses.append(
            one(own, [math.dist(audio[j], video[i]) for j in range(len(audio)) if kinds[j, i] and counts[kinds[j, i]]])
        )
    return sum(losses) / len(losses)


@pytest.mark.parametrize("margin", [1.5, 0.2])
def test_terms_equal_the_slow_version(margin):
    video, audio, kinds = case()
    terms = SyncLoss(rank=0.6, align=0.2, contrast=0.5, temperature=0.3, margin=margin, negatives=WEIGHTS)(
        video, audio, kinds
    )
    assert terms["rank"].item() == pytest.approx(0.6 * slow_rank(video, audio, kinds, margin), abs=1e-6)
    own = [math.dist(a, v) for a, v in zip(audio, video, strict=False)]
    assert terms["align"].item() == pytest.approx(0.2 * sum(own) / len(own), abs=1e-6)
    assert terms["contrast"].item() == pytest.approx(0.5 * slow_contrast(video, audio, kinds, 0.3), abs=1e-6)


def test_the_paper_has_two_terms_and_its_weights():
    video, audio, kinds = case()
    terms = SyncLoss()(video, audio, kinds)
    assert sorted(terms) == ["align", "rank"]
    by_hand = SyncLoss(rank=1, align=1, negatives=dict.fromkeys(WEIGHTS, 1.0))(video, audio, kinds)
    assert terms["rank"] == pytest.approx(0.7 * by_hand["rank"].item())
    assert terms["align"] == pytest.approx(0.3 * by_hand["align"].item())


def test_without_negatives_only_alignment_has_a_gradient():
    video, audio, kinds = case()
    video.requires_grad_()
    terms = SyncLoss(contrast=1.0)(video, audio, torch.zeros_like(kinds))
    assert terms["rank"].item() == 0 and terms["contrast"].item() == pytest.approx(0)
    sum(terms.values()).backward()
    assert torch.isfinite(video.grad).all()


def test_perfect_matches_keep_a_finite_gradient():
    video = F.normalize(torch.ones(2, 4), dim=-1).requires_grad_()
    sum(SyncLoss()(video, video.detach(), torch.tensor([[0, 3], [3, 0]])).values()).backward()
    assert torch.isfinite(video.grad).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 2.5}, "margin is 2.5"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"negatives": {"shiftd": 1.0}}, "unknown negatives shiftd: expected shifted, same_clip"),
        ({"negatives": {"shifted": 0.0}}, "weights of all negatives are 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SyncLoss(**options)


def test_shapes_that_do_not_fit_are_refused():
    video, audio, kinds = case()
    with pytest.raises(ValueError, match="A <= V"):
        SyncLoss()(video[:3], audio, kinds)
