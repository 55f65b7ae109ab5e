"""Scores of a cross-validation."""

import pytest
import torch

from merc.conversation import UtteranceKey
from merc.evaluation import Predictions, PredictionsError, compare_folds, pooled
from merc.labels import LabelSet


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


LABELS = LabelSet("two", ("joy", "anger"))


def predictions(rows, first, labels=LABELS):
    keys = [UtteranceKey("s", "d", str(first + number)) for number in range(len(rows))]
    return Predictions(labels, keys, torch.zeros(len(rows), dtype=torch.long), torch.tensor(rows))


def test_folds_are_pooled_and_runs_of_one_fold_averaged():
    found = pooled([predictions([[0.9, 0.1]], 0), predictions([[0.2, 0.8]], 1), predictions([[0.5, 0.5]], 0)])
    assert [key.utterance for key in found.keys] == ["0", "1"]
    torch.testing.assert_close(found.probabilities, torch.tensor([[0.7, 0.3], [0.2, 0.8]]))


def test_test_data_that_overlap_in_part_are_no_folds():
    with pytest.raises(PredictionsError, match="predicted twice"):
        pooled([predictions([[0.9, 0.1]], 0), predictions([[0.9, 0.1], [0.2, 0.8]], 0)])
    with pytest.raises(PredictionsError, match="other emotions"):
        pooled([predictions([[0.9, 0.1]], 0), predictions([[0.2, 0.8]], 1, LabelSet("other", ("sad", "mad")))])
