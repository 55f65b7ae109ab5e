"""Losses of numbers: against slow obvious versions, with missing targets, in half precision."""

import numpy as np
import pytest
import torch

from merc.losses import ConcordanceLoss, ValueDistillationLoss, ValueHuberLoss, ValueL1Loss, ValueMSELoss

ALL = [ConcordanceLoss(1e-12), ValueMSELoss(), ValueL1Loss(), ValueHuberLoss(0.5)]


def slow(loss, x, y):
    """The loss of one dimension, of numbers that are all known."""
    if isinstance(loss, ConcordanceLoss):
        shared = np.mean((x - x.mean()) * (y - y.mean()))
        return 1 - 2 * shared / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    gaps = np.abs(x - y)
    if isinstance(loss, ValueMSELoss):
        return np.mean(gaps**2)
    if isinstance(loss, ValueL1Loss):
        return np.mean(gaps)
    return np.mean([0.5 * g * g if g <= 0.5 else 0.5 * (g - 0.25) for g in gaps])


def drawn(seed=0):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(2, 30, 3))
    y[random.random((30, 3)) < 0.3] = np.nan
    return x, y


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_the_loss_is_the_mean_over_dimensions_of_the_known_numbers(loss):
    x, y = drawn()
    expected = np.mean([slow(loss, x[~np.isnan(y[:, d]), d], y[~np.isnan(y[:, d]), d]) for d in range(3)])
    assert loss(torch.tensor(x), torch.tensor(y)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_missing_targets_reach_neither_loss_nor_gradient(loss):
    x, y = (torch.tensor(values) for values in drawn())
    x.requires_grad_()
    loss(x, y).backward()
    assert x.grad.isfinite().all()
    assert (x.grad[y.isnan()] == 0).all()
    assert (x.grad[~y.isnan()] != 0).any()
    elsewhere = x.detach().where(~y.isnan(), 1e6)
    assert loss(elsewhere, y).item() == pytest.approx(loss(x, y).item(), rel=1e-12)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_without_targets_the_loss_is_0_and_has_a_gradient(loss):
    x = torch.randn(4, 2, requires_grad=True)
    value = loss(x, torch.full((4, 2), torch.nan))
    value.backward()
    assert value.item() == 0
    assert (x.grad == 0).all()


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_a_dimension_without_targets_does_not_count(loss):
    x, y = (torch.tensor(values) for values in drawn())
    y[:, 2] = torch.nan
    assert loss(x, y).item() == pytest.approx(loss(x[:, :2], y[:, :2]).item(), rel=1e-12)


@pytest.mark.parametrize("loss", [ConcordanceLoss(), ValueMSELoss()], ids=lambda loss: type(loss).__name__)
def test_half_precision_is_widened(loss):
    x, y = torch.randn(20, 2), torch.randn(20, 2)
    assert loss(x.half(), y).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(x, y).item() == pytest.approx(loss(x, y).item())


def test_perfect_concordance_is_0_and_a_constant_prediction_is_1():
    y = torch.randn(50, 1)
    assert ConcordanceLoss()(y, y).item() == pytest.approx(0, abs=1e-5)
    assert ConcordanceLoss()(torch.zeros(50, 1) + y.mean(), y).item() == pytest.approx(1, abs=1e-3)
    assert ConcordanceLoss()(-y, y).item() > 1


def test_numbers_that_are_all_equal_have_a_finite_gradient():
    x = torch.zeros(3, 1, requires_grad=True)
    ConcordanceLoss()(x, torch.zeros(3, 1)).backward()
    assert x.grad.isfinite().all()


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(4,\).*expected \(N, D\)"):
        ValueMSELoss()(torch.zeros(4, 2), torch.zeros(4))


def test_a_student_learns_from_numbers_and_from_the_teacher_where_it_has_some():
    x, y, teacher = torch.randn(3, 10, 2).unbind()
    there = torch.arange(10) < 6
    terms = ValueDistillationLoss(0.25, ValueL1Loss())(x, y, teacher, there)
    assert terms["values"].item() == pytest.approx(0.25 * (x - y).abs().mean().item(), rel=1e-6)
    assert terms["distillation"].item() == pytest.approx(0.75 * (x - teacher)[:6].square().mean().item(), rel=1e-6)
    assert ValueDistillationLoss(1.0)(x, y).keys() == {"values"}
    with pytest.raises(ValueError, match="alpha to 1"):
        ValueDistillationLoss()(x, y)
