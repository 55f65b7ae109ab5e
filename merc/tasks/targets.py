"""What the outputs of a network mean: emotions, numbers such as valence and sentiment, or both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from merc.conversation import Corpus, Utterance
from merc.datamodules.facts import DataFacts
from merc.evaluation import (
    EmotionMetrics,
    EmotionValueMetrics,
    EmotionValuePredictions,
    Predictions,
    ReportInfo,
    ValueMetrics,
    ValuePredictions,
    write_emotion_value_report,
    write_report,
    write_value_report,
)
from merc.evaluation.ledger import Opening
from merc.evaluation.uncertainty import Stress
from merc.evaluation.values import annotated_values
from merc.labels import IGNORE_INDEX
from merc.losses import (
    ConcordanceLoss,
    DistillationLoss,
    PolynomialCrossEntropy,
    StudentLoss,
    ValueDistillationLoss,
    ValueLoss,
)

Batch = TypeVar("Batch", bound=Any)
AnyPredictions = Predictions | ValuePredictions | EmotionValuePredictions
AnyMetrics = Metric | EmotionValueMetrics

_OF_VALUES = "of_values_"


class Targets(ABC):
    """What a task predicts: how many outputs its network has, what they are compared with, and how they are scored.

    Networks and heads know nothing of it: their ``num_classes`` outputs are logits of emotions, numbers, or both.
    """

    monitor: ClassVar[str]
    """The score on ``val`` by which checkpoints are chosen."""

    scores: ClassVar[tuple[str, ...]]
    """The scores that are logged; the first is shown in the progress bar."""

    told: ClassVar[frozenset[str]]
    """What they are: ``emotions``, ``numbers``, or both."""

    hides_labels: ClassVar[bool] = False
    """Whether labels are hidden from the network, and its losses of emotions are left out."""

    @property
    @abstractmethod
    def parts(self) -> tuple[OneKind, ...]:
        """The kinds of outputs, in order. The loss of a task is that of the first; others have their own."""

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the losses of :attr:`parts`."""
        return (1.0,)

    def split(self, outputs: Tensor, facts: DataFacts) -> tuple[Tensor, ...]:
        """The outputs ``(..., C)`` of a network, or what a store holds of them, kind by kind."""
        return (outputs,)

    @abstractmethod
    def num_values(self, facts: DataFacts) -> int:
        """How many of the outputs, the last ones, are numbers."""

    @abstractmethod
    def names(self, facts: DataFacts) -> tuple[str, ...]:
        """What each output of the network means."""

    @abstractmethod
    def names_in(self, corpus: Corpus) -> Sequence[str]:
        """What the outputs of a network must mean for this corpus."""

    def network_facts(self, facts: DataFacts) -> DataFacts:
        """The facts that the network is built from: their ``classes`` are its outputs.

        Raises:
            ValueError: There is nothing to predict.
        """
        return facts

    @abstractmethod
    def known(self, batch: Any) -> Tensor:  # noqa: ANN401 - a LabelledBatch
        """``(N,)`` booleans: the utterances of a batch that are annotated."""

    def hidden_from(self, batch: Batch) -> Batch:
        """The batch as the network may see it."""
        return batch

    @abstractmethod
    def check_loss(self, loss: nn.Module | None, like: type[nn.Module] | None = None) -> None:
        """Refuse a loss that is made for other targets.

        Args:
            loss: The loss of a task, if it names one.
            like: What a loss of numbers must be for this task; ``None`` if the task takes none but that of the targets.

        Raises:
            ValueError: It is.
        """

    @abstractmethod
    def outputs(self, logits: Tensor, facts: DataFacts) -> Tensor:
        """What a store holds of the outputs."""

    @abstractmethod
    def decided(self, logits: Tensor, facts: DataFacts) -> Tensor:
        """The prediction for each utterance, on the CPU."""

    @abstractmethod
    def metrics(self, corpus: Corpus) -> AnyMetrics:
        """The metrics of a split."""

    @abstractmethod
    def update(self, metrics: AnyMetrics, logits: Tensor, batch: Any, facts: DataFacts) -> None:  # noqa: ANN401
        """Count a batch."""

    @abstractmethod
    def rows(self, logits: Tensor, batch: Any, facts: DataFacts) -> dict[str, Tensor]:  # noqa: ANN401
        """What :meth:`predictions` needs of a batch, on the CPU."""

    @abstractmethod
    def predictions(self, corpus: Corpus, rows: Mapping[str, Any]) -> AnyPredictions:
        """The predictions of a split."""

    @abstractmethod
    def report(
        self,
        folder: Path,
        predictions: AnyPredictions,
        *,
        info: ReportInfo,
        val: AnyPredictions | None,
        stressed: Mapping[Stress, Tensor],
        openings: Sequence[Opening],
        opening: Opening | None,
    ) -> None:
        """Write the report of a test."""


