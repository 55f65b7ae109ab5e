"""``merc search``: on val alone, from the shipped recipe, shared between processes, and what it finds can be run."""

import csv
import io
import json
import logging
import pickle
import shutil
import statistics
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import optuna
import pytest
import torch
import yaml
from filelock import Timeout
from optuna.pruners import BasePruner
from optuna.trial import TrialState
from rich.console import Console

import merc.cli.search
import merc.pipeline.study
from merc.cli import main
from merc.configs.lookup import CONFIGS
from merc.evaluation.ledger import LEDGER
from merc.pipeline.configured import Configured
from merc.pipeline.lightning import quiet_lightning
from merc.pipeline.plan import Pipeline, ancestors, plan
from merc.pipeline.read import read_stack
from merc.pipeline.search import _work_in_parallel, _Worker, run_search
from merc.pipeline.search_report import Results
from merc.pipeline.space import Option, check_space, read_space
from merc.pipeline.stage import PipelineError, Stage, StageRun
from merc.pipeline.study import Search
from merc.tasks.base import EmotionTask
from support.small_pipeline import fitted, write_pipeline

LR = {"low": 0.001, "high": 0.1, "log": True}
SPACE = {"audio_student": {"model.optimizer.lr": LR, "model.network.hidden_dim": [4, 8, 16]}}


def write_two_stages(folder):
    """The pipeline of a teacher that is not tested and a student, whose val score counts."""
    write_pipeline(folder)
    (folder / "two.yaml").write_text(
        yaml.safe_dump(
            {
                "base": str(folder / "pipeline.yaml"),
                "without": ["aside", "fusion"],
                "stages": [{"name": "teacher", "report": False}],
            }
        )
    )


def write_space(folder, **stages):
    file = folder / "space.yaml"
    file.write_text(yaml.safe_dump(stages or SPACE))
    return str(file)


def search(*words):
    return main(["search", "two.yaml", "--space", "space.yaml", "--out", "out", *words])


def trials_of(out):
    """The trials of a study, as they are kept."""
    backend = optuna.storages.journal.JournalFileBackend(str(out / "study.log"))
    return optuna.load_study(study_name="merc", storage=optuna.storages.JournalStorage(backend)).trials


@pytest.fixture
def place(tmp_path, monkeypatch, interrupt):
    """A folder with the pipeline, its configs and a space."""
    monkeypatch.chdir(tmp_path)
    write_two_stages(tmp_path)
    write_space(tmp_path)
    return tmp_path


# Spaces


NEITHER = [
    *([], [1], [1, 1], [True, "true"], 3),
    *({"low": 1}, {"low": 2, "high": 1}, {"low": "a", "high": "b"}, {"low": True, "high": 3}),
    *({"low": 0, "high": 1, "log": True}, {"low": 0, "high": 10, "step": 3}, {"low": 0.0, "high": 1.0, "step": 0.0}),
    *({"low": 0.0, "high": 1.0, "by": 1}, {"low": 0.0, "high": 1.0, "log": 1}),
]


@pytest.mark.parametrize("given", NEITHER, ids=str)
def test_what_is_neither_list_nor_range_is_refused(given, tmp_path):
    with pytest.raises(PipelineError, match=r"fusion --model.head.dim has .*: expected a list of two values or more"):
        read_space(write_space(tmp_path, fusion={"model.head.dim": given}))


@pytest.mark.parametrize("content", ["[1, 2]", "{}", "fusion: [1, 2]", ""])
def test_what_has_no_stages_is_no_space(content, tmp_path):
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(PipelineError, match="is not a space: expected options by stage"):
        read_space(tmp_path / "space.yaml")


