"""What a search may change: options of stages, each with a list or a range of values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from merc.configs.lookup import find_config
from merc.files import parse_yaml
from merc.pipeline.configured import Configured, build
from merc.pipeline.kinds import NetworkStage
from merc.pipeline.lightning import chosen_by
from merc.pipeline.read import absolute
from merc.pipeline.stage import PipelineError

REFUSALS = (ValueError, TypeError, RuntimeError, AssertionError)
"""What networks raise that do not like an option, and trainings that diverge or do not fit into memory."""

_EXPECTED = "expected a list of two values or more, or {low: ..., high: ...} with log: true or step: ..."


@dataclass(frozen=True)
class Option:
    """An option of a stage, and the values that a search tries.

    Args:
        stage: The stage.
        name: The option, as on the command line, without the dashes.
        values: The values of a list; none of a range.
        distribution: The values as Optuna sees them: those of a list by their labels.
    """

    stage: str
    name: str
    values: Sequence[Any]
    distribution: BaseDistribution

    @property
    def key(self) -> str:
        """Its name in the study: ``STAGE --option``."""
        return f"{self.stage} --{self.name}"

    @property
    def ends(self) -> list[Any]:
        """The values to check before a search: all of a list, the lowest and the highest of a range."""
        if isinstance(self.distribution, FloatDistribution | IntDistribution):
            return [self.distribution.low, self.distribution.high]
        return list(self.values)

    def draw(self, trial: Trial) -> None:
        """Let a trial draw a value, or take the one that it is to repeat."""
        kind = self.distribution
        if isinstance(kind, CategoricalDistribution):
            trial.suggest_categorical(self.key, kind.choices)
        elif isinstance(kind, IntDistribution):
            trial.suggest_int(self.key, kind.low, kind.high, step=kind.step, log=kind.log)
        elif isinstance(kind, FloatDistribution):
            trial.suggest_float(self.key, kind.low, kind.high, step=kind.step, log=kind.log)

    def value(self, drawn: Any) -> Any:  # noqa: ANN401 - whatever the option takes
        """The value that stands behind what the study has drawn."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.values[self.distribution.choices.index(drawn)]
        return drawn

    def drawn(self, value: Any, resolved: Sequence[Any]) -> Any:  # noqa: ANN401 - whatever the option takes
        """What the study would have drawn for a value.

        Args:
            value: The value, as the config of the stage has it.
            resolved: What stands in the config for each of :attr:`ends`.

        Raises:
            PipelineError: It is not among the values.
        """
        if isinstance(self.distribution, CategoricalDistribution):
            if value in resolved:
                return self.distribution.choices[resolved.index(value)]
        elif _is_number(value) and _is_in(value, self.distribution):
            return value
        raise PipelineError(
            f"{self.key}: the pipeline has {json.dumps(value)}, which is not in the space ({self}). The search begins "
            "with the recipe as it is: give this value to the list, or widen the range."
        )

    def __str__(self) -> str:
        """The values in a few words."""
        known = self.distribution
        if isinstance(known, CategoricalDistribution):
            return ", ".join(map(str, known.choices))
        assert isinstance(known, FloatDistribution | IntDistribution)
        step = f", step {known.step}" if known.step not in (None, 1) else ""
        return f"{known.low} to {known.high}{', log' if known.log else ''}{step}"


def read_space(name: str | Path) -> list[Option]:
    """Read the space of a search: by stage and option, what to try.

    .. code-block:: yaml

        fusion:
          model.head.dim: [64, 128, 256]
          model.head.dropout: {low: 0.0, high: 0.5, step: 0.1}
          model.optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}

    A range has integers if ``low``, ``high`` and ``step`` are integers. Files and folders with relative paths are those
    beside the file, if they are there.

    Args:
        name: The file, or the short name of a shipped one.

    Raises:
        FileNotFoundError: There is no such file.
        PipelineError: It has something else than lists and ranges.
    """
    path = find_config(str(name))
    raw = parse_yaml(path.read_text(encoding="utf-8"), name)
    if not isinstance(raw, dict) or not raw or not all(isinstance(options, dict) for options in raw.values()):
        raise PipelineError(f"{name} is not a space: expected options by stage, such as `fusion: {{OPTION: [1, 2]}}`.")
    found = [(stage, option, given) for stage, options in raw.items() for option, given in options.items()]
    return [_option(str(name), str(stage), str(option), absolute(given, path.parent)) for stage, option, given in found]


