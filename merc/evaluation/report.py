"""The report of a test: metrics.json, predictions.csv, confusion.png and report.md."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

import merc
from merc.conversation import UtteranceKey
from merc.evaluation.ledger import Opening, describe_ledger
from merc.evaluation.metrics import class_scores, confusion_matrix, weighted_f1
from merc.evaluation.plots import confusion_figure, uncertainty_figure
from merc.evaluation.predictions import Predicted, Predictions
from merc.evaluation.tables import markdown_table
from merc.evaluation.uncertainty import (
    Calibration,
    Stress,
    abstain_at_risk,
    abstention,
    by_modality,
    calibration,
    conformal_sets,
    fit_temperature,
    with_temperature,
)
from merc.files import write_aside
from merc.labels import IGNORE_INDEX, LabelSet

REPORT = "report"
"""Folder of a report, inside the folder of its stage or of the trainer's logs."""

METRICS = "metrics.json"
"""The file of a report that is written last: if it exists, the report is complete."""

VAL = "predictions_val.csv"
"""The predictions for the validation split, beside the report of a test."""

UNCERTAINTY = "uncertainty.png"
"""The reliability diagram and the curve of risk by coverage, where something is labelled."""

_CONFUSION = "confusion.png"
_LISTED = 5  # missing utterances per modality in report.md; predictions.csv has all of them


class StoreInfo(NamedTuple):
    """A feature store that the model read: its path, and its own provenance (plain JSON values)."""

    path: str
    provenance: Mapping[str, Any]


@dataclass(frozen=True)
class ReportInfo:
    """Information for readers of the results, beside the numbers.

    Args:
        corpus: Name of the corpus.
        protocol: Its split rule and label source.
        notes: Remarks about the corpus: stray or missing files, leaks.
        split: The predicted split.
        seed: Seed of the training, if one was set.
        model: Description of the model.
        checkpoint: File with the weights.
        selected_on: How the checkpoint was selected, for example ``best weighted F1 on val, epoch 12``.
        resumed_at: Steps of the optimizer after which an interrupted training was resumed.
        stores: The feature stores that were read, by name.
        missing: By modality, the utterances without features and why.
        merc_version: Version of merc.
        torch_version: Version of PyTorch.
    """

    corpus: str
    split: str
    protocol: str = ""
    notes: Sequence[str] = ()
    seed: int | None = None
    model: str = ""
    checkpoint: str | None = None
    selected_on: str = ""
    resumed_at: Sequence[int] = field(default_factory=list)
    stores: Mapping[str, StoreInfo] = field(default_factory=dict)
    missing: Mapping[str, Mapping[UtteranceKey, str]] = field(default_factory=dict)
    merc_version: str = merc.__version__
    torch_version: str = torch.__version__


def write_report(
    folder: str | Path,
    *,
    labels: LabelSet,
    keys: Sequence[UtteranceKey],
    gold: Tensor | np.ndarray[Any, Any],
    probabilities: Tensor | np.ndarray[Any, Any],
    present: Mapping[str, Tensor | np.ndarray[Any, Any]],
    info: ReportInfo,
    lines: Sequence[tuple[str, str]] = (),
    val: Predictions | None = None,
    stressed: Mapping[Stress, Tensor] | None = None,
    openings: Sequence[Opening] = (),
    opening: Opening | None = None,
) -> dict[str, Any]:
    """Score predictions and write the report of a test.

    All files are written to temporary names before the first one is renamed, and ``metrics.json`` is renamed last. A
    full disk leaves the previous report as it was; if ``metrics.json`` is new, all other files are too.

    Args:
        folder: Folder of ``metrics.json``, ``predictions.csv``, ``confusion.png``, ``report.md``, and
            ``uncertainty.png`` where something is labelled.
        labels: The label set of the corpus.
        keys: N utterance keys, each once.
        gold: ``(N,)`` label ids, -100 for unlabelled; these have a prediction but no score.
        probabilities: ``(N, C)`` in the order of ids.
        present: By modality, ``(N,)`` booleans: whether the utterance had it.
        info: Description of the model and of its data.
        lines: The speaker and the text of N utterances, for ``predictions.csv``; empty if they are not known.
        val: Predictions of the same model for the validation split, on which temperature, thresholds and sets of
            emotions are chosen; they are written to ``predictions_val.csv``.
        stressed: The ``(N,)`` predicted ids where utterances lacked a modality, or it was noisy.
        openings: The ledger of the run: every reading of its test split.
        opening: The reading of this report.

    Returns:
        The contents of ``metrics.json``: the scores as fractions in 0..1 (``weighted_f1``, ``macro_f1``, ``accuracy``,
        ``f1/<emotion>``), ``support/<emotion>``, the number of ``utterances`` and of those ``scored``, the
        ``missing`` ones by modality, the ``confusion`` matrix with its ``classes``, and ``info``; ``val``, the scores
        on the validation split; ``uncertainty``; ``without`` and ``noise``, weighted F1 by modality and by
        the share of utterances that lost it, or the level of noise; ``test_reads``.

    Raises:
        PredictionsError: The shapes do not match, keys are repeated, or probabilities are not finite.
        OSError: The files cannot be written; the previous report is unchanged.
    """
    predictions = Predictions(
        labels,
        [UtteranceKey(*key) for key in keys],
        torch.as_tensor(gold).cpu().long(),
        torch.as_tensor(probabilities).detach().cpu().float(),
        {name: torch.as_tensor(there).cpu().bool() for name, there in present.items()},
        lines,
    )
    part = emotion_part(predictions, info, val, stressed)
    return write_parts(folder, [part], predictions, predictions.to_csv(), val, info, openings, opening)


