"""Fusion: a head over the hidden states of teacher and students, or over raw features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from merc.batch import ConversationBatch
from merc.fusion import FusionHead
from merc.labels import IGNORE_INDEX
from merc.losses import FusionLoss, PolynomialCrossEntropy
from merc.tasks.base import EmotionTask, Prediction

_cross_entropy = PolynomialCrossEntropy(alpha=0.0)


class FusionTask(EmotionTask):
    """Trains any :class:`~merc.fusion.FusionHead`.

    Args:
        head: The fusion head; its ``dims`` are checked against the stores.
        loss: Module from logits ``(N, C)``, labels ``(N,)`` and embeddings ``(N, d)`` to a dict of weighted terms.
            Default: cross-entropy alone.
        head_weights: Weights of the head's own ``losses``, by name; a term that is not named has weight 1, one of
            weight 0 is left out.
        aux_weight: Weight of the mean cross-entropy of the head's auxiliary classifiers, each on the utterances that
            have its modality; 0 leaves them to the other terms.
        modality_dropout: Probability, in training, that an utterance loses a modality; at least one always stays.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).

    Raises:
        ValueError: A weight is negative, or the probability is not in [0, 1).
    """

    def __init__(
        self,
        head: FusionHead,
        loss: FusionLoss | None = None,
        head_weights: dict[str, float] | None = None,
        aux_weight: float = 0.1,
        modality_dropout: float = 0.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(head.num_classes, optimizer, lr_scheduler)
        weights: Mapping[str, float] = {**(head_weights or {}), "aux_weight": aux_weight}
        if min(weights.values()) < 0 or not 0 <= modality_dropout < 1:
            raise ValueError(
                f"Expected weights >= 0 and modality_dropout in [0, 1), got {weights}, {modality_dropout}."
            )
        self.head = head
        self.loss = loss
        self.head_weights = dict(head_weights or {})
        self.aux_weight = aux_weight
        self.modality_dropout = modality_dropout

    @property
    def modalities(self) -> dict[str, int]:
        """The modalities of the head."""
        return self.head.dims

    def predict(self, batch: ConversationBatch) -> Prediction:
        """Fuse; the terms are those of the loss, of the head, and of its auxiliary classifiers."""
        if self.training and self.modality_dropout:
            batch = self._drop_modalities(batch)
        output = self.head(batch)
        if self.loss is None:
            terms = {"ce": _cross_entropy(output.logits, batch.label)}
        else:
            terms = dict(self.loss(output.logits, batch.label, output.embeddings))
        for name, term in output.losses.items():
            if weight := self.head_weights.get(name, 1.0):
                terms[f"head/{name}"] = weight * term
        if self.aux_weight and output.aux_logits:
            aux = [
                _cross_entropy(logits, batch.label.where(batch.present[name], IGNORE_INDEX))
                for name, logits in output.aux_logits.items()
            ]
            terms["aux"] = self.aux_weight * torch.stack(aux).mean()
        return Prediction(output.logits, output.embeddings, terms)

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
