"""What every task of emotion has in common: steps, metrics, predictions, report."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from merc.batch import ConversationBatch
from merc.conversation import UtteranceKey
from merc.datamodules.conversation import ConversationDataModule
from merc.datamodules.facts import DataFacts
from merc.evaluation import EmotionMetrics, ReportInfo, StoreInfo, write_report
from merc.tasks.checkpoints import facts_of, refuse_other_model
from merc.tasks.factory import Factory, give_class_counts, initial_weights
from merc.tasks.optimizers import scheduled
from merc.tasks.trainer import TermsTask, datamodule_of, total
from merc.weights import weights_digest


@dataclass(eq=False)
class Prediction:
    """What a network says of the N utterances of a batch.

    Attributes:
        logits: ``(N, C)``.
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


class EmotionTask(TermsTask):
    """Trains, validates, tests and predicts emotions of whole conversations.

    Validation logs ``val/weighted_f1``, by which checkpoints are chosen. Testing writes a report beside
    the logs. Prediction gives logits and hidden states for the stages that follow.

    The network is built when the data is known: by the Trainer, from the facts of its datamodule; by
    ``load_from_checkpoint``, from those that the checkpoint records; or by :meth:`build`.

    Args:
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).
    """

    def __init__(self, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None = None) -> None:
        super().__init__()
        self.make_optimizer = Factory(optimizer)
        self.make_lr_scheduler = None if lr_scheduler is None else Factory(lr_scheduler)
        self.facts: DataFacts | None = None
        """What the network was built from; nothing before it is built."""
        self.metrics: dict[str, EmotionMetrics] = {}
        self.origin: dict[str, Any] = {}
        """Where the weights come from, in plain values; travels in the checkpoint, empty before training."""
        self._choices: dict[str, str] = {}
        self._tested: list[dict[str, Any]] = []

    @abstractmethod
    def build_network(self, facts: DataFacts) -> None:
        """Make the network, and the losses that depend on the data. Called by :meth:`build`."""

    @property
    @abstractmethod
    def inputs(self) -> dict[str, int]:
        """The features that the network reads, with their widths. Known once it is built."""

    @abstractmethod
    def step(self, batch: ConversationBatch) -> Prediction:
        """Run the network on a batch, and the losses for which the batch has labels or teachers."""

    @property
    def data(self) -> ConversationDataModule:
        """The datamodule of the trainer.

        Raises:
            TypeError: The trainer has none, or one of another kind.
        """
        return datamodule_of(self, ConversationDataModule)

    @property
    def report_folder(self) -> Path:
        """Where testing writes its report: beside the logs of the trainer."""
        return Path(self.trainer.log_dir or self.trainer.default_root_dir) / "report"

    @property
    def classes(self) -> list[str]:
        """The emotions that the network tells apart; none before it is built."""
        return list(self.facts.classes) if self.facts else []

    def build(self, facts: DataFacts) -> Self:
        """Build the network for data of which these facts are known.

        Args:
            facts: What :attr:`merc.datamodules.ConversationDataModule.facts` gives, or a checkpoint records.

        Returns:
            The task itself.

        Raises:
            StoreError: The data lacks features that the task reads.
            ValueError: Head, encoder or loss does not fit the data.
        """
        with initial_weights():
            self.build_network(facts)
        give_class_counts(self, facts.class_counts)
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
            ValueError: The corpus has other emotions than the network was built for.
        """
        self.configure_model()
        self._check_data(self.inputs, self.classes, self.origin)
        device = self.trainer.strategy.root_device  # where the task will be, but is not yet
        self.metrics = {part: EmotionMetrics(self.data.labels).to(device) for part in ("val", "test")}
        self._tested = []

    def on_fit_start(self) -> None:
        """Note what the weights are trained on, before the first of them moves."""
        corpus = self.data.corpus.name
        self.origin = {
            "trained_on": f"{corpus}/train",
            "selected_on": f"{corpus}/val",
            "classes": self.classes,
            "stores": {name: store.digest for name, store in self.data.stores.items()},
        }

    def training_step(self, batch: ConversationBatch, batch_idx: int) -> Tensor:
        """The sum of the loss terms, whose means are logged."""
        return self.add_terms(self.step(batch).terms, len(batch.label))

    def validation_step(self, batch: ConversationBatch, batch_idx: int) -> None:
        """Count the predictions of a validation batch."""
        prediction = self.step(batch)
        self.metrics["val"].update(prediction.logits, batch.label)
        self.log("val/loss", prediction.loss, batch_size=len(batch.label), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log weighted F1, macro F1 and accuracy of the validation split."""
        self._log_metrics("val")

    def test_step(self, batch: ConversationBatch, batch_idx: int) -> None:
        """Count the predictions of a test batch and keep them for the report."""
        logits = self.step(batch).logits.float()
        self.metrics["test"].update(logits, batch.label)
        self._tested.append(
            {
                "keys": list(batch.keys),
                "gold": batch.label.cpu(),
                "probabilities": logits.softmax(-1).cpu(),
                "present": {name: batch.present[name].cpu() for name in self.inputs},
            }
        )

    def on_test_epoch_end(self) -> None:
        """Log the metrics of the test split and write the report."""
        self._log_metrics("test")
        rows = _gather(self._tested)
        self._tested = []
        folder = self.report_folder
        if self.trainer.is_global_zero:
            write_report(folder, labels=self.data.labels, info=self._report_info(), **rows)

    def predict_step(self, batch: ConversationBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Logits and hidden states of the utterances that have any of the task's modalities; why others lack them."""
        return self._stored(self.step(batch), batch, self.inputs)

    def _stored(self, prediction: Prediction, batch: ConversationBatch, modalities: Collection[str]) -> dict[str, Any]:
        """The rows of a prediction that was made from some modalities, as a store takes them."""
        there = torch.stack([batch.present[name] for name in modalities]).any(0)
        keys: dict[bool, list[UtteranceKey]] = {True: [], False: []}
        for key, here in zip(batch.keys, there.tolist(), strict=True):
            keys[here].append(key)
        missing = {key: self._why_missing(key, modalities) for key in keys[False]}
        outputs = {"keys": keys[True], "missing": missing, "logits": prediction.logits[there].float()}
        if prediction.hidden is not None:
            outputs["hidden"] = prediction.hidden[there].float()
        return outputs

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Every parameter of the task, those of its losses too."""
        return scheduled(self, self._optimizer(), self.make_lr_scheduler, monitor="val/weighted_f1")

    def _optimizer(self) -> Optimizer:
        return self.make_optimizer(self.parameters())

    def provenance(self) -> dict[str, Any]:
        """What a store of this task's predictions tells of their origin: plain values."""
        return {
            "task": type(self).__name__,
            "modules": self._signature()["modules"],
            "classes": self.classes,
            "trained_on": self.origin.get("trained_on", "nothing"),
            "selected_on": self.origin.get("selected_on", "nothing"),
            "trained_with": self.origin.get("stores", {}),
            "weights": weights_digest(self),
            "inputs": {name: self.data.stores[name].digest for name in self.inputs},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add, in plain values, what the weights fit to."""
        super().on_save_checkpoint(checkpoint)
        facts = None if self.facts is None else self.facts.plain()
        checkpoint["merc"] = {**self._signature(), "facts": facts, "origin": self.origin}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network that the checkpoint tells of, or refuse the checkpoint of another one.

        Raises:
            StoreError: The weights were trained on features of another width than the data has.
            ValueError: The checkpoint does not fit; the message says what differs.
        """
        facts, found = facts_of(checkpoint, self)
        origin = found.get("origin", {})
        if self.facts is None:
            self.build(facts)
        elif self._trainer is not None and self._trainer.lightning_module is self:
            self._check_data(found["modalities"], facts.classes, origin)
        else:
            self._check_classes(facts.classes, self.classes, origin)
        refuse_other_model(self._signature(), found, self.state_dict(), checkpoint["state_dict"])
        give_class_counts(self, facts.class_counts)
        self.facts, self.origin = facts, origin
        self._choices = _choices(checkpoint)

    def _check_data(self, widths: Mapping[str, int], classes: Sequence[str], origin: Mapping[str, Any]) -> None:
        """Compare what weights were made for with the data of the Trainer."""
        for name, width in widths.items():
            self.data.require(name, dim=width)
        self._check_classes(classes, self.data.labels.names, origin)

    @staticmethod
    def _check_classes(known: Sequence[str], given: Sequence[str], origin: Mapping[str, Any]) -> None:
        if list(known) != list(given):
            raise ValueError(
                f"The weights were trained on {origin.get('trained_on', 'nothing')}, with the classes {list(known)}, "
                f"and the corpus has {list(given)}: give a checkpoint that was trained on these."
            )

    def _why_missing(self, key: UtteranceKey, modalities: Collection[str]) -> str:
        """Why an utterance has none of some modalities."""
        stores = {name: self.data.stores[name].why_missing([key]) for name in modalities}
        return "; ".join(f"{name}: {lacks[key]}" for name, lacks in stores.items())

    def _signature(self) -> dict[str, Any]:
        return {
            "task": type(self).__name__,
            "modules": self._module_names(),
            "modalities": dict(self.inputs),
        }

    def _module_names(self) -> list[str]:
        """What the task is made of, for reports and for telling its checkpoints from those of others."""
        return [type(module).__name__ for module in self.children()]

    def _log_metrics(self, part: str) -> None:
        metrics = self.metrics[part]
        values = metrics.compute()
        for name in ("weighted_f1", "macro_f1", "accuracy"):
            self.log(f"{part}/{name}", values[name], prog_bar=name == "weighted_f1")
        metrics.reset()

    def _report_info(self) -> ReportInfo:
        data = self.data
        return ReportInfo(
            corpus=data.corpus.name,
            protocol=data.corpus.protocol,
            notes=list(data.corpus.notes),
            split="test",
            seed=_seed(),
            model=f"{type(self).__name__}({', '.join(self._module_names())})",
            checkpoint=str(self.trainer.ckpt_path or ""),
            selected_on=self._selected_on(),
            stores={name: StoreInfo(str(store.path), store.provenance) for name, store in data.stores.items()},
            missing={name: lacks for name, lacks in data.missing("test").items() if name in self.inputs},
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
    """The rows of all processes as one set of columns; a sampler that pads makes doubles, which are dropped."""
    if dist.is_available() and dist.is_initialized():
        everywhere: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, parts)
        parts = [part for process in everywhere for part in process]
    keys = [key for part in parts for key in part["keys"]]
    first = list({key: row for row, key in reversed(list(enumerate(keys)))}.values())
    first.sort()
    present = {name: torch.cat([part["present"][name] for part in parts])[first] for name in parts[0]["present"]}
    return {
        "keys": [keys[row] for row in first],
        "gold": torch.cat([part["gold"] for part in parts])[first],
        "probabilities": torch.cat([part["probabilities"] for part in parts])[first],
        "present": present,
    }
