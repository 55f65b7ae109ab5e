"""Annotation: from a new video with its transcript to who speaks in every line, and with which emotion."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import merc
from merc.cli.apply import AppliedRun, apply_pipeline, labels_of
from merc.conversation import Clip, CorpusError, Utterance, UtteranceKey
from merc.corpora.transcript import UNKNOWN, TranscriptColumns, read_transcript
from merc.files import write_json, write_text
from merc.labels import LabelSet
from merc.media.decode import MediaInfo, probe, read_frames
from merc.media.draw import Colour, bar_panel, draw_box
from merc.media.film import film_comment, write_film
from merc.pipeline import FinishedRun

GRID = 25.0
"""Pictures a second on the time grid of face tracks."""

FILM_HEIGHT = 1080
"""Pixels: higher pictures are scaled down for the film."""

_PATIENCE = 3600.0  # seconds by which a slow machine may lag behind the film
_COLOURS: Mapping[str, Colour] = {
    "neutral": (158, 158, 158),
    "joy": (255, 213, 79),
    "happy": (255, 213, 79),
    "excited": (255, 167, 38),
    "surprise": (255, 138, 101),
    "sadness": (79, 155, 255),
    "sad": (79, 155, 255),
    "anger": (239, 83, 80),
    "angry": (239, 83, 80),
    "fear": (171, 71, 188),
    "disgust": (129, 199, 132),
    "frustrated": (161, 136, 127),
}
_OTHERS: tuple[Colour, ...] = ((38, 198, 218), (240, 98, 146), (205, 220, 57), (121, 134, 203), (0, 150, 136))


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


def annotate(
    video: str | Path,
    transcript: str | Path,
    model: str | Path,
    out: str | Path,
    *,
    seed: int | None = None,
    stage: str | None = None,
    columns: TranscriptColumns | None = None,
    film: bool = True,
    trainer_options: Sequence[str] = (),
) -> Annotation:
    """Tell for every line of a video who speaks and with which emotion; ``merc annotate`` does the same.

    Any run that ``merc run`` has finished will do whose features come from encoders: of text alone, or of text,
    sound and the speaking face. What is not there (nobody visible, no sound) is masked as in training, and recorded.

    ``out`` gets ``annotation.json``, ``annotation.csv``, ``annotation.srt`` with the emotions, ``annotated.mp4`` in
    which the speaking face is framed above a bar for every emotion, and ``stages/`` with the stores of every stage.
    What is finished and unchanged is skipped, what was cut goes on. Memory does not grow with the film.

    Args:
        video: The recording.
        transcript: Its lines with times (see :func:`merc.corpora.read_transcript`).
        model: The folder of the run.
        out: Folder for the results.
        seed: Which seed of the run. Default: the first.
        stage: The stage of the run that tells the emotions. Default: the last that was tested.
        columns: Which column of a CSV transcript holds what.
        film: Whether to write ``annotated.mp4``; a recording without picture gives none.
        trainer_options: Options such as ``--trainer.accelerator=gpu``, for every stage.

    Raises:
        MediaError: The video cannot be read.
        CorpusError: The transcript cannot be read, or is of another video.
        PipelineError: The run is not finished, or cannot be applied to a new video.
    """
    video, out = Path(video), Path(out)
    info = probe(video)
    labels = labels_of(FinishedRun.load(model), stage)
    corpus = read_transcript(transcript, video, labels=labels, columns=columns)
    utterances = corpus["test"][0].utterances
    notes = [*corpus.notes, *_beyond(utterances, info, video, transcript)]
    applied = apply_pipeline(model, corpus, out / "stages", seed=seed, stage=stage, trainer_options=trainer_options)
    lines = describe(applied)
    annotation = Annotation(lines, labels, notes, applied.run)
    target = out / "annotated.mp4" if film and info.height is not None else None
    write_json(out / "annotation.json", _as_json(annotation, video, transcript))
    write_text(out / "annotation.csv", _as_csv(annotation))
    write_text(out / "annotation.srt", as_srt(lines))
    if target is not None:
        state = video.stat()
        basis = [merc.__version__, state.st_size, state.st_mtime_ns, [asdict(line) for line in lines]]
        fingerprint = hashlib.sha256(json.dumps(basis).encode()).hexdigest()
        if film_comment(target) != fingerprint:
            fps = info.fps if info.fps is not None and 1 <= info.fps <= 60 else GRID
            pictures = _Film(lines, applied, labels).pictures(video, fps)
            write_film(target, pictures, fps=fps, sound_of=video, comment=fingerprint, time_limit=_PATIENCE)
    return Annotation(lines, labels, notes, applied.run, target)


def _beyond(utterances: Sequence[Utterance], info: MediaInfo, video: Path, transcript: str | Path) -> Iterator[str]:
    """A note about lines after the end of the video.

    Raises:
        CorpusError: All of them are.
    """
    late = sum(utterance.start is not None and utterance.start >= info.duration for utterance in utterances)
    if late == len(utterances):
        raise CorpusError(
            f"All {late} lines of {transcript} begin after the end of {video}, {info.duration:.1f} s: expected the "
            "transcript of this video."
        )
    if late:
        yield f"{late} lines begin after the end of the video, {info.duration:.1f} s: nothing is seen or heard there."


def describe(applied: AppliedRun) -> list[AnnotatedLine]:
    """What a run that was applied to one conversation says of each of its utterances.

    Args:
        applied: The run, applied to a corpus that :func:`merc.corpora.read_transcript` has read.
    """
    [conversation] = [c for split in applied.corpus.values() for c in split]
    names = applied.corpus.labels.names
    faces = _Faces(applied)
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


class _Faces:
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
        choice = [0.0] if self.speaker is None else self.speaker[key].tolist()
        rows = self.rows(key, int(choice[0]))
        if not len(rows):
            return None, "no face was found" if int(choice[0]) >= 0 else "nobody who is visible speaks"
        x1, y1, x2, y2 = (round(value, 1) for value in rows[len(rows) // 2, 2:6].tolist())
        score, margin, coverage = (None, None, None) if self.speaker is None else choice[1:4]
        how = "first face" if self.speaker is None else "lips"
        return SpeakingFace(int(choice[0]), how, score, margin, coverage, (x1, y1, x2, y2)), None

    def rows(self, key: UtteranceKey, track: int) -> Tensor:
        """The rows of one track, in the order of time."""
        assert self.faces is not None
        rows = self.faces.sequence(key)
        return rows[rows[:, 0] == track]


class _Film:
    """The pictures of a video, with frames round the speaking faces and a panel below."""

    def __init__(self, lines: Sequence[AnnotatedLine], applied: AppliedRun, labels: LabelSet) -> None:
        self.lines = lines
        self.faces = _Faces(applied)
        [conversation] = [c for split in applied.corpus.values() for c in split]
        self.keys = conversation.keys
        others = cycle(_OTHERS)
        self.colours = {name: _COLOURS.get(name) or next(others) for name in labels.report_order}
        self.labels = labels

    def pictures(self, video: Path, fps: float) -> Iterator[Tensor]:
        """``(3, H, W)`` uint8, one after the other."""
        coming = list(range(len(self.lines)))[::-1]
        active: dict[int, dict[int, list[float]]] = {}
        panel: Tensor | None = None
        shown: int | None = None
        for chunk in read_frames(Clip(str(video)), fps=fps, max_height=FILM_HEIGHT, chunk=8, time_limit=_PATIENCE):
            for index, image in enumerate(chunk.images, start=chunk.first):
                time = index / fps
                active = {line: boxes for line, boxes in active.items() if time < self.lines[line].end}
                while coming and self.lines[coming[-1]].start <= time:
                    line = coming.pop()
                    if time < self.lines[line].end:
                        active[line] = self._boxes(line)
                latest = max(active, default=None)
                if panel is None or latest != shown:
                    panel, shown = self._panel(latest, *image.shape[1:]), latest
                for line, boxes in active.items():
                    box = boxes.get(int((time - self.lines[line].start) * GRID + 1e-6))
                    if box is not None:
                        self._frame(image, [value * chunk.scale for value in box], self.lines[line])
                yield torch.cat([image, panel], dim=1)

    def _boxes(self, line: int) -> dict[int, list[float]]:
        """The boxes of the speaking face of a line, by their place on the time grid."""
        face = self.lines[line].face
        if face is None:
            return {}
        rows = self.faces.rows(self.keys[line], face.track)
        return {int(row[1]): row[2:6] for row in rows.tolist()}

    def _frame(self, image: Tensor, box: Sequence[float], line: AnnotatedLine) -> None:
        colour = self.colours.get(line.emotion or "", (235, 235, 235))
        draw_box(image, box, colour, " ".join(filter(None, [_name(line), line.emotion])))

    def _panel(self, line: int | None, height: int, width: int) -> Tensor:
        readable = 13 * len(self.labels) + 8  # with room for the names of the emotions
        tall = max(24, round(0.22 * height), min(readable, height // 2))
        tall += (height + tall) % 2
        if line is None:
            return bar_panel(width, tall, {}, self.colours)
        here = self.lines[line]
        values = {name: here.probabilities.get(name, 0.0) for name in self.labels.report_order}
        used = "+".join(here.used) or "nothing to judge by"
        title = ": ".join(filter(None, [_name(here), f"{here.emotion or 'no emotion'} ({used})"]))
        return bar_panel(width, tall, values, self.colours, title, here.text)


def _name(line: AnnotatedLine) -> str:
    return "" if line.speaker == UNKNOWN else line.speaker


def as_srt(lines: Sequence[AnnotatedLine]) -> str:
    """Subtitles in which every line begins with its emotion, as in ``[joy 83 %] Monica: Hi``."""
    blocks = []
    for line in lines:
        told = f"[{line.emotion} {100 * line.probabilities[line.emotion]:.0f} %]" if line.emotion else "[?]"
        said = ": ".join(filter(None, [_name(line), line.text])).replace("-->", "->")
        blocks.append(f"{line.line}\n{_clock(line.start)} --> {_clock(line.end)}\n{told} {said}\n")
    return "\n".join(blocks)


def _clock(seconds: float) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02},{milliseconds:03}"


def _as_json(annotation: Annotation, video: Path, transcript: str | Path) -> dict[str, Any]:
    return {
        "format": "merc.Annotation",
        "version": 1,
        "video": str(video),
        "transcript": str(transcript),
        "run": dict(annotation.run),
        "emotions": list(annotation.labels.report_order),
        "notes": annotation.notes,
        "lines": [{**asdict(line), "used": line.used} for line in annotation.lines],
    }


def _as_csv(annotation: Annotation) -> str:
    emotions = annotation.labels.report_order
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    face = ("track", "score", "margin", "coverage")
    table.writerow(
        ["line", "start", "end", "speaker", "text", "emotion", "probability", *emotions, "modalities", *face]
    )
    for line in annotation.lines:
        known = ["" if line.face is None else getattr(line.face, name) for name in face]
        probabilities = [line.probabilities.get(name, "") for name in emotions]
        best = line.probabilities.get(line.emotion or "", "")
        begin = [line.line, line.start, line.end, line.speaker, line.text, line.emotion or "", best]
        table.writerow([*begin, *probabilities, "+".join(line.used), *known])
    return text.getvalue()
