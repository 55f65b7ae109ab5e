"""Evaluation of lip synchrony: every sound against every face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from merc.losses.sync import pairwise_distance
from merc.media.rates import MEL_PER_FRAME
from merc.speaker.base import SyncNetwork
from merc.speaker.score import MouthTrack, SyncScorer


@dataclass(frozen=True, eq=False)
class SyncTrial:
    """The vectors of one talking face and its sound, cut to a common length.

    Args:
        video: ``(W, d)`` of the face in W windows.
        activity: ``(W,)`` log-odds that its lips speak.
        audio: ``(W, L, d)`` of the sound, at L lags.
        frozen: ``(W, d)`` of the still face.
        frozen_activity: ``(W,)`` log-odds that the still lips speak.
    """

    video: Tensor
    activity: Tensor
    audio: Tensor
    frozen: Tensor
    frozen_activity: Tensor

    def cpu(self) -> SyncTrial:
        """The same vectors in the memory of the CPU."""
        return SyncTrial(*(getattr(self, f.name).cpu() for f in fields(self)))

    @classmethod
    @torch.no_grad()
    def of(
        cls, network: SyncNetwork, scorer: SyncScorer, track: MouthTrack, sound: Tensor, frames: int
    ) -> SyncTrial | None:
        """Encode the first ``frames`` frames of a track with its sound; ``None`` if it is shorter.

        Args:
            network: In evaluation mode.
            scorer: Defines windows and lags.
            track: The talking face.
            sound: ``(M, 80)`` log-mel of the clip.
            frames: Frames to use.
        """
        if len(track.crops) < frames or MEL_PER_FRAME * (track.first + frames) > len(sound) + MEL_PER_FRAME:
            return None
        spans = [(track.first + a, track.first + b) for a, b in scorer.windows(frames)]
        still = MouthTrack(track.first, track.crops[len(track.crops) // 2].expand(frames, -1, -1))
        video, activity = scorer.embed_track(network, track, spans)
        frozen, frozen_activity = scorer.embed_track(network, still, spans)
        audio = torch.stack(scorer.embed_sound(network, sound, spans))
        return cls(torch.stack(video), activity, audio, torch.stack(frozen), frozen_activity)


def pair_scores(scorer: SyncScorer, trials: Sequence[SyncTrial]) -> tuple[Tensor, Tensor]:
    """Score every sound against every face.

    Args:
        scorer: Combines windows to a score.
        trials: N trials of one length.

    Returns:
        ``(N, N)``: row i holds the score of each face with sound i; ``(N,)`` the score of each sound with its own
        still face.
    """
    video, frozen = (torch.stack([getattr(t, name) for t in trials]) for name in ("video", "frozen"))
    activity, still = (torch.stack([getattr(t, name) for t in trials]) for name in ("activity", "frozen_activity"))
    audio = torch.stack([trial.audio for trial in trials])
    scores = torch.stack([_score(scorer, video, activity, sound[None]) for sound in audio])
    return scores.cpu(), _score(scorer, frozen, still, audio).cpu()


def _score(scorer: SyncScorer, video: Tensor, activity: Tensor, audio: Tensor) -> Tensor:
    distance = pairwise_distance(audio, video[..., None, :])[..., 0]  # (N, W, L)
    best = distance.mean(1).amin(-1)
    return -best + scorer.activity * activity.float().sigmoid().mean(-1)


def speaking_threshold(own: Tensor, others: Tensor, visible: float = 0.95) -> float:
    r"""The threshold that best separates true speakers from other faces, if the scores of both are Gaussian.

    .. math:: \theta = \arg\max_\theta \; \pi \, P(own > \theta) + (1 - \pi) \, P(other \le \theta)

    Means and deviations are taken from medians: where one face alone is in view it counts as the speaker's, and
    now and then it is a listener's, whose low score must not move the threshold.

    Args:
        own: Scores of faces with their own sound, at least two.
        others: Scores of faces with a sound that is not theirs, at least two.
        visible: :math:`\pi`, how often the speaker is visible, in 0..1.
    """
    low, high = float(others.min()), float(own.max())
    values = torch.linspace(min(low, high), max(low, high), 1001, dtype=torch.double)
    below = [torch.special.ndtr((values - x.median()) / _deviation(x).clamp(min=1e-3)) for x in (own, others)]
    return float(values[(visible * (1 - below[0]) + (1 - visible) * below[1]).argmax()])


def _deviation(x: Tensor) -> Tensor:
    """The standard deviation of a Gaussian, from the median distance to the median."""
    return 1.4826 * (x - x.median()).abs().median()