class HasTable(Protocol):
    """Predictions of any kind."""

    def to_csv(self) -> str:
        """The text of ``predictions.csv``."""


class ReportPart(NamedTuple):
    """What a report says of one kind of predictions: of emotions, or of numbers.

    Attributes:
        metrics: Its share of ``metrics.json``.
        score: The score that counts, as text.
        val: That on the validation split; empty if it was not predicted.
        scores: The section on all scores.
        counts: How many utterances are scored.
        measured: Further sections.
        figures: By file name, what they show.
    """

    metrics: dict[str, Any]
    score: str
    val: str
    scores: Sequence[str]
    counts: str
    measured: Sequence[str]
    figures: Mapping[str, Figure] = {}


def write_parts(
    folder: str | Path,
    parts: Sequence[ReportPart],
    predictions: Predicted,
    table: str,
    val: HasTable | None,
    info: ReportInfo,
    openings: Sequence[Opening],
    opening: Opening | None,
) -> dict[str, Any]:
    """Write a report of one or several parts, ``metrics.json`` last.

    Args:
        folder: Folder of the report.
        parts: What it says; of metrics with one name that of the first part counts.
        predictions: The predicted utterances.
        table: Text of ``predictions.csv``.
        val: Predictions for the validation split, for ``predictions_val.csv``.
        info: Description of the model and of its data.
        openings: The ledger of the run.
        opening: The reading of this report.

    Returns:
        The contents of ``metrics.json``.
    """
    metrics: dict[str, Any] = {}
    for part in parts:
        metrics = {**part.metrics, **metrics, "val": {**part.metrics.get("val", {}), **metrics.get("val", {})}}
    if not metrics["val"]:
        del metrics["val"]
    metrics |= {
        "utterances": len(predictions.keys),
        "missing": {name: int((~there).sum()) for name, there in predictions.present.items()},
        "info": plain_info(info),
    }
    if openings:
        metrics["test_reads"] = len(openings)
    texts = {
        METRICS: json.dumps(metrics, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": report_page(
            predictions.keys,
            predictions.present,
            info,
            score=", ".join(part.score for part in parts),
            val=", ".join(part.val for part in parts if part.val),
            read=describe_ledger(openings, opening) if openings else "",
            scores=[section for part in parts for section in part.scores],
            counts=f"{metrics['utterances']}, of which " + "; of all, ".join(part.counts for part in parts),
            measured=[section for part in parts for section in part.measured],
        ),
        "predictions.csv": table,
        **({} if val is None else {VAL: val.to_csv()}),
    }
    figures = {name: figure for part in parts for name, figure in part.figures.items()}
    folder = Path(folder)
    with ExitStack() as files:
        # Renamed in reverse order: the metrics come last, because they mark the report as complete.
        aside = {name: files.enter_context(write_aside(folder / name)) for name in (*texts, *figures)}
        for name, text in texts.items():
            aside[name].write_text(text, encoding="utf-8", newline="")
        for name, figure in figures.items():
            figure.savefig(aside[name], format="png", dpi=130)
    for name in {VAL, _CONFUSION, UNCERTAINTY} - {*texts, *figures}:  # of an earlier report
        (folder / name).unlink(missing_ok=True)
    return metrics


