"""A comparison of systems for readers: terminal, Markdown, LaTeX, and one HTML file with plots."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from html import escape
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from merc.evaluation.head_to_head import Difference, HeadToHead, Pair, RunsTest
from merc.evaluation.plots import bars_figure, interval_figure, svg
from merc.evaluation.tables import html_page, html_table, latex_table, markdown_table
from merc.files import write_aside, write_json

_Rows = tuple[list[str], list[list[str]]]


def write_comparison(found: HeadToHead, out: str | Path) -> Path:
    """Write a comparison into a folder.

    Args:
        found: The comparison.
        out: Folder of ``compare.md``, ``compare.tex``, ``compare.html`` and ``compare.json``.

    Returns:
        The path of ``compare.html``, which needs no other file.

    Raises:
        OSError: The files cannot be written.
    """
    out = Path(out)
    texts = {"compare.md": markdown(found), "compare.tex": latex(found), "compare.html": html(found)}
    with ExitStack() as files:
        aside = {name: files.enter_context(write_aside(out / name)) for name in texts}
        for name, text in texts.items():
            aside[name].write_text(text, encoding="utf-8")
    write_json(out / "compare.json", found.plain())
    return out / "compare.html"


def terminal_tables(found: HeadToHead) -> list[Table]:
    """The systems and the pairs, for a terminal of 80 columns."""
    systems = Table(title=found.data or None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    header, rows = _systems(found, classes=False)
    return [_filled(systems, header, rows), _filled(_plain_table(), *_terminal_pairs(found))]


def print_comparison(found: HeadToHead, console: Console) -> None:
    """Print the systems, the pairs, what the data can show, and the notes.

    Args:
        found: The comparison.
        console: Where to.
    """
    for table in terminal_tables(found):
        console.print(table)
    console.print("p: corrected over all pairs (Holm). Visible: the smallest difference that these data can show.")
    console.print(found.power_statement(), markup=False, highlight=False)
    for note in dict.fromkeys(found.notes):
        console.print(f"- {note}", markup=False, highlight=False)


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))


def _filled(table: Table, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", overflow="fold", no_wrap=index > 0)
    for row in rows:
        table.add_row(*row)
    return table


def _terminal_pairs(found: HeadToHead) -> _Rows:
    rows = []
    for pair in found.pairs:
        star = " *" if pair.significant else ""
        rows.append(
            [
                f"{pair.b} - {pair.a}",
                f"{pair.weighted_f1.difference:+.2f}{star}",
                _range(pair.weighted_f1),
                _p(pair.weighted_f1.corrected),
                _test(pair.t_test),
                f"{pair.detectable:.1f}",
            ]
        )
    return ["Weighted F1", "Points", "95 %", "p", "p, t-test", "Visible"], rows


def markdown(found: HeadToHead) -> str:
    """The whole comparison as Markdown."""
    sections = [f"# {_title(found)}", _summary(found)]
    for title, (header, rows), text in _tables(found):
        sections += [f"## {title}", markdown_table(header, rows), text]
    return "\n\n".join(filter(None, [*sections, "## Notes", _bullets(found.notes)])) + "\n"


def _title(found: HeadToHead) -> str:
    return f"{len(found.systems)} systems head to head" + (f": {found.data}" if found.data else "")


def _summary(found: HeadToHead) -> str:
    """What differs by more than chance, and what could be seen."""
    differing = [pair for pair in found.pairs if pair.significant]
    said = [
        f"{pair.b} - {pair.a}: {pair.weighted_f1.difference:+.2f} points "
        f"(95 % {_range(pair.weighted_f1)}, p {_p(pair.weighted_f1.corrected)})"
        for pair in differing
    ]
    start = (
        f"{len(differing)} of {len(found.pairs)} pairs differ by more than chance: {'; '.join(said)}."
        if said
        else f"None of {len(found.pairs)} pairs differs by more than chance."
    )
    return f"{start} {found.power_statement()}"


def _tables(found: HeadToHead) -> list[tuple[str, _Rows, str]]:
    """Title, table and explanation of every part."""
    return [
        (
            "Scores",
            _systems(found, classes=True),
            f"In percent, mean ± standard deviation over the runs, on {found.utterances} labelled utterances of "
            f"{found.dialogues} dialogues.",
        ),
        (
            "Head to head",
            _pairs(found),
            "Differences of the weighted F1 in points, the second system minus the first. Interval and p: a bootstrap "
            f"with {found.samples:,} samples over dialogues and runs. t-test and Wilcoxon: paired, over the runs, as "
            "in arXiv 2511.13731, Appendix F; they say whether other seeds would show the same on these dialogues. "
            "All p-values have Holm's correction over the pairs. d: Cohen's d over the paired runs. Only a, only b: "
            "share of utterances that one system alone gets right. Visible: the smallest difference that these data "
            "show with 80 % power.",
        ),
        (
            "Emotions",
            _parts(found, "classes"),
            "Differences of the F1 in points with 95 % intervals; * p < 0.05 after Holm's correction within the pair.",
        ),
        (
            "Dialogue length and emotion shifts",
            _groups(found),
            "Weighted F1 of each system, then differences as above. Lengths are divided at the first and third "
            "quartile.",
        ),
    ]


def _systems(found: HeadToHead, *, classes: bool) -> _Rows:
    header = ["", "Runs", "Weighted F1", "95 %", "Accuracy", "Macro F1"]
    header += [name.capitalize() for name in found.classes] if classes else []
    rows = []
    for system in found.systems:
        row = [system.name, str(len(system.weighted_f1)), _spread(system.weighted_f1)]
        row += [f"{system.interval[0]:.1f} to {system.interval[1]:.1f}", _spread(system.accuracy)]
        row.append(_spread(system.macro_f1))
        row += [_spread(system.classes[name]) for name in found.classes] if classes else []
        rows.append(row)
    return header, rows


def _pairs(found: HeadToHead) -> _Rows:
    header = [
        "b - a",
        "Runs",
        "Difference",
        "95 %",
        "p",
        "p, t-test",
        "p, Wilcoxon",
        "d",
        "Only a",
        "Only b",
        "Visible",
    ]
    rows = []
    for pair in found.pairs:
        rows.append(
            [
                f"{pair.b} - {pair.a}",
                str(pair.runs or "apart"),
                f"{pair.weighted_f1.difference:+.2f}{' *' if pair.significant else ''}",
                _range(pair.weighted_f1),
                _p(pair.weighted_f1.corrected),
                _test(pair.t_test),
                _test(pair.wilcoxon),
                "" if pair.effect is None else f"{pair.effect:+.1f}",
                f"{pair.only_a:.1f} %",
                f"{pair.only_b:.1f} %",
                f"{pair.detectable:.1f}",
            ]
        )
    return header, rows


def _parts(found: HeadToHead, what: str) -> _Rows:
    names = list(getattr(found.pairs[0], what))
    rows = [[_name(pair), *(_cell(getattr(pair, what)[name]) for name in names)] for pair in found.pairs]
    return ["b - a", *(name.capitalize() if what == "classes" else name for name in names)], rows


def _groups(found: HeadToHead) -> _Rows:
    header, pairs = _parts(found, "groups")
    sizes = ["utterances (dialogues)", *(f"{group.utterances} ({group.dialogues})" for group in found.groups)]
    scores = [[s.name, *(_spread(s.groups[group.name]) for group in found.groups)] for s in found.systems]
    return ["", *header[1:]], [sizes, *scores, *pairs]


def _name(pair: Pair) -> str:
    return f"{pair.b} - {pair.a}"


def _cell(found: Difference) -> str:
    return f"{found.difference:+.1f} ({_range(found, 1)}){' *' if found.corrected < 0.05 else ''}"


def _range(found: Difference, digits: int = 2) -> str:
    return f"{found.interval[0]:+.{digits}f} to {found.interval[1]:+.{digits}f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _test(found: RunsTest | None) -> str:
    return "" if found is None else _p(found.corrected)


def _spread(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{deviation}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in dict.fromkeys(lines))


def latex(found: HeadToHead) -> str:
    """Scores and pairs as LaTeX tables, which need the package ``booktabs``."""
    tables = [latex_table(header, rows, f"{title}. {text}") for title, (header, rows), text in _tables(found)[:3]]
    return "\n\n".join([f"% {_title(found)}. {found.power_statement()}", *tables]) + "\n"


def html(found: HeadToHead) -> str:
    """The whole comparison as one HTML page, which loads nothing."""
    plots = _plots(found)
    body = [f"<p>{escape(_summary(found))}</p>"]
    for title, (header, rows), text in _tables(found):
        body += [f"<h2>{escape(title)}</h2>", *plots.get(title, []), html_table(header, rows)]
        body.append(f'<p class="note">{escape(text)}</p>')
    notes = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(found.notes))
    return html_page(_title(found), [*body, f"<h2>Notes</h2><ul>{notes}</ul>"])


def _plots(found: HeadToHead) -> dict[str, list[str]]:
    """Plots by the title of the part that they stand in."""
    scores = [(s.name, statistics.fmean(s.weighted_f1), s.interval) for s in found.systems]
    pairs = [(_name(p), p.weighted_f1.difference, p.weighted_f1.interval) for p in found.pairs]
    by_class = {s.name: [s.classes[name] for name in found.classes] for s in found.systems}
    drawn = {
        "Scores": [interval_figure(scores, "weighted F1, percent, with 95 % intervals")],
        "Head to head": [interval_figure(pairs, "difference in weighted F1, points, with 95 % intervals", zero=True)],
        "Emotions": [bars_figure([name.capitalize() for name in found.classes], by_class, "F1, percent")],
        "Dialogue length and emotion shifts": [
            bars_figure(
                [group.name for group in found.groups],
                {s.name: [s.groups[group.name] for group in found.groups] for s in found.systems},
                "weighted F1, percent",
            )
        ],
    }
    return {title: [svg(figure) for figure in figures] for title, figures in drawn.items()}
