import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from merc.conversation import UtteranceKey
from merc.pipeline.contents import libraries
from merc.pipeline.plan import Pipeline, plan
from merc.pipeline.run import run_in_order
from merc.pipeline.stage import STATE, PipelineError, Stage, StageRun, references, substitute
from merc.store import FeatureStore

DATA = Stage("data", "import", "simulated", once=True)
TEACHER = Stage("teacher", "fit", "teacher.yaml", {"data.corpus": "{data}/corpus.json"}, report=False)
STUDENT = Stage("student", "fit", "student.yaml", {"data.stores": {"teacher": "{teacher}/logits"}}, report=False)
APART = Stage("apart", "fit", "teacher.yaml", {"data.corpus": "{data}/corpus.json", "x": ["{seed}"]}, report=False)
STAGES = [DATA, TEACHER, STUDENT, APART]


@pytest.fixture
def configs(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    for name in ("teacher.yaml", "student.yaml"):
        (folder / name).write_text(f"name: {name}")
    return folder


@pytest.fixture
def made(tmp_path, configs):
    """Plans the stages, given or usual, into one folder."""

    def planned(stages=STAGES, root=None, seeds=(0,), extra=()):
        placed = [
            replace(stage, config=str(configs / stage.config)) if stage.command == "fit" else stage for stage in stages
        ]
        sources = {} if root is None else {"root": str(root)}
        return list(plan(Pipeline(placed), tmp_path / "out", sources, seeds, extra))

    return planned


def finish(runs):
    for run in runs:
        if not run.finished:
            run.begin()
            (run.folder / "result").write_text(run.fingerprint)
            run.update_state(finished=True)


def unfinished(runs):
    return [run.stage.name for run in runs if not run.finished]


def test_what_is_finished_and_unchanged_is_finished(made):
    runs = made()
    assert unfinished(runs) == ["data", "teacher", "student", "apart"]
    finish(runs)
    assert unfinished(made()) == []
    assert [r.fingerprint for r in made()] == [r.fingerprint for r in runs]


def test_a_changed_config_concerns_its_stages_and_those_behind(made, configs):
    finish(made())
    (configs / "student.yaml").write_text("name: other")
    assert unfinished(made()) == ["student"]
    (configs / "student.yaml").write_text("# A comment decides nothing.\nname: other")
    assert unfinished(made()) == ["student"]
    finish(made())
    (configs / "student.yaml").write_text("name: other")
    assert unfinished(made()) == []
    (configs / "teacher.yaml").write_text("name: other")
    assert unfinished(made()) == ["teacher", "student", "apart"]


def test_options_and_trainer_options_decide_and_the_optimum_does_not(made):
    finish(made())
    other = Stage("teacher", "fit", "teacher.yaml", {"data.corpus": "{data}/corpus.json", "lr": 1}, report=False)
    assert unfinished(made([DATA, other, STUDENT, APART])) == ["teacher", "student"]
    assert unfinished(made(extra=["--trainer.precision=16-mixed"])) == ["teacher", "student", "apart"]
    judged = Stage(**{**vars(STUDENT), "optimum": "text"})
    assert unfinished(made([DATA, TEACHER, judged, APART])) == []


def test_files_of_the_root_decide(made, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.csv").write_text("1")
    read = Stage("data", "import", "meld", {"root": "{root}"}, once=True)
    stages = [read, *STAGES[1:]]
    finish(made(stages, root=root))
    assert unfinished(made(stages, root=root)) == []
    (root / "a.csv").write_text("12")
    assert len(unfinished(made(stages, root=root))) == 4


def test_results_among_the_files_of_the_root_do_not_decide(made, tmp_path):
    (tmp_path / "a.csv").write_text("1")
    stages = [Stage("data", "import", "meld", {"root": "{root}"}, once=True), *STAGES[1:]]
    finish(made(stages, root=tmp_path))
    assert unfinished(made(stages, root=tmp_path)) == []
    with pytest.raises(PipelineError, match="both --root and --out: give the results a folder of their own"):
        made(stages, root=tmp_path / "out")
    (tmp_path / "a.csv").write_text("12")
    assert len(unfinished(made(stages, root=tmp_path))) == 4


def test_a_file_that_is_given_decides_by_its_content(made, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("1")
    stages = [Stage("data", "import", "csv", {"files": ["{root}"]}, once=True)]
    finish(made(stages, root=table))
    table.touch()
    assert unfinished(made(stages, root=table)) == []
    state = table.stat()
    table.write_text("2")
    os.utime(table, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert unfinished(made(stages, root=table)) == ["data"]


def test_files_folders_and_classes_that_options_configs_and_the_command_line_name_decide(
    made, configs, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "named.csv").write_text("1")
    (tmp_path / "films").mkdir()
    (tmp_path / "films/a.mp4").write_text("1")
    for module in ("named_head", "named_loss", "named_callback"):
        (tmp_path / f"{module}.py").write_text("class Own: ...")
    (configs / "part.yaml").write_text("a: 1")
    # As jsonargparse reads it: another config beside this one.
    (configs / "student.yaml").write_text("model: {head: {class_path: named_head.Own}, optimizer: part.yaml}")
    data = Stage("data", "import", "csv", {"files": [str(tmp_path / "named.csv")]}, once=True)
    faces = Stage("faces", "predict", "teacher.yaml", {"data.films": str(tmp_path / "films")}, once=True)
    loss = {"model.loss": {"class_path": "named_loss.Own"}}
    teacher = Stage("teacher", "fit", "teacher.yaml", loss | TEACHER.options, report=False)
    stages = [data, replace(faces, config=str(configs / "teacher.yaml")), teacher, STUDENT]
    extra = ["--trainer.callbacks+=named_callback.Own"]
    trained = ["teacher", "student"]
    for file, again in {
        "named.csv": ["data", *trained],
        "films/a.mp4": ["faces"],
        "named_loss.py": trained,
        "named_head.py": ["student"],
        "configs/part.yaml": ["student"],
        "named_callback.py": ["faces", *trained],
    }.items():
        finish(made(stages, extra=extra))
        assert unfinished(made(stages, extra=extra)) == []
        (tmp_path / file).write_text((tmp_path / file).read_text() + "\n# changed")
        assert unfinished(made(stages, extra=extra)) == again, file


def test_more_seeds_run_only_themselves_and_once_is_once(made):
    finish(made())
    runs = made(seeds=(0, 1))
    assert [(r.stage.name, r.seed) for r in runs if not r.finished] == [("teacher", 1), ("student", 1), ("apart", 1)]
    assert [r.stage.name for r in runs].count("data") == 1
    # A stage that runs once is the same whichever seed comes first.
    assert made(seeds=(1, 0))[0].fingerprint == runs[0].fingerprint and made(seeds=(1, 0))[0].seed == 0


def test_the_old_result_is_kept_and_never_replaced_by_a_cut_one(made, configs, tmp_path):
    finish(made())
    folder = tmp_path / "out/seed-0/student"
    first = (folder / "result").read_text()
    (configs / "student.yaml").write_text("name: second")
    cut = made()[2]
    cut.begin()
    (configs / "student.yaml").write_text("name: third")
    finish(made())
    assert (folder.with_name("student.previous") / "result").read_text() == first
    third = (folder / "result").read_text()
    (configs / "student.yaml").write_text("name: fourth")
    finish(made())
    assert (folder.with_name("student.previous") / "result").read_text() == third
    assert sorted(p.name for p in folder.parent.iterdir()) == ["apart", "student", "student.previous", "teacher"]


def test_beginning_again_keeps_what_was_cut(made):
    run = made()[1]
    run.begin()
    (run.folder / "shard").write_text("half")
    made()[1].begin()
    assert (run.folder / "shard").is_file() and not run.finished


def test_a_folder_of_somebody_else_is_left_alone(made, tmp_path):
    (tmp_path / "out/data").mkdir(parents=True)
    (tmp_path / "out/data/thesis.tex").write_text("years of work")
    with pytest.raises(PipelineError, match=r"out/data is not the result of a stage: move it away"):
        made()[0].begin()
    assert (tmp_path / "out/data/thesis.tex").read_text() == "years of work"


def test_a_kill_before_the_first_mark_is_in_nobodys_way(made, tmp_path):
    (tmp_path / "out/data").mkdir(parents=True)
    (tmp_path / "out/data/.stage.json.1234.tmp").write_text("{")
    made()[0].begin()
    assert json.loads((tmp_path / "out/data" / STATE).read_text())["finished"] is False


def test_the_best_checkpoint_has_one_name_for_later_stages(made):
    [_, teacher, *_] = made()
    teacher.begin()
    for epoch in (3, 7):
        (teacher.folder / f"best-{epoch}.ckpt").write_text(str(epoch))
        teacher.link_best(Path(f"best-{epoch}.ckpt"))
        assert (teacher.folder / "best.ckpt").read_text() == str(epoch)
    assert sorted(path.name for path in teacher.folder.iterdir() if path.name.startswith(".")) == []
    moved = teacher.folder.rename(teacher.folder.with_name("moved"))
    assert (moved / "best.ckpt").read_text() == "7"


def test_results_that_are_gone_or_cut_are_not_finished(made):
    stored = Stage("teacher", "fit", "teacher.yaml", outputs=["logits"])
    (run,) = made([stored])
    run.begin()
    run.update_state(finished=True)
    assert not run.finished  # neither report nor store
    run.metrics.parent.mkdir()
    run.metrics.write_text("{}")
    assert not run.finished
    FeatureStore.write(run.folder / "logits", [UtteranceKey("train", "0", "0")], torch.ones(1, 7), kind="logits")
    assert run.finished
    (shard,) = (run.folder / "logits").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert not run.finished


def test_a_stage_is_finished_for_the_stores_that_it_was_made_from(made):
    def store(value):
        key = UtteranceKey("train", "0", "0")
        FeatureStore.write(made()[0].folder / "features", [key], torch.full((1, 7), value))

    data = made()[0]
    data.begin()
    store(1.0)
    finish(made())
    assert unfinished(made()) == []
    store(1.0)
    assert unfinished(made()) == [], "the same rows are the same input"
    store(2.0)
    assert unfinished(made()) == ["teacher", "apart"]
    assert made()[1].damage() == "It was made from other stores of data than are there now."
    cut = made()[1]
    cut.begin()
    assert not (cut.folder / "result").is_file(), "what was learnt from the other stores is not gone on with"
    assert (cut.folder.with_name("teacher.previous") / "result").is_file()
    (cut.folder / "checkpoint").touch()
    made()[1].begin()
    assert (cut.folder / "checkpoint").is_file()
    store(3.0)
    made()[1].begin()
    assert not (cut.folder / "checkpoint").is_file()


def test_damage_is_found_by_reading_and_finished_looks_at_sizes(made):
    (run,) = made([Stage("teacher", "fit", "teacher.yaml", outputs=["logits"], report=False)])
    run.begin()
    FeatureStore.write(run.folder / "logits", [UtteranceKey("train", "0", "0")], torch.ones(1, 7), kind="logits")
    run.update_state(finished=True)
    assert run.damage() is None
    (shard,) = (run.folder / "logits").glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert run.finished
    assert run.damage() == f"{shard} does not match its checksum: it was damaged or altered."


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([DATA, DATA], "'data' is taken"),
        ([Stage("root", "import", "x")], "'root' is taken, reserved"),
        ([Stage("../x", "import", "x")], "not a plain word"),
        (
            [TEACHER],
            r"'teacher' refers to \{data\}: expected .* \{seed\} or a stage before it \(there is none\)",
        ),
        ([DATA, STUDENT, TEACHER], r"refers to \{teacher\}"),
        ([Stage("a", "fit", "x", {"s": "{seed}"}, once=True)], "runs once, but refers to what differs"),
        ([Stage("a", "fit", "x"), Stage("b", "fit", "x", {"s": ["{a}"]}, once=True)], "runs once, but refers"),
        ([DATA, Stage("a", "ensemble", options={"members": ["{data}"]})], "averages data, which is not tested"),
        (
            [Stage("a", "fit", "x"), Stage("b", "ensemble", options={"members": ["{a}"]}, outputs=["logits"])],
            "'b' has the outputs logits: expected logits, if every member has them",
        ),
        (
            [
                Stage("a", "fit", "x", outputs=["hidden", "logits"]),
                Stage("b", "ensemble", options={"members": ["{a}"]}, outputs=["hidden"]),
            ],
            "'b' has the outputs hidden",
        ),
    ],
)
def test_what_does_not_hold_together_is_refused(stages, message):
    with pytest.raises(PipelineError, match=message):
        Pipeline(stages)


@pytest.mark.parametrize(("root", "message"), [(None, "expected --root FOLDER"), ("nowhere", "No such root: nowhere")])
def test_a_root_that_is_needed_and_not_there(root, message, made):
    with pytest.raises(PipelineError, match=message):
        made([Stage("data", "import", "meld", {"root": "{root}"})], root=root)


def test_placeholders_deep_inside_are_found_and_filled():
    value = {"a": ["{x}/1", {"b": "{x}{y}"}], "c": 3, "{x}": None}
    assert references(value) == {"x", "y"}
    assert substitute(value, {"x": "X", "y": "Y"}) == {"a": ["X/1", {"b": "XY"}], "c": 3, "{x}": None}
    assert references({}) == references([]) == references(None) == set()


def test_a_stage_that_other_libraries_made_is_told_and_not_made_again(tmp_path):
    run, told = StageRun(Stage("data", "import", "simulated"), tmp_path, 0, "fingerprint"), io.StringIO()
    run.update_state(finished=True, inputs={}, libraries=libraries())
    run_in_order([run], (), Console(file=told, width=200))
    assert told.getvalue() == "stage 1 of 1: data, seed 0: finished before, unchanged\n"
    run.update_state(libraries={**libraries(), "torch": "1.0", "gone": "2"})
    run_in_order([run], (), Console(file=told, width=200))
    assert "finished before, unchanged; made with torch 1.0, not what is installed now" in told.getvalue()
