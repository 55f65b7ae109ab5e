"""Frames as films store them, for drawing: conversion to RGB and back takes longer than coding them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    import av

MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
"""How planes make RGB, in FFmpeg's numbers and names."""

BT601 = 5

Colour = tuple[int, int, int]
"""Red, green, blue, each from 0 to 255."""


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """A frame of a film: luma in full size, both chromas at half of it (YUV 4:2:0 of limited range).

    Args:
        pixels: ``(3 H / 2, W)`` uint8: H rows of luma, then the blue and the red chroma; H and W are even.
        matrix: How the planes make RGB, one of :data:`MATRICES`.
    """

    pixels: NDArray[np.uint8]
    matrix: int = BT601

    @classmethod
    def of_parts(cls, parts: Sequence[NDArray[np.uint8]], matrix: int = BT601) -> Planes:
        """Of luma ``(H, W)`` and both chromas ``(H / 2, W / 2)``."""
        return cls(np.concatenate([part.ravel() for part in parts]).reshape(-1, parts[0].shape[1]), matrix)

    @classmethod
    def of_rgb(cls, image: Tensor | NDArray[np.uint8], matrix: int = BT601) -> Planes:
        """Of an image ``(3, H, W)`` uint8 RGB; an odd height or width loses its last row or column."""
        import av

        height, width = (side - side % 2 for side in image.shape[1:])
        packed = np.ascontiguousarray(np.asarray(image)[:, :height, :width].transpose(1, 2, 0))
        frame = av.VideoFrame.from_ndarray(packed, format="rgb24")
        pixels: Any = frame.reformat(format="yuv420p", dst_colorspace=matrix).to_ndarray()
        return cls(pixels, matrix)

    @property
    def height(self) -> int:
        """H."""
        return len(self.pixels) * 2 // 3

    @property
    def width(self) -> int:
        """W."""
        return int(self.pixels.shape[1])

    @property
    def parts(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
        """Luma ``(H, W)``, blue and red chroma ``(H / 2, W / 2)``, to read and to write."""
        height, half = self.height, (self.height // 2, self.width // 2)
        blue, red = self.pixels[height:].reshape(2, *half)
        return self.pixels[:height], blue, red

    def frame(self) -> av.VideoFrame:
        """The same for an encoder."""
        import av

        return av.VideoFrame.from_ndarray(self.pixels, format="yuv420p")

    def rgb(self) -> Tensor:
        """The image ``(3, H, W)`` uint8."""
        options: dict[str, Any] = {"src_colorspace": self.matrix, "format": "rgb24"}
        return torch.from_numpy(self.frame().reformat(**options).to_ndarray()).permute(2, 0, 1)

    def above(self, other: Planes) -> Planes:
        """Both, one above the other; they are of one width."""
        parts = [part for pair in zip(self.parts, other.parts, strict=True) for part in pair]
        return Planes(np.concatenate([part.ravel() for part in parts]).reshape(-1, self.width), self.matrix)

    def fill(self, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
        """Paint a rectangle, in place; what lies outside is left out, and chroma has half the pixels."""
        if left >= right or top >= bottom:
            return
        for half, part, value in zip((0, 1, 1), self.parts, _planes_of(colour, self.matrix), strict=True):
            x1, y1, x2, y2 = (max(edge, 0) for edge in (left, top, right, bottom))
            part[y1 >> half : (y2 + half) >> half, x1 >> half : (x2 + half) >> half] = value

    def paste(self, other: Planes, left: int, top: int) -> None:
        """Put another frame on this one, in place; its corner is rounded down to even pixels, and inside."""
        for half, part, own in zip((0, 1, 1), self.parts, other.parts, strict=True):
            x, y = left // 2 * 2 >> half, top // 2 * 2 >> half
            there = part[y : y + own.shape[0], x : x + own.shape[1]]
            there[:] = own[: there.shape[0], : there.shape[1]]


@lru_cache(maxsize=256)
def _planes_of(colour: Colour, matrix: int) -> tuple[int, int, int]:
    """Luma, blue and red chroma of a colour."""
    image = np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, 2, 2))
    luma, blue, red = (int(part[0, 0]) for part in Planes.of_rgb(image, matrix).parts)
    return luma, blue, red
