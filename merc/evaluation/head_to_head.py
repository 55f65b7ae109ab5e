"""Systems head to head: every pair, with bootstrap, tests over runs, effect sizes, and what the data can show."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from merc.evaluation.comparison import BootstrapResult, aligned, by_dialogue
from merc.evaluation.draws import drawn_counts, percentile_interval
from merc.evaluation.metrics import class_scores, weighted_f1
from merc.evaluation.predictions import Predictions, PredictionsError
from merc.evaluation.systems import System
from merc.labels import IGNORE_INDEX

ALPHA, POWER = 0.05, 0.8
"""Level of the tests, and the probability with which a difference that is said to be visible is found."""

_VISIBLE = statistics.NormalDist().inv_cdf(1 - ALPHA / 2) + statistics.NormalDist().inv_cdf(POWER)
"""How many standard errors a difference must have to be found with this probability."""


@dataclass(frozen=True, eq=False)
class Group:
    """A part of the labelled utterances.

    Args:
        name: For example ``6 to 13``.
        of: What divides the utterances: ``dialogue length`` or ``emotion shift``.
        utterances: Number of labelled utterances.
        dialogues: Number of dialogues that have one.
        mask: ``(N,)`` booleans, in the order of the utterances.
    """

    name: str
    of: str
    utterances: int
    dialogues: int
    mask: Tensor


@dataclass(frozen=True)
class SystemScores:
    """A system over its runs, in percent.

    Args:
        name: The system.
        seeds: The seed of each run, if known.
        weighted_f1: Of each run.
        interval: 95 % interval of the mean weighted F1, over dialogues and runs.
        accuracy: Of each run.
        macro_f1: Of each run.
        classes: By emotion, the F1 of each run.
        groups: By group, the weighted F1 of each run.
    """

    name: str
    seeds: Sequence[int | None]
    weighted_f1: Sequence[float]
    interval: tuple[float, float]
    accuracy: Sequence[float]
    macro_f1: Sequence[float]
    classes: Mapping[str, Sequence[float]]
    groups: Mapping[str, Sequence[float]]


class Difference(NamedTuple):
    """The second system minus the first, in points.

    Attributes:
        difference: Of the means over the runs.
        interval: 95 % interval, of a bootstrap over dialogues and runs.
        p: Two-sided p-value of no difference, of the bootstrap.
        corrected: The same after Holm's correction, over all pairs for the weighted F1, within the pair for emotions
            and groups.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    corrected: float


class RunsTest(NamedTuple):
    """A paired test over runs.

    Attributes:
        p: Two-sided p-value.
        corrected: The same after Holm's correction over all pairs.
    """

    p: float
    corrected: float


