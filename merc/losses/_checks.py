"""Checks that the losses share: options within their ranges, tensors that fit each other."""

from __future__ import annotations

import math

from torch import Tensor


def require_range(
    loss: str, name: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Return ``value`` if it is finite and within ``[low, high]`` (``(low, high]`` with ``open_low``).

    Raises:
        ValueError: It is not; the message gives the range.
    """
    inside = low < value <= high if open_low else low <= value <= high
    if not inside or not math.isfinite(value):
        bounds = f"{'>' if open_low else '>='} {low:g}" + (f" and <= {high:g}" if math.isfinite(high) else "")
        raise ValueError(f"{loss}: {name} is {value}, expected a finite number {bounds}. Correct it in the config.")
    return value


def require_rows(loss: str, name: str, rows: Tensor, label: Tensor) -> None:
    """Refuse anything but one row and one label per utterance.

    Raises:
        ValueError: ``rows`` is not ``(N, d)`` or ``label`` is not ``(N,)`` with the same N.
    """
    if rows.dim() != 2 or label.shape != rows.shape[:1]:
        raise ValueError(
            f"{loss}: {name} has shape {tuple(rows.shape)} and label {tuple(label.shape)}, expected (N, d) and (N,). "
            "Flatten padded sequences with the batch's mask first."
        )


def full_precision(values: Tensor) -> Tensor:
    """``values`` in float32 at least: half precision is widened, double precision is left alone."""
    return values.float() if values.element_size() < 4 else values
