"""A text encoder without a model: counts of letter n-grams, hashed into a fixed number of columns."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from merc.encoders import SentenceEncoder


class HashedEncoder(SentenceEncoder):
    """Counts the letter n-grams of each word, as fastText does (arXiv 1607.04606), without learning anything.

    The vector is the square root of the counts, scaled to length 1. It takes microseconds and works in any language.

    Args:
        dim: Width of the vectors. N-grams of the same hash share a column.
        sizes: Lengths of the n-grams in letters, the markers ``<`` and ``>`` of the ends of the word included.
    """

    def __init__(self, dim: int = 512, sizes: tuple[int, ...] = (3, 4, 5)) -> None:
        super().__init__()
        self.dim = dim
        self.sizes = sizes

    def encode(self, texts: Sequence[str]) -> Tensor:
        """``(B, dim)`` vectors of B texts; a text without a letter is a row of zeros."""
        counts = torch.zeros(len(texts), self.dim)
        for row, text in zip(counts, texts, strict=True):
            for gram in self._grams(text):
                row[zlib.crc32(gram.encode()) % self.dim] += 1
        return torch.nn.functional.normalize(counts.sqrt())

    def _grams(self, text: str) -> list[str]:
        words = [f"<{word}>" for word in text.lower().split()]
        return [word[at : at + size] for word in words for size in self.sizes for at in range(len(word) - size + 1)]

    def provenance(self) -> dict[str, Any]:
        """What the vectors depend on."""
        return {"encoder": "my_parts.HashedEncoder", "dim": self.dim, "sizes": list(self.sizes)}
