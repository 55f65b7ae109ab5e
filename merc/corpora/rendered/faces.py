"""Faces to animate: variants of one photograph that scikit-image ships, with mouths, eyes and brows that move."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.data import astronaut

from merc.corpora.rendered.arrays import Floats, Image, floats

# Everything below is measured in pixels of the photograph (512 x 512; NASA, public domain).
_ORIGIN = (143.0, 6.0)
_EXTENT = (170, 212)
_SCALE = 1.3
"""Pixels of a face's texture to one of the photograph."""
_CHIN, _NOSE, _CENTRE = 178.0, 131.0, (225.5, 122.0)
_NECK, _NECK_STRETCH = 175.0, 2.2  # the photograph's neck is too short for a chin that drops
_OUTLINE = (  # hair, ears, neck
    *((181, 131), (174, 126), (170, 118), (162, 110), (157, 98), (154, 80), (155, 65), (159, 53), (169, 45)),
    *((180, 39), (190, 33), (195, 26), (207, 20.5), (220, 17), (233, 16), (248, 19), (261, 24.5), (273, 32)),
    *((283, 42), (291, 54), (298, 69), (301, 83), (299, 98), (293, 110), (285, 120), (279, 128), (276, 133)),
    *((270, 136), (266, 136), (265, 147), (261, 158), (257, 166), (254, 174), (253, 186), (238, 189), (213, 186)),
    *((194, 182), (187, 178), (186, 166), (184, 152), (182, 140)),
)
_SKIN = (  # the face inside the hairline
    *((186, 80), (197, 82), (215, 85), (235, 84), (252, 88), (262, 92), (267, 100), (268, 120), (272, 124)),
    *((276, 133), (266, 138), (262, 160), (256, 190), (200, 190), (184, 180), (181, 140), (172, 122), (180, 116)),
    *((183, 100),),
)
_LEFT_EYE = ((193, 101.5), (203, 96.5), (213, 102.5), (203, 105))  # left corner, upper lid, right corner, lower lid
_RIGHT_EYE = ((235, 104), (247, 98.5), (259, 103.5), (247, 107.5))
_BROWS = (90.0, 92.5)
_MOUTH = ((202, 140), (224.5, 143.5), (247, 140.5), (224.5, 150.5))  # left corner, upper lip, right corner, lower lip
_BOX = (181.0, 64.0, 268.0, 173.0)
"""The box of the photograph's face, as detectors draw it."""

_SKIN_TONES = ((1.0, 1.0, 1.0), (1.0, 0.94, 0.86), (0.97, 0.86, 0.74), (1.03, 0.93, 0.92), (0.9, 0.76, 0.62))
_HAIR_TONES = ((0.85, 0.7, 0.42), (0.42, 0.3, 0.2), (0.22, 0.18, 0.16), (0.62, 0.36, 0.2), (0.72, 0.71, 0.7))
_HAIR_GAMMA = (1.0, 1.1, 1.3, 1.0, 0.8)


@dataclass(frozen=True, eq=False)
class Expression:
    """What a face does, one value a frame; arrays ``(T,)`` float32.

    Args:
        gap: Opening between the lips, 0 closed .. 1 wide.
        jaw: Drop of the jaw, 0..1; chewing moves it behind closed lips.
        width: Width of the mouth, -1 rounded .. 1 spread.
        smile: Corners of the mouth, -1 down .. 1 up.
        brow: Height of the brows, -1..1.
        frown: Inner ends of the brows down, -1 (raised) .. 1.
        lid: Upper lids, 0 as in the photograph, 1 closed, negative wide open.
    """

    gap: Floats
    jaw: Floats
    width: Floats
    smile: Floats
    brow: Floats
    frown: Floats
    lid: Floats

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.gap)

    def at(self, frame: int) -> tuple[float, ...]:
        """The values of one frame in the order of the fields."""
        return tuple(float(getattr(self, field.name)[frame]) for field in dataclasses.fields(self))


