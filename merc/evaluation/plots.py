"""Plots: figures for reports and TensorBoard, without pyplot's global state."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from merc.labels import LabelSet


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
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(share.numpy(), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the label")
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
