"""Who speaks when in a film, by the faces that it shows: RTTM, CSV and JSON without a transcript."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from merc.conversation import Clip, Utterance, UtteranceKey
from merc.datamodules.readers import TrackReader
from merc.media.decode import MediaError, probe
from merc.media.faces import MTCNNDetector
from merc.media.rates import FRAME_RATE
from merc.media.tracker import FaceTracker
from merc.media.tracks import FaceTrack, rows_to_tracks
from merc.speaker.base import MouthTrack, TraceNetwork, mouth_tracks
from merc.speaker.pretrained import load_lipsync
from merc.speaker.spans import SpeakerTimeline, SpeakingSpan

PIECE = 300.0
"""Seconds of a film that are looked at together."""

_NOTHING_THERE = ("no video in the clip", "no sound in the clip")  # a stream that ends before the other one does

_SAME_FACE = 0.3
"""Overlap (intersection over union) of the last box of a piece and the first of the next that show one face."""


@dataclass(frozen=True)
class FaceTurn:
    """A face that speaks without a pause.

    Args:
        face: ``face1``, ``face2`` ... by the order in which faces appear. A name belongs to a face for as long as it
            is followed: after a cut the same person is another face.
        start: Seconds of the film.
        end: Seconds of the film.
        probability: How probable it is that this face speaks then, the mean over the turn, in 0..1.
        overlap: Seconds of the turn in which another visible face speaks too.
        box: x1, y1, x2, y2 of the face in pixels of the displayed frame, in the middle of the turn.
    """

    face: str
    start: float
    end: float
    probability: float
    overlap: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Diarization:
    """Who speaks when in a film.

    Args:
        video: The film.
        duration: Its length in seconds.
        turns: In order of time.
        faces: How many faces were followed.
        weights: What the network was trained on, in words.
        notes: Remarks for readers of the results.
    """

    video: Path
    duration: float
    turns: list[FaceTurn]
    faces: int
    weights: str
    notes: list[str] = field(default_factory=list)


def diarize(
    video: str | Path,
    weights: str | Path = "lipsync",
    *,
    tracker: FaceTracker | None = None,
    timeline: SpeakerTimeline | None = None,
    piece: float = PIECE,
    device: torch.device | str = "cpu",
    progress: Callable[[float, float], None] | None = None,
) -> Diarization:
    """Find who speaks when among the faces that a film shows; ``merc diarize`` does the same.

    The film is read in pieces of equal length, at most ``piece`` seconds; memory does not grow with the film. A face
    that is visible across the edge of two pieces keeps its name. Who speaks without being visible is not found.

    Args:
        video: Any film that FFmpeg reads.
        weights: Of LipSyncNet: a name or a folder, as for :func:`merc.speaker.load_lipsync`.
        tracker: Finds and follows the faces. Default: MTCNN's.
        timeline: Says who speaks when among them.
        piece: Seconds that are looked at together.
        device: Device of the networks, that of a ``tracker`` of your own excepted.
        progress: Is called with the seconds that are done and the length of the film, after each piece.

    Raises:
        MediaError: The film cannot be read, or has no video or no sound.
        FileNotFoundError: There are no such weights.
        ValueError: The weights are of a network that scores whole clips only.
        ModuleNotFoundError: The face detector is not installed.

    Example:
        >>> for turn in diarize("talk.mp4").turns:  # doctest: +SKIP
        ...     print(turn.face, turn.start, turn.end)
    """
    video = Path(video)
    lips = load_lipsync(weights)
    if not isinstance(lips.network, TraceNetwork):
        raise ValueError(
            f"The weights {str(weights)!r} are of {type(lips.network).__name__}, which scores a clip as a whole: "
            "expected weights of LipSyncNet, such as 'lipsync'."
        )
    info = probe(video)
    for there, word in ((info.height, "video"), (info.sample_rate, "sound")):
        if there is None:
            raise MediaError(
                f"{video} has no {word}: who speaks is found by comparing lips with sound, which takes both.",
                f"no {word}",
            )
    tracker = tracker or FaceTracker(MTCNNDetector(device))
    lips.network.to(device)
    timeline = timeline or SpeakerTimeline()
    reader = TrackReader(tracker, crop_size=lips.network.size, max_seconds=float("inf"))
    names = _Names()
    turns: list[FaceTurn] = []
    for start, end in _pieces(info.duration, piece):
        tracks, mouths, sound = _read(reader, video, start, end)
        own = names.of(tracks, end - start)
        spans = timeline(lips.network, mouths, sound, lips.calibration)
        found = [_turn(own[span.track], tracks[span.track], span, start) for span in spans]
        turns = _joined(turns, found, start, timeline.shortest)
        if progress is not None:
            progress(end, info.duration)
    notes = [] if names.count else ["No face was found."]
    notes += ["Nobody who is visible speaks."] if names.count and not turns else []
    return Diarization(video, info.duration, turns, names.count, f"{lips.folder.name}: {lips.trained_on}", notes)


def _turn(name: str, track: FaceTrack, span: SpeakingSpan, start: float) -> FaceTurn:
    """A span of a piece that begins at ``start`` in the film."""
    middle = round((span.start + span.end) / 2 * FRAME_RATE) - track.first
    x1, y1, x2, y2 = (round(value, 1) for value in track.boxes[min(max(middle, 0), len(track) - 1)].tolist())
    begin, end = round(start + span.start, 3), round(start + span.end, 3)
    return FaceTurn(name, begin, end, round(span.probability, 4), round(span.overlap, 3), (x1, y1, x2, y2))


def _pieces(duration: float, most: float) -> Iterator[tuple[float, float]]:
    """Pieces of about equal length, which begin on frames of the grid; the last one ends with the film."""
    frames = max(1, round(duration * FRAME_RATE))
    count = max(1, -(-frames // max(1, round(most * FRAME_RATE))))
    edges = [round(index * frames / count) / FRAME_RATE for index in range(count)]
    yield from zip(edges, [*edges[1:], max(duration, edges[-1] + 1 / FRAME_RATE)], strict=True)


def _read(
    reader: TrackReader, video: Path, start: float, end: float
) -> tuple[list[FaceTrack], list[MouthTrack], Tensor]:
    """The faces of a piece, their mouths, and its log-mel.

    Raises:
        MediaError: It cannot be read.
    """
    clip = Clip(str(video), start, end)
    key = UtteranceKey("film", video.name, f"{start:g}")
    rows = reader.read(key, Utterance(key.utterance, "", video=clip))
    for what in rows.values():
        if isinstance(what, str) and what not in _NOTHING_THERE:
            raise MediaError(f"{video} cannot be read from {start:.1f} to {end:.1f} s: {what}. Convert it.", what)
    faces, crops, sound = (rows[kind] for kind in ("faces", "crops", "sound"))
    if isinstance(faces, str) or isinstance(crops, str) or isinstance(sound, str):
        return [], [], torch.zeros(0, 80)
    tracks = rows_to_tracks(faces)
    return tracks, mouth_tracks(tracks, crops), sound


class _Names:
    """The names of faces, which last from piece to piece."""

    def __init__(self) -> None:
        self.count = 0
        self._last: list[tuple[str, Tensor]] = []  # faces at the end of the piece before, and their boxes

    def of(self, tracks: Sequence[FaceTrack], seconds: float) -> list[str]:
        """The names of the tracks of the next piece, which is so long."""
        edge = 0.4 * FRAME_RATE  # a face may be missed by the detector for a moment
        names: dict[int, str] = {}
        begin = [number for number, track in enumerate(tracks) if track.first <= edge]
        if begin and self._last:
            from torchvision.ops import box_iou

            before = torch.stack([box for _, box in self._last])
            overlap = box_iou(before, torch.stack([tracks[number].boxes[0] for number in begin]))
            while float(overlap.max()) >= _SAME_FACE:
                row, column = divmod(int(overlap.argmax()), len(begin))
                names[begin[column]] = self._last[row][0]
                overlap[row], overlap[:, column] = 0, 0
        for number in range(len(tracks)):
            if number not in names:
                self.count += 1
                names[number] = f"face{self.count}"
        end = round(seconds * FRAME_RATE) - edge
        self._last = [(names[n], track.boxes[-1]) for n, track in enumerate(tracks) if track.end >= end]
        return [names[number] for number in range(len(tracks))]


def _joined(before: list[FaceTurn], found: list[FaceTurn], edge: float, pause: float) -> list[FaceTurn]:
    """Turns with those of the next piece, which begins at ``edge``; a turn that goes on there stays one."""
    joined = list(before)
    for turn in found:
        place = next(
            (
                n
                for n, t in enumerate(joined)
                if t.face == turn.face and t.end >= edge - pause and turn.start <= edge + pause
            ),
            None,
        )
        if place is None or turn.start - joined[place].end > pause:
            joined.append(turn)
            continue
        first = joined[place]
        lengths = first.end - first.start, turn.end - turn.start
        mean = (first.probability * lengths[0] + turn.probability * lengths[1]) / sum(lengths)
        overlap = round(first.overlap + turn.overlap, 3)
        joined[place] = replace(first, end=turn.end, probability=round(mean, 4), overlap=overlap)
    return joined


def turns_as_rttm(found: Diarization) -> str:
    """RTTM, one row per turn: ``SPEAKER talk 1 0.500 1.200 <NA> <NA> face1 0.981 <NA>``.

    The recording is named after the film, with ``_`` for blanks; the last number is the probability.
    """
    recording = "_".join(found.video.stem.split()) or "film"
    rows = (
        f"SPEAKER {recording} 1 {t.start:.3f} {t.end - t.start:.3f} <NA> <NA> {t.face} {t.probability:.3f} <NA>\n"
        for t in found.turns
    )
    return "".join(rows)


def turns_as_csv(found: Diarization) -> str:
    """A table with one row per turn: start, end, face, probability, overlap, and the corners of the face."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["start", "end", "face", "probability", "overlap", "x1", "y1", "x2", "y2"])
    table.writerows([t.start, t.end, t.face, t.probability, t.overlap, *t.box] for t in found.turns)
    return text.getvalue()


def turns_as_json(found: Diarization) -> dict[str, Any]:
    """The whole of it, as plain values."""
    return {
        "format": "merc.Diarization",
        "version": 1,
        "video": str(found.video),
        "duration": found.duration,
        "faces": found.faces,
        "weights": found.weights,
        "notes": found.notes,
        "turns": [asdict(turn) for turn in found.turns],
    }
