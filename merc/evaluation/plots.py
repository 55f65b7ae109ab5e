"""Plots: figures for reports and TensorBoard, without pyplot's global state."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from merc.labels import IGNORE_INDEX, LabelSet

if TYPE_CHECKING:
    from merc.evaluation.values import ValuePredictions


def confusion_figure(confusion: Tensor, labels: LabelSet, title: str = "") -> Figure:
    """Draw a confusion matrix: counts, and the share of each label in percent, which also gives the colour.

    Args:
        confusion: ``(C, C)`` counts in the order of ids; rows are labels, columns predictions.
        labels: Names of the classes, which are drawn in the column order of the published tables.
        title: Printed above the matrix.

    Returns:
        A figure on an Agg canvas: ``figure.savefig(path)``, or ``add_figure`` of TensorBoard.
    """
    order = labels.report_ids
    counts = confusion.detach().cpu()[order][:, order]
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    side = 1.6 + 0.85 * len(labels)
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    names = [labels.names[index] for index in order]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
    support = counts.sum(dim=1).tolist()
    axes.set_yticks(range(len(names)), [f"{name} ({number})" for name, number in zip(names, support, strict=True)])
    axes.set_xlabel("predicted")
    axes.set_ylabel("label (utterances)")
    axes.set_title(title)
    for row, values in enumerate(counts.tolist()):
        for column, count in enumerate(values):
            part = float(share[row, column])
            colour = "white" if part > 0.55 else "black"
            text = f"{count}\n{100 * part:.1f}%"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    return figure


def svg(figure: Figure) -> str:
    """A figure as an ``<svg>`` element with text as text, the same for the same figure, to stand inside HTML."""
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "merc"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", text.getvalue(), flags=re.DOTALL)


def empty_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one pair of axes, of a size in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def interval_figure(
    rows: Sequence[tuple[str, float, tuple[float, float]]], title: str, *, zero: bool = False
) -> Figure:
    """Draw values with their intervals, one below the other.

    Args:
        rows: Name, value and interval, from the top.
        title: What the values are; written below the axis.
        zero: Mark 0, and colour what an interval tells apart from it.
    """
    figure, axes = empty_figure(7.5, 0.7 + 0.3 * len(rows))
    for row, (_, value, (low, high)) in enumerate(reversed(rows)):
        clear = zero and not low <= 0 <= high
        axes.plot([low, high], [row, row], color="C3" if clear else "0.55", linewidth=2)
        axes.plot([value], [row], "o", color="C3" if clear else "C0")
    if zero:
        axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, *_ in reversed(rows)])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(title)
    return figure


def bars_figure(columns: Sequence[str], bars: Mapping[str, Sequence[Sequence[float]]], title: str) -> Figure:
    """Draw groups of bars: the mean over the runs, with a point for every run.

    Args:
        columns: Names of the groups of bars.
        bars: By the name of the bar, for every group the values of all runs.
        title: What the values are.
    """
    figure, axes = empty_figure(max(7.5, 1.2 + 0.28 * len(columns) * (len(bars) + 1)), 3.6)
    width = 0.8 / max(1, len(bars))
    for index, (name, values) in enumerate(bars.items()):
        places = [column + (index - (len(bars) - 1) / 2) * width for column in range(len(columns))]
        axes.bar(places, [sum(v) / len(v) for v in values], width * 0.92, label=name, color=f"C{index % 10}")
        for place, runs in zip(places, values, strict=True):
            if len(runs) > 1:
                axes.plot([place] * len(runs), list(runs), ".", color="0.15", markersize=3)
    axes.set_xticks(range(len(columns)), [textwrap.fill(column, 12) for column in columns])
    axes.set_ylabel(title)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def curves_figure(curves: Mapping[str, Sequence[tuple[float, float]]], across: str, up: str) -> Figure:
    """Draw curves in one pair of axes.

    Args:
        curves: Points by the name of the curve.
        across: What the first coordinate is.
        up: What the second is.
    """
    figure, axes = empty_figure(7.5, 3.4)
    for name, points in curves.items():
        axes.plot([x for x, _ in points], [y for _, y in points], ".-", label=name, markersize=4)
    axes.set(xlabel=across, ylabel=up)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def values_figure(predictions: ValuePredictions) -> Figure:
    """Draw predicted over annotated numbers, a plot for every dimension.

    Args:
        predictions: The predictions; utterances without a number are left out.
    """
    count = len(predictions.dimensions)
    figure = Figure(figsize=(3.2 * count + 0.5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for column, (name, (low, high)) in enumerate(predictions.dimensions.items()):
        axes = figure.add_subplot(1, count, column + 1)
        axes.plot([low, high], [low, high], color="0.6", linewidth=0.8)
        axes.plot(predictions.gold[:, column], predictions.values[:, column], ".", markersize=3, alpha=0.5)
        axes.set(xlabel="annotated", ylabel="predicted", title=name)
    return figure


def shares_figure(shares: Mapping[str, float], title: str) -> Figure:
    """Draw numbers from 0 to 1 as bars, one below the other.

    Args:
        shares: By name, from the top.
        title: What they are; written below the axis.
    """
    figure, axes = empty_figure(7.5, 0.9 + 0.32 * len(shares))
    rows = list(shares.items())[::-1]
    axes.barh([name for name, _ in rows], [share for _, share in rows], color="C0")
    axes.set_xlim(0, 1)
    axes.set_xlabel(title)
    return figure


def history_figure(
    trials: Sequence[tuple[int, float, bool]], title: str, *, recipe: float | None = None, best: str = "max"
) -> Figure:
    """Draw the scores of a search, trial by trial, with the best so far.

    Args:
        trials: Number, score, and whether the trial was finished, in order.
        title: What the scores are.
        recipe: The score before the search, marked by a line.
        best: Whether the ``max`` or the ``min`` is best.
    """
    figure, axes = empty_figure(7.5, 3.6)
    finished = [(number, score) for number, score, whole in trials if whole]
    pruned = [(number, score) for number, score, whole in trials if not whole]
    axes.plot(*zip(*finished, strict=True), "o", color="C0", markersize=4, label="finished")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", color="0.6", markersize=5, label="pruned, last score")
    pick = max if best == "max" else min
    so_far = [pick(score for _, score in finished[: index + 1]) for index in range(len(finished))]
    axes.step([number for number, _ in finished], so_far, where="post", color="C3", label="best so far")
    if recipe is not None:
        axes.axhline(recipe, color="0.3", linewidth=0.8, linestyle="--", label="the pipeline as it is")
    axes.set_xlabel("trial")
    axes.set_ylabel(title)
    axes.legend(fontsize=8, frameon=False)
    return figure


def uncertainty_figure(
    diagrams: Sequence[Sequence[tuple[float, float, int]]], coverage: Sequence[float], risk: Sequence[float]
) -> Figure:
    """Draw a reliability diagram beside the curve of risk by coverage.

    Args:
        diagrams: Bins of confidence, accuracy and count: of the probabilities as they are, and after calibration.
        coverage: Shares of utterances that are answered, ascending.
        risk: Shares of wrong answers among them.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    for index, (bins, name) in enumerate(zip(diagrams, ("as they are", "with temperature"), strict=False)):
        confidence, accuracy, _ = zip(*bins, strict=True)
        left.plot(confidence, accuracy, "o-", color=f"C{index}", label=name, markersize=4)
    left.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title="Reliability")
    left.legend(fontsize=8, frameon=False)
    right.plot(coverage, risk, color="C0")
    right.set(xlabel="share of utterances answered", ylabel="share of wrong answers", xlim=(0, 1), title="Abstention")
    right.set_ylim(bottom=0)
    return figure


def points_figure(points: Tensor, label: Tensor, labels: LabelSet, title: str = "") -> Figure:
    """Draw utterances as points, coloured by their label.

    Args:
        points: ``(N, 2)``, for example of :func:`merc.evaluation.tsne`.
        label: ``(N,)`` label ids; unlabelled utterances, -100, are grey.
        labels: Names of the classes, listed in the column order of the published tables.
        title: Printed above.

    Returns:
        A figure on an Agg canvas.
    """
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (index, name) in enumerate(
        [(IGNORE_INDEX, "unlabelled"), *((i, labels.names[i]) for i in labels.report_ids)]
    ):
        own = points[label == index].numpy()
        if len(own):
            colour = "lightgrey" if index == IGNORE_INDEX else f"C{number - 1}"
            axes.scatter(own[:, 0], own[:, 1], s=8, color=colour, label=f"{name} ({len(own)})", linewidths=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title)
    figure.legend(loc="outside right upper", markerscale=2, frameon=False)
    return figure