def emotion_part(
    predictions: Predictions, info: ReportInfo, val: Predictions | None, stressed: Mapping[Stress, Tensor] | None
) -> ReportPart:
    """What a report says of emotions.

    Args:
        predictions: Of the test split.
        info: Description of the model and of its data.
        val: Of the validation split, on which temperature, thresholds and sets of emotions are chosen.
        stressed: The ``(N,)`` predicted ids where utterances lacked a modality, or it was noisy.
    """
    labels = predictions.labels
    confusion = predictions.confusion.long()
    order = labels.report_ids
    metrics: dict[str, Any] = {
        **predictions.metrics(),
        **{f"support/{labels.names[c]}": int(confusion[c].sum()) for c in order},
        "scored": (scored := int(confusion.sum())),
        "classes": list(labels.report_order),
        "confusion": confusion[order][:, order].tolist(),
    }
    if val is not None:
        metrics["val"] = {**val.metrics(), "scored": int((val.gold != IGNORE_INDEX).sum())}
    if confusion.sum():
        metrics["uncertainty"] = _uncertainty(predictions, val)
    metrics |= _stressed(predictions, stressed or {})
    figures = {_CONFUSION: confusion_figure(confusion, labels, f"{info.corpus}, {info.split}")}
    if "uncertainty" in metrics:
        figures[UNCERTAINTY] = _draw_uncertainty(predictions, metrics["uncertainty"])
    total = len(predictions.keys)
    return ReportPart(
        metrics,
        score=f"weighted F1 {100 * metrics['weighted_f1']:.2f} %",
        val=f"weighted F1 {100 * metrics['val']['weighted_f1']:.2f} %" if "val" in metrics else "",
        scores=[
            "All in percent; the order of the columns is that of the published tables.",
            _score_table(predictions),
            f"Macro F1 is the mean over all {len(labels)} classes, including those without an utterance.",
            f"![Confusion matrix]({_CONFUSION})",
        ],
        counts=f"{scored} are labelled and scored"
        + (f"; {total - scored} are unlabelled: predicted, but not scored" if scored < total else ""),
        measured=_uncertainty_lines(metrics),
        figures=figures,
    )


def _uncertainty(predictions: Predictions, val: Predictions | None) -> dict[str, Any]:
    """Calibration, abstention and sets of emotions as plain values; what is chosen is chosen on ``val``."""
    doubt = abstention(predictions)
    found: dict[str, Any] = {
        "calibration": _calibrated(calibration(predictions)),
        "abstention": {"area": doubt.area, "auroc": _number(doubt.auroc), "risk_at_80": doubt.at_80},
    }
    if val is None or not (val.gold != IGNORE_INDEX).any():
        return found
    temperature = fit_temperature(val)
    scaled, scaled_val = with_temperature(predictions, temperature), with_temperature(val, temperature)
    error = float(1 - predictions.metrics()["accuracy"])
    thresholds = [abstain_at_risk(val, predictions, round(part * error, 3)) for part in (0.75, 0.5)]
    sets = [conformal_sets(scaled_val, scaled, nominal) for nominal in (0.8, 0.9)]
    return {
        **found,
        "temperature": temperature,
        "calibration_after": _calibrated(calibration(scaled)),
        "thresholds": [{name: _number(value) for name, value in one._asdict().items()} for one in thresholds],
        "conformal": [
            {
                "nominal": one.nominal,
                "coverage": one.coverage,
                "interval": list(one.interval),
                "size": one.size,
                "singletons": one.singletons,
                "by_class": {name: _number(value) for name, value in one.by_class.items()},
            }
            for one in sets
        ],
    }


def _calibrated(found: Calibration) -> dict[str, Any]:
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(found).items()}
    return {**plain, "bins": [one._asdict() for one in found.bins]}


def _number(value: float) -> float | None:
    """A number for JSON, which knows neither ``nan`` nor infinity."""
    return value if math.isfinite(value) else None