class OneKind(Targets):
    """Targets of one kind: emotions alone, or numbers alone."""

    term: ClassVar[str]
    """The name of the loss of a task that names none."""

    wanted: ClassVar[str]
    """What an utterance must have to be trained on or scored, for messages."""

    @property
    def parts(self) -> tuple[OneKind, ...]:
        """Itself."""
        return (self,)

    @abstractmethod
    def annotated(self, utterance: Utterance) -> bool:
        """Whether an utterance can be trained on or scored."""

    @abstractmethod
    def of(self, batch: Any, facts: DataFacts) -> Tensor:  # noqa: ANN401
        """What the outputs for a batch are compared with by the loss."""

    @property
    @abstractmethod
    def default_loss(self) -> nn.Module:
        """The loss of a task that names none, and of auxiliary outputs: from outputs and targets to a scalar."""

    @abstractmethod
    def student_loss(self) -> StudentLoss | ValueDistillationLoss:
        """The loss of a student that names none."""

    @abstractmethod
    def where(self, target: Tensor, present: Tensor) -> Tensor:
        """A target that counts only where ``present (N,)``."""

    @abstractmethod
    def inputs(self, stored: Tensor, facts: DataFacts) -> Tensor:
        """Stored outputs, of a teacher, as the network gives them: undoes :meth:`outputs`."""


@dataclass(frozen=True, eq=False)
class EmotionTargets(OneKind):
    """Emotions: logits, compared with labels."""

    told = frozenset({"emotions"})
    monitor = "val/weighted_f1"
    scores = ("weighted_f1", "macro_f1", "accuracy")
    term = "ce"
    wanted = "labelled"

    def num_values(self, facts: DataFacts) -> int:
        """None."""
        return 0

    def names(self, facts: DataFacts) -> tuple[str, ...]:
        """The classes."""
        return facts.classes

    def names_in(self, corpus: Corpus) -> Sequence[str]:
        """The label set."""
        return corpus.labels.names

    def annotated(self, utterance: Utterance) -> bool:
        """Whether it has a label."""
        return utterance.label is not None

    def of(self, batch: Any, facts: DataFacts) -> Tensor:  # noqa: ANN401
        """``(N,)`` label ids."""
        return batch.label  # type: ignore[no-any-return]

    def known(self, batch: Any) -> Tensor:  # noqa: ANN401
        """Where there is a label."""
        return batch.label >= 0  # type: ignore[no-any-return]

    @property
    def default_loss(self) -> nn.Module:
        """Cross-entropy, 0 (where PyTorch's own is NaN) on a batch without labels."""
        return PolynomialCrossEntropy(alpha=0.0)

    def student_loss(self) -> StudentLoss:
        """Distillation of logits."""
        return DistillationLoss()

    def check_loss(self, loss: nn.Module | None, like: type[nn.Module] | None = None) -> None:
        """Refuse a loss of numbers."""
        if isinstance(loss, ValueLoss | ValueDistillationLoss):
            raise ValueError(
                f"{type(loss).__name__} is a loss of numbers, and the targets are emotions: set model.targets to "
                "merc.tasks.ValueTargets, or give a loss of emotions."
            )

    def where(self, target: Tensor, present: Tensor) -> Tensor:
        """Other labels are ignored."""
        return target.where(present, IGNORE_INDEX)

    def outputs(self, logits: Tensor, facts: DataFacts) -> Tensor:
        """The logits."""
        return logits

    def inputs(self, stored: Tensor, facts: DataFacts) -> Tensor:
        """The logits."""
        return stored

    def decided(self, logits: Tensor, facts: DataFacts) -> Tensor:
        """``(N,)`` ids."""
        return logits.argmax(-1).cpu()

    def metrics(self, corpus: Corpus) -> AnyMetrics:
        """Those of the published tables."""
        return EmotionMetrics(corpus.labels)

    def update(self, metrics: AnyMetrics, logits: Tensor, batch: Any, facts: DataFacts) -> None:  # noqa: ANN401
        """Count the utterances."""
        metrics.update(logits, batch.label)

    def rows(self, logits: Tensor, batch: Any, facts: DataFacts) -> dict[str, Tensor]:  # noqa: ANN401
        """Labels and probabilities."""
        return {"gold": batch.label.cpu(), "probabilities": logits.float().softmax(-1).cpu()}

    def predictions(self, corpus: Corpus, rows: Mapping[str, Any]) -> Predictions:
        """Probabilities of the emotions."""
        return Predictions(corpus.labels, **rows)

    def report(self, folder: Path, predictions: AnyPredictions, **more: Any) -> None:  # noqa: ANN401 - of write_report
        """Write the report on emotions."""
        assert isinstance(predictions, Predictions)
        write_report(folder, **vars(predictions), **more)


