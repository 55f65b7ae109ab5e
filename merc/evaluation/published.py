"""Results in the layout of the main paper's Tables 1 and 2, beside what the paper reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from merc.evaluation.comparison import Comparison
from merc.evaluation.tables import latex_table, markdown_table


def paper_table(comparison: Comparison, corpus: str, support: Mapping[str, int]) -> tuple[list[str], list[list[str]]]:
    """The header and rows of the main paper's table of results (arXiv 2511.13731, Tables 1 and 2).

    Args:
        comparison: Systems over their seeds.
        corpus: The name of the corpus. Of ``meld`` and ``iemocap`` with the paper's emotions the rows of the paper come
            first; of other corpora there are none.
        support: Test utterances of each emotion.
    """
    header = ["Methods", *(f"{name.capitalize()} ({support.get(name, 0)})" for name in comparison.classes)]
    columns = [*comparison.classes, "accuracy", "weighted_f1"]
    rows = [
        [f"{name}, as published", *(f"{numbers[column]:.2f}" for column in columns)]
        for name, numbers in published(corpus, comparison.classes).items()
    ]
    for row in comparison.rows:
        cells = [row.cell(f"f1/{name}") for name in comparison.classes]
        rows.append([row.name, *cells, row.cell("accuracy"), row.cell("weighted_f1")])
    return [*header, "Acc.", "WF1"], rows


def paper_markdown(comparison: Comparison, corpus: str, support: Mapping[str, int]) -> str:
    """The table as Markdown with its source, or an empty text if the paper reports nothing of this corpus."""
    if not published(corpus, comparison.classes):
        return ""
    return f"## Beside the published table\n\n{_told(corpus)}\n\n" + markdown_table(
        *paper_table(comparison, corpus, support)
    )


def paper_latex(comparison: Comparison, corpus: str, support: Mapping[str, int]) -> str:
    """The table as LaTeX, which needs the package ``booktabs``."""
    told = _told(corpus) if published(corpus, comparison.classes) else ""
    caption = f"F1 by emotion, accuracy and weighted F1 on the test split of {corpus}, in percent. {told}"
    return latex_table(*paper_table(comparison, corpus, support), caption.strip()) + "\n"


def published(corpus: str, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """By method, what the paper reports of a corpus: of each emotion, ``accuracy`` and ``weighted_f1``, in percent.

    Args:
        corpus: The name of the corpus.
        classes: Its emotions; of others than the paper's there is nothing to report.
    """
    found = _content()["corpora"].get(corpus)
    if found is None or set(classes) != set(found["columns"]) - {"accuracy", "weighted_f1"}:
        return {}
    return {name: dict(zip(found["columns"], row, strict=True)) for name, row in found["methods"].items()}


def _told(corpus: str) -> str:
    content = _content()
    return (
        f"As published: {content['source']}, {content['corpora'][corpus]['table']}, with the features of each method. "
        "The other rows are measured here."
    )


@cache
def _content() -> dict[str, Any]:
    text = (files("merc.evaluation") / "published.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content
