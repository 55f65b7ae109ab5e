"""``report.html``: everything that a run found out, on one page that loads nothing."""

from __future__ import annotations

import base64
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from merc.evaluation.comparison import by_dialogue, compare_seeds, ensemble
from merc.evaluation.draws import drawn_counts, percentile_interval
from merc.evaluation.folds import compare_folds
from merc.evaluation.ledger import Opening, describe_ledger
from merc.evaluation.metrics import weighted_f1
from merc.evaluation.plots import bars_figure, curves_figure, interval_figure, svg
from merc.evaluation.predictions import Predictions, read_predictions
from merc.evaluation.report import METRICS, REPORT, UNCERTAINTY
from merc.evaluation.tables import html_page, html_table
from merc.files import write_text
from merc.labels import IGNORE_INDEX, LabelSet

_SAMPLES = 2000
_WORST = 15
"""Errors that are listed."""

_STYLE = """
details { margin: 1em 0; } summary { cursor: pointer; font-size: 1.2em; font-weight: 600; }
.errors td:nth-child(3) { text-align: left; white-space: normal; min-width: 18em; }
.confusion td:not(:first-child) { text-align: center; border: 1px solid #fff; }
img { max-width: 100%; height: auto; }
"""


@dataclass(frozen=True)
class SeedRun:
    """One training of a stage, and what its test left.

    Args:
        folder: The folder of the stage, which has its logs and its report.
        seed: The seed.
    """

    folder: Path
    seed: int | None = None

    @property
    def metrics(self) -> dict[str, Any]:
        """The content of ``metrics.json``."""
        content: dict[str, Any] = json.loads((self.folder / REPORT / METRICS).read_text(encoding="utf-8"))
        return content

    @property
    def predictions(self) -> Predictions:
        """What it predicted for the test split."""
        return read_predictions(self.folder / REPORT)


def write_run_page(
    file: str | Path,
    title: str,
    stages: Mapping[str, Sequence[SeedRun]],
    *,
    ledger: Sequence[Opening] = (),
    optimum: Mapping[str, float] | None = None,
) -> None:
    """Write the page of a run.

    Args:
        file: ``report.html``.
        title: Of the page.
        stages: By stage, its trainings.
        ledger: Every reading of the test split.
        optimum: By stage, the best weighted F1 that any model can reach, in percent, if it is known.

    Raises:
        ValueError: No stage was tested, or their classes differ.
        PredictionsError: Predictions cannot be read.
        OSError: The page cannot be written.
    """
    metrics = {name: [run.metrics for run in runs] for name, runs in stages.items()}
    predictions = {name: [run.predictions for run in runs] for name, runs in stages.items()}
    body = [*_overview(metrics, predictions, optimum or {})]
    for number, name in enumerate(reversed(list(stages))):  # the last stage is what the run is for
        opened = " open" if number == 0 else ""
        content = "\n".join(_stage(stages[name], metrics[name], predictions[name]))
        body.append(f"<details{opened}><summary>{escape(name)}</summary>\n{content}\n</details>")
    body += [*_ledger(ledger), *_provenance(metrics)]
    write_text(Path(file), html_page(title, body, _STYLE))


def _overview(
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    predictions: Mapping[str, Sequence[Predictions]],
    optimum: Mapping[str, float],
) -> Iterator[str]:
    comparison = compare_seeds(metrics, optimum)
    header, rows = comparison.texts()
    rows_of = [(row.name, row.mean["weighted_f1"], score_interval(predictions[row.name])) for row in comparison.rows]
    yield "<h2>Scores</h2>"
    yield svg(interval_figure(rows_of, "weighted F1, percent, with 95 % intervals over dialogues and runs"))
    yield html_table(header, rows)
    yield '<p class="note">In percent, mean ± standard deviation over the runs.</p>'
    if folds := compare_folds(metrics):
        yield f"<pre>{escape(folds)}</pre>"


