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
from merc.evaluation.folds import compare_folds, compare_value_folds
from merc.evaluation.ledger import Opening, describe_ledger
from merc.evaluation.metrics import weighted_f1
from merc.evaluation.plots import bars_figure, curves_figure, interval_figure, svg, values_figure
from merc.evaluation.predictions import Predictions, read_predictions
from merc.evaluation.report import METRICS, REPORT, UNCERTAINTY, of_emotions, of_values
from merc.evaluation.tables import html_page, html_table
from merc.evaluation.value_comparison import compare_value_seeds
from merc.evaluation.values import ValuePredictions, agreement, read_value_predictions
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
        """The emotions that it predicted for the test split."""
        return read_predictions(self.folder / REPORT)

    @property
    def values(self) -> ValuePredictions:
        """The numbers that it predicted for the test split."""
        dimensions = {name: (low, high) for name, (low, high) in self.metrics["dimensions"].items()}
        return read_value_predictions(self.folder / REPORT, dimensions)


def write_run_page(
    file: str | Path,
    title: str,
    stages: Mapping[str, Sequence[SeedRun]],
    *,
    ledger: Sequence[Opening] = (),
    optimum: Mapping[str, float] | None = None,
    value_optimum: Mapping[str, float] | None = None,
) -> None:
    """Write the page of a run, whose stages predict emotions, numbers, or both.

    Args:
        file: ``report.html``.
        title: Of the page.
        stages: By stage, its trainings.
        ledger: Every reading of the test split.
        optimum: By stage, the best weighted F1 that any model can reach, in percent, if it is known.
        value_optimum: By stage, the highest CCC that any model can reach, if it is known.

    Raises:
        ValueError: No stage was tested, or their classes differ.
        PredictionsError: Predictions cannot be read.
        OSError: The page cannot be written.
    """
    metrics = {name: [run.metrics for run in runs] for name, runs in stages.items()}
    emotions = {name: [run.predictions for run in stages[name]] for name in of_emotions(metrics)}
    values = {name: [run.values for run in stages[name]] for name in of_values(metrics)}
    body = ["<h2>Scores</h2>"]
    if emotions:
        body += _overview({name: metrics[name] for name in emotions}, emotions, optimum or {})
    if values:
        body += _value_overview({name: metrics[name] for name in values}, values, value_optimum or {})
    for number, name in enumerate(reversed(list(stages))):  # the last stage is what the run is for
        opened = " open" if number == 0 else ""
        parts = [f"<p>{escape(str(metrics[name][0]['info']['model']))}</p>"]
        if name in emotions:
            parts += _stage(stages[name], metrics[name], emotions[name])
        if name in values:
            parts += _value_stage(stages[name], metrics[name], values[name])
        links = ", ".join(f"seed {run.seed}: {escape(str(run.folder / REPORT))}" for run in stages[name])
        content = "\n".join([*parts, f'<p class="note">All numbers of each run: {links}.</p>'])
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
    return _interval_over_runs(100 * scores, seed)


def value_interval(runs: Sequence[ValuePredictions], seed: int = 0) -> tuple[float, float]:
    """A 95 % interval of the mean CCC of some runs; see :func:`score_interval`.

    Args:
        runs: Of one system.
        seed: Of the draws.
    """
    drawn = []
    for run in runs:
        table = run.by_dialogue()
        counts = drawn_counts(np.random.default_rng(seed), len(table), _SAMPLES)
        ccc = agreement(torch.einsum("sd,dkm->skm", counts, table))["ccc"]
        drawn.append(ccc[:, (~run.gold.isnan()).any(0)].mean(1))
    return _interval_over_runs(torch.stack(drawn, 1), seed)


def _interval_over_runs(scores: Tensor, seed: int) -> tuple[float, float]:
    """The interval of scores of draws and runs, of which runs are drawn too."""
    runs = scores.shape[1]
    chosen = drawn_counts(np.random.default_rng(seed + 1), runs, _SAMPLES)
    return percentile_interval((scores * chosen).sum(1) / runs)


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
    yield "<h3>Emotions</h3>"
    bars = {"F1": [[100 * found[f"f1/{name}"] for found in metrics] for name in names]}
    yield svg(bars_figure(names, bars, "F1, percent; a point for every run"))
    yield "<h3>Confusion over all runs</h3>"
    confusion = torch.stack([run.confusion for run in predictions]).sum(0).long()
    yield _confusion_table(confusion, labels)
    if all("uncertainty" in found for found in metrics):
        yield "<h3>Probabilities</h3>"
        yield from _uncertainty(runs[0], metrics)
    yield from _stressed(metrics, "", 100, "weighted F1, percent")
    yield from _learning(runs, "val/weighted_f1", 100, "weighted F1 on val, percent")
    yield from _errors(predictions)


