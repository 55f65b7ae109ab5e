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
from merc.evaluation.comparison_report import terminal_tables, write_comparison
from merc.evaluation.ensembles import ensemble_logits, ensemble_systems
from merc.evaluation.head_to_head import Difference, HeadToHead, Pair, SystemScores, compare_systems, holm
from merc.evaluation.metrics import EmotionMetrics, confusion_matrix, scores, weighted_f1
from merc.evaluation.plots import confusion_figure
from merc.evaluation.predictions import Predictions, PredictionsError, read_predictions, stored_predictions
from merc.evaluation.report import ReportInfo, StoreInfo, write_report
from merc.evaluation.systems import System, read_other_predictions, read_systems

__all__ = [
    "AuditResult",
    "BatchDependenceError",
    "BootstrapResult",
    "Comparison",
    "Difference",
    "EmotionMetrics",
    "HeadToHead",
    "Pair",
    "Predictions",
    "PredictionsError",
    "ReportInfo",
    "Row",
    "StoreInfo",
    "System",
    "SystemScores",
    "audit_batch_independence",
    "compare_seeds",
    "compare_systems",
    "confusion_figure",
    "confusion_matrix",
    "ensemble",
    "ensemble_logits",
    "ensemble_systems",
    "holm",
    "paired_bootstrap",
    "read_other_predictions",
    "read_predictions",
    "read_systems",
    "scores",
    "stored_predictions",
    "terminal_tables",
    "weighted_f1",
    "write_comparison",
    "write_report",
]
