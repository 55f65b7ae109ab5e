"""Scores of a cross-validation: of each fold, averaged over folds, and of all test utterances together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from merc.evaluation.metrics import weighted_f1
from merc.evaluation.tables import markdown_table
from merc.evaluation.values import ValuePredictions, mean_ccc


def compare_folds(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The weighted F1 of several stages over the folds of a cross-validation, as Markdown.

    The mean over folds and the score of all folds pooled are different numbers: a mean weighs each fold alike, and a
    rare emotion that one fold lacks counts there as if it did not exist. Papers give one or the other.

    Args:
        runs: By stage, the metrics of each of its runs, from :func:`merc.evaluation.write_report`. Runs whose test data
            follow the same protocol are runs of one fold.

    Returns:
        A table with a column for each fold, or an empty text if all runs tested on the same data.
    """
    return _folds(
        runs,
        "Weighted F1",
        lambda run: 100 * float(run["weighted_f1"]),
        lambda name: 100 * float(weighted_f1(torch.tensor([r["confusion"] for r in runs[name]]).double().sum(0))),
        "{:.2f}".format,
    )


def compare_value_folds(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], predictions: Mapping[str, Sequence[ValuePredictions]]
) -> str:
    """The mean CCC of several stages over the folds of a cross-validation, as Markdown.

    Pooled is the CCC of the test utterances of all folds together, which also counts how the folds differ from each
    other; the mean of folds does not.

    Args:
        runs: By stage, the metrics of each of its runs, from :func:`merc.evaluation.write_value_report`.
        predictions: By stage, what each of these runs predicted.

    Returns:
        A table with a column for each fold, or an empty text if all runs tested on the same data.
    """
    return _folds(
        runs,
        "Mean CCC",
        lambda run: float(run["ccc"]),
        lambda name: mean_ccc(predictions[name]),
        "{:.3f}".format,
    )


def _folds(
    runs: Mapping[str, Sequence[Mapping[str, Any]]],
    title: str,
    score: Callable[[Mapping[str, Any]], float],
    pooled: Callable[[str], float],
    cell: Callable[[float], str],
) -> str:
    """The table of a score."""
    found = {name: _by_protocol(metrics) for name, metrics in runs.items()}
    protocols = list(dict.fromkeys(protocol for folds in found.values() for protocol in folds))
    if len(protocols) < 2:
        return ""
    rows = []
    for name, folds in found.items():
        scores = [[score(run) for run in folds.get(protocol, [])] for protocol in protocols]
        means = [statistics.fmean(values) for values in scores if values]
        cells = [cell(statistics.fmean(values)) if values else "" for values in scores]
        rows.append([name, *cells, cell(statistics.fmean(means)), cell(pooled(name))])
    columns = [f"Fold {number}" for number, _ in enumerate(protocols, start=1)]
    legend = "\n".join(f"- Fold {number}: {protocol}" for number, protocol in enumerate(protocols, start=1))
    table = markdown_table([title, *columns, "Mean of folds", "Pooled"], rows)
    told = "A cross-validation: the seeds are its folds, each with test data of its own."
    return f"{told}\n\n{table}\n\n{legend}"


def _by_protocol(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in metrics:
        found.setdefault(run["info"]["protocol"], []).append(run)
    return found