def test_values_survive_the_study(tmp_path):
    """Optuna knows numbers and words; a list may have anything, and files beside it."""
    (tmp_path / "beside.yaml").write_text("")
    values = [None, False, 2, "word", [1, 2], {"class_path": "a.B"}, "beside.yaml"]
    drawn = read_space(write_space(tmp_path, data={"x": values, "low": {"low": 0, "high": 4, "step": 2}}))
    mixed, whole = (next(option for option in drawn if option.name == name) for name in ("x", "low"))
    assert [mixed.value(label) for label in mixed.distribution.choices] == [*values[:-1], str(tmp_path / "beside.yaml")]
    assert mixed.key == "data --x" and str(mixed).startswith("null, false, 2, word, [1, 2]")
    assert isinstance(whole.distribution, optuna.distributions.IntDistribution) and str(whole) == "0 to 4, step 2"
    assert whole.drawn(2, []) == 2 and mixed.drawn([1, 2], mixed.values) == "[1, 2]"
    for value in (1, 6, None, True):
        with pytest.raises(PipelineError, match="which is not in the space"):
            whole.drawn(value, [])


BY_LOSS = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"monitor": "val/loss"}}
REFUSED = {
    "a stage that is not there": ({"visual": {"model.head.dim": [4, 8]}}, "changes the stage 'visual'.*data, teacher"),
    "a stage that leads nowhere": ({"aside": {"model.network.num_layers": [1, 2]}}, "'aside'.* leads to fusion"),
    "an option that is not there": (
        {"fusion": {"model.head.dim": [4, 8], "model.head.width": [4, 8]}},
        "(?s)fusion --model.head.width cannot be 4.*accepts dim, experts",
    ),
    "a word for a number": (
        {"fusion": {"model.optimizer.lr": LR, "model.head.dim": [8, "wide"]}},
        'fusion --model.head.dim cannot be "wide"',
    ),
    "a value that the network refuses": (
        {"fusion": {"model.head.dim": [4, 8], "model.head.dropout": {"low": 0.0, "high": 1.5}}},
        "fusion --model.head.dropout cannot be 1.5",
    ),
    "what an import refuses": (
        {"data": {"label_nose": [0.1, 0.2]}},
        "(?s)data --label_nose cannot be 0.1.*label_noise",
    ),
    "a recipe that is not in it": (
        {"fusion": {"model.optimizer.lr": {"low": 0.1, "high": 1.0}}},
        r"fusion --model.optimizer.lr: the pipeline has 0.03, which is not in the space \(0.1 to 1.0\)",
    ),
    "another score": ({"fusion": {"trainer.callbacks": [[], [BY_LOSS]]}}, "change the score by which checkpoints are"),
}


@pytest.fixture(scope="module")
def configured(tmp_path_factory):
    """The stages that lead to the fusion; one for all tests, since it parses a stage once."""
    folder = tmp_path_factory.mktemp("configured")
    write_pipeline(folder)
    whole = read_stack([folder / "pipeline.yaml"])
    leading = Pipeline([stage for stage in whole.stages if stage.name in ancestors(whole, "fusion")])
    return Configured(list(plan(leading, folder / "out", {}, [0])), {}, 0)


@pytest.mark.parametrize("what", REFUSED)
def test_spaces_are_refused_with_stage_and_option(what, configured, tmp_path):
    content, message = REFUSED[what]
    with pytest.raises(PipelineError, match=message), quiet_lightning(quiet=True):
        check_space(read_space(write_space(tmp_path, **content)), configured, "fusion")


def test_nothing_runs_if_the_space_is_refused(place, capsys):
    write_space(place, audio_student={"model.network.width": [4, 8]})
    assert search() == 1
    assert capsys.readouterr().err.startswith("merc search: audio_student --model.network.width cannot be 4.")
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("space", "names"),
    [("hierarchical", ["demo/simulated.yaml"])]
    + [
        pytest.param(space, [f"systems/{name}.yaml", "corpora/simulated.yaml"], marks=pytest.mark.slow)
        for space, name in [("training", "concat"), ("training", "lfvd"), ("training", "cmath"), ("training", "telme")]
    ]
    + [pytest.param("hierarchical", ["meld/hierarchical.yaml"], marks=pytest.mark.slow)],
)
def test_shipped_spaces_are_accepted(space, names, tmp_path):
    pipeline = read_stack(names)
    configured = Configured(list(plan(pipeline, tmp_path / "out", {"root": str(tmp_path)}, [0])), {"root": "r"}, 0)
    with quiet_lightning(quiet=True):
        check_space(read_space(f"search/{space}.yaml"), configured, "fusion")


