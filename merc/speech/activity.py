"""Voice activity: where somebody speaks in a recording, cut into utterances without words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from merc.conversation import Clip
from merc.corpora.transcripts import Line
from merc.media.decode import probe
from merc.media.rates import SAMPLE_RATE
from merc.media.sound import iter_sound
from merc.speech.base import Progress, Transcript
from merc.speech.silero import CHUNK, CONTEXT, STEP, SileroNet, load_silero

_PATIENCE = 3600.0  # seconds by which reading may lag behind the film on a slow machine


@dataclass(frozen=True)
class VoiceActivity:
    """Cuts a recording into utterances by Silero's voice detector. It is a transcriber that writes no words.

    Speech begins where the probability reaches ``threshold`` and lasts until it stays 0.15 below that for ``pause``.
    An utterance that is longer than ``longest`` is divided at its least probable moment. It hears voices only, not
    whose they are: two people who take over from each other without a pause are one utterance.

    Args:
        threshold: Probability from which somebody speaks, in 0..1.
        pause: Seconds of silence that end an utterance.
        shortest: Seconds; shorter speech is left out.
        longest: Seconds; longer speech is divided.
        margin: Seconds that are added at both ends, as far as there is silence.

    Example:
        >>> for line in VoiceActivity().transcribe("talk.mp4").lines:  # doctest: +SKIP
        ...     print(line.start, line.end)
    """

    threshold: float = 0.5
    pause: float = 0.4
    shortest: float = 0.25
    longest: float = 12.0
    margin: float = 0.1

    def __post_init__(self) -> None:
        """Refuse options that leave nothing."""
        if not 0.15 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}: expected a probability above 0.15 and below 1.")
        if not 0 < self.shortest <= self.longest / 2:
            raise ValueError(
                f"shortest is {self.shortest} and longest {self.longest}: expected longest at least twice shortest."
            )

    @cached_property
    def network(self) -> SileroNet:
        """The detector, loaded once.

        Raises:
            ModuleNotFoundError: silero-vad is not installed.
        """
        return load_silero()

    def transcribe(self, media: str | Path, progress: Progress | None = None) -> Transcript:
        """The utterances of a recording, without words.

        Raises:
            MediaError: The file cannot be read, or has no sound.
            ModuleNotFoundError: silero-vad is not installed.
        """
        lines = [Line(start, end, "") for start, end in self.spans(media, progress)]
        note = (
            f"There is no transcript: {len(lines)} utterances were cut by voice activity. They have no words, so the "
            "emotions are those of sound and face alone."
        )
        return Transcript(lines, by=self.provenance(), notes=[note])

    def spans(self, media: str | Path, progress: Progress | None = None) -> list[tuple[float, float]]:
        """Start and end of every utterance in seconds, in order of time, without overlaps.

        Memory does not grow with the recording, but for a number every 32 ms.

        Raises:
            MediaError: The file cannot be read, or has no sound.
            ModuleNotFoundError: silero-vad is not installed.
        """
        network, total = self.network, probe(media).duration
        found, length = [], 0
        with torch.inference_mode():
            for probabilities, length in _judged(network, Clip(str(media))):
                found.append(probabilities)
                if progress is not None:
                    progress(min(length / SAMPLE_RATE, total), total)
        return self.cut(torch.cat(found), length / SAMPLE_RATE) if found else []

    def cut(self, probabilities: Tensor, duration: float) -> list[tuple[float, float]]:
        """Utterances from the probabilities of speech.

        Args:
            probabilities: ``(T,)``, one every 32 ms.
            duration: Length of the sound in seconds.
        """
        pause, shortest = round(self.pause / STEP), self.shortest / STEP
        runs: list[tuple[int, int]] = []
        begin: int | None = None
        last = 0  # the step after the last one that may be speech
        for step, value in enumerate(probabilities.tolist()):
            if begin is None:
                begin, last = (step, step + 1) if value >= self.threshold else (None, 0)
            elif value >= self.threshold - 0.15:
                last = step + 1
            elif step + 1 - last >= pause:
                runs.append((begin, last))
                begin = None
        runs += [] if begin is None else [(begin, last)]
        runs = [run for run in runs if run[1] - run[0] >= shortest]
        parts = [part for run in runs for part in self._divided(probabilities, *run)]
        spans = []
        for number, (first, end) in enumerate(parts):
            # A silence between two utterances is shared by their margins.
            before = parts[number - 1][1] if number else 0
            after = parts[number + 1][0] if number + 1 < len(parts) else duration / STEP
            start = first * STEP - min(self.margin, (first - before) * STEP / (2 if number else 1))
            stop = end * STEP + min(self.margin, max(0.0, after - end) * STEP / (2 if number + 1 < len(parts) else 1))
            spans.append((round(start, 3), round(min(stop, duration), 3)))
        return spans

    def _divided(self, probabilities: Tensor, first: int, end: int) -> list[tuple[int, int]]:
        if (end - first) * STEP <= self.longest:
            return [(first, end)]
        # In the middle half, so that neither part is a snippet.
        quarter = (end - first) // 4
        inside = probabilities[first + quarter : end - quarter]
        smooth = F.avg_pool1d(inside[None], 3, 1, 1, count_include_pad=False)[0]
        place = first + quarter + int(smooth.argmin())
        return [*self._divided(probabilities, first, place), *self._divided(probabilities, place, end)]

    def provenance(self) -> dict[str, Any]:
        """The detector and its options."""
        names = ("threshold", "pause", "shortest", "longest", "margin")
        return {"transcriber": "VoiceActivity", **{name: getattr(self, name) for name in names}}


def _judged(network: SileroNet, clip: Clip) -> Iterator[tuple[Tensor, int]]:
    """The probabilities of a sound piece by piece, and how many samples were read until then."""
    state: tuple[Tensor, Tensor] | None = None
    rest, before, read = torch.zeros(0), torch.zeros(CONTEXT), 0
    for piece in iter_sound(clip, time_limit=_PATIENCE):
        rest, read = torch.cat([rest, piece]), read + len(piece)
        whole = len(rest) // CHUNK * CHUNK
        if whole:
            probabilities, state = network(_chunks(before, rest[:whole]), state)
            before, rest = torch.cat([before, rest[:whole]])[-CONTEXT:], rest[whole:]
            yield probabilities, read
    if len(rest):
        yield network(_chunks(before, F.pad(rest, (0, CHUNK - len(rest)))), state)[0], read


def _chunks(before: Tensor, sound: Tensor) -> Tensor:
    """Chunks ``(T, 576)`` of a sound, each with the end of the one before."""
    return torch.cat([before, sound]).unfold(0, CONTEXT + CHUNK, CHUNK)