def _option(file: str, stage: str, name: str, given: Any) -> Option:  # noqa: ANN401 - whatever the file holds
    try:
        if isinstance(given, list):
            labels = [value if isinstance(value, str) else json.dumps(value) for value in given]
            if len(set(labels)) < 2 or len(set(labels)) < len(labels):
                raise ValueError("twice the same, or too few")
            return Option(stage, name, given, CategoricalDistribution(labels))
        log, step = given.get("log", False), given.get("step")
        low, high = given["low"], given["high"]
        numbers = [low, high] if step is None else [low, high, step]
        if given.keys() - {"low", "high", "log", "step"} or not isinstance(log, bool):
            raise ValueError("unknown keys")
        if not all(map(_is_number, numbers)):
            raise ValueError("not numbers")
        if not low < high or (step is not None and not _is_whole((high - low) / step)):
            raise ValueError("low is not below high, or no number of steps leads from one to the other")
        if all(isinstance(number, int) for number in numbers):
            return Option(stage, name, [], IntDistribution(low, high, log=log, step=1 if step is None else step))
        return Option(stage, name, [], FloatDistribution(low, high, log=log, step=step))
    except (ValueError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise PipelineError(f"{file}: {stage} --{name} has {json.dumps(given)} ({error}): {_EXPECTED}.") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-8


def _is_in(value: float, range_: BaseDistribution) -> bool:
    """Whether a number is in a range, and on one of its steps."""
    assert isinstance(range_, FloatDistribution | IntDistribution)
    return range_.low <= value <= range_.high and (range_.step is None or _is_whole((value - range_.low) / range_.step))


def check_space(space: Sequence[Option], configured: Configured, judged: str) -> dict[str, Any]:
    """Refuse what the stages do not know, before anything runs.

    Every value of a list and both ends of a range are parsed, and of networks that train on features built. Values of
    several options are tried together, and one by one only where they are refused.

    Args:
        space: The space.
        configured: The stages that lead to the one that is judged.
        judged: That stage.

    Returns:
        The recipe as it is, as the study would have drawn it.

    Raises:
        PipelineError: A stage or option does not exist or does not lead to the judged stage, a value is refused, or the
            recipe is not in the space.
    """
    recipe: dict[str, Any] = {}
    for stage in dict.fromkeys(option.stage for option in space):
        if stage not in configured.runs:
            raise PipelineError(
                f"The space changes the stage {stage!r}: expected one that leads to {judged}: "
                f"{', '.join(configured.runs)}."
            )
        options = [option for option in space if option.stage == stage]
        ends: dict[str, list[Any]] = {option.name: [] for option in options}
        for number in range(max(len(option.ends) for option in options)):
            values = {option.name: option.ends[min(number, len(option.ends) - 1)] for option in options}
            try:
                config = _checked(configured, stage, values)
            except PipelineError:
                for name, value in values.items():
                    try:
                        _checked(configured, stage, {name: value})
                    except PipelineError as error:
                        raise PipelineError(f"{stage} --{name} cannot be {json.dumps(value)}. {error}") from error
                config = configured.parse(stage, values)  # they only do not go together, which a trial finds out
            for option in options:
                if number < len(option.ends):
                    ends[option.name].append(_in(config, option.name))
        shipped = configured.parse(stage)
        for option in options:
            recipe[option.key] = option.drawn(_in(shipped, option.name), ends[option.name])
    return recipe


def _checked(configured: Configured, stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a stage with other options, once its network has been built.

    Raises:
        PipelineError: That cannot be done.
    """
    config = configured.parse(stage, values)
    if isinstance(configured.runs[stage].stage.kind, NetworkStage):
        if chosen_by(config) != chosen_by(configured.parse(stage)):
            raise PipelineError("It would change the score by which checkpoints are chosen.")
        made = configured.make(stage, values)
        try:
            build(made, config["data"].get("init_args", {}).get("stores", {}))
        except REFUSALS as error:
            raise PipelineError(f"{stage}: {error}") from error
    return config


def _in(config: Mapping[str, Any], option: str) -> Any:  # noqa: ANN401 - whatever the option takes
    """What a config has for an option as on the command line, which names no ``init_args``; ``None`` if nothing."""
    value: Any = config
    for part in option.split("."):
        if isinstance(value, Mapping) and "class_path" in value and part not in ("class_path", "init_args"):
            value = value.get("init_args", {})
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value
