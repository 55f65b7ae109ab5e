"""Errors of the command line: a few lines that say what is wrong, what is accepted, and what to do."""

import pytest

from merc.cli import main
from merc.pipeline.problems import options_of

CONFIGS = ("systems/teacher.yaml", "simulated/teacher.yaml", "corpora/simulated.yaml")
TEACHER = ["fit", *(word for name in CONFIGS for word in ("--config", name))]


def error_of(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([*words])
    assert end.value.code == 2
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert len(lines) <= 8 and "usage:" not in text
    assert lines[-1].endswith("lists all options.")
    return text


@pytest.mark.parametrize(
    ("words", "cause", "accepted"),
    [
        (
            ["--model.network", "merc.graphs.GATEncodr"],
            "merc fit: --model.network: module 'merc.graphs' has no attribute 'GATEncodr'.",
            "merc.graphs has DAGEncoder, GATEncoder, GCNEncoder, ",
        ),
        (
            ["--model", "merc.tasks.Techer"],
            "merc fit: --model: module 'merc.tasks' has no attribute 'Techer'.",
            "Did you mean TeacherTask?",
        ),
        (
            ["--model", "merc.taks.TeacherTask"],
            "merc fit: --model: module 'merc' has no attribute 'taks'.",
            "Did you mean tasks?",
        ),
        (["--model.foo", "1"], "merc fit: --model: Option 'foo' is not accepted.", "TeacherTask accepts network, "),
        (
            ["--model.network.hiden_dim", "1"],
            "merc fit: --model.network: Option 'hiden_dim' is not accepted.",
            "merc.graphs.GATEncoder accepts hidden_dim, ",
        ),
        (["--foo", "1"], "merc fit: unrecognized arguments: --foo 1.", "--model"),
        (
            ["--trainer.max_epochz", "1"],
            "unrecognized arguments: --trainer.max_epochz 1.",
            "Did you mean --trainer.max_epochs?",
        ),
        (["--trainer.max_epochs", "x"], "merc fit: --trainer.max_epochs: Expected int, found 'x'.", "--help"),
    ],
)
def test_what_is_misspelt_is_named_with_what_is_accepted(words, cause, accepted, capsys):
    text = error_of(capsys, *TEACHER, *words)
    assert cause in text and accepted in text


def test_configs_are_checked_as_options_are(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("modle:\n  class_path: merc.tasks.TeacherTask\n")
    text = error_of(capsys, "fit", "--config", str(config))
    assert "does not accept option 'modle.class_path'" in text and "Did you mean --model?" in text


def test_a_command_without_a_config_says_where_to_find_one(capsys):
    assert "merc configs" in error_of(capsys, "fit")


@pytest.mark.parametrize(
    "words", [["run", "demo/simulated.yaml", "--ot", "x"], ["import", "csv", "--ot", "x", "a.csv"]]
)
def test_the_other_commands_are_as_short(words, capsys):
    text = error_of(capsys, *words)
    assert "--out" in text


def test_options_of_parents_are_listed():
    assert {"corpus", "stores", "batch_size"} <= {*options_of("merc.datamodules.JointDataModule")}
    assert options_of("no.such.Class") == []
