"""Every loss is computed in float32: under autocast, and for half-precision inputs."""

import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from merc import losses
from merc.losses.sync import pairwise_distance

N, D = 24, 32
LABEL = torch.arange(N) % 5
PRESENT = {"text": torch.arange(N) % 4 != 1, "audio": torch.arange(N) % 5 != 2}


def fusion_loss():
    loss = losses.FusionLoss(D, lambda_cont=0.5)
    loss.projection = nn.Identity()  # a network, which autocast may run in half precision
    return lambda a, b: loss(a, LABEL, b)


def views(a, b):
    return {"text": a, "audio": b}


def sync(a, b):
    kinds = torch.randint(0, 5, (N, N), generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
    return losses.SyncLoss(contrast=1.0)(a, b, kinds)


def variational(a, b):
    gaussians = {name: losses.Gaussian(x, x.abs().clamp(min=0.125)) for name, x in views(a, b).items()}
    return losses.VariationalDistillationLoss()(gaussians, PRESENT)


# Every public loss as a function of two (N, D) tensors.
LOSSES = {
    "DISTLoss": lambda a, b: losses.DISTLoss()(a, LABEL, b, PRESENT["text"]),
    "DistillationLoss": lambda a, b: losses.DistillationLoss()(a, LABEL, b, PRESENT["text"]),
    "EmotionContrastiveLoss": lambda a, b: losses.EmotionContrastiveLoss()(views(a, b), PRESENT, LABEL),
    "FeatureSimilarityLoss": lambda a, b: losses.FeatureSimilarityLoss()(a, b, PRESENT["text"]),
    "FusionLoss": fusion_loss(),
    "LabelSmoothingCrossEntropy": lambda a, _: losses.LabelSmoothingCrossEntropy()(a, LABEL),
    "LogitAdjusted": lambda a, _: losses.LogitAdjusted(class_counts=list(range(D)))(a, LABEL),
    "MeanSquaredError": lambda a, b: losses.MeanSquaredError()(a, b, PRESENT["text"]),
    "ModalityContrastiveLoss": lambda a, b: losses.ModalityContrastiveLoss()(views(a, b), PRESENT),
    "PolynomialCrossEntropy": lambda a, _: losses.PolynomialCrossEntropy()(a, LABEL),
    "SupervisedContrastiveLoss": lambda a, _: losses.SupervisedContrastiveLoss()(a, LABEL),
    "SyncLoss": sync,
    "VariationalDistillationLoss": variational,
    "pairwise_distance": lambda a, b: pairwise_distance(a, b).mean(),
}


def test_every_public_loss_is_here():
    public = [getattr(losses, name) for name in losses.__all__]
    concrete = {x.__name__ for x in public if issubclass(x, nn.Module) and not inspect.isabstract(x)}
    assert concrete - {"ClassificationLoss"} == LOSSES.keys() - {"pairwise_distance"}


def unit_vectors():
    return F.normalize(torch.randn(2, N, D), dim=-1)


def total(loss, a, b):
    terms = loss(a, b)
    return torch.stack(list(terms.values())).sum() if isinstance(terms, dict) else terms


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
