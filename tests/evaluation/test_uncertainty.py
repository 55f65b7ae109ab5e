"""Calibration, abstention, conformal sets and lost modalities: slow versions, and cases whose answer is known."""

import math
from dataclasses import replace

import pytest
import torch

from merc.conversation import UtteranceKey
from merc.evaluation import (
    Predictions,
    PredictionsError,
    abstain_at_risk,
    abstention,
    calibration,
    conformal_sets,
    fit_temperature,
    with_temperature,
    without_modality,
)
from merc.evaluation.uncertainty import by_modality, noisy_modality
from merc.labels import IEMOCAP4
from support.made_batches import make_batch
from support.made_predictions import honest


def test_honest_probabilities_are_calibrated_and_others_are_not():
    exact, sure, unsure = (calibration(honest(0, temperature=t)) for t in (1, 0.4, 3))
    assert exact.ece < 0.03 < 0.1 < min(sure.ece, unsure.ece)
    assert sure.confidence > sure.accuracy and unsure.confidence < unsure.accuracy
    assert exact.brier < min(sure.brier, unsure.brier) and exact.nll < min(sure.nll, unsure.nll)
    assert sure.ece_interval[0] < sure.ece < sure.ece_interval[1]
    assert exact.brier_interval[0] < exact.brier < exact.brier_interval[1]


def test_calibration_is_what_its_definition_says():
    found, given = calibration(honest(1, 301), bins=7), honest(1, 301)
    rows = [i for i in range(301) if given.gold[i] >= 0]
    p = given.probabilities
    order = sorted(rows, key=lambda i: p[i].max())
    assert sum(b.utterances for b in found.bins) == len(rows) and len(found.bins) == 7
    assert max(b.utterances for b in found.bins) - min(b.utterances for b in found.bins) <= 1
    ece, start = 0.0, 0
    for part in found.bins:
        here = order[start : start + part.utterances]
        start += part.utterances
        assert part.confidence == pytest.approx(sum(p[i].max().item() for i in here) / len(here), abs=1e-6)
        assert part.accuracy == sum(int(p[i].argmax() == given.gold[i]) for i in here) / len(here)
        ece += len(here) / len(rows) * abs(part.accuracy - part.confidence)
    assert found.ece == pytest.approx(ece)
    squares = [sum((p[i][c] - (given.gold[i] == c).float()) ** 2 for c in range(4)) for i in rows]
    assert found.brier == pytest.approx(float(sum(squares)) / len(rows), abs=1e-5)
    assert found.nll == pytest.approx(-sum(math.log(p[i][given.gold[i]]) for i in rows) / len(rows), abs=1e-5)


def test_intervals_are_wider_where_dialogues_are_whole():
    """In dialogues that are all right or all wrong, an utterance says little that the others do not say."""
    given = honest(2, 2000, unlabelled=0)
    own = replace(given, keys=[UtteranceKey("test", str(i), "0") for i in range(2000)])
    order = (given.predicted == given.gold).int().argsort(stable=True)
    sorted_ = replace(given, gold=given.gold[order], probabilities=given.probabilities[order])
    (low, high), (low_own, high_own) = (calibration(x).ece_interval for x in (sorted_, own))
    assert high - low > 1.5 * (high_own - low_own)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature):
    val, test = honest(3, temperature=temperature), honest(4, temperature=temperature)
    found = fit_temperature(val)
    assert found == pytest.approx(1 / temperature, rel=0.06)
    mended = with_temperature(test, found)
    assert calibration(mended).ece < 0.025
    assert torch.equal(mended.predicted, test.predicted)
    for other in (0.9 * found, 1.1 * found):
        assert calibration(with_temperature(val, found)).nll < calibration(with_temperature(val, other)).nll


def test_the_risk_falls_with_the_coverage_and_equals_the_error_at_the_end():
    given = honest(5)
    found = abstention(given)
    labelled = given.gold >= 0
    assert len(found.risk) == int(labelled.sum()) and found.coverage[-1] == 1
    error = (given.predicted != given.gold)[labelled].double().mean().item()
    assert found.risk[-1] == pytest.approx(error)
    assert found.at_80 < error
    assert found.area == pytest.approx(sum(found.risk) / len(found.risk))
    blind = abstention(given, torch.rand(len(given.keys), generator=torch.Generator().manual_seed(0)))
    assert blind.auroc == pytest.approx(0.5, abs=0.03) and found.auroc > 0.7
    perfect = abstention(given, (given.predicted != given.gold).double())
    assert perfect.auroc == 1 and perfect.area < found.area < blind.area


def test_auroc_counts_pairs():
    keys = [UtteranceKey("t", "0", str(i)) for i in range(5)]
    gold = torch.tensor([0, 1, 0, 1, -100])
    p = torch.tensor([[0.9, 0.1, 0, 0], [0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0], [0.8, 0.2, 0, 0], [0.3, 0.3, 0.4, 0]])
    # Doubts: right 0.1, 0.4; wrong 0.4, 0.2. Pairs: 0.4 > 0.1, 0.4 = 0.4, 0.2 > 0.1, 0.2 < 0.4.
    assert abstention(Predictions(IEMOCAP4, keys, gold, p)).auroc == pytest.approx(2.5 / 4)


