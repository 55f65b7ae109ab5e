"""Who is in a picture and what they do: people, moods, movements, and frames drawn from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d

from merc.corpora.rendered.arrays import Floats, Image, floats
from merc.corpora.rendered.faces import Expression, Face, Look
from merc.corpora.rendered.speech import Manner, Speech, Voice
from merc.media.rates import FRAME_RATE

Idle = Literal["still", "smile", "chew", "part"]
IDLES: tuple[Idle, ...] = ("still", "smile", "chew", "part")
"""What the mouths of listeners do."""

_MANNERS: Mapping[str, Manner] = {
    "neutral": Manner(),
    "surprise": Manner(1.3, 1.9, 1.05, 2.5, 0.2, 0.2),
    "fear": Manner(1.25, 0.7, 1.25, -2.0, 0.1, 0.9),
    "sadness": Manner(0.88, 0.45, 0.78, -5.0, -0.7, 0.35),
    "joy": Manner(1.18, 1.5, 1.12, 2.0, 0.3, 0.1),
    "disgust": Manner(0.88, 0.9, 0.85, 0.0, 0.5, 0.6),
    "anger": Manner(1.1, 1.2, 1.18, 5.5, 1.0, 0.2),
}
_MOODS: Mapping[str, tuple[float, float, float, float]] = {  # smile, brow, frown, lid
    "neutral": (0.0, 0.0, 0.0, 0.05),
    "surprise": (0.1, 1.0, -0.1, -0.22),
    "fear": (-0.3, 0.6, -0.8, -0.2),
    "sadness": (-0.8, 0.0, -0.9, 0.3),
    "joy": (1.0, 0.25, -0.1, 0.18),
    "disgust": (-0.5, -0.5, 0.5, 0.3),
    "anger": (-0.6, -0.5, 1.0, 0.0),
}
_POSTURES: Mapping[str, tuple[float, float]] = {  # liveliness of the head, and how far it is bowed
    "neutral": (1.0, 0.0),
    "surprise": (1.3, -0.7),
    "fear": (1.1, -0.3),
    "sadness": (0.5, 0.9),
    "joy": (1.4, -0.2),
    "disgust": (0.8, -0.5),
    "anger": (1.5, 0.5),
}


@dataclass(frozen=True, eq=False)
class Person:
    """Someone with a face, a voice and a temper.

    Args:
        name: Unique in the corpus.
        look: What the face is like.
        voice: What the voice is like.
        temper: How much of an emotion face and voice show, about 1.
        rest: Smile, brow, frown and lid of the face at rest.
    """

    name: str
    look: Look
    voice: Voice
    temper: float
    rest: tuple[float, float, float, float]

    @classmethod
    def draw(cls, name: str, rng: np.random.Generator) -> Person:
        """A person by chance."""
        smile, brow, frown, lid = (rng.normal(size=4) * (0.25, 0.2, 0.2, 0.06)).tolist()
        return cls(name, Look.draw(rng), Voice.draw(rng), float(rng.uniform(0.55, 1.15)), (smile, brow, frown, lid))


def manner(emotion: str, strength: float, rng: np.random.Generator) -> Manner:
    """How someone speaks with an emotion: towards the usual manner, with the accidents of the moment."""
    mixed = Manner().towards(_MANNERS[emotion], strength)
    pitch, melody, rate, loudness = (rng.normal(size=4) * (0.07, 0.2, 0.08, 1.5)).tolist()
    return Manner(
        mixed.pitch * float(np.exp(pitch)),
        mixed.melody * float(np.exp(melody)),
        mixed.rate * float(np.exp(rate)),
        mixed.loudness + loudness,
        mixed.tension,
        max(mixed.tremor, 0.0),
    )


def posture(emotion: str, strength: float) -> tuple[float, float]:
    """How lively a head is and how far it is bowed; see :func:`movement`."""
    lively, bowed = _POSTURES[emotion]
    return 1.0 + min(strength, 1.2) * (lively - 1.0), min(strength, 1.2) * bowed


def expression(
    person: Person,
    emotion: str,
    strength: float,
    frames: int,
    mouth: Speech | Idle,
    rng: np.random.Generator,
    *,
    start: float = 0.0,
) -> Expression:
    """What a face does in a shot.

    Args:
        person: Whose face it is.
        emotion: What it shows.
        strength: How clearly, about 0..1.
        frames: Frames of the shot.
        mouth: The speech, or what a silent mouth does.
        rng: Source of blinks and of all variation.
        start: Second of the speech at which the shot starts.
    """
    times = floats(start + np.arange(frames) / FRAME_RATE)
    smile, brow, frown, lid = (
        rest + strength * mood + 0.08 * wander(frames, 0.4, rng)
        for rest, mood in zip(person.rest, _MOODS[emotion], strict=True)
    )
    if isinstance(mouth, Speech):
        gap, jaw, width = mouth.mouth(times)
        gap = gap * (1 + 0.1 * wander(frames, 0.05, rng))
    else:
        gap, jaw, width, extra = _idle(mouth, frames, rng)
        smile = smile + extra
    return Expression(
        gap=floats(np.clip(gap, -0.2, 1.15)),
        jaw=floats(np.clip(jaw, 0, 1.1)),
        width=floats(np.clip(width, -1, 1)),
        smile=floats(np.clip(smile, -1, 1.1)),
        brow=floats(np.clip(brow, -1, 1)),
        frown=floats(np.clip(frown, -1, 1)),
        lid=floats(np.clip(np.maximum(lid, _blinks(frames, rng)), -0.25, 1)),
    )


def movement(
    frames: int,
    place: tuple[float, float],
    size: float,
    liveliness: float,
    rng: np.random.Generator,
    *,
    bowed: float = 0.0,
) -> Floats:
    """How a head moves: ``(T, 6)`` of x, y, height of the face in pixels, roll in radians, yaw and pitch (about -1..1).

    Args:
        frames: Number of frames.
        place: Where the middle of the face is on average, in pixels.
        size: Height of the face in pixels.
        liveliness: Factor of all movements.
        rng: Source of the movements.
        bowed: Mean of the pitch, -1 thrown back .. 1 bowed.
    """
    slow = [wander(frames, 0.7, rng) for _ in range(6)]
    quick = [wander(frames, 0.16, rng) for _ in range(6)]
    nod = np.zeros(frames)
    if rng.random() < 0.25:
        middle, phase = rng.uniform(0, frames), rng.uniform(0, 2 * np.pi)
        t = np.arange(frames)
        nod = np.exp(-(((t - middle) / 12) ** 2)) * np.sin(2 * np.pi * rng.uniform(1.5, 2.6) * t / FRAME_RATE + phase)
    k = liveliness
    return floats(
        np.stack(
            [
                place[0] + size * k * (0.045 * slow[0] + 0.012 * quick[0]),
                place[1] + size * k * (0.03 * slow[1] + 0.01 * quick[1] + 0.03 * nod),
                size * (1 + k * 0.02 * slow[2]),
                rng.normal(0, 0.04) + k * (0.045 * slow[3] + 0.012 * quick[3]),
                rng.normal(0, 0.2) + k * (0.35 * slow[4] + 0.1 * quick[4]),
                bowed + k * (0.2 * slow[5] + 0.08 * quick[5] + 0.3 * nod),
            ],
            axis=1,
        )
    )


def wander(frames: int, seconds: float, rng: np.random.Generator) -> Floats:
    """Smooth noise ``(T,)`` of variance 1 that changes within about ``seconds``."""
    sigma = seconds * FRAME_RATE / 2
    pad = int(4 * sigma) + 1
    noise = gaussian_filter1d(rng.normal(size=frames + 2 * pad), sigma)[pad : pad + frames]
    scaled: Floats = noise * math.sqrt(2 * math.sqrt(math.pi) * max(sigma, 0.3))
    return scaled


def _blinks(frames: int, rng: np.random.Generator) -> Floats:
    lid = np.full(frames, -1.0)
    t = np.arange(frames)
    for middle in np.flatnonzero(rng.random(frames + 8) < 0.35 / FRAME_RATE) - 4:
        lid = np.maximum(lid, 1.4 - np.abs(t - middle) / 2.2)
    return floats(np.minimum(lid, 1.0))


def _idle(kind: Idle, frames: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats, Floats]:
    """Gap, jaw, width and additional smile of a silent mouth."""
    t = np.arange(frames) / FRAME_RATE
    closed = -0.05 + 0.02 * wander(frames, 0.5, rng)
    gap, jaw, width, smile = closed, np.zeros(frames), 0.06 * wander(frames, 0.5, rng), np.zeros(frames)
    if kind == "smile":
        onset = 1 / (1 + np.exp(-(t - rng.uniform(-0.5, t[-1])) / 0.12))
        smile = rng.uniform(0.5, 1.0) * onset
        if rng.random() < 0.4:
            gap = gap + rng.uniform(0.1, 0.3) * onset
    elif kind == "chew":
        turns = np.cumsum(rng.uniform(1.2, 2.2) * (1 + 0.25 * wander(frames, 0.5, rng))) / FRAME_RATE + rng.random()
        chewing = np.maximum(np.sin(2 * np.pi * turns), 0)
        jaw = rng.uniform(0.35, 0.75) * chewing
        width = width + 0.2 * np.cos(2 * np.pi * turns)
        gap = gap + rng.uniform(-0.05, 0.25) * chewing
    elif kind == "part":
        middle, spread = rng.uniform(0, t[-1] + 0.1), rng.uniform(0.15, 0.5)
        opened = np.exp(-(((t - middle) / spread) ** 2))
        gap, jaw = gap + rng.uniform(0.15, 0.6) * opened, rng.uniform(0.1, 0.5) * opened
    return floats(gap), floats(jaw), floats(width), floats(smile)


@dataclass(frozen=True, eq=False)
class Actor:
    """A person in a shot.

    Args:
        face: The face.
        expression: What it does, T frames.
        pose: How the head moves, ``(T, 6)``; see :func:`movement`.
    """

    face: Face
    expression: Expression
    pose: Floats

    def transforms(self) -> Floats:
        """For every frame the homography ``(T, 3, 3)`` from the face's texture to the picture."""
        x, y, size, roll, yaw, pitch = self.pose.astype(np.float64).T
        centre_x, centre_y = self.face.centre
        scale = size / self.face.size
        cos, sin = scale * np.cos(roll), scale * np.sin(roll)
        zero, one = np.zeros_like(x), np.ones_like(x)
        middle = np.array([[1, 0, -centre_x], [0, 1, -centre_y], [0, 0, 1.0]])
        # A head that turns: nearer parts grow, and all is foreshortened a little.
        turn = np.stack(
            [
                *(1 - 0.05 * np.abs(yaw), zero, zero),
                *(zero, 1 - 0.04 * np.abs(pitch), zero),
                *(0.00055 * yaw, 0.0004 * pitch, one),
            ],
            axis=1,
        ).reshape(-1, 3, 3)
        place = np.stack([cos, -sin, x, sin, cos, y, zero, zero, one], axis=1).reshape(-1, 3, 3)
        whole: Floats = place @ turn @ middle
        return whole

    def boxes(self) -> Floats:
        """The box of the face in every frame, ``(T, 4)`` as x1, y1, x2, y2 in pixels of the picture."""
        x1, y1, x2, y2 = self.face.box.tolist()
        corners = np.array([[x1, x2, x1, x2], [y1, y1, y2, y2], [1, 1, 1, 1]])
        moved = self.transforms() @ corners
        points = moved[:, :2] / moved[:, 2:]
        return floats(np.concatenate([points.min(axis=2), points.max(axis=2)], axis=1))