@dataclass(frozen=True, eq=False)
class Look:
    """What tells a face from other variants of the photograph.

    Args:
        grid: Displacements ``(2, 5, 5)`` of a coarse grid, in pixels of the photograph.
        widths: Relative width at crown, eyes, mouth and chin.
        heights: Relative height of the forehead and of the lower face.
        volume: Relative volume of the hair.
        mirror: Whether the photograph is mirrored.
        skin: Index of the tone, gamma and gain of the skin.
        hair: Index of the tone and gain of the hair.
        light: Direction (radians) and strength of the light from the side.
        beard: Strength of a beard, 0 for none.
        shirt: Colours of the shirt and of its pattern, and the pattern's period in pixels.
    """

    grid: Floats
    widths: tuple[float, float, float, float]
    heights: tuple[float, float]
    volume: float
    mirror: bool
    skin: tuple[int, float, float]
    hair: tuple[int, float]
    light: tuple[float, float]
    beard: float
    shirt: tuple[tuple[int, int, int], tuple[int, int, int], float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Look:
        """A look by chance."""
        widths, heights = rng.normal(0, 1, 4), rng.normal(0, 1, 2)
        return cls(
            grid=floats(rng.uniform(-3.2, 3.2, (2, 5, 5))),
            widths=_four(1.0 + np.clip(widths, -1.6, 1.6) * (0.05, 0.05, 0.06, 0.08)),
            heights=(
                1.0 + 0.06 * float(np.clip(heights[0], -1.5, 1.5)),
                1.0 + 0.06 * float(np.clip(heights[1], -1.5, 1.5)),
            ),
            volume=float(rng.uniform(-0.1, 0.12)),
            mirror=bool(rng.random() < 0.5),
            skin=(int(rng.integers(len(_SKIN_TONES))), float(rng.uniform(0.85, 1.6)), float(rng.uniform(0.85, 1.1))),
            hair=(int(rng.integers(len(_HAIR_TONES))), float(rng.uniform(0.8, 1.2))),
            light=(float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0, 0.3))),
            beard=float(rng.uniform(0.4, 0.8)) if rng.random() < 0.3 else 0.0,
            shirt=(_colour(rng), _colour(rng), float(rng.choice([0.0, 0.0, 9.0, 16.0]))),
        )


@dataclass(frozen=True)
class _Arc:
    """A curve y(x) through two corners and a point between them: an eyelid or a lip, in texture pixels."""

    left: float
    right: float
    corners: float
    tilt: float
    rise: float

    @classmethod
    def through(cls, left: Floats, middle: Floats, right: Floats) -> _Arc:
        tilt = float((right[1] - left[1]) / (right[0] - left[0]))
        corners = float(left[1] + right[1]) / 2
        centre, half = float(left[0] + right[0]) / 2, float(right[0] - left[0]) / 2
        s = (float(middle[0]) - centre) / half
        line = corners + tilt * (float(middle[0]) - centre)
        return cls(float(left[0]), float(right[0]), corners, tilt, (float(middle[1]) - line) / (1 - s * s))

    @property
    def centre(self) -> float:
        return (self.left + self.right) / 2

    @property
    def half(self) -> float:
        return (self.right - self.left) / 2

    def __call__(self, x: Floats) -> Floats:
        """The height at ``x``; beyond the corners it goes on flat."""
        s = np.clip((x - self.centre) / self.half, -1, 1)
        y: Floats = self.corners + self.tilt * self.half * s + self.rise * (1 - s * s)
        return y


