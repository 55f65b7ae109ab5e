"""Running a pipeline: its stages in order, for one seed or several."""

from __future__ import annotations

import json
import os
import shutil
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import Trainer
from lightning.pytorch.callbacks import WeightAveraging
from rich.console import Console

from merc.configs.lookup import find_config
from merc.conversation import CorpusError
from merc.corpora.commands import resolve_doctor, resolve_import
from merc.evaluation import compare_seeds, ensemble_systems
from merc.files import write_json, write_text
from merc.pipeline.lightning import MercCLI, MercParser, add_store_writer, callbacks_of, check_checkpoint, manners
from merc.pipeline.plan import FinishedRun, Pipeline, PipelineError, Stage, StageRun, plan


def run_pipeline(
    pipeline: str | Path,
    *,
    out: str | Path,
    root: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    trainer_options: Sequence[str] = (),
    jobs: int = 1,
) -> Path:
    """Run a pipeline from Python; ``merc run`` does the same.

    Args:
        pipeline: Config of the pipeline, a file or the short name of a shipped one.
        out: Folder for all results.
        root: The corpus on disk, if the pipeline reads one.
        seeds: Each seed trains every stage anew.
        trainer_options: Options such as ``--trainer.precision=bf16-mixed``, for every Lightning stage.
        jobs: Seeds that are trained at once, each in a process of its own.

    Returns:
        The report over all stages and seeds, or ``out`` if no stage is tested.

    Raises:
        FileNotFoundError: There is no such config.
        PipelineError: The pipeline does not hold together, has an option that its stage does not know, or lacks its
            root. Nothing has run then.
    """
    return run_stages(read_pipeline(find_config(str(pipeline))), out, root, seeds, trainer_options, Console(), jobs)


def run_stages(
    stages: Pipeline,
    out: str | Path,
    root: str | Path | None,
    seeds: Sequence[int],
    trainer_options: Sequence[str],
    console: Console,
    jobs: int = 1,
) -> Path:
    """Run a pipeline that has been read; see :func:`run_pipeline`."""
    runs = list(plan(stages, out, root, seeds, find_config, trainer_options))
    record = _record(stages, out, root, seeds)
    with manners(quiet=True):
        for run in runs[: len(stages.stages)]:  # those of the first seed: the others differ by the seed alone
            check_options(run, trainer_options)
        record.withdraw_others()
        if jobs == 1:
            finish(runs, trainer_options, console)
        else:
            chains = {f"seed {seed}": [run for run in runs if run.stage.once or run.seed == seed] for seed in seeds}
            finish_at_once(chains, trainer_options, console, jobs)
    record.save()
    return _summarise(runs, Path(out), console)


def finish(runs: Sequence[StageRun], trainer_options: Sequence[str], console: Console, of: str = "") -> None:
    """Run the stages that are not finished, in order.

    Args:
        runs: The stages.
        trainer_options: Options for every Lightning stage.
        console: Where each stage is told.
        of: Whose stages they are, if that is to be told too.
    """
    names = list(dict.fromkeys(run.stage.name for run in runs))
    for run in runs:
        seed = "" if run.stage.once else f", seed {run.seed}"
        title = f"{of}stage {names.index(run.stage.name) + 1} of {len(names)}: {run.stage.name}{seed}"
        if run.finished:
            console.print(f"[dim]{title}: finished before, unchanged[/dim]")
            continue
        console.rule(title, align="left")
        run.begin()
        if run.stage.on_data:
            parser, options = data_options(run)
            given = parser.instantiate_classes(options)
            # What a doctor finds is for the user to judge: broken clips become missing utterances later on.
            where = {} if run.stage.command == "doctor" else {"out": run.folder}
            _function(run.stage)(**given, **where)
        else:
            _lightning(run, trainer_options, console)
        run.mark(finished=True)


