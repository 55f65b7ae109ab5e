"""LipSyncNet: learning synchrony, and choosing who speaks."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from merc.callbacks import StoreWriterCallback
from merc.datamodules.lipsync import LipSyncBatch, LipSyncClip, LipSyncDataModule
from merc.losses.sync import SyncLoss
from merc.speaker import (
    SPEAKER_COLUMNS,
    LikelihoodScorer,
    MouthTrack,
    SpeakerScorer,
    SpeakerTimeline,
    SyncAugmentation,
    SyncNetwork,
    load_lipsync,
    spans_to_rows,
)
from merc.speaker.lags import sound_in_sync
from merc.store import Sequences
from merc.tasks.checkpoints import refuse_other_model
from merc.tasks.factory import Factory
from merc.tasks.gather import gather_in_order
from merc.tasks.optimizers import scheduled
from merc.tasks.trainer import TermsTask, datamodule_of, require_whole_network
from merc.weights import weights_digest


class LipSyncTask(TermsTask):
    """Trains LipSyncNet on synchrony, and chooses the active speaker of clips (arXiv 2511.13731, section 3.2).

    Validation plays every sound of the split against its own face and against each other face: ``val/pair_accuracy``
    is the share of these ordered pairs in which the own face wins, ``val/pair_loss`` the mean of
    ``log(1 + exp((other - own) / spread))`` over them, by which checkpoints are chosen. From the same clips comes what
    the scorer needs to tell that nobody who is visible speaks (:meth:`merc.speaker.SpeakerScorer.calibrated`); it is
    part of the checkpoint. Where the corpus knows who speaks, ``choice_accuracy`` is the share of clips in which the
    right track is chosen, and ``first_face_accuracy`` that of the choice without synchrony.

    Prediction gives the ``speaker`` of every clip, a row of :meth:`merc.speaker.SpeakerChoice.to_row`, and the
    ``sound`` of every clip in sync with its lips (:func:`merc.speaker.lags.sound_in_sync`), for a second training: a
    clip whose sound belongs to no face in it is missing there, with the reason. With
    :class:`merc.speaker.LikelihoodScorer` there are also the ``turns``, who speaks when
    (:class:`merc.speaker.SpeakerTimeline`).

    Args:
        network: The network.
        loss: The synchrony loss.
        augment: Draws other looks for training windows; ``None`` trains on the windows as they are.
        scorer: How windows become a choice.
        activity: Weight of the cross-entropy of whether lips speak at all, for networks that judge it.
        pair_frames: Frames of a trial; 74 are 3 s. Every clip gives up to ``trials`` of them to validation and test.
        trials: Most trials that a clip gives.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).
        warm_start: Weights to start from, and to predict with unless a checkpoint is given: a name or a folder, as in
            :func:`merc.speaker.load_lipsync`. Default: random weights.
    """

    def __init__(
        self,
        network: SyncNetwork,
        loss: SyncLoss | None = None,
        augment: SyncAugmentation | None = None,
        scorer: SpeakerScorer | None = None,  # type: ignore[type-arg] # jsonargparse finds no options of generics
        activity: float = 0.2,
        pair_frames: int = 74,
        trials: int = 3,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05),
        lr_scheduler: LRSchedulerCallable | None = None,
        warm_start: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss or SyncLoss()
        self.augment = augment
        self.scorer: SpeakerScorer[Any] = scorer or LikelihoodScorer()
        self.activity = activity
        self.pair_frames = pair_frames
        self.trials = trials
        self.warm_start = warm_start
        self._is_fresh = True
        self.make_optimizer = Factory(optimizer)
        self.make_lr_scheduler = None if lr_scheduler is None else Factory(lr_scheduler)
        self.calibration: Tensor
        self.register_buffer("calibration", self.scorer.uncalibrated())
        self.trained_on = "nothing"
        self._moved: list[str] = []
        self._evaluated: list[tuple[list[Any], tuple[bool, bool] | None]] = []

    @property
    def data(self) -> LipSyncDataModule:
        """The datamodule of the trainer.

        Raises:
            TypeError: The trainer has none, or one of another kind.
        """
        return datamodule_of(self, LipSyncDataModule)

    def setup(self, stage: str) -> None:
        """Load the weights to start from, into a network that has no others yet, and check the size of the crops.

        Raises:
            FileNotFoundError: The weights to start from are not there.
            ValueError: They are of another network, or the network expects another size of crops than the store has,
                or the strategy of the Trainer splits it.
        """
        require_whole_network(self.trainer)
        if self.warm_start is not None and self._is_fresh:
            self._load(self.warm_start)
        self._is_fresh = False
        self.require_size(self.data)

    def _load(self, name: str) -> None:
        weights = load_lipsync(name)
        found = weights.network.state_dict()
        own = self.network.state_dict()
        if {key: value.shape for key, value in found.items()} != {key: value.shape for key, value in own.items()}:
            raise ValueError(
                f"The weights {name!r} are of another network than model.network, {type(self.network).__name__} with "
                "these options: leave warm_start out, or give the network that the weights belong to."
            )
        self.network.load_state_dict(found)
        if weights.calibration.shape == self.calibration.shape:
            self.calibration.copy_(weights.calibration)
        self.trained_on = weights.trained_on

    def require_size(self, data: LipSyncDataModule) -> None:
        """Check the size of the crops.

        Raises:
            ValueError: The network expects another size than the store has.
        """
        size = self.network.size
        if data.size != size:
            raise ValueError(
                f"{type(self.network).__name__} looks at crops of {size} x {size} pixels, the store has {data.size} x "
                f"{data.size}: correct size in the config, or write the crops again."
            )

    def forget_calibration(self) -> None:
        """Assume of scores what the scorer assumes before a validation."""
        self.calibration.copy_(self.scorer.uncalibrated())

    def on_fit_start(self) -> None:
        """Note what the weights are trained on."""
        before = "" if self.warm_start is None else f"{load_lipsync(self.warm_start).trained_on}; then "
        self.trained_on = before + self.data.trains_on

    def training_step(self, batch: LipSyncBatch, batch_idx: int) -> Tensor:
        """The sum of the terms, whose means are logged."""
        return self.add_terms(self.terms(batch), len(batch.sound))

    def terms(self, batch: LipSyncBatch) -> dict[str, Tensor]:
        """The weighted terms, whose sum is the loss: those of synchrony, and ``activity``, whether lips speak."""
        crops, sound = (batch.crops, batch.sound) if self.augment is None else self.augment(batch.crops, batch.sound)
        video, activity = self.network.embed_video(crops)
        terms: dict[str, Tensor] = self.loss(video, self.network.embed_audio(sound), batch.kinds)
        known = batch.speaks >= 0
        if self.activity > 0 and activity is not None and known.any():
            speaks = batch.speaks[known].float()
            terms["activity"] = self.activity * F.binary_cross_entropy_with_logits(activity[known].float(), speaks)
        return terms

    def validation_step(self, clip: LipSyncClip, batch_idx: int) -> None:
        """Keep what the clip says."""
        self._evaluate(clip)

    def test_step(self, clip: LipSyncClip, batch_idx: int) -> None:
        """Keep what the clip says."""
        self._evaluate(clip)

    def _evaluate(self, clip: LipSyncClip) -> None:
        choice = None
        if clip.speaker is not None and len(clip.tracks) > 1:
            chosen = self.scorer.choose(self.network, clip.tracks, clip.sound, self.calibration)
            choice = (chosen.track == clip.speaker, clip.speaker == 0)
        trials = trials_of(self.network, self.scorer, clip, self.pair_frames, self.trials)
        self._evaluated.append((trials, choice))

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation split, and calibrate the scorer by them."""
        self._summarise("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split."""
        self._summarise("test")

    def _summarise(self, part: str) -> None:
        found = gather_in_order(self._evaluated)
        self._evaluated = []
        trials = [(number, trial) for number, (pieces, _) in enumerate(found) for trial in pieces]
        choices = [choice for _, choice in found if choice is not None]
        clips = torch.tensor([number for number, _ in trials])
        count = len({number for number, _ in trials})
        if count > 1:
            pieces = [trial for _, trial in trials]
            if part == "val":
                self.calibration.copy_(calibration_of(self.scorer, pieces, count))
            scores, frozen = self.scorer.pairs(pieces, self.calibration.cpu())
            own = scores.diagonal()[:, None]
            others = clips[:, None] != clips
            self.log(f"{part}/pair_accuracy", (own > scores)[others].float().mean(), prog_bar=True)
            self.log(f"{part}/pair_loss", F.softplus((scores - own) / self.scorer.spread)[others].mean())
            self.log(f"{part}/still_accuracy", (own[:, 0] > frozen).float().mean())
        if choices:
            right, first = torch.tensor(choices).float().mean(0)
            self.log(f"{part}/choice_accuracy", right, prog_bar=True)
            self.log(f"{part}/first_face_accuracy", first)

    def predict_step(self, clip: LipSyncClip, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The choice of the active speaker in one clip and its sound in sync, or why there is none."""
        if clip.missing is not None:
            missing = {clip.key: clip.missing}
            nothing = torch.empty(0, len(SPEAKER_COLUMNS))
            without = Sequences([], [], missing)
            return {"keys": [], "speaker": nothing, "sound": without, "turns": without, "missing": missing}
        choice = self.scorer.choose(self.network, clip.tracks, clip.sound, self.calibration.cpu())
        found: dict[str, Any] = {"keys": [clip.key], "speaker": choice.to_row()[None]}
        if self._is_wanted("sound"):
            found["sound"] = self._in_sync(clip)
        if self._is_wanted("turns") and isinstance(self.scorer, LikelihoodScorer):
            spans = SpeakerTimeline(self.scorer)(self.network, clip.tracks, clip.sound, self.calibration.cpu())
            found["turns"] = Sequences([clip.key], [spans_to_rows(spans)])
        return found

    def _is_wanted(self, output: str) -> bool:
        """Whether what costs time is asked for: by a store that is being written, or in Python, without any."""
        writers = [c for c in self.trainer.callbacks if isinstance(c, StoreWriterCallback)]  # type: ignore[attr-defined]
        return not writers or any(output in writer.outputs for writer in writers)

    def _in_sync(self, clip: LipSyncClip) -> Sequences:
        talking = [clip.tracks[index] for index in clip.talking]
        if isinstance(self.scorer, LikelihoodScorer):
            found = sound_in_sync(self.network, talking, clip.sound, self.scorer, self.calibration.cpu())
        else:
            found = sound_in_sync(self.network, talking, clip.sound)
        if found.sound is None:
            self._moved.append(f"{clip.key.dialogue}: left out, {found.reason}")
            return Sequences([], [], {clip.key: found.reason})
        if found.lag:
            self._moved.append(f"{clip.key.dialogue}: its sound was {abs(found.lag):.2f} s {_late(found.lag)}")
        return Sequences([clip.key], [found.sound], {})

    def on_predict_end(self) -> None:
        """Say which clips are not in sync, where a store of sounds is written."""
        if moved := sorted(gather_in_order(self._moved)):
            rank_zero_warn("Sounds that did not fit their lips:\n" + "\n".join(moved))
        self._moved = []

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Every parameter."""
        optimizer = self.make_optimizer(self.parameters())
        return scheduled(self, optimizer, self.make_lr_scheduler, monitor="val/pair_loss")

    def provenance(self) -> dict[str, Any]:
        """What a store of choices tells of their origin: plain values."""
        names: list[str] = [field.name for field in fields(self.scorer)] if is_dataclass(self.scorer) else []
        return {
            "task": type(self).__name__,
            "trained_on": self.trained_on,
            "weights": weights_digest(self),
            "calibration": [None if math.isinf(value) else value for value in self.calibration.tolist()],
            "scorer": {"class": type(self.scorer).__name__, **{name: getattr(self.scorer, name) for name in names}},
            "inputs": {
                f"{source.corpus.name}/{kind}": getattr(source, kind).digest
                for source in self.data.opened
                for kind in ("faces", "crops", "sound")
            },
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add, in plain values, what the weights fit to."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["merc"] = {"task": type(self).__name__, "trained_on": self.trained_on}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the checkpoint of another model.

        Raises:
            ValueError: The checkpoint does not fit; the message says what differs.
        """
        super().on_load_checkpoint(checkpoint)
        found = checkpoint.get("merc", {})
        refuse_other_model({"task": type(self).__name__}, found, self.state_dict(), checkpoint["state_dict"])
        self.trained_on = found["trained_on"]
        self._is_fresh = False


def calibration_of(scorer: SpeakerScorer[Any], trials: list[Any], clips: int) -> Tensor:
    """What the trials of some clips say of scores, if these are enough for the scorer, otherwise what is assumed.

    Args:
        scorer: The scorer that encoded them.
        trials: The trials.
        clips: Of how many clips they are.
    """
    return scorer.calibrated(trials) if clips >= scorer.enough else scorer.uncalibrated()


def trials_of(
    network: SyncNetwork, scorer: SpeakerScorer[Any], clip: LipSyncClip, frames: int, most: int = 3
) -> list[Any]:
    """Up to ``most`` trials, one after the other, of the longest track of a clip that talks.

    Args:
        network: In evaluation mode.
        scorer: Encodes them.
        clip: The clip; none of its tracks need talk.
        frames: Length of a trial.
        most: Most trials.
    """
    if not clip.talking:
        return []
    track = max((clip.tracks[index] for index in clip.talking), key=lambda track: len(track.crops))
    found = []
    for start in range(0, most * frames, frames):
        rest = MouthTrack(track.first + start, track.crops[start:])
        trial = scorer.trial(network, rest, clip.sound, frames)
        if trial is None:
            break
        found.append(trial.cpu())
    return found


def _late(lag: float) -> str:
    return "late" if lag > 0 else "early"
