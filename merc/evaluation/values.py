"""Scores of predicted numbers, such as valence or sentiment: CCC, Pearson, MAE, and the usual table of CMU-MOSI."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat

from merc.conversation import Corpus, UtteranceKey
from merc.evaluation.draws import drawn_counts
from merc.evaluation.metrics import EmotionMetrics
from merc.evaluation.predictions import (
    OF_NUMBERS,
    Predictions,
    PredictionsError,
    is_table,
    read_table,
    stored_predictions,
    table_text,
)
from merc.store import FeatureStore

AGREEMENT = ("ccc", "pearson", "mae")
"""The scores of every dimension, for which there are intervals and tests."""

_GOLD, _PREDICTED = OF_NUMBERS


def moments(predicted: Tensor, gold: Tensor) -> Tensor:
    """What the scores of :func:`agreement` are made of, utterance by utterance: sums of these give the scores.

    Args:
        predicted: ``(N, D)``.
        gold: ``(N, D)``, NaN where there is none.

    Returns:
        ``(N, D, 7)`` in double precision: 1, x, y, x², y², xy, |x - y|, with x and y from the mean of the gold numbers;
        zeros where there is no gold number.
    """
    known = ~gold.isnan()
    middle = gold.double().nanmean(0)  # small numbers, so that their squares keep their digits
    x, y = predicted.double() - middle, gold.double() - middle
    parts = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y, (x - y).abs()], -1)
    return parts.where(known[..., None], 0.0)


def agreement(sums: Tensor) -> dict[str, Tensor]:
    r"""Concordance, correlation and error from sums of :func:`moments`.

    .. math:: CCC = \frac{2 s_{xy}}{s_x^2 + s_y^2 + (\bar x - \bar y)^2}

    with the unbiased variances (n - 1), as in torchmetrics.

    Args:
        sums: ``(..., 7)``.

    Returns:
        ``ccc``, ``pearson`` and ``mae``, ``(...)``; both coefficients are 0 where they are not defined (fewer than two
        utterances, or constant predictions), so that a network that predicts a constant has the worst useful score.
    """
    n, x, y, xx, yy, xy, gap = sums.unbind(-1)
    count, rest = n.clamp(min=1), (n - 1).clamp(min=1)
    var_x, var_y = ((s - t * t / count).clamp(min=0) / rest for s, t in ((xx, x), (yy, y)))
    cov = (xy - x * y / count) / rest
    scale, spread = (var_x * var_y).sqrt(), var_x + var_y + ((x - y) / count).square()
    tiny = 1e-24
    return {
        "ccc": torch.where(spread > tiny, 2 * cov / spread.clamp(min=tiny), 0.0),
        "pearson": torch.where(scale > tiny, cov / scale.clamp(min=tiny), 0.0).clamp(-1, 1),
        "mae": gap / count,
    }


def sentiment_scores(predicted: Tensor, gold: Tensor, low: float, high: float) -> dict[str, float]:
    """The scores of CMU-MOSI and CMU-MOSEI beside MAE and correlation, as MulT (arXiv 1906.00295) and MMSA define them.

    - ``acc7``, ``acc5``: both numbers are clipped to [-3, 3] or [-2, 2] and rounded, halves to the even number; the
      share that agrees. Only for the scale from -3 to 3.
    - ``acc2``, ``f1``: negative against non-negative (x >= 0), over all utterances.
    - ``acc2_nonzero``, ``f1_nonzero``: negative against positive (x > 0), over those whose gold number is not 0.

    F1 is averaged by the number of gold utterances of either side. MulT's own script gives the two arguments of its F1
    in the other order, and so weighs by the number of predictions.

    Args:
        predicted: ``(N,)``.
        gold: ``(N,)``, NaN where there is none.
        low: Lowest number of the scale.
        high: Highest.

    Returns:
        Fractions in 0..1; nothing if the scale does not go from negative to positive, or nothing is annotated.

    Example:
        >>> found = sentiment_scores(torch.tensor([0.5, -0.4, 2.5]), torch.tensor([0.0, -1.0, 3.0]), -3, 3)
        >>> {name: round(value, 2) for name, value in found.items()}  # 0.5 and 2.5 become 0 and 2
        {'acc7': 0.33, 'acc5': 0.67, 'acc2': 1.0, 'f1': 1.0, 'acc2_nonzero': 1.0, 'f1_nonzero': 1.0}
    """
    known = ~gold.isnan()
    x, y = predicted.double()[known], gold.double()[known]
    if not low < 0 < high or not len(y):
        return {}
    found: dict[str, float] = {}
    if (low, high) == (-3, 3):
        for name, most in (("acc7", 3), ("acc5", 2)):
            rounded = [values.clamp(-most, most).round() for values in (x, y)]
            found[name] = float((rounded[0] == rounded[1]).double().mean())
    away = y != 0
    for name, guess, truth in (("", x >= 0, y >= 0), ("_nonzero", x[away] > 0, y[away] > 0)):
        found[f"acc2{name}"] = float((guess == truth).double().mean()) if len(truth) else 0.0
        found[f"f1{name}"] = _weighted_binary_f1(guess, truth)
    return found


def _weighted_binary_f1(guess: Tensor, truth: Tensor) -> float:
    total = 0.0
    for side in (True, False):
        both = int(((guess == side) & (truth == side)).sum())
        support, given = int((truth == side).sum()), int((guess == side).sum())
        total += support * 2 * both / max(support + given, 1)
    return total / max(len(truth), 1)


def value_scores(
    predicted: Tensor, gold: Tensor, dimensions: Mapping[str, tuple[float, float]]
) -> dict[str, dict[str, float]]:
    """All scores of every dimension.

    Args:
        predicted: ``(N, D)`` in the units of the corpus.
        gold: ``(N, D)``, NaN where there is none.
        dimensions: The lowest and highest number of the scale of every dimension.

    Returns:
        By dimension: those of :func:`agreement`, of :func:`sentiment_scores`, and the number of annotated
        ``utterances``.
    """
    found = {name: values.tolist() for name, values in agreement(moments(predicted, gold).sum(0)).items()}
    return {
        dimension: {
            **{name: values[column] for name, values in found.items()},
            **sentiment_scores(predicted[:, column], gold[:, column], low, high),
            "utterances": int((~gold[:, column].isnan()).sum()),
        }
        for column, (dimension, (low, high)) in enumerate(dimensions.items())
    }


class ValueMetrics(Metric):
    """CCC, Pearson and MAE of whole splits, over batches and processes. Never averaged over batches.

    Args:
        dimensions: Number of dimensions D.

    Example:
        >>> metrics = ValueMetrics(1)
        >>> metrics.update(torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([[1.0], [2.0], [torch.nan]]))
        >>> metrics.compute()["ccc"].item()
        1.0
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    predicted: list[Tensor]
    gold: list[Tensor]

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.add_state("predicted", [], dist_reduce_fx="cat")
        self.add_state("gold", [], dist_reduce_fx="cat")

    @property
    def update_called(self) -> bool:
        """Always true: no utterance is valid, so torchmetrics should not warn about it."""
        return True

    def update(self, predicted: Tensor, gold: Tensor) -> None:
        """Remember a batch.

        Args:
            predicted: ``(N, D)``.
            gold: ``(N, D)``, NaN where there is none.
        """
        # Flat: torchmetrics gathers a flat, empty tensor from a process without a batch, and no other shape beside it.
        self.predicted.append(predicted.detach().float().flatten())
        self.gold.append(gold.float().flatten())

    def compute(self) -> dict[str, Tensor]:
        """``ccc``, ``pearson`` and ``mae``, each the mean over the annotated dimensions; 0 without any."""
        if not len(self.gold):
            return dict.fromkeys(AGREEMENT, torch.zeros(()))
        predicted, gold = (dim_zero_cat(x).view(-1, self.dimensions) for x in (self.predicted, self.gold))
        known = (~gold.isnan()).any(0)
        found = agreement(moments(predicted, gold).sum(0))
        return {
            name: values.where(known, 0.0).float().sum() / known.sum().clamp(min=1) for name, values in found.items()
        }


