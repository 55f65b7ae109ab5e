"""Face statistics: measures of face crops, as named numbers, without pretrained weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.encoders.inputs import FaceBatch
from merc.encoders.prosody import grouped
from merc.encoders.visual import resize

GRID = 4
"""Cells of the gradient histograms along either side of a crop."""

ORIENTATIONS = 8
"""Bins of a gradient histogram over half a turn."""

REGIONS = {
    "brows": (0.25, 0.22, 0.75, 0.37),
    "eyes": (0.25, 0.35, 0.75, 0.48),
    "nose": (0.35, 0.46, 0.65, 0.62),
    "mouth": (0.30, 0.62, 0.70, 0.86),
    "face": (0.0, 0.0, 1.0, 1.0),
}
"""The parts, as x1, y1, x2, y2 in shares of a square crop around a face box with a margin of a fifth."""

UNIFORM = 10
"""Rotation-invariant uniform local binary patterns: 0 to 8 brighter neighbours in one arc, and all others."""


class FaceStatisticsEncoder(nn.Module):
    """Colour, gradients, texture and motion of a face as named numbers; no weights, no download.

    Measured in every frame, then over the frames of the utterance; :attr:`names` lists them in order:

    - ``colour``: mean of red, green and blue (0..1), brightness, contrast (standard deviation of grey), skewness of
      grey, saturation; mean and standard deviation over time.
    - ``gradient``: histograms of gradient orientation (Dalal and Triggs 2005) in 4 x 4 cells and 8 orientations, each
      cell of length 1; mean and standard deviation over time. ``r0c0`` is the upper left cell, ``o0`` a gradient
      along x, ``o4`` one along y.
    - ``texture``: rotation-invariant uniform local binary patterns (Ojala et al. 2002) of brows, eyes, nose and mouth,
      as shares of the region's pixels: ``p0`` a spot, ``p4`` an edge, ``p8`` a hollow or a flat place, ``p9`` the rest.
    - ``motion``: mean absolute difference of grey between one frame of the batch and the next, in units of the
      clip's contrast, by region; mean, standard deviation and maximum over time, 0 for a single frame. The frames
      are spread over the utterance, so that the time between them is its duration divided by their number.

    Every utterance is measured alone, over its real frames, in float32 for any precision of the run.

    Args:
        frames: Number of evenly spaced frames that a datamodule samples; all frames of the input are measured.
        size: Height and width in pixels at which crops are measured, a multiple of 4; others are resized.

    Attributes:
        names: The name of each number.
        dim: Number of numbers.

    Raises:
        ValueError: ``frames`` or ``size`` is out of range.

    Example:
        >>> encoder = FaceStatisticsEncoder(frames=16)
        >>> face = torch.randint(256, (16, 3, 64, 64), dtype=torch.uint8)
        >>> encoder(FaceBatch.pad([UtteranceKey("train", "0", "0")], [face])).shape[1] == encoder.dim
        True
    """

    def __init__(self, frames: int = 32, size: int = 64) -> None:
        super().__init__()
        if frames < 1:
            raise ValueError(f"frames is {frames}: expected at least 1.")
        if size < 32 or size % GRID:
            raise ValueError(f"size is {size}: expected a multiple of {GRID} that is at least 32.")
        self.frames = frames
        self.size = size
        self.names = tuple(self.measure(torch.zeros(1, 3, size, size)))
        self.dim = len(self.names)

    def forward(self, batch: FaceBatch) -> Tensor:
        """Measure a batch.

        Returns:
            ``(B, dim)`` float32 numbers in the order of :attr:`names`.

        Raises:
            ValueError: The batch is not what :class:`~merc.encoders.FaceBatch` says, or an utterance has no frame.
        """
        return torch.stack([torch.stack(list(self.measure(clip).values())) for clip in batch.rows()])

    def measure(self, clip: Tensor) -> dict[str, Tensor]:
        """The numbers of one utterance by name.

        Args:
            clip: ``(T, 3, H, W)`` RGB in 0..255.

        Returns:
            Scalars.
        """
        with torch.autocast(clip.device.type, enabled=False):
            pixels = resize(clip, self.size) / 255
            grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
            return {
                **grouped("colour", _over_time(_colour(pixels, grey))),
                **grouped("gradient", _over_time(_gradients(grey))),
                **grouped("texture", {name: track.mean() for name, track in _texture(grey).items()}),
                **grouped("motion", _motion(grey)),
            }

    def provenance(self) -> dict[str, Any]:
        """The settings, for the provenance of a store; there are no weights."""
        return {
            "encoder": type(self).__name__,
            "version": 1,
            "frames": self.frames,
            "size": self.size,
            "names": list(self.names),
        }


def _colour(pixels: Tensor, grey: Tensor) -> dict[str, Tensor]:
    centred = grey - grey.mean((1, 2), keepdim=True)
    contrast = centred.square().mean((1, 2)).sqrt()
    highest, lowest = pixels.amax(1), pixels.amin(1)
    return {
        **{name: pixels[:, channel].mean((1, 2)) for channel, name in enumerate(("red", "green", "blue"))},
        "brightness": grey.mean((1, 2)),
        "contrast": contrast,
        "skewness": centred.pow(3).mean((1, 2)) / contrast.clamp(min=1e-3).pow(3),
        "saturation": ((highest - lowest) / highest.clamp(min=1 / 255)).mean((1, 2)),
    }


def _gradients(grey: Tensor) -> dict[str, Tensor]:
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    x = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    y = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    # A gradient contributes to its two nearest bins, so that numbers change smoothly when a face turns.
    place = torch.atan2(y, x) * (ORIENTATIONS / torch.pi)  # bins; a whole turn is 2 ORIENTATIONS
    bins = torch.arange(ORIENTATIONS, device=grey.device).view(1, -1, 1, 1)
    away = (place[:, None] - bins + ORIENTATIONS / 2).remainder(ORIENTATIONS) - ORIENTATIONS / 2
    votes = (1 - away.abs()).clamp(min=0) * (x.square() + y.square()).sqrt()[:, None]
    cells = F.avg_pool2d(votes, grey.shape[-1] // GRID)  # (T, ORIENTATIONS, GRID, GRID)
    cells = cells / (cells.square().sum(1, keepdim=True) + 1e-6).sqrt()
    return {
        f"r{row}c{column}_o{bin}": cells[:, bin, row, column]
        for row in range(GRID)
        for column in range(GRID)
        for bin in range(ORIENTATIONS)
    }


def _texture(grey: Tensor) -> dict[str, Tensor]:
    size = grey.shape[-1]
    padded = F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    ring = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    around = torch.stack([padded[:, y : y + size, x : x + size] for y, x in ring])
    brighter = around >= grey
    turns = (brighter != brighter.roll(1, 0)).sum(0)
    pattern = torch.where(turns <= 2, brighter.sum(0), UNIFORM - 1)
    tracks = {}
    for region in ("brows", "eyes", "nose", "mouth"):
        found = _part(pattern, region)
        for code in range(UNIFORM):
            tracks[f"{region}_p{code}"] = (found == code).float().mean((1, 2))
    return tracks


def _motion(grey: Tensor) -> dict[str, Tensor]:
    # One contrast for the whole clip: scaled per frame, an opening mouth would change everything else.
    change = (grey[1:] - grey[:-1]).abs() / grey.std((1, 2), correction=0).mean().clamp(min=1e-2)
    measures = {}
    for region in REGIONS:
        track = _part(change, region).mean((1, 2)) if len(change) else change.new_zeros(1)
        measures.update(
            {f"{region}_mean": track.mean(), f"{region}_std": track.std(correction=0), f"{region}_max": track.amax()}
        )
    return measures


def _part(images: Tensor, region: str) -> Tensor:
    x1, y1, x2, y2 = (round(share * images.shape[-1]) for share in REGIONS[region])
    return images[:, y1:y2, x1:x2]


def _over_time(tracks: dict[str, Tensor]) -> dict[str, Tensor]:
    values = torch.stack(list(tracks.values()))  # in one reduction: hundreds of small ones would be slow on a GPU
    means = zip(tracks, values.mean(1), strict=True)
    spreads = zip(tracks, values.std(1, correction=0), strict=True)
    return {f"{name}_mean": value for name, value in means} | {f"{name}_std": value for name, value in spreads}
