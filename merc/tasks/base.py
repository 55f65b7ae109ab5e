"""What every task of emotion has in common: steps, metrics, predictions, report."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.optim import Optimizer

from merc.batch import ConversationBatch
from merc.conversation import UtteranceKey
from merc.datamodules.conversation import ConversationDataModule
from merc.evaluation import EmotionMetrics, ReportInfo, StoreInfo, write_report
from merc.tasks.checkpoints import refuse_other_model
from merc.tasks.optimizers import fused_on_cpu
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

    Args:
        num_classes: Number of emotions C that the network tells apart.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule, stepped once an epoch.
    """

    def __init__(
        self, num_classes: int, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.make_optimizer = optimizer
        self.make_lr_scheduler = lr_scheduler
        self.metrics: dict[str, EmotionMetrics] = {}
        self.origin: dict[str, Any] = {}
        """Where the weights come from, in plain values; travels in the checkpoint, empty before training."""
        self.classes: list[str] = []
        """The emotions of the data, known from ``setup`` on."""
        self._choices: dict[str, str] = {}
        self._tested: list[dict[str, Any]] = []

    @property
    @abstractmethod
    def modalities(self) -> dict[str, int]:
        """The features that the task reads, with the width that its network expects."""

    @abstractmethod
    def predict(self, batch: ConversationBatch) -> Prediction:
        """Run the network and, where the batch has what they need, the losses."""

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

    def setup(self, stage: str) -> None:
        """Check widths and classes against the data, and make the metrics.

        Raises:
            StoreError: A store is absent or has another width than the network.
            ValueError: The corpus has another number of emotions than the network, or others than it was trained on.
        """
        for name, dim in self.modalities.items():
            self.data.require(name, dim=dim)
        labels = self.data.labels
        if len(labels) != self.num_classes:
            raise ValueError(
                f"{type(self).__name__} tells {self.num_classes} classes apart, corpus {self.data.corpus.name!r} has "
                f"{len(labels)} ({', '.join(labels.names)}): correct num_classes in the config."
            )
        self.classes = list(labels.names)
        self._check_classes()
        device = self.trainer.strategy.root_device  # where the task will be, but is not yet
        self.metrics = {part: EmotionMetrics(labels).to(device) for part in ("val", "test")}
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
        return self.add_terms(self.predict(batch).terms, len(batch.label))

    def validation_step(self, batch: ConversationBatch, batch_idx: int) -> None:
        """Count the predictions of a validation batch."""
        prediction = self.predict(batch)
        self.metrics["val"].update(prediction.logits, batch.label)
        self.log("val/loss", prediction.loss, batch_size=len(batch.label), sync_dist=True)

    def on_validation_epoch_end(self) -> None:
        """Log weighted F1, macro F1 and accuracy of the validation split."""
        self._log_metrics("val")

    def test_step(self, batch: ConversationBatch, batch_idx: int) -> None:
        """Count the predictions of a test batch and keep them for the report."""
        logits = self.predict(batch).logits.float()
        self.metrics["test"].update(logits, batch.label)
        self._tested.append(
            {
                "keys": list(batch.keys),
                "gold": batch.label.cpu(),
                "probabilities": logits.softmax(-1).cpu(),
                "present": {name: batch.present[name].cpu() for name in self.modalities},
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
        return self._stored(self.predict(batch), batch, self.modalities)

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

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning accepts several shapes
        """Every parameter of the task, those of its losses too."""
        optimizer = fused_on_cpu(self._optimizer())
        if self.make_lr_scheduler is None:
            return optimizer
        scheduler = self.make_lr_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val/weighted_f1"}}

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
            "inputs": {name: self.data.stores[name].digest for name in self.modalities},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add, in plain values, what the weights fit to."""
        checkpoint["merc"] = {**self._signature(), "origin": self.origin}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model, or one that was trained on other emotions.

        Raises:
            ValueError: The checkpoint does not fit; the message says what differs.
        """
        expected, found = self._signature(), checkpoint.get("merc", {})
        refuse_other_model(expected, found, self.state_dict(), checkpoint["state_dict"])
        self.origin = found.get("origin", {})
        self._choices = _choices(checkpoint)
        self._check_classes()

    def _check_classes(self) -> None:
        """Compare the emotions of the data with those that the weights were trained on, once both are known."""
        known = self.origin.get("classes")
        if known and self.classes and known != self.classes:
            raise ValueError(
                f"The weights were trained on {self.origin['trained_on']}, with the classes {known}, and the corpus "
                f"has {self.classes}: give a checkpoint that was trained on these."
            )

    def _why_missing(self, key: UtteranceKey, modalities: Collection[str]) -> str:
        """Why an utterance has none of some modalities."""
        stores = {name: self.data.stores[name].why_missing([key]) for name in modalities}
        return "; ".join(f"{name}: {lacks[key]}" for name, lacks in stores.items())

    def _signature(self) -> dict[str, Any]:
        return {
            "task": type(self).__name__,
            "modules": self._module_names(),
            "modalities": dict(self.modalities),
            "num_classes": self.num_classes,
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
            missing={name: lacks for name, lacks in data.missing("test").items() if name in self.modalities},
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
