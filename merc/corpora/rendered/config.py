"""What a rendered corpus is made of: sizes, frames, casts, the emotion chain."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from merc.conversation import SPLITS
from merc.labels import MELD, LabelSet

# Like MELD's, with rare emotions a little less rare, as there are few dialogues.
_FREQUENCIES = (0.40, 0.13, 0.05, 0.09, 0.17, 0.05, 0.11)


@dataclass(frozen=True)
class RenderConfig:
    """Parameters of a rendered corpus.

    Args:
        dialogues: Dialogues by split, each at least 1.
        people: People by split, each at least the largest cast; nobody is in two splits.
        utterances: Fewest and most utterances of a dialogue.
        seconds: Shortest and longest duration of an utterance.
        cast: Fewest and most people of a dialogue, ``1..4``.
        width: Width of a frame in pixels, even.
        height: Height of a frame in pixels, even.
        emotions: Emotions of MELD and their relative frequencies (positive; any scale).
        same_speaker_stay: Probability that the emotion of the previous utterance is kept if the same speaker goes
            on, ``0..1``; else it is drawn again.
        other_speaker_stay: The same if another speaker takes the turn.
        keep_turn: Probability that a speaker goes on speaking, ``0..1``.
        cut: Probability that an utterance has a cut between two shots, ``0..1``.
        unseen: Probability that a shot does not show its speaker, ``0..1``.
        clear_text: Probability that the words of an utterance say its emotion, ``0..1``; else they are neutral,
            fit two emotions, or mean the opposite.
        expressiveness: Factor of what faces and voices show of the emotion, at least 0.
        seed: Non-negative seed. Every dialogue, person and purpose has its own stream of random numbers.

    Raises:
        ValueError: A parameter is out of its range.
    """

    dialogues: Mapping[str, int] = field(default_factory=lambda: {"train": 64, "val": 16, "test": 26})
    people: Mapping[str, int] = field(default_factory=lambda: {"train": 24, "val": 8, "test": 10})
    utterances: tuple[int, int] = (4, 6)
    seconds: tuple[float, float] = (1.2, 2.5)
    cast: tuple[int, int] = (2, 4)
    width: int = 384
    height: int = 288
    emotions: Mapping[str, float] = field(default_factory=lambda: dict(zip(MELD.names, _FREQUENCIES, strict=True)))
    same_speaker_stay: float = 0.6
    other_speaker_stay: float = 0.35
    keep_turn: float = 0.25
    cut: float = 0.35
    unseen: float = 0.08
    clear_text: float = 0.5
    expressiveness: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every parameter here, so that no worker fails over one later."""
        for split, number in self.dialogues.items():
            if split not in SPLITS or number < 1:
                raise ValueError(f"dialogues: {split!r} has {number}: expected at least 1 in train, val or test.")
            if self.people.get(split, 0) < self.cast[1]:
                raise ValueError(
                    f"people: {split!r} has {self.people.get(split, 0)}: expected at least the largest cast, "
                    f"{self.cast[1]}."
                )
        if not self.dialogues:
            raise ValueError("dialogues is empty: expected at least one split.")
        for name, lowest, highest in (("utterances", 1, 1000), ("seconds", 0.5, 60), ("cast", 1, 4)):
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"{name} is {low}..{high}: expected {lowest} <= fewest <= most <= {highest}.")
        for name, smallest in (("width", 96), ("height", 96)):
            if getattr(self, name) < smallest or getattr(self, name) % 2:
                raise ValueError(f"{name} is {getattr(self, name)}: expected an even number, at least {smallest}.")
        for name in ("same_speaker_stay", "other_speaker_stay", "keep_turn", "cut", "unseen", "clear_text"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected a probability, 0..1.")
        if not self.emotions or any(name not in MELD.names or not p > 0 for name, p in self.emotions.items()):
            raise ValueError(
                f"emotions is {dict(self.emotions)}: expected positive frequencies of {', '.join(MELD.names)}."
            )
        if self.expressiveness < 0 or self.seed < 0:
            raise ValueError("expressiveness and seed cannot be negative.")

    @property
    def labels(self) -> LabelSet:
        """The label set: MELD's."""
        return MELD

    @property
    def prior(self) -> NDArray[np.float64]:
        """The distribution of the emotions, in the order of :attr:`labels`."""
        frequencies = np.array([self.emotions.get(name, 0.0) for name in MELD.names])
        return np.asarray(frequencies / frequencies.sum())


def stream(config: RenderConfig, purpose: str, *where: str | int) -> np.random.Generator:
    """The random numbers of one purpose at one place, independent of all others."""
    words = [zlib.crc32(str(word).encode()) for word in (purpose, *where)]
    return np.random.default_rng([config.seed, *words])