def test_every_shipped_space_is_tested():
    assert {file.stem for file in (CONFIGS / "search").iterdir()} == {"hierarchical", "training"}


# The whole of it

WORDS = ["--seeds", "2", "--trainer.max_epochs=1", "--trials"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder that a search of two trials leaves, and what it trained."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_two_stages(folder)
        write_space(folder)
        trained = fitted(patch)
        assert search(*WORDS, "2") == 0
    return folder, [name.rpartition("/")[2].rpartition("-")[0] for name in trained]


@pytest.fixture
def done(place, ran):
    """The same, in a folder of its own."""
    shutil.copytree(ran[0], place, dirs_exist_ok=True)
    return place


def table(out):
    with (out / "search.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_search_trains_once_what_no_trial_changes(ran):
    folder, trained = ran
    assert trained == ["teacher", "audio_student"] * 2 + ["audio_student"] * 2
    assert len(list((folder / "out/stages").glob("data-*[!k]"))) == 1


def test_the_test_split_is_never_opened(ran):
    assert not list(ran[0].rglob(LEDGER)) and not list(ran[0].rglob("report"))
    assert "test was read 0 times" in (ran[0] / "out/search.md").read_text()


def test_trial_0_is_the_pipeline_as_it_is(ran):
    first, other = trials_of(ran[0] / "out")
    assert first.params == {"audio_student --model.optimizer.lr": 0.03, "audio_student --model.network.hidden_dim": "8"}
    assert first.user_attrs["recipe"] is True and "recipe" not in other.user_attrs
    assert first.params != other.params


def test_the_table_has_every_trial_with_the_mean_over_the_seeds(ran):
    rows, trials = table(ran[0] / "out"), trials_of(ran[0] / "out")
    assert [int(row["trial"]) for row in rows] == [0, 1]
    for row, trial in zip(rows, trials, strict=True):
        seeds = [float(row[f"seed {seed}"]) for seed in (0, 1)]
        assert float(row["val/weighted_f1"]) == pytest.approx(statistics.fmean(seeds)) == pytest.approx(trial.value)
        assert row["state"] == "complete" and float(row["audio_student --model.optimizer.lr"]) > 0
    report = (ran[0] / "out/search.md").read_text()
    best = max(trials, key=lambda trial: trial.value)
    assert f"{best.value:.4f}" in report and f"{trials[0].value:.4f}" in report
    assert "The best of 2 scores on val is optimistic" in report
    assert (ran[0] / "out/history.png").read_bytes().startswith(b"\x89PNG")


def test_the_best_pipeline_runs_as_it_is_and_gives_the_same_score(done):
    best = max(trials_of(done / "out"), key=lambda trial: trial.value)
    found = yaml.safe_load((done / "out/best.yaml").read_text())
    options = {stage["name"]: stage["options"] for stage in found["stages"]}
    assert options["teacher"] == {"trainer.max_epochs": 1}
    assert options["audio_student"]["model.optimizer.lr"] == best.params["audio_student --model.optimizer.lr"]
    assert main(["run", "out/best.yaml", "--out", "run"]) == 0
    (seed,) = json.loads((done / "run/summary.json").read_text())["audio_student"]
    assert seed["val"]["weighted_f1"] == pytest.approx(float(table(done / "out")[best.number]["seed 0"]), abs=1e-6)


def test_options_of_the_import_are_those_of_the_search_and_of_what_it_finds(place):
    assert search("--trials", "1", "--trainer.max_epochs=1", "--label_noise", "0.3") == 0
    found = yaml.safe_load((place / "out/best.yaml").read_text())
    assert found["stages"][0] == {"name": "data", "options": {"label_noise": "0.3"}}
    (made,) = (json.loads(file.read_text()) for file in (place / "out/stages").glob("data-*/stage.json"))
    assert made["stage"]["options"]["label_noise"] == "0.3"


def test_options_that_the_import_does_not_know_are_refused(place, capsys):
    assert search("--label_nose", "0.3") == 1
    assert "Stage 'data', import: Option 'label_nose' is not accepted" in capsys.readouterr().err
    assert not (place / "out").exists()


def test_the_same_command_goes_on_to_the_number_of_trials(done, monkeypatch, capsys):
    trained = fitted(monkeypatch)
    assert search(*WORDS, "3", "--timeout", "0s") == 0
    assert trained == []
    assert search(*WORDS, "3") == 0
    assert [name.split("/")[-1].split("-")[0] for name in trained] == ["audio_student", "audio_student"]
    assert [trial.state for trial in trials_of(done / "out")] == [TrialState.COMPLETE] * 3
    assert "3 of 3 trials" in (done / "out/search.md").read_text()


# What goes wrong


class PrunesAllButTheFirst(BasePruner):
    def prune(self, study, trial):
        return trial.number > 0


def test_a_pruned_trial_leaves_nothing_half_done(place, monkeypatch):
    trained = fitted(monkeypatch)
    run_search("two.yaml", "space.yaml", out="out", seeds=(0, 1), trials=2, pruner=PrunesAllButTheFirst())
    first, pruned = trials_of(place / "out")
    assert first.state == TrialState.COMPLETE and list(first.intermediate_values) == [50, 100]
    assert pruned.state == TrialState.PRUNED and list(pruned.intermediate_values) == [50]
    assert len(trained) == 5  # of the pruned one the student of the first seed alone
    states = [json.loads(file.read_text()) for file in (place / "out/stages").glob("audio_student-*/stage.json")]
    assert len(states) == 2 and all(state["finished"] for state in states)
    assert table(place / "out")[1]["state"] == "pruned at 50 %"
    assert "1 complete, 1 pruned" in (place / "out/search.md").read_text()


def breaks(monkeypatch, error, at):
    """Let a training step raise an error, once so many students have begun."""
    step, begun = EmotionTask.training_step, []

    def broken(self, batch, batch_idx):
        if type(self).__name__ == "StudentTask":
            begun.append(self)
            if len({id(task) for task in begun}) > at:
                raise error
        return step(self, batch, batch_idx)

    monkeypatch.setattr(EmotionTask, "training_step", broken)


def test_a_trial_that_fails_says_why_and_the_others_go_on(place, monkeypatch):
    with monkeypatch.context() as patch:
        breaks(patch, ValueError("the training has diverged"), at=1)
        assert search("--trials", "2") == 0
    assert [row["state"] for row in table(place / "out")] == ["complete", "failed: the training has diverged"]
    states = [json.loads(file.read_text()) for file in (place / "out/stages").glob("audio_student-*/stage.json")]
    assert sorted(state["finished"] for state in states) == [False, True]
    assert "2 of 2 trials: 1 complete, 1 failed" in (place / "out/search.md").read_text()  # the same would happen again


@pytest.mark.slow
def test_a_pipeline_that_fails_as_it_is_ends_the_search(place, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        breaks(patch, ValueError("no such luck"), at=0)
        assert search("--trials", "2") == 1
    assert "merc search: The pipeline as it is fails: no such luck" in capsys.readouterr().err
    assert "No trial is finished." in (place / "out/search.md").read_text()
    assert search("--trials", "1") == 0
    failed, again = trials_of(place / "out")
    assert failed.state == TrialState.FAIL and again.user_attrs == {
        "begun": True,
        "recipe": True,
        "repeats": 0,
        "scores": [again.value],
    }


def test_an_interrupted_trial_is_repeated(place, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        breaks(patch, KeyboardInterrupt(), at=1)
        assert search("--trials", "2") == 130
    assert "The same command goes on from here." in capsys.readouterr().err
    assert search("--trials", "2") == 0
    _, interrupted, again = trials_of(place / "out")
    assert interrupted.state == TrialState.FAIL and again.params == interrupted.params
    assert again.user_attrs["repeats"] == 1 and again.state == TrialState.COMPLETE
    assert [row["state"] for row in table(place / "out")] == ["complete", "interrupted", "complete"]


@pytest.fixture
def two(tmp_path):
    """A search that nobody has begun, and two processes that take part in it."""
    options = read_space(write_space(tmp_path, fusion={"x": [1, 2, 3], "y": {"low": 0.0, "high": 1.0}}))
    recipe = {"fusion --x": "2", "fusion --y": 0.5}
    shared = Search(
        names=["pipeline.yaml"],
        pipeline=Pipeline([]),
        given={},
        space=options,
        recipe=recipe,
        judged="fusion",
        score="val/weighted_f1",
        mode="max",
        out=tmp_path / "out",
        sources={},
        seeds=[0],
        trials=4,
        storage=None,
        deadline=None,
        pruner=optuna.pruners.NopPruner(),
        sampler_seed=0,
    )
    shared.join()
    return shared, _Worker(shared, None), _Worker(shared, None)


def test_processes_that_share_a_study_take_different_trials_and_no_more_than_asked(two):
    shared, one, other = two
    taken = [worker._take() for worker in (one, other, one, other, one)]
    assert taken[4] is None  # those that run count
    trials = [trial for trial, _ in taken[:4]]
    assert [trial.number for trial in trials] == [0, 1, 2, 3]
    assert trials[0].params == shared.recipe
    assert len({trial.params["fusion --y"] for trial in trials}) == 4


def test_the_trial_of_a_process_that_was_killed_is_repeated_by_another(two):
    shared, one, other = two
    taken = [one._take() for _ in range(2)]
    taken[1][1].release()  # what the system does for a process that ends
    again, _ = other._take()
    assert again.number == 2 and again.params == taken[1][0].params
    states = [trial.state for trial in shared.study().trials]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING]


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"seeds": [0, 1]}, "seeds"),
        ({"space": []}, "space"),
        ({"judged": "teacher"}, "stage"),
        ({"pipeline": Pipeline([Stage("data", "import", "simulated")])}, "pipeline"),
    ],
)
def test_a_study_of_another_search_is_refused(change, differs, two):
    replace(two[0], trials=9, sampler_seed=3).join()  # which changes no score
    with pytest.raises(PipelineError, match=f"is of another {differs}: its scores cannot stand beside"):
        replace(two[0], **change).join()


