"""Drawing a simulated split: turns, emotions, labels and features, each from its own stream."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from merc.corpora.simulated.config import SimulationConfig, normalised

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Emission:
    """How one modality shows an emotion: x = W (r mu_e + eps) + c (I - W W^T) eta, with eps, eta ~ N(0, I).

    W has orthonormal columns, so the part of x outside its span is noise that does not depend on the emotion
    e, and the likelihood of x is that of the projection W^T x ~ N(r mu_e, I), up to a factor that is the same
    for every emotion. The reliability r is hidden, so the likelihood is a mixture over its levels.

    Args:
        map: W, ``(width, latent_dim)`` float64, orthonormal columns.
        centres: mu, ``(C, latent_dim)``: centre of every emotion at reliability 1.
        levels: Values ``(K,)`` that r can take.
        weights: Their probabilities ``(K,)``.
        complement_noise: c.
    """

    map: Floats
    centres: Floats
    levels: Floats
    weights: Floats
    complement_noise: float

    @classmethod
    def draw(cls, config: SimulationConfig, modality: str) -> Emission:
        """The emission that a config's seed gives a modality."""
        rng = stream(config, "map", modality)
        classes, latent = len(config.emotions), config.latent_dims[modality]
        # The corners of a regular simplex, turned at random, so that no seed has an easier geometry than another.
        corners = np.linalg.svd(np.eye(classes) - 1.0 / classes)[0][:, : classes - 1]
        salience = config.saliences.get(modality, {})
        corners *= np.array([[salience.get(emotion, 1.0)] for emotion in config.emotions])
        size = max(classes - 1, latent)
        centres = corners @ np.linalg.qr(rng.standard_normal((size, size)))[0][: classes - 1, :latent]
        pairs = centres[:, None] - centres[None]
        spread = np.sqrt((pairs**2).sum() / (classes * (classes - 1))) or 1.0
        return cls(
            map=np.linalg.qr(rng.standard_normal((config.widths[modality], latent)))[0],
            centres=centres * (config.separations[modality] / spread),
            levels=np.array(config.reliability_levels, dtype=np.float64),
            weights=normalised(config.reliability_weights[modality]),
            complement_noise=config.complement_noise,
        )

    def sample(self, emotion: Ints, reliability: Floats, rng: np.random.Generator) -> Tensor:
        """Features ``(N, width)`` float32 of utterances with true emotions and reliabilities ``(N,)``."""
        latent = rng.standard_normal((len(emotion), self.map.shape[1])) + reliability[:, None] * self.centres[emotion]
        outside = rng.standard_normal((len(emotion), self.map.shape[0]))
        outside -= (outside @ self.map) @ self.map.T
        return torch.from_numpy((latent @ self.map.T + self.complement_noise * outside).astype(np.float32))

    def log_likelihood(self, features: Tensor) -> Tensor:
        """Log p(x | e) of features ``(N, width)`` as ``(N, C)`` float64, up to a constant for each utterance."""
        latent = features.double() @ torch.from_numpy(self.map)
        centres, levels = torch.from_numpy(self.centres), torch.from_numpy(self.levels)
        # -1/2 |z - r mu|^2 without its part -1/2 |z|^2, which is the same for every emotion and level.
        exponent = levels[:, None] * (latent @ centres.T)[:, None] - 0.5 * levels[:, None] ** 2 * (centres**2).sum(1)
        return torch.logsumexp(exponent + torch.from_numpy(self.weights).log()[:, None], dim=1)


@dataclass(frozen=True, eq=False)
class SimulatedSplit:
    """One split with everything that was drawn for it, hidden variables included; N utterances, B dialogues.

    Args:
        ptr: ``(B + 1,)``: dialogue b has the utterances ``ptr[b]..ptr[b + 1]``.
        speaker: ``(N,)`` number of the speaker in its dialogue.
        emotion: ``(N,)`` true emotion, hidden from models.
        label: ``(N,)`` annotated emotion: what models learn and are scored on.
        reliability: ``(N,)`` by modality, hidden.
        features: ``(N, width)`` float32 by modality, drawn for absent utterances too.
        present: ``(N,)`` bool by modality.
        values: ``(N, D)`` float64, numbers that the true emotion decides up to their noise.
        log_likelihood: ``(N, C)`` float64 by modality: log p(x | emotion) up to a constant for each utterance,
            0 where the modality is absent.
    """

    ptr: Tensor
    speaker: Tensor
    emotion: Tensor
    label: Tensor
    reliability: Mapping[str, Tensor]
    features: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    values: Tensor
    log_likelihood: Mapping[str, Tensor]

    def __len__(self) -> int:
        """Number of utterances N."""
        return len(self.label)


def stream(config: SimulationConfig, *purpose: str) -> np.random.Generator:
    """The random numbers of one purpose, independent of those of every other."""
    return np.random.default_rng([config.seed, *(zlib.crc32(name.encode()) for name in purpose)])


