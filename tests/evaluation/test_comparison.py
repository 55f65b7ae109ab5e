"""Comparison over seeds, the paired bootstrap over dialogues, and ensembles."""

import io
import statistics
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from merc.evaluation import PredictionsError, compare_seeds, ensemble, paired_bootstrap
from merc.labels import IEMOCAP6
from support.made_predictions import made_up, reordered


def slow_bootstrap(a, b, samples, seed):
    """The same draws of dialogues, scored one at a time from the utterances themselves."""
    rows = {}
    for index, key in enumerate(a.keys):
        rows.setdefault(key[:2], []).append(index)
    draws = np.random.default_rng(seed).multinomial(len(rows), [1 / len(rows)] * len(rows), size=samples)
    differences = []
    for draw in draws.tolist():
        chosen = torch.tensor([i for times, members in zip(draw, rows.values(), strict=True) for i in members * times])
        gold = a.gold[chosen]
        drawn = []
        for predictions in (a, b):
            predicted, weighted = predictions.predicted[chosen], 0.0
            for c in range(4):
                tp = int(((gold == c) & (predicted == c)).sum())
                support, said = int((gold == c).sum()), int(((gold >= 0) & (predicted == c)).sum())
                weighted += 2 * tp / max(support + said, 1) * support
            drawn.append(weighted / int((gold >= 0).sum()))
        differences.append(drawn[1] - drawn[0])
    return differences


def test_mean_deviation_and_share_of_the_optimum():
    runs = [made_up(0.6, seed).metrics() for seed in (1, 2, 3)]
    comparison = compare_seeds({"teacher": runs, "fusion": [made_up(0.8, 1).metrics()]}, {"fusion": 90.0})
    teacher, fusion = comparison.rows
    values = [100 * run["weighted_f1"] for run in runs]
    assert teacher.mean["weighted_f1"] == pytest.approx(statistics.fmean(values))
    assert teacher.deviation["weighted_f1"] == pytest.approx(statistics.stdev(values))
    assert teacher.seeds == 3
    assert teacher.share is None
    assert not fusion.deviation
    assert fusion.share == pytest.approx(100 * fusion.mean["weighted_f1"] / 90)
    header, _, first, second = comparison.markdown().splitlines()
    assert header.startswith("|  | Runs | Weighted F1 | Optimum | Share | Accuracy | Macro F1 | Happy | Sad |")
    assert f"| {statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} |" in first
    assert first.count("|") == second.count("|") == header.count("|")
    assert "±" not in second


def test_the_table_fits_an_ordinary_terminal():
    runs = {"hierarchical fusion": [made_up(0.6, seed).metrics() for seed in (1, 2)]}
    comparison = compare_seeds(runs, {"hierarchical fusion": 90.0})
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(comparison.table("iemocap, test", per_class=False))
    text = console.export_text()
    assert "…" not in text
    assert "hierarchical fusion" in text
    assert "90.00" in text
    wide = Console(width=120, record=True, file=io.StringIO())
    wide.print(comparison.table())
    assert "Neut." in wide.export_text()


def test_runs_of_different_label_sets_or_none_are_refused():
    run = made_up(0.6, 1).metrics()
    with pytest.raises(ValueError, match="at least one run per system, found none for \\['fusion'\\]"):
        compare_seeds({"teacher": [run], "fusion": []})
    with pytest.raises(ValueError, match="at least one run"):
        compare_seeds({})
    with pytest.raises(ValueError, match=r"fusion, run 1 has .* the same label set"):
        compare_seeds({"teacher": [run], "fusion": [{k: v for k, v in run.items() if k != "f1/sad"}]})


def test_bootstrap_equals_the_slow_version():
    a, b = made_up(0.5, 1), made_up(0.6, 3)
    result = paired_bootstrap(a, b, samples=200, seed=4)
    slow = slow_bootstrap(a, b, 200, seed=4)
    tail = min(sum(d <= 0 for d in slow), sum(d >= 0 for d in slow))
    assert result.difference == pytest.approx(b.metrics()["weighted_f1"] - a.metrics()["weighted_f1"])
    assert result.interval == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert result.p == pytest.approx(min(1, 2 * (tail + 1) / 201))


