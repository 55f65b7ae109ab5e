"""Models that tell numbers, alone or beside emotions: exported, read again, asked; annotation carries them."""

import json

import pytest
import torch
import yaml

import merc
from merc.conversation import Corpus
from merc.evaluation import read_predictions, read_value_predictions
from merc.models import export_run
from merc.models.build import Maker
from merc.models.export import _Exporter
from merc.pipeline.ablate import run_ablations
from merc.pipeline.plan import FinishedRun
from merc.pipeline.run import run_pipeline
from merc.pipeline.stage import PipelineError, Stage

SHORT = {
    "trainer": {"max_steps": 12, "val_check_interval": 6, "enable_progress_bar": False},
    "data": {"batch_size": 60},
}
STORES = {name: "{data}/features/" + name for name in ("text", "audio")}


def stage(name, *configs):
    return {"name": name, "command": "fit", "config": [*configs, "short.yaml"], "stores": STORES}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "short.yaml").write_text(yaml.safe_dump(SHORT))
    values = {"sentiment": {"joy": 2.5, "anger": -2.5, "sadness": -2.0}, "arousal": {"joy": 4.0, "surprise": 5.0}}
    sizes = {"dialogues": {"train": 12, "val": 4, "test": 4}, "widths": {"text": 12, "audio": 10, "visual": 8}}
    pipeline = {
        "corpus": "data",
        "stages": [
            {"name": "data", "command": "import", "config": "simulated", "options": {"values": values, **sizes}},
            stage("numbers", "systems/concat.yaml", "values.yaml"),
            stage("both", "systems/concat.yaml", "emotions_and_values.yaml"),
        ],
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    run_pipeline(folder / "pipeline.yaml", out=folder / "run", seeds=(0, 1))
    return folder / "run"


def asked(run, seed, model):
    corpus = Corpus.load(run / "data/corpus.json")
    return model.predict(corpus["test"], features={name: run / "data/features" / name for name in model.given})


def test_the_run_reports_both_kinds_of_stages(run):
    text = (run / "report.md").read_text()
    assert "Weighted F1" in text and "CCC on val" in text
    page = (run / "report.html").read_text()
    assert "The largest errors" in page and "The surest errors" in page and "mean CCC" in page
    summary = json.loads((run / "summary.json").read_text())
    assert "weighted_f1" not in summary["numbers"][0]
    assert {"weighted_f1", "ccc"} <= summary["both"][0].keys()


def test_a_model_of_numbers_predicts_what_its_run_predicted(run, tmp_path):
    model = export_run(run, tmp_path / "model", seed=0, stage="numbers")
    assert len(model.labels) == 0
    assert model.dimensions == {"sentiment": (-3, 3), "arousal": (-1, 6)}
    found = asked(run, 0, model)
    told = read_value_predictions(run / "seed-0/numbers/report")
    assert found.keys == told.keys
    assert torch.allclose(found.values, told.values, atol=1e-4)
    assert torch.equal(found.gold_values, told.gold)
    assert found.to_value_predictions().scores()["arousal"]["ccc"] == pytest.approx(
        told.scores()["arousal"]["ccc"], abs=1e-4
    )
    with pytest.raises(ValueError, match="sentiment, arousal and no emotions"):
        _ = found.label
    with pytest.raises(ValueError, match="sentiment, arousal and no emotions"):
        _ = found.uncertainty
    assert list(found.to_pandas().columns) == [
        *("dialogue", "utterance", "speaker", "text", "sentiment", "arousal", "used"),
    ]
    (tmp_path / "predictions.csv").write_text(found.to_csv())
    assert torch.allclose(read_value_predictions(tmp_path).values, found.values)
    card = (tmp_path / "model/README.md").read_text()
    metrics = json.loads((run / "seed-0/numbers/report/metrics.json").read_text())
    assert f"| sentiment | {metrics['values']['sentiment']['ccc']:.3f} |" in card
    assert "sentiment (-3 to 3)" in card
    assert "weighted F1" not in card and "emotion of every" not in card


def test_a_model_of_both_is_the_mean_of_its_seeds(run, tmp_path):
    export_run(run, tmp_path / "model", stage="both")
    model = merc.load(str(tmp_path / "model"))
    found = asked(run, 0, model)
    folders = [run / f"seed-{seed}/both/report" for seed in (0, 1)]
    values = torch.stack([read_value_predictions(folder).values for folder in folders]).mean(0)
    chances = torch.stack([read_predictions(folder, model.labels).probabilities for folder in folders]).mean(0)
    assert torch.allclose(found.values, values, atol=1e-4)
    assert torch.allclose(found.probabilities, chances, atol=1e-5)
    card = (tmp_path / "model/README.md").read_text()
    assert "weighted F1" in card and "| arousal |" in card and "Mean CCC of the single seeds" in card
    (tmp_path / "predictions.csv").write_text(found.to_csv())
    assert torch.allclose(read_value_predictions(tmp_path).values, found.values)
    assert torch.allclose(read_predictions(tmp_path, model.labels).probabilities, found.probabilities)
    config = json.loads((tmp_path / "model/config.json").read_text())
    for dimensions, why in (
        (
            {"sentiment": [-3, 3], "valence": [-1, 6]},
            "numbers sentiment, valence, and .* trained on sentiment, arousal",
        ),
        (
            {"arousal": [-1, 6], "sentiment": [-3, 3]},
            "numbers arousal, sentiment, and .* trained on sentiment, arousal",
        ),
        (
            {"sentiment": [-3, 3], "arousal": [50, 100]},
            "The scale of arousal is 50 to 100, .* trained on numbers around",
        ),
        ({"sentiment": [-0.5, 0.5], "arousal": [-1, 6]}, "The scale of sentiment is -0.5 to 0.5"),
    ):
        (tmp_path / "model/config.json").write_text(json.dumps({**config, "dimensions": dimensions}))
        with pytest.raises(merc.models.ModelError, match=why):
            merc.load(str(tmp_path / "model"))
    config["dimensions"].pop("arousal")
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    with pytest.raises(merc.models.ModelError, match="The model has 8 outputs"):
        merc.load(str(tmp_path / "model"))


def test_an_ensemble_is_a_model_of_what_its_members_tell(run):
    exporter = _Exporter(FinishedRun.load(run), Maker())
    for name, members in (("together", ["{both}"]), ("mixed", ["{both}", "{numbers}"])):
        exporter._stages[name] = Stage(name, "ensemble", options={"members": members})
    assert exporter.value(0, "@together@/logits") == "seed-0/together/logits"
    mean = exporter.steps["seed-0/together"]
    assert (mean.classes, mean.numbers) == (9, 2)
    with pytest.raises(merc.models.ModelError, match=r"both: 7 emotions and 2 numbers, .*: 0 emotions and 2 numbers"):
        exporter.value(0, "@mixed@/logits")


def test_the_command_line_predicts_numbers(run, tmp_path, capsys):
    from merc.cli import main

    export_run(run, tmp_path / "model", seed=0, stage="numbers")
    checkpoint = next((run / "seed-0/both/checkpoints").glob("best*"))
    talk = tmp_path / "talk.csv"
    talk.write_text("speaker,text\nAnn,That is wonderful!\nBen,Is it?\n")
    assert main(["predict", "--model", str(tmp_path / "model"), str(talk), "--out", str(tmp_path / "p.csv")]) == 0
    assert "mean sentiment" in capsys.readouterr().out
    configs = ["--config", "systems/concat.yaml", "--config", "emotions_and_values.yaml"]
    stores = [f"--data.stores.{name}={run / 'data/features' / name}" for name in ("text", "audio")]
    data = ["--data.corpus", str(run / "data/corpus.json"), *stores, "--ckpt_path", str(checkpoint)]
    main(["predict", *configs, *data, "--out", str(tmp_path / "out"), "--trainer.enable_progress_bar=false"])
    told = read_value_predictions(run / "seed-0/both/report")
    again = read_value_predictions(tmp_path / "out")
    rows = [again.keys.index(key) for key in told.keys]
    assert torch.allclose(again.values[rows], told.values, atol=1e-4)
    assert len(read_predictions(tmp_path / "out").keys) == len(again.keys)


@pytest.mark.parametrize("kind", ["numbers", "both"])
def test_annotation_carries_numbers(run, tmp_path, kind):
    from merc.annotation.files import as_json, table_of
    from merc.annotation.lines import Annotation, describe
    from merc.corpora import read_transcript
    from merc.pipeline.apply import AppliedRun
    from merc.store import FeatureStore

    model = export_run(run, seed=0, stage=kind)
    (tmp_path / "talk.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nAnn: Hello there\n")
    corpus = read_transcript(tmp_path / "talk.srt", tmp_path / "talk.mp4", labels=model.labels)
    [key] = [key for talk in corpus["test"] for key in talk.keys]
    names = [*model.labels.names, *model.dimensions]
    row = torch.arange(len(names), dtype=torch.float)[None]
    provenance = {"classes": names, "values": list(model.dimensions)}
    logits = FeatureStore.write(tmp_path / "logits", [key], row, kind="logits", provenance=provenance)
    [line] = lines = describe(AppliedRun(corpus, {"text": {}}, logits, {}, {}))
    assert line.values == {"sentiment": len(names) - 2, "arousal": len(names) - 1}
    assert (line.emotion is None) == (kind == "numbers")
    assert sum(line.probabilities.values()) == pytest.approx(0 if kind == "numbers" else 1)
    annotation = Annotation(lines, model.labels, [], {}, dimensions=model.dimensions)
    assert as_json(annotation)["dimensions"] == {"sentiment": [-3, 3], "arousal": [-1, 6]}
    assert as_json(annotation)["lines"][0]["values"] == line.values
    columns, [cells] = table_of(annotation)
    assert cells[columns.index("arousal")] == len(names) - 1
    assert len(columns) == len(cells)


def pipeline_of(folder, compare, *more):
    stages = [
        {"name": "data", "command": "import", "config": "simulated", "options": {"values": {"v": {"joy": 2.5}}}},
        {"name": "emotions", "command": "fit", "config": ["systems/concat.yaml"], "stores": STORES},
        {"name": "numbers", "command": "fit", "config": ["systems/concat.yaml", "values.yaml"], "stores": STORES},
    ]
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"corpus": "data", "stages": [*stages, *more], "compare": compare}))
    return file


def test_stages_of_other_kinds_are_not_compared_and_nothing_runs(tmp_path):
    file = pipeline_of(tmp_path, ["emotions", "numbers"])
    with pytest.raises(PipelineError, match="emotions: emotions; numbers: numbers"):
        run_pipeline(file, out=tmp_path / "out")
    assert not (tmp_path / "out/data").exists()


def test_an_ensemble_of_numbers_is_refused_before_anything_runs(tmp_path):
    both = {"name": "mean", "command": "ensemble", "options": {"members": ["{emotions}", "{numbers}"]}}
    with pytest.raises(PipelineError, match="its member 'numbers' predicts numbers alone"):
        run_pipeline(pipeline_of(tmp_path, [], both), out=tmp_path / "out")
    assert not (tmp_path / "out/data").exists()


def test_an_ablation_of_numbers_is_refused_before_anything_runs(tmp_path):
    file = pipeline_of(tmp_path, [])
    with pytest.raises(PipelineError, match="'numbers' predicts numbers alone"):
        run_ablations(file, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
