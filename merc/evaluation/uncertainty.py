"""How far to trust probabilities: calibration, abstention, sets of emotions with a coverage, missing modalities."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from merc.batch import ConversationBatch
from merc.conversation import UtteranceKey
from merc.evaluation.draws import drawn_counts, percentile_interval
from merc.evaluation.predictions import Predictions, PredictionsError
from merc.labels import IGNORE_INDEX

_SAMPLES = 2000


class Bin(NamedTuple):
    """Utterances of similar confidence.

    Attributes:
        confidence: Their mean probability of the predicted emotion.
        accuracy: The share of right predictions.
        utterances: Their number.
    """

    confidence: float
    accuracy: float
    utterances: int


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities mean what they say.

    Args:
        ece: Expected calibration error, in 0..1: the mean distance between confidence and accuracy over the bins.
        ece_interval: Its 95 % interval, of a bootstrap over dialogues. Samples of finite size have an error above 0
            even where the probabilities are exact; an interval that lies above 0 alone proves nothing.
        brier: Mean squared distance between the probabilities and the label, in 0..2; lower is better.
        brier_interval: Its 95 % interval.
        nll: Mean negative log-likelihood of the labels, in nats.
        confidence: Mean probability of the predicted emotions.
        accuracy: Share of right predictions.
        bins: The bins of a reliability diagram, from the lowest confidence.
    """

    ece: float
    ece_interval: tuple[float, float]
    brier: float
    brier_interval: tuple[float, float]
    nll: float
    confidence: float
    accuracy: float
    bins: Sequence[Bin]


@dataclass(frozen=True)
class Abstention:
    """What a system gets wrong if it answers only where it is sure.

    Args:
        coverage: Shares of the utterances that are answered, ascending, one for every labelled utterance.
        risk: Share of wrong answers at each coverage, the surest utterances first.
        area: Area under the curve of risks (AURC), in 0..1; lower is better.
        auroc: How well doubt tells wrong from right predictions: the probability that a wrong one has more doubt.
        at_80: Risk at 80 % coverage.
    """

    coverage: Sequence[float]
    risk: Sequence[float]
    area: float
    auroc: float
    at_80: float


class Threshold(NamedTuple):
    """A confidence below which a system abstains, chosen on one split and checked on another.

    Attributes:
        target: The risk that was asked for.
        confidence: The smallest confidence that is answered; infinite if no threshold reaches the target.
        coverage: The share of the other split that is answered.
        risk: The share of wrong answers among these; ``nan`` if none is answered.
    """

    target: float
    confidence: float
    coverage: float
    risk: float


@dataclass(frozen=True, eq=False)
class Conformal:
    """Sets of emotions that contain the true one with a given probability, chosen on one split, checked on another.

    Args:
        nominal: The coverage that was asked for.
        threshold: An emotion is in the set if its probability is at least this.
        coverage: Share of the sets of the other split that contain the label.
        interval: Its 95 % interval, of a bootstrap over dialogues.
        size: Mean number of emotions in a set.
        singletons: Share of sets with one emotion.
        by_class: By emotion, the coverage of the utterances with this label; ``nan`` without any.
        sets: ``(N, C)`` booleans for the N utterances of the other split.
    """

    nominal: float
    threshold: float
    coverage: float
    interval: tuple[float, float]
    size: float
    singletons: float
    by_class: dict[str, float]
    sets: Tensor


