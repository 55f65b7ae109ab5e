"""Mean squared error against loops, and what it does not read."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.losses import MeanSquaredError


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8), st.integers(1, 5), st.integers(0, 2**31))
def test_it_is_the_mean_over_what_is_present(n, d, seed):
    random = torch.Generator().manual_seed(seed)
    values, target = (torch.randn(n, d, generator=random, dtype=torch.double) for _ in range(2))
    present = torch.rand(n, generator=random) < 0.6
    gaps = [(values[i, j] - target[i, j]).item() ** 2 for i in range(n) if present[i] for j in range(d)]
    expected = sum(gaps) / len(gaps) if gaps else 0.0
    assert MeanSquaredError()(values, target, present).item() == pytest.approx(expected, abs=1e-9)


def test_everything_is_present_by_default():
    values, target = torch.randn(4, 3), torch.randn(4, 3)
    torch.testing.assert_close(MeanSquaredError()(values, target), torch.nn.functional.mse_loss(values, target))


def test_absent_rows_are_not_read_and_have_no_gradient():
    values = torch.randn(4, 3, requires_grad=True)
    target, present = torch.randn(4, 3), torch.tensor([True, False, True, False])
    target[~present] = float("nan")
    loss = MeanSquaredError()(values, target, present)
    loss.backward()
    assert loss.isfinite() and values.grad.isfinite().all()
    assert (values.grad[~present] == 0).all() and (values.grad[present] != 0).any()


@pytest.mark.parametrize("n", [0, 3])
def test_without_anything_present_it_is_zero_and_still_has_a_gradient(n):
    values = torch.randn(n, 2, requires_grad=True)
    loss = MeanSquaredError()(values, torch.zeros(n, 2), torch.zeros(n, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and torch.equal(values.grad, torch.zeros(n, 2))


@pytest.mark.parametrize(
    ("values", "target", "present"),
    [((2, 3), (2, 4), None), ((2, 3), (3, 3), None), ((2, 5, 3), (2, 5, 3), None), ((2, 3), (2, 3), (3,))],
)
def test_shapes_that_do_not_fit_are_refused(values, target, present):
    with pytest.raises(ValueError, match=r"expected \(N, d\) twice and \(N,\)"):
        MeanSquaredError()(torch.zeros(values), torch.zeros(target), None if present is None else torch.ones(present))
