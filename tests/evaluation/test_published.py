"""Results in the layout of the published tables."""

import pytest

from merc.evaluation import compare_seeds
from merc.evaluation.published import paper_latex, paper_markdown, paper_table, published
from merc.labels import IEMOCAP4, IEMOCAP6, MELD


def comparison(labels, *scores):
    runs = [
        {"weighted_f1": s, "macro_f1": s, "accuracy": s, "classes": labels.report_order}
        | {f"f1/{name}": s for name in labels.report_order}
        for s in scores
    ]
    return compare_seeds({"fusion": runs})


@pytest.mark.parametrize(("corpus", "labels", "ours"), [("meld", MELD, 67.75), ("iemocap", IEMOCAP6, 72.44)])
def test_published_rows_have_the_emotions_of_the_corpus(corpus, labels, ours):
    rows = published(corpus, labels.names)
    assert rows["Our Method"]["weighted_f1"] == ours and len(rows) >= 7
    assert all(set(row) == {*labels.names, "accuracy", "weighted_f1"} for row in rows.values())
    assert all(0 <= value <= 100 for row in rows.values() for value in row.values())


def test_nothing_is_published_of_other_corpora_and_other_emotions():
    assert published("rendered", MELD.names) == {} and published("iemocap", IEMOCAP4.names) == {}
    assert paper_markdown(comparison(MELD, 0.5), "rendered", {}) == ""


def test_the_published_rows_come_first_in_the_order_of_the_columns():
    header, rows = paper_table(comparison(MELD, 0.5, 0.7), "meld", {"fear": 50})
    assert header[0] == "Methods" and header[3] == "Fear (50)" and header[-2:] == ["Acc.", "WF1"]
    theirs = next(row for row in rows if row[0] == "Our Method, as published")
    assert theirs[1:] == ["57.76", "28.79", "30.46", "66.67", "79.73", "44.63", "61.20", "68.78", "67.75"]
    assert rows[-1] == ["fusion", *["60.00 ± 14.14"] * 9]


def test_latex_escapes_and_says_where_the_numbers_come_from():
    text = paper_latex(comparison(MELD, 0.5, 0.7), "meld", {})
    assert r"fusion & 60.00 $\pm$ 14.14 &" in text and "arXiv 2511.13731, Table 6" in text
    assert text.count(r"\begin{tabular}{lrrrrrrrrr}") == 1
    assert "published" not in paper_latex(comparison(MELD, 0.5), "own_corpus", {})
    assert r"own\_corpus" in paper_latex(comparison(MELD, 0.5), "own_corpus", {})
