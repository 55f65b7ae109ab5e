"""Evaluation: metrics, reports, comparison over seeds, plots, and the audit of batch independence."""

from merc.evaluation.audit import AuditResult, BatchDependenceError, audit_batch_independence
from merc.evaluation.comparison import (
    BootstrapResult,
    Comparison,
    Row,
    compare_seeds,
    ensemble,
    paired_bootstrap,
    pooled,
)
from merc.evaluation.comparison_report import print_comparison, terminal_tables, write_comparison
from merc.evaluation.ensembles import ensemble_logits, ensemble_systems
from merc.evaluation.folds import compare_folds, compare_value_folds
from merc.evaluation.head_to_head import Difference, HeadToHead, Pair, SystemScores, compare_systems, holm
from merc.evaluation.ledger import Opening, describe_ledger, read_ledger, record_opening
from merc.evaluation.metrics import EmotionMetrics, confusion_matrix, scores, weighted_f1
from merc.evaluation.plots import confusion_figure, points_figure
from merc.evaluation.predictions import Predictions, PredictionsError, read_predictions, stored_predictions
from merc.evaluation.report import ReportInfo, StoreInfo, write_report
from merc.evaluation.systems import System, read_other_predictions, read_systems, read_value_systems
from merc.evaluation.tsne import draw_store, tsne, umap
from merc.evaluation.uncertainty import (
    Abstention,
    Calibration,
    Conformal,
    Threshold,
    abstain_at_risk,
    abstention,
    calibration,
    conformal_sets,
    fit_temperature,
    noisy_modality,
    with_temperature,
    without_modality,
)
from merc.evaluation.value_comparison import (
    ValueComparison,
    ValuePair,
    compare_value_seeds,
    compare_values,
    print_value_comparison,
)
from merc.evaluation.value_report import write_emotion_value_report, write_value_report
from merc.evaluation.values import (
    EmotionValueMetrics,
    EmotionValuePredictions,
    ValueDifference,
    ValueMetrics,
    ValuePredictions,
    paired_value_bootstrap,
    read_value_predictions,
    sentiment_scores,
    value_scores,
)

__all__ = [
    "Abstention",
    "AuditResult",
    "BatchDependenceError",
    "BootstrapResult",
    "Calibration",
    "Comparison",
    "Conformal",
    "Difference",
    "EmotionMetrics",
    "EmotionValueMetrics",
    "EmotionValuePredictions",
    "HeadToHead",
    "Opening",
    "Pair",
    "Predictions",
    "PredictionsError",
    "ReportInfo",
    "Row",
    "StoreInfo",
    "System",
    "SystemScores",
    "Threshold",
    "ValueComparison",
    "ValueDifference",
    "ValueMetrics",
    "ValuePair",
    "ValuePredictions",
    "abstain_at_risk",
    "abstention",
    "audit_batch_independence",
    "calibration",
    "compare_folds",
    "compare_seeds",
    "compare_systems",
    "compare_value_folds",
    "compare_value_seeds",
    "compare_values",
    "conformal_sets",
    "confusion_figure",
    "confusion_matrix",
    "describe_ledger",
    "draw_store",
    "ensemble",
    "ensemble_logits",
    "ensemble_systems",
    "fit_temperature",
    "holm",
    "noisy_modality",
    "paired_bootstrap",
    "paired_value_bootstrap",
    "points_figure",
    "pooled",
    "print_comparison",
    "print_value_comparison",
    "read_ledger",
    "read_other_predictions",
    "read_predictions",
    "read_systems",
    "read_value_predictions",
    "read_value_systems",
    "record_opening",
    "scores",
    "sentiment_scores",
    "stored_predictions",
    "terminal_tables",
    "tsne",
    "umap",
    "value_scores",
    "weighted_f1",
    "with_temperature",
    "without_modality",
    "write_comparison",
    "write_emotion_value_report",
    "write_report",
    "write_value_report",
]