def finish_at_once(
    chains: Mapping[str, Sequence[StageRun]], trainer_options: Sequence[str], console: Console, jobs: int
) -> None:
    """Finish chains of stages that do not depend on each other, but for the stages that run once: those go first.

    Each chain is run by a process of its own, which writes what it has to tell into ``log.txt`` beside its stages.

    Args:
        chains: The stages, by what the chain is told as.
        trainer_options: Options for every Lightning stage.
        console: Where the beginning and the end of each chain are told.
        jobs: Processes at once.
    """
    once = {run.folder: run for runs in chains.values() for run in runs if run.stage.once}
    finish(list(once.values()), trainer_options, console)
    left = {name: [run for run in runs if not run.stage.once] for name, runs in chains.items()}
    done = [name for name, runs in left.items() if all(run.finished for run in runs)]
    for name in done:
        console.print(f"[dim]{name}: finished before, unchanged[/dim]")
    threads = max(1, torch.get_num_threads() // jobs)
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,))
    try:
        futures = {
            pool.submit(_finish_aside, runs, list(trainer_options)): name
            for name, runs in left.items()
            if name not in done
        }
        for number, future in enumerate(as_completed(futures), start=1):
            future.result()
            console.print(f"{futures[future]}: finished, {number} of {len(futures)}", markup=False)
    finally:
        pool.shutdown(cancel_futures=True)


def _finish_aside(runs: Sequence[StageRun], trainer_options: Sequence[str]) -> None:
    """What a process of :func:`finish_at_once` does."""
    log = runs[0].folder.parent / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file), manners(quiet=True):
        finish(runs, trainer_options, Console(file=file, width=120))


def _record(stages: Pipeline, out: str | Path, root: str | Path | None, seeds: Sequence[int]) -> FinishedRun:
    """What will be finished, with the configs as they are now."""
    configs = {
        stage.name: find_config(stage.config).read_text(encoding="utf-8")
        for stage in stages.stages
        if not stage.on_data
    }
    return FinishedRun(Path(out), stages, configs, None if root is None else str(root), tuple(seeds))


def read_pipeline(path: Path) -> Pipeline:
    """Read and check the config of a pipeline.

    Raises:
        PipelineError: The file has a key or a value that a pipeline does not have.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Pipeline, "pipeline")
    try:
        config = parser.parse_object({"pipeline": yaml.safe_load(path.read_text(encoding="utf-8"))})
        pipeline: Pipeline = parser.instantiate_classes(config).pipeline
    except PipelineError:
        raise
    except Exception as error:  # jsonargparse wraps what it finds in classes of its own
        raise PipelineError(f"{path} is not a pipeline: {error}") from error
    return pipeline


def check_options(run: StageRun, trainer_options: Sequence[str]) -> None:
    """Refuse an option that the stage does not know, before the first stage runs."""
    try:
        if run.stage.on_data:
            data_options(run)
        else:
            MercParser(stage_arguments(run, trainer_options))
    except ArgumentError as error:
        raise PipelineError(f"Stage {run.stage.name!r}, {run.stage.config}: {error}") from error


def _function(stage: Stage) -> Callable[..., Any]:
    """What a stage calls that is none of Lightning's."""
    if stage.command == "ensemble":
        if stage.config:
            raise PipelineError(f"Stage {stage.name!r} ensembles {stage.config!r}: expected no config.")
        return ensemble_systems
    try:
        return resolve_import(stage.config) if stage.command == "import" else resolve_doctor(stage.config)
    except CorpusError as error:
        raise PipelineError(f"Stage {stage.name!r}: {error}") from error


