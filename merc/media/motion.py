"""What frames say about motion between frames: cuts of the film, and how far a head has moved."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor
from torch.nn import functional

from merc.media.crops import resample

_THUMBNAIL = (18, 32)
_PATCH = 64
"""Side of the patches in which motion is measured."""
_COARSE = 4
"""Factor by which the patches are reduced for the first search."""


class CutFinder:
    """Finds the first frames of shots in a stream, with a delay of some frames.

    Two frames differ by one minus the correlation of their thumbnails, which neither a change of brightness nor
    of contrast moves. A cut is where a frame differs from the one before it, much more than neighbouring frames do
    (so fast motion is none), and where the frames after it differ from the one before it as well (so a flash is
    none).

    Args:
        threshold: Smallest difference of a cut, in 0..2.
        ratio: How many times a cut must exceed the mean difference of the frames around it.
        reach: Frames to compare on either side: the longest flash to ignore, plus one.
    """

    def __init__(self, threshold: float = 0.05, ratio: float = 6.0, reach: int = 5) -> None:
        self.threshold = threshold
        self.ratio = ratio
        self.reach = reach
        self._recent: deque[Tensor] = deque(maxlen=reach + 1)
        self._rows: deque[list[float]] = deque(maxlen=2 * reach + 1)
        """For each recent frame, its differences from the frame before it, the second frame before it, and so on."""
        self._waiting = 0

    def push(self, images: Tensor) -> list[bool]:
        """Add frames ``(T, 3, H, W)`` uint8 and decide for as many frames as possible whether they start a shot.

        The results begin with the first undecided frame and are in order.
        """
        decided = []
        height, width = images.shape[2:]
        # Products with the weights of the means, in a buffer that is used again, take a quarter of an interpolation.
        down, across = (
            _means(length, cells).to(images.device) for length, cells in zip((height, width), _THUMBNAIL, strict=True)
        )
        pixels = torch.empty(3, height, width, device=images.device)
        for image in images:
            thumbnail = (down @ pixels.copy_(image) @ across.T).flatten(1)
            thumbnail = (thumbnail - thumbnail.mean(1, keepdim=True)).flatten()
            self._rows.append(_differences(thumbnail, list(self._recent)))
            self._recent.appendleft(thumbnail)
            self._waiting += 1
            if self._waiting > self.reach:
                decided.append(self._decide())
        return decided

    def finish(self) -> list[bool]:
        """Decide the remaining frames at the end of the stream."""
        return [self._decide() for _ in range(self._waiting)]

    def _decide(self) -> bool:
        here = len(self._rows) - self._waiting
        self._waiting -= 1
        row = self._rows[here]
        if not row or row[0] < self.threshold:
            return False
        ahead = list(self._rows)[here + 1 : here + 1 + self.reach]
        around = [other[0] for other in [*list(self._rows)[max(0, here - self.reach) : here], *ahead] if other]
        # No later frame may resemble the previous one (start of a flash), and no earlier frame this one (its end).
        others = [*(later[gap] for gap, later in enumerate(ahead, start=1)), *row[1:]]
        # Not by rounding alone: in even motion the two sides may be equal.
        most = 1.001 * self.ratio * sum(around)
        return min(others, default=row[0]) > row[0] / 2 and row[0] * len(around) > most


def _means(length: int, cells: int) -> Tensor:
    """Weights ``(cells, length)`` that average the pixels of a line in cells of equal length."""
    place = torch.arange(length)
    number = torch.arange(cells)[:, None]
    # The pixels that a cell touches, as in PyTorch's interpolation by area.
    inside = ((place + 1) * cells > number * length) & (place * cells < (number + 1) * length)
    return inside / inside.sum(1, keepdim=True)


def _differences(thumbnail: Tensor, others: list[Tensor]) -> list[float]:
    """One minus the correlation with each of some thumbnails, all flat and without their means."""
    if not others:
        return []
    # The constant (two grey levels a pixel) makes empty frames alike.
    noise = 4.0 * thumbnail.numel()
    stack = torch.stack([thumbnail, *others])
    power = stack.square().sum(1) + noise
    product = stack[1:] @ thumbnail + noise
    found: list[float] = (1 - product / (power[1:] * power[0]).sqrt()).tolist()
    return found


def follow(images: Tensor, boxes: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """How far heads move beside their boxes, from each frame of a head to the next.

    It registers the upper face, which speech hardly moves: with a search over coarse shifts, then with Gauss-Newton
    steps (Lucas and Kanade 1981), first on coarse and then on fine patches.

    Args:
        images: ``(T, 1, H, W)`` uint8 grey.
        boxes: ``(N, 4)`` face boxes in pixels of the images: one head over some frames, then the next head.
        index: ``(N,)`` the image of every box.

    Returns:
        ``(N - 1, 2)`` x, y in pixels: the motion of the head minus that of its box between rows i and i + 1, 0 if it
        cannot be measured; and ``(N - 1,)`` whether it was measured. Rows between two heads have no meaning.
    """
    if len(boxes) < 2:  # a face in the only frame of its shot
        return torch.zeros(0, 2, dtype=torch.float64), torch.zeros(0, dtype=torch.bool)
    low, span = boxes[:, :2].double(), (boxes[:, 2:] - boxes[:, :2]).double()
    area = torch.tensor([[-0.15, -0.1], [1.15, 0.8]], dtype=torch.float64)
    patches = resample(
        images, torch.cat([low + span * area[0], low + span * area[1]], -1), (_PATCH, _PATCH), index=index
    )
    patches = _blurred(patches[:, 0])
    level = functional.avg_pool2d(patches[:, None], _COARSE)[:, 0]
    shift = _COARSE * _register(level[:-1], level[1:], _search(level[:-1], level[1:]), steps=3)
    shift = _register(patches[:-1], patches[1:], shift, steps=4)
    likeness = _likeness(patches[:-1], patches[1:], shift)
    sure = (likeness > 0.7) & (shift.abs().amax(-1) < _PATCH / 4)
    pixels = shift.double() / _PATCH * (area[1] - area[0]) * (span[:-1] + span[1:]) / 2
    return torch.where(sure[:, None], pixels, 0.0), sure


def _window(size: int) -> Tensor:
    """Weights of the patch: the face from the brow to the nose, without hair and mouth, fading out."""
    place = (torch.arange(size) + 0.5) / size
    x, y = (
        ((place - centre) / width).abs().mul(-1).add(1).clamp(0, 0.5) * 2
        for centre, width in ((0.5, 0.42), (0.52, 0.36))
    )
    return y[:, None] * x


def _blurred(patches: Tensor) -> Tensor:
    """A binomial filter against compression noise, and for the linear patches that the steps assume."""
    kernel = torch.tensor([0.25, 0.5, 0.25])
    padded = functional.pad(patches[:, None], (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, (kernel[:, None] * kernel)[None, None])[:, 0]


def _moved(patches: Tensor, shift: Tensor) -> Tensor:
    """Patches ``(N, S, S)`` read at places ``shift`` pixels farther."""
    size = patches.shape[-1]
    place = (torch.arange(size) + 0.5) * 2 / size - 1
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1) + (shift * 2 / size)[:, None, None]
    return functional.grid_sample(patches[:, None], grid, padding_mode="border", align_corners=False)[:, 0]


def _standardized(patches: Tensor, window: Tensor) -> Tensor:
    """Zero mean and unit variance under the window, so that lighting has no effect; flat patches stay small."""
    weight = window / window.sum()
    centred = patches - (patches * weight).sum((1, 2), keepdim=True)
    return centred / ((centred**2 * weight).sum((1, 2), keepdim=True) + 4.0).sqrt()


def _search(first: Tensor, second: Tensor) -> Tensor:
    """The integer shifts ``(N, 2)``, up to a quarter of the patch, with the smallest difference."""
    window = _window(first.shape[-1])
    reach = first.shape[-1] // 4
    wide = functional.pad(_standardized(second, window)[None], (reach,) * 4, mode="replicate")
    kernels = (window * _standardized(first, window))[:, None]
    squares = functional.conv2d(wide[0, :, None] ** 2, window[None, None])[:, 0]
    costs = squares - 2 * functional.conv2d(wide, kernels, groups=len(first))[0]
    best = costs.flatten(1).argmin(-1)
    return torch.stack([best % (2 * reach + 1), best // (2 * reach + 1)], -1).float() - reach


def _register(first: Tensor, second: Tensor, shift: Tensor, steps: int) -> Tensor:
    window = _window(first.shape[-1])
    target = _standardized(first, window)
    across = (target.roll(-1, 2) - target.roll(1, 2)) / 2
    down = (target.roll(-1, 1) - target.roll(1, 1)) / 2
    gradient = torch.stack([across, down], 1).flatten(2)
    weighted = gradient * window.flatten()
    # The small diagonal keeps flat patches where they are.
    matrix = weighted @ gradient.transpose(1, 2) + 1e-2 * torch.eye(2)
    for _ in range(steps):
        error = (_standardized(_moved(second, shift), window) - target).flatten(1)
        step = torch.linalg.solve(matrix, (weighted @ error[:, :, None]))[:, :, 0]
        shift = shift - step.clamp(-2, 2)
    return shift


def _likeness(first: Tensor, second: Tensor, shift: Tensor) -> Tensor:
    """Correlation under the window after the shift."""
    window = _window(first.shape[-1])
    pair = (_standardized(first, window), _standardized(_moved(second, shift), window))
    return (pair[0] * pair[1] * window).sum((1, 2)) / window.sum()
