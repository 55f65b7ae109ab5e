"""Scores of face tracks as evidence: how much better lips and sound fit than chance, as the clip itself shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.media.rates import MEL_PER_FRAME
from merc.speaker.base import MouthTrack, SpeakerScorer, SyncNetwork, TraceNetwork
from merc.speaker.choose import NOBODY, SpeakerChoice

CHANCE = 0.1
"""Deviation of the correlation of lips with a sound that is not theirs, over :data:`REFERENCE` frames."""

REFERENCE = 75
"""Frames, 3 s; chance falls with the root of the length."""

_PIECE = 75
"""Frames that a network sees at once."""

_CONTEXT = 8
"""Frames that it sees before and after them."""

_SILENT = 0.05
"""The least that lips which keep still are believed to speak, as the head can err."""


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """A face and a sound as a network sees them.

    Args:
        lips: ``(C, T)`` of the face, one value per channel and frame.
        sound: ``(C, T)`` of the sound in the same frames.
        activity: Log-odds that the lips speak at all.
        frozen: ``(C, T)`` of the same face standing still; empty if not asked for.
        frozen_activity: Log-odds that the still lips speak.
    """

    lips: Tensor
    sound: Tensor
    activity: float
    frozen: Tensor
    frozen_activity: float = 0.0

    def cpu(self) -> Traces:
        """The same in the memory of the CPU."""
        return replace(self, lips=self.lips.cpu(), sound=self.sound.cpu(), frozen=self.frozen.cpu())


@dataclass(frozen=True)
class LikelihoodScorer(SpeakerScorer[Traces]):
    r"""Scores face tracks by how much better their lips fit the sound than chance, as the clip itself shows it.

    Let :math:`r_k` be the correlation of the traces of lips and sound over all frames in which the face is visible,
    with the sound moved by k frames. Lips and a sound that is not theirs correlate by chance only: by shifts of more
    than half a second, each clip tells how much, for this face, this sound and this camera,

    .. math:: s^2 = \frac{n_0 s_0^2 + \sum_{|k| > gap} (t_k / t) \, r_k^2 / w}{n_0 + |\{k\}| / w},

    with the usual :math:`s_0` of this length where a clip is too short for many shifts (w is the number of neighbouring
    shifts that say the same, 12). A correlation over :math:`t_k` of the most frames t that any shift compares deviates
    by :math:`s_k^2 = s^2 t / t_k`. The lips of the speaker correlate by :math:`r \sim N(\mu, \sigma^2 + s_k^2)`, at a
    small lag. The score is the logarithm of the likelihood ratio of both, averaged over lags, plus what the network's
    head says of whether the lips move as in speech:

    .. math:: \Lambda = \log \sum_k \pi_k \frac{N(\min(r_k, \mu); \mu, \sigma^2 + s_k^2)}{N(r_k; 0, s_k^2)}
        + \lambda \log \sigma(a), \qquad \pi_k \propto e^{-k^2 / 2 l^2}.

    The ratio never rises for lips that fit less (:func:`log_ratio`).

    By Bayes' rule the scores give the probability that a track speaks, or that nobody who is visible does. Nothing here
    depends on a threshold from other films. :math:`\mu` and :math:`\sigma` come from the validation split if it has
    50 clips or more. This choice is merc's own; :class:`merc.speaker.SyncScorer` is the paper's.

    Args:
        visible: Prior probability that the speaker is visible, between 0 and 1.
        lag: l, the deviation in frames of the lag between lips and sound.
        max_lag: Largest lag in frames that counts as in sync.
        gap: Shifts by more frames than these say what chance is.
        activity: :math:`\lambda`, the weight of whether the lips move as in speech.
        shortest: A track is scored if it shows at least this many frames, or the whole clip.

    Raises:
        ValueError: An option is out of its range.
    """

    visible: float = 0.75
    lag: float = 2.5
    max_lag: int = 7
    gap: int = 12
    activity: float = 1.0
    shortest: int = 12
    spread = 1.0
    enough = 50  # a few say little of other cameras, the less so as the checkpoint is chosen on them

    def __post_init__(self) -> None:
        """Check the options."""
        if not 0 < self.visible < 1:
            raise ValueError(f"LikelihoodScorer: visible is {self.visible}, expected a probability between 0 and 1.")
        if not 0 <= self.max_lag <= self.gap or self.lag <= 0:
            raise ValueError(
                f"LikelihoodScorer: max_lag {self.max_lag}, gap {self.gap} and lag {self.lag}: expected max_lag from 0 "
                "to gap, and lag above 0."
            )

    def uncalibrated(self) -> Tensor:
        r""":math:`\mu` and :math:`\sigma` as LipSyncNet has them on real films of people that it has not seen."""
        return torch.tensor([0.33, 0.1])

    def calibrated(self, trials: Sequence[Traces]) -> Tensor:
        r""":math:`\mu` and :math:`\sigma` of faces with their own sound: the median, and what the lower half deviates.

        Above the median a score rises no further, so only the lower half counts. A few listeners who are alone in the
        frame, and taken for speakers, hardly move either. Other cameras vary at least as much as
        :meth:`uncalibrated` says.
        """
        found = [self.correlations(trial.lips, trial.sound, 0) for trial in trials]
        best = torch.stack([r[0][lags.abs() <= self.max_lag].amax() for r, lags, _ in found]).double()
        chance = torch.tensor([self.chance(r, lags, n) for r, lags, n in found]).square().mean()
        low, middle = best.quantile(torch.tensor([0.16, 0.5], dtype=torch.double)).tolist()
        least = float(self.uncalibrated()[1])
        return torch.tensor([middle, math.sqrt(max((middle - low) ** 2 - float(chance), least**2))])

    def nobody(self, calibration: Tensor, tracks: int = 1) -> float:
        """By Bayes' rule, where each of the tracks is as probable before anything is known."""
        return math.log((1 - self.visible) / self.visible * tracks)

    def choose(
        self,
        network: SyncNetwork,
        tracks: Sequence[MouthTrack],
        sound: Tensor,
        calibration: Tensor | None = None,
        opinion: Tensor | None = None,
    ) -> SpeakerChoice:
        """Choose the track that speaks, or nobody, by their probabilities, in a clip as long as its sound.

        Args:
            network: In evaluation mode.
            tracks: K tracks of a clip.
            sound: ``(M, 80)`` log-mel of the same clip.
            calibration: From :meth:`calibrated`. Default: :meth:`uncalibrated`.
            opinion: ``(K,)`` what others say of each track, in nats, added to its score; for example
                :func:`merc.speaker.add_opinion` of zeros.

        Raises:
            ValueError: There is not one opinion for each track.
        """
        if opinion is not None and opinion.shape != (len(tracks),):
            raise ValueError(
                f"LikelihoodScorer: expected an opinion on each of {len(tracks)} tracks, got the shape "
                f"{tuple(opinion.shape)}."
            )
        if not tracks:
            return SpeakerChoice(NOBODY, float("-inf"), 0.0, 0.0, probability=1.0)
        heard = self.encode_sound(network, sound) if len(sound) >= 2 * MEL_PER_FRAME else None
        calibration = self.uncalibrated() if calibration is None else calibration
        scores, moving = [], []
        for track in tracks:
            shown = 0 if heard is None else min(track.stop, heard.shape[1]) - track.first
            if heard is None or shown < min(self.shortest, heard.shape[1]):
                scores.append(float("-inf"))
                moving.append(float("-inf"))
                continue
            lips, activity = self.encode_lips(network, track.crops[:shown])
            synchrony = self.evidence(lips[None], heard, track.first, calibration)
            scores.append(float(synchrony + self.moving(torch.tensor(activity))))
            moving.append(activity)
        if opinion is not None:
            scores = [score + more for score, more in zip(scores, opinion.tolist(), strict=True)]
        nobody = self.nobody(calibration, len(tracks))
        return _most_probable(nobody, scores, moving, tracks, max(1, len(sound) // MEL_PER_FRAME))

    def trial(self, network: SyncNetwork, track: MouthTrack, sound: Tensor, frames: int) -> Traces | None:
        """Encode the first ``frames`` frames of a track with its sound; ``None`` if it is shorter."""
        if not track.lasts(frames, sound):
            return None
        crops = track.crops[:frames]
        lips, activity = self.encode_lips(network, crops)
        frozen, still = self.encode_lips(network, crops[frames // 2].expand(frames, -1, -1))
        part = sound[MEL_PER_FRAME * track.first : MEL_PER_FRAME * (track.first + frames)]
        part = torch.cat([part, part[-1:].expand(MEL_PER_FRAME * frames - len(part), -1)])
        return Traces(lips, self.encode_sound(network, part), activity, frozen, still)

    def pairs(self, trials: Sequence[Traces], calibration: Tensor) -> tuple[Tensor, Tensor]:
        """Score every sound against every face.

        Returns:
            ``(N, N)``: row i holds the score of each face with sound i; ``(N,)`` the score of each sound with its own
            still face.
        """
        lips = torch.stack([trial.lips for trial in trials])
        moving = self.moving(torch.tensor([trial.activity for trial in trials]))
        scores = torch.stack([self.evidence(lips, trial.sound, 0, calibration) + moving for trial in trials])
        frozen = torch.cat([self.evidence(trial.frozen[None], trial.sound, 0, calibration) for trial in trials])
        return scores, frozen + self.moving(torch.tensor([trial.frozen_activity for trial in trials]))

    def moving(self, log_odds: Tensor) -> Tensor:
        r"""The part of :math:`\Lambda` that log-odds of speaking lips give: how probable it is that they move so."""
        return self.activity * log_odds.sigmoid().clamp(min=_SILENT).log()

    @torch.no_grad()
    def encode_lips(self, network: SyncNetwork, crops: Tensor) -> tuple[Tensor, float]:
        """Traces ``(C, T)`` of mouths ``(T, S, S)``, and the mean log-odds that they speak; on the CPU."""
        traced, device = _traced(network), next(network.parameters()).device
        parts, odds = [], []
        for start, stop, low, high in _pieces(len(crops)):
            traces, activity = traced.trace_video(crops[None, low:high].to(device))
            parts.append(traces[0, :, start - low : stop - low].float().cpu())
            odds.append((stop - start) * (0.0 if activity is None else float(activity)))
        return torch.cat(parts, 1), sum(odds) / len(crops)

    @torch.no_grad()
    def encode_sound(self, network: SyncNetwork, sound: Tensor) -> Tensor:
        """Traces ``(C, M)`` of a log-mel ``(4 M, 80)``, on the CPU."""
        traced, device = _traced(network), next(network.parameters()).device
        parts = []
        for start, stop, low, high in _pieces(len(sound) // MEL_PER_FRAME):
            traces = traced.trace_audio(sound[None, MEL_PER_FRAME * low : MEL_PER_FRAME * high].to(device))
            parts.append(traces[0, :, start - low : stop - low].float().cpu())
        return torch.cat(parts, 1)

    def correlations(self, lips: Tensor, sound: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Correlations of faces with a sound at shifts.

        Args:
            lips: ``(C, T)`` of one face, or ``(K, C, T)`` of several that are visible in the same frames.
            sound: ``(C, M)`` of the clip.
            first: The frame of the clip with which they begin.

        Returns:
            ``(K, L)`` correlations, ``(L,)`` the shifts in frames, positive if the sound is later than the lips, and
            ``(L,)`` the frames that each of them compares. All lags up to ``max_lag``, and at most 200 shifts beyond
            ``gap``, evenly spaced, which leave at least a third of the frames, and 12.
        """
        lips = lips if lips.dim() == 3 else lips[None]
        frames, length = lips.shape[-1], sound.shape[-1]
        fewest = max(12, frames // 3)

        def overlap(shift: int) -> int:
            return min(frames, length - first - shift) - max(0, -first - shift)

        near = [shift for shift in range(-self.max_lag, self.max_lag + 1) if overlap(shift) >= 2]
        reach = range(-first - frames, length - first + 1)
        far = [shift for shift in reach if abs(shift) > self.gap and overlap(shift) >= fewest]
        step = max(1, math.ceil(len(far) / 200))
        shifts = [*near, *far[::step]]
        found = []
        for shift in shifts:
            begin, end = max(0, -first - shift), min(frames, length - first - shift)
            x, y = lips[..., begin:end], sound[:, begin + first + shift : end + first + shift]
            x, y = x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True)
            found.append(F.normalize(x.flatten(1), dim=-1) @ F.normalize(y.flatten(), dim=-1))
        counts = torch.tensor([overlap(shift) for shift in shifts])
        return torch.stack(found, -1), torch.tensor(shifts), counts

    def chance(self, correlations: Tensor, shifts: Tensor, counts: Tensor) -> Tensor:
        """S ``(K,)``, the deviation of the correlations without a shift if lips and sound do not belong together."""
        frames = counts.max()
        far = shifts.abs() > self.gap
        alike = 12.0
        prior, weight = CHANCE**2 * REFERENCE / frames, 8.0
        own = (correlations[:, far].square() * counts[far] / frames).sum(-1) / alike
        return ((weight * prior + own) / (weight + far.sum() / alike)).sqrt()

    def evidence(self, lips: Tensor, sound: Tensor, first: int, calibration: Tensor) -> Tensor:
        r"""The part of :math:`\Lambda` that lips and sound give, ``(K,)``, for faces in the same frames.

        Args:
            lips: ``(K, C, T)`` of the faces.
            sound: ``(C, M)`` of the clip.
            first: The frame of the clip with which the faces begin.
            calibration: :math:`\mu` and :math:`\sigma`.
        """
        ratios, lags = self.ratios(lips, sound, first, calibration)
        return torch.logsumexp(ratios + F.log_softmax(-(lags / self.lag).square() / 2, dim=0), -1)

    def ratios(self, lips: Tensor, sound: Tensor, first: int, calibration: Tensor) -> tuple[Tensor, Tensor]:
        r"""The logarithms ``(K, L)`` of the likelihood ratios at lags ``(L,)`` of up to ``max_lag`` frames.

        Args:
            lips: ``(K, C, T)`` of faces in the same frames.
            sound: ``(C, M)`` of the clip.
            first: The frame of the clip with which the faces begin.
            calibration: :math:`\mu` and :math:`\sigma`.
        """
        found, shifts, counts = self.correlations(lips, sound, first)
        near = shifts.abs() <= self.max_lag
        chance = self.chance(found, shifts, counts)[:, None] * (counts.max() / counts[near]).sqrt()
        return log_ratio(found[:, near], chance, calibration), shifts[near]


def log_ratio(correlation: Tensor, chance: Tensor | float, calibration: Tensor) -> Tensor:
    """Logarithm of how much more probable a correlation is for the speaker's lips than for those of others.

    Far below 0 the wider of the two normal distributions, that of the speaker, would be the more probable one again;
    correlations count as the one at which their ratio is smallest, if they are below it.
    """
    mean, deviation = calibration.tolist()
    null = torch.as_tensor(chance).square()
    alternative = deviation**2 + null
    correlation = torch.maximum(correlation, -mean * null / deviation**2)
    of_speaker = -(correlation.clamp(max=mean) - mean).square() / (2 * alternative) - alternative.log() / 2
    ratio: Tensor = of_speaker + correlation.square() / (2 * null) + null.log() / 2
    return ratio


def _most_probable(
    nobody: float, scores: list[float], moving: list[float], tracks: Sequence[MouthTrack], length: int
) -> SpeakerChoice:
    """The most probable of the tracks and nobody."""
    odds = torch.tensor([nobody, *scores], dtype=torch.double)
    probabilities = odds.softmax(0)
    order = odds.argsort(descending=True, stable=True).tolist()
    margin = float(odds[order[0]] - odds[order[1]])
    probability = float(probabilities[order[0]])
    track = order[0] - 1
    if track < 0:
        return SpeakerChoice(NOBODY, max(scores), margin, 0.0, tuple(scores), probability)
    coverage = min(1.0, max(0, min(tracks[track].stop, length) - tracks[track].first) / length)
    moves = float(torch.tensor(moving[track]).sigmoid())
    return SpeakerChoice(track, scores[track], margin, coverage, tuple(scores), probability, moves)


def _traced(network: SyncNetwork) -> TraceNetwork:
    if not isinstance(network, TraceNetwork):
        raise TypeError(
            f"LikelihoodScorer compares traces over time, which {type(network).__name__} does not have: use "
            "merc.speaker.LipSyncNet, or score with merc.speaker.SyncScorer."
        )
    return network


def _pieces(length: int) -> list[tuple[int, int, int, int]]:
    """Pieces of about 3 s that cover a length, and what the network sees for each."""
    count = max(1, round(length / _PIECE))
    edges = [round(index * length / count) for index in range(count + 1)]
    return [(start, stop, max(0, start - _CONTEXT), min(length, stop + _CONTEXT)) for start, stop in pairwise(edges)]
