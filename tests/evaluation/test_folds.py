"""Scores of a cross-validation."""

import pytest

from merc.evaluation import compare_folds


def run(protocol, confusion, score):
    return {"info": {"protocol": protocol}, "confusion": confusion, "weighted_f1": score}


def test_the_mean_of_folds_and_the_pooled_score_are_both_told():
    # Fold 2 is ten times as large: pooled it counts ten times, as a fold once.
    runs = {"teacher": [run("s1", [[1, 0], [0, 1]], 1.0), run("s2", [[0, 10], [10, 0]], 0.0)]}
    text = compare_folds(runs)
    assert "| Weighted F1 | Fold 1 | Fold 2 | Mean of folds | Pooled |" in text
    assert f"| teacher | 100.00 | 0.00 | 50.00 | {100 / 11:.2f} |" in text
    assert "- Fold 1: s1\n- Fold 2: s2" in text


def test_a_fold_that_ran_twice_is_one_fold():
    runs = {
        "teacher": [
            run("s1", [[1, 0], [0, 1]], 1.0),
            run("s2", [[1, 0], [1, 0]], 1 / 3),
            run("s1", [[1, 0], [1, 0]], 1 / 3),
        ]
    }
    assert f"| teacher | {(100 + 100 / 3) / 2:.2f} | 33.33 |" in compare_folds(runs)


@pytest.mark.parametrize("count", [1, 3])
def test_seeds_on_the_same_data_are_no_folds(count):
    assert compare_folds({"teacher": [run("test", [[1, 0], [0, 1]], 1.0)] * count}) == ""
