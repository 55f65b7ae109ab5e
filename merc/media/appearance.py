"""How a face looks in a film: colours and edges, not who it is."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.media.crops import crop_squares, grey, resample

APPEARANCE_DIM = 4 * 4 * 3 + 6 * 6 * 8
"""Width of an appearance: colours of 4 x 4 fields, then edges of 6 x 6 fields in 8 directions."""

COLOURS = 4 * 4 * 3
"""How many of its first numbers are colours."""
_FIELDS = 6
_SIDE = 48  # pixels of the face whose edges are measured


def face_appearance(images: Tensor, boxes: Tensor) -> Tensor:
    """Colours around faces, and edges inside them. It tells the people of one film apart, not a person in two films.

    The colours are the means of 4 x 4 fields of a square of twice the side of the face: skin, hair, clothes and what is
    behind. The edges are histograms of the direction of the gradient in 6 x 6 fields of the face (Dalal and Triggs
    2005). Either half has unit length, the colours after subtraction of middle grey.

    Args:
        images: ``(T, 3, H, W)`` uint8.
        boxes: ``(T, 4)`` face boxes in their pixels, one per image.

    Returns:
        ``(T, 336)`` float32.
    """
    if not len(images):
        return torch.zeros(0, APPEARANCE_DIM)
    colours = resample(images, crop_squares(boxes, "face", 1.0), (4, 4)).flatten(1) / 255 - 0.5
    faces = resample(grey(images), crop_squares(boxes, "face", 0.1), (_SIDE + 2, _SIDE + 2)) / 255
    down = faces[:, 0, 2:, 1:-1] - faces[:, 0, :-2, 1:-1]
    right = faces[:, 0, 1:-1, 2:] - faces[:, 0, 1:-1, :-2]
    strength = (down.square() + right.square()).sqrt()
    direction = torch.atan2(down, right) / torch.pi * 4 + 4  # 0..8, of light against dark too
    low = direction.floor()
    share = direction - low
    fields = torch.zeros(len(images), 8, _SIDE, _SIDE)
    fields.scatter_add_(1, (low.long() % 8)[:, None], (strength * (1 - share))[:, None])
    fields.scatter_add_(1, ((low.long() + 1) % 8)[:, None], (strength * share)[:, None])
    edges = F.avg_pool2d(fields, _SIDE // _FIELDS).flatten(1).sqrt()
    return torch.cat([F.normalize(colours, dim=1), F.normalize(edges, dim=1)], 1)
