"""One stage by its config: the folder of its results, and the table of what it predicts."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

from merc.cli import main
from merc.conversation import Corpus, UtteranceKey
from merc.corpora.simulated import simulate
from merc.evaluation import read_predictions
from merc.features.table import FeaturedCorpus
from merc.store import FeatureStore

CONFIG = {
    "trainer": {"max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"},
    "model": {
        "class_path": "merc.tasks.TeacherTask",
        "init_args": {
            "modality": "text",
            "network": {
                "class_path": "merc.graphs.GATEncoder",
                "init_args": {"hidden_dim": 8, "num_layers": 1, "heads": 2},
            },
            "optimizer": {"class_path": "torch.optim.AdamW"},
        },
    },
    "data": {
        "class_path": "merc.datamodules.ConversationDataModule",
        "init_args": {
            "corpus": "data/corpus.json",
            "stores": {"text": "data/features/text"},
            "graphs": {"text": {"class_path": "merc.graphs.GraphBuilder"}},
        },
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny corpus, a config, and in ``fit`` what a training with ``--out fit`` leaves."""
    place = tmp_path_factory.mktemp("stage")
    made = simulate(dialogues={"train": 8, "val": 4, "test": 4}, widths=dict.fromkeys(("text", "audio", "visual"), 8))
    FeaturedCorpus.save(made, place / "data")
    (place / "stage.yaml").write_text(yaml.safe_dump(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main(["fit", "--config", "stage.yaml", "--out", "fit"]) == 0
    return place


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def test_all_that_a_training_leaves_is_in_its_folder():
    left = {path.name.split(".")[0] for path in Path("fit").iterdir()}
    assert left == {"checkpoints", "config", "events", "hparams"}
    assert Path("fit/checkpoints/last.ckpt").is_file() and Path("fit/config.yaml").is_file()
    assert not Path("lightning_logs").exists()


GIVEN = ["--config", "fit/config.yaml", "--ckpt_path", "fit/checkpoints/last.ckpt"]


def test_a_test_reports_into_its_folder(capsys):
    assert main(["test", *GIVEN]) == 0  # the config knows the folder of its training
    assert capsys.readouterr().out.splitlines()[-1] == "Report: fit/report/report.md"
    assert main(["test", *GIVEN, "--out", "tested", "--trainer.logger", "false"]) == 0
    assert main(["test", *GIVEN, "--out", "again"]) == 0
    reports = [Path(out, "report/metrics.json").read_text() for out in ("fit", "tested", "again")]
    assert len({json.loads(report)["weighted_f1"] for report in reports}) == 1


def test_a_logger_of_ones_own_writes_into_the_folder():
    logger = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "elsewhere"}}
    options = ["--trainer.logger", json.dumps(logger), "--out", "csv"]
    assert main(["fit", "--config", "stage.yaml", *options]) == 0
    assert Path("csv/metrics.csv").is_file() and Path("csv/config.yaml").is_file() and not Path("elsewhere").exists()


def test_a_training_does_not_mix_with_another(capsys):
    assert main(["fit", "--config", "stage.yaml", "--out", "fit"]) == 1
    assert "fit/checkpoints/last.ckpt" in capsys.readouterr().err
    assert main(["fit", *GIVEN, "--trainer.max_epochs", "2"]) == 0


def test_predictions_come_with_what_was_said_by_whom(capsys):
    assert main(["predict", *GIVEN, "--out", "predicted", "--data.predict_splits", "[val, test]"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "Predictions: predicted/predictions.csv"
    corpus, logits = Corpus.load("data"), FeatureStore("predicted/logits")
    said = {key: u for s in ("val", "test") for c in corpus[s] for key, u in zip(c.keys, c.utterances, strict=True)}
    with Path("predicted/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    keys = [UtteranceKey(row["partition"], row["dialogue"], row["utterance"]) for row in rows]
    assert keys == [key for key in said if key in logits] and len(keys) > 8
    for key, row in zip(keys, rows, strict=True):
        assert (row["speaker"], row["text"], row["gold"]) == (said[key].speaker, said[key].text, said[key].label)
        expected = logits[key].softmax(-1)
        assert row["predicted"] == corpus.labels.names[int(expected.argmax())]
        assert float(row[f"p_{row['predicted']}"]) == pytest.approx(float(expected.max()))
    assert read_predictions("predicted").keys == keys


def test_no_table_without_logits(capsys):
    assert main(["predict", *GIVEN, "--out", "hidden", "--outputs", "[hidden]"]) == 0
    assert not Path("hidden/predictions.csv").exists() and "Predictions" not in capsys.readouterr().out


def test_a_network_is_not_tested_before_it_is_trained(capsys):
    assert main(["test", "--config", "stage.yaml", "--out", "untrained"]) == 1
    assert "expected --ckpt_path" in capsys.readouterr().err and not Path("untrained/report").exists()


@pytest.mark.parametrize("command", ["fit", "test"])
def test_the_results_of_a_run_are_not_replaced(command, capsys, tmp_path):
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher/stage.json").write_text("{}")
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], "default_root_dir": str(tmp_path / "teacher")}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    given = ["--config", str(tmp_path / "config.yaml"), "--ckpt_path", "fit/checkpoints/last.ckpt"]
    assert main([command, *given]) == 1
    assert "is a stage of `merc run`" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "teacher").iterdir()] == ["stage.json"]
    assert main([command, *given, "--out", str(tmp_path / "elsewhere")]) == 0


def test_a_model_that_cannot_be_written_to_predicts(tmp_path):
    shutil.copytree("fit", tmp_path / "model")
    before = sorted((tmp_path / "model").rglob("*"))
    given = [
        "--config",
        str(tmp_path / "model/config.yaml"),
        "--ckpt_path",
        str(tmp_path / "model/checkpoints/last.ckpt"),
    ]
    assert main(["predict", *given, "--out", str(tmp_path / "out"), "--data.predict_splits", "[test]"]) == 0
    assert sorted((tmp_path / "model").rglob("*")) == before
