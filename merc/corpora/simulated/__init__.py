"""A simulated corpus whose best possible score is known: generation, exact posteriors, the optimum."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merc.conversation import CORPUS_FILE, Conversation, Corpus, Utterance, UtteranceKey
from merc.corpora.simulated.config import MODALITIES, SimulationConfig
from merc.corpora.simulated.generate import Emission, SimulatedSplit, draw_first_face, draw_split
from merc.corpora.simulated.oracle import Optimum, best_decision, chain_posterior, score, weighted_f1
from merc.features.table import FeaturedCorpus, FeatureTable
from merc.files import write_json

__all__ = [
    "FIRST_FACE",
    "MODALITIES",
    "OPTIMUM_FILE",
    "Emission",
    "Optimum",
    "SimulatedCorpus",
    "SimulatedSplit",
    "SimulationConfig",
    "best_decision",
    "chain_posterior",
    "simulate",
    "weighted_f1",
]

FIRST_FACE = "visual_first_face"
"""Features beside ``visual``: those of the first face in the picture, whoever speaks."""

OPTIMUM_FILE = "optimum.json"
"""Where :meth:`SimulatedCorpus.save` writes the optimum of every subset of modalities."""


def simulate(config: SimulationConfig | None = None, **overrides: Any) -> SimulatedCorpus:  # noqa: ANN401
    """Draw a corpus whose best possible score is known.

    Args:
        config: Parameters. Default: calibrated to MELD.
        **overrides: Fields of :class:`SimulationConfig` to change, for example ``seed=3``.

    Raises:
        ValueError: A parameter is out of its range.
        TypeError: ``overrides`` has a name that is no field.

    Example:
        >>> corpus = simulate(dialogues={"train": 20, "test": 20}, seed=3)
        >>> corpus.posterior("test", ["text", "audio"]).shape[1]
        7
    """
    config = dataclasses.replace(config or SimulationConfig(), **overrides)
    emissions = {modality: Emission.draw(config, modality) for modality in config.modalities}
    drawn = {split: draw_split(config, split, emissions) for split in config.dialogues}
    corpus = Corpus(
        name="simulated",
        labels=config.labels,
        splits={split: _conversations(config, split, data) for split, data in drawn.items()},
        protocol=f"simulated, seed {config.seed}",
        notes=(
            f"Labels are noisy: each is redrawn with probability {config.label_noise:g}, as annotators disagree.",
            "The text of an utterance says nothing about its emotion: only the features do.",
        ),
        dimensions=config.dimensions,
    )
    features = {
        modality: _table(config, modality, corpus, drawn, [data.features[modality] for data in drawn.values()])
        for modality in config.modalities
    }
    if "visual" in emissions:
        faces = [draw_first_face(config, split, data, emissions["visual"]) for split, data in drawn.items()]
        features[FIRST_FACE] = _table(config, "visual", corpus, drawn, faces, face="the first in the picture")
    return SimulatedCorpus(corpus, features, config, emissions, drawn)


@dataclass(frozen=True, eq=False)
class SimulatedCorpus(FeaturedCorpus):
    """A corpus drawn by :func:`simulate`, with its oracle.

    Args:
        corpus: The conversations.
        features: Tables by modality, and :data:`FIRST_FACE` where there is ``visual``.
        config: Parameters that it was drawn with.
        emissions: How each modality shows an emotion.
        drawn: Everything drawn for each split, hidden variables included.
    """

    config: SimulationConfig
    emissions: Mapping[str, Emission]
    drawn: Mapping[str, SimulatedSplit]
    _optima: dict[tuple[str, tuple[str, ...], bool], Optimum] = field(default_factory=dict, init=False, repr=False)

    def posterior(self, split: str, modalities: Iterable[str], context: bool = True) -> Tensor:
        """The exact probability of every label, given what these modalities show.

        Args:
            split: Name of the split.
            modalities: A non-empty subset of the corpus's modalities; the order does not matter.
            context: Given the whole dialogue, by forward-backward over its turns (whose speakers are known);
                else given the utterance alone.

        Returns:
            P(label | features), ``(N, C)`` float64: the posterior of the true emotion, passed through the
            confusion of the annotators. Rows are the utterances of the split in order.

        Raises:
            KeyError: There is no such split.
            ValueError: ``modalities`` is empty or has one that the corpus lacks.
        """
        return self._emotion(split, modalities, context) @ torch.from_numpy(self.config.confusion)

    def _emotion(self, split: str, modalities: Iterable[str], context: bool) -> Tensor:
        """The exact probability of every true emotion."""
        data, chosen = self._split(split), self._subset(modalities)
        log_likelihood = torch.stack([data.log_likelihood[m] for m in chosen]).sum(0)
        prior = torch.from_numpy(self.config.prior)
        if context:
            same_speaker = torch.cat([data.speaker.new_zeros(1), data.speaker[:-1]]) == data.speaker
            same = torch.from_numpy(self.config.transition(same_speaker=True))
            other = torch.from_numpy(self.config.transition(same_speaker=False))
            return chain_posterior(log_likelihood, data.ptr, same_speaker, prior, same, other)
        return (log_likelihood + prior.log()).softmax(dim=1)

    def expected_values(self, split: str, modalities: Iterable[str], context: bool = True) -> Tensor:
        """The exact mean of every number, given what these modalities show: no model has a smaller squared error.

        Args:
            split: Name of the split.
            modalities: A non-empty subset of the corpus's modalities.
            context: Given the whole dialogue, else the utterance alone.

        Returns:
            ``(N, D)`` float64.
        """
        return self._emotion(split, modalities, context) @ torch.from_numpy(self.config.middles)

    def optimal_ccc(self, split: str, modalities: Iterable[str], context: bool = True) -> float:
        r"""The highest concordance that a model can expect, as the mean over the dimensions.

        With :math:`m = E[v | x]`, no function of x correlates more with v than m does, and CCC is at most the
        correlation. A linear function of m that has mean and deviation of v reaches it: the optimum is the correlation
        of m and v.

        Args:
            split: Name of the split.
            modalities: A non-empty subset of the corpus's modalities.
            context: Given the whole dialogue, else the utterance alone.

        Raises:
            ValueError: The corpus has no numbers.
        """
        if not self.config.values:
            raise ValueError("The simulated corpus has no numbers: give it values, such as {'valence': {'joy': 2}}.")
        pairs = zip(self.expected_values(split, modalities, context).T, self._split(split).values.T, strict=True)
        # Where all numbers of a dimension are equal there is no correlation, and its CCC is 0 by definition.
        found = [float(torch.corrcoef(torch.stack(pair))[0, 1].nan_to_num(0.0)) for pair in pairs]
        return sum(found) / len(found)

    def optimum(self, split: str, modalities: Iterable[str], context: bool = True) -> float:
        """Weighted F1, as a fraction, of the best decision for the exact posterior; see :meth:`optimum_of`."""
        return self.optimum_of(split, modalities, context).weighted_f1

    def optimum_of(self, split: str, modalities: Iterable[str], context: bool = True) -> Optimum:
        """The best that any model can do with these modalities on this split.

        It is the weighted F1, on the split's labels, of the predictions that maximise the weighted F1 expected under
        :meth:`posterior` (see :func:`best_decision`). No model that sees the features and not the labels can
        expect more; by luck with these labels it can get more, within the standard error.

        Args:
            split: Name of the split.
            modalities: A non-empty subset of the corpus's modalities.
            context: Whether the model sees the whole dialogue or the utterance alone.

        Raises:
            KeyError: There is no such split.
            ValueError: ``modalities`` is empty or has one that the corpus lacks.
        """
        data, chosen = self._split(split), self._subset(modalities)
        if (split, chosen, context) not in self._optima:
            generator = torch.Generator().manual_seed(0)  # the same resamples for every subset: errors compare
            found = score(self.posterior(split, chosen, context), data.label, data.ptr, generator=generator)
            self._optima[split, chosen, context] = found
        return self._optima[split, chosen, context]

    def optima(self, split: str) -> dict[str, dict[str, float | int]]:
        """The optimum of every non-empty subset of modalities, in percent.

        Args:
            split: Name of the split.

        Returns:
            By subset (``text``, ``audio``, ..., ``text+audio+visual``): ``context`` and ``no_context``, weighted F1;
            ``standard_error`` of ``context``; ``utterances``; ``ccc`` in 0..1, with the context, if there are numbers.
        """
        table: dict[str, dict[str, float | int]] = {}
        for size in range(1, len(self.config.modalities) + 1):
            for subset in combinations(self.config.modalities, size):
                full = self.optimum_of(split, subset)
                table["+".join(subset)] = {
                    "context": round(100 * full.weighted_f1, 2),
                    "no_context": round(100 * self.optimum(split, subset, context=False), 2),
                    "standard_error": round(100 * full.standard_error, 2),
                    "utterances": full.utterances,
                }
                if self.config.values:
                    table["+".join(subset)]["ccc"] = round(self.optimal_ccc(split, subset), 4)
        return table

    def save(self, out: str | Path) -> None:
        """Write the corpus and its features, and ``out/optimum.json`` with :meth:`optima` of ``val`` and ``test``.

        Args:
            out: Folder of the imported corpus; created if need be.
        """
        out = Path(out)
        optima = {split: self.optima(split) for split in self.drawn if split != "train"}
        (out / CORPUS_FILE).unlink(missing_ok=True)  # an older corpus must not be read with this optimum
        write_json(out / OPTIMUM_FILE, optima)
        super().save(out)

    def _split(self, split: str) -> SimulatedSplit:
        if split not in self.drawn:
            raise KeyError(f"The simulated corpus has no split {split!r}; it has {', '.join(self.drawn)}.")
        return self.drawn[split]

    def _subset(self, modalities: Iterable[str]) -> tuple[str, ...]:
        given = {modalities} if isinstance(modalities, str) else set(modalities)
        if not given or not given <= set(self.config.modalities):
            raise ValueError(
                f"Modalities {sorted(given)}: expected a non-empty subset of {', '.join(self.config.modalities)}."
            )
        return tuple(m for m in self.config.modalities if m in given)


def _conversations(config: SimulationConfig, split: str, data: SimulatedSplit) -> list[Conversation]:
    names = config.labels.names
    label, speaker, ptr = data.label.tolist(), data.speaker.tolist(), data.ptr.tolist()
    values = data.values.tolist()
    return [
        Conversation(
            str(dialogue),
            tuple(
                Utterance(
                    str(row - start),
                    speaker=f"speaker{speaker[row] + 1}",
                    text=f"Turn {row - start + 1} of dialogue {dialogue}.",
                    label=names[label[row]],
                    values=dict(zip(config.values, values[row], strict=True)) if config.values else None,
                )
                for row in range(start, end)
            ),
            split,
        )
        for dialogue, (start, end) in enumerate(pairwise(ptr))
    ]


def _table(
    config: SimulationConfig,
    modality: str,
    corpus: Corpus,
    drawn: Mapping[str, SimulatedSplit],
    features: Sequence[Tensor],
    **about: str,
) -> FeatureTable:
    """The features of a modality, ``(N, width)`` for each split, as a table of the utterances that have it."""
    keys = [key for split in drawn for conversation in corpus[split] for key in conversation.keys]
    present = torch.cat([data.present[modality] for data in drawn.values()])
    here, missing = [], dict[UtteranceKey, str]()
    for key, there in zip(keys, present.tolist(), strict=True):
        if there:
            here.append(key)
        else:
            missing[key] = "absent at random in the simulation"
    parameters = dataclasses.asdict(config)
    for name in ("values", "value_noise"):  # features do not depend on them
        parameters.pop(name)
    faces = parameters.pop("face_counts")  # of no concern to the other features, whose story stays as it was
    if about:
        parameters["face_counts"] = faces
    provenance = {"source": "merc.corpora.simulate", "modality": modality, "config": parameters, **about}
    return FeatureTable(here, torch.cat(tuple(features))[present], missing, provenance)