@dataclass(frozen=True)
class Pair:
    """Two systems head to head.

    Args:
        a: The first system.
        b: The second.
        runs: How many runs are paired, by seed or else by their order; 0 if the systems have different numbers of runs.
        weighted_f1: The difference.
        t_test: Paired t-test over the runs; ``None`` with fewer than two, or if all differ by the same.
        wilcoxon: Wilcoxon's signed-rank test over the runs; ``None`` like the t-test.
        effect: Cohen's d over the paired runs: the mean difference over its standard deviation; ``None`` like the
            t-test. It grows as training becomes more stable, and says nothing of the dialogues.
        only_a: Share of the labelled utterances, in percent, that the first alone gets right; mean over the runs.
        only_b: The same of the second.
        detectable: The smallest difference, in points, that these dialogues and runs show with a probability of 80 %
            at the 5 % level.
        classes: By emotion, the difference of the F1.
        groups: By group, the difference of the weighted F1.
    """

    a: str
    b: str
    runs: int
    weighted_f1: Difference
    t_test: RunsTest | None
    wilcoxon: RunsTest | None
    effect: float | None
    only_a: float
    only_b: float
    detectable: float
    classes: Mapping[str, Difference]
    groups: Mapping[str, Difference]

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value of the bootstrap is below 5 %."""
        return self.weighted_f1.corrected < ALPHA


@dataclass(frozen=True)
class HeadToHead:
    """The result of :func:`compare_systems`.

    Args:
        data: What was predicted, such as ``meld, test split``; empty if no report says it.
        classes: The emotions, in the column order of the published tables.
        utterances: Number of labelled utterances.
        dialogues: Number of dialogues.
        groups: The groups of utterances that are scored on their own.
        systems: The systems, in the order given.
        pairs: Every pair of them.
        samples: Draws of the bootstrap.
        notes: What a reader must know.
    """

    data: str
    classes: tuple[str, ...]
    utterances: int
    dialogues: int
    groups: Sequence[Group]
    systems: Sequence[SystemScores]
    pairs: Sequence[Pair]
    samples: int
    notes: Sequence[str]

    def power_statement(self) -> str:
        """What these data can show at all, in one sentence."""
        found = sorted(pair.detectable for pair in self.pairs)
        size = f"{found[0]:.1f}" if found[0] > found[-1] - 0.05 else f"{found[0]:.1f} to {found[-1]:.1f}"
        runs = sorted({len(system.weighted_f1) for system in self.systems})
        number = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
        return (
            f"{self.dialogues} dialogues and {number} {'run' if runs == [1] else 'runs'} per system can show a "
            f"difference of {size} points ({POWER:.0%} power at the {ALPHA:.0%} level, one pair): "
            "smaller ones are not refuted by a large p-value."
        )

    def plain(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        found = asdict(self)
        for group in found["groups"]:
            del group["mask"]
        for pair in found["pairs"]:  # named tuples are lists in JSON: keep their names
            for part in ("weighted_f1", "t_test", "wilcoxon"):
                pair[part] = None if pair[part] is None else pair[part]._asdict()
            for part in ("classes", "groups"):
                pair[part] = {name: value._asdict() for name, value in pair[part].items()}
        return {**found, "power": self.power_statement()}


def compare_systems(
    systems: Mapping[str, System] | Mapping[str, Sequence[Predictions]], *, samples: int = 10_000, seed: int = 0
) -> HeadToHead:
    """Compare every pair of systems on the same utterances.

    The bootstrap draws dialogues and runs as :func:`merc.evaluation.paired_bootstrap` does, the same dialogues for all
    systems. Runs are paired by seed where all seeds are known and the same, else by their order, and the same runs are
    drawn for both systems; with different numbers of runs they are drawn apart, and there are no tests over runs. The
    paired t-test over runs is that of arXiv 2511.13731, Appendix F: it generalises to other seeds on these dialogues,
    the bootstrap to other dialogues and seeds. Holm's correction is over all pairs.

    Groups: dialogues of up to the first quartile of lengths, up to the third, and longer ones (as in Fig. 3 of LFVD);
    utterances whose emotion differs from that of the last labelled utterance of the same speaker in the dialogue, and
    those where it is the same (of any speaker, if no system knows the speakers).

    Args:
        systems: Two or more, from :func:`merc.evaluation.read_systems`; or by name the predictions of each run.
        samples: Draws of the bootstrap.
        seed: Seed of the draws.

    Raises:
        PredictionsError: Corpora, splits, protocols, classes, utterances or gold labels differ, or nothing is
            labelled.
        ValueError: There are fewer than two systems, a system has no run, or ``samples`` is below 1.

    Example:
        >>> from merc.evaluation import compare_systems, read_systems
        >>> found = compare_systems(read_systems(["runs/minilm"]))  # doctest: +SKIP
        >>> print(found.power_statement())  # doctest: +SKIP
    """
    given = {name: s if isinstance(s, System) else System(name, s, [None] * len(s), {}) for name, s in systems.items()}
    if len(given) < 2 or samples < 1:
        raise ValueError(
            f"Got {len(given)} systems and {samples} samples: expected two systems and one sample at least."
        )
    if empty := [name for name, system in given.items() if not system.runs]:
        raise ValueError(f"{empty[0]} has no run, expected at least one.")
    _require_same_data(list(given.values()))
    reference = _reference(list(given.values()))
    runs = {name: [_align(name, reference, run) for run in system.runs] for name, system in given.items()}
    labelled = reference.gold != IGNORE_INDEX
    if not labelled.any():
        raise PredictionsError("No utterance is labelled: expected gold labels to compare with.")
    notes: list[str] = []
    groups = _groups(reference, notes)
    masks = [labelled, *(group.mask for group in groups)]
    # (D, R, G, C, C) per system: one row of confusion matrices per dialogue.
    tables = {
        name: torch.stack([torch.stack([by_dialogue(run, mask) for mask in masks], 1) for run in of], 1)
        for name, of in runs.items()
    }
    drawn = {name: _Drawn(table, samples, seed) for name, table in tables.items()}
    scored = [_scores(name, given[name], runs[name], tables[name], groups, drawn[name], reference) for name in given]
    pairs = _pairs(given, runs, drawn, groups, scored, reference, notes)
    info = next((system.info for system in given.values() if system.info), {})
    data = f"{info['corpus']}, {info['split']} split" if {"corpus", "split"} <= info.keys() else ""
    dialogues = len({key[:2] for key in reference.keys})
    return HeadToHead(
        data, reference.labels.report_order, int(labelled.sum()), dialogues, groups, scored, pairs, samples, notes
    )


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction of p-values (1979): the probability of any false finding stays at the level of the tests.

    Args:
        p: p-values in any order.

    Returns:
        The corrected ones in the same order, at most 1.

    Example:
        >>> [round(value, 3) for value in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = largest
    return corrected


def _require_same_data(systems: Sequence[System]) -> None:
    known = [system for system in systems if system.info]
    for system in known[1:]:
        for name in ("corpus", "split", "protocol"):
            first, other = known[0].info.get(name), system.info.get(name)
            if None not in (first, other) and first != other:
                raise PredictionsError(
                    f"{known[0].name} and {system.name} were tested on different data ({name}: {first!r} and "
                    f"{other!r}). Compare systems on the same one."
                )


def _reference(systems: Sequence[System]) -> Predictions:
    """The predictions that give order and gold labels: if any knows the speakers, those."""
    return next((s.runs[0] for s in systems if s.runs[0].lines), systems[0].runs[0])


def _align(name: str, reference: Predictions, run: Predictions) -> Predictions:
    try:
        return aligned(reference, run)
    except PredictionsError as error:
        raise PredictionsError(f"{name} cannot be compared with the others: {error}") from error


def _groups(reference: Predictions, notes: list[str]) -> list[Group]:
    """Parts of the labelled utterances: by length of the dialogue, and by shift of the emotion."""
    dialogues: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(reference.keys):
        dialogues.setdefault(key[:2], []).append(row)
    labelled = reference.gold != IGNORE_INDEX
    total = len(reference.keys)
    length = torch.zeros(total, dtype=torch.long)
    for rows in dialogues.values():
        length[rows] = len(rows)
    low, high = (int(q) for q in np.percentile([len(rows) for rows in dialogues.values()], [25, 75], method="lower"))
    parts: list[tuple[str, str, Tensor]] = []
    if low < high:
        parts = [
            (f"up to {low} utterances", "dialogue length", length <= low),
            (f"{low + 1} to {high}", "dialogue length", (length > low) & (length <= high)),
            (f"more than {high}", "dialogue length", length > high),
        ]
    shift, same = (torch.zeros(total, dtype=torch.bool) for _ in range(2))
    for rows in dialogues.values():
        last: dict[str, int] = {}
        for row in rows:
            gold = int(reference.gold[row])
            if gold == IGNORE_INDEX:
                continue
            speaker = reference.lines[row][0] if reference.lines else ""
            if speaker in last:
                (same if last[speaker] == gold else shift)[row] = True
            last[speaker] = gold
    of = "the same speaker" if reference.lines else "any speaker"
    notes.append(
        f"An emotion shifts where it differs from that of the last labelled utterance of {of} in the dialogue; an "
        "utterance without one before it is in neither group."
    )
    parts += [("emotion shifts", "emotion shift", shift), ("emotion stays", "emotion shift", same)]
    found = []
    for name, of_what, mask in parts:
        mask = mask & labelled
        if mask.any():
            where = {reference.keys[row][:2] for row in mask.nonzero().flatten().tolist()}
            found.append(Group(name, of_what, int(mask.sum()), len(where), mask))
    return found


class _Drawn:
    """The scores of a system in every sample of dialogues.

    Attributes:
        scores: ``(S, R, G + C)``: the weighted F1 of all and of every group, then the F1 of every emotion.
        observed: ``(R, G + C)`` of the dialogues as they are.
    """

    def __init__(self, tables: Tensor, samples: int, seed: int) -> None:
        dialogues = len(tables)
        flat = tables.flatten(1)
        generator = np.random.default_rng(seed)
        parts = []
        for start in range(0, samples, 1000):
            counts = drawn_counts(generator, dialogues, min(1000, samples - start))
            parts.append(_score((counts @ flat).view(len(counts), *tables.shape[1:])))
        self.seed = seed
        self.scores = torch.cat(parts)
        self.observed = _score(tables.sum(0))

    def shares(self, *apart: int) -> Tensor:
        """How much each run counts in each sample, ``(S, R, 1)``; equal for systems with equally many runs.

        Args:
            *apart: Numbers that make the draws independent of those of other systems.
        """
        samples, runs, _ = self.scores.shape
        generator = np.random.default_rng([self.seed, runs, *apart])
        sizes = [min(1000, samples - start) for start in range(0, samples, 1000)]
        return torch.cat([drawn_counts(generator, runs, size) for size in sizes])[..., None] / runs


def _score(tables: Tensor) -> Tensor:
    """Scores ``(..., G + C)`` of confusion matrices ``(..., G, C, C)``, the first of which is of all utterances."""
    return torch.cat([weighted_f1(tables), class_scores(tables[..., 0, :, :])[2]], -1)


def _scores(
    name: str,
    system: System,
    runs: Sequence[Predictions],
    tables: Tensor,
    groups: Sequence[Group],
    drawn: _Drawn,
    reference: Predictions,
) -> SystemScores:
    labels = reference.labels
    whole = [run.metrics() for run in runs]
    over = 100 * (drawn.scores * drawn.shares()).sum(1)[:, 0]
    observed = 100 * drawn.observed
    first = 1 + len(groups)
    return SystemScores(
        name,
        list(system.seeds),
        [100 * m["weighted_f1"] for m in whole],
        percentile_interval(over),
        [100 * m["accuracy"] for m in whole],
        [100 * m["macro_f1"] for m in whole],
        {labels.names[c]: observed[:, first + c].tolist() for c in labels.report_ids},
        {group.name: observed[:, 1 + index].tolist() for index, group in enumerate(groups)},
    )


def _order(a: System, b: System, notes: list[str]) -> tuple[list[int], list[int]]:
    """The runs of two systems, paired; empty if their numbers differ."""
    if len(a.runs) != len(b.runs):
        notes.append(
            f"{a.name} has {len(a.runs)} runs and {b.name} {len(b.runs)}: there is no paired test over runs, and the "
            "bootstrap draws them apart."
        )
        return [], []
    plain = list(range(len(a.runs)))
    if None in (*a.seeds, *b.seeds):
        return plain, plain
    if sorted(map(str, a.seeds)) != sorted(map(str, b.seeds)) or len(set(a.seeds)) < len(a.seeds):
        notes.append(f"{a.name} and {b.name} have other seeds: their runs are paired in the order given.")
        return plain, plain
    return plain, [list(b.seeds).index(seed) for seed in a.seeds]


def _pairs(
    given: Mapping[str, System],
    runs: Mapping[str, Sequence[Predictions]],
    drawn: Mapping[str, _Drawn],
    groups: Sequence[Group],
    scored: Sequence[SystemScores],
    reference: Predictions,
    notes: list[str],
) -> list[Pair]:
    labels, labelled = reference.labels, reference.gold != IGNORE_INDEX
    samples_drawn = len(next(iter(drawn.values())).scores)
    right = {
        name: torch.stack([(run.predicted == run.gold)[labelled] for run in of]).double() for name, of in runs.items()
    }
    found: list[dict[str, Any]] = []
    first = 1 + len(groups)
    for a, b in combinations(given, 2):
        ours, theirs = _order(given[a], given[b], notes)
        x, y = drawn[a], drawn[b]
        share = x.shares()
        if ours:
            samples = ((y.scores[:, theirs] - x.scores[:, ours]) * share).sum(1)
            over_runs = 100 * (y.observed[theirs, 0] - x.observed[ours, 0])
            alone = _alone(right[a][ours], right[b][theirs])
        else:
            apart = y.shares(1)
            samples = (y.scores * apart).sum(1) - (x.scores * share).sum(1)
            over_runs = torch.empty(0)
            # Every run of one with every run of the other: there are no pairs.
            alone = _alone(right[a].mean(0), right[b].mean(0))
        observed = 100 * (y.observed.mean(0) - x.observed.mean(0))
        differences = [_bootstrap(observed[i], 100 * samples[:, i]) for i in range(samples.shape[1])]
        t_test, wilcoxon, effect = _over_runs(over_runs.tolist())
        spread = float((100 * samples[:, 0]).std())
        found.append(
            {
                "a": a,
                "b": b,
                "runs": len(ours),
                "weighted_f1": differences[0],
                "t_test": t_test,
                "wilcoxon": wilcoxon,
                "effect": effect,
                "only_a": 100 * alone[0],
                "only_b": 100 * alone[1],
                "detectable": _VISIBLE * spread,
                "classes": _corrected({labels.names[c]: differences[first + c] for c in labels.report_ids}),
                "groups": _corrected({group.name: differences[1 + i] for i, group in enumerate(groups)}),
            }
        )
    overall = _corrected({str(index): pair["weighted_f1"] for index, pair in enumerate(found)})
    for index, pair in enumerate(found):
        pair["weighted_f1"] = overall[str(index)]
    for name in ("t_test", "wilcoxon"):
        tested = [pair for pair in found if pair[name] is not None]
        for pair, corrected in zip(tested, holm([pair[name] for pair in tested]), strict=True):
            pair[name] = RunsTest(pair[name], corrected)
    least = 2 * len(found) / (samples_drawn + 1)
    if least > ALPHA / 2:
        notes.append(
            f"With {samples_drawn:,} samples and {len(found)} pairs, the smallest corrected p-value is {least:.3f}: "
            "take more samples."
        )
    smallest = min((pair["runs"] for pair in found if pair["wilcoxon"] is not None), default=0)
    if 0 < smallest < 6:
        notes.append(
            f"With {smallest} runs, Wilcoxon's p-value is at least {2 / 2**smallest:.4g}: six runs or more are needed "
            "for one below 0.05."
        )
    return [Pair(**pair) for pair in found]


def _alone(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """Shares of utterances that only one of two systems gets right, from how often each is right."""
    return float((ours * (1 - theirs)).mean()), float((theirs * (1 - ours)).mean())


def _bootstrap(observed: Tensor, samples: Tensor) -> BootstrapResult:
    tail = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    return BootstrapResult(float(observed), percentile_interval(samples), min(1.0, 2 * (tail + 1) / (len(samples) + 1)))


def _corrected(found: Mapping[str, BootstrapResult]) -> dict[str, Difference]:
    corrected = holm([result.p for result in found.values()])
    return {name: Difference(*result, p) for (name, result), p in zip(found.items(), corrected, strict=True)}


def _over_runs(differences: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """P of the paired t-test, p of Wilcoxon's test, and Cohen's d; nothing where the runs do not differ."""
    if len(differences) < 2 or max(differences) - min(differences) < 1e-9:
        return None, None, None
    from scipy import stats  # a second to import, and only a comparison needs it

    effect = statistics.fmean(differences) / statistics.stdev(differences)
    return (
        float(stats.ttest_1samp(differences, 0).pvalue),
        float(stats.wilcoxon(differences).pvalue),
        effect,
    )