def draw_split(config: SimulationConfig, split: str, emissions: Mapping[str, Emission]) -> SimulatedSplit:
    """Draw one split.

    Args:
        config: Parameters.
        split: Name of the split.
        emissions: What each modality shows; the same for every split.
    """
    mask, speaker = _turns(config, stream(config, "turns", split), config.dialogues[split])
    emotion = _chain(config, stream(config, "emotions", split), speaker)[mask]
    number, prior = len(emotion), config.prior
    rng = stream(config, "labels", split)
    redraw = rng.random(number) < config.label_noise
    label = np.where(redraw, rng.choice(len(prior), size=number, p=prior), emotion)

    middles = config.middles[emotion]
    noise = stream(config, "values", split).uniform(-1, 1, middles.shape)
    reliability, features, present, log_likelihood = {}, {}, {}, {}
    for modality, emission in emissions.items():
        level = stream(config, "reliability", split, modality).choice(emission.levels, size=number, p=emission.weights)
        features[modality] = emission.sample(emotion, level, stream(config, "features", split, modality))
        drawn = stream(config, "absence", split, modality).random(number)
        present[modality] = torch.from_numpy(drawn >= config.absences[modality])
        reliability[modality] = torch.from_numpy(level)
        known = emission.log_likelihood(features[modality])
        log_likelihood[modality] = known * present[modality][:, None]
    return SimulatedSplit(
        ptr=torch.from_numpy(np.concatenate([[0], mask.sum(1).cumsum()])),
        speaker=torch.from_numpy(speaker[mask]),
        emotion=torch.from_numpy(emotion),
        label=torch.from_numpy(label),
        reliability=reliability,
        features=features,
        present=present,
        values=torch.from_numpy(middles + config.value_noise * noise),
        log_likelihood=log_likelihood,
    )


def draw_first_face(config: SimulationConfig, split: str, data: SimulatedSplit, emission: Emission) -> Tensor:
    """What the first face in the picture shows: that of the speaker, or of somebody who listens.

    With f faces in the picture (``face_counts``, at most as many as the dialogue has speakers) the first is the
    speaker's with probability 1 / f, and the features are those of the split, to the bit. Else it is that of another
    speaker of the dialogue, each as likely, who still has the emotion of their own last turn, or, before their first,
    one drawn from ``emotions``; reliability and noise are drawn anew. Whether the face is there does not change.

    Args:
        config: Parameters.
        split: Name of the split.
        data: The split.
        emission: What a face shows.

    Returns:
        ``(N, width)`` float32.
    """
    rng = stream(config, "first face", split)
    number = len(data)
    faces = 1 + rng.choice(len(config.face_counts), size=number, p=normalised(config.face_counts))
    chance, whose = rng.random((2, number))
    shown = rng.choice(len(config.emotions), size=number, p=config.prior)
    speaker, emotion = data.speaker.numpy(), data.emotion.numpy()
    listens = np.zeros(number, dtype=bool)
    for start, end in pairwise(data.ptr.tolist()):
        speakers = sorted(set(speaker[start:end].tolist()))
        felt: dict[int, int] = {}
        for row in range(start, end):
            others = [person for person in speakers if person != speaker[row]]
            listens[row] = chance[row] >= 1 / min(faces[row], len(speakers))
            if listens[row]:
                shown[row] = felt.get(others[int(whose[row] * len(others))], shown[row])
            felt[int(speaker[row])] = int(emotion[row])
    level = rng.choice(emission.levels, size=number, p=emission.weights)
    listener = emission.sample(shown, level, rng)
    return torch.where(torch.from_numpy(listens)[:, None], listener, data.features["visual"])


def _turns(config: SimulationConfig, rng: np.random.Generator, dialogues: int) -> tuple[NDArray[np.bool_], Ints]:
    """Which turns are real, and who speaks, both ``(B, T)``."""
    lengths = 1 + rng.choice(len(config.length_counts), size=dialogues, p=normalised(config.length_counts))
    cast = 1 + rng.choice(len(config.cast_counts), size=dialogues, p=normalised(config.cast_counts))
    longest = len(config.length_counts)
    goes_on, replies, anyone = rng.random((3, dialogues, longest))
    speaker = np.zeros((dialogues, longest), dtype=np.int64)
    before = 1 % cast
    for turn in range(1, longest):
        current = speaker[:, turn - 1]
        others = np.maximum(cast - 1, 1)
        other = (current + 1 + (anyone[:, turn] * others).astype(np.int64)) % cast
        following = np.where(replies[:, turn] < config.reply, before, other)
        speaker[:, turn] = np.where(goes_on[:, turn] < config.keep_turn, current, following)
        before = np.where(speaker[:, turn] != current, current, before)
    return np.arange(longest) < lengths[:, None], speaker


def _chain(config: SimulationConfig, rng: np.random.Generator, speaker: Ints) -> Ints:
    """The true emotion of every turn ``(B, T)``: kept from the turn before, or drawn anew."""
    emotion = rng.choice(len(config.emotions), size=speaker.shape, p=config.prior)
    chance = rng.random(speaker.shape)
    for turn in range(1, speaker.shape[1]):
        same = speaker[:, turn] == speaker[:, turn - 1]
        stay = np.where(same, config.same_speaker_stay, config.other_speaker_stay)
        emotion[:, turn] = np.where(chance[:, turn] < stay, emotion[:, turn - 1], emotion[:, turn])
    return emotion
