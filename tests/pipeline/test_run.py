"""``merc run`` and the stages by themselves: cuts, full disks, repetitions, and what users get wrong."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
import yaml
from rich.console import Console

import merc.evaluation.report
import merc.pipeline.kinds
import merc.pipeline.lightning
import merc.store.writer
from merc.cli import main
from merc.conversation import Corpus
from merc.corpora.simulated import simulate
from merc.evaluation import read_ledger, read_predictions
from merc.pipeline.run import _compare, run_pipeline
from merc.pipeline.stage import PipelineError, Stage, StageRun
from merc.store import FeatureStore
from merc.tasks import TeacherTask
from merc.tasks.base import EmotionTask
from support.made_values import value_run

EPOCHS = 4
TEACHER = {
    "trainer": {
        "max_epochs": EPOCHS,
        "enable_progress_bar": False,
        "num_sanity_val_steps": 0,
        "accelerator": "cpu",
        "callbacks": [
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"monitor": "val/weighted_f1", "mode": "max", "filename": "best-{epoch}"},
            },
            {
                "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                "init_args": {"filename": "last", "enable_version_counter": False},
            },
        ],
    },
    "model": {
        "class_path": "merc.tasks.TeacherTask",
        "init_args": {
            "modality": "text",
            "network": {
                "class_path": "merc.graphs.GATEncoder",
                "init_args": {"hidden_dim": 8, "num_layers": 1, "heads": 2},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.03}},
        },
    },
    "data": {
        "class_path": "merc.datamodules.ConversationDataModule",
        "init_args": {
            "corpus": "nowhere/corpus.json",
            "stores": {"text": "nowhere/text"},
            "graphs": {"text": {"class_path": "merc.graphs.GraphBuilder", "init_args": {"past": 2, "future": 2}}},
        },
    },
}
CORPUS = {"data.corpus": "{data}/corpus.json"}
STAGES = [
    {
        "name": "data",
        "command": "import",
        "config": "simulated",
        "once": True,
        "options": {
            "dialogues": {"train": 8, "val": 4, "test": 4},
            "widths": {"text": 8, "audio": 8},
            "latent_dims": {"text": 6, "audio": 6},
        },
    },
    {
        "name": "frozen",
        "command": "predict",
        "config": "teacher.yaml",
        "once": True,
        "options": {**CORPUS, "data.stores": {"text": "{data}/features/text"}},
        "outputs": ["hidden"],
    },
    {
        "name": "teacher",
        "command": "fit",
        "config": "teacher.yaml",
        "options": {**CORPUS, "data.stores": {"text": "{data}/features/text"}},
        "outputs": ["hidden", "logits"],
        "optimum": "text",
    },
    {
        "name": "student",
        "command": "fit",
        "config": "student.yaml",
        "options": {**CORPUS, "data.stores": {"audio": "{data}/features/audio", "teacher": "{teacher}/logits"}},
    },
]
RUN = ["run", "pipeline.yaml", "--out", "out"]


def changed(config, **values):
    """A copy of a config with other values, named by their path with two underscores between the keys."""
    config = json.loads(json.dumps(config))
    for path, value in values.items():
        *way, last = path.split("__")
        inner = config
        for key in way:
            inner = inner[key]
        inner[last] = value
    return config


def student():
    init = {"modality": "audio", "network": TEACHER["model"]["init_args"]["network"]}
    graphs = {"audio": TEACHER["data"]["init_args"]["graphs"]["text"]}
    return changed(
        TEACHER, model={"class_path": "merc.tasks.StudentTask", "init_args": init}, data__init_args__graphs=graphs
    )


def write(file, config):
    Path(file).write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.fixture
def place(tmp_path, monkeypatch, interrupt):
    """A folder with the pipeline and its configs."""
    monkeypatch.chdir(tmp_path)
    write("teacher.yaml", TEACHER)
    write("student.yaml", student())
    write("pipeline.yaml", {"stages": STAGES})
    return tmp_path


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder that an uncut run leaves."""
    folder = tmp_path_factory.mktemp("reference")
    before = Path.cwd()
    os.chdir(folder)
    try:
        write("teacher.yaml", TEACHER)
        write("student.yaml", student())
        write("pipeline.yaml", {"stages": STAGES})
        assert main(RUN) == 0
    finally:
        os.chdir(before)
    return folder / "out"


@pytest.fixture
def done(place, reference):
    """All stages finished, in a folder of its own."""
    shutil.copytree(reference, "out")
    return place / "out"


