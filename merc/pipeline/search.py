"""Searching the options of a pipeline on val, in one process or many, which share a study."""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
import torch
from filelock import FileLock, Timeout
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console

from merc.files import parse_yaml
from merc.pipeline.configured import Configured
from merc.pipeline.kinds import EnsembleStage, FitStage, NetworkStage
from merc.pipeline.lightning import chosen_by, quiet_lightning
from merc.pipeline.plan import Pipeline, ancestors, plan
from merc.pipeline.read import absolute, read_stack, with_import_options
from merc.pipeline.run import run_in_order, sources_of
from merc.pipeline.search_report import Results
from merc.pipeline.space import REFUSALS, check_space, read_space
from merc.pipeline.stage import PipelineError, StageRun
from merc.pipeline.study import BEGUN, STAGES, Search, counts, outcome

_AGAIN = "The same command goes on from here."


def run_search(
    pipeline: str | Path | Sequence[str | Path],
    space: str | Path,
    *,
    out: str | Path,
    root: str | Path | None = None,
    corpus: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    trials: int = 30,
    stage: str | None = None,
    study: str | None = None,
    timeout: float | None = None,
    jobs: int = 1,
    pruner: BasePruner | None = None,
    sampler_seed: int = 0,
    trainer_options: Sequence[str] = (),
    imports: Mapping[str, Any] | None = None,
) -> Path:
    """Search a pipeline's options on val from Python; ``merc search`` does the same.

    Trial 0 is the pipeline as it is. No stage is tested.

    Args:
        pipeline: Config of the pipeline, a file or the short name of a shipped one; or those of a single stage, of
            which later ones override earlier ones.
        space: What to try (:func:`merc.pipeline.space.read_space`).
        out: Folder for all results: stages in ``stages``, the study in ``study.log``, the table in ``search.md`` and
            ``search.csv``, the best pipeline in ``best.yaml``, plots.
        root: The folder of a corpus on disk, ``{root}`` in the pipeline.
        corpus: An imported corpus or CSV files, ``{corpus}`` in the pipeline.
        seeds: The seeds of every trial, whose score is the mean.
        trials: How many there will be, those of earlier commands and other processes among them.
        stage: The stage whose val score counts. Default: the last one that trains.
        study: Storage of the study: a URL of a database, or a file in a shared folder. Processes that share one share
            the trials. Default: ``study.log`` in ``out``.
        timeout: Seconds after which no trial begins.
        jobs: How many trials to run at once, each in a process of its own.
        pruner: Ends trials early by their val scores with the first seed, whose steps are percent of the training.
            Default: those below the median, after 5 trials and 30 percent.
        sampler_seed: Seed of the sampler (TPE).
        trainer_options: Options such as ``--trainer.precision=bf16-mixed``, for every Lightning stage.
        imports: Further options of the import that brings the corpus, such as ``file``, ``layout`` and ``validation``.

    Returns:
        The report.

    Raises:
        FileNotFoundError: There is no such config.
        PipelineError: The pipeline does not hold together, the space has what it does not know, or the study is of
            another pipeline, corpus, space or seeds. Nothing has run then. Or the pipeline as it is fails.
    """
    begin, console = time.time(), Console()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = [pipeline] if isinstance(pipeline, str | Path) else list(pipeline)
    as_it_is = read_stack(names)
    whole = with_import_options(as_it_is, absolute(dict(imports or {}), Path()))
    judged = stage or _last(whole)
    extra = _options_of(trainer_options)
    leading = _leading(whole, judged, extra)
    out, sources = Path(out), sources_of(root, corpus)
    runs = list(plan(leading, out, sources, seeds[:1], results=out))
    configured = Configured(runs, sources, seeds[0])
    with quiet_lightning(quiet=True):
        for run in runs:
            run.stage.kind.check(run, ())
        options = read_space(space)
        recipe = check_space(options, configured, judged)
    score, mode = chosen_by(configured.parse(judged))
    search = Search(
        names=[str(name) for name in names],
        pipeline=leading,
        given=_given(as_it_is, leading),
        space=options,
        recipe=recipe,
        judged=judged,
        score=score,
        mode=mode,
        out=out,
        sources=sources,
        seeds=list(seeds),
        trials=trials,
        storage=study,
        deadline=None if timeout is None else begin + timeout,
        pruner=MedianPruner(n_startup_trials=5, n_warmup_steps=30) if pruner is None else pruner,
        sampler_seed=sampler_seed,
    )
    search.join()
    try:
        if jobs == 1:
            _work(search)
        else:
            _work_in_parallel(search, jobs)
    finally:
        results = Results(search)
        report = results.write()
    console.print(results.verdict, markup=False)
    console.print(f"Report: {report}", markup=False)
    return report


