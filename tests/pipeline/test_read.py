"""Reading pipelines: options stay what they are."""

from pathlib import Path

import pytest
import yaml

from merc.cli import main
from merc.configs.lookup import _values, expand_configs, read_config
from merc.pipeline.ablate import read_ablations
from merc.pipeline.plan import Pipeline, plan
from merc.pipeline.read import read_pipeline
from merc.pipeline.stage import Stage


def test_an_option_that_names_a_class_is_a_plain_value_of_the_stage(tmp_path):
    scorer = {"class_path": "merc.speaker.SyncScorer", "init_args": {"window": None}}
    file = tmp_path / "pipeline.yaml"
    file.write_text(
        "stages:\n"
        "  - name: lips\n"
        "    command: fit\n"
        "    config: systems/lipsync.yaml\n"
        "    options: {model.scorer: {class_path: merc.speaker.SyncScorer, init_args: {window: null}}}\n"
    )
    [stage] = read_pipeline(file).stages
    assert stage.options == {"model.scorer": scorer}
    [run] = plan(read_pipeline(file), tmp_path / "out", {}, [0])  # its fingerprint is over plain values
    assert run.stage.options == stage.options


@pytest.mark.parametrize("elsewhere", [False, True])
def test_relative_paths_are_those_beside_the_pipeline(elsewhere, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    (folder / "deep").mkdir(parents=True)
    (folder / "text").mkdir()
    for name in ("my.csv", "teacher.yaml", "deep/store.bin"):
        (folder / name).write_text("{}")
    (folder / "base.yaml").write_text(
        "stages:\n"
        "  - name: data\n"
        "    command: import\n"
        "    config: csv\n"
        "    options: {files: [my.csv], media: deep/, labels: nowhere.txt}\n"
        "  - name: teacher\n"
        "    command: fit\n"
        "    config: [systems/teacher.yaml, teacher.yaml]\n"
        "    stores: {text: ./text, more: text, deep: '{data}/my.csv'}\n"
    )
    (folder / "pipeline.yaml").write_text("base: base.yaml\nstages: []\n")
    if elsewhere:
        (tmp_path / "cwd").mkdir()
        (tmp_path / "cwd/my.csv").write_text("another one")
        (tmp_path / "cwd/base.yaml").write_text("stages: []")
    monkeypatch.chdir(tmp_path / "cwd" if elsewhere else folder)
    data, teacher = read_pipeline("../project/pipeline.yaml" if elsewhere else "pipeline.yaml").stages
    for found, name in (
        (data.options["files"][0], "my.csv"),
        (data.options["media"], "deep"),
        (teacher.configs[1], "teacher.yaml"),
        (teacher.options["data.stores"]["text"], "text"),
    ):
        assert Path(found).is_absolute() and Path(found).resolve() == folder / name
    assert data.options["labels"] == "nowhere.txt" and teacher.configs[0] == "systems/teacher.yaml"
    assert teacher.options["data.stores"]["more"] == "text"  # a word: not every folder is meant
    assert teacher.options["data.stores"]["deep"] == "{data}/my.csv"


def test_a_pipeline_that_is_nested_too_deeply_is_told_so(tmp_path, capsys):
    file = tmp_path / "deep.yaml"
    file.write_text("stages: " + "[" * 3000 + "]" * 3000)
    for command in (["run"], ["search", "--space", str(file)], ["ablate"]):
        assert main([*command[:1], str(file), *command[1:], "--out", str(tmp_path / "out")]) == 1
        assert "deep.yaml is nested too deeply: expected at most 100 levels" in capsys.readouterr().err


CONFIG = """\
# kept
trainer: {max_steps: 1e1, callbacks: &same words.txt}
model: {class_path: merc.tasks.FusionTask, init_args: {words: *same, more: [./clips, clips, nowhere.txt], words.txt: 1}}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config with files beside it, and another working directory, which has a file of the same name."""
    for name in ("project/clips", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    for folder in ("project", "elsewhere"):
        (tmp_path / folder / "words.txt").write_text(folder)
    (tmp_path / "project/my.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project/my.yaml"


def test_paths_in_a_config_are_those_beside_it(config):
    text, place = read_config(str(config)), config.parent.absolute()
    assert text.startswith("# kept\ntrainer: {max_steps: 1e1, callbacks: &same ")  # 1e1 is no number to PyYAML
    found = yaml.safe_load(text)
    init = found["model"]["init_args"]
    assert found["trainer"]["callbacks"] == init["words"] == str(place / "words.txt")
    assert init["more"] == [str(place / "clips"), "clips", "nowhere.txt"] and init["words.txt"] == 1
    assert expand_configs(["--config", str(config), f"-c={config}"]) == ["--config", text, f"-c={text}"]
    config.write_text("trainer: {max_steps: 1}")
    assert expand_configs(["--config", str(config)]) == ["--config", str(config)]


def laughs(levels):
    """YAML whose aliases stand for ``2 ** levels`` words, of one that names a file."""
    rows = ["a0: &a0 [words.txt, words.txt]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))]
    return "\n".join(rows) + "\n"


def test_a_value_that_aliases_repeat_is_visited_once(config):
    config.write_text(laughs(12))
    visited = _values(yaml.compose(config.read_text()))
    assert [node.value for node in visited] == ["words.txt"] * 2
    found = yaml.safe_load(read_config(str(config)))
    assert found["a11"][0] is found["a11"][1] and found["a0"] == [str(config.with_name("words.txt"))] * 2


def test_aliases_that_stand_for_too_much_are_refused(config, capsys):
    config.write_text(laughs(18))
    with pytest.raises(ValueError, match=r"my\.yaml has \d+ values where its aliases stand: expected at most 100000"):
        expand_configs(["--config", str(config)])
    config.write_text("stages: [{name: a, command: fit, options: {b: *a17}}]\n".join(["", ""]))
    config.write_text(laughs(18) + "stages: [{name: a, command: fit, options: {b: *a17}}]\n")
    assert main(["run", str(config), "--out", "out"]) == 1
    assert "values where its aliases stand" in capsys.readouterr().err


def test_a_config_is_read_once(config, monkeypatch):
    read, original = [], Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, *args, **how: read.append(path) or original(path, *args, **how))
    expand_configs(["--config", str(config)])
    assert read == [config]


def test_the_fingerprint_of_a_stage_has_the_files_beside_its_config(config):
    def fingerprint():
        [run] = plan(Pipeline([Stage("a", "fit", str(config))]), "out", {}, [0])
        return run.fingerprint

    before = fingerprint()
    (config.parents[1] / "elsewhere/words.txt").write_text("other")
    assert fingerprint() == before
    (config.parent / "words.txt").write_text("other")
    assert fingerprint() != before


def test_a_row_of_ablations_names_files_beside_it(config):
    row = config.with_name("row.yaml")
    row.write_text("{title: Words, changes: {fusion: {model.words: words.txt}}}")
    assert read_ablations(row, "row")["row"].changes["fusion"]["model.words"] == str(config.with_name("words.txt"))


def test_a_word_is_no_file_and_a_block_is_a_value(tmp_path):
    for name in ("text", "1", "words.txt"):
        (tmp_path / name).write_text("")
    config = tmp_path / "config.yaml"
    config.write_text("modality: text\ncount: 1\nfile: >-\n  words.txt\nother: |-\n  ./text\nlast: 2\n")
    wanted = {"modality": "text", "count": 1, "file": str(tmp_path / "words.txt"), "other": str(tmp_path / "text")}
    assert yaml.safe_load(read_config(str(config))) == {**wanted, "last": 2}
