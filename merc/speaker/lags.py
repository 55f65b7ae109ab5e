"""Lags between lips and sound: films in which the sound is early or late, or does not belong to the face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from merc.media.rates import FRAME_RATE, MEL_PER_FRAME
from merc.speaker.base import MouthTrack, SyncNetwork, TraceNetwork
from merc.speaker.likelihood import LikelihoodScorer

LARGEST = 7
"""Frames, 0.28 s: lags that are corrected. What fits best at a larger one fits by chance."""

_CLEAR = 3.0  # by how much a lag must be more probable than none, as the logarithm of their ratio
_FOREIGN = -2.0  # below this the sound is seven times as probable if it belongs to somebody else


class InSync(NamedTuple):
    """A sound that was compared with the lips of its clip.

    Attributes:
        sound: ``(M, 80)`` log-mel, moved so that it fits; ``None`` if it does not belong to the face.
        lag: Seconds by which it was late.
        reason: Why there is no sound.
    """

    sound: Tensor | None
    lag: float = 0.0
    reason: str = ""


def sound_in_sync(
    network: SyncNetwork,
    tracks: Sequence[MouthTrack],
    sound: Tensor,
    scorer: LikelihoodScorer | None = None,
    calibration: Tensor | None = None,
) -> InSync:
    """Move the sound of a clip so that it fits the lips of its only person.

    Real collections hold films whose sound is early or late by a constant time, and films whose sound is not of the
    face (a translation, a voice over). A network that was trained on all of them can tell both, as it learns what most
    of them have in common.

    Args:
        network: In evaluation mode. One that keeps no time axis leaves every sound as it is.
        tracks: Tracks of the person who talks.
        sound: ``(M, 80)`` log-mel of the clip.
        scorer: How lips and sound are compared.
        calibration: Of the scorer.
    """
    scorer = scorer or LikelihoodScorer()
    calibration = scorer.uncalibrated() if calibration is None else calibration
    length = len(sound) // MEL_PER_FRAME
    shown = [track for track in tracks if min(track.stop, length) - track.first >= scorer.shortest]
    if not shown or not isinstance(network, TraceNetwork):
        return InSync(sound)
    heard = scorer.encode_sound(network, sound)
    reach = min(LARGEST, scorer.max_lag)
    lags = torch.arange(-reach, reach + 1)
    total = torch.zeros(len(lags))
    for track in shown:
        lips, _ = scorer.encode_lips(network, track.crops[: length - track.first])
        ratios, compared = scorer.ratios(lips[None], heard, track.first, calibration)
        for index, lag in enumerate(lags.tolist()):
            total[index] += ratios[0, compared == lag].sum()  # nothing where the track leaves no room for that lag
    best = int(total.argmax())
    if float(total[best]) < _FOREIGN:
        return InSync(None, reason="the sound does not fit the lips of the face at any lag")
    lag = int(lags[best])
    if abs(lag) <= 1 or float(total[best] - total[lags.abs() <= 1].amax()) < _CLEAR:
        return InSync(sound)
    rows = (torch.arange(len(sound)) + MEL_PER_FRAME * lag).clamp(0, len(sound) - 1)
    return InSync(sound[rows], lag / FRAME_RATE)
