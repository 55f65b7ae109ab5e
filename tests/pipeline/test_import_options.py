"""Options of the import on the command line of merc run, ablate and search, and the comparison at the end of a run."""

import json
from pathlib import Path

import pytest
import yaml

from merc.cli import main
from merc.cli.run import split_import_options
from merc.conversation import Corpus
from merc.pipeline.plan import Pipeline
from merc.pipeline.problems import ShortParser
from merc.pipeline.read import read_pipeline, with_import_options
from merc.pipeline.run import run_pipeline
from merc.pipeline.stage import PipelineError, Stage
from support.made_pickles import write

DATA = {"name": "data", "command": "import", "config": "pickle"}


def write_pipeline(path, **more):
    path.write_text(yaml.safe_dump({"corpus": "data", "stages": [DATA], **more}))
    return path


def test_options_reach_the_import_with_their_types(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features, _ = write(tmp_path, "sdt-iemocap")
    run = [
        "run",
        str(write_pipeline(tmp_path / "p.yaml")),
        "--out",
        "out",
        "--file",
        str(features),
        "--layout=sdt-iemocap",
    ]
    assert main([*run, "--features", "text", "audio", "--validation", "0.5", "--merge", "excited-dropped"]) == 0
    corpus = Corpus.load("out/data/corpus.json")
    assert len(corpus["val"]) == 2 and len(corpus.labels) == 4
    assert sorted(p.name for p in (tmp_path / "out/data/features").iterdir()) == ["audio", "text"]
    assert main([*run, "--validation", "Ses01M_impro01", "Ses04F_impro01"]) == 0  # another option, so it runs again
    assert [c.id for c in Corpus.load("out/data/corpus.json")["val"]] == ["Ses01M_impro01", "Ses04F_impro01"]


def test_python_has_the_same_options(tmp_path):
    features, _ = write(tmp_path, "cosmic-meld")
    pipeline = write_pipeline(tmp_path / "p.yaml")
    run_pipeline(pipeline, out=tmp_path / "out", imports={"file": str(features), "layout": "cosmic-meld"})
    assert Corpus.load(tmp_path / "out/data/corpus.json").name == "meld"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "required: file, layout. Give them to the command as options: --NAME VALUE."),
        (["--file", "x", "--layuot", "y"], "Option 'layuot' is not accepted"),
        (["--file", "x", "--layout", "y", "--seed", "0", "1"], "Unknown option --seed: expected --seeds N"),
        (
            ["--file", "x", "--layout", "sdt-meld", "--validation", "often"],
            "--validation: Expected float, found 'often'",
        ),
    ],
)
def test_what_the_import_does_not_take(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(write_pipeline(tmp_path / "p.yaml")), "--out", "out", *options]) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_pipeline_without_an_import(tmp_path):
    pipeline = Pipeline([Stage("fusion", "fit", "systems/concat.yaml")])
    assert with_import_options(pipeline, {}) is pipeline
    with pytest.raises(PipelineError, match="Unknown option --file: no stage of this pipeline imports a corpus"):
        with_import_options(pipeline, {"file": "x"})


def test_the_first_import_of_a_corpus_takes_them():
    pipeline = with_import_options(read_pipeline("iemocap/pickle_loso.yaml"), {"file": "x", "merge": "six"})
    data, fold = pipeline.stages[0], next(stage for stage in pipeline.stages if stage.name == "fold")
    assert data.options["file"] == "x" and data.options["merge"] == "six"
    assert not {"file", "merge"} & fold.options.keys()


def test_splitting():
    parser = ShortParser()
    parser.add_argument("pipeline")
    parser.add_argument("--out")
    words = ["p.yaml", "--out", "o", "--a", "1", "--b=2", "--c", "x", "y", "--out=z"]
    own, found = split_import_options(words, parser)
    assert own == ["p.yaml", "--out", "o", "--out=z"]
    assert found == {"a": "1", "b": "2", "c": ["x", "y"]}


def test_a_negative_number_is_a_value():
    parser = ShortParser()
    parser.add_argument("--out")
    parser.add_argument("--pruner")
    words = ["--a", "-1", "--b", "-0.5", "2", "-.5e-3", "--c=-1", "--pruner.rate", "-2", "--pruner.class", "x", "-h"]
    own, found = split_import_options(words, parser)
    assert own == ["--pruner.rate", "-2", "--pruner.class", "x", "-h"]
    assert found == {"a": "-1", "b": ["-0.5", "2", "-.5e-3"], "c": "-1"}


COMMANDS = {
    "run": ("merc.pipeline.run.run_pipeline", []),
    "ablate": ("merc.pipeline.ablate.run_ablations", ["--rows", "table3"]),
    "search": ("merc.pipeline.search.run_search", ["--pruner", "optuna.pruners.NopPruner", "--space", "s.yaml"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_all_commands_that_run_a_pipeline_share_their_options(command, monkeypatch):
    function, own = COMMANDS[command]
    asked = []
    monkeypatch.setattr(function, lambda *what, **how: asked.append((what, how)))
    words = ["--file", "a", "--values", "x", "y", "--shift", "-1", "--root", "r", "--first_seed", "2"]
    assert main([command, "pickle.yaml", *words, *own, "--out", "out", "--trainer.max_epochs=1", "--seeds", "2"]) == 0
    ((what, how),) = asked
    assert what[0] == ("pickle.yaml" if command == "run" else ["pickle.yaml"])
    assert how["imports"] == {"file": "a", "values": ["x", "y"], "shift": "-1"}
    assert how["trainer_options"] == ["--trainer.max_epochs=1"] and how["seeds"] == [2, 3]
    assert (how["out"], how["root"], how["corpus"], how["jobs"]) == (Path("out"), Path("r"), None, 1)


@pytest.mark.parametrize("config", ["paper/lfvd.yaml", "corpora/meld_sdt.yaml", "systems/lfvd.yaml"])
def test_a_config_of_a_network_is_no_pipeline(config, capsys, tmp_path):
    assert main(["run", config, "--seed", "0", "1", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"{config} is the config of a network or its data, not a pipeline" in error
    assert "merc fit --config" in error and "Traceback" not in error
    assert ("Pipelines that train it: " in error) == (config != "corpora/meld_sdt.yaml")


def test_a_comparison_needs_tested_stages(tmp_path):
    with pytest.raises(PipelineError, match="`compare` names data, x: expected stages that are tested"):
        read_pipeline(write_pipeline(tmp_path / "p.yaml", compare=["data", "x"]))


@pytest.mark.slow
def test_all_systems_are_compared_at_the_end(tmp_path):
    """The whole of pickle.yaml on a tiny file."""
    features, _ = write(tmp_path, "m3net-meld")
    quick = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.accelerator=cpu"]
    command = ["run", "pickle.yaml", "--file", str(features), "--layout", "m3net-meld", "--out", str(tmp_path / "out")]
    assert main([*command, *quick]) == 0
    found = json.loads((tmp_path / "out/compare/compare.json").read_text())
    assert {pair["a"] for pair in found["pairs"]} | {pair["b"] for pair in found["pairs"]} == {
        *("teacher", "concat", "hierarchical", "telme", "lfvd", "cmath")
    }
    assert (tmp_path / "out/compare/compare.html").is_file()