def calibration(predictions: Predictions, bins: int = 15, seed: int = 0) -> Calibration:
    r"""Measure whether probabilities mean what they say.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} |acc_b - conf_b|

    over bins of equally many utterances, sorted by confidence (Nguyen and O'Connor 2015): bins of equal width are
    nearly empty at the ends.

    Args:
        predictions: Predictions with labels.
        bins: Number of bins; fewer where there are fewer utterances.
        seed: Seed of the bootstrap.

    Raises:
        PredictionsError: Nothing is labelled.
        ValueError: ``bins`` is below 1.

    Example:
        >>> from merc.labels import IEMOCAP4
        >>> keys = [UtteranceKey("test", "0", str(i)) for i in range(4)]
        >>> sure = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(4, 1)
        >>> found = calibration(Predictions(IEMOCAP4, keys, torch.tensor([0, 0, 0, 1]), sure), bins=1)
        >>> found.ece, found.accuracy, found.brier
        (0.25, 0.75, 0.5)
    """
    if bins < 1:
        raise ValueError(f"Calibration got {bins} bins, expected at least 1.")
    rows = _labelled(predictions)
    probability, gold = _normalised(predictions)[rows], predictions.gold[rows]
    confidence, guess = probability.max(1)
    right = (guess == gold).double()
    brier = (probability - torch.nn.functional.one_hot(gold, probability.shape[1])).square().sum(1)
    part = _equal_bins(confidence, bins)
    number = int(part.max()) + 1
    dialogue = _dialogues(predictions)[rows]
    # By dialogue and bin: how many utterances, their confidence and how many are right. A draw sums rows of this table.
    table = torch.zeros(int(dialogue.max()) + 1, number, 3, dtype=torch.double)
    table.index_put_((dialogue, part), torch.stack([torch.ones_like(right), confidence, right], 1), accumulate=True)
    per_dialogue = torch.zeros(len(table), 2, dtype=torch.double)
    per_dialogue.index_add_(0, dialogue, torch.stack([torch.ones_like(brier), brier], 1))
    counts = drawn_counts(np.random.default_rng(seed), len(table), _SAMPLES)
    drawn = (counts @ table.flatten(1)).view(-1, number, 3)
    sums = counts @ per_dialogue
    total = table.sum(0)
    return Calibration(
        ece=float(_ece(total)),
        ece_interval=_interval(_ece(drawn)),
        brier=float(brier.mean()),
        brier_interval=_interval(sums[:, 1] / sums[:, 0]),
        nll=float(-probability.gather(1, gold[:, None]).clamp(min=1e-12).log().mean()),
        confidence=float(confidence.mean()),
        accuracy=float(right.mean()),
        bins=[Bin(float(c / n), float(r / n), int(n)) for n, c, r in total.tolist() if n],
    )


def _ece(table: Tensor) -> Tensor:
    """From ``(..., B, 3)``: utterances, sums of confidences, right ones."""
    return (table[..., 1] - table[..., 2]).abs().sum(-1) / table[..., 0].sum(-1)


def _equal_bins(values: Tensor, bins: int) -> Tensor:
    """The bin of every value, equally many values each; equal values share one."""
    edges = values.quantile(torch.linspace(0, 1, bins + 1, dtype=values.dtype)[1:-1])
    part: Tensor = torch.unique(torch.bucketize(values, edges, right=True), return_inverse=True)[1]
    return part


def fit_temperature(predictions: Predictions) -> float:
    r"""The temperature T under which :math:`\mathrm{softmax}(\log p / T)` gives the labels the highest likelihood.

    Guo et al. 2017 (arXiv 1706.04599). Fit it on ``val``: on the training split, networks are too sure of
    themselves for other reasons, and on ``test`` it would be chosen by what it is judged by.

    Args:
        predictions: Predictions with labels and probabilities.

    Returns:
        T in 0.05..20: above 1 for a system that is too sure of itself.

    Raises:
        PredictionsError: Nothing is labelled.
    """
    rows = _labelled(predictions)
    logits, gold = _normalised(predictions)[rows].clamp(min=1e-12).log(), predictions.gold[rows]

    def loss(log_t: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_t), gold))

    # The loss is convex in 1 / T, so it has one minimum in log T: a golden section finds it.
    low, high, ratio = math.log(0.05), math.log(20), (math.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)


def with_temperature(predictions: Predictions, temperature: float) -> Predictions:
    """The predictions with the probabilities of another temperature; the predicted emotions stay the same.

    Args:
        predictions: The predictions.
        temperature: Above 0.
    """
    if temperature <= 0:
        raise ValueError(f"Got the temperature {temperature}, expected a number above 0.")
    logits = _normalised(predictions).clamp(min=1e-12).log()
    return replace(predictions, probabilities=(logits / temperature).softmax(1).float())


