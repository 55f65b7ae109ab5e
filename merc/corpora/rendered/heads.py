"""Single heads straight into memory: training material for whoever has to see whose lips fit a sound."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from merc.corpora.rendered.config import RenderConfig, stream
from merc.corpora.rendered.faces import Face
from merc.corpora.rendered.scene import IDLES, Actor, Person, draw_shot, expression, manner, movement, room
from merc.corpora.rendered.speech import in_room, speak, utter
from merc.labels import MELD
from merc.media.rates import FRAME_RATE, SAMPLE_RATE


@dataclass(frozen=True, eq=False)
class Head:
    """One face, what it says, and where it is.

    Args:
        frames: ``(T, 3, H, W)`` uint8 RGB at 25 frames per second.
        sound: ``(S,)`` float32 at 16 kHz, as long as the frames; the noise of the room if the face is silent.
        boxes: ``(T, 4)`` float32, the face as x1, y1, x2, y2 in pixels.
        person: Who it is; equal names are equal faces and voices.
        mouth: ``talk``, or what the silent mouth does.
    """

    frames: Tensor
    sound: Tensor
    boxes: Tensor
    person: str
    mouth: str


def draw_head(number: int, seconds: float, seed: int, *, people: int | None, size: int, silent: bool) -> Head:
    """The clip of one head; see :func:`merc.corpora.rendered.talking_heads`.

    Args:
        number: Which clip.
        seconds: Duration.
        seed: Decides everything.
        people: How many different people take part; ``None`` for a new one in every clip.
        size: Width and height of a frame in pixels.
        silent: Whether the mouth does something else than talk.
    """
    cv2.setNumThreads(1)  # frames are small: threads would cost more than they save
    config = RenderConfig(seed=seed)
    name = f"head{number if people is None else number % people}"
    person = Person.draw(name, stream(config, "head", name))
    rng = stream(config, "silent head" if silent else "talking head", number)
    frames = round(seconds * FRAME_RATE)
    emotion = str(rng.choice(MELD.names, p=config.prior))
    strength = person.temper * float(rng.uniform(0, 1.1))
    speech = speak(person.voice, manner(emotion, strength, rng), frames / FRAME_RATE, rng)
    idle = IDLES[number % len(IDLES)]
    act = expression(person, emotion, strength, frames, idle if silent else speech, rng)
    place = (size * float(rng.uniform(0.45, 0.55)), size * float(rng.uniform(0.46, 0.54)))
    pose = movement(frames, place, size * float(rng.uniform(0.5, 0.66)), 1.0, rng)
    actor = Actor(Face(person.look), act, pose)
    drawn = np.stack(list(draw_shot(room(size, size, rng), [actor], rng)))
    samples = frames * SAMPLE_RATE // FRAME_RATE
    sound = in_room(np.zeros(samples, np.float32) if silent else utter(speech, samples, rng), rng)
    return Head(
        torch.from_numpy(drawn).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(sound),
        torch.from_numpy(actor.boxes()),
        f"{seed}/{name}",
        idle if silent else "talk",
    )
