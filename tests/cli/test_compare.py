"""``merc compare`` of systems that predict numbers: what it prints and writes, and what it refuses."""

import json

import pytest
import torch

from merc.cli import main
from merc.evaluation import (
    PredictionsError,
    ReportInfo,
    read_systems,
    write_report,
)
from support.made_predictions import made_up
from support.made_values import SCALES, value_run


def emotion_run(folder):
    found = made_up(0.6, 1)
    write_report(folder / "report", **vars(found), info=ReportInfo("made", "test"))


@pytest.fixture
def run(tmp_path):
    for seed in (0, 1):
        value_run(tmp_path / f"run/seed-{seed}/good", 0.3, seed)
        value_run(tmp_path / f"run/seed-{seed}/bad", 2.0, 10 + seed)
    return tmp_path / "run"


def test_a_run_of_numbers_is_compared_over_its_seeds(run, tmp_path, capsys):
    assert main(["compare", str(run), "--samples", "200", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.replace("\n", "")  # lines of a long path are broken
    assert "good" in printed and "bad" in printed and "compare.html" in printed
    found = json.loads((tmp_path / "out/compare.json").read_text())
    assert found["dimensions"] == list(SCALES)
    assert len(found["scores"]["good"]["valence"]["ccc"]) == 2
    assert found["pairs"][0]["runs"] == 2
    assert "good - bad" in (tmp_path / "out/compare.md").read_text()


def test_numbers_and_emotions_are_not_compared(run, tmp_path, capsys):
    emotion_run(tmp_path / "run/seed-0/emotions")
    assert main(["compare", str(run)]) == 1
    assert "one kind at a time" in capsys.readouterr().err
    assert main(["compare", str(run), "--stages", "good", "bad", "--samples", "50"]) == 0


@pytest.mark.parametrize("option", [["--utterances", "0/0"], ["--labels", "joy"]], ids=lambda option: option[0])
def test_options_of_emotions_are_refused_with_numbers(run, tmp_path, option, capsys):
    with pytest.raises(SystemExit) as end:
        main(["compare", str(run), *option, "--samples", "50", "--out", str(tmp_path / "out")])
    assert end.value.code == 2
    assert f"{option[0]}: of emotions alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_corpus_without_utterances_to_draw_is_refused(run, capsys):
    with pytest.raises(SystemExit):
        main(["compare", str(run), "--corpus", "corpus.json"])
    assert "--corpus is read for --utterances alone" in capsys.readouterr().err


def test_reading_numbers_as_emotions_names_the_other_function(run):
    with pytest.raises(PredictionsError, match=r"expected emotions\. Read numbers with .*read_value_systems"):
        read_systems([run])


def test_numbers_have_a_page_and_tables_for_papers(tmp_path):
    for seed in (0, 1):
        value_run(tmp_path / f"run/seed-{seed}/good", 0.3, seed)
        value_run(tmp_path / f"run/seed-{seed}/bad", 2.0, 10 + seed)
    assert main(["compare", str(tmp_path / "run"), "--samples", "200", "--out", str(tmp_path / "out")]) == 0
    page, latex = ((tmp_path / "out" / name).read_text() for name in ("compare.html", "compare.tex"))
    assert page.count("<svg") == 2
    assert "bad - good" in page or "good - bad" in page
    assert latex.count("\\begin{table}") == 2
    assert "& CCC &" in latex


def test_systems_of_both_kinds_are_compared_in_both_and_with_either(tmp_path, capsys):
    from merc.evaluation import ReportInfo, write_value_report
    from support.made_values import both_run

    for name, noise in (("one", 0.3), ("two", 1.5)):
        predicted = both_run(tmp_path / name, noise)
    out = tmp_path / "out"
    both = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main(["compare", *both, "--samples", "100", "--out", str(out)]) == 0
    assert "Weighted F1" in (out / "compare.md").read_text()
    assert "CCC" in (out / "values/compare.md").read_text()
    info = ReportInfo("made", "test", protocol="p", seed=0)
    write_value_report(tmp_path / "alone/report", predicted.values, info=info)
    assert main(["compare", both[0], str(tmp_path / "alone"), "--samples", "100", "--out", str(tmp_path / "v")]) == 0
    assert "CCC" in (tmp_path / "v/compare.md").read_text()


def test_folds_of_numbers_are_pooled(tmp_path):
    from merc.evaluation import read_value_systems

    for name, noise in (("good", 0.3), ("bad", 2.0)):
        for fold in (0, 1):
            value_run(tmp_path / f"run/seed-{fold}/{name}", noise, fold, fold=fold)
    found = read_value_systems([tmp_path / "run"])
    assert [len(runs) for runs in found.values()] == [1, 1]
    assert len(found["good"][0].keys) == 120


def test_runs_on_other_corpora_are_no_folds(tmp_path):
    from merc.evaluation import read_value_systems

    for seed, corpus in ((0, "made"), (1, "other")):
        value_run(tmp_path / f"run/seed-{seed}/good", 0.3, seed, fold=seed, corpus=corpus)
    with pytest.raises(PredictionsError, match="runs of good were tested on different data"):
        read_value_systems([tmp_path / "run"])


def test_predicted_numbers_of_a_run_are_read_whole(tmp_path):
    from merc.evaluation import read_value_predictions, read_value_systems

    value_run(tmp_path / "good", 0.3, present={"text": torch.arange(60) % 2 == 0})
    [[found]] = read_value_systems([tmp_path / "good"]).values()
    assert torch.equal(found.present["text"], read_value_predictions(tmp_path / "good/report").present["text"])


def test_emotions_and_numbers_in_another_order_are_refused(tmp_path):
    from dataclasses import replace

    from merc.evaluation import EmotionValuePredictions
    from support.made_values import both_run

    both = both_run(tmp_path, 0.3)
    values = replace(both.values, keys=both.values.keys[::-1])
    with pytest.raises(PredictionsError, match="in another order"):
        EmotionValuePredictions(both.emotions, values)
