"""The script of a rendered corpus: who says what, with which emotion, in which shots. Nothing is drawn here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from merc.conversation import UtteranceKey
from merc.corpora.rendered.arrays import Floats, floats
from merc.corpora.rendered.config import RenderConfig, stream
from merc.corpora.rendered.faces import Face
from merc.corpora.rendered.scene import IDLES, Actor, Person, expression, manner, movement, posture
from merc.corpora.rendered.speech import Speech, speak
from merc.corpora.rendered.words import sentence
from merc.media.rates import FRAME_RATE

_IDLE_SHARES = (0.4, 0.2, 0.22, 0.18)
_SIZES = {1: (0.38, 0.5), 2: (0.32, 0.4), 3: (0.25, 0.31), 4: (0.21, 0.25)}  # of faces, by people in the shot


@dataclass(frozen=True, eq=False)
class Shot:
    """One view of some of the people.

    Args:
        first: Frame of the utterance at which the shot starts.
        people: Names of those in the frame.
        emotions: What each of them feels.
        actors: What each of them does, all for the frames of the shot.
        view: Middle ``(x, y)`` and width of what the camera sees of the room, as shares of its width and height.
    """

    first: int
    people: tuple[str, ...]
    emotions: tuple[str, ...]
    actors: tuple[Actor, ...]
    view: tuple[float, float, float]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.actors[0].pose)


@dataclass(frozen=True, eq=False)
class Take:
    """One utterance, ready to be drawn.

    Args:
        key: Which utterance.
        speaker: Name of who speaks.
        emotion: What the speaker feels.
        text: What the words are.
        speech: What the mouth says.
        shots: Its shots, one after another.
    """

    key: UtteranceKey
    speaker: str
    emotion: str
    text: str
    speech: Speech
    shots: tuple[Shot, ...]

    @property
    def frames(self) -> int:
        """Number of frames."""
        return sum(shot.frames for shot in self.shots)


@dataclass(frozen=True, eq=False)
class Track:
    """Where a face truly is: one person in one shot.

    Args:
        person: Name of the person.
        emotion: What the person feels.
        speaks: Whether it is the speaker of the utterance.
        first: First frame.
        boxes: ``(T, 4)`` as x1, y1, x2, y2 in pixels, inside the frame.
    """

    person: str
    emotion: str
    speaks: bool
    first: int
    boxes: Floats


def true_tracks(take: Take, width: int, height: int) -> list[Track]:
    """The true tracks of an utterance, shot by shot and in each from left to right."""
    limits = floats([width, height, width, height])
    return [
        Track(name, emotion, name == take.speaker, shot.first, np.clip(actor.boxes(), 0, limits))
        for shot in take.shots
        for name, emotion, actor in zip(shot.people, shot.emotions, shot.actors, strict=True)
    ]


@lru_cache(maxsize=64)
def _person(seed: int, split: str, number: int) -> tuple[Person, Face]:
    config = dataclasses.replace(RenderConfig(), seed=seed)
    person = Person.draw(f"{split}{number}", stream(config, "person", split, number))
    return person, Face(person.look)


def plan_dialogue(config: RenderConfig, split: str, number: int) -> list[Take]:
    """The utterances of a dialogue.

    Args:
        config: Parameters of the corpus.
        split: Which split.
        number: Which dialogue of it, from 0.
    """
    rng = stream(config, "dialogue", split, number)
    size = int(rng.integers(config.cast[0], config.cast[1] + 1))
    chosen = rng.choice(config.people[split], size=size, replace=False)
    cast = [_person(config.seed, split, int(person)) for person in chosen]
    names, prior = config.labels.names, config.prior
    moods = rng.choice(len(prior), size=size, p=prior)  # of everyone: who listens has feelings, too
    speaker, before = 0, 1 % size
    felt, takes = moods[speaker], []
    for turn in range(rng.integers(config.utterances[0], config.utterances[1] + 1)):
        if turn and rng.random() >= config.keep_turn and size > 1:
            others = [other for other in range(size) if other != speaker]
            following = before if before != speaker and rng.random() < 0.6 else int(rng.choice(others))
            speaker, before = following, speaker
            kept = config.other_speaker_stay
        else:
            kept = config.same_speaker_stay
        if turn:
            drawn = int(rng.choice(len(prior), p=prior))
            moods[speaker] = felt if rng.random() < kept else drawn
        felt = moods[speaker]
        for other in range(size):  # listeners are weakly moved by what they hear
            if other != speaker and (chance := rng.random()) < 0.5:
                moods[other] = felt if chance < 0.25 else rng.choice(len(prior), p=prior)
        key = UtteranceKey(split, str(number), str(turn))
        takes.append(_plan_take(config, key, cast, speaker, [names[mood] for mood in moods]))
    return takes


def _plan_take(
    config: RenderConfig, key: UtteranceKey, cast: Sequence[tuple[Person, Face]], speaker: int, moods: Sequence[str]
) -> Take:
    rng = stream(config, "take", *key)
    frames = round(float(rng.uniform(*config.seconds)) * FRAME_RATE)
    person, emotion = cast[speaker][0], moods[speaker]
    strength = config.expressiveness * person.temper * float(rng.uniform(0.55, 1.35))
    speech = speak(person.voice, manner(emotion, strength, rng), frames / FRAME_RATE, rng)
    cut = round(frames * float(rng.uniform(0.35, 0.65))) if rng.random() < config.cut else frames
    shots = [_plan_shot(config, 0, cut, cast, speaker, moods, speech, rng)]
    if cut < frames:
        shots.append(_plan_shot(config, cut, frames - cut, cast, speaker, moods, speech, rng))
    return Take(key, person.name, emotion, sentence(emotion, config.clear_text, rng), speech, tuple(shots))


def _plan_shot(
    config: RenderConfig,
    first: int,
    frames: int,
    cast: Sequence[tuple[Person, Face]],
    speaker: int,
    moods: Sequence[str],
    speech: Speech,
    rng: np.random.Generator,
) -> Shot:
    others = [other for other in range(len(cast)) if other != speaker]
    chance = rng.random()
    if others and rng.random() < config.unseen:
        seen = sorted(rng.choice(others, size=rng.integers(1, len(others) + 1), replace=False).tolist())
    elif chance < 0.55 or not others:
        seen = list(range(len(cast)))
    elif chance < 0.8:
        seen = sorted([speaker, int(rng.choice(others))])
    else:
        seen = [speaker]
    step = config.width / len(seen)
    size = min(config.height * float(rng.uniform(*_SIZES[len(seen)])), 0.74 * step)
    actors = []
    for place, index in enumerate(seen):
        person, face = cast[index]
        speaks = index == speaker
        mouth = speech if speaks else IDLES[rng.choice(len(IDLES), p=_IDLE_SHARES)]
        strength = config.expressiveness * person.temper * float(rng.uniform(0.55, 1.35))
        middle = ((place + 0.5) * step + rng.normal(0, 0.03) * step, config.height * float(rng.uniform(0.4, 0.47)))
        act = expression(person, moods[index], strength, frames, mouth, rng, start=first / FRAME_RATE)
        lively, bowed = posture(moods[index], strength)
        height = size * float(rng.uniform(0.92, 1.08))
        pose = movement(frames, middle, height, lively if speaks else 0.7 * lively, rng, bowed=bowed)
        actors.append(Actor(face, act, pose))
    zoom = float(rng.uniform(0.8, 1.0)) if len(seen) > 2 else float(rng.uniform(0.45, 0.75))
    view = (float(rng.uniform(zoom / 2, 1 - zoom / 2)), float(rng.uniform(zoom / 2, 1 - zoom / 2)), zoom)
    people = tuple(cast[index][0].name for index in seen)
    return Shot(first, people, tuple(moods[index] for index in seen), tuple(actors), view)
