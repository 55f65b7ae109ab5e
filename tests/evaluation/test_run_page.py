"""The page of a run."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from merc.evaluation import weighted_f1, write_report
from merc.evaluation.ledger import Opening
from merc.evaluation.report import ReportInfo, StoreInfo
from merc.evaluation.run_page import SeedRun, learning_curve, score_interval, write_run_page
from support.made_predictions import made_up


def report_of(folder, predictions, seed=0, **extra):
    """A stage with a report of some predictions."""
    write_report(
        folder / "report",
        labels=predictions.labels,
        keys=predictions.keys,
        gold=predictions.gold,
        probabilities=predictions.probabilities,
        present=predictions.present,
        lines=predictions.lines,
        info=ReportInfo(
            "made up", "test", "a rule", ["a <note>"], seed, "A & B", stores={"text": StoreInfo("s", {"encoder": "x"})}
        ),
        **extra,
    )
    return SeedRun(folder, seed)


class Outside(HTMLParser):
    """Collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.loads = []

    def handle_starttag(self, tag, attrs):
        self.loads += [v for name, v in attrs if name in ("src", "href") and not str(v).startswith(("#", "data:"))]
        assert tag not in ("script", "link", "iframe")


def test_the_page_has_every_part_and_loads_nothing(tmp_path):
    runs = []
    for seed in (0, 1):
        found = made_up(0.6, seed + 1)
        wrong = int(((found.gold >= 0) & (found.predicted != found.gold)).nonzero()[0])
        sure = found.probabilities.clone()
        sure[wrong] = torch.nn.functional.one_hot(found.predicted[wrong], 4).float() * 0.96 + 0.01
        lines = [("Ann", "I <b>know</b>" if row == wrong else "words") for row in range(len(found.keys))]
        worse = found.predicted.roll(3)
        stressed = {(kind, "text", share): worse for kind in ("without", "noise") for share in (0.5, 1.0)}
        runs.append(
            report_of(
                tmp_path / f"seed-{seed}/fusion",
                replace(found, probabilities=sure, lines=lines),
                seed,
                val=made_up(0.6, 7),
                stressed=stressed,
            )
        )
    opening = Opening("made up/test", "0123456789abcdef", 0, "best.ckpt", "best val", "2026-01-01T00:00:00+00:00")
    write_run_page(
        tmp_path / "report.html",
        "A < B",
        {"teacher": runs[:1], "fusion": runs},
        ledger=[opening],
        optimum={"fusion": 90.0},
    )
    page = (tmp_path / "report.html").read_text()
    for part in (
        "A &lt; B",
        "a &lt;note&gt;",
        "A &amp; B",
        "Confusion over all runs",
        "Probabilities",
        "Without a modality",
        "With noise in a modality",
        "0123456789ab",
        "The surest errors",
        "I &lt;b&gt;know&lt;/b&gt;",
        "Optimum",
        "&quot;encoder&quot;: &quot;x&quot;",
    ):
        assert part in page, part
    assert "<b>know" not in page and page.count("<details open>") == 1
    parser = Outside()
    parser.feed(page)
    assert parser.loads == []


def test_the_confusion_is_that_of_all_runs(tmp_path):
    runs = [report_of(tmp_path / f"seed-{seed}/fusion", made_up(0.6, seed), seed) for seed in (1, 2)]
    write_run_page(tmp_path / "report.html", "x", {"fusion": runs})
    both = sum(run.predictions.confusion.long() for run in runs)
    page = (tmp_path / "report.html").read_text()
    labels = runs[0].predictions.labels
    for label, support in zip(labels.names, both.sum(1).tolist(), strict=True):
        assert f"{label} ({support})" in page
    cells = re.findall(r"rgb\(8 48 107 / ([\d.]+)\).*?>(\d+)<br>([\d.]+)%", page)
    expected = both[labels.report_ids][:, labels.report_ids]
    assert [int(count) for _, count, _ in cells] == expected.flatten().tolist()
    shares = (expected / expected.sum(1, keepdim=True)).flatten().tolist()
    assert [float(share) for share, _, _ in cells] == pytest.approx(shares, abs=0.005)
    assert [float(percent) / 100 for _, _, percent in cells] == pytest.approx(shares, abs=0.00051)


def test_the_interval_holds_the_score_and_is_that_of_slow_draws():
    run = made_up(0.6, 3)
    low, high = score_interval([run])
    dialogues = sorted({key[:2] for key in run.keys})
    rows = {name: torch.tensor([i for i, key in enumerate(run.keys) if key[:2] == name]) for name in dialogues}
    drawn, random = [], np.random.default_rng(5)
    for _ in range(400):
        chosen = torch.cat([rows[dialogues[i]] for i in random.integers(len(dialogues), size=len(dialogues))])
        part = torch.zeros(4, 4).double()
        for gold, guess in zip(run.gold[chosen].tolist(), run.predicted[chosen].tolist(), strict=True):
            if gold >= 0:
                part[gold, guess] += 1
        drawn.append(100 * float(weighted_f1(part)))
    assert low < 100 * run.metrics()["weighted_f1"] < high
    assert (low, high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=1.5)


def test_the_interval_of_runs_that_differ_is_wider():
    one, other = made_up(0.8, 3), made_up(0.3, 4)
    width = [high - low for low, high in (score_interval([one, one]), score_interval([one, other]))]
    assert width[1] > 2 * width[0]


def test_without_predictions_to_score_there_is_still_a_page(tmp_path):
    found = made_up(0.6, 1)
    run = report_of(tmp_path / "fusion", replace(found, gold=torch.full_like(found.gold, -100)))
    write_run_page(tmp_path / "report.html", "x", {"fusion": [run]})
    assert "The surest errors" not in (tmp_path / "report.html").read_text()


def test_curves_are_those_of_training_and_not_of_the_last_validation(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    assert learning_curve(tmp_path) == []
    with SummaryWriter(tmp_path, filename_suffix=".fit") as writer:
        for step, value in ((9, 0.25), (19, 0.5)):
            writer.add_scalar("train/loss", 1.0, step)
            writer.add_scalar("val/weighted_f1", value, step)
    with SummaryWriter(tmp_path, filename_suffix=".val") as writer:
        writer.add_scalar("val/weighted_f1", 0.75, 20)
    assert learning_curve(tmp_path) == [(9, 0.25), (19, 0.5)]