def scores(out):
    return {
        name: [m["weighted_f1"] for m in runs] for name, runs in json.loads((out / "summary.json").read_text()).items()
    }


def stages_that_run(capsys, args=RUN):
    """Runs the pipeline; the names of the stages that were not skipped."""
    capsys.readouterr()
    assert main(args) == 0
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stage ")]
    return [line.split(": ")[1].split(" ")[0].strip(",") for line in titles if "unchanged" not in line]


def one_line(capsys, args, status=1):
    """Runs a command that fails; the line that it says."""
    capsys.readouterr()
    assert main(args) == status
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith(f"merc {args[0]}: ") and not any("Traceback" in line for line in error)
    return error[-1]


def test_the_ledger_and_the_report_say_how_often_the_test_split_was_read(done, capsys):
    openings = read_ledger(done)
    assert [(Path(o.checkpoint).parents[1].name, o.seed, o.data) for o in openings] == [
        ("teacher", 0, "simulated/test"),
        ("student", 0, "simulated/test"),
    ]
    assert all(o.selected_on.startswith("best val/weighted_f1 = ") and len(o.config) == 16 for o in openings)
    assert openings[0].config != openings[1].config
    assert "Test was read 2 times in this run, with 2 configurations" in (done / "report.md").read_text()
    # What is not tested again is not read again; other options are another configuration, a second seed is not.
    assert stages_that_run(capsys, [*RUN, "--seeds", "2"]) == ["teacher", "student"]
    found = scores(done)
    assert {name: len(values) for name, values in found.items()} == {"teacher": 2, "student": 2}
    assert found["teacher"][0] == json.loads((done / "seed-0/teacher/report/metrics.json").read_text())["weighted_f1"]
    assert "Seeds: 0, 1." in (done / "report.md").read_text()
    assert json.loads((done / "seed-1/teacher/report/metrics.json").read_text())["info"]["seed"] == 1
    write("student.yaml", changed(student(), model__init_args__network__init_args__num_layers=2))
    assert stages_that_run(capsys) == ["student"]
    shutil.rmtree(done / "seed-0/student/report")
    assert stages_that_run(capsys) == ["student"]
    again = read_ledger(done)
    assert [o.seed for o in again] == [0, 0, 1, 1, 0, 0]
    assert again[3].config == openings[1].config != again[4].config == again[5].config
    page = (done / "seed-0/student/report/report.md").read_text()
    assert (
        "- Ledger: test was read 6 times in this run, with 3 configurations; this configuration and seed: 2 times"
        in page
    )


def test_the_scores_on_val_are_those_that_chose_the_checkpoint(done):
    for name, (metrics,) in json.loads((done / "summary.json").read_text()).items():
        report = done / "seed-0" / name / "report"
        assert json.loads((report / "metrics.json").read_text())["val"] == metrics["val"]
        assert f"= {metrics['val']['weighted_f1']:.4f}, " in metrics["info"]["selected_on"]
        assert read_predictions(report / "predictions_val.csv").metrics()["weighted_f1"] == pytest.approx(
            metrics["val"]["weighted_f1"]
        )
        assert 0.05 <= metrics["uncertainty"]["temperature"] <= 20
    assert "| Weighted F1 on val |" in (done / "report.md").read_text()


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_that_is_not_there_is_said_in_one_line_before_the_training(split, place, capsys):
    lines = ["dialogue,utterance,speaker,text,emotion,split"]
    for part in {"train", "val", "test"} - {split}:
        lines += [f"{part}{d},{u},A,words,{['joy', 'anger'][u % 2]},{part}" for d in range(4) for u in range(4)]
    Path("corpus.csv").write_text("\n".join(lines))
    stages = [
        {"name": "data", "command": "import", "config": "csv", "options": {"files": "corpus.csv"}},
        {"name": "marks", "command": "writing", "options": {"corpus": "{data}/corpus.json"}},
        {**STAGES[2], "options": {**CORPUS, "data.stores": {"text": "{marks}"}}},
    ]
    write("pipeline.yaml", {"stages": stages})
    assert f"Corpus 'corpus' has no split '{split}', found " in one_line(capsys, RUN)
    assert not Path("out/seed-0/teacher/checkpoints").exists()


