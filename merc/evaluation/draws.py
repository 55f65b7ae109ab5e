"""Draws of a bootstrap, and the intervals of what they give."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def drawn_counts(generator: np.random.Generator, items: int, size: int) -> Tensor:
    """Counts ``(size, items)`` of each item in as many draws with replacement."""
    return torch.from_numpy(generator.multinomial(items, np.full(items, 1 / items), size=size)).double()


def percentile_interval(values: Tensor) -> tuple[float, float]:
    """The 95 % interval of the scores ``(S,)`` of some draws: their percentiles 2.5 and 97.5."""
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high
