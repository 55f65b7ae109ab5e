"""What is known of every line of a recording: who speaks, with which emotion, and from which modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from merc.conversation import UtteranceKey
from merc.corpora.transcript import UNKNOWN
from merc.labels import LabelSet
from merc.media.tracks import FaceTrack, track_of
from merc.pipeline.apply import AppliedRun
from merc.speaker.choose import NOBODY, SpeakerChoice


@dataclass(frozen=True)
class SpeakingFace:
    """The face that speaks in a line. A track lives in one line only: it does not name a person.

    Args:
        track: Its track among the faces of the line.
        chosen_by: ``lips`` if they were compared with the sound, ``first face`` where the run does without.
        score: How well its lips fit the sound; ``None`` for the first face.
        margin: By how much it fits better than the next candidate; likewise.
        coverage: Share of the line in which it is visible; likewise.
        box: x1, y1, x2, y2 in pixels of the video, in the middle of the time in which it is visible.
    """

    track: int
    chosen_by: str
    score: float | None
    margin: float | None
    coverage: float | None
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class AnnotatedLine:
    """What is known of one line of the transcript.

    Args:
        line: Its number, from 1.
        start: Seconds.
        end: Seconds.
        speaker: As the transcript says, else ``unknown``.
        text: What is said.
        emotion: The most probable emotion; ``None`` if none of the modalities was there.
        probabilities: By emotion; empty if there is none.
        modalities: By name, ``None`` if it was used, else why it was not there.
        face: Who speaks; ``None`` if nobody who is visible does, or the run does not look.
        no_face: Why there is no face, unless there is one.
    """

    line: int
    start: float
    end: float
    speaker: str
    text: str
    emotion: str | None
    probabilities: dict[str, float]
    modalities: dict[str, str | None]
    face: SpeakingFace | None
    no_face: str | None

    @property
    def used(self) -> list[str]:
        """The modalities that the emotion rests on."""
        return [name for name, lack in self.modalities.items() if lack is None]


@dataclass(frozen=True)
class Annotation:
    """A video's lines with their emotions.

    Args:
        lines: In the order of speech.
        labels: The emotions.
        notes: What a reader of the results must know.
        run: What told them, in plain values.
        film: The annotated film, if there is one.
    """

    lines: list[AnnotatedLine]
    labels: LabelSet
    notes: list[str]
    run: Mapping[str, Any]
    film: Path | None = None


def describe(applied: AppliedRun) -> list[AnnotatedLine]:
    """What a run that was applied to one conversation says of each of its utterances.

    Args:
        applied: The run, applied to a corpus that :func:`merc.corpora.read_transcript` has read.
    """
    [conversation] = [c for split in applied.corpus.values() for c in split]
    names = applied.corpus.labels.names
    faces = SpeakingFaces(applied)
    lines = []
    for key, utterance in zip(conversation.keys, conversation.utterances, strict=True):
        probabilities: dict[str, float] = {}
        if key in applied.logits:
            values = applied.logits[key].double().softmax(-1).tolist()
            probabilities = dict(zip(names, values, strict=True))
        face, no_face = faces.of(key)
        lines.append(
            AnnotatedLine(
                line=int(utterance.id),
                start=float(utterance.start or 0.0),
                end=float(utterance.end or 0.0),
                speaker=utterance.speaker,
                text=utterance.text,
                emotion=max(probabilities, key=probabilities.__getitem__) if probabilities else None,
                probabilities=probabilities,
                modalities=_modalities(applied, key),
                face=face,
                no_face=no_face,
            )
        )
    return lines


def _modalities(applied: AppliedRun, key: UtteranceKey) -> dict[str, str | None]:
    """By modality, why it is missing, or ``None`` if it was used."""
    if not applied.inputs:  # a text encoder that tells emotions itself
        return {"text": applied.logits.why_missing([key]).get(key)}
    lacks = {name: store.why_missing([key]).get(key) for name, store in applied.inputs.items()}
    return {name: lack if lack is None else lack.removeprefix(f"{name}: ") for name, lack in lacks.items()}


class SpeakingFaces:
    """The speaking faces of a run that looks at them."""

    def __init__(self, applied: AppliedRun) -> None:
        self.faces = applied.find("faces")
        self.speaker = applied.find("speaker")

    def of(self, key: UtteranceKey) -> tuple[SpeakingFace | None, str | None]:
        """The speaking face of a line, or why there is none."""
        if self.faces is None:
            return None, "this run does not look at faces"
        for store in (self.faces, self.speaker):
            if store is not None and key not in store:
                return None, store.why_missing([key])[key]
        choice = None if self.speaker is None else SpeakerChoice.from_row(self.speaker[key])
        number = 0 if choice is None else choice.track
        track = self.track(key, number)
        if track is None:
            return None, "nobody who is visible speaks" if number == NOBODY else "no face was found"
        x1, y1, x2, y2 = (round(value, 1) for value in track.boxes[len(track) // 2].tolist())
        if choice is None:
            return SpeakingFace(number, "first face", None, None, None, (x1, y1, x2, y2)), None
        return SpeakingFace(number, "lips", choice.score, choice.margin, choice.coverage, (x1, y1, x2, y2)), None

    def track(self, key: UtteranceKey, number: int) -> FaceTrack | None:
        """One of the face tracks of a line, if it has so many."""
        assert self.faces is not None
        return track_of(self.faces.sequence(key), number)


def shown_name(line: AnnotatedLine) -> str:
    """The speaker as results show it: nothing where the transcript does not say."""
    return "" if line.speaker == UNKNOWN else line.speaker