def is_complete(out, trained=("teacher", "student")):
    corpus = Corpus.load(out / "data/corpus.json")
    for stage, outputs in (("frozen", ["hidden"]), *[("seed-0/teacher", ["hidden", "logits"])] * bool(trained)):
        for output in outputs:
            store = FeatureStore(out / stage / output)
            assert len(store) + len(store.missing) == sum(len(c) for split in corpus.values() for c in split)
    for stage in trained:
        folder = out / "seed-0" / stage
        assert json.loads((folder / "stage.json").read_text())["finished"]
        info = json.loads((folder / "report/metrics.json").read_text())["info"]
        assert info["selected_on"].startswith("best val/weighted_f1 = ")
        assert Path(info["checkpoint"]).is_file()


# Repetition


def test_the_same_command_again_does_nothing(done, capsys):
    before = {file: file.stat().st_mtime_ns for file in done.rglob("*") if file.is_file()}
    assert stages_that_run(capsys) == []
    after = {file: file.stat().st_mtime_ns for file in done.rglob("*") if file.is_file()}
    summaries = ("summary.json", "report.md", "report.html", "report.tex")
    assert {f for f in before if before[f] != after[f]} <= {done / name for name in summaries}


def test_a_changed_config_runs_its_stages_and_what_builds_on_them_and_keeps_the_old_results(done, capsys, monkeypatch):
    write("teacher.yaml", changed(TEACHER, trainer__max_epochs=1))
    parsed = []
    expand = merc.pipeline.lightning.expand_configs
    monkeypatch.setattr("merc.pipeline.lightning.expand_configs", lambda given: parsed.append(given) or expand(given))
    assert stages_that_run(capsys) == ["frozen", "teacher", "student"]
    assert len(parsed) == 3, "what was parsed to be checked is not parsed again to run"
    for stage in ("teacher", "student"):
        old = done / f"seed-0/{stage}.previous"
        assert json.loads((old / "stage.json").read_text())["finished"] and (old / "report/metrics.json").is_file()
    is_complete(done)


def test_the_last_checkpoint_is_of_the_last_epoch_and_the_best_of_the_best(reference):
    for stage in ("teacher", "student"):
        folder = reference / "seed-0" / stage
        assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["epoch"] == EPOCHS - 1
        best = json.loads((folder / "stage.json").read_text())["best"]
        assert f"epoch={torch.load(folder / best, weights_only=True)['epoch']}." in best
        assert len(list((folder / "checkpoints").iterdir())) == 2


def test_of_averaged_weights_the_chosen_ones_are_tested(place):
    average = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
    write("teacher.yaml", changed(TEACHER, trainer__callbacks=[*TEACHER["trainer"]["callbacks"], average]))
    write("pipeline.yaml", {"stages": [STAGES[0], STAGES[2]]})
    assert main(RUN) == 0
    folder = place / "out/seed-0/teacher"
    best = folder / json.loads((folder / "stage.json").read_text())["best"]
    again = ["test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(best), "--trainer.logger=false"]
    assert main([*again, "--trainer.default_root_dir", str(place / "again")]) == 0
    here, there = read_predictions(folder / "report"), read_predictions(place / "again/report")
    torch.testing.assert_close(here.probabilities, there.probabilities)


def test_an_ensemble_is_a_stage_like_others(done, capsys):
    members = ["{teacher}", "{student}"]
    student_of_logits = {**STAGES[3], "outputs": ["logits"]}
    together = {"name": "together", "command": "ensemble", "options": {"members": members}, "outputs": ["logits"]}
    write("pipeline.yaml", {"stages": [*STAGES[:3], student_of_logits, together]})
    assert stages_that_run(capsys) == ["student", "together"]
    assert stages_that_run(capsys) == []
    tested = [read_predictions(done / "seed-0" / name / "report") for name in ("teacher", "student", "together")]
    torch.testing.assert_close(tested[2].probabilities, (tested[0].probabilities + tested[1].probabilities) / 2)
    stores = [FeatureStore(done / "seed-0" / name / "logits") for name in ("teacher", "student", "together")]
    assert set(stores[2].keys) == {*stores[0].keys, *stores[1].keys}
    assert scores(done)["together"] == [tested[2].metrics()["weighted_f1"]]
    write("student.yaml", changed(student(), trainer__max_epochs=1))
    assert stages_that_run(capsys) == ["student", "together"]
    (done / "seed-0/together/report/metrics.json").unlink()
    assert stages_that_run(capsys) == ["together"]


def test_a_run_goes_on_from_another_folder(done, capsys, monkeypatch):
    shutil.rmtree(done / "seed-0/student/report")
    (done / "sub").mkdir()
    for file in ("teacher.yaml", "student.yaml", "pipeline.yaml"):
        shutil.copy(file, done / "sub")
    monkeypatch.chdir(done / "sub")
    assert stages_that_run(capsys, ["run", "pipeline.yaml", "--out", ".."]) == ["student"]
    assert not (done / "seed-0/student.previous").exists()


# Cuts and full disks


@contextmanager
def raising(monkeypatch, owner, name, error, after=0):
    """While inside, a function raises once it has been called ``after`` times."""
    original, calls = getattr(owner, name), []

    def broken(*args, **kwargs):
        calls.append(args)
        if len(calls) > after:
            raise error
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, broken)
        yield


