"""What every task that classifies utterances has in common: building, metrics, checkpoints, report."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from merc.conversation import Corpus, UtteranceKey
from merc.datamodules.facts import DataFacts
from merc.evaluation import ReportInfo, StoreInfo
from merc.evaluation.ledger import Opening, read_ledger, record_opening
from merc.evaluation.predictions import lines_of
from merc.evaluation.uncertainty import Stress
from merc.labels import LabelSet
from merc.store.manifest import digest_of
from merc.tasks.checkpoints import facts_of, refuse_other_model
from merc.tasks.factory import Factory, give_class_counts, initial_weights
from merc.tasks.gather import gather_in_order
from merc.tasks.optimizers import scheduled
from merc.tasks.targets import AnyMetrics, AnyPredictions, EmotionTargets, OneKind, Targets
from merc.tasks.trainer import TermsTask, require_whole_network, total

_NEEDED = {
    "train": "expected one to train on",
    "val": "expected one to choose the checkpoint by. Give the corpus dialogues of this split",
    "test": "expected one to test with. Give the corpus dialogues of this split; a stage of a pipeline goes without by "
    "`report: false`",
}
"""What a split is for."""


@dataclass(eq=False)
class Prediction:
    """What a network says of the N utterances of a batch.

    Attributes:
        logits: ``(N, C)``, ``(N, D)`` numbers (:class:`merc.tasks.ValueTargets`), or ``(N, C + D)`` of both.
        hidden: ``(N, d)`` representation before the classifier, if there is one.
        terms: Loss terms by name, weighted; their sum is the loss.
    """

    logits: Tensor
    hidden: Tensor | None
    terms: dict[str, Tensor]

    @property
    def loss(self) -> Tensor:
        """The sum of the terms, in float32."""
        return total(self.terms)


class LabelledData(Protocol):
    """What a classifier asks of its datamodule."""

    corpus: Corpus

    @property
    def labels(self) -> LabelSet:
        """The label set of the corpus."""

    @property
    def facts(self) -> DataFacts:
        """What a network must fit."""


class LabelledBatch(Protocol):
    """What a classifier asks of a batch of N utterances."""

    @property
    def keys(self) -> Sequence[UtteranceKey]:
        """The N utterance keys."""

    @property
    def label(self) -> Tensor:
        """``(N,)`` label ids, -100 for unlabelled."""


Batch = TypeVar("Batch", bound=LabelledBatch)


class ClassifierTask(TermsTask, Generic[Batch]):
    """Trains, validates and tests the emotions of utterances; the one path to a number.

    Validation logs ``val/weighted_f1``, by which checkpoints are chosen (``val/ccc`` where the targets are numbers,
    ``val/f1_and_ccc``, their mean, where they are both).
    Testing writes a report beside the logs.

    The network is built when the data is known: by the Trainer, from the facts of its datamodule; by
    ``load_from_checkpoint``, from those that the checkpoint records; or by :meth:`build`.

    Args:
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).
        targets: What the outputs of the network mean. Default: emotions.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        targets: Targets | None = None,
    ) -> None:
        super().__init__()
        self.targets = targets or EmotionTargets()
        self.make_optimizer = Factory(optimizer)
        self.make_lr_scheduler = None if lr_scheduler is None else Factory(lr_scheduler)
        self.facts: DataFacts | None = None
        """What the network was built from; nothing before it is built."""
        self.metrics: dict[str, AnyMetrics] = {}
        self.ledger: Path | None = None
        """Folder of the run whose ledger notes that the test split is read. Default: that of the report."""
        self.will_test = False
        """Whether a test follows the training: then a corpus without labels to test with is refused before it."""
        self.config_digest = ""
        """Digest of the options that the task was made from, for the ledger."""
        self.origin: dict[str, Any] = {}
        """Where the weights come from, in plain values; travels in the checkpoint, empty before training."""
        self._losses: dict[str, MeanMetric] = {}
        self._choices: dict[str, str] = {}
        self._tested: list[dict[str, Any]] = []
        self._validated: tuple[str, AnyPredictions] | None = None
        self._opening: Opening | None = None

    @abstractmethod
    def build_network(self, facts: DataFacts) -> None:
        """Make the network, and the losses that depend on the data. Called by :meth:`build`."""

    @abstractmethod
    def step(self, batch: Batch) -> Prediction:
        """Run the network on a batch, and the losses for which the batch has labels."""

    @property
    @abstractmethod
    def data(self) -> LabelledData:
        """The datamodule of the trainer."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the weights depend on besides the data, in plain values: a checkpoint with other settings is refused."""

    @abstractmethod
    def present(self, batch: Batch) -> dict[str, Tensor]:
        """By modality that the network reads, ``(N,)`` booleans: whether an utterance of the batch has it."""

    def kinds(self, outputs: Tensor) -> list[tuple[OneKind, float, Tensor]]:
        """The kinds of targets, each with the weight of its loss and its share of the outputs ``(..., C)``."""
        parts = self.targets.split(outputs, self.known_facts)
        return list(zip(self.targets.parts, self.targets.weights, parts, strict=True))

    def stores(self) -> dict[str, StoreInfo]:
        """Where the features come from that the network reads, by name, for the report."""
        return {}

    def missing(self, split: str) -> Mapping[str, Mapping[UtteranceKey, str]]:
        """By modality that the network reads, the utterances of a split that lack it and why, for the report."""
        return {}

    @property
    def report_folder(self) -> Path:
        """Where testing writes its report: beside the logs of the trainer."""
        return Path(self.trainer.log_dir or self.trainer.default_root_dir) / "report"

    @property
    def classes(self) -> list[str]:
        """What the outputs of the network mean, such as the emotions; nothing before it is built."""
        return list(self.targets.names(self.facts)) if self.facts else []

    @property
    def known_facts(self) -> DataFacts:
        """What the network was built from.

        Raises:
            RuntimeError: It is not built.
        """
        if self.facts is None:
            raise RuntimeError(f"{type(self).__name__} has no network yet: expected a Trainer, or a call of build().")
        return self.facts

    def build(self, facts: DataFacts) -> Self:
        """Build the network for data of which these facts are known.

        Args:
            facts: What the ``facts`` of a datamodule give, or a checkpoint records.

        Returns:
            The task itself.

        Raises:
            StoreError: The data lacks features that the task reads.
            ValueError: The network or the loss does not fit the data.
        """
        own = self.targets.network_facts(facts)
        with initial_weights():
            self.build_network(own)
        give_class_counts(self, own.class_counts)
        self.facts = facts
        return self.train(self.training)

    def configure_model(self) -> None:
        """Build the network for the data of the Trainer, unless it is built or there is no Trainer."""
        if self.facts is None and self._trainer is not None:
            self.build(self.data.facts)

    def setup(self, stage: str) -> None:
        """Build the network, or check that the data is as the network expects, and make the metrics.

        Raises:
            StoreError: A store is absent or has another width than the network expects.
            ValueError: The corpus has other emotions than the network was built for, or the strategy of the Trainer
                splits the network.
        """
        require_whole_network(self.trainer)
        self._require_labels(self._splits(stage))  # first: an unbuilt network is made from them
        self.configure_model()
        self._check_data(self.settings(), self.classes, self.origin)
        device = self.trainer.strategy.root_device  # where the task will be, but is not yet
        self.metrics = {part: self.targets.metrics(self.data.corpus).to(device) for part in ("val", "test")}
        self._losses = {part: MeanMetric().to(device) for part in ("val", "test")}
        self._tested = []

    def _splits(self, stage: str) -> list[str]:
        """The splits that a stage of the Trainer compares with labels."""
        validates = ["val"] if self.trainer.limit_val_batches else []
        tests = ["test"] * self.will_test
        return {"fit": ["train", *validates, *tests], "validate": ["val"], "test": ["test"]}.get(stage, [])

    def _require_labels(self, splits: Sequence[str]) -> None:
        """Refuse a corpus that has nothing to train on, to choose by or to compare with."""
        corpus = self.data.corpus
        for split in splits:
            if split not in corpus:
                found = ", ".join(corpus)
                raise ValueError(f"Corpus {corpus.name!r} has no split {split!r}, found {found}: {_NEEDED[split]}.")
            utterances = [utterance for talk in corpus[split] for utterance in talk.utterances]
            for part in self.targets.parts:
                if not any(map(part.annotated, utterances)):
                    raise ValueError(
                        f"Split {split!r} of corpus {corpus.name!r} has no {part.wanted} utterance, expected some. "
                        "To predict without comparing with annotation, use `merc predict`."
                    )

    def on_fit_start(self) -> None:
        """Note what the weights are trained on, before the first of them moves."""
        corpus = self.data.corpus.name
        before = self.origin.get("resumed_at", []) if self.trainer.ckpt_path else []
        self.origin = {
            "trained_on": f"{corpus}/train",
            "selected_on": f"{corpus}/val",
            "classes": self.classes,
            "resumed_at": before,
        }

    def on_train_start(self) -> None:
        """Note that a training was interrupted and goes on."""
        super().on_train_start()
        if self.trainer.ckpt_path and self.trainer.global_step:
            self.origin["resumed_at"] = [*self.origin["resumed_at"], self.trainer.global_step]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The sum of the loss terms, whose means are logged."""
        return self.add_terms(self.step(batch).terms, len(batch.label))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the predictions of a validation batch; a validation by itself keeps them for the report of a test."""
        prediction = self.step(batch)
        self._count("val", prediction, batch)
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self._tested.append(self._rows(prediction, batch))

    def _count(self, part: str, prediction: Prediction, batch: Batch) -> None:
        """Count predictions and loss of a batch.

        Raises:
            ValueError: A logit is not finite.
        """
        if not prediction.logits.isfinite().all():
            raise ValueError(
                f"{type(self).__name__} gives logits that are not finite for {batch.keys[0]} and others: the training "
                "has diverged. Lower the learning rate, set trainer.gradient_clip_val, or check the features."
            )
        self.targets.update(self.metrics[part], prediction.logits, batch, self.known_facts)
        labelled = int(self.compared(batch).sum())
        if labelled and prediction.terms:
            self._losses[part].update(prediction.loss, labelled)

    def compared(self, batch: Batch) -> Tensor:
        """``(N,)`` booleans: the utterances of a batch whose annotations the loss compares, its weight in val/loss."""
        return self.targets.known(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation split, such as weighted F1, macro F1 and accuracy."""
        self._log_metrics("val")
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            rows = _gather(self._tested)
            self._tested = []
            self._validated = str(self.trainer.ckpt_path or ""), self._predictions(rows)

    def on_test_start(self) -> None:
        """Note in the ledger of the run that the test split is read, and on what grounds these weights were chosen."""
        corpus = self.data.corpus.name
        checkpoint = str(self.trainer.ckpt_path or "")
        self._opening = Opening(
            f"{corpus}/test", self.config_digest, _seed(), checkpoint, self._selected_on(), inputs=self._inputs()
        )
        folder = self._ledger_folder()  # asks all processes
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            record_opening(folder, self._opening)

    def _inputs(self) -> str:
        """A digest of what is tested on, read and started from, wherever it lies."""
        utterances = [
            [*key, utterance.speaker, utterance.text, utterance.label, utterance.values]
            for talk in self.data.corpus["test"]
            for key, utterance in zip(talk.keys, talk.utterances, strict=True)
        ]
        stores = {name: store.digest for name, store in getattr(self.data, "stores", {}).items()}
        return digest_of([utterances, stores, self.origin.get("started_from", {})])[:16]

    def _ledger_folder(self) -> Path:
        return Path(self.trainer.log_dir or self.trainer.default_root_dir) if self.ledger is None else self.ledger

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the predictions of a test batch and keep them for the report."""
        prediction = self.step(batch)
        self._count("test", prediction, batch)
        self._tested.append({**self._rows(prediction, batch), "stressed": self.stressed(batch)})

    def stressed(self, batch: Batch) -> dict[Stress, Tensor]:
        """What the network predicts where utterances of a test batch lack a modality, or it is noisy.

        Returns:
            By stress, what ``targets.decided`` makes of the outputs, on the CPU; nothing by default.
        """
        return {}

    def _rows(self, prediction: Prediction, batch: Batch) -> dict[str, Any]:
        """What a report needs of the predictions for a batch."""
        return {
            "keys": list(batch.keys),
            **self.targets.rows(prediction.logits, batch, self.known_facts),
            "present": {name: there.cpu() for name, there in self.present(batch).items()},
        }

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test split and write the report."""
        self._log_metrics("test")
        rows = _gather(self._tested)
        self._tested = []
        folder, ledger = self.report_folder, self._ledger_folder()
        if self.trainer.is_global_zero:
            stressed = rows.pop("stressed", {})
            self.targets.report(
                folder,
                self._predictions(rows),
                info=self._report_info(),
                val=self._predicted_val(),
                stressed=stressed,
                openings=read_ledger(ledger),
                opening=self._opening,
            )

    def _predictions(self, rows: dict[str, Any]) -> AnyPredictions:
        return self.targets.predictions(self.data.corpus, {**rows, "lines": lines_of(self.data.corpus, rows["keys"])})

    def _predicted_val(self) -> AnyPredictions | None:
        """What the tested weights say of the validation split, if that was asked just before."""
        checkpoint, predictions = self._validated or ("", None)
        return predictions if checkpoint == str(self.trainer.ckpt_path or "") else None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Every parameter of the task, those of its losses too."""
        return scheduled(self, self._optimizer(), self.make_lr_scheduler, monitor=self.targets.monitor)

    def _optimizer(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add, in plain values, what the weights fit to."""
        super().on_save_checkpoint(checkpoint)
        facts = None if self.facts is None else self.facts.plain()
        checkpoint["merc"] = {**self._signature(), "facts": facts, "origin": self.origin}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network that the checkpoint records, or refuse the checkpoint of another one.

        Raises:
            StoreError: The weights were trained on features of another width than the data has.
            ValueError: The checkpoint does not fit; the message says what differs.
        """
        super().on_load_checkpoint(checkpoint)
        facts, found = facts_of(checkpoint, self)
        origin = found.get("origin", {})
        if self.facts is None:
            self.build(facts)
        elif self._trainer is not None and self._trainer.lightning_module is self:
            self._check_data(found, self.targets.names(facts), origin)
        else:
            self._check_classes(self.targets.names(facts), self.classes, origin)
        refuse_other_model(self._signature(), found, self.state_dict(), checkpoint["state_dict"])
        give_class_counts(self, self.targets.network_facts(facts).class_counts)
        self.facts, self.origin = facts, origin
        self._choices = _choices(checkpoint)

    def _check_data(self, settings: Mapping[str, Any], classes: Sequence[str], origin: Mapping[str, Any]) -> None:
        """Compare what weights were made for with the data of the Trainer."""
        self._check_classes(classes, self.targets.names_in(self.data.corpus), origin)

    @staticmethod
    def _check_classes(known: Sequence[str], given: Sequence[str], origin: Mapping[str, Any]) -> None:
        if list(known) != list(given):
            raise ValueError(
                f"The weights were trained on {origin.get('trained_on', 'nothing')}, with the classes {list(known)}, "
                f"and the corpus has {list(given)}: give a checkpoint that was trained on these."
            )

    def _signature(self) -> dict[str, Any]:
        targets = type(self.targets).__name__
        return {"task": type(self).__name__, "targets": targets, "modules": self._module_names(), **self.settings()}

    def _module_names(self) -> list[str]:
        """What the task is made of, for reports and for telling its checkpoints from those of others."""
        modules = [part for m in self.children() for part in (m if isinstance(m, nn.ModuleList) else [m])]
        return [type(module).__name__ for module in modules]

    def _log_metrics(self, part: str) -> None:
        metrics = self.metrics[part]
        values = metrics.compute()
        for name in self.targets.scores:
            self.log(f"{part}/{name}", values[name], prog_bar=name == self.targets.scores[0])
        self.log(f"{part}/loss", self._losses[part].compute())
        self._losses[part].reset()
        metrics.reset()

    def _report_info(self) -> ReportInfo:
        corpus = self.data.corpus
        return ReportInfo(
            corpus=corpus.name,
            protocol=corpus.protocol,
            notes=list(corpus.notes),
            split="test",
            seed=_seed(),
            model=f"{type(self).__name__}({', '.join(self._module_names())})",
            checkpoint=str(self.trainer.ckpt_path or ""),
            selected_on=self._selected_on(),
            resumed_at=self.origin.get("resumed_at", []),
            stores=self.stores(),
            missing=self.missing("test"),
        )

    def _selected_on(self) -> str:
        """What the tested weights were chosen by, as far as their checkpoint can tell."""
        if not self.trainer.ckpt_path:
            return "nothing: the weights in memory, without a checkpoint"
        name = Path(self.trainer.ckpt_path).name
        chosen = self._choices.get(name)
        return f"{chosen}, {name}" if chosen else f"the given checkpoint {name}"


def _choices(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """By the file name of every checkpoint that a ModelCheckpoint held for the best: on what grounds."""
    states = [state for name, state in checkpoint.get("callbacks", {}).items() if name.startswith("ModelCheckpoint")]
    return {
        Path(s["best_model_path"]).name: f"best {s['monitor']} = {float(s['best_model_score']):.4f}"
        for s in states
        if s.get("monitor") and s.get("best_model_score") is not None
    }


def _seed() -> int | None:
    seed = os.environ.get("PL_GLOBAL_SEED")
    return int(seed) if seed else None


def _gather(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows of all processes as one set of columns; batches that a process repeated are dropped."""
    parts = gather_in_order(parts)
    keys = [key for part in parts for key in part["keys"]]
    first = list({key: row for row, key in reversed(list(enumerate(keys)))}.values())
    first.sort()
    present = {name: torch.cat([part["present"][name] for part in parts])[first] for name in parts[0]["present"]}
    stressed = {
        name: torch.cat([part["stressed"][name] for part in parts])[first] for name in parts[0].get("stressed", {})
    }
    columns = [name for name, column in parts[0].items() if isinstance(column, Tensor)]
    return {
        **({"stressed": stressed} if stressed else {}),
        **{name: torch.cat([part[name] for part in parts])[first] for name in columns},
        "keys": [keys[row] for row in first],
        "present": present,
    }
