"""Metrics against a hand-written oracle and, where it is installed, scikit-learn."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.evaluation import EmotionMetrics, confusion_figure, scores, weighted_f1
from merc.labels import IEMOCAP4, MELD

few = settings(max_examples=40, deadline=None)


def oracle(gold, predicted, labels):
    """F1 by the book: one class at a time, 0 where it is undefined."""
    pairs = [(g, p) for g, p in zip(gold, predicted, strict=True) if g != -100]
    f1, support = [], []
    for c in range(len(labels)):
        tp = sum(g == c and p == c for g, p in pairs)
        fp = sum(g != c and p == c for g, p in pairs)
        fn = sum(g == c and p != c for g, p in pairs)
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn) if tp + fn else 0.0
        f1.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        support.append(tp + fn)
    total = sum(support)
    return {
        "weighted_f1": sum(f * s for f, s in zip(f1, support, strict=True)) / total if total else 0.0,
        "macro_f1": sum(f1) / len(f1),
        "accuracy": sum(g == p for g, p in pairs) / total if total else 0.0,
        **{f"f1/{name}": f1[c] for c, name in enumerate(labels.names)},
    }


pairs = st.lists(st.tuples(st.sampled_from([-100, *range(4)]), st.integers(0, 3)), max_size=30)


def gathered(found, batch=7):
    metrics = EmotionMetrics(IEMOCAP4)
    gold = torch.tensor([g for g, _ in found], dtype=torch.long)
    logits = torch.nn.functional.one_hot(torch.tensor([p for _, p in found], dtype=torch.long), 4).float()
    for start in range(0, len(found), batch):
        metrics.update(logits[start : start + batch], gold[start : start + batch])
    return metrics


@few
@given(pairs)
def test_metrics_equal_the_oracle(found):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = gathered(found).compute()
    matrix = result.pop("confusion")
    expected = oracle(*zip(*found, strict=True), IEMOCAP4) if found else oracle([], [], IEMOCAP4)
    assert result.keys() == expected.keys()
    assert {k: v.item() for k, v in result.items()} == pytest.approx(expected, abs=1e-6)
    assert matrix.dtype == torch.long
    for g in range(4):
        for p in range(4):
            assert matrix[g, p] == found.count((g, p))


@few
@given(pairs.filter(lambda found: any(g != -100 for g, _ in found)))
def test_metrics_equal_sklearn(found):
    sklearn = pytest.importorskip("sklearn.metrics")
    gold, predicted = zip(*[(g, p) for g, p in found if g != -100], strict=True)
    result = gathered(found).compute()
    for average in ("weighted", "macro"):
        expected = sklearn.f1_score(gold, predicted, labels=range(4), average=average, zero_division=0)
        assert result[f"{average}_f1"].item() == pytest.approx(expected, abs=1e-6)
    assert result["accuracy"].item() == pytest.approx(sklearn.accuracy_score(gold, predicted), abs=1e-6)


def test_reset_forgets():
    metrics = gathered([(0, 0), (1, 2)])
    metrics.reset()
    assert metrics.compute()["confusion"].sum() == 0
    metrics.update(torch.eye(4), torch.arange(4))
    assert metrics.compute()["weighted_f1"] == 1


def test_half_precision_logits_are_counted():
    metrics = EmotionMetrics(IEMOCAP4)
    metrics.update(torch.eye(4, dtype=torch.bfloat16), torch.tensor([0, 1, 2, -100]))
    assert metrics.compute()["confusion"].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_classes_come_in_the_order_of_the_published_tables():
    keys = [key for key in EmotionMetrics(MELD).compute() if key.startswith("f1/")]
    assert keys == [f"f1/{name}" for name in ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")]


def test_many_confusion_matrices_at_once():
    matrices = torch.randint(0, 9, (5, 4, 4)).double()
    each = torch.stack([scores(matrix, IEMOCAP4)["weighted_f1"] for matrix in matrices])
    torch.testing.assert_close(weighted_f1(matrices), each)


def test_the_confusion_figure_is_in_report_order_and_leaves_pyplot_alone():
    matrix = torch.zeros(7, 7, dtype=torch.long)
    matrix[MELD.index("anger"), MELD.index("joy")] = 3
    matrix[MELD.index("anger"), MELD.index("anger")] = 1
    figure = confusion_figure(matrix, MELD, "meld, test")
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(MELD.report_order)
    assert axes.get_yticklabels()[0].get_text() == "anger (4)"
    assert [text.get_text() for text in axes.texts][:4] == ["1\n25.0%", "0\n0.0%", "0\n0.0%", "3\n75.0%"]
    from matplotlib import pyplot

    assert not pyplot.get_fignums()
