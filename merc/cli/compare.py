"""``merc compare``: finished systems head to head."""

from __future__ import annotations

from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt

from merc.pipeline.problems import ShortParser


def compare_command(args: list[str]) -> int:
    """Parse the arguments of ``merc compare``, compare and print; returns the exit status."""
    parser = ShortParser(
        prog="merc compare",
        description="Compare systems that were tested on the same data: every pair head to head, with confidence "
        "intervals and corrected p-values, per emotion, per dialogue length and at emotion shifts, and what difference "
        "the data can show at all. Other data, splits or emotions are refused.",
    )
    parser.add_argument(
        "systems",
        type=str,
        nargs="+",
        help="folders of `merc run` (all tested stages), RUN/STAGE (all seeds), reports, or CSV and JSON files of "
        "other code; NAME=... names the system",
    )
    parser.add_argument("--stages", type=str, nargs="+", default=[], help="stages to take of folders of `merc run`")
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="folder for compare.html, .md, .tex and .json; where systems predict emotions and numbers, those of the "
        "numbers are in its folder values",
    )
    parser.add_argument(
        "--labels", type=str, nargs="+", default=[], help="emotions in the order of the numbers that other code gives"
    )
    parser.add_argument(
        "--utterances",
        type=str,
        nargs="+",
        default=[],
        help="dialogue/utterance of some to draw: frame, label and probabilities of every system, into --out",
    )
    parser.add_argument("--corpus", type=Path | None, default=None, help="corpus.json, for frames and words of these")
    parser.add_argument("--samples", type=PositiveInt, default=10_000, help="draws of the bootstrap")
    parser.add_argument("--seed", type=NonNegativeInt, default=0, help="seed of the draws")
    given = parser.parse_args(args)
    if given.utterances and given.out is None:
        parser.error("--utterances needs --out, the folder of the figures")
    if given.corpus is not None and not given.utterances:
        parser.error("--corpus is read for --utterances alone: name some, or leave it out")
    from rich.console import Console  # as in merc.cli.run

    from merc.evaluation import (
        compare_systems,
        compare_values,
        print_comparison,
        print_value_comparison,
        read_systems,
        read_value_systems,
        write_comparison,
    )
    from merc.evaluation.systems import tell_emotions
    from merc.evaluation.utterance_figure import write_utterances

    console = Console()
    numbers = read_value_systems(given.systems, stages=given.stages)
    emotions = tell_emotions(given.systems, stages=given.stages)
    if numbers is not None:
        if not emotions and (unfit := [f"--{name}" for name in ("labels", "utterances") if given[name]]):
            parser.error(f"{' and '.join(unfit)}: of emotions alone, and these systems predict numbers. Leave it out")
        compared = compare_values(numbers, samples=given.samples, seed=given.seed)
        print_value_comparison(compared, console)
        if given.out is not None:
            where = given.out / "values" if emotions else given.out
            console.print(f"Report: {compared.write(where)}", markup=False)
    if not emotions:
        return 0
    systems = read_systems(given.systems, stages=given.stages, labels=given.labels)
    found = compare_systems(systems, samples=given.samples, seed=given.seed)
    print_comparison(found, console)
    if given.out is not None:
        console.print(f"Report: {write_comparison(found, given.out)}", markup=False)
    for file in write_utterances(given.utterances, systems, given.out, given.corpus) if given.utterances else ():
        console.print(f"Figure: {file}", markup=False)
    return 0
