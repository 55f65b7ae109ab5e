"""Annotated lines of a recording: speaker, emotion and modalities."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from merc.annotation.persons import FilmPersons
from merc.conversation import UtteranceKey
from merc.corpora.transcripts import UNKNOWN
from merc.labels import LabelSet
from merc.media.tracks import FaceTrack, track_of
from merc.pipeline.apply import AppliedRun
from merc.speaker.choose import NOBODY, SpeakerChoice
from merc.speaker.spans import SpeakingSpan, rows_to_spans

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SpeakingFace:
    """The speaking face of a line. A track belongs to one line; ``person`` says whose it is.

    Args:
        track: Its track among the faces of the line.
        chosen_by: ``lips`` if they were compared with the sound, ``first face`` if the run does not use LipSyncNet.
        score: How well its lips fit the sound; ``None`` for the first face.
        margin: Difference to the score of the next candidate; ``None`` for the first face.
        coverage: Share of the line in which it is visible; ``None`` for the first face.
        probability: How probable it is that this face speaks the line, and neither another one nor nobody, in 0..1;
            ``None`` if the scores of the run say nothing of it.
        activity: How probable it is that its lips move as in speech, whatever the sound, in 0..1; ``None`` likewise.
        box: x1, y1, x2, y2 in pixels of the displayed frame, in the middle of the time in which it is visible.
        person: Whose face it is: a speaker of the transcript, or ``person 1``; ``None`` if people were not linked.
    """

    track: int
    chosen_by: str
    score: float | None
    margin: float | None
    coverage: float | None
    probability: float | None
    activity: float | None
    box: tuple[float, float, float, float]
    person: str | None = None


@dataclass(frozen=True)
class LineTurn(SpeakingSpan):
    """A face that speaks in a line without a pause, in seconds of the recording.

    Args:
        person: Whose face it is; ``None`` if people were not linked.
    """

    person: str | None = None


@dataclass(frozen=True)
class AnnotatedLine:
    """One line of the transcript, with its emotion.

    Args:
        line: Its number, from 1.
        start: Seconds.
        end: Seconds.
        speaker: The speaker that the networks were told: the name in the transcript, else ``person``, else ``unknown``.
        text: The transcript of the line.
        emotion: The most probable emotion; ``None`` if all modalities are missing, or the model tells numbers alone.
        probabilities: By emotion; empty if there is none.
        values: By dimension, such as ``valence``, the numbers that a model of numbers tells; empty if there are none.
        modalities: By name, ``None`` if it was used, otherwise why it is missing.
        face: The speaking face; ``None`` if no visible person speaks, or the run does not use faces.
        no_face: Why there is no face; ``None`` if there is one.
        parts: Of a model that fuses late, the probabilities by part, such as ``text`` and ``face``; a part that says
            nothing of the line is not there.
        turns: When each face of the line speaks, in order of time: ``start`` and ``end`` in seconds of the recording,
            ``track`` as of ``face``, which need not be among them. ``None`` if the run does not say.
        person: Who speaks, as far as voices, faces and names tell: a speaker of the transcript, or ``person 1``,
            ``person 2`` ... ``None`` if people were not linked, or nothing tells.
        person_confidence: How probable it is that it is this person and none of the others, in 0..1; 1 for a name in
            the transcript.
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
    turns: list[LineTurn] | None
    person: str | None = None
    person_confidence: float | None = None
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)

    @property
    def used(self) -> list[str]:
        """The modalities that were used for the emotion."""
        return [name for name, reason in self.modalities.items() if reason is None]


@dataclass(frozen=True)
class Annotation:
    """The lines of a video with their emotions.

    Args:
        lines: The lines in order of time.
        labels: The emotions; empty for a run that predicts numbers alone.
        notes: Remarks for readers of the results.
        run: The run that predicted them, as plain values.
        film: The annotated film, if there is one.
        video: The recording, if it is known.
        transcript: Its transcript, if there is one.
        dimensions: The numbers of the lines, such as ``valence``, each with the lowest and highest number of its scale.
    """

    lines: list[AnnotatedLine]
    labels: LabelSet
    notes: list[str]
    run: Mapping[str, Any]
    film: Path | None = None
    video: Path | None = None
    transcript: Path | None = None
    dimensions: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """How many lines have each emotion."""
        found = Counter(line.emotion for line in self.lines)
        return {name: found[name] for name in self.labels.report_order}

    @property
    def means(self) -> dict[str, float]:
        """The mean of each number, such as ``valence``, over the lines that have it."""
        found = {name: [line.values[name] for line in self.lines if name in line.values] for name in self.dimensions}
        return {name: round(fmean(values), 4) for name, values in found.items() if values}

    @property
    def untold(self) -> int:
        """Lines without an emotion and without numbers, as all their modalities are missing."""
        return sum(not (line.probabilities or line.values) for line in self.lines)

    def save(self, path: str | Path) -> None:
        """Write a file, whole or not at all; its suffix says what (:data:`merc.annotation.FORMATS`).

        Args:
            path: Such as ``talk.eaf`` for ELAN or ``talk.TextGrid`` for Praat.

        Raises:
            ValueError: merc writes no such files.
        """
        from merc.annotation.files import save_annotation  # which knows annotations

        save_annotation(self, path)

    def to_pandas(self) -> pd.DataFrame:
        """A table with one row per line and the columns of ``annotation.csv``. Needs pandas."""
        import pandas as pd

        from merc.annotation.files import table_of  # as above

        columns, rows = table_of(self)
        return pd.DataFrame(rows, columns=columns)


