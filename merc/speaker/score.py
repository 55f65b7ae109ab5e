"""Scores of face tracks against a sound, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from merc.losses.sync import pairwise_distance
from merc.media.rates import MEL_PER_FRAME
from merc.speaker.base import SyncNetwork
from merc.speaker.choose import SpeakerChoice, choose_speaker


@dataclass(frozen=True, slots=True, eq=False)
class MouthTrack:
    """The mouth of one face over a part of a clip.

    Args:
        first: The frame of the clip with which the track begins, on the grid of
            :data:`~merc.media.rates.FRAME_RATE` frames per second.
        crops: ``(T, S, S)`` uint8 grey mouth crops, one per frame.
    """

    first: int
    crops: Tensor

    @property
    def stop(self) -> int:
        """The frame after the last."""
        return self.first + len(self.crops)


@dataclass(frozen=True)
class SyncScorer:
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
    """

    window: int | None = 32
    hop: int = 16
    max_lag: int = 2
    activity: float = 0.1
    shortest: int = 12

    def windows(self, length: int) -> list[tuple[int, int]]:
        """First frame and the one after the last of every window of a clip; the last window ends with the clip."""
        if self.window is None or length <= self.window:
            return [(0, length)]
        starts = list(range(0, length - self.window, self.hop))
        return [(start, start + self.window) for start in [*starts, length - self.window]]

    def choose(
        self, network: SyncNetwork, tracks: Sequence[MouthTrack], sound: Tensor, threshold: float | None = None
    ) -> SpeakerChoice:
        """Choose the track that speaks (see :func:`choose_speaker`), in a clip as long as its sound."""
        spans = self.windows(len(sound) // MEL_PER_FRAME)
        return choose_speaker(*self.score(network, tracks, sound, spans), threshold)

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
