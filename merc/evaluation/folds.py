"""Scores of a cross-validation: of each fold, averaged over folds, and of all test utterances together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from merc.evaluation.metrics import weighted_f1
from merc.evaluation.tables import markdown_table


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
    found = {name: _by_protocol(metrics) for name, metrics in runs.items()}
    protocols = list(dict.fromkeys(protocol for folds in found.values() for protocol in folds))
    if len(protocols) < 2:
        return ""
    rows = []
    for name, folds in found.items():
        scores = [[100 * float(run["weighted_f1"]) for run in folds.get(protocol, [])] for protocol in protocols]
        means = [statistics.fmean(values) for values in scores if values]
        pooled = weighted_f1(torch.tensor([run["confusion"] for run in runs[name]]).double().sum(0))
        cells = [f"{statistics.fmean(values):.2f}" if values else "" for values in scores]
        rows.append([name, *cells, f"{statistics.fmean(means):.2f}", f"{100 * float(pooled):.2f}"])
    columns = [f"Fold {number}" for number, _ in enumerate(protocols, start=1)]
    legend = "\n".join(f"- Fold {number}: {protocol}" for number, protocol in enumerate(protocols, start=1))
    table = markdown_table(["Weighted F1", *columns, "Mean of folds", "Pooled"], rows)
    told = "A cross-validation: the seeds are its folds, each with test data of its own."
    return f"{told}\n\n{table}\n\n{legend}"


def _by_protocol(metrics: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for run in metrics:
        found.setdefault(run["info"]["protocol"], []).append(run)
    return found
