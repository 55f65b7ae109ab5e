"""LipSyncNet: learning synchrony, and choosing who speaks."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F

from merc.datamodules.lipsync import LipSyncBatch, LipSyncClip, LipSyncDataModule
from merc.evaluation.sync import SyncTrial, pair_scores, speaking_threshold
from merc.losses.sync import SyncLoss
from merc.speaker import SPEAKER_COLUMNS, LipSyncNet, SyncAugmentation, SyncScorer
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
    ``log(1 + exp((other - own) / 0.1))`` over them, by which checkpoints are chosen. From the same scores, and those of
    frozen faces, comes the threshold below which nobody who is visible speaks
    (:func:`merc.evaluation.sync.speaking_threshold`); it is part of the checkpoint. Where the corpus knows who speaks,
    ``choice_accuracy`` is the share of clips in which the right track is chosen, and ``first_face_accuracy`` that of
    the choice without synchrony.

    Prediction gives the ``speaker`` of every clip, a row of :meth:`merc.speaker.SpeakerChoice.to_row`.

    Args:
        network: The network.
        loss: The synchrony loss.
        augment: Draws other looks for training windows; ``None`` trains on the windows as they are.
        scorer: How windows become a choice.
        activity: Weight of the cross-entropy of whether lips speak at all.
        pair_frames: Frames of every clip that enter the pairs of validation and test; 74 are 3 s.
        visible: How often the speaker is to be seen, in 0..1, by which the threshold weighs its two mistakes; with 1
            somebody speaks in nearly every clip that shows a face.
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the learning-rate schedule (:func:`merc.tasks.optimizers.scheduled`).

    Raises:
        ValueError: ``visible`` is out of its range.
    """

    def __init__(
        self,
        network: LipSyncNet,
        loss: SyncLoss | None = None,
        augment: SyncAugmentation | None = None,
        scorer: SyncScorer | None = None,
        activity: float = 0.2,
        pair_frames: int = 74,
        visible: float = 0.95,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.05),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= visible <= 1:
            raise ValueError(f"visible is a share: expected 0..1, got {visible}.")
        self.network = network
        self.loss = loss or SyncLoss()
        self.augment = augment
        self.scorer = scorer or SyncScorer()
        self.activity = activity
        self.pair_frames = pair_frames
        self.visible = visible
        self.make_optimizer = Factory(optimizer)
        self.make_lr_scheduler = None if lr_scheduler is None else Factory(lr_scheduler)
        self.threshold: Tensor
        self.register_buffer("threshold", torch.tensor(float("-inf")))
        self.trained_on = "nothing"
        self._evaluated: list[tuple[SyncTrial | None, tuple[bool, bool] | None]] = []

    @property
    def data(self) -> LipSyncDataModule:
        """The datamodule of the trainer.

        Raises:
            TypeError: The trainer has none, or one of another kind.
        """
        return datamodule_of(self, LipSyncDataModule)

    def setup(self, stage: str) -> None:
        """Check the size of the crops.

        Raises:
            ValueError: The network expects another size than the store has, or the strategy of the Trainer splits it.
        """
        require_whole_network(self.trainer)
        self.require_size(self.data)

    def require_size(self, data: LipSyncDataModule) -> None:
        """Check the size of the crops.

        Raises:
            ValueError: The network expects another size than the store has.
        """
        if data.size != self.network.size:
            raise ValueError(
                f"LipSyncNet looks at crops of {self.network.size} x {self.network.size} pixels, the store has "
                f"{data.size} x {data.size}: correct size in the config, or write the crops again."
            )

    def on_fit_start(self) -> None:
        """Note what the weights are trained on."""
        self.trained_on = self.data.trains_on

    def training_step(self, batch: LipSyncBatch, batch_idx: int) -> Tensor:
        """The sum of the terms, whose means are logged."""
        return self.add_terms(self.terms(batch), len(batch.sound))

    def terms(self, batch: LipSyncBatch) -> dict[str, Tensor]:
        """The weighted terms, whose sum is the loss: those of synchrony, and ``activity``, whether lips speak."""
        crops, sound = (batch.crops, batch.sound) if self.augment is None else self.augment(batch.crops, batch.sound)
        video, activity = self.network.embed_video(crops)
        terms: dict[str, Tensor] = self.loss(video, self.network.embed_audio(sound), batch.kinds)
        known = batch.speaks >= 0
        if self.activity > 0 and known.any():
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
        trial, choice = None, None
        if clip.speaker is not None and len(clip.tracks) > 1:
            chosen = self.scorer.choose(self.network, clip.tracks, clip.sound, self._known_threshold())
            choice = (chosen.track == clip.speaker, clip.speaker == 0)
        if clip.speaker is not None and clip.speaker >= 0:
            trial = SyncTrial.of(self.network, self.scorer, clip.tracks[clip.speaker], clip.sound, self.pair_frames)
        self._evaluated.append((None if trial is None else trial.cpu(), choice))

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the validation split, and set the threshold by them."""
        self._summarise("val")

    def on_test_epoch_end(self) -> None:
        """Log the scores of the test split."""
        self._summarise("test")

    def _summarise(self, part: str) -> None:
        found = gather_in_order(self._evaluated)
        self._evaluated = []
        trials = [trial for trial, _ in found if trial is not None]
        choices = [choice for _, choice in found if choice is not None]
        if len(trials) > 1:
            scores, frozen = pair_scores(self.scorer, trials)
            own = scores.diagonal()[:, None]
            others = ~torch.eye(len(scores), dtype=torch.bool)
            self.log(f"{part}/pair_accuracy", (own > scores)[others].float().mean(), prog_bar=True)
            self.log(f"{part}/pair_loss", F.softplus((scores - own) / 0.1)[others].mean())
            self.log(f"{part}/still_accuracy", (own[:, 0] > frozen).float().mean())
            if part == "val":
                self.threshold.fill_(speaking_threshold(own[:, 0], torch.cat([scores[others], frozen]), self.visible))
        if choices:
            right, first = torch.tensor(choices).float().mean(0)
            self.log(f"{part}/choice_accuracy", right, prog_bar=True)
            self.log(f"{part}/first_face_accuracy", first)

    def _known_threshold(self) -> float | None:
        return float(self.threshold) if torch.isfinite(self.threshold) else None

    def predict_step(self, clip: LipSyncClip, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """The choice of the active speaker in one clip, or why there is none."""
        if clip.missing is not None:
            return {"keys": [], "speaker": torch.empty(0, len(SPEAKER_COLUMNS)), "missing": {clip.key: clip.missing}}
        choice = self.scorer.choose(self.network, clip.tracks, clip.sound, self._known_threshold())
        return {"keys": [clip.key], "speaker": choice.to_row()[None]}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Every parameter."""
        optimizer = self.make_optimizer(self.parameters())
        return scheduled(self, optimizer, self.make_lr_scheduler, monitor="val/pair_loss")

    def provenance(self) -> dict[str, Any]:
        """What a store of choices tells of their origin: plain values."""
        settings = {f.name: getattr(self.scorer, f.name) for f in fields(self.scorer)}
        return {
            "task": type(self).__name__,
            "trained_on": self.trained_on,
            "weights": weights_digest(self),
            "threshold": self._known_threshold(),
            "scorer": settings,
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
