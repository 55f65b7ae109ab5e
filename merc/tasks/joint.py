"""Joint training: students and fusion, and where clips are at hand LipSyncNet, under one loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, cast

from lightning.pytorch.cli import LRSchedulerCallable
from torch import Tensor, nn
from torch.optim import Optimizer

from merc.batch import ConversationBatch
from merc.datamodules.facts import DataFacts
from merc.datamodules.joint import JointDataModule
from merc.datamodules.lipsync import LipSyncBatch
from merc.evaluation.uncertainty import Stress, stressed
from merc.tasks.base import EmotionTask
from merc.tasks.checkpoints import read_checkpoint
from merc.tasks.classifier import Prediction
from merc.tasks.fusion import FusionTask, stresses_of
from merc.tasks.lipsync import LipSyncTask
from merc.tasks.student import StudentTask
from merc.tasks.teacher import TeacherTask
from merc.weights import weights_digest


class JointBatch(TypedDict):
    """A training batch of :class:`merc.datamodules.JointDataModule`."""

    conversations: ConversationBatch
    lipsync: LipSyncBatch


class JointTask(EmotionTask):
    r"""Trains the parts of the system under the sum of their losses, instead of one after the other.

    .. math:: L = L_{fusion} + \lambda_1 L_{dis} + \lambda_2 L_{sync}

    Eq. 1 of arXiv 2511.13731, with :math:`\lambda_1 = 0.3` and :math:`\lambda_2 = 0.15`; :math:`L_{dis}` is the sum
    over the students. The parts are the tasks of the staged training as they are, each with its network, its loss and
    its optimizer, so that nothing is defined twice. The fusion reads the hidden states of the students where the staged
    one reads stores of them, and its gradient reaches the students. Every term is logged under the name of its part:
    ``train/fusion/comp``, ``train/audio/kl``, ``train/lipsync/rank``.

    The teacher is frozen by default: its hidden states (for the fusion) and logits (for the distillation) come from
    stores, written once in evaluation mode; there is nothing of it here that could move, and nothing is computed
    again in every step. Where a :class:`TeacherTask` is given, the teacher trains too. Then it keeps its own loss:
    the fusion's gradient moves its hidden states, and without that loss its classifier would no longer fit them. Its
    logits reach the students detached; a teacher that could lower :math:`L_{dis}` by agreeing with its students
    would follow them.

    Lips and sound share no network with the emotions. :math:`L_{sync}` trains LipSyncNet beside them, from the second
    loader of :class:`merc.datamodules.JointDataModule`; the faces that the visual features show were chosen before.
    What calibrates the part ``lipsync`` is forgotten when it learns on: a validation of that part alone sets it again.

    Predictions, report and metrics are those of the fusion. ``predict`` gives ``hidden`` and ``logits`` of the fusion,
    and those of every encoder under its modality, as the outputs ``audio/hidden``, ``audio/logits``.

    Args:
        students: By modality, the distilled students.
        fusion: The fusion. Of the modalities that a student or the teacher encodes its head reads the hidden states,
            the others come from stores.
        teacher: A teacher that trains with the others. Default: the teacher is frozen and comes from stores.
        lipsync: Trains LipSyncNet beside the emotions; needs :class:`merc.datamodules.JointDataModule`.
        distillation_weight: :math:`\lambda_1`; 0 removes the term.
        sync_weight: :math:`\lambda_2`; 0 removes the term.
        teacher_weight: Weight of the loss of a teacher that trains; 0 removes the term.
        warm_start: Checkpoints of the staged training to start from, by part: the modalities of the students,
            ``fusion``, ``teacher``, ``lipsync``. They are read when the training of fresh weights begins, and never
            again: a checkpoint of the joint training needs none of them.
        lr_scheduler: Makes the learning-rate schedule of all parts (:func:`merc.tasks.optimizers.scheduled`).

    Raises:
        ValueError: The parts do not fit each other, a weight is negative, or ``warm_start`` names no part.

    Note:
        One optimizer steps all parts. It has the parameter groups that the optimizers of the parts make, so that each
        part has the learning rate of its own ``optimizer``. These must be of one class.
    """

    def __init__(
        self,
        students: dict[str, StudentTask],
        fusion: FusionTask,
        teacher: TeacherTask | None = None,
        lipsync: LipSyncTask | None = None,
        distillation_weight: float = 0.3,
        sync_weight: float = 0.15,
        teacher_weight: float = 1.0,
        warm_start: dict[str, str] | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(fusion.make_optimizer, lr_scheduler)
        if min(distillation_weight, sync_weight, teacher_weight) < 0:
            raise ValueError(
                f"Expected weights >= 0, got {distillation_weight} of distillation, {sync_weight} of synchrony, "
                f"{teacher_weight} of the teacher."
            )
        self.students = nn.ModuleDict(students)
        self.fusion = fusion
        self.teacher = teacher
        self.lipsync = lipsync
        self.distillation_weight = distillation_weight
        self.sync_weight = sync_weight
        self.teacher_weight = teacher_weight
        self.warm_start = dict(warm_start or {})
        self._check_parts()

    @property
    def parts(self) -> dict[str, EmotionTask | LipSyncTask]:
        """The tasks that this one is made of, by the names under which their terms are logged."""
        found: dict[str, EmotionTask | LipSyncTask] = dict(self._students())
        given = {"teacher": self.teacher, "fusion": self.fusion, "lipsync": self.lipsync}
        return found | {name: part for name, part in given.items() if part is not None}

    def build_network(self, facts: DataFacts) -> None:
        """Build the parts: the encoders from the data, the fusion on their hidden states.

        Raises:
            StoreError: The data lacks features that a part reads.
            ValueError: The fusion reads no hidden states of an encoder.
        """
        encoders = self._encoders()
        for part in encoders.values():
            part.build(facts)
        hidden = {name: part.network.hidden_dim for name, part in encoders.items()}
        of_teacher = {name for _, student in self._students() for name in (student.teacher, student.teacher_hidden)}
        names = [name for name in facts.modalities if name in hidden or name not in of_teacher]
        seen = replace(facts, widths={**facts.widths, **hidden}, modalities=tuple(names))
        if unread := sorted(hidden.keys() - set(self.fusion.reads(seen))):
            raise ValueError(
                f"The fusion does not read the hidden states of {', '.join(unread)}: name them among its modalities, "
                "or leave their encoders out."
            )
        self.fusion.build(seen)

    @property
    def inputs(self) -> dict[str, int]:
        """Those of the fusion, as wide as the encoders read them, or as the fusion does where there is no encoder."""
        widths = {name: width for part in self._encoders().values() for name, width in part.inputs.items()}
        return {name: widths.get(name, width) for name, width in self.fusion.inputs.items()}

    def setup(self, stage: str) -> None:
        """Check also what the losses need of the frozen teacher and of the clips.

        Raises:
            StoreError: A store is absent or does not fit.
            ValueError: There are no clips for LipSyncNet, or they have another size than it expects.
        """
        super().setup(stage)
        if stage in ("fit", "validate") and self.distillation_weight and self.teacher is None:
            for _, student in self._students():
                student.require_teacher(self.data)
        if stage == "fit" and self.lipsync is not None and self.sync_weight:  # the clips serve training alone
            if not isinstance(self.data, JointDataModule):
                raise ValueError(
                    f"JointTask is to train LipSyncNet, and {type(self.data).__name__} has no clips: give "
                    "merc.datamodules.JointDataModule, or leave lipsync out."
                )
            self.lipsync.require_size(self.data.lipsync)

    def on_fit_start(self) -> None:
        """Start fresh weights from the staged checkpoints, then note what they are trained on.

        Raises:
            FileNotFoundError: A checkpoint is not there.
            ValueError: A checkpoint is damaged, of another model than its part, or was trained on features of another
                encoder than the stores have.
        """
        started = self.origin["started_from"] if self.origin else self._start_warm()
        super().on_fit_start()
        self.origin["started_from"] = started
        if self.lipsync is not None and self.sync_weight and isinstance(self.data, JointDataModule):
            self.lipsync.trained_on = self.data.lipsync.trains_on
            self.lipsync.forget_calibration()
        if self.lipsync is not None:
            self.origin["lipsync"] = self.lipsync.trained_on

    def step(self, batch: ConversationBatch) -> Prediction:
        """Encode, then fuse; the terms are those of all parts, weighted, under the names of the parts."""
        return self._predict_all(batch)[0]

    def training_step(self, batch: ConversationBatch | JointBatch, batch_idx: int) -> Tensor:
        """The sum of the loss terms, whose means are logged."""
        conversations = batch if isinstance(batch, ConversationBatch) else batch["conversations"]
        prediction = self.step(conversations)
        if self.lipsync is not None and self.sync_weight and not isinstance(batch, ConversationBatch):
            prediction.terms |= _weighted("lipsync", self.lipsync.terms(batch["lipsync"]), self.sync_weight)
        return self.add_terms(prediction.terms, len(conversations.label))

    def predict_step(self, batch: ConversationBatch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """What stores take of the fusion, and under its modality of every encoder."""
        fused, encoded = self._predict_all(batch)
        parts = {name: self._stored(prediction, batch, [name]) for name, prediction in encoded.items()}
        return self._stored(fused, batch, self.inputs) | parts

    def stressed(self, batch: ConversationBatch) -> dict[Stress, Tensor]:
        """What the fusion predicts where utterances lack the features of a modality, or these are noisy."""
        return {
            stress: self.targets.decided(self.step(stressed(batch, stress)).logits, self.known_facts)
            for stress in stresses_of(list(self.fusion.head.dims))
        }

    def provenance(self) -> dict[str, Any]:
        """What a store of this task's predictions tells of their origin: plain values."""
        return super().provenance() | {"started_from": self.origin.get("started_from", {})}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model, or one that was trained on other emotions.

        Raises:
            ValueError: The checkpoint does not fit; the message says what differs.
        """
        super().on_load_checkpoint(checkpoint)
        if self.lipsync is not None:
            self.lipsync.trained_on = self.origin.get("lipsync", "nothing")

    def _students(self) -> Iterator[tuple[str, StudentTask]]:
        return ((name, cast(StudentTask, part)) for name, part in self.students.items())

    def _encoders(self) -> dict[str, StudentTask | TeacherTask]:
        """By modality, the parts whose hidden states the fusion reads."""
        found: dict[str, StudentTask | TeacherTask] = dict(self._students())
        return found if self.teacher is None else {self.teacher.modality: self.teacher, **found}

    def _predict_all(self, batch: ConversationBatch) -> tuple[Prediction, dict[str, Prediction]]:
        """What the fusion says with the terms of all parts, and by modality what the encoders say."""
        features, present = dict(batch.features), dict(batch.present)
        encoded: dict[str, Prediction] = {}
        terms: dict[str, Tensor] = {}
        if self.teacher is not None:
            name = self.teacher.modality
            encoded[name] = taught = self.teacher.step(batch)
            terms |= _weighted("teacher", taught.terms, self.teacher_weight)
            for _, student in self._students():
                given = {student.teacher: taught.logits, student.teacher_hidden: _hidden(taught)}
                features |= {key: value.detach() for key, value in given.items()}
                present |= dict.fromkeys(given, batch.present[name])
        for name, student in self._students():
            encoded[name] = student.step(replace(batch, features=features, present=present))
            terms |= _weighted(name, encoded[name].terms, self.distillation_weight)
        # As in a store of hidden states: nothing where the modality is absent.
        states = {name: _hidden(part) * batch.present[name][:, None] for name, part in encoded.items()}
        fused = self.fusion.step(replace(batch, features={**batch.features, **states}))
        return replace(fused, terms=_weighted("fusion", fused.terms, 1.0) | terms), encoded

    def _start_warm(self) -> dict[str, str]:
        """Load the staged checkpoints; by part, the digest of the weights that it starts from."""
        for name, path in self.warm_start.items():
            part, checkpoint = self.parts[name], read_checkpoint(path)
            try:
                part.on_load_checkpoint(checkpoint)
                if isinstance(part, EmotionTask):
                    read = part.origin.get("encoders", {})
                    encoded = () if part is not self.fusion else self._encoders()  # here, not by those of the stores
                    self.data.require_encoders({name: read[name] for name in read.keys() - set(encoded)})
            except ValueError as error:
                raise ValueError(f"JointTask cannot start its part {name!r} from {Path(path)}: {error}") from error
            part.load_state_dict(checkpoint["state_dict"])
        return {name: weights_digest(self.parts[name]) for name in self.warm_start}

    def _optimizer(self) -> Optimizer:
        # The parts have no schedules, so they give the optimizer alone.
        first, *others = (cast(Optimizer, part.configure_optimizers()) for part in self.parts.values())
        for other in others:
            if type(other) is not type(first):
                raise ValueError(
                    "One optimizer steps all parts of JointTask: expected the same class in each, found "
                    f"{type(first).__name__} and {type(other).__name__}."
                )
            for group in other.param_groups:
                first.add_param_group(group)
        return first

    def _module_names(self) -> list[str]:
        def described(name: str, part: nn.Module) -> str:
            return f"{name}: {type(part).__name__}({', '.join(type(m).__name__ for m in part.children())})"

        return [described(name, part) for name, part in self.parts.items()]

    def _check_parts(self) -> None:
        if not self.students:
            raise ValueError("JointTask got no students: expected one or more; FusionTask trains a fusion alone.")
        for name, student in self._students():
            if student.modality != name:
                raise ValueError(f"JointTask got a student of {student.modality!r} under the name {name!r}.")
        if other := [n for n, p in self.parts.items() if isinstance(p, EmotionTask) and p.targets.told != {"emotions"}]:
            raise ValueError(
                f"JointTask predicts emotions alone, and the targets of its parts {', '.join(other)} are numbers, or "
                "emotions and numbers: leave out their targets, or train the parts one after the other."
            )
        if scheduled := [name for name, part in self.parts.items() if part.make_lr_scheduler is not None]:
            raise ValueError(
                f"One schedule steps all parts of JointTask: give it lr_scheduler, not {', '.join(scheduled)}."
            )
        if unknown := sorted(self.warm_start.keys() - self.parts.keys()):
            raise ValueError(f"warm_start names {', '.join(unknown)}: expected some of {', '.join(self.parts)}.")


def _hidden(prediction: Prediction) -> Tensor:
    return cast(Tensor, prediction.hidden)  # which an encoder always gives


def _weighted(part: str, terms: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    return {f"{part}/{name}": weight * term for name, term in terms.items()} if weight else {}
