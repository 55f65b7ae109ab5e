"""Arguments of tasks in plain values, so that the checkpoint of a task that was made in Python loads by itself."""

from __future__ import annotations

import functools
import inspect
import sys
from argparse import ArgumentError
from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Self

import lightning as L
from torch import nn

from merc.tasks.checkpoints import read_checkpoint
from merc.tasks.factory import Factory

_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


class Undescribed(ValueError):
    """A value that plain values cannot tell, such as a lambda."""


def describe(value: Any) -> Any:  # noqa: ANN401 - any argument, and nested plain values
    """An argument as configs have it.

    Args:
        value: Plain values, also in lists and dicts; a class, a :class:`functools.partial` of one, a function that can
            be imported and says what it returns; or a module or dataclass whose attributes are named like its
            arguments.

    Returns:
        Plain values; ``{"class_path": ..., "init_args": {...}}`` for classes, partials and objects.

    Raises:
        Undescribed: The value is none of these.

    Example:
        >>> import torch
        >>> describe(functools.partial(torch.optim.AdamW, lr=0.1))
        {'class_path': 'torch.optim.adamw.AdamW', 'init_args': {'lr': 0.1}}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Factory):
        return describe(value.make)
    if isinstance(value, list | tuple):
        return [describe(part) for part in value]
    if isinstance(value, Mapping | nn.ModuleDict):
        return {str(name): describe(part) for name, part in value.items()}
    if isinstance(value, functools.partial):
        *through, made = value.func, *value.args
        if not all(getattr(step, "__module__", "").startswith("jsonargparse") for step in through):
            raise Undescribed(f"{value!r} has arguments without names")
        return {"class_path": _path(made), "init_args": describe(value.keywords)}  # the parser's go through its own
    if isinstance(value, type):
        return {"class_path": _path(value)}
    if inspect.isroutine(value):
        if inspect.signature(value).return_annotation is inspect.Signature.empty:
            raise Undescribed(f"{value!r} does not say what it returns")
        return _path(value)
    if not isinstance(value, nn.Module) and not is_dataclass(value):
        raise Undescribed(f"{type(value).__name__} is no plain value")
    described, left_out = arguments(value)
    needed = left_out.keys() - _defaults(type(value)) if isinstance(value, L.LightningModule) else left_out
    if needed:
        raise Undescribed("; ".join(left_out[name] for name in sorted(needed)))
    return {"class_path": _path(type(value)), "init_args": described}


def arguments(made: object) -> tuple[dict[str, Any], dict[str, str]]:
    """What an object was made with, told from its attributes: ``make_<name>`` or ``<name>`` for an argument.

    Returns:
        The arguments in plain values, and why others could not be described.
    """
    described, left_out = {}, {}
    for name in _parameters(type(made)):
        try:
            value = getattr(made, f"make_{name}") if hasattr(made, f"make_{name}") else getattr(made, name)
            described[name] = describe(value)
        except AttributeError:
            left_out[name] = f"{type(made).__name__} has no attribute {name}"
        except Undescribed as error:
            left_out[name] = str(error)
    return described, left_out


class DescribedTask(L.LightningModule):
    """A task whose checkpoints load by ``load_from_checkpoint(path)``, whoever made it.

    The command line puts the config of a task into its checkpoints. One that was made in Python describes itself. Of
    what cannot be described the reloaded task has the default; where there is none, it is to be given.
    """

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the task was made with, if the command line has not."""
        super().on_save_checkpoint(checkpoint)
        if self.CHECKPOINT_HYPER_PARAMS_KEY not in checkpoint:
            described, left_out = arguments(self)
            try:
                described["_class_path"] = _path(type(self))
            except Undescribed:  # then it loads as the class that it is asked of
                pass
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = {**described, "_instantiator": _INSTANTIATOR}
            checkpoint["merc_left_out"] = left_out

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:  # noqa: ANN401
        """As Lightning's.

        Raises:
            ValueError: The checkpoint is damaged, or does not load; the message says why, and names the arguments that
                it does not record.
        """
        if isinstance(checkpoint_path, str | Path) and Path(checkpoint_path).is_file():
            read_checkpoint(checkpoint_path)  # refuses a damaged one
        try:
            loaded: Self = super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except (ArgumentError, TypeError, ValueError) as error:
            left_out = read_checkpoint(checkpoint_path).get("merc_left_out", {})
            wanted = {name: why for name, why in left_out.items() if name not in kwargs}
            if not wanted and isinstance(error, TypeError):
                raise ValueError(
                    f"{checkpoint_path} does not record how its {cls.__name__} was made: {error}"
                ) from error
            if not wanted:
                raise
            lacking = "; ".join(f"{name} ({why})" for name, why in wanted.items())
            raise ValueError(
                f"{checkpoint_path} does not record these arguments of its {cls.__name__}: {lacking}. With their "
                f"defaults it does not load: {error}\nIf they differed, pass them: "
                f"{cls.__name__}.load_from_checkpoint(path, {', '.join(f'{name}=...' for name in wanted)})."
            ) from error
        return loaded


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    """The named arguments of a class, and of the classes above it to which it hands on further ones.

    Raises:
        Undescribed: It takes any number of arguments without names.
    """
    found: dict[str, inspect.Parameter] = {}
    for above in kind.__mro__:
        if "__init__" in vars(above):
            own = list(inspect.signature(vars(above)["__init__"]).parameters.values())[1:]
            found = {p.name: p for p in own if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)} | found
            if not any(p.kind == p.VAR_KEYWORD for p in own):
                if any(p.kind == p.VAR_POSITIONAL for p in own):
                    raise Undescribed(f"{kind.__name__} has arguments without names")
                break
    return found


def _defaults(kind: type) -> set[str]:
    """The arguments of a class that have a default."""
    return {name for name, parameter in _parameters(kind).items() if parameter.default is not parameter.empty}


def _path(made: Any) -> str:  # noqa: ANN401 - a class or a function
    """The import path of a class or a function."""
    module, name = getattr(made, "__module__", None), getattr(made, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not made or made is None:
        raise Undescribed(f"{made!r} has no import path")
    return f"{module}.{name}"
