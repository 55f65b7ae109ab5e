"""The stages of a pipeline as their options make them, before anything runs."""

from __future__ import annotations

import json
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jsonargparse import Namespace

from merc.datamodules.facts import DataFacts
from merc.pipeline.kinds import FunctionStage, NetworkStage
from merc.pipeline.lightning import MercParser
from merc.pipeline.problems import explain
from merc.pipeline.stage import PipelineError, StageRun, substitute
from merc.tasks.base import EmotionTask

EMOTIONS = tuple(f"emotion{index}" for index in range(7))
"""The classes of data that is not there yet."""


class Configured:
    """Parses and makes stages with other options than theirs; each is parsed once, and made once with its own.

    Args:
        runs: The stages of a pipeline, of one seed.
        sources: What stands for ``{root}`` and ``{corpus}``.
        seed: The seed.
        trainer_options: Options for every Lightning stage.
    """

    def __init__(
        self, runs: Sequence[StageRun], sources: Mapping[str, str], seed: int, trainer_options: Sequence[str] = ()
    ) -> None:
        self.runs = {run.stage.name: run for run in runs}
        self._places = {name: str(run.folder) for name, run in self.runs.items()}
        self._places |= {**sources, "seed": str(seed)}
        self._trainer_options = trainer_options
        self._parsers: dict[str, MercParser] = {}
        self._made: dict[str, Namespace] = {}

    def parse(self, name: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The whole config of a stage, with all defaults.

        Args:
            name: The stage.
            options: Options that it has beside or instead of its own.

        Raises:
            PipelineError: The stage does not know one of them, or not with this value.
        """
        run = self._with(name, options)
        kind = run.stage.kind
        if isinstance(kind, FunctionStage):
            return dict(kind.parsed(run)[1].as_dict())
        if not isinstance(kind, NetworkStage):
            return run.stage.options
        try:
            return dict(self._parser(name, options).config.as_dict())
        except ArgumentError as error:
            raise PipelineError(f"{name}, {', '.join(run.stage.config_names)}: {explain(str(error))}") from error

    def make(self, name: str, options: Mapping[str, Any] | None = None) -> Namespace:
        """Task and datamodule of a Lightning stage, as ``model`` and ``data``; nothing runs.

        Args:
            name: The stage.
            options: Options that it has beside or instead of its own.

        Raises:
            PipelineError: Its classes refuse an option.
        """
        if not options and name in self._made:
            return self._made[name]
        cli = self._parser(name, options)
        try:
            made: Namespace = cli.parser.instantiate_classes(cli.config)
        except (ValueError, TypeError) as error:
            raise PipelineError(f"{name}: {error}") from error
        if not options:
            self._made[name] = made
        return made

    def _with(self, name: str, options: Mapping[str, Any] | None) -> StageRun:
        run = self.runs[name]
        return replace(
            run, stage=replace(run.stage, options={**run.stage.options, **substitute(options or {}, self._places)})
        )

    def _parser(self, name: str, options: Mapping[str, Any] | None = None) -> MercParser:
        asked = json.dumps([name, options or {}])
        if asked not in self._parsers:
            run = self._with(name, options)
            kind = run.stage.kind
            assert isinstance(kind, NetworkStage)
            self._parsers[asked] = MercParser(kind.arguments(run, self._trainer_options))
        return self._parsers[asked]


def build(made: Namespace, stores: Mapping[str, Any]) -> bool:
    """Build the network of a made stage for data that is not there yet: with widths and classes that are made up.

    Args:
        made: What :meth:`Configured.make` gives.
        stores: The stores that the stage reads, by name.

    Returns:
        Whether there is something to build: not in a stage that makes features.

    Raises:
        ValueError: The network refuses an option.
        TypeError: Likewise.
    """
    if not isinstance(made.model, EmotionTask) or not hasattr(made.data, "graphs"):
        return False
    if made.model.facts is None:
        counts = tuple(10 * (index + 1) for index in range(len(EMOTIONS)))
        # What an option decides does not hang on the widths. 2, 3 and 4 heads divide 48.
        made.model.build(DataFacts(dict.fromkeys(stores, 48), EMOTIONS, counts, tuple(stores)))
    return True
