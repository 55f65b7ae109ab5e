"""Systems that predict numbers, side by side: over seeds, and head to head."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from merc.evaluation.head_to_head import holm
from merc.evaluation.plots import bars_figure, interval_figure, svg
from merc.evaluation.predictions import PredictionsError
from merc.evaluation.tables import html_page, html_table, latex_table, markdown_table
from merc.evaluation.values import (
    AGREEMENT,
    ValueDifference,
    ValuePredictions,
    aligned_values,
    paired_value_bootstrap,
)
from merc.files import write_json, write_text

_TITLES = {"ccc": "CCC", "pearson": "Pearson", "mae": "MAE"}
_Rows = tuple[list[str], list[list[str]]]


def compare_value_seeds(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], optimum: Mapping[str, float] | None = None
) -> _Rows:
    """Mean and standard deviation over seeds of systems that predict numbers.

    Args:
        runs: By system, the metrics of each of its runs, from :func:`merc.evaluation.write_value_report`.
        optimum: By system, the highest CCC that any model can reach, if known.

    Returns:
        The header and the rows of a table.

    Raises:
        ValueError: Dimensions differ.
    """
    first = next(iter(runs.values()))[0]
    dimensions = list(first["values"])
    for name, found in runs.items():
        if any(list(run["values"]) != dimensions for run in found):
            raise ValueError(f"{name} has other dimensions than {', '.join(dimensions)}: compare systems on the same.")
    best = optimum or {}
    header = ["", "Runs", *_TITLES.values(), "CCC on val"] + ["Optimum", "Share"] * bool(best)
    header += [f"CCC, {name}" for name in dimensions] if len(dimensions) > 1 else []
    rows = []
    for name, found in runs.items():
        row = [name, str(len(found)), *(_spread([run[score] for run in found]) for score in AGREEMENT)]
        row.append(_spread([run["val"]["ccc"] for run in found]) if all("val" in run for run in found) else "")
        if best:
            share = statistics.fmean(run["ccc"] for run in found) / best[name] if name in best else None
            row += [f"{best[name]:.3f}", f"{100 * share:.1f} %"] if share is not None else ["", ""]
        if len(dimensions) > 1:
            row += [_spread([run["values"][dimension]["ccc"] for run in found]) for dimension in dimensions]
        rows.append(row)
    return header, rows


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def plain_table(rows: _Rows, title: str = "") -> Table:
    """A header and rows for the terminal."""
    table = Table(title=title or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, name in enumerate(rows[0]):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for row in rows[1]:
        table.add_row(*row)
    return table


@dataclass(frozen=True)
class ValuePair:
    """Two systems head to head.

    Args:
        a: The first system.
        b: The second.
        runs: How many runs are paired.
        differences: By dimension and score (``ccc``, ``pearson``, ``mae``), b - a.
        corrected: By dimension, the p-value of the CCC after Holm's correction over all pairs and dimensions.
    """

    a: str
    b: str
    runs: int
    differences: Mapping[str, Mapping[str, ValueDifference]]
    corrected: Mapping[str, float]


@dataclass(frozen=True)
class ValueComparison:
    """The result of :func:`compare_values`.

    Args:
        dimensions: The dimensions that can be compared.
        untested: Those that cannot, as fewer than two utterances are annotated in them.
        utterances: Number of annotated utterances.
        dialogues: Number of dialogues.
        scores: By system, dimension and score, the score of each run.
        pairs: Every pair of systems.
        samples: Draws of the bootstrap.
    """

    dimensions: tuple[str, ...]
    untested: tuple[str, ...]
    utterances: int
    dialogues: int
    scores: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]
    pairs: Sequence[ValuePair]
    samples: int

    def systems_table(self) -> _Rows:
        """Scores of every system."""
        header = ["", "", "Runs", *_TITLES.values()]
        rows = [
            [name, dimension, str(len(of["ccc"])), *(_spread(of[score]) for score in AGREEMENT)]
            for name, scores in self.scores.items()
            for dimension, of in scores.items()
        ]
        return header, rows

    def pairs_table(self) -> _Rows:
        """Differences of every pair."""
        header = ["b - a", "", "CCC", "95 %", "p", "Pearson", "95 %", "MAE", "95 %"]
        rows = []
        for pair in self.pairs:
            for dimension, of in pair.differences.items():
                p = pair.corrected[dimension]
                star = " *" if p < 0.05 else ""
                row = [f"{pair.b} - {pair.a}", dimension, f"{of['ccc'].difference:+.3f}{star}", _range(of["ccc"])]
                row.append("< 0.001" if p < 0.001 else f"{p:.3f}")
                for score in ("pearson", "mae"):
                    row += [f"{of[score].difference:+.3f}", _range(of[score])]
                rows.append(row)
        return header, rows

    @property
    def title(self) -> str:
        """What is compared."""
        return f"{len(self.scores)} systems head to head: {', '.join(self.dimensions)}"

    @property
    def told(self) -> str:
        """What the tables show."""
        left_out = f" Not annotated: {', '.join(self.untested)}." if self.untested else ""
        return (
            f"{self.utterances} annotated utterances of {self.dialogues} dialogues; {self.samples:,} draws of "
            "dialogues and runs. p: that the CCC does not differ, with Holm's correction over all pairs and "
            "dimensions; * below 0.05. A lower MAE is better."
            f"{left_out}"
        )

    def markdown(self) -> str:
        """The comparison as Markdown."""
        tables = [markdown_table(*self.systems_table()), "## Head to head", markdown_table(*self.pairs_table())]
        return "\n\n".join([f"# {self.title}", self.told, *tables]) + "\n"

    def latex(self) -> str:
        """Scores and pairs as LaTeX tables, which need the package ``booktabs``."""
        tables = [latex_table(*self.systems_table(), "Scores"), latex_table(*self.pairs_table(), self.told)]
        return "\n\n".join([f"% {self.title}", *tables]) + "\n"

    def html(self) -> str:
        """The comparison as one HTML page, which loads nothing."""
        bars = {n: [of[dimension]["ccc"] for dimension in self.dimensions] for n, of in self.scores.items()}
        differences = [
            (f"{pair.b} - {pair.a}, {dimension}", of["ccc"].difference, of["ccc"].interval)
            for pair in self.pairs
            for dimension, of in pair.differences.items()
        ]
        body = [
            f"<p>{escape(self.told)}</p>",
            "<h2>Scores</h2>",
            svg(bars_figure(self.dimensions, bars, "CCC; a point for every run")),
            html_table(*self.systems_table()),
            "<h2>Head to head</h2>",
            svg(interval_figure(differences, "difference in CCC, with 95 % intervals", zero=True)),
            html_table(*self.pairs_table()),
        ]
        return html_page(self.title, body)

    def plain(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        pairs = [
            {
                "a": pair.a,
                "b": pair.b,
                "runs": pair.runs,
                "corrected": dict(pair.corrected),
                "differences": {
                    dimension: {name: one._asdict() for name, one in of.items()}
                    for dimension, of in pair.differences.items()
                },
            }
            for pair in self.pairs
        ]
        return {**vars(self), "pairs": pairs}

    def write(self, out: str | Path) -> Path:
        """Write ``compare.html``, ``.md``, ``.tex`` and ``.json`` into a folder; the path of the first."""
        write_json(Path(out) / "compare.json", self.plain())
        write_text(Path(out) / "compare.md", self.markdown())
        write_text(Path(out) / "compare.tex", self.latex())
        write_text(Path(out) / "compare.html", self.html())
        return Path(out) / "compare.html"


def print_value_comparison(found: ValueComparison, console: Console) -> None:
    """Print a comparison to a terminal.

    Args:
        found: The comparison.
        console: Where to print.
    """
    for rows in (found.systems_table(), found.pairs_table()):
        console.print(plain_table(rows))
    console.print("p: of the CCC, corrected over all pairs and dimensions (Holm). A lower MAE is better.")


def _range(found: ValueDifference) -> str:
    return f"{found.interval[0]:+.3f} to {found.interval[1]:+.3f}"


def compare_values(
    systems: Mapping[str, Sequence[ValuePredictions]], *, samples: int = 10_000, seed: int = 0
) -> ValueComparison:
    """Compare every pair of systems that predict numbers on the same utterances.

    Args:
        systems: Two or more: by name the predictions of each run, in the same order of seeds.
        samples: Draws of the bootstrap.
        seed: Seed of the draws.

    Raises:
        PredictionsError: Dimensions, utterances or gold numbers differ, or nothing is annotated.
        ValueError: There are fewer than two systems, or their numbers of runs are 0 or differ.
    """
    if len(systems) < 2:
        raise ValueError(f"Got {len(systems)} systems, expected two at least.")
    reference = next(iter(systems.values()))[0]
    scores: dict[str, dict[str, dict[str, list[float]]]] = {}
    for name, runs in systems.items():
        try:
            found = [aligned_values(reference, run).scores() for run in runs]
        except PredictionsError as error:
            raise PredictionsError(f"{name} cannot be compared with the others: {error}") from error
        scores[name] = {
            dimension: {score: [run[dimension][score] for run in found] for score in AGREEMENT}
            for dimension in reference.dimensions
        }
    names = list(combinations(systems, 2))
    differences = [paired_value_bootstrap(systems[a], systems[b], samples, seed) for a, b in names]
    tested = tuple(differences[0])
    corrected = iter(holm([of["ccc"].p for found in differences for of in found.values()]))
    pairs = [
        ValuePair(a, b, len(systems[a]), found, {dimension: next(corrected) for dimension in found})
        for (a, b), found in zip(names, differences, strict=True)
    ]
    return ValueComparison(
        tested,
        tuple(dimension for dimension in reference.dimensions if dimension not in tested),
        int((~reference.gold.isnan()).any(1).sum()),
        len({key[:2] for key in reference.keys}),
        {name: {dimension: of[dimension] for dimension in tested} for name, of in scores.items()},
        pairs,
        samples,
    )
