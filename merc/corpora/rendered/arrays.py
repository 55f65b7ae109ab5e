"""The arrays that drawing and speaking are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating[Any]]
Image = NDArray[np.uint8]
"""``(H, W, 3)`` RGB, or ``(H, W, 4)`` with opacity."""


def floats(values: ArrayLike) -> Floats:
    """Numbers in single precision, which is what drawing needs."""
    return np.asarray(values, dtype=np.float32)