def test_a_threshold_keeps_its_risk_on_other_dialogues():
    found = abstain_at_risk(honest(6), honest(7), 0.15)
    assert found.risk == pytest.approx(0.15, abs=0.02) and 0.3 < found.coverage < 0.9
    larger = abstain_at_risk(honest(6), honest(7), 0.2)
    assert larger.coverage > found.coverage and larger.confidence < found.confidence
    assert abstain_at_risk(honest(6), honest(7), 1.0).coverage == pytest.approx(1, abs=0.001)
    never = abstain_at_risk(replace(honest(6), gold=(honest(6).predicted + 1) % 4), honest(7), 0.5)
    assert never.coverage == 0 and math.isinf(never.confidence) and math.isnan(never.risk)


def test_a_threshold_takes_all_of_one_confidence():
    keys = [UtteranceKey("t", "0", str(i)) for i in range(4)]
    p = torch.tensor([[0.6, 0.4, 0, 0]]).repeat(4, 1)
    given = Predictions(IEMOCAP4, keys, torch.tensor([0, 1, 0, 0]), p)  # 1 of 4 wrong, in whatever order
    assert abstain_at_risk(given, given, 0.1).coverage == 0
    assert abstain_at_risk(given, given, 0.3).coverage == 1


@pytest.mark.parametrize("nominal", [0.5, 0.8, 0.9])
@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_sets_have_the_coverage_they_promise_whatever_the_probabilities(nominal, temperature):
    found = conformal_sets(honest(8, temperature=temperature), honest(9, temperature=temperature), nominal)
    assert found.coverage == pytest.approx(nominal, abs=0.025)
    assert found.interval[0] < found.coverage < found.interval[1] < found.interval[0] + 0.05
    test = honest(9, temperature=temperature)
    inside = [bool(found.sets[i, g]) for i, g in enumerate(test.gold.tolist()) if g >= 0]
    assert found.coverage == pytest.approx(sum(inside) / len(inside))
    sizes = [int(found.sets[i].sum()) for i, g in enumerate(test.gold.tolist()) if g >= 0]
    assert found.size == pytest.approx(sum(sizes) / len(sizes))
    assert list(found.by_class) == list(IEMOCAP4.report_order)


def test_few_utterances_cannot_promise_more_than_all_emotions():
    val = honest(10, 8, unlabelled=0)
    assert conformal_sets(val, honest(11), 0.9).size == 4  # 9 * 0.1 is below the first of 8
    ten = honest(10, 9, unlabelled=0)
    smallest = min(p[g].item() for p, g in zip(ten.probabilities, ten.gold, strict=True))
    assert conformal_sets(ten, honest(11), 0.9).threshold == pytest.approx(smallest)


def test_nothing_labelled_is_refused():
    nothing = replace(honest(0, 20), gold=torch.full((20,), -100))
    for function in (calibration, fit_temperature, abstention):
        with pytest.raises(PredictionsError, match="No utterance is labelled"):
            function(nothing)


def test_a_modality_is_lost_by_a_share_that_the_keys_decide():
    batch = make_batch([40, 60], {"text": 3, "audio": 2})
    quarter, half, all_ = (without_modality(batch, "audio", share) for share in (0.25, 0.5, 1.0))
    assert not all_.present["audio"].any() and (all_.features["audio"] == 0).all()
    assert torch.equal(all_.present["text"], batch.present["text"])
    assert torch.equal(all_.features["text"], batch.features["text"])
    assert 10 < (batch.present["audio"] & ~quarter.present["audio"]).sum() < 40
    assert not (half.present["audio"] & ~quarter.present["audio"]).any()
    second = without_modality(batch.select([1]), "audio", 0.5)
    assert torch.equal(second.present["audio"], half.present["audio"][40:])


def test_noise_is_as_large_as_asked_for_and_depends_on_the_key_alone():
    batch = make_batch([400, 200], {"text": 30, "audio": 2})
    clean = batch.features["text"]
    half, double = (noisy_modality(batch, "text", level) for level in (0.5, 2.0))
    added = half.features["text"] - clean
    torch.testing.assert_close(double.features["text"] - clean, 4 * added, rtol=1e-3, atol=1e-4)
    there = batch.present["text"]
    ratio = (added[there].norm(dim=1) / clean[there].norm(dim=1)).square().mean().sqrt()
    assert ratio == pytest.approx(0.5, rel=0.03)
    assert (half.features["text"][~there] == 0).all() and torch.equal(half.present["text"], there)
    assert torch.equal(half.features["audio"], batch.features["audio"])
    alone = noisy_modality(batch.select([1]), "text", 0.5)
    assert torch.equal(alone.features["text"], half.features["text"][400:])


def test_scores_are_sorted_by_kind_modality_and_amount():
    found = by_modality({("noise", "text", 0.5): 0.4, ("without", "text", 1.0): 0.2, ("noise", "text", 2.0): 0.1}, 0.6)
    assert found == {"noise": {"text": {"0": 0.6, "0.5": 0.4, "2": 0.1}}, "without": {"text": {"0": 0.6, "1": 0.2}}}