CUTS = {
    "import": (Corpus, "save", 0),
    "predict with a network as it is": (EmotionTask, "predict_step", 1),
    "the second epoch": (EmotionTask, "training_step", 1),
    "between training and test": (lightning.Trainer, "test", 0),
    "test": (EmotionTask, "test_step", 0),
    "the report": (EmotionTask, "_report_info", 0),
    "the stores": (lightning.Trainer, "predict", 0),
    "the test of the second stage": (lightning.Trainer, "test", 1),
}


def begin(reference, where):
    """The pipeline up to the stage that is interrupted, with the stages before it finished; the trained ones."""
    if where in ("import", "predict with a network as it is", "predict"):
        write("pipeline.yaml", {"stages": STAGES[:2]})
        return ()
    shutil.copytree(reference, "out", ignore=shutil.ignore_patterns("seed-0", "summary.json", "report.*"))
    if where == "the test of the second stage":
        return ("teacher", "student")
    write("pipeline.yaml", {"stages": STAGES[:3]})
    return ("teacher",)


def some(names, quick):
    """All names, of which those outside ``quick`` are for the slow suite."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("where", some(CUTS, {"import", "the second epoch", "the report", "the stores"}))
def test_after_ctrl_c_the_same_command_finishes(where, place, reference, monkeypatch, capsys):
    owner, name, after = CUTS[where]
    trained = begin(reference, where)
    with raising(monkeypatch, owner, name, KeyboardInterrupt(), after):
        assert main(RUN) == 130
    assert "The same command goes on from here." in capsys.readouterr().err
    assert not (place / "out/summary.json").exists()
    assert main(RUN) == 0
    is_complete(place / "out", trained)
    if trained and where != "the second epoch":  # it shuffles the conversations in another order
        assert scores(place / "out") == {name: scores(reference)[name] for name in trained}


@contextmanager
def full_disk(monkeypatch, module, after=0):
    """While inside, files that a module writes fail before they are whole."""
    original, calls = module.write_aside, []

    @contextmanager
    def write_aside(path, **options):
        with original(path, **options) as aside:
            yield aside
            calls.append(path)
            if len(calls) > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_aside", write_aside)
        yield


@contextmanager
def full_disk_for_checkpoints(monkeypatch):
    from lightning.fabric.plugins.io import torch_io

    with raising(monkeypatch, torch_io, "_atomic_save", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), after=2):
        yield


DISKS = {
    "import": lambda patch: full_disk(patch, merc.store.writer),
    "predict": lambda patch: full_disk(patch, merc.store.writer, after=4),
    "fit": full_disk_for_checkpoints,
    "test": lambda patch: full_disk(patch, merc.evaluation.report, after=1),
    "the mark": lambda patch: full_disk(patch, merc.files, after=1),
}


@pytest.mark.parametrize("where", some(DISKS, {"fit", "the mark"}))
def test_a_full_disk_is_one_line_and_costs_nothing_that_is_finished(where, place, reference, monkeypatch, capsys):
    trained = begin(reference, where)
    with DISKS[where](monkeypatch):
        assert "No space left on device" in one_line(capsys, RUN)
    for manifest in (place / "out").rglob("manifest.json"):
        FeatureStore(manifest.parent)  # whole or absent
    assert main(RUN) == 0
    is_complete(place / "out", trained)


TICK = """
import os, time
from lightning.pytorch import Callback