class Face:
    """A face that can be drawn with any expression.

    Args:
        look: What the face is like.
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        source_x, source_y = _warp(look)
        moved = [cv2.remap(part, source_x, source_y, cv2.INTER_CUBIC) for part in _photograph()]
        layers = floats(np.clip(np.dstack(moved), 0, 1))
        points = floats([*_LEFT_EYE, *_RIGHT_EYE, *_MOUTH, (224, _NOSE), (226, _CHIN), _BOX[:2], _BOX[2:]])
        points = _forward(points, source_x, source_y)
        brows = _forward(floats([(203, _BROWS[0]), (247, _BROWS[1])]), source_x, source_y)[:, 1]
        if look.mirror:
            layers = np.ascontiguousarray(layers[:, ::-1])
            points[:, 0] = layers.shape[1] - 1 - points[:, 0]
            swap = [6, 5, 4, 7, 2, 1, 0, 3, 10, 9, 8, 11, 12, 13, 14, 15]
            points, brows = points[swap], brows[::-1]
            points[[14, 15], 0] = points[[15, 14], 0]
        self.texture = _coloured(look, layers)
        self.box = np.concatenate([points[14], points[15]])
        self._eyes = [
            (_Arc.through(p[0], p[1], p[2]), _Arc.through(p[0], p[3], p[2]), float(brow))
            for p, brow in ((points[0:4], brows[0]), (points[4:8], brows[1]))
        ]
        self._upper = _Arc.through(points[8], points[9], points[10])
        self._lower = _Arc.through(points[8], points[11], points[10])
        self._nose, self._chin = float(points[12, 1]), float(points[13, 1])
        self._bridge = float(points[2, 0] + points[4, 0]) / 2
        self._mouth_grid()

    @property
    def centre(self) -> tuple[float, float]:
        """The middle of the face's box in its texture (x, y)."""
        return float(self.box[0] + self.box[2]) / 2, float(self.box[1] + self.box[3]) / 2

    @property
    def size(self) -> float:
        """Height of the face's box in its texture."""
        return float(self.box[3] - self.box[1])

    def draw(self, values: Sequence[float]) -> Image:
        """The face ``(H, W, 4)`` with the values of :meth:`Expression.at`: colours times opacity, and opacity."""
        gap, jaw, width, smile, brow, frown, lid = values
        image = self.texture.copy()
        self._draw_eyes(image, brow, frown, lid)
        self._draw_mouth(image, gap, jaw, width, smile)
        return image

    def _draw_eyes(self, image: Image, brow: float, frown: float, lid: float) -> None:
        # Brows and lids live in one band: the skin above the lid stretches to follow both.
        for upper, lower, brow_y in self._eyes:
            reach = 5.5 * _SCALE
            left = upper.centre < self._bridge  # every eye has its own side of the bridge of the nose
            x0 = int(upper.left - 3.5 * reach) if left else int(self._bridge)
            x1 = int(self._bridge) if left else int(upper.right + 3.5 * reach)
            top, bottom = int(brow_y - 13 * _SCALE), int(lower.corners + lower.rise + 4 * _SCALE)
            x = np.arange(x0, x1, dtype=np.float32)[None]
            y = np.arange(top, bottom, dtype=np.float32)[:, None]
            edge = np.clip((x - x0 if left else x1 - 1 - x) / (2.5 * reach), 0, 1)
            inner = np.clip(1 - np.abs(x - self._bridge) / (28 * _SCALE), 0, 1)  # 1 between the brows
            lift = _SCALE * (4.0 * brow - 4.6 * frown * inner) * _ease(edge)
            across = np.clip((x - upper.left) / (upper.right - upper.left), 0, 1)
            opened, closed = upper(x), lower(x) + 0.3
            target = opened + lid * (closed - opened) * np.sqrt(4 * across * (1 - across))
            skin = target - opened
            height = np.clip((target - y) / np.maximum(target - top, 1.0), 0, 1)  # 0 at the lid, 1 at the top
            bump = 16 * (height * (1 - height)) ** 2
            fold = np.clip((y - brow_y - _SCALE) / np.maximum(target - brow_y - _SCALE, 1.0), 0, 1)
            above = y - skin * fold + lift * bump
            stretch = np.where(target < opened, (closed - opened) / np.maximum(closed - target, 0.5), 1.0)
            below = np.where(y < closed, closed - (closed - y) * stretch, y)
            source = np.where(y < target, above, below).astype(np.float32)
            image[top:bottom, x0:x1] = cv2.remap(
                self.texture, np.broadcast_to(x, source.shape).copy(), source, cv2.INTER_LINEAR
            )

    def _mouth_grid(self) -> None:
        """What :meth:`_draw_mouth` needs and no expression changes."""
        half, centre = self._upper.half, self._upper.centre
        height, width = self.texture.shape[:2]
        self._x0, self._x1 = max(int(centre - 2.3 * half), 0), min(int(centre + 2.3 * half), width)
        self._y0, self._y1 = int(self._nose - 3 * _SCALE), min(int(self._chin + 26 * _SCALE), height)
        self._x = np.arange(self._x0, self._x1, dtype=np.float32)[None]
        self._y = np.arange(self._y0, self._y1, dtype=np.float32)[:, None]
        away = np.abs(self._x - centre) / half
        self._near = _ease(np.clip((2.2 - away) / 1.2, 0, 1))
        below = np.clip((self._y - self._chin - 2 * _SCALE) / (22 * _SCALE), 0, 1)
        self._jaw_share = (1 - _ease(below)) * _ease(np.clip((2.25 - away) / 0.9, 0, 1))
        level = (self._y - self._upper.corners) / (15 * _SCALE)
        self._narrow = _ease(np.clip((1.75 - away) / 0.85, 0, 1)) * np.exp(-(level**2))

    def _draw_mouth(self, image: Image, gap: float, jaw: float, width: float, smile: float) -> None:
        x, y, upper, lower = self._x, self._y, self._upper, self._lower
        half = upper.half * (0.86 + (0.1 if width > 0 else 0.13) * width + 0.08 * max(smile, 0.0))
        opening = 15.0 * _SCALE * max(gap, 0.0)
        drop = 10.0 * _SCALE * jaw
        source_x = x + (x - upper.centre) * (upper.half / half - 1) * self._narrow

        # Where the lips meet: the photograph smiles, so a face at rest has its corners lower and its seam flatter.
        s = np.clip((x - upper.centre) / half, -1, 1)
        bow = 1 - s * s
        lip = np.sqrt(bow)
        corners = upper.corners + _SCALE * (3.0 - 4.0 * smile) + 0.35 * drop
        seam = corners + upper.tilt * half * s + _SCALE * (1.6 + 2.2 * smile) * bow
        protrude = _SCALE * 0.8 * max(-width, 0.0)
        top = seam - (0.22 * opening + protrude) * bow - 0.25 * drop * bow
        bottom = np.maximum(seam + 0.78 * opening * (0.45 * bow + 0.55 * lip) + protrude * bow, top)
        if gap <= 0:
            top = bottom = seam + 0.1 * drop

        raised = top - upper(source_x)
        span = np.maximum(top - self._y0, 1.0)
        fade = _ease(np.clip(1.25 * (1 - (top - y) / span), 0, 1))
        above = y - raised * self._near * fade
        lowered = (bottom - lower(source_x)) * self._near
        dropped = drop * self._jaw_share
        fade = _ease(np.clip(1.3 * (1 - (y - bottom) / (22 * _SCALE)), 0, 1))  # from the lip down to the chin
        under = y - dropped - (lowered - dropped) * fade
        source_y = np.where(y < (top + bottom) / 2, above, under)
        region = (slice(self._y0, self._y1), slice(self._x0, self._x1))
        skin = np.asarray(cv2.remap(self.texture, floats(source_x), floats(source_y), cv2.INTER_LINEAR), np.uint8)
        if opening > 0.3:
            self._fill(skin, source_x, top, bottom, drop, opening)
        image[region] = skin

    def _fill(self, skin: Image, source_x: Floats, top: Floats, bottom: Floats, drop: float, opening: float) -> None:
        """Show what is between the lips: the upper teeth stay with the skull, the tongue goes with the jaw."""
        rows = slice(max(int(top.min()) - self._y0 - 1, 0), min(int(bottom.max()) - self._y0 + 2, len(self._y)))
        cols = slice(int(0.2 * len(self._x[0])), int(0.8 * len(self._x[0])))
        x, y = source_x[rows, cols], self._y[rows]
        top, bottom = top[:, cols], bottom[:, cols]
        inside = np.clip(y - top + 0.5, 0, 1) * np.clip(bottom - y + 0.5, 0, 1) * np.clip(bottom - top, 0, 1)
        depth = np.clip((y - top) / np.maximum(bottom - top, 1.0), 0, 1)
        cavity = floats([58, 22, 22]) * (0.55 + 0.6 * depth[..., None])
        s = (self._x[:, cols] - self._upper.centre) / self._upper.half
        tongue = np.clip((y - (bottom - 4.5 * _SCALE * (1 - 1.6 * s * s))) / (3 * _SCALE), 0, 1) * (
            opening > 4 * _SCALE
        )
        cavity += tongue[..., None] * floats([95, 42, 42])
        source_teeth = cv2.remap(
            self.texture, floats(x), np.broadcast_to(y, x.shape).astype(np.float32), cv2.INTER_LINEAR
        )
        teeth = np.clip(y - self._upper(x) - 0.8, 0, 1) * np.clip(self._lower(x) - 1.2 - y, 0, 1)
        shade = 0.55 + 0.4 * np.clip((y - top) / (4 * _SCALE), 0, 1)
        mouth = cavity + (source_teeth[..., :3] * shade[..., None] - cavity) * teeth[..., None]
        part = skin[rows, cols]
        part[..., :3] = part[..., :3] + (mouth - part[..., :3]) * inside[..., None]

    def body(self, height: int) -> tuple[Image, tuple[float, float]]:
        """Shoulders in a shirt.

        Args:
            height: How far they reach down, in texture pixels.

        Returns:
            An image as of :meth:`draw` and the place ``(x, y)`` of its upper left corner in the face's texture.
        """
        colour, other, period = self.look.shirt
        width = int(290 * _SCALE)
        middle, k = width / 2, _SCALE
        shoulder = 88.0 * k * self.look.widths[3]
        neck = floats([(-33, 6), (-26, 14), (-12, 21), (0, 23), (12, 21), (26, 14), (33, 6)]) * k
        outline = np.vstack(
            [
                neck,
                floats([(48 * k, 12 * k), (shoulder, 24 * k), (1.22 * shoulder, 44 * k), (1.3 * shoulder, height)]),
                floats([(-1.3 * shoulder, height), (-1.22 * shoulder, 44 * k), (-shoulder, 24 * k), (-48 * k, 12 * k)]),
            ]
        ) + floats([middle, 0])
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
        x = np.arange(width, dtype=np.float32)[None] - middle
        y = np.arange(height, dtype=np.float32)[:, None]
        waves = np.sin(2 * np.pi * (x + 0.2 * y) / (period * k)) if period else np.zeros_like(x + y)
        stripes = 0.25 + 0.25 * np.sign(waves)
        light = 1.05 - 0.35 * (x / (1.3 * shoulder)) ** 2 + 0.1 * np.sin(self.look.light[0]) * x / shoulder
        paint = floats(colour) + stripes[..., None] * (floats(other) - floats(colour))
        image = _premultiplied(paint * light[..., None], floats(mask) / 255)
        return image, (self._upper.centre - middle, self._chin - 9 * k)


