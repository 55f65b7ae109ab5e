"""The annotated film: boxes around the speaking faces, and below a panel with a bar for each emotion and number."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path

from merc.annotation.drawing import bar_panel, draw_box
from merc.annotation.lines import AnnotatedLine, SpeakingFaces, shown_answer, shown_name
from merc.annotation.thumbnails import face_jpeg
from merc.conversation import Clip
from merc.labels import LabelSet
from merc.media.ahead import ahead
from merc.media.decode import read_planes
from merc.media.planes import Colour, Planes
from merc.media.rates import FRAME_RATE
from merc.pipeline.apply import AppliedRun

FILM_HEIGHT = 540
"""Pixels: higher frames are scaled down for the film, of which coding is the slowest part, and which pages embed."""

PATIENCE = 3600.0
"""Seconds by which decoding may lag behind the film on a slow machine."""

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


def bar_colours(labels: LabelSet, dimensions: Iterable[str] = ()) -> dict[str, Colour]:
    """The colour of every emotion, and of every number, the same in the film and on the page."""
    others = cycle(_OTHERS)
    return {name: _COLOURS.get(name) or next(others) for name in [*labels.report_order, *dimensions]}


class AnnotatedFilm:
    """The frames of a video, with boxes round the speaking faces and a panel below.

    ``thumbnails`` are JPEG images of the speaking faces by line, as far as :meth:`frames` has come.
    """

    def __init__(self, lines: Sequence[AnnotatedLine], applied: AppliedRun) -> None:
        self.lines = lines
        self.faces = SpeakingFaces(applied)
        [conversation] = [c for split in applied.corpus.values() for c in split]
        self.keys = conversation.keys
        self.labels, self.dimensions = applied.labels, applied.dimensions
        self.colours = bar_colours(self.labels, self.dimensions)
        self.thumbnails: dict[int, bytes] = {}

    def frames(self, video: Path, fps: float) -> Iterator[Planes]:
        """Its frames, one after the other."""
        coming = list(range(len(self.lines)))[::-1]
        active: dict[int, dict[int, dict[int, list[float]]]] = {}
        panel: Planes | None = None
        shown: int | None = None
        frames = read_planes(Clip(str(video)), fps=fps, max_height=FILM_HEIGHT, time_limit=PATIENCE)
        for index, (image, scale) in enumerate(ahead(frames)):
            time = index / fps
            active = {line: faces for line, faces in active.items() if time < self.lines[line].end}
            while coming and self.lines[coming[-1]].start <= time:
                line = coming.pop()
                if time < self.lines[line].end:
                    active[line] = self._boxes(line)
            latest = max(active, default=None)
            if panel is None or latest != shown:
                panel, shown = self._panel(latest, image), latest
            for line, faces in active.items():  # before anything is drawn
                self._keep_face(self.lines[line], faces, time, image, scale)
            for line, faces in active.items():
                here = int((time - self.lines[line].start) * FRAME_RATE + 1e-6)
                boxes = {track: boxes[here] for track, boxes in faces.items() if here in boxes}
                for track in speaking_at(self.lines[line], time, boxes):
                    self._draw(image, [value * scale for value in boxes[track]], self.lines[line])
            yield image.above(panel)

    def _boxes(self, line: int) -> dict[int, dict[int, list[float]]]:
        """The boxes of the faces that speak in a line, by track and frame."""
        face, turns = self.lines[line].face, self.lines[line].turns or []
        numbers = {turn.track for turn in turns} | (set() if face is None else {face.track})
        tracks = {number: self.faces.track(self.keys[line], number) for number in numbers}
        return {
            number: dict(enumerate(track.boxes.tolist(), start=track.first))
            for number, track in tracks.items()
            if track is not None
        }

    def _keep_face(
        self,
        line: AnnotatedLine,
        faces: Mapping[int, Mapping[int, list[float]]],
        time: float,
        image: Planes,
        scale: float,
    ) -> None:
        """Keep the face of a line, once, in the middle of the time in which it is visible."""
        boxes = {} if line.face is None or line.line in self.thumbnails else faces.get(line.face.track, {})
        here = int((time - line.start) * FRAME_RATE + 1e-6)
        if here in boxes and here >= min(boxes) + len(boxes) // 2:
            self.thumbnails[line.line] = face_jpeg(image.rgb(), [value * scale for value in boxes[here]])

    def _draw(self, image: Planes, box: Sequence[float], line: AnnotatedLine) -> None:
        colour = self.colours.get(line.emotion or "", (235, 235, 235))
        draw_box(image, box, colour, " ".join(filter(None, [shown_name(line), shown_answer(line)])))

    def _panel(self, line: int | None, below: Planes) -> Planes:
        width, height, matrix = below.width, below.height, below.matrix
        readable = 13 * len(self.colours) + 8  # with room for the names of the bars
        tall = max(24, round(0.22 * height), min(readable, height // 2))
        tall += tall % 2
        if line is None:
            return bar_panel(width, tall, {}, self.colours, matrix=matrix)
        here = self.lines[line]
        values = {name: here.probabilities.get(name, 0.0) for name in self.labels.report_order}
        numbers = {name: here.values.get(name) for name in self.dimensions}
        told = {name: "" if value is None else f"{value:.2f}" for name, value in numbers.items()}
        for name, value in numbers.items():
            low, high = self.dimensions[name]
            values[name] = 0.0 if value is None else (value - low) / (high - low)
        used = "+".join(here.used) or "no modality"
        nothing = "no emotion" if len(self.labels) else "no numbers"
        title = ": ".join(filter(None, [shown_name(here), f"{shown_answer(here) or nothing} ({used})"]))
        return bar_panel(width, tall, values, self.colours, title, here.text, matrix, told)


def speaking_at(line: AnnotatedLine, time: float, visible: Container[int]) -> list[int]:
    """The tracks that are framed at a time of a line: those whose turn it is, and else the line's face.

    Args:
        line: The line.
        time: Seconds of the recording.
        visible: The tracks that are visible at that time.
    """
    turns = [turn.track for turn in line.turns or [] if turn.start <= time < turn.end and turn.track in visible]
    if turns or line.face is None or line.face.track not in visible:
        return turns
    return [line.face.track]
