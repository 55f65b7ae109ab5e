"""Checks of options and shapes, and full precision, shared by all losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def require_range(
    loss: str, name: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Return ``value`` if it is finite and within ``[low, high]`` (``(low, high]`` with ``open_low``).

    Raises:
        ValueError: It is not finite or out of range; the message gives the range.
    """
    inside = low < value <= high if open_low else low <= value <= high
    if not inside or not math.isfinite(value):
        bounds = f"{'>' if open_low else '>='} {low:g}" + (f" and <= {high:g}" if math.isfinite(high) else "")
        raise ValueError(f"{loss}: {name} is {value}, expected a finite number {bounds}. Correct it in the config.")
    return value


def require_rows(loss: str, name: str, rows: Tensor, label: Tensor) -> None:
    """Check that there is one row and one label per utterance.

    Raises:
        ValueError: ``rows`` is not ``(N, d)`` or ``label`` is not ``(N,)`` with the same N.
    """
    if rows.dim() != 2 or label.shape != rows.shape[:1]:
        raise ValueError(
            f"{loss}: {name} has shape {tuple(rows.shape)} and label {tuple(label.shape)}, expected (N, d) and (N,). "
            "Flatten padded sequences with the batch's mask first."
        )


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a loss so that it is computed in float32 or wider, also under autocast.

    Half-precision tensors among the arguments are widened, also those inside mappings and named tuples. Autocast is
    off inside, because it would narrow the operands of every matrix product again. Double precision stays as it is.
    """

    @wraps(function)
    def wide(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack:
            for device in {x.device.type for x in _tensors([*args, *kwargs.values()])}:
                stack.enter_context(torch.autocast(device, enabled=False))
            return function(*map(_widened, args), **{name: _widened(x) for name, x in kwargs.items()})

    return wide


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())
        elif isinstance(value, tuple):
            yield from _tensors(value)


def _widened(value: Any) -> Any:  # noqa: ANN401 - any argument
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() and value.element_size() < 4 else value
    if isinstance(value, Mapping):
        return {name: _widened(x) for name, x in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_widened, value))
    return value
