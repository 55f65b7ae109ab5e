"""Who speaks when: the faces of a film over time, with overlaps, gaps and turns inside a line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from merc.media.rates import FRAME_RATE, MEL_PER_FRAME
from merc.speaker.base import MouthTrack, SyncNetwork
from merc.speaker.likelihood import CHANCE, REFERENCE, LikelihoodScorer, log_ratio


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

    Lips and sound are compared in windows of one second, five a second, each with the lag at which its track fits best
    as a whole. Each window says by which ratio it is more probable for the lips of the speaker than by chance
    (:class:`merc.speaker.LikelihoodScorer`). The states of the model are nobody, each visible face, and each two of
    them at once; it stays in a state for ``stay`` seconds on average. The forward-backward algorithm gives the
    probability of every state at every time, and a face speaks where its states have more than half of it. Windows
    that overlap say the same thing more than once, so their logarithms count by the share that is new.

    Where there is no sound, nobody speaks.

    Args:
        scorer: Compares lips and sounds.
        window: Frames of a window.
        hop: Frames from one window to the next.
        stay: Mean seconds between two changes.
        both: How much rarer than one speaker two at once are, before anything is known.
        silence: Nepers below the loudest tenth of a clip at which it counts as silent.
        shortest: Seconds; shorter spans are dropped, and shorter pauses of one face closed.
    """

    scorer: LikelihoodScorer = field(default_factory=LikelihoodScorer)
    window: int = 25
    hop: int = 5
    stay: float = 2.0
    both: float = 0.1
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
        for row, track in enumerate(tracks):
            shown = min(track.stop, length) - track.first
            if shown >= max(self.scorer.shortest, 2):
                lips, _ = self.scorer.encode_lips(network, track.crops[:shown])
                self._score(row, lips, heard, track.first, calibration, scores, visible)
        return self._smooth(scores, visible & self._audible(sound, steps))

    def _score(
        self, row: int, lips: Tensor, heard: Tensor, first: int, calibration: Tensor, scores: Tensor, visible: Tensor
    ) -> None:
        """Scores of one track in the windows around the steps in which it is visible."""
        lag = self.scorer.best_lag(lips, heard, first)
        begin, end = max(0, -first - lag), min(lips.shape[1], heard.shape[1] - first - lag)
        seen, sound = lips[:, begin:end], heard[:, begin + first + lag : end + first + lag]
        for step in range(scores.shape[1]):
            middle = (step + 0.5) * self.hop - first - begin
            if not -begin <= middle < lips.shape[1] - begin:
                continue
            start = int(min(max(middle - self.window / 2, 0), max(0, seen.shape[1] - self.window)))
            x, y = seen[:, start : start + self.window], sound[:, start : start + self.window]
            if x.shape[1] < min(self.scorer.shortest, self.window):
                continue
            x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
            correlation = (x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-6)
            chance = CHANCE * math.sqrt(REFERENCE / x.shape[1])
            scores[row, step] = log_ratio(correlation, chance, calibration) * self.hop / self.window
            visible[row, step] = True

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
        prior = torch.tensor([(1 - self.scorer.visible), *[1.0 / count] * count, *[self.both / count] * len(pairs)])
        emission = members @ scores
        emission[(members @ (~possible).float()) > 0] = float("-inf")
        change = min(1.0, self.hop / FRAME_RATE / self.stay)
        begin = (prior / prior.sum()).log()
        stay, leave = math.log(max(1 - change, 1e-9)), math.log(change)
        # A change leads to any state, whichever it comes from, so a step costs no more than there are states.
        forward, backward = [begin + emission[:, 0]], [torch.zeros(len(prior))]
        for step in range(1, steps):
            before, later = forward[-1], backward[-1] + emission[:, steps - step]
            forward.append(torch.logaddexp(stay + before, leave + begin + before.logsumexp(0)) + emission[:, step])
            backward.append(torch.logaddexp(stay + later, leave + (begin + later).logsumexp(0)))
        posterior = (torch.stack(forward, 1) + torch.stack(backward[::-1], 1)).softmax(0)
        return members.T @ posterior

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