def _four(values: NDArray[np.float64]) -> tuple[float, float, float, float]:
    a, b, c, d = values.tolist()
    return a, b, c, d


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    grey = rng.uniform(35, 200)
    r, g, b = (grey + rng.uniform(-32, 32, 3)).astype(int).tolist()
    return r, g, b


def _ease(t: Floats) -> Floats:
    """0 to 1 with flat ends."""
    eased: Floats = t * t * (3 - 2 * t)
    return eased


@cache
def _photograph() -> tuple[Floats, Floats]:
    """The photograph with its opacity ``(H, W, 4)``, and the places of skin, hair and beard ``(H, W, 3)``, in 0..1."""
    load: Callable[[], Image] = astronaut
    image = floats(load()) / 255
    size = image.shape[:2]
    opaque = np.clip(1.6 * _polygon(_OUTLINE, size, 1.5) - 0.6, 0, 1)  # inwards: no rim of the old background
    skin = _polygon(_SKIN, size, 2.0)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    jaw = ((x - 225) / 44) ** 2 + ((y - 128) / 54) ** 2
    lips = ((x - 224.5) / 24) ** 2 + ((y - 147) / 8.5) ** 2
    beard = np.clip((y - 124) / 24, 0, 1) * np.clip((1.15 - jaw) * 4, 0, 1) * np.clip((lips - 1) * 2, 0, 1)
    nose = np.clip(((x - 224.5) / 13) ** 2 + ((y - 124) / 10) ** 2 - 1, 0, 1)
    beard = cv2.GaussianBlur(floats(beard * nose), (0, 0), 2.0)
    return np.dstack([image, opaque]), np.dstack([skin, np.clip(opaque - skin, 0, 1), beard])


