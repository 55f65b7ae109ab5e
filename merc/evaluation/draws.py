"""Draws of a bootstrap."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def drawn_counts(generator: np.random.Generator, items: int, size: int) -> Tensor:
    """Counts ``(size, items)`` of each item in as many draws with replacement."""
    return torch.from_numpy(generator.multinomial(items, np.full(items, 1 / items), size=size)).double()