def _last(pipeline: Pipeline) -> str:
    trained = [stage.name for stage in pipeline.stages if isinstance(stage.kind, FitStage)]
    if not trained:
        raise PipelineError("This pipeline trains no stage: there is nothing to search.")
    return trained[-1]


def _leading(pipeline: Pipeline, judged: str, trainer_options: Mapping[str, Any]) -> Pipeline:
    """The stages that lead to one, none of which is tested, with options for all Lightning stages.

    Raises:
        PipelineError: The stage is not there or does not train, or one of those before it needs a test.
    """
    trained = [stage.name for stage in pipeline.stages if isinstance(stage.kind, FitStage)]
    if judged not in trained:
        raise PipelineError(f"The stage {judged!r} has no val score: expected one that trains: {', '.join(trained)}.")
    kept = [stage for stage in pipeline.stages if stage.name in ancestors(pipeline, judged)]
    if averaged := [stage.name for stage in kept if isinstance(stage.kind, EnsembleStage)]:
        raise PipelineError(
            f"{judged} reads the ensemble {averaged[0]}, whose members are tested: a search tests none."
        )
    return Pipeline(
        [
            replace(
                stage,
                report=False,
                options={**stage.options, **(trainer_options if isinstance(stage.kind, NetworkStage) else {})},
            )
            for stage in kept
        ]
    )


def _given(pipeline: Pipeline, changed: Pipeline) -> dict[str, dict[str, Any]]:
    """By stage, the options that only the command gives: those that the pipeline lacks or has with another value."""
    known = {stage.name: stage.options for stage in pipeline.stages}
    return {
        stage.name: {k: v for k, v in stage.options.items() if k not in known[stage.name] or known[stage.name][k] != v}
        for stage in changed.stages
    }


def _options_of(trainer_options: Sequence[str]) -> dict[str, Any]:
    """Options as on the command line, ``--name=value`` or ``--name value``, as those of a stage."""
    found: dict[str, Any] = {}
    name = ""
    for word in trainer_options:
        if word.startswith("--"):
            name, _, value = word.removeprefix("--").partition("=")
            found[name] = parse_yaml(value, f"--{name}") if value else True
        else:
            found[name] = parse_yaml(word, f"--{name}")
    return found


