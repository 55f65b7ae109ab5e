"""A student: a graph encoder on audio or visual features, taught by what is stored of a teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from merc.batch import ConversationBatch
from merc.datamodules.base import CorpusDataModule
from merc.datamodules.facts import DataFacts
from merc.graphs import GraphEncoder
from merc.losses import DistillationLoss, FeatureSimilarityLoss, StudentLoss, ValueDistillationLoss
from merc.tasks.base import EmotionTask
from merc.tasks.classifier import Prediction
from merc.tasks.factory import Factory
from merc.tasks.targets import OneKind, Targets


class Taught(ABC):
    """What students share: losses on the labels, and on what is stored of a teacher."""

    loss: DistillationLoss | StudentLoss | ValueDistillationLoss
    feature_loss: FeatureSimilarityLoss | None
    other_losses: nn.ModuleList | tuple[()]
    """The losses of further kinds of targets than the first."""

    teacher: str
    teacher_hidden: str

    @property
    def losses(self) -> list[Any]:
        """The losses of all kinds of targets."""
        return [self.loss, *self.other_losses]

    @abstractmethod
    def kinds(self, outputs: Tensor) -> list[tuple[OneKind, float, Tensor]]:
        """The kinds of targets, each with the weight of its loss and its share of the outputs."""

    @property
    @abstractmethod
    def classes(self) -> list[str]:
        """What the outputs mean, which those of the teacher must mean too."""

    @property
    @abstractmethod
    def known_facts(self) -> DataFacts:
        """What the network was built from."""

    @property
    @abstractmethod
    def hidden_dim(self) -> int:
        """Width of the hidden states, which those of the teacher must have too."""

    def require_teacher(self, data: CorpusDataModule) -> None:
        """Check that the stores have of the teacher what the losses need.

        Raises:
            StoreError: They have not, or the logits are of other emotions.
        """
        if any(loss.needs_teacher for loss in self.losses):
            data.require(self.teacher, kind="logits", dim=len(self.classes), classes=self.classes)
        if self.feature_loss is not None and self.feature_loss.needs_teacher:
            data.require(self.teacher_hidden, dim=self.hidden_dim)

    def taught(
        self,
        logits: Tensor,
        hidden: Tensor,
        targets: Sequence[Tensor],
        present: Tensor,
        stored: Callable[[str], tuple[Tensor, Tensor] | None],
        everywhere: bool = False,
    ) -> dict[str, Tensor]:
        """The terms of the losses for which the teacher is at hand.

        Args:
            logits: ``(N, C)`` of the student.
            hidden: ``(N, d)`` of the student.
            targets: By kind: ``(N,)`` label ids, -100 for unlabelled, or ``(N, D)`` numbers, NaN for unknown.
            present: ``(N,)`` whether the student reads anything of an utterance.
            stored: By name, what a store of the teacher has of the utterances: features and presence.
            everywhere: Whether the teacher's logits count also where the student reads nothing.
        """
        terms: dict[str, Tensor] = {}
        teacher, known = stored(self.teacher) or (None, None)
        counted = known if everywhere or known is None else known & present
        of_teacher = [None] * len(targets) if teacher is None else [given for *_, given in self.kinds(teacher)]
        every = zip(self.kinds(logits), self.losses, targets, of_teacher, strict=True)
        for (kind, weight, outputs), loss, target, given in every:
            if given is not None or not loss.needs_teacher:
                told = None if given is None else kind.inputs(given, self.known_facts)
                found = loss(outputs, target, told, counted)
                terms |= {f"values/{name}" if name in terms else name: weight * term for name, term in found.items()}
        teacher_hidden, known = stored(self.teacher_hidden) or (None, None)
        if self.feature_loss is not None and teacher_hidden is not None and known is not None:
            # The fusion reads hidden states where the modality is there; elsewhere there is nothing to make similar.
            terms |= self.feature_loss(hidden, teacher_hidden, known & present)
        return terms


class StudentTask(EmotionTask, Taught):
    """Trains a graph encoder on labels and on a teacher (eq. 10 of arXiv 2511.13731, eq. 6 of arXiv 2401.12987).

    The teacher's logits, and its hidden states if a loss compares them, come from feature stores, written once
    by ``merc predict``; they are never computed again, and nothing of the teacher can move.

    Args:
        network: Makes the graph encoder from the width of the modality and the number of emotions: a subclass of
            :class:`~merc.graphs.GraphEncoder`, or a :class:`functools.partial` of one with options of its own.
        modality: The features that it reads, and the graph that it uses.
        loss: The loss on labels and on the teacher's logits. Default: :class:`merc.losses.DistillationLoss`, for
            numbers :class:`merc.losses.ValueDistillationLoss`.
        teacher: Name under which the datamodule has the teacher's logits, if the loss needs them.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).
        feature_loss: A further loss on the teacher's hidden states, over the utterances that have the modality.
            Default: none.
        teacher_hidden: Name under which the datamodule has these hidden states, as wide as those of the network.
        targets: What the outputs mean: emotions (the default), numbers (:class:`merc.tasks.ValueTargets`), or both
            (:class:`merc.tasks.EmotionValueTargets`); the teacher's must mean the same.
    """

    network: GraphEncoder

    def __init__(
        self,
        network: Callable[[int, int], GraphEncoder],
        modality: str = "audio",
        loss: DistillationLoss
        | StudentLoss
        | ValueDistillationLoss
        | None = None,  # the first for configs that name no class
        teacher: str = "teacher",
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        feature_loss: FeatureSimilarityLoss | None = None,
        teacher_hidden: str = "teacher_hidden",
        targets: Targets | None = None,
    ) -> None:
        super().__init__(optimizer, lr_scheduler, targets)
        self.targets.check_loss(loss, ValueDistillationLoss)
        self.make_network = Factory(network)
        self.register_module("network", None)  # its place is before the loss, in reports and among the parameters
        self.modality = modality
        kind, *others = self.targets.parts
        self.loss = loss or kind.student_loss()
        self.other_losses = nn.ModuleList(other.student_loss() for other in others) if others else ()
        self.teacher = teacher
        self.feature_loss = feature_loss
        self.teacher_hidden = teacher_hidden

    def build_network(self, facts: DataFacts) -> None:
        """Make the graph encoder."""
        self.network = self.make_network(facts.width(self.modality), facts.num_classes)

    @property
    def inputs(self) -> dict[str, int]:
        """The one modality of the student, with its width."""
        return {self.modality: self.network.dim}

    def setup(self, stage: str) -> None:
        """Check also that the teacher's logits mean the emotions of this corpus, and how wide its hidden states are."""
        super().setup(stage)
        if stage in ("fit", "validate"):
            self.require_teacher(self.data)

    @property
    def hidden_dim(self) -> int:
        """Width of the network's hidden states."""
        return self.network.hidden_dim

    def step(self, batch: ConversationBatch) -> Prediction:
        """Encode the conversations; the terms are those of the losses for which the teacher is at hand."""
        name = self.modality
        logits, hidden = self.network(batch.features[name], batch.present[name], batch.graph(name))

        def stored(name: str) -> tuple[Tensor, Tensor] | None:
            return (batch.features[name], batch.present[name]) if name in batch.features else None

        # A graph encoder has something to say of every utterance, by those around it.
        targets = [kind.of(batch, self.known_facts) for kind in self.targets.parts]
        terms = self.taught(logits, hidden, targets, batch.present[name], stored, everywhere=True)
        return Prediction(logits, hidden, terms)
