"""``merc run``: the stages of a pipeline, one after the other, for one seed or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from merc.pipeline.problems import ShortParser


def run_command(args: list[str]) -> int:
    """Parse the arguments of ``merc run`` and run the pipeline; returns the exit status."""
    own, extra = split_trainer_options(args)
    parser = ShortParser(
        prog="merc run",
        description="Run the stages of a pipeline in order. Stages that are finished and unchanged are skipped, an "
        "interrupted one is resumed: after an interruption give the same command again. Options --trainer.* are "
        "Lightning's, and go to every stage that trains. All other options are those of the import that brings the "
        "corpus, such as --file and --layout of `merc import pickle`.",
    )
    parser.add_argument("pipeline", help="config of the pipeline: a file, or a short name such as demo/simulated.yaml")
    add_run_options(parser)
    words, imports = split_import_options(own, parser)
    # Without what is required, an option that nobody knows is more likely a slip than one of the import.
    given = parser.parse_args(words if {"--out", "-h", "--help"} & {word.partition("=")[0] for word in words} else own)
    from merc.pipeline.run import run_pipeline  # PyTorch takes seconds to import: --help needs none of it

    run_pipeline(given.pipeline, trainer_options=extra, imports=imports, **run_options(given))
    return 0


def add_run_options(parser: ArgumentParser, jobs: str = "how many seeds to train at a time, each in a process") -> None:
    """Add the options that say where results and corpus are, with which seeds to train, and how many at a time.

    Args:
        parser: The parser.
        jobs: What ``--jobs`` counts.
    """
    parser.add_argument("--out", type=Path, required=True, help="folder for all results")
    parser.add_argument(
        "--root", type=Path | None, default=None, help="folder of the corpus on disk: {root} of the pipeline"
    )
    parser.add_argument(
        "--corpus", type=Path | None, default=None, help="an imported corpus, or CSV files: {corpus} of the pipeline"
    )
    parser.add_argument("--seeds", type=PositiveInt, default=1, help="how many seeds to run")
    parser.add_argument("--first_seed", type=NonNegativeInt, default=0, help="the seeds count up from this one")
    parser.add_argument("--jobs", type=PositiveInt, default=1, help=jobs)


def run_options(given: Namespace) -> dict[str, Any]:
    """The parsed options of :func:`add_run_options`, as arguments of :func:`merc.pipeline.run.run_pipeline`."""
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    return {"out": given.out, "root": given.root, "corpus": given.corpus, "seeds": list(seeds), "jobs": given.jobs}


def split_import_options(args: Sequence[str], parser: ArgumentParser) -> tuple[list[str], dict[str, str | list[str]]]:
    """Separate the options that a parser does not know, with their values: one word, or a list of several.

    Whether the import of the pipeline knows them, and what their types are, is checked with its other options.
    """
    known = {option for action in parser._actions for option in action.option_strings}
    own: list[str] = []
    found: dict[str, list[str]] = {}
    words = own
    for arg in args:
        name, equals, value = arg.partition("=")
        if arg.startswith("-"):
            words = own if name in known or not name.startswith("--") else found.setdefault(name[2:], [])
        if words is own:
            own.append(arg)
        elif not arg.startswith("-"):
            words.append(arg)
        elif equals:
            words.append(value)
    return own, {name: values[0] if len(values) == 1 else values for name, values in found.items()}


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