@dataclass(frozen=True, eq=False)
class ValuePredictions:
    """The numbers that one model predicts for N utterances.

    Args:
        dimensions: The lowest and highest number of the scale of each of the D dimensions.
        keys: N utterance keys, each once.
        gold: ``(N, D)`` annotated numbers, NaN where there is none.
        values: ``(N, D)`` predicted numbers, finite, in the units of the corpus.
        present: By modality, ``(N,)`` booleans: whether the utterance had it.
        lines: Of N utterances the speaker and the text; empty if they are not known.

    Raises:
        PredictionsError: The shapes do not match, keys are repeated, or numbers are not finite.
    """

    dimensions: Mapping[str, tuple[float, float]]
    keys: Sequence[UtteranceKey]
    gold: Tensor
    values: Tensor
    present: Mapping[str, Tensor] = field(default_factory=dict)
    lines: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        """Check that every part covers the same utterances."""
        shape = (len(self.keys), len(self.dimensions))
        if self.gold.shape != shape or self.values.shape != shape:
            raise PredictionsError(
                f"{shape[0]} utterances have gold numbers {tuple(self.gold.shape)} and predicted ones "
                f"{tuple(self.values.shape)}: expected {shape} twice."
            )
        if any(there.shape != shape[:1] for there in self.present.values()) or len(self.lines) not in (0, shape[0]):
            raise PredictionsError(f"Presence or lines are not of {shape[0]} utterances: expected one each.")
        if len(set(self.keys)) != shape[0]:
            twice = next(key for row, key in enumerate(self.keys) if key in self.keys[:row])
            raise PredictionsError(f"{UtteranceKey(*twice)} is predicted twice. Keys must be unique.")
        if not self.values.isfinite().all():
            raise PredictionsError(
                "Predicted numbers are not finite: training has diverged. Lower the learning rate or check the "
                "features."
            )

    def scores(self) -> dict[str, dict[str, float]]:
        """The scores of :func:`value_scores`, by dimension."""
        return value_scores(self.values, self.gold, self.dimensions)

    def by_dialogue(self) -> Tensor:
        """Sums of :func:`moments` of each dialogue, ``(dialogues, D, 7)``, in order of first appearance."""
        order: dict[tuple[str, str], int] = {}
        dialogue = torch.tensor([order.setdefault(key[:2], len(order)) for key in self.keys])
        parts = moments(self.values, self.gold)
        return parts.new_zeros(len(order), *parts.shape[1:]).index_add(0, dialogue, parts)

    def intervals(self, samples: int = 2000, seed: int = 0) -> dict[str, dict[str, tuple[float, float]]]:
        """95 % intervals of CCC, Pearson and MAE by dimension, of a bootstrap over dialogues."""
        counts = drawn_counts(np.random.default_rng(seed), len(table := self.by_dialogue()), samples)
        drawn = agreement(torch.einsum("sd,dkm->skm", counts, table))
        bounds = {name: _bounds(values) for name, values in drawn.items()}
        return {
            dimension: {name: bounds[name][column] for name in AGREEMENT}
            for column, dimension in enumerate(self.dimensions)
        }

    def to_csv(self) -> str:
        """The text of ``predictions.csv``, which :func:`read_value_predictions` reads back.

        Columns: partition, dialogue, utterance, speaker and text (where they are known), ``gold_<dimension>`` (empty
        where there is none), ``value_<dimension>``, ``has_<modality>`` (0 or 1).
        """
        return table_text(self, self.columns())

    def columns(self) -> dict[str, list[str]]:
        """The cells of ``gold_<dimension>`` and ``value_<dimension>``."""
        return {
            f"{prefix}{name}": ["" if math.isnan(value) else f"{value:.9g}" for value in numbers[:, column].tolist()]
            for prefix, numbers in ((_GOLD, self.gold), (_PREDICTED, self.values))
            for column, name in enumerate(self.dimensions)
        }


