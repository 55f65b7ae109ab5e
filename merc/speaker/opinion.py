"""A second opinion on who speaks: ActiveSpeakerNet's log-odds for face tracks, and their place in the choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from merc.media.crops import rows_to_crops, track_crops
from merc.media.mfcc import MFCC
from merc.media.rates import FRAME_RATE, MEL_PER_FRAME, SAMPLE_RATE
from merc.speaker.active import ActiveSpeakerNet

if TYPE_CHECKING:
    from merc.media.decode import Frames
    from merc.media.tracks import FaceTrack

_PER_FRAME = SAMPLE_RATE // FRAME_RATE
_BEYOND = SAMPLE_RATE // 40  # a row of coefficients looks 25 ms ahead


@torch.no_grad()
def score_tracks(
    network: ActiveSpeakerNet, frames: Iterable[Frames], tracks: Sequence[FaceTrack], sound: Tensor
) -> list[Tensor]:
    """How likely each face speaks, in every frame that shows it.

    Each track is judged by itself, as a whole. Sound that ends before the frames counts as silent. Memory is that of
    the crops, 12.5 kB per face and frame.

    Args:
        network: In evaluation mode.
        frames: The frames in which the tracks were found, at any scale (for example a second pass over the clip).
        tracks: K tracks of the clip.
        sound: ``(S,)`` samples of the same clip in -1..1, at 16 kHz.

    Returns:
        K times ``(T,)`` log-odds that the face speaks, float32, one per frame of the track; on the CPU.

    Raises:
        ValueError: The frames end before a track does.

    Example:
        >>> clip = Clip("talk.mp4")  # doctest: +SKIP
        >>> network = ActiveSpeakerNet.from_light_asd("finetuning_TalkSet.model")  # doctest: +SKIP
        >>> odds = score_tracks(network, read_frames(clip), tracks, read_sound(clip))  # doctest: +SKIP
    """
    device = next(network.parameters()).device
    rows = track_crops(frames, tracks, network.size, region="speech", margin=0.0)
    last = max((track.end for track in tracks), default=0)
    padded = functional.pad(sound, (0, max(0, last * _PER_FRAME + _BEYOND - len(sound))))
    heard = MFCC(network.coefficients).to(device)(padded.to(device))
    found = []
    for track, crops in zip(tracks, rows_to_crops(rows, tracks), strict=True):
        part = heard[MEL_PER_FRAME * track.first : MEL_PER_FRAME * track.end]
        found.append(network(crops[None].to(device), part[None])[0].float().cpu())
    return found


def mean_log_odds(tracks: Sequence[FaceTrack], log_odds: Sequence[Tensor], spans: Sequence[tuple[int, int]]) -> Tensor:
    """Mean log-odds of every track in every window, over the frames that show it.

    Args:
        tracks: K tracks of a clip.
        log_odds: What :func:`score_tracks` says of them.
        spans: W windows, first frame and the one after the last, as of :meth:`merc.speaker.SyncScorer.windows`.

    Returns:
        ``(K, W)``; 0, no opinion, where a track is not to be seen.
    """
    means = torch.zeros(len(tracks), len(spans))
    for row, (track, odds) in enumerate(zip(tracks, log_odds, strict=True)):
        for column, (start, stop) in enumerate(spans):
            part = odds[max(0, start - track.first) : max(0, stop - track.first)]
            if len(part):
                means[row, column] = part.mean()
    return means


def add_opinion(scores: Tensor, log_odds: Tensor, weight: float = 0.2) -> Tensor:
    r"""Scores of synchrony, corrected by the second opinion.

    .. math:: s' = s + w \tanh(l / 2) = s + w (2 \sigma(l) - 1)

    A face that surely speaks gains w, one that surely does not loses w, and the score stays where the second network
    cannot tell: a threshold for s keeps its meaning.

    Args:
        scores: ``(K, W)`` scores of tracks in windows, from :meth:`merc.speaker.SyncScorer.score`; or zeros, for the
            ``opinion`` of :meth:`merc.speaker.LikelihoodScorer.choose`.
        log_odds: ``(K, W)`` from :func:`mean_log_odds`.
        weight: w, in units of the scores: of the distance of two unit vectors, which is at most 2, or in nats.
    """
    return scores + weight * (log_odds / 2).tanh()
