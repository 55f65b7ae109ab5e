"""Tables of text: the same header and rows as Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "±": "$\\pm$",
    "<": "$<$",
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
}


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, with the first column left-aligned and the others right-aligned."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def latex_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A LaTeX table, which needs the package ``booktabs``, aligned likewise."""
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            f"\\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            "\\toprule",
            *(_latex_line(header), "\\midrule"),
            *(_latex_line(row) for row in rows),
            "\\bottomrule",
            "\\end{tabular}",
            f"\\caption{{{_latex(caption)}}}",
            "\\end{table}",
        ]
    )


def html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table in a box that scrolls where it is too wide."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>'


def _latex(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex, cells)) + r" \\"


PAGE_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72em; margin: 2em auto; padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
p.note { color: #555; font-size: 13px; }
"""


def html_page(title: str, body: Iterable[str], style: str = "") -> str:
    """An HTML page that loads nothing.

    Args:
        title: Its title, plain text.
        body: HTML below the title.
        style: CSS beside that of tables and text.
    """
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{PAGE_STYLE}{style}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