def describe(applied: AppliedRun, persons: FilmPersons | None = None) -> list[AnnotatedLine]:
    """The annotated lines from a run that was applied to one conversation.

    Args:
        applied: The run, applied to a corpus from :func:`merc.corpora.read_transcript`.
        persons: The people of the film.
    """
    persons = persons or FilmPersons()
    [conversation] = [c for split in applied.corpus.values() for c in split]
    names = applied.labels.names
    dimensions = applied.logits.dimensions
    faces = SpeakingFaces(applied, persons)
    lines = []
    for key, utterance in zip(conversation.keys, conversation.utterances, strict=True):
        probabilities: dict[str, float] = {}
        values: dict[str, float] = {}
        if key in applied.logits:
            emotions, numbers = applied.logits[key].double().tensor_split([applied.logits.dim - len(dimensions)])
            probabilities = dict(zip(names, emotions.softmax(-1).tolist(), strict=True))
            values = {name: round(value, 4) for name, value in zip(dimensions, numbers.tolist(), strict=True)}
        face, no_face = faces.of(key)
        person = persons.lines.get(key)
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
                turns=faces.turns(key, float(utterance.start or 0.0)),
                person=None if person is None else person.name,
                person_confidence=None if person is None else person.confidence,
                parts={
                    part: dict(zip(names, rows[key].tolist(), strict=True))
                    for part, rows in applied.parts.items()
                    if key in rows
                },
                values=values,
            )
        )
    return lines


def _modalities(applied: AppliedRun, key: UtteranceKey) -> dict[str, str | None]:
    """For each modality, why it is missing, or ``None`` if it was used."""
    reasons = {name: lacking.get(key) for name, lacking in applied.missing.items()}
    return {name: why if why is None else why.removeprefix(f"{name}: ") for name, why in reasons.items()}


class SpeakingFaces:
    """The speaking faces in the stores of a run."""

    def __init__(self, applied: AppliedRun, persons: FilmPersons | None = None) -> None:
        self.persons = persons or FilmPersons()
        self.faces = applied.find("faces")
        self.speaker = applied.find("speaker")
        self.spans = applied.find("turns")

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
        box = (x1, y1, x2, y2)
        if choice is None:
            person = self._person(key, number)
            return SpeakingFace(number, "first face", None, None, None, None, None, box, person), None
        probability, activity = (
            None if math.isnan(value) else value for value in (choice.probability, choice.activity)
        )
        about = (choice.score, choice.margin, choice.coverage, probability, activity)
        return SpeakingFace(number, "lips", *about, box, self._person(key, number)), None

    def _person(self, key: UtteranceKey, track: int) -> str | None:
        person = self.persons.face(key, track)
        return None if person is None else person.name

    def turns(self, key: UtteranceKey, start: float) -> list[LineTurn] | None:
        """When each face of a line speaks, in seconds of the recording; ``None`` if the run does not say.

        Args:
            key: The line.
            start: Where it begins in the recording, in seconds.
        """
        if self.spans is None:
            return None
        if key not in self.spans:
            return []
        spans = rows_to_spans(self.spans.sequence(key))
        return [
            LineTurn(
                span.track,
                start=round(start + span.start, 3),
                end=round(start + span.end, 3),
                probability=round(span.probability, 4),
                overlap=round(span.overlap, 3),
                person=self._person(key, span.track),
            )
            for span in spans
        ]

    def track(self, key: UtteranceKey, number: int) -> FaceTrack | None:
        """One of the face tracks of a line, if it has so many."""
        assert self.faces is not None
        return track_of(self.faces.sequence(key), number)

    def digest(self, keys: Sequence[UtteranceKey]) -> str:
        """A digest of all boxes of some lines, in every frame.

        Args:
            keys: The lines.
        """
        found = hashlib.sha256()
        for key in keys:
            if self.faces is not None and key in self.faces:
                rows = self.faces.sequence(key)
                found.update(f"{key} {tuple(rows.shape)} ".encode() + rows.contiguous().numpy().tobytes())
        return found.hexdigest()


def shown_name(line: AnnotatedLine) -> str:
    """The name of the speaker in results; empty if the transcript has none."""
    return "" if line.speaker == UNKNOWN else line.speaker


def shown_answer(line: AnnotatedLine) -> str:
    """The emotion of a line, or else its numbers, such as ``valence 3.20, arousal 2.10``; empty if it has neither."""
    return line.emotion or ", ".join(f"{name} {value:.2f}" for name, value in line.values.items())
