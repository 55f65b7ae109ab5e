"""``merc run``: the stages of a pipeline, one after the other, for one seed or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from merc.pipeline.plan import PipelineError


def run_command(args: list[str]) -> int:
    """Parse the arguments of ``merc run`` and run the pipeline; returns the exit status."""
    own, extra = split_trainer_options(args)
    parser = ArgumentParser(
        prog="merc run",
        description="Run the stages of a pipeline in order. What is finished and unchanged is skipped, what was cut "
        "goes on where it was: after an interruption give the same command again. Options --trainer.* are "
        "Lightning's, and go to every training stage.",
    )
    parser.add_argument("pipeline", help="config of the pipeline: a file, or a short name such as demo/simulated.yaml")
    add_run_options(parser)
    given = parser.parse_args(own)
    from merc.pipeline.run import run_pipeline  # PyTorch takes seconds to import: --help needs none of it

    run_pipeline(
        given.pipeline,
        out=given.out,
        root=given.root,
        seeds=seeds_of(given),
        trainer_options=extra,
        jobs=given.jobs,
    )
    return 0


def add_run_options(parser: ArgumentParser) -> None:
    """The options that say where results and corpus are, with which seeds to train, and how many at once."""
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument("--root", type=Path | None, default=None, help="the corpus on disk, if the pipeline reads one")
    parser.add_argument("--seed", type=int, nargs="+", default=[0], help="one seed or several")
    parser.add_argument("--seeds", type=PositiveInt | None, default=None, help="that many seeds, 0, 1, 2, ...")
    parser.add_argument("--jobs", type=PositiveInt, default=1, help="train so many seeds at once, each in a process")


def seeds_of(given: Namespace) -> list[int]:
    """The seeds that the options ask for, each once.

    Raises:
        PipelineError: Both options are given, and differ.
    """
    if given.seeds is None:
        return list(dict.fromkeys(given.seed))
    counted = list(range(given.seeds))
    if given.seed not in ([0], counted):
        raise PipelineError(f"--seeds {given.seeds} means --seed {' '.join(map(str, counted))}: expected one of them.")
    return counted


def split_trainer_options(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate ``--trainer.*`` options, with their values, from those of the command itself."""
    own: list[str] = []
    extra: list[str] = []
    target = own
    for arg in args:
        if arg.startswith("--"):
            target = extra if arg.startswith("--trainer.") else own
        target.append(arg)
        if target is extra and not arg.startswith("--"):
            target = own
    return own, extra
