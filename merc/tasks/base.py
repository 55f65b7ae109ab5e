"""What every task of emotion in whole conversations has in common: its stores, and what it predicts for others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from merc.batch import ConversationBatch
from merc.conversation import UtteranceKey
from merc.datamodules.conversation import ConversationDataModule
from merc.evaluation import StoreInfo
from merc.tasks.classifier import ClassifierTask, Prediction
from merc.tasks.trainer import datamodule_of
from merc.weights import weights_digest


class EmotionTask(ClassifierTask[ConversationBatch]):
    """Trains, validates, tests and predicts emotions of whole conversations.

    The widths of what it reads come from the stores of a :class:`merc.datamodules.ConversationDataModule`. Prediction
    gives logits (or numbers, in the units of the corpus) and hidden states for the stages that follow. For the rest see
    :class:`merc.tasks.classifier.ClassifierTask`.

    Args:
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).
        targets: What the outputs of the network mean. Default: emotions.
    """

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

    def settings(self) -> dict[str, Any]:
        """The features that the network reads, with their widths."""
        return {"modalities": dict(self.inputs)}

    def present(self, batch: ConversationBatch) -> dict[str, Tensor]:
        """By modality that the network reads, ``(N,)`` booleans: whether an utterance of the batch has it."""
        return {name: batch.present[name] for name in self.inputs}

    def stores(self) -> dict[str, StoreInfo]:
        """The stores of the datamodule, for the report."""
        return {name: StoreInfo(str(store.path), store.provenance) for name, store in self.data.stores.items()}

    def missing(self, split: str) -> Mapping[str, Mapping[UtteranceKey, str]]:
        """By modality that the network reads, the utterances of a split that lack it and why, for the report."""
        return {name: lacks for name, lacks in self.data.missing(split).items() if name in self.inputs}

    def on_fit_start(self) -> None:
        """Note what the weights are trained on, before the first of them moves."""
        super().on_fit_start()
        self.origin["stores"] = {name: store.digest for name, store in self.data.stores.items()}
        self.origin["encoders"] = self.data.encoders(self.inputs)

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
        outputs = {
            "keys": keys[True],
            "missing": missing,
            "logits": self.targets.outputs(prediction.logits[there].float(), self.known_facts),
        }
        if prediction.hidden is not None:
            outputs["hidden"] = prediction.hidden[there].float()
        return outputs

    def provenance(self) -> dict[str, Any]:
        """The origin of this task's predictions, for the store that holds them: plain values."""
        return {
            "task": type(self).__name__,
            "modules": self._module_names(),
            "classes": self.classes,
            **({"values": list(self.known_facts.values)} if self.targets.num_values(self.known_facts) else {}),
            "trained_on": self.origin.get("trained_on", "nothing"),
            "selected_on": self.origin.get("selected_on", "nothing"),
            "trained_with": self.origin.get("stores", {}),
            "weights": weights_digest(self),
            "inputs": {name: self.data.stores[name].digest for name in self.inputs},
        }

    def _check_data(self, settings: Mapping[str, Any], classes: Sequence[str], origin: Mapping[str, Any]) -> None:
        for name, width in settings["modalities"].items():
            self.data.require(name, dim=width)
        self.data.require_encoders(origin.get("encoders", {}))
        super()._check_data(settings, classes, origin)

    def _why_missing(self, key: UtteranceKey, modalities: Collection[str]) -> str:
        """Why an utterance has none of some modalities."""
        stores = {name: self.data.stores[name].why_missing([key]) for name in modalities}
        return "; ".join(f"{name}: {lacks[key]}" for name, lacks in stores.items())