def data_options(run: StageRun) -> tuple[ArgumentParser, Any]:
    """The arguments of an import or a doctor as their types say, with the parser that knows them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(_function(run.stage), skip={"out"})
    return parser, parser.parse_object(deepcopy(run.stage.options))  # which it fills with paths, in place


def stage_arguments(run: StageRun, trainer_options: Sequence[str]) -> list[str]:
    """A Lightning stage as it would stand on the command line, with its results in the folder of the stage."""
    folder = str(run.folder.absolute())  # a run that goes on from another folder must find its checkpoints again
    options: dict[str, Any] = {
        "seed_everything": run.seed,
        "trainer.default_root_dir": folder,
        "trainer.logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": folder, "name": "", "version": ""},
        },
        "trainer.enable_model_summary": False,
        **run.stage.options,
    }
    if run.stage.command == "predict":
        options.pop("ckpt_path", None)  # an option of Trainer.predict
    given = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
    return ["--config", run.stage.config, *given, *trainer_options]


def _lightning(run: StageRun, trainer_options: Sequence[str], console: Console) -> None:
    """Train, test, store; what was done before a cut is not done again."""
    stage = run.stage
    cli = MercCLI(stage_arguments(run, trainer_options), run=False)
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    if trainer.world_size > 1:
        raise PipelineError(
            f"`merc run` uses one device, the options ask for {trainer.world_size}: train that stage with `merc fit`."
        )
    checkpoint = stage.options.get("ckpt_path")
    if stage.command == "fit":
        checkpoint = _trained(run, cli, console)
        end_averaging(trainer)
        if run.stage.tested:
            trainer.test(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
            if not run.metrics.is_file():
                raise PipelineError(f"{type(task).__name__} writes no report: set `report: false` for {stage.name!r}.")
    if stage.outputs:
        add_store_writer(trainer, run.folder, stage.outputs)
        trainer.predict(task, datamodule=data, ckpt_path=checkpoint, weights_only=True, return_predictions=False)


def end_averaging(trainer: Trainer) -> None:
    """Take the averaging of weights away from a trainer that goes on with a checkpoint.

    While it is among the callbacks, Lightning answers a checkpoint that is loaded after `fit` with the weights before
    averaging: not those that were validated and chosen.
    """
    callbacks = callbacks_of(trainer)
    callbacks[:] = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]


def _trained(run: StageRun, cli: MercCLI, console: Console) -> str:
    """The best checkpoint of a stage, which is trained unless it is, from where it was cut."""
    chosen, last = run.state.get("best"), run.folder / "checkpoints" / "last.ckpt"
    if chosen and _whole(run.folder / chosen, console):
        return str(run.folder / chosen)
    if chosen or not _whole(last, console):
        shutil.rmtree(last.parent, ignore_errors=True)  # of no use any more, and in the way of new ones
    start = str(last) if last.is_file() else None
    cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=start, weights_only=True)
    path = getattr(cli.trainer.checkpoint_callback, "best_model_path", "")
    if not path:
        raise PipelineError(
            f"Stage {run.stage.name!r} ended without a checkpoint: its config needs a ModelCheckpoint that monitors "
            "val/weighted_f1."
        )
    best = Path(os.path.relpath(path, run.folder))
    run.show_best(best)
    run.mark(best=str(best))
    return str(run.folder / best)


def _whole(checkpoint: Path, console: Console) -> bool:
    """Whether a checkpoint is there and can be read; says so if only the latter fails."""
    if not checkpoint.is_file():
        return False
    try:
        check_checkpoint(checkpoint)
    except ValueError as error:
        console.print(f"{error} It is left aside.", style="yellow", markup=False)
        return False
    return True


def _summarise(runs: Sequence[StageRun], out: Path, console: Console) -> Path:
    """Print and write the scores of every tested stage over all seeds."""
    tested = [run for run in runs if run.stage.tested]
    metrics: dict[str, list[Mapping[str, Any]]] = {}
    for run in tested:
        metrics.setdefault(run.stage.name, []).append(json.loads(run.metrics.read_text(encoding="utf-8")))
    if not metrics:
        console.print(f"Results: {out}", markup=False)
        return out
    comparison = compare_seeds(metrics, _optimum(runs))
    info = metrics[tested[0].stage.name][0]["info"]
    seeds = sorted({run.seed for run in tested})
    lines = [
        f"# {info['corpus']}: every stage on the {info['split']} split",
        f"Seeds: {', '.join(map(str, seeds))}. Each stage keeps the checkpoint with the best weighted F1 on `val`; the "
        f"`{info['split']}` split is read once, after that.",
        comparison.markdown(),
        "Reports of single stages:",
        "\n".join(f"- [{r.stage.name}, seed {r.seed}]({r.folder.relative_to(out)}/report/report.md)" for r in tested),
    ]
    write_json(out / "summary.json", {name: list(found) for name, found in metrics.items()})
    write_text(out / "report.md", "\n\n".join(lines) + "\n")
    title = f"{info['corpus']}, {info['split']} split, seeds {', '.join(map(str, seeds))}"
    table = comparison.table(title)
    unlimited = console.options.update(width=999)
    if console.measure(table, options=unlimited).maximum > console.width:  # the emotions are in the report too
        table = comparison.table(title, per_class=False)
    console.print(table)
    console.print(f"Report: {out / 'report.md'}", markup=False)
    return out / "report.md"


def _optimum(runs: Sequence[StageRun]) -> dict[str, float]:
    """By stage, the best weighted F1 that any model can reach, where the corpus is simulated."""
    for run in runs:
        file = run.folder / "optimum.json"
        if run.stage.command == "import" and file.is_file():
            best = json.loads(file.read_text(encoding="utf-8"))["test"]
            return {r.stage.name: best[r.stage.optimum]["context"] for r in runs if r.stage.optimum in best}
    return {}
