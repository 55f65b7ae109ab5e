"""What a simulated corpus is made of: sizes, turn-taking, the emotion chain, emissions, label noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from merc.conversation import SPLITS
from merc.labels import MELD, LabelSet

MODALITIES = ("text", "audio", "visual")
"""The modalities that can be simulated, in the order in which subsets are written."""

# Counted over the three splits of MELD: utterances by emotion, dialogues of length 1, 2, ..., 33, and
# dialogues of 1, 2, ..., 9 speakers. MELD's monologues are nearly all of one utterance, which have one
# speaker whatever the cast, so the cast starts at two.
_MELD_EMOTIONS = (6436, 1636, 358, 1002, 2308, 361, 1607)
_MELD_LENGTHS = (
    *(88, 81, 78, 69, 101, 90, 89, 90, 77, 82, 79, 79, 54, 57, 55, 60, 47, 32, 38, 27, 23, 18, 12, 5),
    *(0, 0, 0, 0, 0, 0, 0, 0, 1),
)
_MELD_CASTS = (0, 643, 367, 171, 79, 33, 12, 3, 1)


@dataclass(frozen=True)
class SimulationConfig:
    """Parameters of a simulated corpus; the defaults are calibrated to MELD (see ``docs/simulated.md``).

    Args:
        dialogues: Dialogues by split, at least one split, each at least 1.
        emotions: Emotions and their relative frequencies (positive; any scale), at least two. They are
            the stationary distribution of the chain and the marginal of the labels.
        widths: Width of the features by modality; its keys say which modalities there are.
        latent_dims: Dimensions of the subspace that carries the emotion, ``1..width``, by modality. The centres
            of the emotions are the corners of a regular simplex, which needs C - 1 dimensions; if there are
            fewer, they are a random projection of it, and the optimum varies more from seed to seed.
        separations: Distance between the centres of two emotions in standard deviations of the noise, at
            reliability 1 and as the root mean square over pairs, by modality.
        saliences: How well a modality shows an emotion, at least 0, by modality and emotion: relative distance
            of its centre from the middle of the simplex. What is not given is 1. Modalities that show different
            emotions complement one another.
        reliability_levels: Factors, at least 0, by which the centres are scaled towards 0; which one
            holds for an utterance is hidden.
        reliability_weights: Relative frequencies of the levels, by modality.
        absences: Probability that an utterance lacks the modality, ``0..1``.
        complement_noise: Standard deviation of the noise in the ``width - latent_dim`` dimensions that
            carry nothing; it changes how hard a model learns, not the optimum.
        same_speaker_stay: Probability that the emotion of the previous utterance is kept if the same
            speaker goes on, ``0..1``; else it is drawn anew from ``emotions``.
        other_speaker_stay: The same if another speaker takes the turn.
        label_noise: Probability that the annotated label is drawn from ``emotions`` instead of being the
            true emotion, ``0..1``: an ambiguity that all modalities share and that no model can lift.
        keep_turn: Probability that a speaker goes on speaking.
        reply: If the turn changes, probability that it goes back to whoever spoke before; else to anyone
            else of the cast.
        length_counts: Relative frequencies of dialogues of 1, 2, 3, ... utterances.
        cast_counts: Relative frequencies of dialogues of 1, 2, 3, ... speakers.
        face_counts: Relative frequencies of pictures with 1, 2, 3, ... faces; no picture has more than its dialogue
            has speakers. They decide the features ``visual_first_face`` alone.
        values: Numbers beside the emotions, such as valence: by dimension and emotion, the middle of the numbers that
            utterances of this true emotion have; 0 for an emotion that is not given. Default: none.
        value_noise: Numbers are spread evenly by as much on either side of the middle, at least 0.
        seed: Non-negative seed. Every split and every purpose has its own stream of random numbers, so that
            changing a parameter or the size of one split leaves all other draws as they are.

    Raises:
        ValueError: A parameter is out of its range, or a modality lacks one.
    """

    dialogues: Mapping[str, int] = field(default_factory=lambda: {"train": 1000, "val": 200, "test": 1000})
    emotions: Mapping[str, float] = field(default_factory=lambda: dict(zip(MELD.names, _MELD_EMOTIONS, strict=True)))
    widths: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 128))
    latent_dims: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 8))
    separations: Mapping[str, float] = field(default_factory=lambda: {"text": 3.2, "audio": 2.0, "visual": 0.9})
    saliences: Mapping[str, Mapping[str, float]] = field(
        default_factory=lambda: {
            "text": {"neutral": 0.7, "surprise": 1.5, "joy": 1.5, "sadness": 0.6, "anger": 0.5},
            "audio": {"neutral": 0.7, "surprise": 0.5, "joy": 0.5, "sadness": 1.5, "anger": 1.8},
            "visual": {"neutral": 1.5, "sadness": 0.5, "anger": 0.5},
        }
    )
    reliability_levels: Sequence[float] = (1.0, 0.5, 0.1)
    reliability_weights: Mapping[str, Sequence[float]] = field(
        default_factory=lambda: {"text": (0.7, 0.2, 0.1), "audio": (0.5, 0.3, 0.2), "visual": (0.4, 0.3, 0.3)}
    )
    absences: Mapping[str, float] = field(default_factory=lambda: {"text": 0.02, "audio": 0.05, "visual": 0.15})
    complement_noise: float = 1.0
    same_speaker_stay: float = 0.6
    other_speaker_stay: float = 0.25
    label_noise: float = 0.15
    keep_turn: float = 0.23
    reply: float = 0.5
    length_counts: Sequence[float] = _MELD_LENGTHS
    cast_counts: Sequence[float] = _MELD_CASTS
    face_counts: Sequence[float] = (1, 1, 1)
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    value_noise: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every parameter, so that a bad one is named before anything is drawn."""
        if not self.dialogues or not set(self.dialogues) <= set(SPLITS):
            raise ValueError(f"dialogues has the splits {list(self.dialogues)}: expected some of {', '.join(SPLITS)}.")
        for split, number in self.dialogues.items():
            _whole(f"dialogues[{split!r}]", number, 1)
        if len(self.emotions) < 2 or not all(math.isfinite(f) and f > 0 for f in self.emotions.values()):
            raise ValueError(f"emotions is {dict(self.emotions)}: expected at least two, with positive frequencies.")
        if not self.widths or not set(self.widths) <= set(MODALITIES):
            raise ValueError(f"widths has the keys {list(self.widths)}: expected some of {', '.join(MODALITIES)}.")
        for name in ("latent_dims", "separations", "reliability_weights", "absences"):
            given = getattr(self, name)
            if lacking := [m for m in self.widths if m not in given]:
                raise ValueError(f"{name} lacks {', '.join(lacking)}: give a value for every modality of widths.")
            if unknown := [m for m in given if m not in MODALITIES]:
                raise ValueError(f"{name} has {', '.join(unknown)}: expected some of {', '.join(MODALITIES)}.")
        if unknown := [m for m in self.saliences if m not in MODALITIES]:
            raise ValueError(f"saliences has {', '.join(unknown)}: expected some of {', '.join(MODALITIES)}.")
        for modality, saliences in self.saliences.items():
            # The defaults name MELD's emotions, and must not be in the way of other ones.
            if unknown := [e for e in saliences if e not in self.emotions and e not in MELD.names]:
                raise ValueError(
                    f"saliences[{modality!r}] has {', '.join(unknown)}: expected some of {', '.join(self.emotions)}."
                )
            for emotion, value in saliences.items():
                _within(f"saliences[{modality!r}][{emotion!r}]", value, math.inf)
        if not self.reliability_levels:
            raise ValueError("reliability_levels is empty: expected at least one level.")
        for level in self.reliability_levels:
            _within("A level of reliability_levels", level, math.inf)
        for modality, width in self.widths.items():
            where = f"[{modality!r}]"
            _whole(f"widths{where}", width, 1)
            _whole(f"latent_dims{where}", self.latent_dims[modality], 1)
            if self.latent_dims[modality] > width:
                raise ValueError(
                    f"latent_dims{where} is {self.latent_dims[modality]}, wider than widths{where}, {width}: "
                    "lower the one or raise the other."
                )
            _within(f"separations{where}", self.separations[modality], math.inf)
            _within(f"absences{where}", self.absences[modality], 1.0)
            weights = self.reliability_weights[modality]
            _frequencies(f"reliability_weights{where}", weights)
            if len(weights) != len(self.reliability_levels):
                raise ValueError(
                    f"reliability_weights{where} has {len(weights)} values for the {len(self.reliability_levels)} "
                    "reliability_levels: give one a level."
                )
        for name in ("same_speaker_stay", "other_speaker_stay", "label_noise", "keep_turn", "reply"):
            _within(name, getattr(self, name), 1.0)
        _within("complement_noise", self.complement_noise, math.inf)
        _within("value_noise", self.value_noise, math.inf)
        for dimension, middles in self.values.items():
            if unknown := [e for e in middles if e not in self.emotions]:
                raise ValueError(
                    f"values[{dimension!r}] has {', '.join(unknown)}: expected some of {', '.join(self.emotions)}."
                )
        _frequencies("length_counts", self.length_counts)
        _frequencies("cast_counts", self.cast_counts)
        _frequencies("face_counts", self.face_counts)
        _whole("seed", self.seed, 0)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities of the corpus, in the order text, audio, visual."""
        return tuple(m for m in MODALITIES if m in self.widths)

    @property
    def labels(self) -> LabelSet:
        """The label set: MELD's if the emotions are MELD's."""
        names = tuple(self.emotions)
        return MELD if names == MELD.names else LabelSet("simulated", names)

    @property
    def middles(self) -> NDArray[np.float64]:
        """Middle of the numbers of every emotion, ``(C, D)``."""
        rows = [[middles.get(emotion, 0.0) for middles in self.values.values()] for emotion in self.emotions]
        return np.array(rows, dtype=np.float64).reshape(len(self.emotions), len(self.values))

    @property
    def dimensions(self) -> dict[str, tuple[float, float]]:
        """The scale of every dimension: the numbers that occur, from one whole number to another."""
        low, high = self.middles.min(0) - self.value_noise, self.middles.max(0) + self.value_noise
        return {
            name: (math.floor(low[column]), max(math.ceil(high[column]), math.floor(low[column]) + 1))
            for column, name in enumerate(self.values)
        }

    @property
    def prior(self) -> NDArray[np.float64]:
        """Probability of every emotion ``(C,)``: pi."""
        return normalised(self.emotions.values())

    def transition(self, *, same_speaker: bool) -> NDArray[np.float64]:
        """P(e_i | e_{i-1}) as ``(C, C)``, rows summing to 1: s I + (1 - s) 1 pi^T, which keeps pi.

        Args:
            same_speaker: Whether utterances i - 1 and i have the same speaker.
        """
        return self._stay_or_redraw(self.same_speaker_stay if same_speaker else self.other_speaker_stay)

    @property
    def confusion(self) -> NDArray[np.float64]:
        """P(label | true emotion) as ``(C, C)``, rows summing to 1: (1 - n) I + n 1 pi^T."""
        return self._stay_or_redraw(1.0 - self.label_noise)

    def _stay_or_redraw(self, stay: float) -> NDArray[np.float64]:
        identity: NDArray[np.float64] = np.eye(len(self.emotions))
        return stay * identity + (1.0 - stay) * self.prior


def normalised(frequencies: Iterable[float]) -> NDArray[np.float64]:
    """Relative frequencies as probabilities."""
    values = np.array(list(frequencies), dtype=np.float64)
    probabilities: NDArray[np.float64] = values / values.sum()
    return probabilities


def _whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} is {value!r}: expected a whole number of at least {least}.")


def _within(name: str, value: float, most: float) -> None:
    if not (math.isfinite(value) and 0.0 <= value <= most):
        raise ValueError(f"{name} is {value!r}: expected a number from 0 to {most}.")


def _frequencies(name: str, values: Sequence[float]) -> None:
    if not len(values) or not all(math.isfinite(v) and v >= 0 for v in values) or not sum(values):
        raise ValueError(f"{name} is {tuple(values)}: expected non-negative numbers, not all 0.")
