"""TelME's losses against slow, obvious versions of their equations."""

import math

import pytest
import torch
from torch.nn import functional as F

from merc.losses import DISTLoss, FeatureSimilarityLoss


def softmax(row):
    powers = [math.exp(x) for x in row]
    return [p / sum(powers) for p in powers]


def pearson(a, b):
    x, y = ([v - sum(values) / len(values) for v in values] for values in (a, b))
    return sum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))


def slow_dist(student, teacher, tau):
    ys, yt = ([softmax([v / tau for v in row]) for row in logits.tolist()] for logits in (student, teacher))
    inter = [1 - pearson(a, b) for a, b in zip(ys, yt, strict=True)]
    columns = zip(zip(*ys, strict=True), zip(*yt, strict=True), strict=True)
    intra = [1 - pearson(a, b) for a, b in columns]
    return tau**2 * sum(inter) / len(inter), tau**2 * sum(intra) / len(intra)


def slow_feature(student, teacher, tau):
    s, t = ([[v / math.hypot(*row) for v in row] for row in hidden.tolist()] for hidden in (student, teacher))
    total = 0.0
    for row in t:
        p, q = (softmax([sum(a * b for a, b in zip(row, o, strict=True)) / tau for o in others]) for others in (t, s))
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(t)


def rows(n=9, width=5, seed=0):
    torch.manual_seed(seed)
    return torch.randn(n, width, dtype=torch.double), torch.randn(n, width, dtype=torch.double)


@pytest.mark.parametrize(("alpha", "tau"), [(1.0, 4.0), (0.1, 2.0)])
def test_response(alpha, tau):
    student, teacher = rows()
    label = torch.arange(9) % 5
    label[3] = -100
    present = torch.arange(9) % 4 != 1
    terms = DISTLoss(alpha, tau)(student, label, teacher.where(present[:, None], math.nan), present)
    inter, intra = slow_dist(student[present], teacher[present], tau)
    assert terms["inter"].item() == pytest.approx(alpha * inter)
    assert terms["intra"].item() == pytest.approx(alpha * intra)
    torch.testing.assert_close(terms["ce"], F.cross_entropy(student, label))


@pytest.mark.parametrize("tau", [1.0, 0.2])
def test_feature(tau):
    student, teacher = rows()
    present = torch.arange(9) % 4 != 1
    found = FeatureSimilarityLoss(0.5, tau)(student, teacher.where(present[:, None], math.nan), present)["feature"]
    assert found.item() == pytest.approx(0.5 * slow_feature(student[present], teacher[present], tau))


def test_a_student_that_is_its_teacher_has_nothing_to_learn():
    student, _ = rows()
    terms = DISTLoss()(student, torch.full((9,), -100), student)
    assert all(value.item() == pytest.approx(0, abs=1e-9) for value in terms.values())
    assert FeatureSimilarityLoss()(student, student)["feature"].item() == pytest.approx(0, abs=1e-12)


def test_ranking_counts_and_scale_of_probabilities_does_not():
    teacher = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], dtype=torch.double)
    weak = 1 / 3 + 0.1 * (teacher - 1 / 3)
    terms = DISTLoss(temperature=1.0)(weak.log(), torch.tensor([-100, -100]), teacher.log())
    assert terms["inter"].item() == pytest.approx(0, abs=1e-9) and terms["intra"].item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("n", [0, 1, 4])
@pytest.mark.parametrize("constant", [False, True])
def test_degenerate_batches_are_finite(n, constant):
    student = (torch.zeros(n, 3) if constant else torch.randn(n, 3)).requires_grad_()
    label, teacher = torch.full((n,), -100), torch.randn(n, 3)
    terms = {**DISTLoss()(student, label, teacher), **FeatureSimilarityLoss()(student, teacher)}
    sum(terms.values()).backward()
    assert all(value.isfinite() for value in terms.values()) and student.grad.isfinite().all()
    nobody = torch.zeros(n, dtype=torch.bool)
    terms = {**DISTLoss()(student, label, teacher, nobody), **FeatureSimilarityLoss()(student, teacher, nobody)}
    assert all(value == 0 and value.grad_fn is not None for value in terms.values())


def test_gradients_are_those_of_the_value_and_reach_no_teacher():
    student, teacher = (value.requires_grad_() for value in rows(5, 4))
    label = torch.arange(5) % 4

    def loss(values):
        return sum([*DISTLoss()(values, label, teacher).values(), *FeatureSimilarityLoss()(values, teacher).values()])

    assert torch.autograd.gradcheck(loss, student)
    loss(student).backward()
    assert teacher.grad is None


def test_without_weight_no_teacher_is_needed():
    student, label = torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
    assert DISTLoss(alpha=0)(student, label).keys() == {"ce"} and not DISTLoss(alpha=0).needs_teacher
    assert FeatureSimilarityLoss(beta=0)(student) == {} and not FeatureSimilarityLoss(beta=0).needs_teacher


def test_what_does_not_fit_is_refused():
    student, label = torch.randn(4, 3), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"expected logits of the teacher of shape .4, 3., got none"):
        DISTLoss()(student, label)
    with pytest.raises(ValueError, match=r"expected hidden states of the teacher of shape .4, 3., got shape .4, 5."):
        FeatureSimilarityLoss()(student, torch.randn(4, 5))
    with pytest.raises(ValueError, match="temperature is 0"):
        DISTLoss(temperature=0)
    with pytest.raises(ValueError, match="beta is -1"):
        FeatureSimilarityLoss(beta=-1)
