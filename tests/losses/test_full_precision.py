"""Every loss is computed in float32: under autocast, and for half-precision inputs."""

import inspect

import pytest
import torch
from torch import nn

from merc import losses
from support.every_loss import LOSSES, total, unit_vectors


def test_every_public_loss_is_here():
    public = [getattr(losses, name) for name in losses.__all__]
    concrete = {x.__name__ for x in public if issubclass(x, nn.Module) and not inspect.isabstract(x)}
    assert concrete - {"ClassificationLoss"} == LOSSES.keys() - {"pairwise_distance"}


def value_and_gradients(loss, inputs, autocast):
    inputs = [x.detach().requires_grad_() for x in inputs]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):  # backward runs outside, as PyTorch recommends
        value = total(loss, *inputs)
    return value, torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_autocast_changes_nothing(loss):
    inputs = unit_vectors()
    expected = value_and_gradients(loss, inputs, autocast=False)
    torch.testing.assert_close(value_and_gradients(loss, inputs, autocast=True), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_half_precision_is_widened(loss, dtype, autocast):
    inputs = [x.to(dtype) for x in unit_vectors()]
    expected = total(loss, *(x.float() for x in inputs))
    with torch.autocast("cpu", dtype, enabled=autocast):
        found = total(loss, *inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_double_precision_is_left_alone(loss):
    assert total(loss, *unit_vectors().double()).dtype == torch.double