def abstention(predictions: Predictions, doubt: Tensor | None = None) -> Abstention:
    """What a system gets wrong if it leaves out the utterances of which it is least sure (El-Yaniv and Wiener 2010).

    Args:
        predictions: Predictions with labels.
        doubt: ``(N,)``, larger for less sure predictions. Default: one minus the highest probability.

    Raises:
        PredictionsError: Nothing is labelled.
    """
    rows = _labelled(predictions)
    doubt = 1 - _normalised(predictions).amax(1) if doubt is None else doubt.double()
    wrong = (predictions.predicted != predictions.gold)[rows].double()
    doubt = doubt[rows]
    order = doubt.argsort(stable=True)
    answered = torch.arange(1, len(order) + 1, dtype=torch.double)
    risk = wrong[order].cumsum(0) / answered
    coverage = answered / len(order)
    return Abstention(
        coverage.tolist(),
        risk.tolist(),
        float(risk.mean()),
        _auroc(doubt, wrong),
        float(risk[math.ceil(0.8 * len(order)) - 1]),
    )


def _auroc(doubt: Tensor, wrong: Tensor) -> float:
    """The probability that a wrong prediction has more doubt than a right one; ties count half."""
    values, rank = torch.unique(doubt, return_inverse=True)
    of_wrong, of_right = (torch.bincount(rank, w, minlength=len(values)) for w in (wrong, 1 - wrong))
    pairs = float(of_wrong.sum() * of_right.sum())
    below = of_right.cumsum(0) - of_right
    return float((of_wrong * (below + of_right / 2)).sum()) / pairs if pairs else math.nan


def abstain_at_risk(chosen_on: Predictions, checked_on: Predictions, risk: float) -> Threshold:
    """Choose the confidence below which to abstain on one split, and check it on another.

    The lowest threshold is chosen at which at most this share of the answers on the first split is wrong.

    Args:
        chosen_on: Predictions for ``val``.
        checked_on: Predictions of the same system for ``test``.
        risk: The share of wrong answers to allow, in 0..1.

    Raises:
        PredictionsError: Nothing is labelled.
    """
    curve = abstention(chosen_on)
    confidence = _normalised(chosen_on)[_labelled(chosen_on)].amax(1).sort(descending=True).values
    # A threshold answers all utterances of the same confidence: it counts where the next one is below.
    last = torch.cat([confidence[:-1] > confidence[1:], torch.ones(1, dtype=torch.bool)])
    fitting = [i for i, found in enumerate(curve.risk) if found <= risk and last[i]]
    threshold = float(confidence[fitting[-1]]) if fitting else math.inf
    rows = _labelled(checked_on)
    answered = _normalised(checked_on)[rows].amax(1) >= threshold
    wrong = (checked_on.predicted != checked_on.gold)[rows]
    return Threshold(
        risk,
        threshold,
        float(answered.double().mean()),
        float(wrong[answered].double().mean()) if answered.any() else math.nan,
    )