def draw_shot(background: Image, actors: Sequence[Actor], rng: np.random.Generator) -> Iterator[Image]:
    """Draw the frames of a shot, ``(H, W, 3)`` RGB each.

    Args:
        background: ``(H, W, 3)``, what is behind the people.
        actors: People, those behind first; all of one length.
        rng: Source of the camera's noise.
    """
    transforms = [actor.transforms() for actor in actors]
    bodies = [_Shoulders(actor, background.shape[0]) for actor in actors]
    height, width = background.shape[:2]
    grain = rng.normal(0, rng.uniform(1.0, 3.5), (height + 32, width + 32, 1)).round().astype(np.int16).repeat(3, 2)
    for frame in range(len(actors[0].pose)):
        picture = background.copy()
        for actor, transform, body in zip(actors, transforms, bodies, strict=True):
            paste(picture, actor.face.draw(actor.expression.at(frame)), transform[frame])
            body.draw(picture, frame)
        row, col = rng.integers(0, 32, 2)
        noisy = cv2.add(picture, grain[row : row + height, col : col + width], dtype=cv2.CV_8U)
        yield np.asarray(noisy, np.uint8)


class _Shoulders:
    """The body below a head: it follows half of what the head does."""

    def __init__(self, actor: Actor, height: int) -> None:
        x, y, size = (actor.pose[:, i] for i in range(3))
        scale = float(size.mean()) / actor.face.size
        self._image, corner = actor.face.body(int(height / scale))
        centre = actor.face.centre
        steady = np.stack([x.mean() + 0.5 * (x - x.mean()), y.mean() + 0.4 * (y - y.mean())], axis=1)
        self._places = steady + scale * (np.subtract(corner, centre))
        self._scale = scale

    def draw(self, picture: Image, frame: int) -> None:
        x, y = self._places[frame]
        paste(picture, self._image, np.array([[self._scale, 0, x], [0, self._scale, y], [0, 0, 1]]))


