"""The losses of LFVD against slow, obvious versions of its equations 10, 11 and 13."""

import math
from itertools import permutations

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from merc.losses import EmotionContrastiveLoss, Gaussian, ModalityContrastiveLoss, VariationalDistillationLoss

NAMES = ("text", "audio", "visual")


def made(n=9, d=4, seed=0, absent=0.3, unlabelled=0.3):
    random = torch.Generator().manual_seed(seed)
    views = {name: torch.randn(n, d, generator=random) for name in NAMES}
    present = {name: torch.rand(n, generator=random) >= absent for name in NAMES}
    label = torch.randint(0, 3, (n,), generator=random)
    label[torch.rand(n, generator=random) < unlabelled] = -100
    return views, present, label


def gaussians(seed=0, n=9, d=4):
    random = torch.Generator().manual_seed(seed)
    return {
        name: Gaussian(torch.randn(n, d, generator=random), torch.rand(n, d, generator=random) + 0.1) for name in NAMES
    }


def similarity(a, b, temperature):
    return (a @ b / (a.norm() * b.norm()) / temperature).item()


def mean(values):
    return sum(values) / len(values) if values else 0.0


def slow_self(views, present, temperature):
    total = 0.0
    for a, b in permutations(views, 2):
        losses = []
        for i in range(len(views[a])):
            others = [j for j in range(len(views[a])) if j != i and present[b][j]]
            if present[a][i] and present[b][i] and others:
                above = math.exp(similarity(views[a][i], views[b][i], temperature))
                below = sum(math.exp(similarity(views[a][i], views[b][j], temperature)) for j in others)
                losses.append(-math.log(above / below))
        total += mean(losses)
    return total


def slow_full(views, present, label, temperature):
    total = 0.0
    for name, x in views.items():
        valid = [i for i in range(len(x)) if present[name][i] and label[i] != -100]
        losses = []
        for i in valid:
            positives = [p for p in valid if p != i and label[p] == label[i]]
            negatives = [k for k in valid if label[k] != label[i]]
            if positives and negatives:
                below = sum(math.exp(similarity(x[i], x[k], temperature)) for k in negatives)
                ratios = [math.exp(similarity(x[i], x[p], temperature)) / below for p in positives]
                losses.append(-mean([math.log(ratio) for ratio in ratios]))
        total += mean(losses)
    return total


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_contrast_across_modalities(seed, temperature):
    views, present, _ = made(seed=seed)
    found = ModalityContrastiveLoss(temperature)(views, present)
    assert found.item() == pytest.approx(slow_self(views, present, temperature), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_contrast_by_emotion(seed, temperature):
    views, present, label = made(n=14, seed=seed)
    found = EmotionContrastiveLoss(temperature)(views, present, label)
    assert found.item() == pytest.approx(slow_full(views, present, label, temperature), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_divergence_is_that_of_the_distributions(seed):
    one, other = gaussians(seed)["text"], gaussians(seed + 10)["text"]
    p, q = (Independent(Normal(*g), 1) for g in (one, other))
    normal = Independent(Normal(torch.zeros(9, 4), torch.ones(9, 4)), 1)
    torch.testing.assert_close(one.divergence(other).sum(-1), kl_divergence(p, q), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(one.divergence_from_normal().sum(-1), kl_divergence(p, normal), atol=1e-4, rtol=1e-4)
    assert one.divergence(one).abs().max() < 1e-6


@pytest.mark.parametrize("dominant", NAMES)
def test_variational_distillation(dominant):
    given, (_, present, _) = gaussians(), made()
    expected = 0.0
    for name in NAMES:
        own, teacher = given[name], given[dominant]
        prior, towards = [], []
        for i in range(9):
            if present[name][i]:
                p = [Normal(m, s) for m, s in zip(own.mean[i], own.scale[i], strict=True)]
                q = [Normal(m, s) for m, s in zip(teacher.mean[i], teacher.scale[i], strict=True)]
                prior.append(sum(kl_divergence(x, Normal(0.0, 1.0)).item() for x in p))
                if present[dominant][i]:
                    towards.append(sum(kl_divergence(x, y).item() for x, y in zip(p, q, strict=True)))
        expected += mean(prior) + (mean(towards) if name != dominant else 0.0)
    assert VariationalDistillationLoss(dominant)(given, present).item() == pytest.approx(expected, rel=1e-4)


def test_the_teacher_is_not_taught():
    given, (_, present, _) = gaussians(), made(absent=0.0)
    alone = {name: Gaussian(*(value.clone().requires_grad_() for value in given[name])) for name in NAMES}
    VariationalDistillationLoss("text")(alone, present).backward()
    mean_only = given["text"].mean / 9  # of KL(q || N(0, I)) alone the gradient is the mean itself
    torch.testing.assert_close(alone["text"].mean.grad, mean_only)
    assert (alone["audio"].mean.grad - given["audio"].mean / 9).abs().max() > 1e-3


LOSSES = {
    "self": lambda views, present, label: ModalityContrastiveLoss()(views, present),
    "full": lambda views, present, label: EmotionContrastiveLoss()(views, present, label),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_what_has_nothing_to_compare_is_zero_and_has_a_gradient(loss):
    for n, absent, unlabelled in ((1, 0.0, 0.0), (6, 1.1, 1.1), (0, 0.0, 0.0)):
        views, present, label = made(n=n, absent=absent, unlabelled=unlabelled)
        views = {name: x.requires_grad_() for name, x in views.items()}
        found = loss(views, present, label)
        found.backward()
        assert found == 0 and all(x.grad.isfinite().all() for x in views.values())


def test_one_emotion_alone_has_no_contrast():
    views, present, label = made()
    assert EmotionContrastiveLoss()(views, present, torch.ones_like(label)) == 0
    assert EmotionContrastiveLoss()(views, present, torch.arange(9)) == 0


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_absent_utterances_change_nothing(loss):
    views, present, label = made()
    other = {name: x.where(present[name][:, None], torch.tensor(50.0)) for name, x in views.items()}
    torch.testing.assert_close(loss(other, present, label), loss(views, present, label))


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_gradients_are_those_of_the_value(loss):
    views, present, label = made(n=6, absent=0.2, unlabelled=0.1)
    views = [x.double().requires_grad_() for x in views.values()]
    assert torch.autograd.gradcheck(lambda *x: loss(dict(zip(NAMES, x, strict=True)), present, label), views)


@pytest.mark.parametrize("loss", [ModalityContrastiveLoss, EmotionContrastiveLoss])
def test_temperature_must_be_positive(loss):
    with pytest.raises(ValueError, match="temperature is 0"):
        loss(0.0)
