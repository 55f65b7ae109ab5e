"""Scores of face tracks against a sound, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from merc.losses.sync import pairwise_distance
from merc.media.rates import MEL_PER_FRAME
from merc.speaker.base import MouthTrack, SpeakerScorer, SyncNetwork
from merc.speaker.choose import SpeakerChoice, choose_speaker


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


@dataclass(frozen=True)
class SyncScorer(SpeakerScorer[SyncTrial]):
    r"""Scores face tracks by how well their lips fit the sound (arXiv 2511.13731, eq. 5).

    .. math:: Score(F_j, A) = -\lVert f_v^j - f_a \rVert_2 + \lambda \, \sigma(a_j)

    in each window, where :math:`a_j` are LipSyncNet's log-odds that the lips speak at all. If the sound of a recording
    is a little early or late, the score uses the lag of at most ``max_lag`` at which a track fits best over all
    windows.

    Args:
        window: Frames per window; 32 are 1.28 s. ``None`` scores the whole clip at once, as the paper does.
        hop: Frames from one window to the next.
        max_lag: Frames by which the sound may lead or follow.
        activity: :math:`\lambda`, the weight of whether the lips speak at all; 0 leaves the paper's score.
        shortest: A track is scored in a window if it shows at least this many frames of it, or the whole clip.
        visible: How often the speaker is visible, in 0..1, by which the threshold of "nobody" weighs its two mistakes;
            with 1 somebody speaks in nearly every clip that shows a face.

    Raises:
        ValueError: ``visible`` is out of its range.
    """

    window: int | None = 32
    hop: int = 16
    max_lag: int = 2
    activity: float = 0.1
    shortest: int = 12
    visible: float = 0.95
    spread = 0.1

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 <= self.visible <= 1:
            raise ValueError(f"visible is a share: expected 0..1, got {self.visible}.")

    def uncalibrated(self) -> Tensor:
        """No threshold: somebody who is visible speaks."""
        return torch.tensor([float("-inf")])

    def calibrated(self, trials: Sequence[SyncTrial]) -> Tensor:
        """The threshold below which nobody who is visible speaks (:func:`speaking_threshold`)."""
        scores, frozen = self.pairs(trials, self.uncalibrated())
        others = ~torch.eye(len(scores), dtype=torch.bool)
        return torch.tensor([speaking_threshold(scores.diagonal(), torch.cat([scores[others], frozen]), self.visible)])

    def nobody(self, calibration: Tensor, tracks: int = 1) -> float:
        """The threshold."""
        return float(calibration[0])

    def windows(self, length: int) -> list[tuple[int, int]]:
        """First frame and the one after the last of every window of a clip; the last window ends with the clip."""
        if self.window is None or length <= self.window:
            return [(0, length)]
        starts = list(range(0, length - self.window, self.hop))
        return [(start, start + self.window) for start in [*starts, length - self.window]]

    def choose(
        self, network: SyncNetwork, tracks: Sequence[MouthTrack], sound: Tensor, calibration: Tensor | None = None
    ) -> SpeakerChoice:
        """Choose the track that speaks (see :func:`choose_speaker`), in a clip as long as its sound.

        The threshold of nobody is the only number of ``calibration``.
        """
        [threshold] = (self.uncalibrated() if calibration is None else calibration).tolist()
        threshold = None if threshold == float("-inf") else threshold
        spans = self.windows(len(sound) // MEL_PER_FRAME)
        return choose_speaker(*self.score(network, tracks, sound, spans), threshold)

    @torch.no_grad()
    def trial(self, network: SyncNetwork, track: MouthTrack, sound: Tensor, frames: int) -> SyncTrial | None:
        """Encode the first ``frames`` frames of a track with its sound; ``None`` if it is shorter."""
        if not track.lasts(frames, sound):
            return None
        spans = [(track.first + a, track.first + b) for a, b in self.windows(frames)]
        still = MouthTrack(track.first, track.crops[len(track.crops) // 2].expand(frames, -1, -1))
        video, activity = self.embed_track(network, track, spans)
        frozen, frozen_activity = self.embed_track(network, still, spans)
        audio = torch.stack(self.embed_sound(network, sound, spans))
        return SyncTrial(torch.stack(video), activity, audio, torch.stack(frozen), frozen_activity)

    def pairs(self, trials: Sequence[SyncTrial], calibration: Tensor) -> tuple[Tensor, Tensor]:
        """Score every sound against every face; the scores are the distances, whatever the calibration."""
        video, frozen = (torch.stack([getattr(t, name) for t in trials]) for name in ("video", "frozen"))
        activity, still = (torch.stack([getattr(t, name) for t in trials]) for name in ("activity", "frozen_activity"))
        audio = torch.stack([trial.audio for trial in trials])
        scores = torch.stack([self._all(video, activity, sound[None]) for sound in audio])
        return scores.cpu(), self._all(frozen, still, audio).cpu()

    def _all(self, video: Tensor, activity: Tensor, audio: Tensor) -> Tensor:
        distance = pairwise_distance(audio, video[..., None, :])[..., 0]  # (N, W, L)
        best = distance.mean(1).amin(-1)
        return -best + self.activity * activity.float().sigmoid().mean(-1)

    @torch.no_grad()
    def score(
        self, network: SyncNetwork, tracks: Sequence[MouthTrack], sound: Tensor, spans: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Scores of every track in every window.

        Args:
            network: In evaluation mode.
            tracks: K tracks of a clip.
            sound: ``(M, 80)`` log-mel of the same clip.
            spans: W windows, from :meth:`windows`.

        Returns:
            Scores ``(K, W)`` and ``(K, W)`` booleans, whether the track is visible enough to be scored; on the CPU.
        """
        scores = torch.zeros(len(tracks), len(spans), dtype=torch.float32)
        visible = torch.zeros(len(tracks), len(spans), dtype=torch.bool)
        for row, track in enumerate(tracks):
            parts = {}
            for column, (start, stop) in enumerate(spans):
                part = max(start, track.first), min(stop, track.stop)
                if part[1] - part[0] >= min(self.shortest, stop - start) > 1:
                    parts[column] = part
            if not parts:
                continue
            video, activity = self.embed_track(network, track, list(parts.values()))
            audio = self.embed_sound(network, sound, list(parts.values()))
            columns = torch.tensor(list(parts))
            scores[row, columns] = self.combine(video, activity, audio)
            visible[row, columns] = True
        return scores, visible

    def combine(self, video: Sequence[Tensor], activity: Tensor, audio: Sequence[Tensor]) -> Tensor:
        """Scores ``(W,)`` from the vectors of W windows: video ``(d,)`` and, for every lag, audio ``(L, d)`` each."""
        distance = torch.stack([pairwise_distance(a, v[None])[:, 0] for v, a in zip(video, audio, strict=True)])
        lag = int(distance.mean(0).argmin())
        return (-distance[:, lag] + self.activity * activity.float().sigmoid()).cpu()

    def embed_track(
        self, network: SyncNetwork, track: MouthTrack, spans: Sequence[tuple[int, int]]
    ) -> tuple[list[Tensor], Tensor]:
        """Vectors and log-odds of speaking for the windows ``spans``, in each of which the track is always visible.

        The log-odds are 0 if the network has none.
        """
        device = next(network.parameters()).device
        vectors: list[Tensor] = [torch.empty(0)] * len(spans)
        activity = torch.zeros(len(spans), dtype=torch.float32, device=device)
        for indices in _by_length(spans):
            crops = torch.stack([track.crops[spans[i][0] - track.first : spans[i][1] - track.first] for i in indices])
            found, speaks = network.embed_video(crops.to(device))
            if speaks is not None:
                activity[torch.tensor(indices, device=device)] = speaks.float()
            for index, vector in zip(indices, found, strict=True):
                vectors[index] = vector
        return vectors, activity

    def embed_sound(self, network: SyncNetwork, sound: Tensor, spans: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Vectors ``(L, d)`` of the sound per window, at every lag; first and last rows are repeated at the ends."""
        device = next(network.parameters()).device
        lags = range(-self.max_lag, self.max_lag + 1)
        vectors: list[Tensor] = [torch.empty(0)] * len(spans)
        for indices in _by_length(spans):
            windows = torch.cat([_cut(sound, spans[i], lag) for i in indices for lag in lags])
            found = network.embed_audio(windows.to(device)).view(len(indices), len(lags), -1)
            for index, vector in zip(indices, found, strict=True):
                vectors[index] = vector
        return vectors


def _by_length(spans: Sequence[tuple[int, int]]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for index, (start, stop) in enumerate(spans):
        groups.setdefault(stop - start, []).append(index)
    return list(groups.values())


def _cut(sound: Tensor, span: tuple[int, int], lag: int) -> Tensor:
    frames = torch.arange(MEL_PER_FRAME * (span[0] + lag), MEL_PER_FRAME * (span[1] + lag))
    return sound[frames.clamp(0, len(sound) - 1)][None]


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
