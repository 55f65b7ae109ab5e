"""Fusion: a head over the hidden states of teacher and students, or over raw features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from merc.batch import ConversationBatch
from merc.datamodules.facts import DataFacts
from merc.datamodules.made_up import made_up_batch
from merc.evaluation.uncertainty import Stress, stressed
from merc.fusion import FusionHead, FusionOutput
from merc.graphs import GraphBuilder
from merc.tasks.base import EmotionTask
from merc.tasks.classifier import Prediction
from merc.tasks.factory import Factory
from merc.tasks.targets import Targets

_LOST = (0.25, 0.5, 1.0)
_NOISE = (0.5, 1.0, 2.0)
"""Shares of the utterances of a test that lose a modality, for the report."""


class FusionTask(EmotionTask):
    """Trains any :class:`~merc.fusion.FusionHead`.

    Args:
        head: Makes the head from the widths of the modalities, by name, and the number of emotions: a subclass of
            :class:`~merc.fusion.FusionHead`, or a :class:`functools.partial` of one with options of its own.
        loss: Makes the loss from the width of the head's embeddings (0 if it gives none): a module from logits
            ``(N, C)``, labels ``(N,)`` and embeddings ``(N, d)`` to a dict of weighted terms, such as
            :class:`merc.losses.FusionLoss`. Default: that of the targets, for emotions cross-entropy alone.
        head_weights: Weights of the head's own ``losses``, by name; a term that is not named has weight 1, one of
            weight 0 is left out. The first batch warns of a name that the head has given no term.
        aux_weight: Weight of the mean loss (cross-entropy for emotions) of the head's auxiliary classifiers, each on
            the utterances that have its modality; 0 leaves them to the other terms.
        modality_dropout: Probability, in training, that an utterance loses a modality; at least one always stays.
        modalities: The stores that the head reads. Default: all of the datamodule but those of logits.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).
        targets: What the outputs mean: emotions (the default), numbers (:class:`merc.tasks.ValueTargets`, which has
            its own loss), or both (:class:`merc.tasks.EmotionValueTargets`, with a loss of its own for the numbers).

    Raises:
        ValueError: A weight is negative, or the probability is not in [0, 1).

    Example:
        >>> from merc.fusion import ConcatFusion
        >>> facts = DataFacts({"text": 384, "audio": 40}, ("neutral", "joy"), (70, 30), ("text", "audio"))
        >>> FusionTask(ConcatFusion).build(facts).head.dims  # a Trainer does this with the facts of its datamodule
        {'text': 384, 'audio': 40}
    """

    head: FusionHead
    loss: nn.Module | None

    def __init__(
        self,
        head: Callable[[dict[str, int], int], FusionHead],
        loss: Callable[[int], nn.Module] | None = None,
        head_weights: dict[str, float] | None = None,
        aux_weight: float = 0.1,
        modality_dropout: float = 0.0,
        modalities: list[str] | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        targets: Targets | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, targets)
        weights: Mapping[str, float] = {**(head_weights or {}), "aux_weight": aux_weight}
        if min(weights.values()) < 0 or not 0 <= modality_dropout < 1:
            raise ValueError(
                f"Expected weights >= 0 and modality_dropout in [0, 1), got {weights}, {modality_dropout}."
            )
        self.make_head = Factory(head)
        self.make_loss = None if loss is None else Factory(loss)
        self.head_weights = dict(head_weights or {})
        self.aux_weight = aux_weight
        self.modality_dropout = modality_dropout
        self.modalities = modalities
        self._checked = False
        self.embedding_dim: int | None = None
        """Width of the head's embeddings; known if a loss needs it."""

    def reads(self, facts: DataFacts) -> list[str]:
        """The stores that the head is to read, in the order of the data.

        Raises:
            StoreError: The data lacks one.
        """
        if self.modalities is None:
            return list(facts.modalities)
        for name in self.modalities:
            facts.width(name)
        return [name for name in facts.widths if name in self.modalities]

    def build_network(self, facts: DataFacts) -> None:
        """Make the head, then the loss on its embeddings."""
        self.head = self.make_head({n: facts.widths[n] for n in self.reads(facts)}, facts.num_classes)
        self.head.num_values = self.targets.num_values(facts)
        self.loss = None
        if self.make_loss is not None:
            self.embedding_dim = _embedding_dim(self.head)
            self.loss = self.make_loss(self.embedding_dim)
            self.targets.check_loss(self.loss)

    @property
    def inputs(self) -> dict[str, int]:
        """The modalities of the head, with their widths."""
        return self.head.dims

    def step(self, batch: ConversationBatch) -> Prediction:
        """Fuse; the terms are those of the loss, of the head, and of its auxiliary classifiers."""
        if self.training and self.modality_dropout:
            batch = self._drop_modalities(batch)
        output = self.head(self.targets.hidden_from(batch))
        terms = self._loss_terms(output, batch)
        if self.training and not self._checked:
            self._checked = True
            self._warn_of_idle_weights(output.losses)
        unfit = self.head.emotion_losses if self.targets.hides_labels else ()
        for name, term in output.losses.items():
            weight = 0.0 if name in unfit else self.head_weights.get(name, 1.0)
            if weight:
                terms[f"head/{name}"] = weight * term
        if self.aux_weight and output.aux_logits:
            aux = [
                weight * kind.default_loss(outputs, kind.where(kind.of(batch, self.known_facts), batch.present[name]))
                for name, logits in output.aux_logits.items()
                for kind, weight, outputs in self.kinds(logits)
            ]
            terms["aux"] = self.aux_weight * torch.stack(aux).sum() / len(output.aux_logits)
        return Prediction(output.logits, output.embeddings, terms)

    def _warn_of_idle_weights(self, given: Mapping[str, Tensor]) -> None:
        """Warn of weights that change nothing, before a long training and not after it.

        Which terms a head gives depends on its options and modalities, and not on the batch.
        """
        idle = sorted(name for name, weight in self.head_weights.items() if weight and name not in given)
        if idle:
            rank_zero_warn(
                f"head_weights names {', '.join(idle)}, which changes nothing: {type(self.head).__name__} gives, with "
                f"these options and modalities, {', '.join(sorted(given)) or 'no loss terms'} in the first batch."
            )

    def _loss_terms(self, output: FusionOutput, batch: ConversationBatch) -> dict[str, Tensor]:
        """The terms of the losses of all kinds of targets; of an ensemble the means over its members."""
        found: dict[str, Tensor] = {}
        every = output.logits[None] if output.votes is None else output.votes
        for number, (kind, weight, members) in enumerate(self.kinds(every)):
            target = kind.of(batch, self.known_facts)
            if number or self.loss is None:  # the loss of the task is of the first kind
                if kind.term in found:
                    raise ValueError(
                        f"{type(self.loss).__name__} gives a term {kind.term!r}, which is the name of the loss of "
                        f"{type(self.targets).__name__} on the same outputs: expected another name. Rename the term."
                    )
                losses = [kind.default_loss(logits, target) for logits in members]
                found[kind.term] = weight * torch.stack(losses).mean()
            else:
                terms = [self.loss(logits, target, output.embeddings) for logits in members]
                found |= {name: torch.stack([of[name] for of in terms]).mean() for name in terms[0]}
        return found

    def stressed(self, batch: ConversationBatch) -> dict[Stress, Tensor]:
        """What the head predicts where utterances lack one of its modalities, or it is noisy."""
        found = {}
        for stress in stresses_of(list(self.head.dims)):
            logits = self.head(self.targets.hidden_from(stressed(batch, stress))).logits
            found[stress] = self.targets.decided(logits, self.known_facts)
        return found

    def settings(self) -> dict[str, Any]:
        """The features that the head reads, with their widths, and the width that its loss was made for."""
        return {**super().settings(), "embedding_dim": self.embedding_dim}

    def _drop_modalities(self, batch: ConversationBatch) -> ConversationBatch:
        names = list(self.head.dims)
        there = torch.stack([batch.present[name] for name in names])
        chance = torch.rand(there.shape, device=there.device).masked_fill(~there, -1)
        keep = there & ((chance >= self.modality_dropout) | (chance == chance.max(0, keepdim=True).values))
        return replace(
            batch,
            features={**batch.features, **{n: batch.features[n] * keep[i][:, None] for i, n in enumerate(names)}},
            present={**batch.present, **{n: keep[i] for i, n in enumerate(names)}},
        )


def stresses_of(modalities: Sequence[str]) -> list[Stress]:
    """What the test of a fusion of some modalities is made harder by; one that is alone cannot be lost."""
    stresses: list[Stress] = [("noise", name, level) for name in modalities for level in _NOISE]
    if len(modalities) > 1:
        stresses += [("without", name, share) for name in modalities for share in _LOST]
    return stresses


def _embedding_dim(head: FusionHead) -> int:
    """The width of the embeddings that a head gives; 0 if it gives none."""
    graphs = {name: GraphBuilder() for name in head.dims}  # a head may read the graphs of the data
    batch = made_up_batch(head.dims, max(1, head.num_classes - head.num_values), graphs, lengths=[2])
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        embeddings = head.eval()(batch).embeddings
    head.train()
    return 0 if embeddings is None else int(embeddings.shape[-1])
