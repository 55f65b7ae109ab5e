"""Comparison of systems: over seeds, with a paired bootstrap over dialogues, and as an ensemble."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from rich import box
from rich.table import Table
from torch import Tensor

from merc.conversation import UtteranceKey
from merc.evaluation.draws import drawn_counts, percentile_interval
from merc.evaluation.metrics import weighted_f1
from merc.evaluation.predictions import Predictions, PredictionsError
from merc.evaluation.tables import markdown_table
from merc.labels import IGNORE_INDEX

_SUMMARY = ("weighted_f1", "macro_f1", "accuracy")
_CLASS = "f1/"
_VAL = "val/weighted_f1"


@dataclass(frozen=True)
class Row:
    """One system over its seeds.

    Args:
        name: Name of the stage or system.
        seeds: Number of runs.
        mean: Mean of every score over the runs, in percent; ``val/weighted_f1`` if the runs know it.
        deviation: Standard deviation over the runs (with n - 1), in percent; empty for a single run.
        optimum: Best weighted F1 that any model can reach, in percent, if it is known.
    """

    name: str
    seeds: int
    mean: Mapping[str, float]
    deviation: Mapping[str, float]
    optimum: float | None = None

    def cell(self, score: str) -> str:
        """A score as ``mean ± deviation``, or only the mean for a single run."""
        spread = f" ± {self.deviation[score]:.2f}" if score in self.deviation else ""
        return f"{self.mean[score]:.2f}{spread}"

    @property
    def share(self) -> float | None:
        """Share of the optimum that the mean weighted F1 reaches, in percent."""
        return 100 * self.mean["weighted_f1"] / self.optimum if self.optimum else None


@dataclass(frozen=True)
class Comparison:
    """Several systems side by side.

    Args:
        classes: The emotions, in the column order of the published tables.
        rows: The systems, in the order given.
    """

    classes: tuple[str, ...]
    rows: Sequence[Row]

    def _columns(self) -> list[tuple[str, list[str]]]:
        columns = [
            ("", [row.name for row in self.rows]),
            ("Runs", [str(row.seeds) for row in self.rows]),
            ("Weighted F1", [row.cell("weighted_f1") for row in self.rows]),
        ]
        if any(row.optimum for row in self.rows):
            columns += [
                ("Optimum", ["" if row.optimum is None else f"{row.optimum:.2f}" for row in self.rows]),
                ("Share", ["" if row.share is None else f"{row.share:.1f} %" for row in self.rows]),
            ]
        return [*columns, ("Accuracy", [row.cell("accuracy") for row in self.rows])]

    def texts(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: all scores and classes in percent, with deviations."""
        columns = [*self._columns(), ("Macro F1", [row.cell("macro_f1") for row in self.rows])]
        if any(_VAL in row.mean for row in self.rows):
            val = ("Weighted F1 on val", [row.cell(_VAL) if _VAL in row.mean else "" for row in self.rows])
            columns.insert(3, val)
        columns += [(name.capitalize(), [row.cell(_CLASS + name) for row in self.rows]) for name in self.classes]
        return [name for name, _ in columns], [list(row) for row in zip(*(cells for _, cells in columns), strict=True)]

    def markdown(self) -> str:
        """The comparison as a Markdown table."""
        return markdown_table(*self.texts())

    def table(self, title: str = "", *, per_class: bool = True) -> Table:
        """The comparison for the terminal, in percent.

        Args:
            title: Printed above.
            per_class: Also the mean F1 of every class; seven classes need a terminal of 110 columns.
        """
        table = Table(title=title or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        columns = self._columns()
        if per_class:
            columns += [
                (_short(name), [f"{row.mean[_CLASS + name]:.1f}" for row in self.rows]) for name in self.classes
            ]
        for index, (name, _) in enumerate(columns):
            table.add_column(name, justify="right" if index else "left", no_wrap=True)
        for cells in zip(*(cells for _, cells in columns), strict=True):
            table.add_row(*cells)
        return table


def _short(name: str) -> str:
    """An emotion as the published tables abbreviate it: ``Neut.``, ``Joy``."""
    return name.capitalize() if len(name) <= 5 else f"{name[:4].capitalize()}."


def compare_seeds(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], optimum: Mapping[str, float] | None = None
) -> Comparison:
    """Mean and standard deviation over seeds, for several stages or systems.

    Args:
        runs: By system, the metrics of each of its runs, from :func:`merc.evaluation.write_report`, a
            ``metrics.json``, or ``Predictions.metrics()``.
        optimum: By system, the best weighted F1 that any model can reach, in percent, if known.

    Raises:
        ValueError: There are no runs, a system has none, or their classes differ.
    """
    if not runs or not all(runs.values()):
        empty = [name for name, found in runs.items() if not found]
        raise ValueError(f"Nothing to compare. Expected at least one run per system, found none for {empty or 'any'}.")
    columns: dict[str, list[str]] = {
        f"{name}, run {index + 1}": [key for key in run if key.startswith(_CLASS)]
        for name, found in runs.items()
        for index, run in enumerate(found)
    }
    first, *others = columns.items()
    for other, keys in others:
        if set(keys) != set(first[1]):
            raise ValueError(
                f"{first[0]} has the scores {first[1]}, {other} has {keys}. Compare systems with the same label set."
            )
    rows = []
    for name, found in runs.items():
        values = {score: [100 * float(run[score]) for run in found] for score in (*_SUMMARY, *first[1])}
        if all("val" in run for run in found):
            values[_VAL] = [100 * float(run["val"]["weighted_f1"]) for run in found]
        rows.append(
            Row(
                name,
                len(found),
                {score: statistics.fmean(column) for score, column in values.items()},
                {score: statistics.stdev(column) for score, column in values.items()} if len(found) > 1 else {},
                (optimum or {}).get(name),
            )
        )
    return Comparison(tuple(key.removeprefix(_CLASS) for key in first[1]), rows)