@dataclass(frozen=True, eq=False)
class EmotionValuePredictions:
    """What one model predicts that tells emotions and numbers at once.

    Args:
        emotions: The emotions of N utterances.
        values: The numbers of the same utterances, in the same order.

    Raises:
        PredictionsError: The utterances differ.
    """

    emotions: Predictions
    values: ValuePredictions

    def __post_init__(self) -> None:
        """Compare the utterances of both."""
        if list(self.emotions.keys) != list(self.values.keys):
            raise PredictionsError(
                "Emotions and numbers are of different utterances, or in another order: expected the same keys twice."
            )

    def to_csv(self) -> str:
        """The text of ``predictions.csv`` with the columns of both, those of emotions first."""
        return table_text(self.emotions, {**self.emotions.columns(), **self.values.columns()})


class EmotionValueMetrics(MetricCollection):
    """The scores of emotions and of numbers of whole splits, over batches and processes.

    ``f1_and_ccc``, by which checkpoints are chosen, is the mean of the weighted F1 and the mean CCC.

    Args:
        emotions: Those of emotions.
        values: Those of numbers.
    """

    def __init__(self, emotions: EmotionMetrics, values: ValueMetrics) -> None:
        super().__init__({"emotions": emotions, "numbers": values}, compute_groups=False)

    def compute(self) -> dict[str, Any]:
        """The scores of both, by their names."""
        found = super().compute()
        return {**found, "f1_and_ccc": (found["weighted_f1"] + found["ccc"]) / 2}


