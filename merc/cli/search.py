"""``merc search``: better options for a pipeline, chosen on val."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

from jsonargparse.typing import NonNegativeInt, PositiveInt, restricted_string_type

from merc.cli.run import OTHER_OPTIONS, add_run_options, parse_run_options
from merc.pipeline.problems import ShortParser
from merc.pipeline.stage import PipelineError

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
Duration = restricted_string_type("Duration", r"^\d+(\.\d+)?[smh]?$")


def search_command(args: list[str]) -> int:
    """Parse the arguments of ``merc search`` and search; returns the exit status.

    Raises:
        PipelineError: Optuna is not installed.
    """
    if find_spec("optuna") is None:
        raise PipelineError("A search needs the package optuna, which is not installed: pip install 'merc[search]'.")
    from optuna.pruners import BasePruner

    parser = ShortParser(
        prog="merc search",
        description="Search options of a pipeline's stages on val, from the pipeline as it is. Stages that a trial "
        "does not change are those of others. No stage is tested. Processes that share a study, on one machine or "
        "several, share the trials: give the same command in each. After an interruption it goes on from there. "
        f"{OTHER_OPTIONS}",
    )
    parser.add_argument(
        "pipeline",
        type=str,
        nargs="+",
        help="config of a pipeline, or those of a single stage, such as systems/lfvd.yaml corpora/meld_sdt.yaml",
    )
    parser.add_argument("--space", type=Path, required=True, help="what to try: a file, or a short name")
    add_run_options(parser, jobs="how many trials to run at a time, each in a process")
    parser.add_argument("--trials", type=PositiveInt, default=30, help="how many trials, earlier ones among them")
    parser.add_argument("--timeout", type=Duration | None, default=None, help="begin no trial after 90s, 15m or 2h")
    parser.add_argument(
        "--stage", type=str | None, default=None, help="the stage whose val score counts; default: the last that trains"
    )
    parser.add_argument(
        "--study",
        type=str | None,
        default=None,
        help="storage of the study: a file in a shared folder, or a URL such as sqlite:///study.db; default: in --out",
    )
    parser.add_subclass_arguments(
        BasePruner,
        "pruner",
        required=False,
        help="ends trials early, by their val scores with the first seed at percents of the training; "
        "default: optuna.pruners.MedianPruner after 5 trials and 30 percent",
    )
    parser.add_argument("--sampler_seed", type=NonNegativeInt, default=0, help="seed of the sampler")
    given, shared = parse_run_options(parser, args)
    pruner = parser.instantiate_classes(given).get("pruner")
    from merc.pipeline.search import run_search  # as in merc.cli.run

    run_search(
        given.pipeline,
        given.space,
        trials=given.trials,
        stage=given.stage,
        study=given.study,
        timeout=_seconds(given.timeout),
        pruner=pruner,
        sampler_seed=given.sampler_seed,
        **shared,
    )
    return 0


def _seconds(duration: str | None) -> float | None:
    if duration is None:
        return None
    number, unit = re.fullmatch(r"([\d.]+)([smh]?)", duration).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]