class BootstrapResult(NamedTuple):
    """The outcome of a paired bootstrap.

    Attributes:
        difference: Weighted F1 of the second system minus the first, in 0..1.
        interval: Its 95 % percentile interval.
        p: Two-sided p-value of no difference.
    """

    difference: float
    interval: tuple[float, float]
    p: float


def paired_bootstrap(
    a: Predictions | Sequence[Predictions],
    b: Predictions | Sequence[Predictions],
    samples: int = 10_000,
    seed: int = 0,
) -> BootstrapResult:
    """Test whether the weighted F1 of two systems differs on the same dialogues.

    Dialogues, not utterances, are drawn with replacement, because the utterances of a dialogue are not
    independent. Each sample scores both systems on the same draw. The p-value is twice the smaller share of
    samples with a difference on either side of 0, each with one sample added (Davison and Hinkley 1997, sec. 4.2),
    so it is never below ``2 / (samples + 1)``.

    If systems were trained with several seeds, the difference is the mean over the seeds, and every sample also draws
    seeds with replacement, the same ones for both systems. The interval then covers other dialogues and other seeds.
    With few seeds it is too narrow for the latter, because n draws out of n seeds have only (n - 1) / n of the
    variance.

    Args:
        a: Predictions of the first system, or a sequence with one per seed.
        b: Predictions of the second system for the same utterances, in any order; with the same seeds in the same
            order.
        samples: Number of draws.
        seed: Seed of the draws.

    Returns:
        The difference ``b - a``, its 95 % interval, and the p-value.

    Raises:
        PredictionsError: Classes, utterances or gold labels differ, or nothing is labelled.
        ValueError: ``samples`` is below 1, or the numbers of seeds are 0 or differ.
    """
    if samples < 1:
        raise ValueError(f"The bootstrap got samples={samples}, expected at least 1.")
    firsts, seconds = ([x] if isinstance(x, Predictions) else list(x) for x in (a, b))
    if not firsts or len(firsts) != len(seconds):
        raise ValueError(
            f"The bootstrap got {len(firsts)} and {len(seconds)} sets of predictions, expected one per system and seed."
        )
    reference = firsts[0]
    if not (reference.gold != IGNORE_INDEX).any():
        raise PredictionsError("The bootstrap got no labelled utterance, expected at least one.")
    tables = torch.stack(
        [torch.stack([by_dialogue(aligned(reference, x)) for x in system]) for system in (firsts, seconds)]
    )
    seeds, dialogues = tables.shape[1:3]
    generator, generator_of_seeds = np.random.default_rng(seed), np.random.default_rng([seed, seeds])
    differences = []
    for start in range(0, samples, 1000):
        size = min(1000, samples - start)
        counts = drawn_counts(generator, dialogues, size)
        first, second = weighted_f1(torch.einsum("sd,krdgp->ksrgp", counts, tables))
        share = drawn_counts(generator_of_seeds, seeds, size) / seeds
        differences.append(((second - first) * share).sum(1))
    drawn = torch.cat(differences)
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    observed = weighted_f1(tables.sum(dim=2)).mean(dim=1)
    return BootstrapResult(
        float(observed[1] - observed[0]), percentile_interval(drawn), min(1.0, 2 * (tail + 1) / (samples + 1))
    )


