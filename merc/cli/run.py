"""``merc run``: the stages of a pipeline, one after the other, for one seed or several."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import NonNegativeInt, PositiveInt

from merc.pipeline.problems import ShortParser

OTHER_OPTIONS = (
    "Options --trainer.* are Lightning's, and go to every stage that trains. All other options are those of the import "
    "that brings the corpus, such as --file and --layout of `merc import pickle`."
)
"""What the descriptions of the commands that run a pipeline say of options that are not their own."""

_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def run_command(args: list[str]) -> int:
    """Parse the arguments of ``merc run`` and run the pipeline; returns the exit status."""
    parser = ShortParser(
        prog="merc run",
        description="Run the stages of a pipeline in order. Stages that are finished and unchanged are skipped, an "
        f"interrupted one is resumed: after an interruption give the same command again. {OTHER_OPTIONS}",
    )
    parser.add_argument("pipeline", help="config of the pipeline: a file, or a short name such as demo/simulated.yaml")
    add_run_options(parser)
    given, shared = parse_run_options(parser, args)
    from merc.pipeline.run import run_pipeline  # PyTorch takes seconds to import: --help needs none of it

    run_pipeline(given.pipeline, **shared)
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


def parse_run_options(parser: ArgumentParser, args: Sequence[str]) -> tuple[Namespace, dict[str, Any]]:
    """Parse the arguments of a command that runs a pipeline.

    Args:
        parser: The parser of the command, with the options of :func:`add_run_options`.
        args: The arguments: options of the command, ``--trainer.*``, and all others, which are those of the import.

    Returns:
        What the parser found, and the arguments that :func:`merc.pipeline.run.run_pipeline`,
        :func:`merc.pipeline.ablate.run_ablations` and :func:`merc.pipeline.search.run_search` share.
    """
    own, extra = split_trainer_options(args)
    words, imports = split_import_options(own, parser)
    # Without what is required, an option that nobody knows is more likely a slip than one of the import.
    given = parser.parse_args(words if {"--out", "-h", "--help"} & {word.partition("=")[0] for word in words} else own)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    return given, {
        "out": given.out,
        "root": given.root,
        "corpus": given.corpus,
        "seeds": list(seeds),
        "jobs": given.jobs,
        "trainer_options": extra,
        "imports": imports,
    }


def split_import_options(args: Sequence[str], parser: ArgumentParser) -> tuple[list[str], dict[str, str | list[str]]]:
    """Separate the options that a parser does not know, with their values: one word, or a list of several.

    A word such as ``-1`` is a value. Whether the import of the pipeline knows the options, and what their types are,
    is checked with its other options.
    """
    known = {option for action in parser._actions for option in action.option_strings}
    own: list[str] = []
    found: dict[str, list[str]] = {}
    words = own
    for arg in args:
        name, equals, value = arg.partition("=")
        is_option = arg.startswith("-") and not _NEGATIVE.fullmatch(arg)
        if is_option:
            of_parser = not name.startswith("--") or name in known or name.partition(".")[0] in known
            words = own if of_parser else found.setdefault(name[2:], [])
        if words is own or not is_option:
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