class Tick(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        with open("epochs.txt", "a") as file:
            file.write(f"{trainer.current_epoch}\\n")
        if trainer.current_epoch == 1 and "PAUSE" in os.environ:
            time.sleep(120)
"""


@pytest.mark.parametrize(
    "number",
    some([signal.SIGINT, signal.SIGTERM, signal.SIGKILL], {signal.SIGTERM}),
    ids=lambda number: number.name,
)
def test_a_real_signal_during_training(number, place, monkeypatch, capsys):
    (place / "tick.py").write_text(TICK)
    write(
        "teacher.yaml",
        changed(TEACHER, trainer__callbacks=[*TEACHER["trainer"]["callbacks"], {"class_path": "tick.Tick"}]),
    )
    write("pipeline.yaml", {"stages": [STAGES[0], STAGES[2]]})
    path = os.pathsep.join([str(place), str(Path(merc.__file__).parents[1])])  # this merc, not an installed one
    environment = {**os.environ, "PYTHONPATH": path, "PAUSE": "1"}
    command = [sys.executable, "-c", "import sys; from merc.cli import main; sys.exit(main())", *RUN]
    with Path("errors.txt").open("w") as errors:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=errors,
            stderr=errors,
            # A shell starts background jobs deaf to SIGINT, and their children inherit it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        epochs, until = place / "epochs.txt", time.monotonic() + 120
        while (not epochs.is_file() or len(epochs.read_text().split()) < 2) and process.poll() is None:
            assert time.monotonic() < until, "the second epoch did not come to its end"
            time.sleep(0.05)
        process.send_signal(number)  # in the pause after the second epoch
        status = process.wait(60)
    said = Path("errors.txt").read_text()
    last = place / "out/seed-0/teacher/checkpoints/last.ckpt"
    if number == signal.SIGINT:
        assert status == 130 and "Interrupted. The same command goes on from here." in said, said
        assert "Traceback" not in said
    elif number == signal.SIGTERM:
        assert status == 143 and "Terminated. The same command goes on from here." in said, said
        assert "Traceback" not in said
    else:
        assert status == -number, said
    assert not json.loads((last.parents[1] / "stage.json").read_text())["finished"]
    before = epochs.read_text().split()
    saved = torch.load(last, weights_only=True)["epoch"]

    monkeypatch.syspath_prepend(str(place))
    assert stages_that_run(capsys) == ["teacher"]
    trained = [int(epoch) for epoch in epochs.read_text().split()][len(before) :]
    assert trained == list(range(saved + 1, EPOCHS))  # the finished ones are not trained again


@pytest.mark.parametrize("damaged", some(["last", "best", "both"], {"last", "best"}))
def test_a_damaged_checkpoint_is_told_and_trained_again(damaged, done, reference, capsys, monkeypatch):
    folder = done / "seed-0/student"
    mark = json.loads((folder / "stage.json").read_text())
    best, last = folder / mark["best"], folder / "checkpoints/last.ckpt"
    for file in {"last": [last], "best": [best], "both": [best, last]}[damaged]:
        file.write_bytes(file.read_bytes()[:2000])
    if damaged == "last":
        del mark["best"]  # as if cut in training
    epochs = []
    monkeypatch.setattr(EmotionTask, "on_train_epoch_start", lambda task: epochs.append(task.current_epoch))
    (folder / "stage.json").write_text(json.dumps({**mark, "finished": False}))
    assert main(RUN) == 0
    assert "was not written to its end" in " ".join(capsys.readouterr().out.split())
    is_complete(done)
    assert epochs == list(range(EPOCHS))
    assert scores(done) == scores(reference)


def test_damaged_and_missing_results_are_made_again(done, reference, capsys):
    (shard,) = (done / "seed-0/teacher/logits").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-8])
    shutil.rmtree(done / "seed-0/student/report")
    assert stages_that_run(capsys) == ["teacher", "student"]
    is_complete(done)
    assert scores(done) == scores(reference)


def flip(file):
    """Another last byte, and nothing else that shows: neither size nor time."""
    state, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize(
    ("store", "pattern"),
    [
        ("seed-0/teacher/logits", "shard-*"),
        pytest.param("data/features/text", "shard-*", marks=pytest.mark.slow),
        pytest.param("frozen/hidden", "shard-*", marks=pytest.mark.slow),
        pytest.param("seed-0/teacher/logits", "manifest.json", marks=pytest.mark.slow),
    ],
)
def test_a_flipped_byte_of_a_finished_store_is_told_and_made_again(store, pattern, done, reference, capsys):
    (file,) = (done / store).glob(pattern)
    flip(file)
    assert main(RUN) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "This stage is made again." in told and "merc run" not in told
    assert told.count("finished before, unchanged") == len(STAGES) - 1, "what it makes again is the same, byte for byte"
    for file in (reference / store).glob("[!.]*"):
        assert (done / store / file.name).read_bytes() == file.read_bytes()
    assert scores(done) == scores(reference)
    assert stages_that_run(capsys) == []


@pytest.mark.slow
def test_several_seeds_at_once_are_verified_too(done, reference, capsys):
    (file,) = (done / "seed-0/teacher/logits").glob("shard-*")
    flip(file)
    assert main([*RUN, "--jobs", "2"]) == 0
    FeatureStore(done / "seed-0/teacher/logits")
    assert scores(done) == scores(reference)


def test_what_builds_on_a_store_that_came_out_differently_is_made_again(done, capsys):
    """As on a GPU, where a training that is repeated gives other numbers."""
    store = FeatureStore(done / "data/features/text")
    FeatureStore.write(store.path, store.keys, store.gather(store.keys)[0] * 2, provenance=store.provenance)
    write("pipeline.yaml", {"stages": STAGES[:3]})
    assert stages_that_run(capsys) == ["frozen", "teacher"]
    assert (done / "seed-0/teacher.previous").is_dir()
    is_complete(done, ["teacher"])


# What users get wrong


def test_a_misspelt_key_of_the_pipeline(place, capsys):
    write("pipeline.yaml", {"stages": [changed(STAGES[0], onse=True)]})
    assert main(RUN) == 1
    error = capsys.readouterr().err
    assert error.startswith("merc run: pipeline.yaml is not a pipeline") and "'onse' is not accepted" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": "taecher.yaml"}, "No config 'taecher.yaml'"),
        ({"options": {**CORPUS, "model.network.hiden_dim": 3}}, "'hiden_dim' is not accepted"),
        ({"options": {**CORPUS, "data.stors": {"text": "x"}}}, "stors"),
        ({"options": {**CORPUS, "ckpt_path": "x.ckpt"}}, "ckpt_path"),
        ({"command": "import", "config": "melt"}, "There is no import 'melt': expected one of corpus, csv"),
        ({"command": "import", "config": "nowhere.read_it"}, "'nowhere.read_it' cannot be imported (No module named"),
        ({"command": "doctor", "config": "melt"}, "There is no doctor 'melt': expected one of meld, iemocap"),
        ({"command": "import", "config": "meld", "options": {"rot": "x"}}, "rot"),
        ({"command": "import", "config": "simulated", "options": {"dialogs": 3}}, "dialogs"),
        ({"command": "ensemble", "options": {"members": ["{teacher}"]}}, "'student.yaml': expected no config"),
        ({"command": "ensemble", "config": "", "options": {"member": ["{teacher}"]}}, "member"),
    ],
)
def test_a_wrong_stage_is_refused_before_the_first_one_runs(change, message, place, capsys):
    write("pipeline.yaml", {"stages": [STAGES[0], STAGES[2], {**STAGES[3], **change}]})
    assert main(RUN) == 1
    error = capsys.readouterr().err
    assert error.startswith("merc run: ") and message in error and "Traceback" not in error
    assert not (place / "out").exists()


def test_a_misspelt_key_of_a_stage_config(place, capsys):
    write("student.yaml", changed(student(), model__init_args__modalty="audio"))
    assert main(RUN) == 1
    error = capsys.readouterr().err
    assert error.startswith("merc run: Stage 'student', student.yaml: ") and "modalty" in error
    assert not (place / "out").exists()


def test_a_misspelt_key_of_a_single_stage(place, capsys):
    with pytest.raises(SystemExit) as end:  # as every parser of arguments ends
        main(["fit", "--config", "teacher.yaml", "--model.network.hiden_dim", "3"])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "Option 'hiden_dim' is not accepted" in error and "Traceback" not in error


def test_unknown_pipelines_and_roots(place, capsys):
    assert "No config 'nowhere.yaml'" in one_line(capsys, ["run", "nowhere.yaml", "--out", "out"])
    assert "expected --root FOLDER" in one_line(capsys, ["run", "meld/minilm.yaml", "--out", "out"])
    (place / "empty").mkdir()
    missing = one_line(capsys, ["run", "meld/minilm.yaml", "--root", "nowhere", "--out", "out"])
    assert "No such root: nowhere" in missing
    not_meld = one_line(capsys, ["run", "meld/minilm.yaml", "--root", "empty", "--out", "out"])
    assert "train_sent_emo.csv" in not_meld
    assert not (place / "out/data/corpus.json").exists()


SILENT = """
from merc.fusion import ConcatFusion, FusionOutput

class Silent(ConcatFusion):
    def forward(self, batch):
        return FusionOutput(super().forward(batch).logits)
"""


def test_widths_classes_and_stores_that_do_not_fit(done, capsys):
    data = ["--data.corpus=out/data/corpus.json", "--data.stores.text=out/data/features/text"]
    fit = ["fit", "--config", "teacher.yaml", *data, "--trainer.default_root_dir=fit"]
    simulate(dialogues={"train": 8, "val": 2}, widths={"text": 9}, latent_dims={"text": 6}).save("wide")
    own = str(done / "seed-0/teacher/checkpoints/last.ckpt")
    wide = [*fit, "--data.corpus=wide/corpus.json", "--data.stores.text=wide/features/text", "--ckpt_path", own]
    assert "wide/features/text has vectors of width 9, expected 8" in one_line(capsys, wide)
    emotions = dict.fromkeys(("calm", "cross"), 1)
    simulate(dialogues={"train": 8, "val": 2}, emotions=emotions, widths={"text": 8}, latent_dims={"text": 6}).save(
        "two"
    )
    two = ["--data.corpus=two/corpus.json", "--data.stores.text=two/features/text", "--ckpt_path", own]
    error = one_line(capsys, [*fit, *two])
    assert "trained on simulated/train, with the classes ['neutral'" in error and "has ['calm', 'cross']" in error
    assert "No feature store at nowhere" in one_line(capsys, [*fit, "--data.stores.text=nowhere"])
    (shard,) = (done / "data/features/text").glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-8])
    assert "truncated or altered" in one_line(capsys, fit)
    assert not list(Path("fit").rglob("*.ckpt"))


def test_a_head_without_embeddings_under_a_loss_that_contrasts_them_is_told_before_training(done, capsys, monkeypatch):
    (done.parent / "silent.py").write_text(SILENT)
    monkeypatch.syspath_prepend(done.parent)
    stores = [f"--data.stores.{name}=out/data/features/{name}" for name in ("text", "audio")]
    config = changed(TEACHER, data__init_args__graphs={})
    config["model"] = {
        "class_path": "merc.tasks.FusionTask",
        "init_args": {
            "head": {"class_path": "silent.Silent"},
            "loss": {"class_path": "merc.losses.FusionLoss"},
        },
    }
    write("fusion.yaml", config)
    error = one_line(capsys, ["fit", "--config", "fusion.yaml", "--data.corpus=out/data/corpus.json", *stores])
    assert "FusionLoss contrasts embeddings" in error and "Set lambda_cont to 0" in error
    assert not list(Path("lightning_logs").rglob("*.ckpt"))


def test_a_checkpoint_of_another_model_or_none(done, capsys):
    own, other = (str(done / f"seed-0/{stage}/checkpoints/last.ckpt") for stage in ("teacher", "student"))
    test = ["test", "--config", str(done / "seed-0/teacher/config.yaml"), "--trainer.logger=false", "--out", "tested"]
    error = one_line(capsys, [*test, "--ckpt_path", other])
    assert "checkpoint is of another model (task: expected TeacherTask, found StudentTask" in error
    wider = one_line(capsys, [*test, "--model.network.hidden_dim=16", "--ckpt_path", own])
    assert "checkpoint is of another model" in wider and "expected (16" in wider
    Path("cut.ckpt").write_bytes(Path(own).read_bytes()[:3000])
    assert "cut.ckpt is no checkpoint" in one_line(capsys, [*test, "--ckpt_path", "cut.ckpt"])
    assert "nowhere.ckpt" in one_line(capsys, [*test, "--ckpt_path", "nowhere.ckpt"])


def test_predictions_that_nothing_keeps_and_devices_that_are_not_there(done, capsys):
    config = ["--config", str(done / "seed-0/teacher/config.yaml"), "--trainer.logger=false"]
    assert "expected --out FOLDER" in one_line(capsys, ["predict", *config])
    if not torch.cuda.is_available():
        given = ["--ckpt_path", str(done / "seed-0/teacher/checkpoints/last.ckpt"), "--out", "tested"]
        test = ["test", *config, *given, "--trainer.accelerator=cuda"]
        assert "can not run on your system" in one_line(capsys, test)
    two = one_line(capsys, ["run", "pipeline.yaml", "--out", "two", "--trainer.devices=2"])
    assert "uses one device, the options ask for 2" in two


def test_a_training_whose_score_was_never_a_number_says_so(tmp_path):
    kept = SimpleNamespace(
        best_model_path=tmp_path / "a.ckpt", best_model_score=torch.tensor(-torch.inf), monitor="ccc"
    )
    trainer = SimpleNamespace(checkpoint_callback=kept, fit=lambda *given, **options: None)
    cli = SimpleNamespace(trainer=trainer, model=None, datamodule=None)
    run = StageRun(Stage("teacher", "fit"), tmp_path, 0, "")
    with pytest.raises(PipelineError, match="'teacher' never had a finite ccc on val: its training has diverged"):
        merc.pipeline.kinds._trained(run, cli, None)


def test_a_stage_without_a_checkpoint_says_what_its_config_lacks(place, capsys):
    write("teacher.yaml", changed(TEACHER, trainer__callbacks=[], trainer__enable_checkpointing=False))
    assert "needs a ModelCheckpoint that monitors val/weighted_f1" in one_line(capsys, RUN)


# What users get told


def test_single_stages_say_where_their_results_are(done, capsys):
    data = ["--data.corpus=out/data/corpus.json", "--data.stores.text=out/data/features/text"]
    capsys.readouterr()
    assert main(["fit", "--config", "teacher.yaml", *data, "--trainer.default_root_dir=fit"]) == 0
    said = capsys.readouterr()
    assert "Tip:" not in said.err and "Warning" not in said.err
    best, test = said.out.strip().splitlines()[-2:]
    assert best.startswith("Best checkpoint: fit/lightning_logs/version_0/checkpoints/best")
    assert (
        main([*test.split("merc ")[1].split(), "--trainer.enable_progress_bar=false"]) == 0
    )  # the command that it gives
    report = capsys.readouterr().out.strip().splitlines()[-1].removeprefix("Report: ")
    assert "best val/weighted_f1 = 0." in Path(report).read_text()
    given = test.split("merc test ")[1].split()
    assert main(["predict", *given, "--out", "stores"]) == 0
    stores, table = capsys.readouterr().out.strip().splitlines()[-2:]
    assert (stores, table) == ("Stores: stores/hidden, stores/logits", "Predictions: stores/predictions.csv")


@pytest.mark.slow
def test_bf16_runs_the_whole_demo_on_a_cpu(place, monkeypatch):
    real = merc.pipeline.kinds.resolve_import
    sizes = {"dialogues": {"train": 24, "val": 4, "test": 4}}

    def small(*, out):
        real("simulated")(out=out, **sizes)

    known = {"simulated": small}
    monkeypatch.setattr(merc.pipeline.kinds, "resolve_import", lambda name: known.get(name) or real(name))
    options = ["--trainer.precision", "bf16-mixed", "--trainer.max_steps=2", "--trainer.accelerator=cpu"]
    options += ["--trainer.val_check_interval=1"]
    assert main(["run", "demo/simulated.yaml", "--out", "out", *options]) == 0
    found = scores(place / "out")
    assert found["fusion"] and all(0 <= score <= 1 for values in found.values() for score in values)


def test_from_python_it_returns_the_report(done):
    assert run_pipeline("pipeline.yaml", out="out") == Path("out/report.md")
    write("pipeline.yaml", {"stages": STAGES[:2]})
    assert run_pipeline("pipeline.yaml", out="out") == Path("out")


def test_from_python_wrong_options_raise(done):
    with pytest.raises(ValueError, match="Stage 'frozen'"):
        run_pipeline("pipeline.yaml", out="out", trainer_options=["--trainer.max_epcohs=1"])


def test_a_task_without_a_report_says_so(place, capsys, monkeypatch):
    monkeypatch.setattr(TeacherTask, "on_test_epoch_end", lambda self: None)
    assert "writes no report: set `report: false` for 'teacher'" in one_line(capsys, RUN)


def test_stages_that_predict_numbers_are_compared_as_numbers(tmp_path):
    value_run(tmp_path / "concat", 2.0)
    value_run(tmp_path / "fusion", 0.3)
    systems = [f"{name}={tmp_path / name}" for name in ("concat", "fusion")]
    report = _compare(systems, tmp_path / "compare", Console(quiet=True))
    assert "fusion - concat" in report.read_text()
