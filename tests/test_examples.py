"""The examples run as their readers run them: the script as a program, the packages beside ``merc``."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from merc.cli import main
from merc.conversation import Corpus
from merc.corpora.simulated import simulate
from merc.evaluation import read_predictions
from merc.store import FeatureStore
from support.tiny_text import tiny_corpus

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CUSTOM = EXAMPLES / "custom_head"
CORPUS = EXAMPLES / "custom_corpus"
PARTS = EXAMPLES / "custom_parts"
PACKAGES = {source.name for source in EXAMPLES.glob("*/src/*")}


@pytest.fixture
def merc(monkeypatch, capsys):
    """Runs commands of ``merc`` one after another in a folder, beside the package of an example; what they print."""

    def commands(*given, cwd, example=CUSTOM):
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
            del sys.modules[name]  # another process would import the package again
        with monkeypatch.context() as patch:
            patch.chdir(cwd)
            patch.syspath_prepend(str(example / "src"))
            assert [main(args) for args in given] == [0] * len(given)
        return capsys.readouterr().out

    return commands


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Where the shipped config looks for its inputs, with a corpus of few dialogues and 256 values a modality."""
    root = tmp_path_factory.mktemp("custom_head")
    widths = dict.fromkeys(("text", "audio", "visual"), 256)
    simulate(dialogues={"train": 12, "val": 6, "test": 6}, widths=widths).save(root / "runs/simulated/data")
    stages = {"text": "teacher", "audio": "audio_student", "visual": "visual_student"}
    for modality, stage in stages.items():
        (root / "runs/simulated/seed-0" / stage).mkdir(parents=True)
        hidden = root / "runs/simulated/seed-0" / stage / "hidden"
        hidden.symlink_to(root / "runs/simulated/data/features" / modality)
    return root


def test_the_quickstart_trains_every_stage_and_prints_the_optimum(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / "quickstart.py"))["main"]("out", dialogues=12, epochs=1)
    printed = capsys.readouterr().out
    for stage in ("teacher", "audio_student", "fusion"):
        assert stage in printed
        assert (tmp_path / "out" / stage / "report/report.md").is_file()
    assert "Optimum" in printed


def test_the_custom_head_trains_tests_and_predicts_by_its_class_path(simulated, merc):
    options = ["--model.head.dim", "64", "--model.head_weights.gate", "0.01"]
    short = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "1", "--out", "out"]
    head = ["--model.head", "my_fusion.TextFirst", *options]
    hidden = {"text": "teacher", "audio": "audio_student", "visual": "visual_student"}
    stores = {name: f"runs/simulated/seed-0/{stage}/hidden" for name, stage in hidden.items()}
    data = ["--data.corpus", "runs/simulated/data/corpus.json", "--data.stores", json.dumps(stores)]
    fit = ["fit", "--config", "systems/hierarchical.yaml", *data, *head, *short]
    given = ["--config", "out/config.yaml", "--ckpt_path", "out/checkpoints/last.ckpt"]
    predict = ["predict", *given, "--out", "stores", "--data.predict_splits", "[test]"]
    merc(fit, ["test", *given], predict, cwd=simulated)
    trained = yaml.safe_load((simulated / "out/config.yaml").read_text())["model"]["init_args"]
    assert trained["head"]["class_path"] == "my_fusion.TextFirst"
    assert trained["head"]["init_args"]["dim"] == 64
    predictions = read_predictions(simulated / "out/report")
    logits = FeatureStore(simulated / "stores/logits")
    assert set(logits.keys) == set(predictions.keys)
    assert logits.provenance["modules"][0] == "TextFirst"
    assert FeatureStore(simulated / "stores/hidden").dim == 64


@pytest.fixture(scope="module")
def emorynlp(tmp_path_factory):
    """Files in the layout of EmoryNLP."""
    root = tmp_path_factory.mktemp("custom_corpus") / "emorynlp"
    runpy.run_path(str(CORPUS / "tests/made_emorynlp.py"))["make_emorynlp"](root)
    return root


def test_a_reader_of_ones_own_imports_by_its_import_path(emorynlp, merc):
    given = ["import", "my_corpora.read_emorynlp", str(emorynlp), "--out", "three", "--emotions", "three"]
    printed = merc(given, cwd=emorynlp.parent, example=CORPUS)
    assert "EmoryNLP's own train, dev (called val) and test splits, three emotions" in printed
    corpus = Corpus.load(emorynlp.parent / "three")
    assert corpus.labels.names == ("negative", "neutral", "positive") and len(corpus["train"]) == 8


def test_the_same_files_need_no_reader_and_no_option(emorynlp, merc):
    merc(["import", "corpus", str(emorynlp), "--out", "plain"], cwd=emorynlp.parent)
    corpus = Corpus.load(emorynlp.parent / "plain")
    assert len(corpus["train"]) == 8 and len(corpus.labels) == 7


def test_a_pipeline_may_start_from_a_reader_of_ones_own(emorynlp, tmp_path, merc):
    shutil.copytree(CORPUS / "src", tmp_path / "src")
    short = ["--trainer.max_steps=3", "--trainer.val_check_interval=1"]
    given = ["run", str(CORPUS / "emorynlp.yaml"), "--root", str(emorynlp), "--out", "out", *short]
    printed = merc(given, given, cwd=tmp_path, example=tmp_path)
    assert Corpus.load(tmp_path / "out/data").name == "emorynlp"
    assert (tmp_path / "out/report.md").is_file()
    assert printed.count("finished before, unchanged") == 3  # the second time
    # The reader is part of what decides the result.
    source = tmp_path / "src/my_corpora/emorynlp.py"
    source.write_text(source.read_text().replace("A & B", "A and B"))
    assert "finished before, unchanged" not in merc(given, cwd=tmp_path, example=tmp_path)


def test_an_encoder_a_loss_and_a_stage_of_ones_own_make_a_pipeline(tmp_path, merc):
    tiny_corpus(12).save(tmp_path / "data/corpus.json")
    short = ["--trainer.max_steps=3", "--trainer.val_check_interval=1"]
    given = ["run", str(PARTS / "parts.yaml"), "--corpus", "data", "--out", "out", *short]
    merc(given, cwd=tmp_path, example=PARTS)
    features = FeatureStore(tmp_path / "out/minilm/features")
    assert (features.provenance["encoder"], features.dim) == ("my_parts.HashedEncoder", 512)
    config = yaml.safe_load((tmp_path / "out/seed-0/teacher/config.yaml").read_text())
    assert config["model"]["init_args"]["loss"]["class_path"] == "my_parts.BalancedCrossEntropy"
    with (tmp_path / "out/seed-0/doubtful/doubtful.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    entropies = [float(row["entropy"]) for row in rows]
    assert len(rows) == 20 and entropies == sorted(entropies, reverse=True)


def test_the_tests_of_the_examples_pass():
    folders = [CUSTOM, CORPUS, PARTS]
    places = " ".join(str(folder / name) for folder in folders for name in ("src", "tests"))
    options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-o", f"pythonpath={places}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    command = [sys.executable, "-m", "pytest", *options, *map(str, folders)]
    done = subprocess.run(command, cwd=EXAMPLES, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
