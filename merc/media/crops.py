"""Crops of faces and mouths; the numbers do not depend on the batch, the threads or the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from merc.media.decode import Frames
    from merc.media.tracks import FaceTrack

Region = Literal["face", "mouth", "speech"]
"""The whole face, its lower middle part (mouth, jaw and a part of the cheeks), or what lies between: nose to chin."""

_REGIONS: dict[Region, tuple[float, float]] = {"face": (0.5, 1.0), "mouth": (0.8, 0.6), "speech": (0.7, 0.7)}
"""Centre of the region as a share of the box's height, and its side as a share of the longer side of the box."""

_UNIT = 256
"""Filter weights are multiples of 1/256: sums of bytes are then whole numbers below 2**24, exact in float32."""

_SLICE = 32  # images per step, which limits the memory


def crop_faces(images: Tensor, boxes: Tensor, size: int, *, region: Region = "face", margin: float = 0.2) -> Tensor:
    """Square crops, one per image, resampled with a filter as wide as the scale asks for (no aliasing).

    Beyond the edge of an image its outermost pixels are repeated. A crop depends on its own image and box only, down
    to the last bit.

    Args:
        images: ``(T, C, H, W)`` uint8.
        boxes: ``(T, 4)`` face boxes x1, y1, x2, y2 in pixels of ``images``, one per image.
        size: Side S of the crops in pixels.
        region: The region to crop.
        margin: Share of the region's side that is added to it.

    Returns:
        ``(T, C, S, S)`` uint8.

    Raises:
        ValueError: Images and boxes do not match, or a box is empty or not finite.
    """
    if images.ndim != 4 or images.dtype != torch.uint8 or boxes.shape != (len(images), 4):
        raise ValueError(
            "Crops need images (T, C, H, W) of uint8 and boxes (T, 4), "
            f"got {tuple(images.shape)} of {images.dtype} and {tuple(boxes.shape)}."
        )
    crops = resample(images, crop_squares(boxes, region, margin), (size, size))
    return crops.round_().to(torch.uint8)


def crop_squares(boxes: Tensor, region: Region = "face", margin: float = 0.2) -> Tensor:
    """The square ``(N, 4)`` that :func:`crop_faces` cuts out for every face box ``(N, 4)``.

    Raises:
        ValueError: A box is empty or not finite.
    """
    low, high = boxes[:, :2].double(), boxes[:, 2:].double()
    span = high - low
    if not bool((torch.isfinite(boxes).all(-1) & (span > 0).all(-1)).all()):
        raise ValueError("A face box is empty or not finite: expected x1 < x2 and y1 < y2 in pixels.")
    height, side = _REGIONS[region]
    half = span.max(-1, keepdim=True).values * (side * (1 + margin) / 2)
    centre = low + span * torch.tensor([0.5, height], dtype=torch.float64, device=boxes.device)
    return torch.cat([centre - half, centre + half], -1)


def track_crops(
    frames: Iterable[Frames],
    tracks: Sequence[FaceTrack],
    size: int = 88,
    *,
    region: Region = "mouth",
    margin: float = 0.2,
) -> Tensor:
    """The grey crops of all tracks, in the form of the ``crops`` store.

    Args:
        frames: The frames in which the tracks were found, at any scale (for example a second pass over the clip).
        tracks: The tracks of the clip.
        size: Side S of a crop in pixels.
        region: The region to crop.
        margin: As for :func:`crop_faces`.

    Returns:
        ``(n, S * S)`` uint8, a row for every row of :func:`~merc.media.tracks.tracks_to_rows`, in its order;
        :func:`rows_to_crops` reads them.

    Raises:
        ValueError: The frames end before a track does.
    """
    starts = torch.tensor([0, *(len(track) for track in tracks)]).cumsum(0).tolist()
    crops = torch.zeros(starts[-1], size * size, dtype=torch.uint8)
    done = 0
    for chunk in frames:
        for track, start in zip(tracks, starts, strict=False):
            begin, end = max(track.first, chunk.first), min(track.end, chunk.first + len(chunk.images))
            if begin < end:
                images = chunk.images[begin - chunk.first : end - chunk.first]
                boxes = track.boxes[begin - track.first : end - track.first] * chunk.scale
                squares = crop_squares(boxes.to(images.device), region, margin)
                patches = resample(images, squares, (size, size), to_grey=True).round_().to(torch.uint8)
                crops[start + begin - track.first : start + end - track.first] = patches.flatten(1).cpu()
                done += end - begin
    if done != len(crops):
        raise ValueError(
            f"The frames show {done} of {len(crops)} faces of the tracks. Pass all frames that the tracks come from."
        )
    return crops


def crop_size(width: int) -> int:
    """Side S in pixels of the crops in a store of kind ``crops`` whose rows have that width, S * S.

    Raises:
        ValueError: The width is no square.
    """
    size = math.isqrt(width)
    if size**2 != width:
        raise ValueError(f"Rows of crops are squares, S * S pixels: got rows of width {width}.")
    return size


