"""``merc ensemble``: the mean of what several tested systems say, or of several seeds of one."""

from __future__ import annotations

from pathlib import Path

from merc.pipeline.problems import ShortParser


def ensemble_command(args: list[str]) -> int:
    """Parse the arguments of ``merc ensemble``, average and print the scores; returns the exit status."""
    parser = ShortParser(
        prog="merc ensemble",
        description="Average the probabilities of systems that were tested, each counting the same: other systems, or "
        "one trained with several seeds. A pipeline has a stage for it: `command: ensemble`.",
    )
    parser.add_argument(
        "members", type=Path, nargs="+", help="folders of stages that `merc run` has finished, or reports"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the ensemble")
    given = parser.parse_args(args)
    from rich.console import Console  # as in merc.cli.run

    from merc.evaluation import compare_seeds, ensemble_systems
    from merc.evaluation.ensembles import metrics_of, names_of, report_of

    found = ensemble_systems(given.members, out=given.out)
    names = names_of(given.members)
    scores = {name: [metrics_of(member)] for name, member in zip(names, given.members, strict=True)}
    comparison = compare_seeds({**scores, "ensemble": [found]})
    console = Console()
    console.print(comparison.table(f"{found['info']['corpus']}, {found['info']['split']} split", per_class=False))
    console.print(f"Report: {report_of(given.out) / 'report.md'}", markup=False)
    return 0