def paste(picture: Image, layer: Image, transform: Floats) -> None:
    """Lay an RGBA image (colours times opacity) over a picture, in place, where a homography puts it."""
    height, width = layer.shape[:2]
    corners = transform @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1.0]])
    points = corners[:2] / corners[2]
    x0, y0 = np.maximum(np.floor(points.min(axis=1)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(points.max(axis=1)), (picture.shape[1], picture.shape[0])).astype(int)
    if x0 >= x1 or y0 >= y1:
        return
    shift = np.array([[1, 0, -x0], [0, 1, -y0], [0, 0, 1.0]])
    moved = cv2.warpPerspective(layer, shift @ transform, (int(x1 - x0), int(y1 - y0)), flags=cv2.INTER_LINEAR)
    part = picture[y0:y1, x0:x1]
    through = cv2.cvtColor(cv2.bitwise_not(moved[..., 3]), cv2.COLOR_GRAY2RGB)
    behind = cv2.multiply(part, through, scale=1 / 255)
    part[:] = cv2.add(behind, cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB))


def room(width: int, height: int, rng: np.random.Generator) -> Image:
    """A wall with light and a few things on it, out of focus: ``(H, W, 3)``."""
    wall = rng.uniform(60, 210) + rng.uniform(-35, 35, 3)
    shade = cv2.resize(floats(rng.normal(0, 14, (3, 4, 1))), (width, height), interpolation=cv2.INTER_CUBIC)
    picture = floats(wall) + shade[..., None]
    for _ in range(rng.integers(2, 9)):
        x, y = int(rng.uniform(-0.1, 1) * width), int(rng.uniform(-0.1, 0.9) * height)
        w, h = int(rng.uniform(0.04, 0.35) * width), int(rng.uniform(0.06, 0.5) * height)
        colour = np.clip(wall + rng.normal(0, 40) + rng.normal(0, 22, 3), 5, 250).tolist()
        cv2.rectangle(picture, (x, y), (x + w, y + h), colour, -1)
        if rng.random() < 0.5:
            inner = np.clip(wall + rng.normal(0, 45) + rng.normal(0, 22, 3), 5, 250).tolist()
            cv2.rectangle(picture, (x + w // 6, y + h // 6), (x + w - w // 6, y + h - h // 6), inner, -1)
    blurred = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(1, 6)))
    return np.asarray(np.clip(blurred, 0, 255), np.uint8)