def annotated_values(corpus: Corpus, keys: Iterable[UtteranceKey]) -> Tensor:
    """``(N, D)`` annotated numbers of some utterances of a corpus, NaN where there is none.

    Raises:
        KeyError: The corpus does not have one of them.
    """
    known = dict(corpus.utterances())
    rows = [known[key].numbers(corpus.dimensions) for key in keys]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(corpus.dimensions))


def stored_values(logits: FeatureStore, corpus: Corpus) -> ValuePredictions:
    """The numbers that a store of logits holds of the utterances of a corpus, in the order of the corpus.

    Args:
        logits: A store of logits with numbers; an utterance that it lacks is left out.
        corpus: The corpus, annotated or not; its dimensions must be those of the numbers.

    Raises:
        StoreError: The store holds something else.
        PredictionsError: The dimensions differ.
    """
    logits.require(kind="logits")
    names = logits.dimensions
    if names != list(corpus.dimensions) or not names:
        raise PredictionsError(
            f"{logits.path} holds the numbers {names}, and the corpus has {list(corpus.dimensions)}: expected "
            "the same dimensions."
        )
    known = [(key, utterance) for key, utterance in corpus.utterances() if key in logits]
    keys = [key for key, _ in known]
    return ValuePredictions(
        corpus.dimensions,
        keys,
        annotated_values(corpus, keys),
        logits.gather(keys)[0][:, -len(names) :].float(),
        lines=[(utterance.speaker, utterance.text) for _, utterance in known],
    )


def stored_table(logits: FeatureStore, corpus: Corpus) -> str:
    """The text of a ``predictions.csv`` with the emotions, the numbers, or both that a store of logits holds.

    Args:
        logits: The store.
        corpus: The corpus.
    """
    numbers = len(logits.dimensions)
    if not numbers:
        return stored_predictions(logits, corpus).to_csv()
    if numbers == logits.dim:
        return stored_values(logits, corpus).to_csv()
    return EmotionValuePredictions(stored_predictions(logits, corpus), stored_values(logits, corpus)).to_csv()


def _bounds(drawn: Tensor) -> list[tuple[float, float]]:
    """The 95 % percentile interval of each column."""
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=drawn.dtype), dim=0).tolist()
    return list(zip(low, high, strict=True))


def holds_values(path: Path) -> bool:
    """Whether a file is a table of merc with predicted numbers, by its first line."""
    return is_table(path, _PREDICTED)