def _stressed(metrics: Sequence[Mapping[str, Any]], suffix: str, unit: float, up: str) -> Iterator[str]:
    """What is left of a score where a modality is missing or noisy."""
    for kind, heading, across in (
        ("without", "Without a modality", "utterances that lose it, percent"),
        ("noise", "With noise in a modality", "noise over signal, percent"),
    ):
        if parts := [found[kind + suffix] for found in metrics if found.get(kind + suffix)]:
            yield f"<h3>{heading}</h3>"
            curves = {
                name: [(100 * float(at), unit * statistics.fmean(of[name][at] for of in parts)) for at in of_first]
                for name, of_first in parts[0].items()
            }
            yield svg(curves_figure(curves, across, up))


def _learning(runs: Sequence[SeedRun], score: str, unit: float, up: str) -> Iterator[str]:
    """A score on val by step."""
    curves = {}
    for run in runs:
        if points := learning_curve(run.folder, score):
            name = f"val, seed {run.seed}" if len(runs) > 1 else "val"
            curves[name] = [(step, unit * value) for step, value in points]
    if curves:
        yield "<h3>Learning</h3>"
        yield svg(curves_figure(curves, "step", up))


def _value_overview(
    metrics: Mapping[str, Sequence[Mapping[str, Any]]],
    predictions: Mapping[str, Sequence[ValuePredictions]],
    optimum: Mapping[str, float],
) -> Iterator[str]:
    rows = [
        (name, statistics.fmean(one["ccc"] for one in metrics[name]), value_interval(runs))
        for name, runs in predictions.items()
    ]
    yield svg(interval_figure(rows, "mean CCC, with 95 % intervals over dialogues and runs"))
    yield html_table(*compare_value_seeds(metrics, optimum))
    yield (
        '<p class="note">Means over the dimensions, mean ± standard deviation over the runs. CCC: concordance '
        "correlation coefficient. MAE: mean absolute error.</p>"
    )
    if folds := compare_value_folds(metrics, predictions):
        yield f"<pre>{escape(folds)}</pre>"


def _value_stage(
    runs: Sequence[SeedRun], metrics: Sequence[Mapping[str, Any]], predictions: Sequence[ValuePredictions]
) -> Iterator[str]:
    names = list(predictions[0].dimensions)
    yield "<h3>Numbers</h3>"
    bars = {
        title: [[found["values"][name][score] for found in metrics] for name in names]
        for score, title in (("ccc", "CCC"), ("pearson", "Pearson"))
    }
    yield svg(bars_figure(names, bars, "a point for every run"))
    yield svg(values_figure(predictions[0]))
    if len(predictions) > 1:
        yield '<p class="note">The plot of the utterances is of the first run.</p>'
    yield from _stressed(metrics, "_ccc", 1, "mean CCC")
    yield from _learning(runs, "val/ccc", 1, "mean CCC on val")
    yield from _far_off(predictions[0])


def _far_off(run: ValuePredictions) -> Iterator[str]:
    """The largest errors, in shares of the scale, with their text."""
    width = torch.tensor([high - low or 1.0 for low, high in run.dimensions.values()])
    share = ((run.values - run.gold).abs() / width).nan_to_num(-1)
    order = share.flatten().argsort(descending=True).tolist()[:_WORST]
    rows = []
    for row, column in (divmod(place, len(width)) for place in order):
        if share[row, column] > 0:
            gold, value = float(run.gold[row, column]), float(run.values[row, column])
            said = run.lines[row] if run.lines else ("", "")
            rows.append([str(run.keys[row]), *said, list(run.dimensions)[column], f"{gold:.2f}", f"{value:.2f}"])
    if rows:
        yield "<h3>The largest errors</h3>"
        header = ["Utterance", "Speaker", "Words", "Dimension", "Annotated", "Predicted"]
        yield f'<div class="errors">{html_table(header, rows)}</div>'


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


def learning_curve(folder: str | Path, score: str = "val/weighted_f1") -> list[tuple[float, float]]:
    """A score on ``val`` by step, as the training logged it for TensorBoard.

    Args:
        folder: The folder of the training.
        score: Its name in the logs.

    Returns:
        Points; empty if nothing was logged.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    points: dict[float, float] = {}
    for file in sorted(Path(folder).glob("events.out.tfevents.*")):  # one for each call of the trainer
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        tags = events.Tags()["scalars"]
        if score in tags and any(tag.startswith("train/") for tag in tags):  # not the last validation
            points |= {event.step: event.value for event in events.Scalars(score)}
    return sorted(points.items())


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
