"""Every public loss as a function of two (N, D) tensors, for tests of precision and device."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc import losses
from merc.losses.sync import pairwise_distance

N, D = 24, 32


def _label(like):
    return torch.arange(N, device=like.device) % 5


def _present(like, step=4):
    return torch.arange(N, device=like.device) % step != 1


def _views(a, b):
    return {"text": a, "audio": b}, {"text": _present(a), "audio": _present(a, 5)}


def _fusion(a, b):
    loss = losses.FusionLoss(D, lambda_cont=0.5)
    loss.projection = nn.Identity()  # a network, which autocast may run in half precision
    return loss(a, _label(a), b)


def _adjusted(a, b):
    return losses.LogitAdjusted(class_counts=[*range(1, D + 1)])(a, _label(a))


def _sync(a, b):
    kinds = torch.randint(0, 5, (N, N), generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)
    return losses.SyncLoss(contrast=1.0)(a, b, kinds.to(a.device))


def _variational(a, b):
    views, present = _views(a, b)
    gaussians = {name: losses.Gaussian(x, x.abs().clamp(min=0.125)) for name, x in views.items()}
    return losses.VariationalDistillationLoss()(gaussians, present)


def _numbers(like):
    target = torch.randn(N, D, generator=torch.Generator().manual_seed(1)).to(like.device)
    return target.masked_fill(torch.arange(N, device=like.device)[:, None] % 7 == 3, torch.nan)


LOSSES = {
    "ConcordanceLoss": lambda a, _: losses.ConcordanceLoss()(a, _numbers(a)),
    "DISTLoss": lambda a, b: losses.DISTLoss()(a, _label(a), b, _present(a)),
    "DistillationLoss": lambda a, b: losses.DistillationLoss()(a, _label(a), b, _present(a)),
    "EmotionContrastiveLoss": lambda a, b: losses.EmotionContrastiveLoss()(*_views(a, b), _label(a)),
    "FeatureSimilarityLoss": lambda a, b: losses.FeatureSimilarityLoss()(a, b, _present(a)),
    "FusionLoss": _fusion,
    "LabelSmoothingCrossEntropy": lambda a, _: losses.LabelSmoothingCrossEntropy()(a, _label(a)),
    "LogitAdjusted": _adjusted,
    "MeanSquaredError": lambda a, b: losses.MeanSquaredError()(a, b, _present(a)),
    "ModalityContrastiveLoss": lambda a, b: losses.ModalityContrastiveLoss()(*_views(a, b)),
    "PolynomialCrossEntropy": lambda a, _: losses.PolynomialCrossEntropy()(a, _label(a)),
    "SupervisedContrastiveLoss": lambda a, _: losses.SupervisedContrastiveLoss()(a, _label(a)),
    "SyncLoss": _sync,
    "ValueDistillationLoss": lambda a, b: losses.ValueDistillationLoss()(a, _numbers(a), b, _present(a)),
    "ValueHuberLoss": lambda a, _: losses.ValueHuberLoss()(a, _numbers(a)),
    "ValueL1Loss": lambda a, _: losses.ValueL1Loss()(a, _numbers(a)),
    "ValueMSELoss": lambda a, _: losses.ValueMSELoss()(a, _numbers(a)),
    "VariationalDistillationLoss": _variational,
    "pairwise_distance": lambda a, b: pairwise_distance(a, b).mean(),
}


def unit_vectors() -> Tensor:
    """Two times N random vectors of length 1, ``(2, N, D)``."""
    return F.normalize(torch.randn(2, N, D), dim=-1)


def total(loss, a: Tensor, b: Tensor) -> Tensor:
    """The sum of the terms of a loss."""
    terms = loss(a, b)
    return torch.stack(list(terms.values())).sum() if isinstance(terms, dict) else terms