class _Worker:
    """Takes trials until there are enough of them.

    Args:
        search: What to search.
        console: Where finished trials are announced.
    """

    def __init__(self, search: Search, console: Console) -> None:
        self._search = search
        self._study = search.study()
        self._console = console
        self._read: set[Path] = set()

    def work(self) -> None:
        """Run trials, one after the other.

        Raises:
            PipelineError: The pipeline as it is fails.
        """
        while (taken := self._take()) is not None:
            trial, lock = taken
            try:
                self._run(trial)
            finally:
                lock.release()
                Path(lock.lock_file).unlink(missing_ok=True)
            Results(self._search).write(plots=False)

    def _take(self) -> tuple[Trial, FileLock] | None:
        """The next trial, and the lock that says that this process runs it; nothing if there are enough."""
        search = self._search
        with search.locked():
            self._repeat_interrupted()
            while not self._enough() and (search.deadline is None or time.time() <= search.deadline):
                trial = self._study.ask()
                lock = search.running(trial.number)
                try:
                    if self._enough(trial.number):  # others, whom no lock keeps apart, have asked at the same time
                        self._repeat(trial)
                        continue
                    # Seeded by the number of the trial, which the study gives out once: processes that share it draw
                    # different ones, whichever takes which, also where no lock keeps them apart.
                    self._study.sampler = TPESampler(seed=10_000 * search.sampler_seed + trial.number)
                    for option in search.space:
                        option.draw(trial)
                    Path(lock.lock_file).parent.mkdir(exist_ok=True)
                    lock.acquire(timeout=0)
                    trial.set_user_attr(BEGUN, True)
                except BaseException:
                    self._repeat(trial)
                    lock.release()
                    Path(lock.lock_file).unlink(missing_ok=True)
                    raise
                return trial, lock
            return None

    def _enough(self, before: int | None = None) -> bool:
        """Whether there are as many trials as were asked for, or as many with numbers below one."""
        known = self._study.get_trials(deepcopy=False)
        return sum(counts(trial) for trial in known[:before]) >= self._search.trials

    def _repeat_interrupted(self) -> None:
        """Put the trials of processes that have ended in line again. Whether one has can only be told where it ran."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lock = self._search.running(trial.number)
            if not Path(lock.lock_file).is_file():
                if self._search.never_begun(trial):
                    self._repeat(trial)
                continue
            try:
                with lock.acquire(timeout=0):
                    self._repeat(trial)
            except Timeout:
                continue
            Path(lock.lock_file).unlink(missing_ok=True)

    def _repeat(self, trial: FrozenTrial | Trial) -> None:
        """End a trial as interrupted, and put it in line again with the values that it was to have."""
        kept = self._study.get_trials(deepcopy=False)[trial.number]
        # The fixed ones are those of enqueue_trial.
        if drawn := {**kept.system_attrs.get("fixed_params", {}), **kept.params}:
            recipe = {"recipe": True} if "recipe" in trial.user_attrs else {}
            self._study.enqueue_trial(drawn, user_attrs={"repeats": trial.number, **recipe})
        self._study.tell(trial.number, state=TrialState.FAIL)

    def _run(self, trial: Trial) -> None:
        """Run a trial, and tell the study how it ended.

        Raises:
            PipelineError: It is the pipeline as it is, and fails.
        """
        scores: list[float] = []
        try:
            with _logged(self._search.out / "logs" / f"trial-{trial.number}.txt") as log:
                for run in self._runs(trial):
                    self._make(run, log)
                    if run.stage.name == self._search.judged:
                        scores.append(run.state["score"])
        except optuna.TrialPruned:
            self._study.tell(trial, state=TrialState.PRUNED)
        except REFUSALS as error:
            if "recipe" in trial.user_attrs:  # so will all others, and the next command tries again
                self._repeat(trial)
                raise PipelineError(f"The pipeline as it is fails: {error}") from error
            trial.set_user_attr("reason", str(error).splitlines()[0][:300])
            self._study.tell(trial, state=TrialState.FAIL)
        except BaseException:
            self._repeat(trial)
            raise
        else:
            trial.set_user_attr("scores", scores)
            self._study.tell(trial, statistics.fmean(scores))
        frozen = self._study.get_trials(deepcopy=False)[trial.number]
        self._console.print(f"Trial {trial.number}: {outcome(frozen)}", markup=False)

    def _runs(self, trial: Trial) -> Iterator[StageRun]:
        """The stages of a trial, each in a folder that everything that decides its result gives its name."""
        search = self._search

        def place(fingerprint: str, folder: Path) -> Path:
            return search.out / STAGES / f"{folder.name}-{fingerprint[:16]}"

        changed = search.changed(trial.params)
        for run in plan(changed, search.out, search.sources, search.seeds, place=place, results=search.out):
            watched = (run.stage.name, run.seed) == (search.judged, search.seeds[0])
            yield replace(run, callbacks=[_Pruning(trial, search.score)]) if watched else run

    def _make(self, run: StageRun, log: Console) -> None:
        """Run a stage unless it is finished, one process at a time; a pruned one leaves nothing."""
        if run.folder in self._read and run.finished:  # its stores were read whole before
            return
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{run.folder}.lock"):
            try:
                run_in_order([run], (), log)
            except optuna.TrialPruned:
                run.discard()
                raise
        self._read.add(run.folder)


class _Pruning(Callback):
    """Reports every val score of a training to the study, and ends the training if that is not worth going on.

    Args:
        trial: The trial.
        score: The score.
    """

    def __init__(self, trial: Trial, score: str) -> None:
        self._trial = trial
        self._score = score

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the score, by how many percent of the training are done.

        Raises:
            TrialPruned: The study says so.
        """
        steps = trainer.estimated_stepping_batches
        if trainer.sanity_checking or self._score not in trainer.callback_metrics or steps == float("inf"):
            return
        percent = round(100 * trainer.global_step / steps)
        self._trial.report(float(trainer.callback_metrics[self._score]), percent)
        if percent < 100 and self._trial.should_prune():
            raise optuna.TrialPruned


@contextmanager
def _logged(file: Path) -> Iterator[Console]:
    """While inside, what is printed goes to the end of a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with (
        file.open("a", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
        quiet_lightning(quiet=True),
    ):
        yield Console(file=log, width=120)


def _work(search: Search) -> None:
    _Worker(search, Console()).work()


def _work_in_parallel(search: Search, jobs: int) -> None:
    """Run trials in several processes; the others go on if one is killed."""
    context = get_context("spawn")
    threads = max(1, torch.get_num_threads() // jobs)
    processes = [context.Process(target=_work_in_process, args=(search, threads)) for _ in range(jobs)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    except BaseException:  # SIGTERM reaches this process alone: the others would go on
        for process in processes:
            if process.is_alive():
                process.terminate()
        for process in processes:
            process.join()
        raise
    if ended := [process for process in processes if process.exitcode]:
        raise PipelineError(f"{len(ended)} of {jobs} processes ended early. {_AGAIN}")


def _work_in_process(search: Search, threads: int) -> None:
    torch.set_num_threads(threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        _work(search)
    except (OSError, ValueError) as error:
        print(f"merc search: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