def read_value_predictions(
    path: str | Path, dimensions: Mapping[str, tuple[float, float]] | None = None
) -> ValuePredictions:
    """Read the ``predictions.csv`` of a report on numbers.

    Args:
        path: The file, or the folder of the report.
        dimensions: The scales. Default: those of the gold numbers in the file.

    Raises:
        FileNotFoundError: The file does not exist.
        PredictionsError: It holds no predicted numbers, or is damaged.
    """
    table = read_table(path)
    names = [name.removeprefix(_GOLD) for name in table.columns if name.startswith(_GOLD)]
    columns = [f"{prefix}{name}" for prefix in (_GOLD, _PREDICTED) for name in names]
    others = [name for name in table.columns if name not in ("gold", "predicted") and not name.startswith("p_")]
    if not names or others != columns:
        raise PredictionsError(
            f"{table.path} is not a table of predicted numbers: it has the columns {', '.join(table.columns)}, "
            "expected gold_<dimension>, value_<dimension>. Run the test again."
        )
    cells = [table.parsed(name, lambda cell: float(cell) if cell else math.nan) for name in columns]
    numbers = torch.tensor(cells, dtype=torch.float32).reshape(2, len(names), len(table.keys))
    gold, values = numbers[0].T.contiguous(), numbers[1].T.contiguous()
    if dimensions is None:
        dimensions = {name: _scale(gold[:, column]) for column, name in enumerate(names)}
    if list(dimensions) != names:
        raise PredictionsError(f"{table.path} has the dimensions {names}: expected {list(dimensions)}.")
    return ValuePredictions(dimensions, table.keys, gold, values, table.present, table.lines)


def _scale(gold: Tensor) -> tuple[float, float]:
    known = gold[~gold.isnan()].tolist() or [0.0]
    return min(known), max(known)


def pooled_values(runs: Sequence[ValuePredictions]) -> ValuePredictions:
    """The utterances of some runs together, such as those of the folds of a cross-validation.

    Args:
        runs: Of the same dimensions and of different utterances.

    Raises:
        PredictionsError: Two runs predict the same utterance, or dimensions differ.
    """
    if len(runs) == 1:
        return runs[0]
    dimensions = list(runs[0].dimensions)
    if other := [list(run.dimensions) for run in runs if list(run.dimensions) != dimensions]:
        raise PredictionsError(f"Predictions of {dimensions} and of {other[0]}: expected the same dimensions.")
    keys = [key for run in runs for key in run.keys]
    gold, values = (torch.cat(parts) for parts in zip(*((run.gold, run.values) for run in runs), strict=True))
    return ValuePredictions(runs[0].dimensions, keys, gold, values)


def mean_values(runs: Sequence[ValuePredictions]) -> ValuePredictions:
    """The mean numbers of some runs, an ensemble.

    Args:
        runs: Of the same dimensions and utterances.

    Raises:
        PredictionsError: Dimensions, utterances or gold numbers differ.
    """
    aligned = [aligned_values(runs[0], run) for run in runs]
    return replace(runs[0], values=torch.stack([run.values for run in aligned]).mean(0))


def mean_ccc(runs: Sequence[ValuePredictions]) -> float:
    """The mean CCC over the annotated dimensions, of the utterances of some runs together.

    Args:
        runs: Of the same dimensions, such as those of the folds of a cross-validation.
    """
    metrics = ValueMetrics(len(runs[0].dimensions))
    for run in runs:
        metrics.update(run.values, run.gold)
    return float(metrics.compute()["ccc"])


class ValueDifference(NamedTuple):
    """A score of the second system minus that of the first.

    Attributes:
        difference: Of the means over the runs. For MAE a negative one is better.
        interval: 95 % interval of a bootstrap over dialogues and runs.
        p: Two-sided p-value of no difference.
    """

    difference: float
    interval: tuple[float, float]
    p: float