def test_a_study_of_another_corpus_is_refused_and_the_same_elsewhere_is_not(two, tmp_path):
    def given(name, content, folder):
        place = tmp_path / name
        file = place / "corpus.json" if folder else place
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
        return replace(two[0], out=tmp_path / f"out-{folder}", sources={"corpus": str(place)})

    for folder in (False, True):
        given(f"a{folder}", "one", folder).join()
        given(f"b{folder}", "one", folder).join()
        with pytest.raises(PipelineError, match="is of another corpus: its scores cannot stand beside"):
            given(f"c{folder}", "two", folder).join()


def test_processes_with_folders_of_their_own_draw_different_trials(two, tmp_path):
    """Both have seen the same trials when each takes one: no lock keeps apart those that share a database."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    first, second = (replace(two[0], storage=storage, out=tmp_path / name) for name in ("a", "b"))
    first.join()
    second.join()
    one, other = _Worker(first, None), _Worker(second, None)
    one._take()  # the pipeline as it is
    taken, known = [], other._study.get_trials

    def both(*args, **kwargs):
        found = known(*args, **kwargs)
        if "states" not in kwargs and not taken:
            taken.append(one._take()[0])
        return found

    other._study.get_trials = both
    taken.append(other._take()[0])
    assert sorted(trial.number for trial in taken) == [1, 2]
    assert taken[0].params["fusion --y"] != taken[1].params["fusion --y"]


def test_a_trial_too_many_is_given_back(two, tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    first, second = (replace(two[0], storage=storage, out=tmp_path / name, trials=2) for name in ("a", "b"))
    first.join()
    second.join()
    one, other = _Worker(first, None), _Worker(second, None)
    held = [one._take()]  # the pipeline as it is; a lock ends with what holds it
    known = other._study.get_trials

    def both(*args, **kwargs):
        found = known(*args, **kwargs)
        if "states" not in kwargs and len(held) == 1:
            held.append(one._take())
        return found

    other._study.get_trials = both
    assert other._take() is None and held[1][0].number == 1
    assert [trial.state for trial in first.study().trials] == [TrialState.RUNNING, TrialState.RUNNING, TrialState.FAIL]
    assert (
        replace(second, trials=3).study().trials[2].params == {}
    )  # nothing was drawn, so nothing waits to be repeated
    assert _Worker(replace(second, trials=3), None)._take()[0].number == 3


@pytest.mark.parametrize("drawn", [0, 1])
def test_a_trial_that_is_interrupted_while_it_is_drawn_is_repeated(drawn, two, monkeypatch):
    shared, one, other = two
    original, done = Option.draw, []

    def draw(option, trial):
        if len(done) == drawn:
            raise KeyboardInterrupt
        done.append(option)
        return original(option, trial)

    for number in (0, 2):  # as it is, and a repetition of that
        done.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Option, "draw", draw)
            one._take()
        if number == 0:
            assert [trial.state for trial in shared.study().trials] == [TrialState.FAIL, TrialState.WAITING]
    assert list((shared.out / "running").glob("*")) == []
    again, _ = other._take()
    assert again.number == 2 and again.params == shared.recipe and again.user_attrs["recipe"]


def test_a_trial_whose_process_was_killed_before_it_held_the_lock_is_repeated(two):
    shared, one, _ = two
    shared.study().ask()
    taken, lock = one._take()
    assert taken.params == shared.recipe and taken.user_attrs["repeats"] == 0
    assert [trial.state for trial in shared.study().trials] == [TrialState.FAIL, TrialState.RUNNING]
    elsewhere = replace(shared, out=shared.out.with_name("elsewhere"), storage=str(shared.out / "study.log"))
    assert _Worker(elsewhere, None)._take()[0].number == 2  # the one that runs is let alone, whose lock is not here
    lock.release()


def test_in_a_database_a_trial_that_another_may_just_be_drawing_is_let_alone(two, tmp_path, monkeypatch):
    shared = replace(two[0], storage=f"sqlite:///{tmp_path / 'study.db'}")
    shared.join()
    shared.study().ask()
    worker = _Worker(shared, None)
    assert worker._take()[0].number == 1
    monkeypatch.setattr(merc.pipeline.study, "_STALE", timedelta())
    assert worker._take()[0].params == shared.recipe
    assert shared.study().trials[0].state == TrialState.FAIL


def test_the_lock_lies_beside_the_study(two, tmp_path):
    a, b = (replace(two[0], storage=str(tmp_path / "s.log"), out=tmp_path / name) for name in ("a", "b"))
    assert a.locked().lock_file == b.locked().lock_file
    with a.locked(), pytest.raises(Timeout):
        b.locked().acquire(timeout=0)


def test_a_folder_that_is_not_of_a_stage_is_not_removed(two, tmp_path):
    run = StageRun(Stage("data", "import", "simulated"), tmp_path / "mine", 0, "fingerprint")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(PipelineError, match="is not the result of a stage"):
        two[1]._make(run, Console(file=io.StringIO()))
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"


def test_the_report_links_no_plot_that_is_not_there(done, monkeypatch):
    report, drawn = done / "out/search.md", Results.write
    assert "![History](history.png)" in report.read_text()
    (done / "out/history.png").unlink()
    monkeypatch.setattr(Results, "write", lambda self, plots=True: drawn(self, plots=False))  # as while trials run
    assert search(*WORDS, "2") == 0
    assert "history.png" not in report.read_text()


class InThisProcess:
    """A process that is none: what it does is done when it is started."""

    def __init__(self, target, args):
        self.do, self.exitcode = lambda: target(*args), None
        pickle.dumps(args)  # as a process gets them

    def start(self):
        try:
            self.do()
            self.exitcode = 0
        except SystemExit as end:
            self.exitcode = end.code

    def join(self):
        assert self.exitcode is not None

    def is_alive(self):
        return False


@pytest.fixture
def at_once(monkeypatch):
    """Processes are those of :class:`InThisProcess`; gives the searches that they are to work on."""
    begun = []
    monkeypatch.setattr(merc.pipeline.search, "get_context", lambda how: SimpleNamespace(Process=InThisProcess))
    monkeypatch.setattr(merc.pipeline.search, "_work", begun.append)
    lightning = logging.getLogger("lightning.pytorch")
    level = lightning.level
    yield begun
    lightning.setLevel(level)  # it goes on in this process


def test_jobs_are_processes_with_a_share_of_the_threads(two, at_once, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    _work_in_parallel(two[0], 3)
    assert at_once == [two[0]] * 3 and threads == [2, 2, 2]


def test_a_process_that_ends_early_is_told(two, at_once, monkeypatch, capsys):
    def work(search):
        at_once.append(search)
        if len(at_once) == 2:
            raise PipelineError("no such luck")

    monkeypatch.setattr(merc.pipeline.search, "_work", work)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with pytest.raises(PipelineError, match=r"1 of 3 processes ended early\. The same command goes on from here"):
        _work_in_parallel(two[0], 3)
    assert len(at_once) == 3 and "merc search: no such luck" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_the_trials(place):
    assert search("--trials", "4", "--jobs", "2") == 0
    trials = trials_of(place / "out")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert len(list((place / "out/stages").glob("teacher-*/stage.json"))) == 1
    assert min(trial.datetime_complete for trial in trials) > trials[1].datetime_start  # at the same time


def test_the_study_may_be_a_database(two, tmp_path):
    shared = replace(two[0], storage=f"sqlite:///{tmp_path / 'study.db'}")
    shared.join()
    (first, _), (second, _) = taken = [_Worker(shared, None)._take() for _ in range(2)]
    assert first.params == shared.recipe != second.params and len(taken) == 2
    assert (tmp_path / "study.db").is_file()


# The command line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stage", "data"], "The stage 'data' has no val score: expected one that trains: teacher, audio_student."),
        (["--stage", "nowhere"], "The stage 'nowhere' has no val score"),
        (["--space", "nowhere.yaml"], "No config 'nowhere.yaml'"),
    ],
)
def test_what_users_get_wrong(words, message, place, capsys):
    assert search(*words) == 1
    assert message in capsys.readouterr().err
    assert not (place / "out").exists()


def test_the_options_of_the_command_line(place, monkeypatch):
    asked = []
    monkeypatch.setattr(merc.pipeline.search, "run_search", lambda *what, **how: asked.append(how) or "report")
    pruner = ["--pruner", "optuna.pruners.HyperbandPruner", "--pruner.min_resource", "20"]
    assert (
        search("--timeout", "1.5m", "--trials", "7", "--jobs", "2", "--seeds", "3", "--sampler_seed", "4", *pruner) == 0
    )
    how = asked[0]
    assert (how["timeout"], how["trials"], how["jobs"], how["seeds"]) == (90.0, 7, 2, [0, 1, 2])
    assert isinstance(how["pruner"], optuna.pruners.HyperbandPruner) and how["pruner"]._min_resource == 20
    assert how["sampler_seed"] == 4 and how["study"] is how["stage"] is None
    with pytest.raises(SystemExit):
        search("--timeout", "soon")


def test_without_optuna_the_message_says_what_to_install(place, monkeypatch, capsys):
    monkeypatch.setattr(merc.cli.search, "find_spec", lambda name: None)
    assert search() == 1
    assert "pip install 'merc[search]'" in capsys.readouterr().err
