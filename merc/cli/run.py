"""``merc run``: the stages of a pipeline, one after the other, for one seed or several."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import Checkpoint
from rich.console import Console

from merc.cli import find_config
from merc.cli.lightning import MercCLI, add_store_writer
from merc.corpora.commands import IMPORTS
from merc.evaluation import compare_seeds
from merc.files import write_json, write_text
from merc.pipeline import Pipeline, PipelineError, StageRun, plan


def run_command(args: list[str]) -> int:
    """Parse the arguments of ``merc run`` and run the pipeline; returns the exit status."""
    own, extra = _split(args)
    parser = ArgumentParser(
        prog="merc run",
        description="Run the stages of a pipeline in order. What is finished and unchanged is skipped, what was cut "
        "goes on where it was: after an interruption give the same command again. Options --trainer.* are "
        "Lightning's, and go to every training stage.",
    )
    parser.add_argument("pipeline", help="config of the pipeline: a file, or a short name such as demo/simulated.yaml")
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument("--root", type=Path | None, default=None, help="the corpus on disk, if the pipeline reads one")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="one seed or several")
    given = parser.parse_args(own)
    seeds = list(dict.fromkeys(given.seed))
    run_pipeline(given.pipeline, out=given.out, root=given.root, seeds=seeds, trainer_options=extra)
    return 0


def _split(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate ``--trainer.*`` options, with their values, from those of ``merc run`` itself."""
    own: list[str] = []
    extra: list[str] = []
    target = own
    for arg in args:
        if arg.startswith("-"):
            target = extra if arg.startswith("--trainer.") else own
        target.append(arg)
        if target is extra and not arg.startswith("-"):
            target = own
    return own, extra


def run_pipeline(
    pipeline: str | Path,
    *,
    out: str | Path,
    root: str | Path | None = None,
    seeds: Sequence[int] = (0,),
    trainer_options: Sequence[str] = (),
) -> Path:
    """Run a pipeline from Python; ``merc run`` does the same.

    Args:
        pipeline: Config of the pipeline, a file or the short name of a shipped one.
        out: Folder for all results.
        root: The corpus on disk, if the pipeline reads one.
        seeds: Each seed trains every stage anew.
        trainer_options: Options such as ``--trainer.precision=bf16-mixed``, for every Lightning stage.

    Returns:
        The report over all stages and seeds.

    Raises:
        FileNotFoundError: There is no such config.
        PipelineError: The pipeline does not hold together, or lacks its root.
    """
    console = Console()
    stages = read_pipeline(find_config(str(pipeline)))
    runs = list(plan(stages, out, root, seeds, find_config, trainer_options))
    for number, run in enumerate(runs):
        seed = "" if run.stage.once else f", seed {run.seed}"
        title = f"stage {number % len(stages.stages) + 1} of {len(stages.stages)}: {run.stage.name}{seed}"
        if run.finished:
            console.print(f"[dim]{title}: finished before, unchanged[/dim]")
            continue
        console.rule(title, align="left")
        run.begin()
        if run.stage.command == "import":
            _import(run)
        else:
            _lightning(run, trainer_options)
        run.mark(finished=True)
    return _summarise(runs, Path(out), console)


def read_pipeline(path: Path) -> Pipeline:
    """Read and check the config of a pipeline.

    Raises:
        PipelineError: The file has a key or a value that a pipeline does not have.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Pipeline, "pipeline")
    try:
        config = parser.parse_object({"pipeline": _load_yaml(path)})
        pipeline: Pipeline = parser.instantiate_classes(config).pipeline
    except PipelineError:
        raise
    except Exception as error:  # jsonargparse wraps what it finds in classes of its own
        raise PipelineError(f"{path} is not a pipeline: {error}") from error
    return pipeline


def _load_yaml(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds; the parser checks it
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _import(run: StageRun) -> None:
    if run.stage.config not in IMPORTS:
        raise PipelineError(
            f"Stage {run.stage.name!r} imports {run.stage.config!r}: expected one of {', '.join(IMPORTS)}."
        )
    IMPORTS[run.stage.config](**run.stage.options, out=run.folder)


def _lightning(run: StageRun, trainer_options: Sequence[str]) -> None:
    cli = _make(run, trainer_options)
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    if trainer.world_size > 1:
        raise PipelineError(
            f"`merc run` uses one device, the options ask for {trainer.world_size}: train that stage with `merc fit`."
        )
    best = run.state.get("best")
    if run.stage.command == "fit" and best is None:
        last = run.folder / "checkpoints" / "last.ckpt"
        trainer.fit(task, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=True)
        best = _best_checkpoint(trainer.checkpoint_callback)
        run.mark(best=best)
    elif run.stage.command == "predict":
        best = run.stage.options.get("ckpt_path")
    if run.stage.command == "fit" and run.stage.report:
        trainer.test(task, datamodule=data, ckpt_path=best, weights_only=True, verbose=False)
    if run.stage.outputs:
        add_store_writer(trainer, run.folder, run.stage.outputs)
        trainer.predict(task, datamodule=data, ckpt_path=best, weights_only=True, return_predictions=False)


def _best_checkpoint(callback: Checkpoint | None) -> str:
    path = getattr(callback, "best_model_path", "")
    if not path:
        raise PipelineError(
            "The stage ended without a checkpoint: its config needs a ModelCheckpoint that monitors val/weighted_f1."
        )
    return str(path)


def _make(run: StageRun, trainer_options: Sequence[str]) -> MercCLI:
    """Trainer, task and datamodule of a stage, from its config, its options and those of the command line."""
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": str(run.folder), "name": "", "version": ""},
    }
    options: dict[str, Any] = {
        "seed_everything": run.seed,
        "trainer.default_root_dir": str(run.folder),
        "trainer.logger": logger,
        **run.stage.options,
    }
    options.pop("ckpt_path", None)
    given = [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    return MercCLI(args=["--config", run.stage.config, *given, *trainer_options], run=False)


def _summarise(runs: Sequence[StageRun], out: Path, console: Console) -> Path:
    """Print and write the scores of every tested stage over all seeds."""
    tested = [run for run in runs if run.stage.command == "fit" and run.stage.report]
    metrics: dict[str, list[Mapping[str, Any]]] = {}
    for run in tested:
        file = run.folder / "report" / "metrics.json"
        metrics.setdefault(run.stage.name, []).append(json.loads(file.read_text(encoding="utf-8")))
    if not metrics:
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
    console.print(f"Report: {out / 'report.md'}")
    return out / "report.md"


def _optimum(runs: Sequence[StageRun]) -> dict[str, float]:
    """By stage, the best weighted F1 that any model can reach, where the corpus is simulated."""
    for run in runs:
        file = run.folder / "optimum.json"
        if run.stage.command == "import" and file.is_file():
            best = json.loads(file.read_text(encoding="utf-8"))["test"]
            return {r.stage.name: best[r.stage.optimum]["context"] for r in runs if r.stage.optimum in best}
    return {}
