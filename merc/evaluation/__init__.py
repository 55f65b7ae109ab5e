"""Evaluation: metrics, reports, comparison over seeds, plots, and the audit of batch independence."""

from merc.evaluation.audit import AuditResult, BatchDependenceError, audit_batch_independence
from merc.evaluation.comparison import (
    BootstrapResult,
    Comparison,
    Row,
    compare_seeds,
    ensemble,
    paired_bootstrap,
)
from merc.evaluation.ensembles import ensemble_logits, ensemble_systems
from merc.evaluation.folds import compare_folds
from merc.evaluation.metrics import EmotionMetrics, confusion_matrix, scores, weighted_f1
from merc.evaluation.plots import confusion_figure
from merc.evaluation.predictions import Predictions, PredictionsError, read_predictions, stored_predictions
from merc.evaluation.report import ReportInfo, StoreInfo, write_report

__all__ = [
    "AuditResult",
    "BatchDependenceError",
    "BootstrapResult",
    "Comparison",
    "EmotionMetrics",
    "Predictions",
    "PredictionsError",
    "ReportInfo",
    "Row",
    "StoreInfo",
    "audit_batch_independence",
    "compare_folds",
    "compare_seeds",
    "confusion_figure",
    "confusion_matrix",
    "ensemble",
    "ensemble_logits",
    "ensemble_systems",
    "paired_bootstrap",
    "read_predictions",
    "scores",
    "stored_predictions",
    "weighted_f1",
    "write_report",
]