def conformal_sets(chosen_on: Predictions, checked_on: Predictions, coverage: float = 0.9, seed: int = 0) -> Conformal:
    r"""Sets of emotions that contain the true one with a given probability (Sadinle et al. 2019, arXiv 1609.00451).

    The threshold is the :math:`\lfloor \alpha (n + 1) \rfloor`-th smallest probability of a true emotion among the n
    labelled utterances of the first split, :math:`\alpha = 1 -` coverage. The promise holds on average over utterances
    that are exchangeable with these; utterances of one dialogue, or of other films, are not quite, so check it.

    Args:
        chosen_on: Predictions for ``val``.
        checked_on: Predictions of the same system for ``test``.
        coverage: The coverage to reach, between 0 and 1.
        seed: Seed of the bootstrap over dialogues.

    Raises:
        PredictionsError: Nothing is labelled.
        ValueError: ``coverage`` is not between 0 and 1.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"Got the coverage {coverage}, expected a number between 0 and 1.")
    rows = _labelled(chosen_on)
    scores = _normalised(chosen_on)[rows].gather(1, chosen_on.gold[rows][:, None])[:, 0].sort().values
    rank = math.floor((1 - coverage) * (len(scores) + 1) + 1e-9)
    threshold = float(scores[rank - 1]) if rank >= 1 else 0.0  # with too few utterances every emotion is in the set
    probability = _normalised(checked_on)
    sets = probability >= threshold
    here = _labelled(checked_on)
    gold = checked_on.gold[here]
    inside = sets[here].gather(1, gold[:, None])[:, 0].double()
    dialogue = _dialogues(checked_on)[here]
    sums = torch.zeros(int(dialogue.max()) + 1, 2, dtype=torch.double)
    sums.index_add_(0, dialogue, torch.stack([torch.ones_like(inside), inside], 1))
    drawn = drawn_counts(np.random.default_rng(seed), len(sums), _SAMPLES) @ sums
    size = sets[here].sum(1)
    labels = checked_on.labels
    return Conformal(
        coverage,
        threshold,
        float(inside.mean()),
        _interval(drawn[:, 1] / drawn[:, 0]),
        float(size.double().mean()),
        float((size == 1).double().mean()),
        {labels.names[c]: float(inside[gold == c].mean()) for c in labels.report_ids},
        sets,
    )


def without_modality(batch: ConversationBatch, name: str, share: float) -> ConversationBatch:
    """A batch in which a share of the utterances lacks a modality.

    Which ones depends on their keys alone: the same in every batch and process, and a larger share takes more of them
    away from those that lack it already.

    Args:
        batch: The batch.
        name: The modality.
        share: Share of utterances, in 0..1.
    """
    lost = torch.tensor([_number(key, name) < share for key in batch.keys], device=batch.label.device)
    there = batch.present[name] & ~lost
    return replace(
        batch,
        features={**batch.features, name: batch.features[name] * there[:, None]},
        present={**batch.present, name: there},
    )


def noisy_modality(batch: ConversationBatch, name: str, level: float) -> ConversationBatch:
    """A batch in which the features of a modality are noisy.

    To a vector x of width d it adds ``level * norm(x) / sqrt(d)`` times standard normal numbers: level 1 is as much
    noise as signal (0 dB), 0.5 is 6 dB. The noise of an utterance depends on its key alone, at every level.

    Args:
        batch: The batch.
        name: The modality.
        level: Size of the noise over that of the features, at least 0.
    """
    features = batch.features[name]
    width = features.shape[1]
    noise = torch.zeros(len(batch.keys), width)
    for row, key in enumerate(batch.keys):
        noise[row] = torch.randn(width, generator=torch.Generator().manual_seed(_hash(key, name)))
    size = level * features.norm(dim=1, keepdim=True) / width**0.5
    return replace(batch, features={**batch.features, name: features + size * noise.to(features)})


Stress = tuple[Literal["without", "noise"], str, float]
"""What makes a test harder: the share of utterances that go ``without`` a modality, or the level of its ``noise``."""


def stressed(batch: ConversationBatch, stress: Stress) -> ConversationBatch:
    """A batch under one of these (:func:`without_modality`, :func:`noisy_modality`)."""
    kind, name, amount = stress
    return (without_modality if kind == "without" else noisy_modality)(batch, name, amount)


def by_modality(scores: Mapping[Stress, float], whole: float) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by kind of stress, modality and amount, as in ``metrics.json``; amount 0 is ``whole``."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for (kind, name, amount), score in scores.items():
        found.setdefault(kind, {}).setdefault(name, {"0": whole})[f"{amount:g}"] = score
    return found


def _number(key: UtteranceKey, name: str) -> float:
    """A number in [0, 1) for an utterance and a modality."""
    return _hash(key, name) / 2**32


def _hash(key: UtteranceKey, name: str) -> int:
    return zlib.crc32(f"{UtteranceKey(*key)} {name}".encode())


def _labelled(predictions: Predictions) -> Tensor:
    labelled = predictions.gold != IGNORE_INDEX
    if not labelled.any():
        raise PredictionsError("No utterance is labelled: expected predictions with gold labels.")
    return labelled


def _normalised(predictions: Predictions) -> Tensor:
    """The probabilities in double precision, with sum 1."""
    p = predictions.probabilities.double()
    return p / p.sum(1, keepdim=True).clamp(min=1e-12)


def _dialogues(predictions: Predictions) -> Tensor:
    order: dict[tuple[str, ...], int] = {}
    return torch.tensor([order.setdefault(key[:2], len(order)) for key in predictions.keys])


def _interval(values: Tensor) -> tuple[float, float]:
    return percentile_interval(values.nan_to_num())