def rows_to_crops(rows: Tensor, tracks: Sequence[FaceTrack]) -> list[Tensor]:
    """The crops of every track, from the rows of a ``crops`` store.

    Args:
        rows: ``(n, S * S)`` uint8, as :func:`track_crops` gives them.
        tracks: The tracks of the same clip, with n frames in all.

    Returns:
        For every track ``(T, S, S)`` uint8, a view of the rows.

    Raises:
        ValueError: There is not one row for every frame of every track, or rows are no squares.
    """
    lengths = [len(track) for track in tracks]
    if sum(lengths) != len(rows):
        raise ValueError(f"Expected one crop for every frame of a track, {sum(lengths)}, got {len(rows)} crops.")
    size = crop_size(rows.shape[1])
    return list(torch.split(rows.view(-1, size, size), lengths)) if lengths else []


def grey(images: Tensor) -> Tensor:
    """Luma ``(..., 1, H, W)`` uint8 of RGB images ``(..., 3, H, W)`` uint8 (ITU-R BT.601, weights of 1/128)."""
    red, green, blue = images.unbind(-3)
    luma = green.short().mul_(75).add_(red.short(), alpha=38).add_(blue.short(), alpha=15).add_(64)
    return luma.bitwise_right_shift_(7).to(torch.uint8).unsqueeze(-3)


def resample(
    images: Tensor, rectangles: Tensor, size: tuple[int, int], *, index: Tensor | None = None, to_grey: bool = False
) -> Tensor:
    """Resample rectangles of images to another size, with a triangle filter and repeated edges.

    Args:
        images: ``(T, C, H, W)`` uint8.
        rectangles: ``(N, 4)`` x1, y1, x2, y2 in pixels, where pixel i covers i to i + 1; may exceed the image.
        size: Rows and columns of the output.
        index: ``(N,)`` the image of every rectangle. Default: one rectangle per image, in order.
        to_grey: Reduce RGB to one channel of luma first (only inside the rectangles).

    Returns:
        ``(N, C, *size)`` float32 in 0..255, exact multiples of 2**-16.
    """
    if not len(rectangles):
        return images.new_zeros(0, 1 if to_grey else images.shape[1], *size, dtype=torch.float32)
    if index is None:
        index = torch.arange(len(images), device=images.device)
    parts = []
    for chosen, part in zip(torch.split(index, _SLICE), torch.split(rectangles, _SLICE), strict=True):
        rows, vertical = _taps(part[:, 1], part[:, 3], size[0], images.shape[2])
        columns, horizontal = _taps(part[:, 0], part[:, 2], size[1], images.shape[3])
        window = _windows(images, chosen, rows, columns)
        pixels = (grey(window) if to_grey else window).float()
        parts.append(vertical[:, None] @ pixels @ horizontal[:, None].transpose(-1, -2) / _UNIT**2)
    return torch.cat(parts)


def _windows(images: Tensor, index: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows ``(N, n)`` and columns ``(N, m)`` of images as ``(N, C, n, m)``."""
    windows = images.new_empty(len(index), images.shape[1], rows.shape[1], columns.shape[1])
    ends = torch.stack([index, rows[:, 0], rows[:, -1], columns[:, 0], columns[:, -1]], 1).tolist()
    for place, (image, top, bottom, left, right) in enumerate(ends):
        if bottom - top == rows.shape[1] - 1 and right - left == columns.shape[1] - 1:  # copies lines, not pixels
            windows[place] = images[image, :, top : bottom + 1, left : right + 1]
        else:  # pixels at the edge are repeated
            windows[place] = images[image].index_select(1, rows[place]).index_select(2, columns[place])
    return windows


def _taps(low: Tensor, high: Tensor, size: int, length: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the pixels ``(N, n)`` that are read and their weights ``(N, size, n)``, rows of sum 256."""
    step = (high - low).double() / size
    reach = step.clamp_min(1.0)  # half width of the filter: a pixel of the output or of the input, whichever is wider
    centres = low.double()[:, None] + step[:, None] * (torch.arange(size, device=low.device) + 0.5)
    begins = (centres - reach[:, None] - 0.5).floor()
    first = begins[:, :1]
    count = int((centres[:, -1] + reach - first[:, 0]).max().ceil())
    pixels = first + torch.arange(count, device=low.device)
    # Few pixels have a weight in a row: all weights are computed for these, and then put into their places.
    near = begins[:, :, None] + torch.arange(int(2 * float(reach.max())) + 2, device=low.device)
    distance = (near + 0.5 - centres[:, :, None]).abs() / reach[:, None, None]
    weights = (1 - distance).clamp_min(0)
    weights = (weights * (_UNIT / weights.sum(-1, keepdim=True))).round()
    # Rounding leaves the sum a little off; the largest weight takes the rest, so that a flat image stays flat.
    rest = _UNIT - weights.sum(-1, keepdim=True)
    weights.scatter_add_(-1, weights.argmax(-1, keepdim=True), rest)
    places = (near - first[:, :, None]).long().clamp_max(count - 1)
    row = torch.zeros(*centres.shape, count, device=low.device)
    return pixels.clamp(0, length - 1).long(), row.scatter_add_(-1, places, weights.float())
