"""Scores of numbers: against NumPy, torchmetrics and examples by hand; files; comparisons."""

import json

import numpy as np
import pytest
import torch
from torchmetrics.functional import concordance_corrcoef, mean_absolute_error, pearson_corrcoef

from merc.conversation import UtteranceKey
from merc.evaluation import (
    PredictionsError,
    ReportInfo,
    ValueMetrics,
    ValuePredictions,
    compare_values,
    paired_value_bootstrap,
    read_predictions,
    read_value_predictions,
    sentiment_scores,
    value_scores,
    write_value_report,
)

SCALES = {"valence": (1.0, 5.0), "sentiment": (-3.0, 3.0)}


def made(noise=0.5, seed=0, dialogues=12, turns=8):
    random = np.random.default_rng([7, seed])
    gold = np.random.default_rng(1).normal(size=(dialogues * turns, 2)) * [0.8, 1.5] + [3, 0]
    values = gold + noise * random.normal(size=gold.shape)
    gold[::7, 0] = np.nan
    keys = [UtteranceKey("test", str(row // turns), str(row % turns)) for row in range(len(gold))]
    present = {"text": torch.arange(len(gold)) % 3 > 0}
    as_32 = [torch.tensor(numbers, dtype=torch.float32) for numbers in (gold, values)]
    return ValuePredictions(SCALES, keys, *as_32, present, [("Ann", "a, b")] * len(keys))


def slow_f1(truth, guess):
    """F1 of either side, averaged by the number of gold utterances."""
    total = 0
    for side in (True, False):
        hits = sum(a == b == side for a, b in zip(truth, guess, strict=True))
        precision, recall = hits / max(sum(guess == side), 1), hits / max(sum(truth == side), 1)
        total += sum(truth == side) * (2 * precision * recall / (precision + recall) if hits else 0)
    return total / len(truth)


def slow_mosi(x, y):
    """The usual table of CMU-MOSI, in the plainest NumPy."""
    found = {}
    for name, most in (("acc7", 3), ("acc5", 2)):
        found[name] = np.mean(np.round(np.clip(x, -most, most)) == np.round(np.clip(y, -most, most)))
    found["acc2"] = np.mean((y >= 0) == (x >= 0))
    found["f1"] = slow_f1(y >= 0, x >= 0)
    away = y != 0
    found["acc2_nonzero"] = np.mean((y[away] > 0) == (x[away] > 0))
    found["f1_nonzero"] = slow_f1(y[away] > 0, x[away] > 0)
    return found


def test_agreement_is_that_of_torchmetrics_and_numpy():
    predictions = made()
    scores = predictions.scores()
    for column, name in enumerate(SCALES):
        known = ~predictions.gold[:, column].isnan()
        x, y = predictions.values[known, column].double(), predictions.gold[known, column].double()
        assert scores[name]["ccc"] == pytest.approx(concordance_corrcoef(x, y).item(), rel=1e-9)
        assert scores[name]["pearson"] == pytest.approx(pearson_corrcoef(x, y).item(), rel=1e-9)
        assert scores[name]["mae"] == pytest.approx(mean_absolute_error(x, y).item(), rel=1e-9)
        assert scores[name]["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)
        shared = np.cov(x, y)
        ccc = 2 * shared[0, 1] / (shared[0, 0] + shared[1, 1] + (x.mean() - y.mean()).item() ** 2)
        assert scores[name]["ccc"] == pytest.approx(ccc, rel=1e-9)
        assert scores[name]["utterances"] == int(known.sum())


@pytest.mark.parametrize("seed", range(5))
def test_the_sentiment_scores_are_those_of_mosi(seed):
    random = np.random.default_rng(seed)
    y = np.round(random.uniform(-3.2, 3.2, 200) * 5) / 5
    x = y + random.normal(size=200)
    y[:20] = 0
    found = sentiment_scores(torch.tensor(x), torch.tensor(y), -3, 3)
    assert found == pytest.approx(slow_mosi(x, y))


def test_halves_are_rounded_to_the_even_number_and_beyond_the_scale_is_clipped():
    # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2, -0.5 -> 0, -2.5 -> -2, 7 -> 3 (2 of five classes), -3.4 -> -3
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -2.5, 7.0, -3.4])
    y = torch.tensor([0.0, 2.0, 3.0, 0.0, -3.0, 3.0, -3.0])
    found = sentiment_scores(x, y, -3, 3)
    assert found["acc7"] == pytest.approx(5 / 7)  # not 2.5 and -2.5
    assert found["acc5"] == 1
    assert found["acc2"] == pytest.approx(6 / 7)  # -0.5 is negative, its gold 0 is not
    assert found["acc2_nonzero"] == 1  # without the two golds of 0


def test_only_scales_with_two_sides_have_sides():
    numbers = torch.tensor([1.0, 2.0])
    assert sentiment_scores(numbers, numbers, 1, 5) == {}
    assert "acc7" not in sentiment_scores(numbers, numbers, -1, 1)
    assert sentiment_scores(numbers, numbers * torch.nan, -3, 3) == {}


def test_what_is_not_defined_is_0():
    constant, gold = torch.full((5, 1), 2.0), torch.arange(5.0)[:, None]
    scores = value_scores(constant, gold, {"v": (0, 4)})["v"]
    assert (scores["ccc"], scores["pearson"]) == (0, 0)
    nothing = value_scores(constant, gold * torch.nan, {"v": (0, 4)})["v"]
    assert (nothing["ccc"], nothing["mae"], nothing["utterances"]) == (0, 0, 0)


def test_a_dimension_without_annotation_does_not_count_in_the_means(tmp_path):
    whole = made()
    predictions = ValuePredictions(SCALES, whole.keys, whole.gold.clone(), whole.values)
    predictions.gold[:, 0] = torch.nan
    found = write_value_report(
        tmp_path, predictions, info=ReportInfo("made", "test"), stressed={("without", "text", 0.5): predictions.values}
    )
    sentiment = whole.scores()["sentiment"]
    metrics = ValueMetrics(2)
    metrics.update(predictions.values, predictions.gold)
    for name, value in metrics.compute().items():
        assert found[name] == sentiment[name]  # a mean with the 0 of valence would halve the MAE
        assert value.item() == pytest.approx(sentiment[name], rel=1e-6)
    assert found["without_ccc"]["text"]["0.5"] == sentiment["ccc"]
    predictions.gold[:] = torch.nan
    assert write_value_report(tmp_path, predictions, info=ReportInfo("made", "test"))["ccc"] == 0


def test_metrics_are_of_the_whole_split_and_not_a_mean_over_batches():
    predictions = made()
    metrics = ValueMetrics(2)
    for rows in torch.arange(len(predictions.keys)).split(5):
        metrics.update(predictions.values[rows], predictions.gold[rows])
    found, scores = metrics.compute(), predictions.scores()
    for name in ("ccc", "pearson", "mae"):
        assert found[name].item() == pytest.approx(np.mean([of[name] for of in scores.values()]), rel=1e-6)
    metrics.reset()
    assert metrics.compute()["ccc"] == 0


def test_sums_over_dialogues_give_the_scores_and_intervals_hold_them():
    predictions = made()
    scores, intervals = predictions.scores(), predictions.intervals()
    assert predictions.by_dialogue().shape == (12, 2, 7)
    for name, of in intervals.items():
        for score, (low, high) in of.items():
            assert low < scores[name][score] < high


def test_the_bootstrap_is_that_of_drawn_dialogues():
    predictions = made()
    random = np.random.default_rng(3)
    slow = []
    for _ in range(400):
        rows = [8 * d + t for d in random.integers(0, 12, 12) for t in range(8)]
        slow.append(value_scores(predictions.values[rows], predictions.gold[rows], SCALES)["sentiment"]["ccc"])
    low, high = np.percentile(slow, [2.5, 97.5])
    found = predictions.intervals()["sentiment"]["ccc"]
    assert found == pytest.approx((low, high), abs=0.02)


def test_a_table_is_read_back_unchanged(tmp_path):
    predictions = made()
    (tmp_path / "predictions.csv").write_text(predictions.to_csv(), encoding="utf-8")
    found = read_value_predictions(tmp_path, SCALES)
    assert found.keys == predictions.keys
    assert torch.equal(found.values, predictions.values)
    assert torch.equal(found.gold.nan_to_num(99), predictions.gold.nan_to_num(99))
    assert torch.equal(found.present["text"], predictions.present["text"])
    assert found.lines == predictions.lines
    with pytest.raises(PredictionsError, match="holds predicted numbers"):
        read_predictions(tmp_path)
    with pytest.raises(PredictionsError, match="expected \\['other'\\]"):
        read_value_predictions(tmp_path, {"other": (0, 1)})
    (tmp_path / "predictions.csv").write_text("partition,dialogue,utterance,gold_v,value_v\ntest,1,1,x,2\n")
    with pytest.raises(PredictionsError, match=r"csv, line 2: could not convert string to float: 'x'"):
        read_value_predictions(tmp_path)
    lines = predictions.to_csv().splitlines(keepends=True)
    for damage in (lines[1].replace("\n", ",1\n"), lines[1].rpartition(",")[0] + "\n"):
        (tmp_path / "predictions.csv").write_text("".join([lines[0], damage, *lines[2:]]))
        with pytest.raises(PredictionsError, match=r"csv, line 2: (11|9) cells, expected 10"):
            read_value_predictions(tmp_path)
    (tmp_path / "predictions.csv").write_text("partition,dialogue,utterance,value_v\ntest,1,1,2\n")
    with pytest.raises(PredictionsError, match="not a table of predicted numbers"):
        read_value_predictions(tmp_path)


def test_predictions_that_do_not_match_are_refused():
    predictions = made()
    with pytest.raises(PredictionsError, match=r"expected \(96, 2\) twice"):
        ValuePredictions(SCALES, predictions.keys, predictions.gold[:5], predictions.values)
    with pytest.raises(PredictionsError, match="not finite"):
        ValuePredictions(SCALES, predictions.keys, predictions.gold, predictions.values * torch.nan)
    with pytest.raises(PredictionsError, match="predicted twice"):
        ValuePredictions(SCALES, [predictions.keys[0]] * 96, predictions.gold, predictions.values)


def test_the_report_has_scores_intervals_and_the_table_of_mosi(tmp_path):
    (tmp_path / "confusion.png").write_text("of an earlier report on emotions")
    predictions = made()
    info = ReportInfo("made", "test", missing={"text": {}})
    lost = {("without", "text", 1.0): predictions.values * 0}
    metrics = write_value_report(tmp_path, predictions, info=info, val=made(0.9), stressed=lost)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert not (tmp_path / "confusion.png").exists()
    assert metrics["without_ccc"]["text"] == pytest.approx({"0": metrics["ccc"], "1": 0})
    assert metrics["val"]["ccc"] < metrics["ccc"]
    text = (tmp_path / "report.md").read_text()
    assert f"CCC {metrics['ccc']:.3f}" in text
    assert "Acc-7" in text
    assert "| valence | 1 to 5" in text
    assert "weighted F1" not in text
    assert "confusion" not in text.lower()


def test_a_better_system_differs_by_more_than_chance_and_itself_does_not():
    good, bad = [made(0.4, seed) for seed in range(3)], [made(1.5, 10 + seed) for seed in range(3)]
    found = paired_value_bootstrap(bad, good, 1000)["sentiment"]
    assert found["ccc"].difference > 0
    assert found["ccc"].interval[0] > 0
    assert found["ccc"].p < 0.05
    assert found["mae"].difference < 0
    same = paired_value_bootstrap(good, good, 500)["valence"]["mae"]
    assert (same.difference, same.interval, same.p) == (0, (0, 0), 1)


def test_systems_are_compared_in_any_order_of_utterances(tmp_path):
    good, bad = made(0.4), made(1.5, 1)
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    keys = [bad.keys[row] for row in order]
    shuffled = ValuePredictions(SCALES, keys, bad.gold[order], bad.values[order])
    found = compare_values({"good": [good], "bad": [shuffled]}, samples=500)
    assert (
        found.pairs[0].differences == compare_values({"good": [good], "bad": [bad]}, samples=500).pairs[0].differences
    )
    assert found.scores["good"]["valence"]["mae"] == [good.scores()["valence"]["mae"]]
    text = found.write(tmp_path).read_text()
    assert "bad - good" in text
    assert json.loads((tmp_path / "compare.json").read_text())["pairs"][0]["a"] == "good"


def test_holms_correction_counts_the_tests_that_could_be_made(tmp_path):
    systems = {name: [made(noise, seed)] for seed, (name, noise) in enumerate({"good": 0.4, "bad": 0.6}.items())}

    def with_another(runs):
        [run] = runs
        gold = torch.cat([run.gold, torch.full((96, 1), torch.nan)], 1)
        return [ValuePredictions({**SCALES, "arousal": (0, 1)}, run.keys, gold, run.values[:, [0, 1, 0]])]

    plain = compare_values(systems, samples=500)
    found = compare_values({name: with_another(runs) for name, runs in systems.items()}, samples=500)
    assert found.pairs[0].corrected == plain.pairs[0].corrected and plain.untested == ()
    assert 0.003 < min(plain.pairs[0].corrected.values()) < 0.3  # which a third test would change
    assert (found.dimensions, found.untested, list(found.scores["good"])) == (tuple(SCALES), ("arousal",), list(SCALES))
    found.write(tmp_path)
    assert "Not annotated: arousal." in (tmp_path / "compare.md").read_text()
    none = ValuePredictions(SCALES, made().keys, made().gold * torch.nan, made().values)
    with pytest.raises(PredictionsError, match="no dimension with two annotated"):
        compare_values({"one": [none], "other": [none]})


def test_other_data_are_refused():
    one = made()
    other = ValuePredictions(SCALES, one.keys, one.gold + 1, one.values)
    with pytest.raises(PredictionsError, match=r"other cannot be compared.*Gold numbers differ"):
        compare_values({"one": [one], "other": [other]}, samples=10)
    with pytest.raises(PredictionsError, match="expected the same dimensions"):
        compare_values(
            {"one": [one], "other": [ValuePredictions({"v": (0, 1)}, one.keys, one.gold[:, :1], one.values[:, :1])]}
        )


def test_a_process_without_a_batch_is_gathered_from():
    generator = torch.Generator().manual_seed(0)
    predicted, gold = torch.randn(2, 9, 2, generator=generator)
    alone, shared = ValueMetrics(2), ValueMetrics(2)

    def gathered(own, group):
        other = torch.tensor([])  # what torchmetrics takes for the state of such a process
        assert own.dim() == other.dim()  # or gather_all_tensors waits for ever, or fails
        return [own, other]

    shared.distributed_available_fn, shared.dist_sync_fn = lambda: True, gathered
    for metrics in (alone, shared):
        metrics.update(predicted[:4], gold[:4])
        metrics.update(predicted[4:], gold[4:])
    assert shared.compute() == alone.compute()
