"""Losses: each a module whose docstring gives its equation and the paper it comes from."""

from merc.losses.classification import (
    ClassificationLoss,
    LabelSmoothingCrossEntropy,
    LogitAdjusted,
    PolynomialCrossEntropy,
)
from merc.losses.contrastive import SupervisedContrastiveLoss
from merc.losses.distillation import DistillationLoss, StudentLoss
from merc.losses.fusion import FusionLoss
from merc.losses.lfvd import (
    EmotionContrastiveLoss,
    Gaussian,
    ModalityContrastiveLoss,
    VariationalDistillationLoss,
)
from merc.losses.regression import MeanSquaredError
from merc.losses.sync import SyncLoss
from merc.losses.telme import DISTLoss, FeatureSimilarityLoss
from merc.losses.values import (
    ConcordanceLoss,
    ValueDistillationLoss,
    ValueHuberLoss,
    ValueL1Loss,
    ValueLoss,
    ValueMSELoss,
)

__all__ = [
    "ClassificationLoss",
    "ConcordanceLoss",
    "DISTLoss",
    "DistillationLoss",
    "EmotionContrastiveLoss",
    "FeatureSimilarityLoss",
    "FusionLoss",
    "Gaussian",
    "LabelSmoothingCrossEntropy",
    "LogitAdjusted",
    "MeanSquaredError",
    "ModalityContrastiveLoss",
    "PolynomialCrossEntropy",
    "StudentLoss",
    "SupervisedContrastiveLoss",
    "SyncLoss",
    "ValueDistillationLoss",
    "ValueHuberLoss",
    "ValueL1Loss",
    "ValueLoss",
    "ValueMSELoss",
    "VariationalDistillationLoss",
]
