"""Reading pipelines: options stay what they are."""

from pathlib import Path

import pytest

from merc.pipeline.plan import plan
from merc.pipeline.read import read_pipeline


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
