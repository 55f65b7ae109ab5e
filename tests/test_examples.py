"""The examples run as their readers run them: as programs of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from merc.corpora.simulated import simulate
from merc.evaluation import read_predictions
from merc.store import FeatureStore

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CUSTOM = EXAMPLES / "custom_head"


def run(*args, cwd, path=""):
    """What a Python process prints, started in a folder; its failure is the test's, with what it said."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(path), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def merc(*args, cwd):
    return run("-c", "import sys; from merc.cli import main; sys.exit(main())", *args, cwd=cwd, path=CUSTOM / "src")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """Where the shipped corpora/simulated.yaml looks for its inputs, with a corpus of few dialogues."""
    root = tmp_path_factory.mktemp("custom_head")
    widths = dict.fromkeys(("text", "audio", "visual"), 16)
    simulate(dialogues={"train": 12, "val": 6, "test": 6}, widths=widths).save(root / "runs/simulated/data")
    for modality in widths:
        (root / "runs/simulated" / modality).symlink_to(root / "runs/simulated/data/features" / modality)
    return root


def test_the_quickstart_trains_every_stage_and_prints_the_optimum(tmp_path):
    code = "import runpy, sys; runpy.run_path(sys.argv[1])['main']('out', dialogues=12, epochs=1)"
    printed = run("-c", code, str(EXAMPLES / "quickstart.py"), cwd=tmp_path)
    for stage in ("teacher", "audio_student", "fusion"):
        assert stage in printed
        assert (tmp_path / "out" / stage / "report/report.md").is_file()
    assert "Optimum" in printed


def test_the_custom_head_trains_tests_and_predicts_by_its_class_path(simulated):
    options = ["--model.head.dim", "64", "--model.head_weights.gate", "0.01"]
    short = ["--trainer.max_steps", "2", "--trainer.val_check_interval", "1", "--trainer.default_root_dir", "out"]
    head = ["--model.head", "my_fusion.TextFirst", *options]
    configs = ["--config", "systems/hierarchical.yaml", "--config", "corpora/simulated.yaml"]
    merc("fit", *configs, *head, *short, cwd=simulated)
    (config,) = (simulated / "out").rglob("config.yaml")
    trained = yaml.safe_load(config.read_text())["model"]["init_args"]
    assert trained["head"]["class_path"] == "my_fusion.TextFirst"
    assert trained["head"]["init_args"]["dim"] == 64

    given = ["--config", str(config), "--ckpt_path", str(config.parent / "checkpoints/last.ckpt")]
    merc("test", *given, cwd=simulated)
    (report,) = (simulated / "out").rglob("report.md")
    predictions = read_predictions(report.parent)

    merc("predict", *given, "--out", "stores", "--data.predict_splits", "[test]", cwd=simulated)
    logits = FeatureStore(simulated / "stores/logits")
    assert set(logits.keys) == set(predictions.keys)
    assert logits.provenance["modules"][0] == "TextFirst"
    assert FeatureStore(simulated / "stores/hidden").dim == 64


def test_the_tests_of_the_custom_head_pass():
    run("-m", "pytest", "-q", "-p", "no:cacheprovider", ".", cwd=CUSTOM)
