"""The report of a test on numbers, such as valence or sentiment, alone or beside emotions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from merc.evaluation.ledger import Opening
from merc.evaluation.report import ReportInfo, ReportPart, emotion_part, stress_lines, write_parts
from merc.evaluation.tables import markdown_table
from merc.evaluation.uncertainty import Stress, by_modality
from merc.evaluation.values import AGREEMENT, EmotionValuePredictions, ValuePredictions

_SENTIMENT = {
    "acc7": "Acc-7",
    "acc5": "Acc-5",
    "acc2": "Acc-2, negative / not",
    "f1": "F1, negative / not",
    "acc2_nonzero": "Acc-2, negative / positive",
    "f1_nonzero": "F1, negative / positive",
}


def write_value_report(
    folder: str | Path,
    predictions: ValuePredictions,
    *,
    info: ReportInfo,
    val: ValuePredictions | None = None,
    stressed: Mapping[Stress, Tensor] | None = None,
    openings: Sequence[Opening] = (),
    opening: Opening | None = None,
) -> dict[str, Any]:
    """Score predicted numbers and write the report of a test.

    As with :func:`merc.evaluation.write_report`, ``metrics.json`` is written last: where it is new, all files are.

    Args:
        folder: Folder of ``metrics.json``, ``predictions.csv`` and ``report.md``.
        predictions: The predicted and the annotated numbers.
        info: Description of the model and of its data.
        val: Predictions of the same model for the validation split; written to ``predictions_val.csv``.
        stressed: The ``(N, D)`` predicted numbers where utterances lacked a modality, or it was noisy.
        openings: The ledger of the run: every reading of its test split.
        opening: The reading of this report.

    Returns:
        The contents of ``metrics.json``: ``ccc``, ``pearson`` and ``mae`` as means over the annotated dimensions;
        ``values``, all scores by dimension (:func:`merc.evaluation.value_scores`); ``intervals``; ``dimensions`` with
        their scales; the number of ``utterances`` and of those ``scored``; the ``missing`` ones by modality; ``info``;
        ``val``; ``without_ccc`` and ``noise_ccc``, the mean CCC by modality and by the share of utterances that lost
        it, or the level of noise; ``test_reads``.

    Raises:
        OSError: The files cannot be written; the previous report is unchanged.
    """
    part = value_part(predictions, val, stressed)
    return write_parts(folder, [part], predictions, predictions.to_csv(), val, info, openings, opening)


def value_part(
    predictions: ValuePredictions, val: ValuePredictions | None, stressed: Mapping[Stress, Tensor] | None
) -> ReportPart:
    """What a report says of numbers.

    Args:
        predictions: Of the test split.
        val: Of the validation split.
        stressed: The ``(N, D)`` predicted numbers where utterances lacked a modality, or it was noisy.
    """
    total, scored = len(predictions.keys), int((~predictions.gold.isnan()).any(1).sum())
    metrics: dict[str, Any] = {
        **_scores(predictions),
        "intervals": {d: {n: list(i) for n, i in of.items()} for d, of in predictions.intervals().items()},
        "dimensions": {name: list(scale) for name, scale in predictions.dimensions.items()},
        "scored": scored,
    }
    if val is not None:
        metrics["val"] = _scores(val)
    metrics |= _stressed(predictions, stressed or {}, metrics["ccc"])
    return ReportPart(
        metrics,
        score=f"CCC {metrics['ccc']:.3f}",
        val=f"CCC {metrics['val']['ccc']:.3f}" if "val" in metrics else "",
        scores=[
            _agreement_table(metrics),
            "In brackets: 95 % intervals of a bootstrap over dialogues. CCC: concordance correlation coefficient (Lin "
            "1989). MAE: mean absolute error, in the units of the scale.",
            *_sentiment(metrics),
        ],
        counts=f"{scored} are annotated with numbers and scored"
        + (f"; {total - scored} are not: predicted, but not scored" if scored < total else ""),
        measured=stress_lines(metrics, "Mean CCC.", "{:.3f}".format, "_ccc"),
    )


def write_emotion_value_report(
    folder: str | Path,
    predictions: EmotionValuePredictions,
    *,
    info: ReportInfo,
    val: EmotionValuePredictions | None = None,
    stressed: Mapping[Stress, Tensor] | None = None,
    openings: Sequence[Opening] = (),
    opening: Opening | None = None,
) -> dict[str, Any]:
    """Score predicted emotions and numbers and write one report of both.

    Its files are those of :func:`merc.evaluation.write_report`. ``predictions.csv`` has the columns of both kinds, and
    both :func:`merc.evaluation.read_predictions` and :func:`merc.evaluation.read_value_predictions` read it.

    Args:
        folder: Folder of the report.
        predictions: Of the test split.
        info: Description of the model and of its data.
        val: Predictions of the same model for the validation split.
        stressed: ``(N, 1 + D)``: predicted ids and numbers where utterances lacked a modality, or it was noisy.
        openings: The ledger of the run: every reading of its test split.
        opening: The reading of this report.

    Returns:
        The contents of ``metrics.json``: those of :func:`merc.evaluation.write_report` and of
        :func:`merc.evaluation.write_value_report`; ``scored`` counts labelled utterances.

    Raises:
        OSError: The files cannot be written; the previous report is unchanged.
    """
    lost = stressed or {}
    emotions, values = (None, None) if val is None else (val.emotions, val.values)
    parts = [
        emotion_part(predictions.emotions, info, emotions, {name: both[:, 0].long() for name, both in lost.items()}),
        value_part(predictions.values, values, {name: both[:, 1:] for name, both in lost.items()}),
    ]
    return write_parts(folder, parts, predictions.emotions, predictions.to_csv(), val, info, openings, opening)


def _scores(predictions: ValuePredictions) -> dict[str, Any]:
    values = predictions.scores()
    # Of a dimension without annotation all scores are 0, which would be the best MAE.
    known = [of for of in values.values() if of["utterances"]] or list(values.values())
    means = {name: statistics.fmean(of[name] for of in known) for name in AGREEMENT}
    return {**means, "values": values}


def _stressed(
    predictions: ValuePredictions, stressed: Mapping[Stress, Tensor], whole: float
) -> dict[str, dict[str, dict[str, float]]]:
    """Mean CCC by kind of stress, modality and amount."""
    found = {stress: _scores(replace(predictions, values=guess))["ccc"] for stress, guess in stressed.items()}
    return {f"{kind}_ccc": of for kind, of in by_modality(found, whole).items()}


def _agreement_table(metrics: Mapping[str, Any]) -> str:
    rows = []
    for dimension, scores in metrics["values"].items():
        low, high = metrics["dimensions"][dimension]
        cells = []
        for name in AGREEMENT:
            least, most = metrics["intervals"][dimension][name]
            cells.append(f"{scores[name]:.3f} ({least:.3f} to {most:.3f})")
        rows.append([dimension, f"{low:g} to {high:g}", *cells, str(scores["utterances"])])
    if len(rows) > 1:
        rows.append(["Mean", "", *(f"{metrics[name]:.3f}" for name in AGREEMENT), ""])
    return markdown_table(["", "Scale", "CCC", "Pearson", "MAE", "Utterances"], rows)


def _sentiment(metrics: Mapping[str, Any]) -> list[str]:
    """The usual table of CMU-MOSI, of the dimensions that go from negative to positive."""
    of = {dimension: scores for dimension, scores in metrics["values"].items() if "acc2" in scores}
    if not of:
        return []
    columns = {name: title for name, title in _SENTIMENT.items() if any(name in scores for scores in of.values())}
    rows = [
        [dimension, *(f"{100 * scores[name]:.2f}" if name in scores else "" for name in columns)]
        for dimension, scores in of.items()
    ]
    told = (
        "In percent. Negative / not: all utterances. Negative / positive: without those whose gold number is 0. F1 is "
        "weighted by the gold numbers."
    )
    return [markdown_table(["", *columns.values()], rows), told]