def test_bootstrap_over_seeds_equals_the_slow_version():
    systems = [[made_up(accuracy, seed) for seed in (1, 2, 3)] for accuracy in (0.5, 0.6)]
    order = torch.randperm(len(systems[0][0].keys), generator=torch.Generator().manual_seed(0))
    systems[1][2] = reordered(systems[1][2], order)
    result = paired_bootstrap(*systems, samples=150, seed=4)
    systems[1][2] = reordered(systems[1][2], order.argsort())
    by_seed = [slow_bootstrap(a, b, 150, seed=4) for a, b in zip(*systems, strict=True)]
    of_seeds = np.random.default_rng([4, 3]).multinomial(3, [1 / 3] * 3, size=150).tolist()
    slow = [
        statistics.fmean(by_seed[s][sample] for s in range(3) for _ in range(times[s]))
        for sample, times in enumerate(of_seeds)
    ]
    means = [statistics.fmean(p.metrics()["weighted_f1"] for p in system) for system in systems]
    tail = min(sum(d <= 0 for d in slow), sum(d >= 0 for d in slow))
    assert result.difference == pytest.approx(means[1] - means[0])
    assert result.interval == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert result.p == pytest.approx(min(1, 2 * (tail + 1) / 151))
    assert paired_bootstrap(systems[0][:1], systems[1][:1], 100) == paired_bootstrap(systems[0][0], systems[1][0], 100)
    with pytest.raises(ValueError, match="3 and 2 sets of predictions"):
        paired_bootstrap(systems[0], systems[1][:2])
    with pytest.raises(ValueError, match="0 and 0 sets"):
        paired_bootstrap([], [])


def test_bootstrap_tells_equal_systems_from_different_ones():
    a, better = made_up(0.5, 1), made_up(0.9, 2)
    assert paired_bootstrap(a, a) == (0.0, (0.0, 0.0), 1.0)
    result = paired_bootstrap(a, better)
    assert result.interval[0] > 0
    assert result.p < 0.001
    mirrored = paired_bootstrap(better, a)
    assert mirrored.difference == pytest.approx(-result.difference)
    assert mirrored.interval == pytest.approx((-result.interval[1], -result.interval[0]))
    assert mirrored.p == result.p


def test_bootstrap_repeats_under_its_seed_and_ignores_the_order_of_the_second_file():
    a, b = made_up(0.5, 1), made_up(0.6, 2)
    order = torch.randperm(len(b.keys), generator=torch.Generator().manual_seed(0))
    assert paired_bootstrap(a, b, 500) == paired_bootstrap(a, reordered(b, order), 500)
    assert paired_bootstrap(a, b, 500) != paired_bootstrap(a, b, 500, seed=1)


def test_bootstrap_draws_dialogues_and_not_utterances():
    # One dialogue only: every draw is the data itself, so there is nothing to vary.
    a, b = made_up(0.5, 1, dialogues=1), made_up(0.5, 2, dialogues=1)
    assert paired_bootstrap(a, b, 100).interval == pytest.approx((paired_bootstrap(a, b, 100).difference,) * 2)


def test_ensemble_averages_by_key():
    a, b, c = (made_up(0.6, seed) for seed in (1, 2, 3))
    order = torch.randperm(len(a.keys), generator=torch.Generator().manual_seed(0))
    together = ensemble([a, reordered(b, order), c])
    torch.testing.assert_close(together.probabilities, (a.probabilities + b.probabilities + c.probabilities) / 3)
    assert together.metrics()["weighted_f1"] > max(p.metrics()["weighted_f1"] for p in (a, b, c))
    with pytest.raises(ValueError, match="at least one"):
        ensemble([])


def test_predictions_that_do_not_belong_together_are_refused():
    a = made_up(0.5, 1)
    short = reordered(a, torch.arange(len(a.keys) - 1))
    with pytest.raises(PredictionsError, match="1 of the first not in the second"):
        paired_bootstrap(a, short)
    with pytest.raises(PredictionsError, match="same utterances"):
        paired_bootstrap(short, a)
    with pytest.raises(PredictionsError, match="Gold labels differ for 1 utterances"):
        paired_bootstrap(a, replace(a, gold=a.gold.clone().index_fill_(0, torch.tensor([0]), -100)))
    wide = torch.nn.functional.pad(a.probabilities, (0, 2))
    with pytest.raises(PredictionsError, match="expected the same ones"):
        ensemble([a, replace(a, labels=IEMOCAP6, probabilities=wide)])
    nothing = replace(a, gold=torch.full_like(a.gold, -100))
    with pytest.raises(PredictionsError, match="no labelled utterance"):
        paired_bootstrap(nothing, nothing)
    with pytest.raises(ValueError, match="samples=0"):
        paired_bootstrap(a, a, 0)