def pooled(folds: Sequence[Predictions]) -> Predictions:
    """The predictions of all folds of a cross-validation; those of a fold that ran several times are averaged.

    Args:
        folds: Predictions on test data that are the same or have no utterance in common.

    Raises:
        PredictionsError: Test data overlap in part, or have other emotions.
    """
    groups: dict[frozenset[UtteranceKey], list[Predictions]] = {}
    for one in folds:
        groups.setdefault(frozenset(one.keys), []).append(one)
    parts = [ensemble(members) for members in groups.values()]
    first = parts[0]
    for other in parts[1:]:
        if other.labels != first.labels:
            raise PredictionsError("Folds have other emotions: expected predictions of one corpus.")
    return Predictions(
        first.labels,
        [key for part in parts for key in part.keys],
        torch.cat([part.gold for part in parts]),
        torch.cat([part.probabilities for part in parts]),
        lines=[line for part in parts for line in part.lines] if all(part.lines for part in parts) else (),
    )


def ensemble(predictions: Sequence[Predictions]) -> Predictions:
    """Average the probabilities of several models, for example of all seeds.

    Args:
        predictions: At least one, for the same utterances in any order.

    Returns:
        The predictions of the ensemble in the order of the first; ``.metrics()`` scores them. A modality is present if
        any member had it.

    Raises:
        PredictionsError: Classes, utterances or gold labels differ.
        ValueError: There are no predictions.
    """
    if not predictions:
        raise ValueError("An ensemble needs at least one set of predictions.")
    first = predictions[0]
    members = [aligned(first, other) for other in predictions]
    mean = torch.stack([one.probabilities for one in members]).mean(dim=0)
    present: dict[str, Tensor] = {}
    for one in members:
        present |= {name: there | present.get(name, there) for name, there in one.present.items()}
    return Predictions(first.labels, first.keys, first.gold, mean, present, first.lines)


def aligned(reference: Predictions, other: Predictions) -> Predictions:
    """``other`` in the order of ``reference``.

    Raises:
        PredictionsError: Classes, utterances or gold labels differ.
    """
    if other.labels.names != reference.labels.names:
        raise PredictionsError(
            f"Predictions of the classes {reference.labels.names} and {other.labels.names}: expected the same ones."
        )
    row = {key: index for index, key in enumerate(other.keys)}
    missing = [UtteranceKey(*key) for key in reference.keys if key not in row]
    if missing or len(row) != len(reference.keys):
        raise PredictionsError(
            f"Predictions of {len(reference.keys)} and of {len(row)} utterances, {len(missing)} of the first not in "
            f"the second{f' (first: {missing[0]})' if missing else ''}: expected the same utterances of one split."
        )
    rows = torch.tensor([row[key] for key in reference.keys], dtype=torch.long)
    different = (other.gold[rows] != reference.gold).nonzero().flatten()
    if len(different):
        raise PredictionsError(
            f"Gold labels differ for {len(different)} utterances (first: {reference.keys[int(different[0])]}): "
            "expected predictions on the same annotation."
        )
    return Predictions(
        other.labels,
        reference.keys,
        reference.gold,
        other.probabilities[rows],
        {name: there[rows] for name, there in other.present.items()},
    )


def by_dialogue(predictions: Predictions, only: Tensor | None = None) -> Tensor:
    """Confusion matrices ``(D, C, C)`` of the dialogues, in order of first appearance.

    Args:
        predictions: Of N utterances.
        only: ``(N,)`` booleans: the utterances to count. Default: all that are labelled.
    """
    classes = len(predictions.labels)
    order: dict[tuple[str, str], int] = {}
    dialogue = torch.tensor([order.setdefault(key[:2], len(order)) for key in predictions.keys])
    labelled = predictions.gold != IGNORE_INDEX
    labelled = labelled if only is None else labelled & only
    cell = (dialogue * classes + predictions.gold) * classes + predictions.predicted
    counts = cell[labelled].bincount(minlength=len(order) * classes * classes)
    return counts.double().reshape(len(order), classes, classes)