@dataclass(frozen=True, eq=False)  # checkpoints describe it by its fields
class ValueTargets(OneKind):
    """The numbers of a corpus, such as valence, arousal and dominance, or sentiment: one output for each dimension.

    The network learns them with mean 0 and standard deviation 1 over the training split, so that losses and learning
    rates do not depend on their scale. Stores, reports and scores have the units of the corpus. Heads and encoders need
    no change; a head's loss terms that need emotions (:attr:`merc.fusion.FusionHead.emotion_losses`) are left out, and
    labels are hidden from it.

    Args:
        loss: Default: :class:`merc.losses.ConcordanceLoss`.

    Example:
        >>> from merc.fusion import ConcatFusion
        >>> from merc.tasks import FusionTask
        >>> facts = DataFacts({"text": 384}, (), (), ("text",), {"valence": (2.8, 0.9), "arousal": (3.1, 0.7)})
        >>> FusionTask(ConcatFusion, targets=ValueTargets()).build(facts).head.num_classes
        2
    """

    told = frozenset({"numbers"})
    monitor = "val/ccc"
    scores = ("ccc", "pearson", "mae")
    term = "values"
    hides_labels = True
    wanted = "annotated"

    loss: ValueLoss | None = None

    def num_values(self, facts: DataFacts) -> int:
        """All."""
        return len(facts.values)

    def names(self, facts: DataFacts) -> tuple[str, ...]:
        """The dimensions."""
        return tuple(facts.values)

    def names_in(self, corpus: Corpus) -> Sequence[str]:
        """The dimensions."""
        return tuple(corpus.dimensions)

    def network_facts(self, facts: DataFacts) -> DataFacts:
        """Facts whose classes are the dimensions."""
        if not facts.values:
            raise ValueError(
                "The targets are numbers, and the corpus has none: expected dimensions such as valence. Import it with "
                "its columns of numbers (--values), or leave out model.targets."
            )
        return replace(facts, classes=self.names(facts), class_counts=(0,) * len(facts.values))

    def annotated(self, utterance: Utterance) -> bool:
        """Whether it has a number."""
        return bool(utterance.values)

    def of(self, batch: Any, facts: DataFacts) -> Tensor:  # noqa: ANN401
        """``(N, D)`` numbers with mean 0 and standard deviation 1 over the training split, NaN where there is none."""
        return self.inputs(batch.values, facts)

    def known(self, batch: Any) -> Tensor:  # noqa: ANN401
        """Where there is a number."""
        return ~batch.values.isnan().all(1)  # type: ignore[no-any-return]

    def hidden_from(self, batch: Batch) -> Batch:
        """Without labels, whose ids are not those of the network's outputs."""
        return replace(batch, label=torch.full_like(batch.label, IGNORE_INDEX))

    @property
    def default_loss(self) -> nn.Module:
        """The loss of numbers."""
        return self.loss or ConcordanceLoss()

    def student_loss(self) -> ValueDistillationLoss:
        """Distillation of numbers, with the loss of numbers."""
        return ValueDistillationLoss(values=self.loss)

    def check_loss(self, loss: nn.Module | None, like: type[nn.Module] | None = None) -> None:
        """Refuse a loss of emotions, and one of numbers that the task cannot call."""
        if loss is None or (like is not None and isinstance(loss, like)):
            return
        numbers = isinstance(loss, ValueLoss | ValueDistillationLoss)
        found = "is not a loss for this task" if numbers else "is a loss of emotions, and the targets are numbers"
        raise ValueError(
            f"{type(loss).__name__} {found}: set model.loss to null and choose a merc.losses.ValueLoss as "
            "model.targets.init_args.loss."
        )

    def where(self, target: Tensor, present: Tensor) -> Tensor:
        """Other numbers are NaN."""
        return target.where(present[:, None], torch.nan)

    def outputs(self, logits: Tensor, facts: DataFacts) -> Tensor:
        """Numbers in the units of the corpus."""
        mean, deviation = self._spread(logits, facts)
        return logits * deviation + mean

    def inputs(self, stored: Tensor, facts: DataFacts) -> Tensor:
        """Numbers with mean 0 and standard deviation 1 over the training split."""
        mean, deviation = self._spread(stored, facts)
        return (stored - mean) / deviation

    @staticmethod
    def _spread(like: Tensor, facts: DataFacts) -> tuple[Tensor, Tensor]:
        mean, deviation = zip(*facts.values.values(), strict=True)
        return like.new_tensor(mean), like.new_tensor(deviation)

    def decided(self, logits: Tensor, facts: DataFacts) -> Tensor:
        """``(N, D)`` numbers."""
        return self.outputs(logits.float(), facts).cpu()

    def metrics(self, corpus: Corpus) -> AnyMetrics:
        """CCC, Pearson and MAE of the whole split."""
        return ValueMetrics(len(corpus.dimensions))

    def update(self, metrics: AnyMetrics, logits: Tensor, batch: Any, facts: DataFacts) -> None:  # noqa: ANN401
        """Remember the numbers."""
        metrics.update(self.outputs(logits.float(), facts), batch.values)

    def rows(self, logits: Tensor, batch: Any, facts: DataFacts) -> dict[str, Tensor]:  # noqa: ANN401
        """Predicted numbers."""
        return {"values": self.decided(logits, facts)}

    def predictions(self, corpus: Corpus, rows: Mapping[str, Any]) -> ValuePredictions:
        """The numbers, and those of the corpus: a batch rounds them where the training is in half precision."""
        return ValuePredictions(corpus.dimensions, gold=annotated_values(corpus, rows["keys"]), **rows)

    def report(self, folder: Path, predictions: AnyPredictions, **more: Any) -> None:  # noqa: ANN401 - of the report
        """Write the report on numbers."""
        assert isinstance(predictions, ValuePredictions)
        write_value_report(folder, predictions, **more)