def _polygon(points: Sequence[tuple[float, float]], size: tuple[int, int], blur: float) -> Floats:
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(floats(points) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    soft: Floats = cv2.GaussianBlur(mask, (0, 0), blur).astype(np.float32) / 255
    return soft


def _warp(look: Look) -> tuple[Floats, Floats]:
    """For every pixel of the texture its place in the photograph."""
    width, height = (round(extent * _SCALE) for extent in _EXTENT)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x, y = _ORIGIN[0] + x / _SCALE, _ORIGIN[1] + y / _SCALE
    y = np.where(y > _NECK, _NECK + (y - _NECK) / _NECK_STRETCH, y)
    grid = [cv2.resize(channel, (width, height), interpolation=cv2.INTER_CUBIC) for channel in look.grid]
    border = np.minimum(np.minimum(x - x.min(), x.max() - x) / 20, 1) * np.minimum((y - y.min()) / 20, 1)
    wide = np.interp(y, (40, 100, 142, _CHIN), look.widths)
    wide = cv2.GaussianBlur(floats(wide), (0, 0), 12 * _SCALE)
    tall = np.where(y < _CENTRE[1], look.heights[0], look.heights[1])
    dx, dy = x - _CENTRE[0], y - _CENTRE[1]
    outside = _ease(np.clip(np.sqrt((dx / 52) ** 2 + (np.minimum(dy, 0) / 58) ** 2) * 1.6 - 1.3, 0, 1))
    shrink = 1 - look.volume * outside * (y < 150)
    return (
        floats(_CENTRE[0] + dx * shrink / wide + grid[0] * border),
        floats(_CENTRE[1] + dy * np.where(dy < 0, shrink, 1) / tall + grid[1] * border),
    )


def _forward(points: Floats, source_x: Floats, source_y: Floats) -> Floats:
    """Where points of the photograph are in the texture: the nearest pixel, to a fraction by its neighbours."""
    found = []
    for x, y in points:
        distance = (source_x - x) ** 2 + (source_y - y) ** 2
        row, col = divmod(int(distance.argmin()), distance.shape[1])
        row, col = min(max(row, 1), len(distance) - 2), min(max(col, 1), distance.shape[1] - 2)
        step_x = (source_x[row, col + 1] - source_x[row, col - 1]) / 2
        step_y = (source_y[row + 1, col] - source_y[row - 1, col]) / 2
        found.append((col + (x - source_x[row, col]) / step_x, row + (y - source_y[row, col]) / step_y))
    return floats(found)


def _coloured(look: Look, layers: Floats) -> Image:
    image, opaque, skin, hair, beard = layers[..., :3], layers[..., 3], layers[..., 4], layers[..., 5], layers[..., 6]
    tone, gamma, gain = look.skin
    tinted = np.clip(image, 0.002, 1) ** gamma * floats(_SKIN_TONES[tone]) * gain
    hair_tone, hair_gain = look.hair
    grey = image.mean(-1, keepdims=True) ** _HAIR_GAMMA[hair_tone]
    dyed = np.tanh(grey * floats(_HAIR_TONES[hair_tone]) * 1.7 * hair_gain)
    image = image + (tinted - image) * skin[..., None]
    image = image + (dyed - image) * hair[..., None]
    image = image * (1 - (beard * look.beard)[..., None] * (1 - 0.5 * floats(_HAIR_TONES[hair_tone])))
    y, x = np.mgrid[-1 : 1 : complex(0, len(image)), -1 : 1 : complex(0, image.shape[1])]
    angle, strength = look.light
    image = image * (1 + strength * (np.cos(angle) * x + 0.4 * np.sin(angle) * y))[..., None]
    return _premultiplied(image * 255, opaque)


def _premultiplied(colours: Floats, opaque: Floats) -> Image:
    return np.dstack([np.clip(colours, 0, 255) * opaque[..., None], opaque * 255]).round().astype(np.uint8)