def _draw_uncertainty(predictions: Predictions, found: Mapping[str, Any]) -> Figure:
    after = [found["calibration_after"]["bins"]] if "calibration_after" in found else []
    diagrams = [[tuple(one.values()) for one in bins] for bins in (found["calibration"]["bins"], *after)]
    curve = abstention(predictions)
    return uncertainty_figure(diagrams, curve.coverage, curve.risk)


def _stressed(predictions: Predictions, stressed: Mapping[Stress, Tensor]) -> dict[str, Any]:
    """Weighted F1 by kind of stress, modality and amount."""
    found = {
        stress: float(weighted_f1(confusion_matrix(guess, predictions.gold, len(predictions.labels)).double()))
        for stress, guess in stressed.items()
    }
    return by_modality(found, predictions.metrics()["weighted_f1"])


def of_emotions(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The stages that predict emotions, alone or beside numbers.

    Args:
        metrics: By stage, the contents of ``metrics.json`` of each of its runs.
    """
    return {name: found for name, found in metrics.items() if "confusion" in found[0]}


def of_values(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """The stages that predict numbers, alone or beside emotions.

    Args:
        metrics: As for :func:`of_emotions`.
    """
    return {name: found for name, found in metrics.items() if "values" in found[0]}


def plain_info(info: ReportInfo) -> dict[str, Any]:
    """``info`` as JSON values, with the reasons for missing utterances and their counts."""
    plain = {item.name: getattr(info, item.name) for item in dataclasses.fields(info)}
    plain["notes"] = list(info.notes)
    plain["stores"] = {
        name: {"path": store.path, "provenance": dict(store.provenance)} for name, store in info.stores.items()
    }
    plain["missing"] = {name: dict(Counter(missing.values())) for name, missing in info.missing.items()}
    return plain


def report_page(
    keys: Sequence[UtteranceKey],
    present: Mapping[str, Tensor],
    info: ReportInfo,
    *,
    score: str,
    val: str,
    read: str,
    scores: Sequence[str],
    counts: str,
    measured: Sequence[str],
) -> str:
    """The text of ``report.md``: what was tested, its scores, its data, and where its features come from.

    Args:
        keys: The predicted utterances.
        present: By modality, ``(N,)`` booleans: whether the utterance had it.
        info: Description of the model and of its data.
        score: The score that counts.
        val: That on the validation split; empty if it was not predicted.
        read: How often the test split was read.
        scores: The section on all scores.
        counts: How many utterances there are, and how many of them are scored.
        measured: Further sections.
    """
    sections = [
        f"# {info.corpus}, {info.split}: {score}",
        _bullets(
            {
                "Model": info.model,
                "Checkpoint": info.checkpoint,
                "Selected on": info.selected_on,
                "Validation": f"{val} on val" if val else "",
                "Ledger": read,
                "Interrupted": _resumed(info.resumed_at),
                "Seed": info.seed,
                "Versions": f"merc {info.merc_version}, PyTorch {info.torch_version}",
            }
        ),
        "## Scores",
        *scores,
        "## Data",
        _bullets({"Corpus": info.corpus, "Protocol": info.protocol, "Split": info.split, "Utterances": counts}),
    ]
    if info.notes:
        sections += ["Notes on this corpus:", "\n".join(f"- {note}" for note in info.notes)]
    lacking = "\n".join(_missing(keys, present, info))
    sections += ["## Missing modalities", lacking or "No modality was recorded.", *measured]
    if info.stores:
        sections += ["## Features", "\n".join(_stores(info.stores))]
    return "\n\n".join(section for section in sections if section) + "\n"


def _uncertainty_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The sections on probabilities and on lost modalities."""
    sections = []
    if found := metrics.get("uncertainty"):
        kinds = [("as they are", found["calibration"])]
        if "temperature" in found:
            kinds.append(
                (f"with the temperature {found['temperature']:.2f}, fitted on val", found["calibration_after"])
            )
        rows = [
            [
                name,
                f"{100 * one['confidence']:.1f}",
                f"{100 * one['accuracy']:.1f}",
                f"{100 * one['ece']:.1f} ({100 * one['ece_interval'][0]:.1f} to {100 * one['ece_interval'][1]:.1f})",
                f"{one['brier']:.3f}",
                f"{one['nll']:.3f}",
            ]
            for name, one in kinds
        ]
        doubt = found["abstention"]
        auroc = "" if doubt["auroc"] is None else f"; wrong predictions have more doubt with AUROC {doubt['auroc']:.3f}"
        lines = [f"Risk (share of wrong answers) at 80 % coverage: {100 * doubt['risk_at_80']:.1f} %{auroc}."]
        for one in found.get("thresholds", []):
            lines.append(
                f"A threshold for at most {100 * one['target']:.1f} % wrong answers, chosen on val: "
                + (
                    f"answers {100 * one['coverage']:.1f} %, of which {100 * one['risk']:.1f} % are wrong."
                    if one["risk"] is not None
                    else "answers nothing."
                )
            )
        for one in found.get("conformal", []):
            low, high = one["interval"]
            lines.append(
                f"Sets of emotions for {one['nominal']:.0%} coverage, chosen on val: {100 * one['coverage']:.1f} % "
                f"(95 % {100 * low:.1f} to {100 * high:.1f}) contain the label, {one['size']:.2f} emotions on average."
            )
        header = ["Probabilities", "Confidence %", "Accuracy %", "ECE % (95 %)", "Brier", "NLL"]
        sections += ["## Uncertainty", markdown_table(header, rows), "\n".join(f"- {line}" for line in lines)]
        sections.append(f"![Reliability, and risk by coverage]({UNCERTAINTY})")
    return [*sections, *stress_lines(metrics, "Weighted F1 in percent.", lambda score: f"{100 * score:.2f}")]


def stress_lines(metrics: Mapping[str, Any], told: str, cell: Callable[[float], str], suffix: str = "") -> list[str]:
    """The sections on lost and noisy modalities.

    Args:
        metrics: With ``without`` and ``noise``, if they were measured.
        told: What the scores are.
        cell: A score as text.
        suffix: Of both names.
    """
    sections = []
    for kind, title, first in (
        ("without", "Without a modality", "Utterances that lose it"),
        ("noise", "With noise", "Noise over signal"),
    ):
        if found := metrics.get(kind + suffix):
            amounts = list(next(iter(found.values())))
            header = [first, *(f"{float(amount):.0%}" for amount in amounts)]
            rows = [[name, *(cell(of[amount]) for amount in amounts)] for name, of in found.items()]
            sections += [f"## {title}", told, markdown_table(header, rows)]
    return sections


def _resumed(steps: Sequence[int]) -> str:
    """When an interrupted training went on."""
    return f"and resumed after step {', '.join(map(str, steps))}" if steps else ""


def _bullets(items: Mapping[str, object]) -> str:
    """A Markdown list of what has a value."""
    return "\n".join(f"- {name}: {value}" for name, value in items.items() if value not in (None, ""))


def _score_table(predictions: Predictions) -> str:
    confusion, labels, metrics = predictions.confusion, predictions.labels, predictions.metrics()
    precision, recall, f1 = class_scores(confusion)
    rows = [
        [name, *(f"{100 * values[c]:.2f}" for c in labels.report_ids)]
        for name, values in (("F1", f1), ("Precision", precision), ("Recall", recall))
    ]
    rows[0] += [f"{100 * metrics[name]:.2f}" for name in ("accuracy", "weighted_f1", "macro_f1")]
    support = [str(int(confusion[c].sum())) for c in labels.report_ids]
    rows.append(["Support", *support, str(int(confusion.sum()))])
    header = ["", *(name.capitalize() for name in labels.report_order), "Acc.", "Weighted F1", "Macro F1"]
    return markdown_table(header, [row + [""] * (len(header) - len(row)) for row in rows])


def _missing(keys: Sequence[UtteranceKey], present: Mapping[str, Tensor], info: ReportInfo) -> Iterator[str]:
    """The number of utterances without each modality, and the first few with their reasons."""
    for name, there in present.items():
        lacking = [keys[row] for row in (~there).nonzero().flatten().tolist()]
        yield f"- {name}: {len(lacking)} of {len(keys)} utterances"
        reasons = info.missing.get(name, {})
        for key in lacking[:_LISTED]:
            yield f"  - {key}: {reasons.get(key, 'not in the store')}"
        if len(lacking) > _LISTED:
            yield f"  - and {len(lacking) - _LISTED} more, in `predictions.csv` under `has_{name}`"


def _stores(stores: Mapping[str, StoreInfo]) -> Iterator[str]:
    """The feature stores with their provenance."""
    for name, store in stores.items():
        yield f"- {name}: `{store.path}`"
        for key, value in store.provenance.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"  - {key}: {text}"
