"""Ensembles of tested systems: the mean of what they say, in a report and in a store."""

import json
from dataclasses import replace

import pytest
import torch

from merc.cli import main
from merc.conversation import UtteranceKey
from merc.evaluation import (
    Predictions,
    PredictionsError,
    ReportInfo,
    StoreInfo,
    ensemble_logits,
    ensemble_systems,
    read_predictions,
    write_report,
)
from merc.labels import MELD
from merc.store import FeatureStore, StoreError

KEYS = [UtteranceKey("test", str(d), str(u)) for d in range(4) for u in range(3)]
CLASSES = {"classes": list(MELD.names)}
INFO = ReportInfo(
    corpus="tiny",
    split="test",
    protocol="by hand",
    seed=3,
    selected_on="best val/weighted_f1",
    stores={"text": StoreInfo("somewhere/text", {"source": "nowhere"})},
)


def member(folder, seed, *, logits=True, info=INFO, modality="text", val=None):
    """A tested stage."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(KEYS), 7, generator=generator)
    there = torch.rand(len(KEYS), generator=generator) < 0.5
    write_report(
        folder / "report",
        labels=MELD,
        keys=KEYS,
        gold=torch.arange(len(KEYS)) % 7,
        probabilities=values.softmax(-1),
        present={modality: there},
        info=info,
        val=val,
    )
    if logits:
        FeatureStore.write(folder / "logits", KEYS, values, kind="logits", provenance=CLASSES)
    return folder


def test_report_and_logits_are_those_of_the_mean(tmp_path):
    a, b = member(tmp_path / "seed-0/a", 0), member(tmp_path / "seed-0/b", 1, modality="audio")
    metrics = ensemble_systems([a, b], out=tmp_path / "both")
    first, second, both = (read_predictions(folder / "report") for folder in (a, b, tmp_path / "both"))
    mean = (first.probabilities + second.probabilities) / 2
    torch.testing.assert_close(both.probabilities, mean)
    assert torch.equal(both.present["text"], first.present["text"])
    assert torch.equal(both.present["audio"], second.present["audio"])
    assert metrics == json.loads((tmp_path / "both/report/metrics.json").read_text())
    assert metrics["weighted_f1"] == both.metrics()["weighted_f1"]
    info = metrics["info"]
    assert info["model"] == "Mean of the probabilities of a, b" and info["seed"] == 3
    assert info["selected_on"] == "a: best val/weighted_f1; b: best val/weighted_f1"
    assert set(info["stores"]) == {"a: text", "b: text"}
    assert info["missing"]["text"] == {"the reports of the members say why": int((~both.present["text"]).sum())}
    store = FeatureStore(tmp_path / "both/logits")
    logits, present = store.gather(KEYS)
    assert present.all() and store.kind == "logits" and store.provenance["classes"] == list(MELD.names)
    torch.testing.assert_close(logits.softmax(-1)[:, MELD.report_ids], mean)


def test_the_mean_is_scored_on_val_if_every_member_was(tmp_path):
    chances = [torch.randn(6, 7, generator=torch.Generator().manual_seed(seed)).softmax(-1) for seed in (5, 6)]
    vals = [Predictions(MELD, KEYS[:6], torch.arange(6), chance) for chance in chances]
    a, b = (member(tmp_path / f"seed-{seed}/a", seed, val=val) for seed, val in enumerate(vals))
    metrics = ensemble_systems([a, b], out=tmp_path / "both")
    mean = Predictions(MELD, KEYS[:6], torch.arange(6), sum(chances) / 2)
    assert metrics["val"]["weighted_f1"] == pytest.approx(mean.metrics()["weighted_f1"])
    without = ensemble_systems([a, member(tmp_path / "seed-2/a", 2)], out=tmp_path / "other")
    assert "val" not in without


def test_of_an_utterance_that_some_members_lack_the_others_tell(tmp_path):
    values = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    first = FeatureStore.write(
        tmp_path / "a", KEYS[:2], values[0, :2], kind="logits", provenance=CLASSES, missing={KEYS[3]: "no text"}
    )
    missing = {KEYS[0]: "no sound", KEYS[3]: "too short"}
    second = FeatureStore.write(
        tmp_path / "b", KEYS[1:3], values[1, 1:], kind="logits", provenance=CLASSES, missing=missing
    )
    both = ensemble_logits({"a": first, "b": second}, out=tmp_path / "both")
    logits, present = both.gather(KEYS[:4])
    one, two = values.softmax(-1)
    torch.testing.assert_close(logits[:3].softmax(-1), torch.stack([one[0], (one[1] + two[1]) / 2, two[2]]))
    assert present.tolist() == [True, True, True, False] and both.missing == {KEYS[3]: "no text; too short"}


def test_numbers_beside_the_emotions_are_no_logits(tmp_path):
    values = torch.randn(2, 2, 7, generator=torch.Generator().manual_seed(0))
    names = [*CLASSES["classes"], "valence", "arousal"]
    rows = torch.cat([values[0], torch.tensor([[4.0, 90.0], [-3.0, 2.0]])], dim=1)
    told = {"classes": names, "values": names[-2:]}
    both = FeatureStore.write(tmp_path / "a", KEYS[:2], rows, kind="logits", provenance=told)
    emotions = FeatureStore.write(tmp_path / "b", KEYS[:2], values[1], kind="logits", provenance=CLASSES)
    for order in ({"a": both, "b": emotions}, {"b": emotions, "a": both}):
        mean = ensemble_logits(order, out=tmp_path / "".join(order))
        mean.require(kind="logits", dim=7, classes=CLASSES["classes"])
        torch.testing.assert_close(mean.gather(KEYS[:2])[0].softmax(-1), values.softmax(-1).mean(0))
    alone = {"classes": names[-2:], "values": names[-2:]}
    numbers = FeatureStore.write(tmp_path / "c", KEYS[:2], rows[:, 7:], kind="logits", provenance=alone)
    with pytest.raises(StoreError, match="tells no emotions"):
        ensemble_logits({"c": numbers, "d": numbers}, out=tmp_path / "cd")


@pytest.mark.parametrize(("other", "digest"), [("a" * 16, "a" * 16), ("b" * 16, None), (None, None)])
def test_the_ensemble_uses_the_keys_of_its_members(tmp_path, other, digest):
    members = {
        name: FeatureStore.write(
            tmp_path / name, KEYS[:1], torch.zeros(1, 7), kind="logits", provenance=CLASSES, corpus=corpus
        )
        for name, corpus in (("one", "a" * 16), ("other", other))
    }
    assert ensemble_logits(members, out=tmp_path / "both").corpus == digest


def test_seeds_of_one_system_need_no_logits(tmp_path, capsys):
    folders = [member(tmp_path / f"seed-{n}/fusion", n, logits=n > 0, info=replace(INFO, seed=n)) for n in range(3)]
    assert main(["ensemble", *map(str, folders), "--out", str(tmp_path / "all")]) == 0
    told = capsys.readouterr().out.replace("\n", "")  # a long path is broken
    assert all(name in told for name in ("seed-0/fusion", "seed-2/fusion", "ensemble", "report.md"))
    info = json.loads((tmp_path / "all/report/metrics.json").read_text())["info"]
    assert info["seed"] is None and info["model"].endswith("of seed-0/fusion, seed-1/fusion, seed-2/fusion")
    assert not (tmp_path / "all/logits").exists()
    again = ensemble_systems([folder / "report" for folder in folders], out=tmp_path / "reports")
    assert again["confusion"] == json.loads((tmp_path / "all/report/metrics.json").read_text())["confusion"]


def test_what_does_not_belong_together_is_refused_in_one_line(tmp_path, capsys):
    a, b = member(tmp_path / "a", 0), member(tmp_path / "b", 1)
    other = member(tmp_path / "c", 2, info=replace(INFO, corpus="huge"))
    for members, message in (
        ([a], "expected two different members"),
        ([a, b, tmp_path / "." / "a"], "expected two different members"),
        ([a, tmp_path / "nowhere"], "No report in"),
        ([a, other], "tested on different data (corpus: 'tiny' and 'huge')"),
    ):
        assert main(["ensemble", *map(str, members), "--out", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err.strip()
        assert error.startswith("merc ensemble: ") and message in error and "\n" not in error
    with pytest.raises(PredictionsError, match="different data"):
        ensemble_systems([a, other], out=tmp_path / "out")
    FeatureStore.write(b / "logits", KEYS, torch.zeros(len(KEYS), 7), kind="features")
    with pytest.raises(StoreError, match="holds features, expected logits"):
        ensemble_systems([a, b], out=tmp_path / "out")
    assert not (tmp_path / "out/report").exists()