def paired_value_bootstrap(
    a: Sequence[ValuePredictions], b: Sequence[ValuePredictions], samples: int = 10_000, seed: int = 0
) -> dict[str, dict[str, ValueDifference]]:
    """Test whether two systems differ in CCC, Pearson and MAE on the same dialogues.

    Dialogues and runs are drawn as in :func:`merc.evaluation.paired_bootstrap`.

    Args:
        a: Predictions of the first system, one for each run.
        b: Of the second, for the same utterances in any order, with as many runs in the same order.
        samples: Number of draws.
        seed: Seed of the draws.

    Returns:
        By dimension and score, ``b - a``; without the dimensions in which fewer than two utterances are annotated, as
        there is nothing to test.

    Raises:
        PredictionsError: Dimensions, utterances or gold numbers differ, or no dimension can be tested.
        ValueError: ``samples`` is below 1, or the numbers of runs are 0 or differ.
    """
    if samples < 1 or not a or len(a) != len(b):
        raise ValueError(
            f"The bootstrap got {len(a)} and {len(b)} runs and samples={samples}: expected as many runs of both "
            "systems, and at least one of each."
        )
    reference = a[0]
    tested = ((~reference.gold.isnan()).sum(0) > 1).tolist()
    if not any(tested):
        raise PredictionsError("The bootstrap got no dimension with two annotated utterances, expected one at least.")
    tables = torch.stack(
        [torch.stack([aligned_values(reference, x).by_dialogue() for x in system]) for system in (a, b)]
    )
    runs, dialogues = tables.shape[1:3]
    generator, generator_of_runs = np.random.default_rng(seed), np.random.default_rng([seed, runs])
    differences: dict[str, list[Tensor]] = {name: [] for name in AGREEMENT}
    for start in range(0, samples, 1000):
        size = min(1000, samples - start)
        counts = drawn_counts(generator, dialogues, size)
        share = drawn_counts(generator_of_runs, runs, size) / runs
        for name, values in agreement(torch.einsum("sd,krdcm->ksrcm", counts, tables)).items():
            differences[name].append(((values[1] - values[0]) * share[..., None]).sum(1))
    observed = {name: values.mean(1) for name, values in agreement(tables.sum(2)).items()}
    found: dict[str, dict[str, ValueDifference]] = {}
    for column, dimension in enumerate(reference.dimensions):
        if not tested[column]:
            continue
        found[dimension] = {}
        for name in AGREEMENT:
            drawn = torch.cat(differences[name])[:, column : column + 1]
            tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
            p = min(1.0, 2 * (tail + 1) / (samples + 1))
            difference = float(observed[name][1, column] - observed[name][0, column])
            found[dimension][name] = ValueDifference(difference, _bounds(drawn)[0], p)
    return found


def aligned_values(reference: ValuePredictions, other: ValuePredictions) -> ValuePredictions:
    """``other`` in the order of ``reference``.

    Raises:
        PredictionsError: Dimensions, utterances or gold numbers differ.
    """
    if list(other.dimensions) != list(reference.dimensions):
        raise PredictionsError(
            f"Predictions of {', '.join(reference.dimensions)} and of {', '.join(other.dimensions)}: expected the same "
            "dimensions."
        )
    row = {key: index for index, key in enumerate(other.keys)}
    missing = [UtteranceKey(*key) for key in reference.keys if key not in row]
    if missing or len(row) != len(reference.keys):
        raise PredictionsError(
            f"Predictions of {len(reference.keys)} and of {len(row)} utterances, {len(missing)} of the first not in "
            f"the second{f' (first: {missing[0]})' if missing else ''}: expected the same utterances of one split."
        )
    rows = torch.tensor([row[key] for key in reference.keys], dtype=torch.long)
    gold = other.gold[rows]
    if not torch.allclose(gold, reference.gold, rtol=1e-5, atol=1e-6, equal_nan=True):
        raise PredictionsError("Gold numbers differ: expected predictions on the same annotation.")
    return ValuePredictions(other.dimensions, reference.keys, gold, other.values[rows])
