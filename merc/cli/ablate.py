"""``merc ablate``: what each part of a system is worth."""

from __future__ import annotations

from merc.cli.run import OTHER_OPTIONS, add_run_options, parse_run_options
from merc.pipeline.problems import ShortParser


def ablate_command(args: list[str]) -> int:
    """Parse the arguments of ``merc ablate`` and run the ablations; returns the exit status."""
    parser = ShortParser(
        prog="merc ablate",
        description="Run a full model and its ablations, and write what each changes, with confidence intervals, next "
        "to the paper's own numbers. Stages that a row does not change are those of the full model. What is finished "
        "and unchanged is skipped, what was interrupted goes on: after an interruption give the same command again. "
        f"{OTHER_OPTIONS}",
    )
    parser.add_argument(
        "pipeline",
        type=str,
        nargs="+",
        help="config of a pipeline, or those of a single stage, such as paper/lfvd.yaml corpora/meld_sdt.yaml",
    )
    add_run_options(parser)
    parser.add_argument(
        "--rows",
        type=str,
        nargs="+",
        default=[],
        help="shipped rows by a part of their name, such as table3 or table3/gating, or files or folders of your own; "
        "default: all shipped rows of the system",
    )
    parser.add_argument(
        "--stages", type=str, nargs="+", default=[], help="stages to compare; default: the last one that is tested"
    )
    given, shared = parse_run_options(parser, args)
    from merc.pipeline.ablate import run_ablations  # as in merc.cli.run

    run_ablations(given.pipeline, rows=given.rows, stages=given.stages, **shared)
    return 0