def score_interval(runs: Sequence[Predictions], seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of the mean weighted F1 of some runs, by a bootstrap over dialogues and runs.

    Args:
        runs: Of one system. Those that predict the same dialogues get the same draws of them.
        seed: Of the draws.

    Returns:
        Its ends, in percent.
    """
    scores = torch.stack([_drawn_scores(run, np.random.default_rng(seed)) for run in runs], 1)
    chosen = drawn_counts(np.random.default_rng(seed + 1), len(runs), _SAMPLES)
    return percentile_interval(100 * (scores * chosen).sum(1) / len(runs))


def _drawn_scores(run: Predictions, generator: np.random.Generator) -> Tensor:
    """The weighted F1 of as many draws of the dialogues."""
    tables = by_dialogue(run)
    drawn = drawn_counts(generator, len(tables), _SAMPLES) @ tables.flatten(1)
    return weighted_f1(drawn.view(_SAMPLES, *tables.shape[1:]))


def _stage(
    runs: Sequence[SeedRun], metrics: Sequence[Mapping[str, Any]], predictions: Sequence[Predictions]
) -> Iterator[str]:
    labels = predictions[0].labels
    names = list(labels.report_order)
    yield f"<p>{escape(str(metrics[0]['info']['model']))}</p>"
    yield "<h3>Emotions</h3>"
    bars = {"F1": [[100 * found[f"f1/{name}"] for found in metrics] for name in names]}
    yield svg(bars_figure(names, bars, "F1, percent; a point for every run"))
    yield "<h3>Confusion over all runs</h3>"
    confusion = torch.stack([run.confusion for run in predictions]).sum(0).long()
    yield _confusion_table(confusion, labels)
    if all("uncertainty" in found for found in metrics):
        yield "<h3>Probabilities</h3>"
        yield from _uncertainty(runs[0], metrics)
    for kind, heading, across in (
        ("without", "Without a modality", "utterances that lose it, percent"),
        ("noise", "With noise in a modality", "noise over signal, percent"),
    ):
        if parts := [found[kind] for found in metrics if found.get(kind)]:
            yield f"<h3>{heading}</h3>"
            curves = {
                name: [(100 * float(at), 100 * statistics.fmean(of[name][at] for of in parts)) for at in of_first]
                for name, of_first in parts[0].items()
            }
            yield svg(curves_figure(curves, across, "weighted F1, percent"))
    curves = {}
    for run in runs:
        for tag, points in learning_curves(run.folder).items():
            curves[f"{tag}, seed {run.seed}" if len(runs) > 1 else tag] = points
    if curves:
        yield "<h3>Learning</h3>"
        yield svg(curves_figure(curves, "step", "weighted F1 on val"))
    yield from _errors(predictions)
    links = ", ".join(f"seed {run.seed}: {escape(str(run.folder / REPORT))}" for run in runs)
    yield f'<p class="note">All numbers of each run: {links}.</p>'


def _confusion_table(confusion: Tensor, labels: LabelSet) -> str:
    """A confusion matrix as HTML: counts, and the share of each label in percent, which also gives the colour.

    Args:
        confusion: ``(C, C)`` counts in the order of ids; rows are labels, columns predictions.
        labels: Names of the classes, in the column order of the published tables.
    """
    order = labels.report_ids
    counts = confusion[order][:, order]
    share = counts.double() / counts.sum(dim=1, keepdim=True).clamp(min=1)
    names = [escape(labels.names[index]) for index in order]
    rows = []
    for name, row, parts in zip(names, counts.tolist(), share.tolist(), strict=True):
        cells = [
            f'<td style="background: rgb(8 48 107 / {part:.2f}); color: {"#fff" if part > 0.45 else "#222"}">'
            f"{count}<br>{100 * part:.1f}%</td>"
            for count, part in zip(row, parts, strict=True)
        ]
        rows.append(f"<tr><td>{name} ({sum(row)})</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("label (utterances) \\ predicted", *names))
    return (
        f'<div class="wide confusion"><table><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(rows)
        + "</tbody></table></div>"
    )


def _uncertainty(run: SeedRun, metrics: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    plot = base64.b64encode((run.folder / REPORT / UNCERTAINTY).read_bytes()).decode()  # drawn for its report.md
    yield f'<img alt="Reliability, and risk by coverage" src="data:image/png;base64,{plot}">'
    rows, nominal = [], [f"{part['nominal']:.0%}" for part in metrics[0]["uncertainty"].get("conformal", [])]
    for one in metrics:
        of_run = one["uncertainty"]
        errors = [of_run.get(name, {}).get("ece") for name in ("calibration", "calibration_after")]
        cells = ["" if error is None else f"{100 * error:.1f}" for error in errors]
        covered = [f"{100 * part['coverage']:.1f} ({part['size']:.2f})" for part in of_run.get("conformal", [])]
        risk = f"{100 * of_run['abstention']['risk_at_80']:.1f}"
        rows.append([str(one["info"]["seed"]), *cells, risk, *covered])
    header = ["Seed", "ECE %", "ECE % with temperature", "Wrong % at 80 % answered"]
    yield html_table([*header, *(f"Sets for {share}: covered % (size)" for share in nominal)], rows)
    if len(metrics) > 1:
        yield '<p class="note">The plot is of the first run.</p>'


def _errors(predictions: Sequence[Predictions]) -> Iterator[str]:
    """The most confident errors, with their text."""
    same = all(run.keys == predictions[0].keys for run in predictions)
    run = ensemble(predictions) if same and len(predictions) > 1 else predictions[0]
    wrong = (run.gold != IGNORE_INDEX) & (run.predicted != run.gold)
    confidence = run.probabilities.max(1).values
    order = [row for row in confidence.argsort(descending=True).tolist() if wrong[row]][:_WORST]
    if not order:
        return
    yield "<h3>The surest errors</h3>"
    lines, names = predictions[0].lines, run.labels.names
    rows = [
        [
            str(run.keys[row]),
            *(lines[row] if lines else ("", "")),
            names[int(run.gold[row])],
            names[int(run.predicted[row])],
            f"{100 * float(confidence[row]):.0f} %",
        ]
        for row in order
    ]
    header = ["Utterance", "Speaker", "Words", "Label", "Predicted", "Probability"]
    yield f'<div class="errors">{html_table(header, rows)}</div>'


def learning_curves(folder: str | Path) -> dict[str, list[tuple[float, float]]]:
    """The weighted F1 on ``val`` by step, as the training logged it for TensorBoard.

    Args:
        folder: The folder of the training.

    Returns:
        Points by name; empty if nothing was logged.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    points: dict[float, float] = {}
    for file in sorted(Path(folder).glob("events.out.tfevents.*")):  # one for each call of the trainer
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        tags = events.Tags()["scalars"]
        if "val/weighted_f1" in tags and any(tag.startswith("train/") for tag in tags):  # not the last validation
            points |= {event.step: 100 * event.value for event in events.Scalars("val/weighted_f1")}
    return {"val": sorted(points.items())} if points else {}


def _ledger(ledger: Sequence[Opening]) -> Iterator[str]:
    if not ledger:
        return
    yield "<h2>Test split</h2>"
    yield f"<p>{escape(describe_ledger(ledger).capitalize())}.</p>"
    rows = [[o.time, o.data, o.config[:12], "" if o.seed is None else str(o.seed), o.selected_on] for o in ledger]
    table = html_table(["Read at (UTC)", "Data", "Configuration", "Seed", "Chosen by"], rows)
    yield f"<details><summary>All {len(ledger)} times</summary>{table}</details>"


def _provenance(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    yield "<h2>Where it comes from</h2>"
    info = next(iter(metrics.values()))[0]["info"]
    told = {
        "Corpus": info["corpus"],
        "Protocol": info["protocol"],
        "Versions": f"merc {info['merc_version']}, PyTorch {info['torch_version']}",
    }
    items = [f"<li>{escape(name)}: {escape(str(value))}</li>" for name, value in told.items() if value]
    items += [f"<li>{escape(note)}</li>" for note in info["notes"]]
    yield f"<ul>{''.join(items)}</ul>"
    stores: dict[str, Mapping[str, Any]] = {}
    for found in metrics.values():
        for store in found[0]["info"]["stores"].values():
            stores.setdefault(store["path"], store["provenance"])
    for path, provenance in stores.items():
        text = json.dumps(provenance, indent=1, ensure_ascii=False)
        yield f"<details><summary>{escape(path)}</summary><pre>{escape(text)}</pre></details>"
