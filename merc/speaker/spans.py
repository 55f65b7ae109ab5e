"""Who speaks when: the faces of a film over time, with overlaps, gaps and turns inside a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from merc.media.rates import FRAME_RATE, MEL_PER_FRAME
from merc.speaker.base import MouthTrack, SyncNetwork
from merc.speaker.likelihood import CHANCE, REFERENCE, LikelihoodScorer, log_ratio

_AT_ONCE = 32  # windows, which limits the memory


@dataclass(frozen=True)
class SpeakingSpan:
    """A face that speaks without a pause.

    Args:
        track: Index of its track.
        start: Seconds of the clip.
        end: Seconds of the clip.
        probability: How probable it is that this face speaks then, the mean over the span, in 0..1.
        overlap: Seconds of the span in which another visible face speaks too.
    """

    track: int
    start: float
    end: float
    probability: float
    overlap: float = 0.0


TURN_COLUMNS = ("track", "start", "end", "probability", "overlap")
"""What the numbers in the rows of a ``turns`` store are: one row per span, see :class:`SpeakingSpan`."""


def spans_to_rows(spans: Sequence[SpeakingSpan]) -> Tensor:
    """Spans as the rows ``(n, 5)`` of a ``turns`` store, float32, with the columns :data:`TURN_COLUMNS`."""
    rows = [[float(getattr(span, name)) for name in TURN_COLUMNS] for span in spans]
    return torch.tensor(rows).view(-1, len(TURN_COLUMNS))


def rows_to_spans(rows: Tensor) -> list[SpeakingSpan]:
    """The spans from the rows of :func:`spans_to_rows`.

    Raises:
        ValueError: The rows are not those of a ``turns`` store.
    """
    if rows.ndim != 2 or rows.shape[1] != len(TURN_COLUMNS):
        raise ValueError(f"Rows of turns have the shape (n, {len(TURN_COLUMNS)}), got {tuple(rows.shape)}.")
    return [SpeakingSpan(int(track), *others) for track, *others in rows.tolist()]


@dataclass(frozen=True)
class SpeakerTimeline:
    r"""Finds who speaks when, from scores in short windows that a hidden Markov model joins.

    Lips and sound are compared in windows of one second, five a second. Let :math:`r_{kw}` be their correlation in
    window w with the sound moved by k frames, and :math:`R_{kw}` the ratio by which it is more probable for the lips of
    the speaker than by chance (:class:`merc.speaker.LikelihoodScorer`). Which lag a track has shows over all of its
    windows, in a quarter of which it is taken to speak:

    .. math:: p_k \propto e^{-k^2 / 2 l^2} \prod_w (3 + R_{kw})^c, \qquad
        s_w = \log \sum_k p_k R_{kw} + \lambda \log \sigma(a_w),

    with the network's log-odds :math:`a_w` that the lips of the window move as in speech. Windows that overlap say
    the same thing more than once, so they count by the share c that is new.

    The states of the model are nobody, each visible face, and each two of them at once; it stays in a state for
    ``stay`` seconds on average. The forward-backward algorithm gives the probability of every state at every time, and
    a face speaks where its states have more than half of it. Where there is no sound, nobody speaks.

    The options were chosen on conversations put together from clips of people that the network had not seen.

    Args:
        scorer: Compares lips and sounds.
        window: Frames of a window.
        hop: Frames from one window to the next.
        stay: Mean seconds between two changes.
        visible: How often somebody who is visible speaks while there is sound, before anything is known, in 0..1.
        both: How much rarer than one speaker two at once are, before anything is known.
        silence: Nepers below the loudest tenth of a clip at which it counts as silent.
        shortest: Seconds; shorter spans are dropped, and shorter pauses of one face closed.
    """

    scorer: LikelihoodScorer = field(default_factory=LikelihoodScorer)
    window: int = 25
    hop: int = 5
    stay: float = 0.5
    visible: float = 0.9
    both: float = 0.03
    silence: float = 6.0
    shortest: float = 0.3

    def __call__(
        self, network: SyncNetwork, tracks: Sequence[MouthTrack], sound: Tensor, calibration: Tensor | None = None
    ) -> list[SpeakingSpan]:
        """The spans of all faces of a clip, in order of time.

        Args:
            network: In evaluation mode.
            tracks: K tracks of a clip.
            sound: ``(M, 80)`` log-mel of the same clip.
            calibration: Of the scorer.
        """
        probabilities = self.probabilities(network, tracks, sound, calibration)
        return self._spans(probabilities, len(sound) // MEL_PER_FRAME)

    def probabilities(
        self, network: SyncNetwork, tracks: Sequence[MouthTrack], sound: Tensor, calibration: Tensor | None = None
    ) -> Tensor:
        """Probabilities ``(K, S)`` that each face speaks, in steps of ``hop`` frames from the start of the clip."""
        calibration = self.scorer.uncalibrated() if calibration is None else calibration
        length = len(sound) // MEL_PER_FRAME
        steps = math.ceil(length / self.hop)
        if not tracks or not steps:
            return torch.zeros(len(tracks), steps)
        scores, visible = torch.zeros(len(tracks), steps), torch.zeros(len(tracks), steps, dtype=torch.bool)
        heard = self.scorer.encode_sound(network, sound)
        middles = (torch.arange(steps) + 0.5) * self.hop
        for row, track in enumerate(tracks):
            shown = min(track.stop, length) - track.first
            if shown < max(self.scorer.shortest, 2):
                continue
            crops = track.crops[:shown]
            inside = (middles >= track.first) & (middles < track.first + shown)
            lips, _ = self.scorer.encode_lips(network, crops)
            fits = self._fits(lips, heard, track.first, middles[inside], calibration)
            moves = self._moves(network, crops, middles[inside] - track.first)
            scores[row, inside] = (fits + moves) * self.hop / self.window
            visible[row] = inside
        return self._smooth(scores, visible & self._audible(sound, steps))

    def _fits(self, lips: Tensor, heard: Tensor, first: int, middles: Tensor, calibration: Tensor) -> Tensor:
        """How much better lips and sound fit than chance, ``(n,)``, in windows around n frames of the clip."""
        lags = torch.arange(-self.scorer.max_lag, self.scorer.max_lag + 1)
        ratios = torch.zeros(len(lags), len(middles))
        for row, lag in enumerate(lags.tolist()):
            begin, end = max(0, -first - lag), min(lips.shape[1], heard.shape[1] - first - lag)
            if end - begin >= min(self.scorer.shortest, self.window):
                sound = heard[:, begin + first + lag : end + first + lag]
                found, frames = _correlations(lips[:, begin:end], sound, middles - first - begin, self.window)
                ratios[row] = log_ratio(found, CHANCE * math.sqrt(REFERENCE / frames), calibration)
        votes = functional.softplus(ratios - math.log(3)).sum(1) * self.hop / self.window
        which = (votes - (lags / self.scorer.lag).square() / 2).log_softmax(0)
        return (ratios + which[:, None]).logsumexp(0)

    @torch.no_grad()
    def _moves(self, network: SyncNetwork, crops: Tensor, middles: Tensor) -> Tensor:
        """The weighted logarithm of how probable it is that the lips of every window move as in speech, ``(n,)``."""
        device, frames = next(network.parameters()).device, min(self.window, len(crops))
        starts = _starts(middles, frames, len(crops)).tolist()
        odds = torch.zeros(len(starts))
        for at in range(0, len(starts), _AT_ONCE):
            part = starts[at : at + _AT_ONCE]
            windows = torch.stack([crops[start : start + frames] for start in part])
            _, judged = network.embed_video(windows.to(device))
            if judged is None:
                return torch.zeros(len(starts))
            odds[at : at + len(part)] = judged.float().cpu()
        return self.scorer.moving(odds)

    def _audible(self, sound: Tensor, steps: int) -> Tensor:
        level = sound[: MEL_PER_FRAME * (len(sound) // MEL_PER_FRAME)].logsumexp(1).view(-1, MEL_PER_FRAME).mean(1)
        loud = level.quantile(0.9)
        padded = torch.cat([level, level[-1:].expand(steps * self.hop - len(level))]).view(steps, self.hop)
        return padded.amax(1) > loud - self.silence

    def _smooth(self, scores: Tensor, possible: Tensor) -> Tensor:
        """The forward-backward algorithm over nobody, one face, and two at once."""
        count, steps = scores.shape
        together = possible.float() @ possible.float().T > 0
        pairs = [pair for pair in combinations(range(count), 2) if together[pair]]
        members = torch.zeros(1 + count + len(pairs), count)
        members[1 : 1 + count] = torch.eye(count)
        for row, pair in enumerate(pairs, start=1 + count):
            members[row, list(pair)] = 1
        emission = members @ scores
        free = (members @ (~possible).float()) == 0
        prior = torch.where(free, self._prior(count, free), float("-inf"))
        change = min(1.0, self.hop / FRAME_RATE / self.stay)
        stay, leave = math.log(max(1 - change, 1e-9)), math.log(change)
        # A change leads to any state, whichever it comes from, so a step costs no more than there are states.
        emission = emission.masked_fill(~free, float("-inf"))
        forward, backward = [prior[:, 0] + emission[:, 0]], [torch.zeros(len(prior))]
        for step in range(1, steps):
            before, later = forward[-1], backward[-1] + emission[:, steps - step]
            arrive = leave + (prior[:, steps - step] + later).logsumexp(0)
            forward.append(
                torch.logaddexp(stay + before, leave + prior[:, step] + before.logsumexp(0)) + emission[:, step]
            )
            backward.append(torch.logaddexp(stay + later, arrive))
        posterior = (torch.stack(forward, 1) + torch.stack(backward[::-1], 1)).softmax(0)
        return members.T @ posterior

    def _prior(self, count: int, free: Tensor) -> Tensor:
        """Logarithm of how probable each state is at each step, before anything is known, given which are possible."""
        weights = torch.zeros(free.shape)
        weights[0] = 1 - self.visible
        faces, pairs = free[1 : 1 + count], free[1 + count :]
        weights[1 : 1 + count] = self.visible * faces / faces.sum(0).clamp(min=1)
        weights[1 + count :] = self.both * self.visible * pairs / pairs.sum(0).clamp(min=1)
        return (weights / weights.sum(0)).log()

    def _spans(self, probabilities: Tensor, length: int) -> list[SpeakingSpan]:
        step, speaks = self.hop / FRAME_RATE, probabilities > 0.5
        fewest = max(1, math.ceil(self.shortest / step - 1e-6))
        for row in speaks:
            _drop_short(row, fewest, value=False)
            _drop_short(row, fewest, value=True)
        spans = []
        together = speaks.sum(0) > 1
        for track, row in enumerate(speaks):
            for start, end in _runs(row):
                end_time = min(end * step, length / FRAME_RATE)
                mean = float(probabilities[track, start:end].mean())
                overlap = min(float(together[start:end].sum()) * step, end_time - start * step)
                spans.append(SpeakingSpan(track, start * step, end_time, mean, overlap))
        return sorted(spans, key=lambda span: (span.start, span.track))


def _starts(middles: Tensor, frames: int, length: int) -> Tensor:
    """The first frames of windows around ``middles``, moved to lie within ``length`` frames."""
    return (middles - frames / 2).floor().long().clamp(0, length - frames)


def _correlations(lips: Tensor, sound: Tensor, middles: Tensor, window: int) -> tuple[Tensor, int]:
    """Correlations ``(n,)`` of traces ``(C, T)`` in windows around n frames, and the length of the windows."""
    frames = min(window, lips.shape[1])
    starts = _starts(middles, frames, lips.shape[1])

    def summed(values: Tensor) -> Tensor:
        until = functional.pad(values.double().cumsum(-1), (1, 0))
        return until[:, starts + frames] - until[:, starts]

    x, y = summed(lips), summed(sound)
    shared = (summed(lips * sound) - x * y / frames).sum(0)
    own, other = (
        (summed(values.square()) - total.square() / frames).sum(0).clamp(min=0)
        for values, total in ((lips, x), (sound, y))
    )
    return (shared / (own * other).sqrt().clamp(min=1e-6)).clamp(-1, 1).float(), frames


def _runs(row: Tensor, value: bool = True) -> list[tuple[int, int]]:
    """First step and the one after the last of every run of a value."""
    edges = torch.cat([torch.zeros(1), (row == value).float(), torch.zeros(1)]).diff()
    return list(zip((edges > 0).nonzero()[:, 0].tolist(), (edges < 0).nonzero()[:, 0].tolist(), strict=True))


def _drop_short(row: Tensor, fewest: int, *, value: bool) -> None:
    """Turn runs of a value that are too short into the other; a pause at either end is no pause between two spans."""
    for start, end in _runs(row, value):
        inside = value or (start > 0 and end < len(row))
        if end - start < fewest and inside:
            row[start:end] = not value