@dataclass(frozen=True, eq=False)
class EmotionValueTargets(Targets):
    """Emotions and numbers at once, by one network: its outputs are C logits, and behind them D numbers.

    The losses of both are added. That of the task is of the emotions, as without numbers; the numbers have that of
    :class:`ValueTargets`. An utterance without a label, or without numbers, counts in the other alone. Checkpoints are
    chosen by ``val/f1_and_ccc``, the mean of the weighted F1 and the mean CCC.

    Args:
        loss: Of the numbers. Default: :class:`merc.losses.ConcordanceLoss`.
        weight: Of that loss, 0 or more; the loss of the emotions has weight 1.

    Raises:
        ValueError: The weight is negative.

    Example:
        >>> from merc.fusion import ConcatFusion
        >>> from merc.tasks import FusionTask
        >>> facts = DataFacts({"text": 384}, ("neutral", "joy"), (70, 30), ("text",), {"valence": (2.8, 0.9)})
        >>> FusionTask(ConcatFusion, targets=EmotionValueTargets()).build(facts).classes
        ['neutral', 'joy', 'valence']
    """

    told = frozenset({"emotions", "numbers"})
    monitor = "val/f1_and_ccc"
    scores = ("f1_and_ccc", "weighted_f1", "macro_f1", "accuracy", "ccc", "pearson", "mae")

    loss: ValueLoss | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the weight."""
        if self.weight < 0:
            raise ValueError(f"EmotionValueTargets has the weight {self.weight}, expected 0 or more.")

    @property
    def emotions(self) -> EmotionTargets:
        """The first kind."""
        return EmotionTargets()

    @property
    def numbers(self) -> ValueTargets:
        """The second kind."""
        return ValueTargets(self.loss)

    @property
    def parts(self) -> tuple[OneKind, ...]:
        """Emotions, then numbers."""
        return self.emotions, self.numbers

    @property
    def weights(self) -> tuple[float, ...]:
        """1, then that of the numbers."""
        return 1.0, self.weight

    def split(self, outputs: Tensor, facts: DataFacts) -> tuple[Tensor, ...]:
        """Logits ``(..., C)`` and numbers ``(..., D)``."""
        return outputs[..., : len(facts.classes)], outputs[..., len(facts.classes) :]

    def num_values(self, facts: DataFacts) -> int:
        """The dimensions."""
        return len(facts.values)

    def names(self, facts: DataFacts) -> tuple[str, ...]:
        """The classes, then the dimensions."""
        return *facts.classes, *facts.values

    def names_in(self, corpus: Corpus) -> Sequence[str]:
        """The label set, then the dimensions."""
        return *corpus.labels.names, *corpus.dimensions

    def network_facts(self, facts: DataFacts) -> DataFacts:
        """Facts whose classes are both; the counts are those of the emotions, for the loss on them."""
        if not facts.classes or not facts.values:
            raise ValueError(
                f"The targets are emotions and numbers, and the corpus has {len(facts.classes)} emotions and "
                f"{len(facts.values)} dimensions: expected some of both. Import it with its labels and its columns of "
                "numbers (--values), set model.targets to merc.tasks.ValueTargets, or leave it out."
            )
        return replace(facts, classes=self.names(facts))

    def known(self, batch: Any) -> Tensor:  # noqa: ANN401
        """Where there is a label or a number."""
        return self.emotions.known(batch) | self.numbers.known(batch)

    def check_loss(self, loss: nn.Module | None, like: type[nn.Module] | None = None) -> None:
        """Refuse a loss of numbers: that is an option of the targets."""
        if isinstance(loss, ValueLoss | ValueDistillationLoss):
            raise ValueError(
                f"{type(loss).__name__} is a loss of numbers, and model.loss is that of the emotions: give it as "
                "model.targets.init_args.loss."
            )

    def outputs(self, logits: Tensor, facts: DataFacts) -> Tensor:
        """Logits, and numbers in the units of the corpus."""
        emotions, values = self.split(logits, facts)
        return torch.cat([emotions, self.numbers.outputs(values, facts)], dim=-1)

    def decided(self, logits: Tensor, facts: DataFacts) -> Tensor:
        """``(N, 1 + D)``: ids and numbers."""
        emotions, values = self.split(logits, facts)
        numbers = self.numbers.decided(values, facts)
        return torch.cat([self.emotions.decided(emotions, facts)[:, None].to(numbers), numbers], dim=1)

    def metrics(self, corpus: Corpus) -> EmotionValueMetrics:
        """Those of both."""
        return EmotionValueMetrics(EmotionMetrics(corpus.labels), ValueMetrics(len(corpus.dimensions)))

    def update(self, metrics: AnyMetrics, logits: Tensor, batch: Any, facts: DataFacts) -> None:  # noqa: ANN401
        """Count the utterances in both."""
        assert isinstance(metrics, EmotionValueMetrics)
        emotions, values = self.split(logits, facts)
        self.emotions.update(metrics["emotions"], emotions, batch, facts)
        self.numbers.update(metrics["numbers"], values, batch, facts)

    def rows(self, logits: Tensor, batch: Any, facts: DataFacts) -> dict[str, Tensor]:  # noqa: ANN401
        """Those of emotions, and those of numbers with a prefix."""
        emotions, values = self.split(logits, facts)
        numbers = self.numbers.rows(values, batch, facts)
        return {
            **self.emotions.rows(emotions, batch, facts),
            **{f"{_OF_VALUES}{name}": column for name, column in numbers.items()},
        }

    def predictions(self, corpus: Corpus, rows: Mapping[str, Any]) -> EmotionValuePredictions:
        """The emotions and the numbers."""
        own = {name.removeprefix(_OF_VALUES): column for name, column in rows.items() if name.startswith(_OF_VALUES)}
        rest = {name: column for name, column in rows.items() if not name.startswith(_OF_VALUES)}
        shared = {name: rest[name] for name in ("keys", "present", "lines")}
        return EmotionValuePredictions(
            self.emotions.predictions(corpus, rest), self.numbers.predictions(corpus, {**shared, **own})
        )

    def report(self, folder: Path, predictions: AnyPredictions, **more: Any) -> None:  # noqa: ANN401 - of the report
        """Write the report on both."""
        assert isinstance(predictions, EmotionValuePredictions)
        write_emotion_value_report(folder, predictions, **more)
