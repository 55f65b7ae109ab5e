"""FaceTracker: the boxes of every face over time, from a stream of frames in constant memory."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from merc.media.crops import grey
from merc.media.faces import FaceDetector, Faces
from merc.media.motion import CutFinder, follow
from merc.media.rates import FRAME_RATE
from merc.media.tracks import FaceTrack

if TYPE_CHECKING:
    from merc.media.decode import Frames

_KEYS_AT_ONCE = 16  # fixed, so that the results of the detector do not depend on the chunks
_SAME_PLACE = 0.7  # faces that overlap by this much in two detections are followed without one between them
_NEW_OVERLAP = 0.4  # a detection that overlaps a tracked face by this much belongs to that face


class FaceTracker:
    """Tracks faces through a stream of frames.

    Faces are detected in every ``every``-th frame of a shot, on a downscaled image. Every second detection is left out
    where those before and after it are sure and find the same faces at nearly the same places. Faces are linked over
    time by their overlap with the boxes that constant velocity predicts, optimally over all faces (the Hungarian
    method). Doubtful detections are linked after the sure ones and start no track (as in ByteTrack, arXiv 2110.06864).
    No track crosses a cut.

    Between detections a box follows its head: its position is the measured motion of the upper face
    (:func:`~merc.media.motion.follow`), corrected by the smoothed difference from the detections. Neither the jitter of
    the detector nor the opening of the mouth, which moves detected boxes, therefore shakes the crops. All filters are
    symmetric in time, so a box does not lag.

    Tracks do not depend on the division of the frames into chunks. Memory does not grow with the length of the stream,
    except for the boxes (16 bytes per face and frame; about 60 until the track is finished).

    Args:
        detector: Finds the faces in a frame.
        every: Frames from one detection to the next; twice as many where faces stay where they are.
        max_height: Height of the image in which faces are detected and tracked.
        start_score: Smallest score of a detection that starts a track.
        min_overlap: Smallest overlap (intersection over union) of the predicted box and a detection of its face.
        max_gap: Seconds for which a face may be undetected within its track.
        min_seconds: Shorter tracks are dropped.
        smoothing: Seconds (standard deviation of a Gaussian) over which detections are averaged.

    Raises:
        ValueError: ``every`` is not positive.

    Example:
        >>> tracks = FaceTracker(MTCNNDetector())(read_frames(Clip("talk.mp4")))  # doctest: +SKIP
    """

    def __init__(
        self,
        detector: FaceDetector,
        every: int = 5,
        max_height: int = 360,
        start_score: float = 0.9,
        min_overlap: float = 0.2,
        max_gap: float = 0.8,
        min_seconds: float = 0.4,
        smoothing: float = 0.3,
    ) -> None:
        if every < 1:
            raise ValueError(f"FaceTracker: every is {every}, expected 1 or more frames.")
        self.detector = detector
        self.every = every
        self.max_height = max_height
        self.start_score = start_score
        self.min_overlap = min_overlap
        self.max_gap = max_gap
        self.min_seconds = min_seconds
        self.smoothing = smoothing

    def provenance(self) -> dict[str, Any]:
        """The detector and all settings, for the provenance of a store."""
        names = ("every", "max_height", "start_score", "min_overlap", "max_gap", "min_seconds", "smoothing")
        return {**self.detector.provenance(), **{name: getattr(self, name) for name in names}}

    def __call__(self, frames: Iterable[Frames]) -> list[FaceTrack]:
        """The tracks of a stream of frames.

        Args:
            frames: Consecutive chunks of frames of one size.

        Returns:
            The tracks, sorted by their first frame, then by descending size of the face.

        Raises:
            ValueError: Frames are missing or change in size.
        """
        run = _Run(self)
        for chunk in frames:
            run.add(chunk)
        return run.finish()


@dataclass(slots=True, eq=False)
class _Key:
    """A frame in which faces may be detected."""

    frame: int
    shot: int  # the first frame of its shot
    optional: bool  # whether it may be left out
    image: Tensor
    faces: Faces | None = None


@dataclass(slots=True, eq=False)
class _Head:
    """An unfinished track, in pixels of the downscaled image."""

    first: int
    box: Tensor  # the latest detection
    frame: int  # and its frame
    scores: list[float]
    velocity: Tensor = field(default_factory=lambda: torch.zeros(2))  # of the centre, per frame
    # Plain arrays, which store hours without overhead. Four numbers per frame: detected boxes and the lines between
    # them. Three per step: the measured motion of the centre, and whether it could be measured.
    anchors: array[float] = field(default_factory=lambda: array("d"))
    motion: array[float] = field(default_factory=lambda: array("d"))

    def predicted(self, frame: int) -> Tensor:
        return self.box + (self.velocity * (frame - self.frame)).repeat(2)


class _Run:
    """The state of a tracker along one stream."""

    def __init__(self, tracker: FaceTracker) -> None:
        self.tracker = tracker
        self.cuts = CutFinder()
        self.waiting: deque[Tensor] = deque()  # small colour frames for which it is undecided whether they start a shot
        self.keys: list[_Key] = []  # not linked yet
        self.before: _Key | None = None  # the last one that was
        self.grey: deque[Tensor] = deque()
        self.grey_first = 0
        self.start: int | None = None  # the first frame of the stream
        self.decided = 0  # the first undecided frame
        self.seen = 0  # the next expected frame
        self.shot = 0
        self.heads: list[_Head] = []
        self.segments: list[tuple[_Head, Tensor, int]] = []  # boxes of a head over frames, and the first of these
        self.done: list[_Head] = []
        self.tracks: list[tuple[int, int, float]] = []  # first frame, number of frames, score
        # Their boxes in one block, because many small ones would fragment the heap.
        self.boxes: array[float] = array("f")
        self.size: tuple[int, int] | None = None
        self.scale = 1.0
        self.fps: float = FRAME_RATE

    def add(self, chunk: Frames) -> None:
        if not len(chunk.images):
            return
        small = self._begin(chunk)
        self.waiting.extend(small)
        self.grey.extend(grey(image) for image in small)  # one by one they stay in the cache
        self.seen += len(small)
        self._decide(self.cuts.push(small))

    def finish(self) -> list[FaceTrack]:
        self._decide(self.cuts.finish())
        self._advance(len(self.keys))
        self._close(self.seen)
        self._measure()
        lengths = [length for _, length, _ in self.tracks]
        rows = torch.from_numpy(np.array(self.boxes, np.float32).reshape(-1, 4))
        boxes = torch.split(rows, lengths) if lengths else ()
        tracks = [FaceTrack(first, own, score) for (first, _, score), own in zip(self.tracks, boxes, strict=True)]
        return sorted(tracks, key=lambda track: (track.first, -float(_area(track.boxes).mean())))

    def _begin(self, chunk: Frames) -> Tensor:
        images = chunk.images
        height, width = images.shape[2:]
        if self.start is None:
            self.start = self.decided = self.seen = self.grey_first = self.shot = chunk.first
            self.size, self.fps = (height, width), chunk.fps
            ratio = min(1.0, self.tracker.max_height / height)
            self.scale = chunk.scale * ratio
        if chunk.first != self.seen or self.size != (height, width):
            raise ValueError(
                f"Frames must be consecutive and of one size: expected frame {self.seen} of {self.size}, "
                f"got {chunk.first} of {(height, width)}. Read them with merc.media.read_frames."
            )
        if height <= self.tracker.max_height:
            return images
        small = (self.tracker.max_height, max(1, round(width * self.tracker.max_height / height)))
        return functional.interpolate(images, small, mode="bilinear", antialias=True)

    def _decide(self, begins: list[bool]) -> None:
        """Pick the frames for the detector, given which of the next frames start a shot."""
        for begin in begins:
            if begin:
                self.shot = self.decided
            image = self.waiting.popleft()
            number, between = divmod(self.decided - self.shot, self.tracker.every)
            if not between:  # cloned: a view would keep its whole chunk in memory
                self.keys.append(_Key(self.decided, self.shot, number % 2 == 1, image.clone()))
            self.decided += 1
        while len(self.keys) > _KEYS_AT_ONCE:
            self._advance(_KEYS_AT_ONCE)
            self._measure()

    def _advance(self, count: int) -> None:
        """Detect faces in the next keys and link them, but for those that are left out. One more key is looked at."""
        self._detect([key for key in self.keys[: count + 1] if not key.optional])
        self._detect([key for at, key in enumerate(self.keys[:count]) if key.optional and not self._sure_around(at)])
        for key in self.keys[:count]:
            if key.faces is not None:
                self._close(key.shot)
                self._link(key.frame, key.faces)
        self.before = self.keys[count - 1] if count else None
        del self.keys[:count]

    def _detect(self, keys: list[_Key]) -> None:
        fresh = [key for key in keys if key.faces is None]
        if fresh:
            found = self.tracker.detector(torch.stack([key.image for key in fresh]))
            for key, faces in zip(fresh, found, strict=True):
                key.faces = faces

    def _sure_around(self, at: int) -> bool:
        """Whether the keys before and after one find the same faces for sure, at nearly the same places."""
        before = self.keys[at - 1] if at else self.before
        after = self.keys[at + 1] if at + 1 < len(self.keys) else None
        if before is None or after is None or after.shot != before.shot or before.faces is None or after.faces is None:
            return False
        first, second = before.faces, after.faces
        scores = torch.cat([first.scores, second.scores])
        if not len(first) or len(first) != len(second) or float(scores.min()) < self.tracker.start_score:
            return False
        pairs = _assign(list(first.boxes.float().cpu()), second.boxes.float().cpu(), 0.0, _SAME_PLACE)
        return len(pairs) == len(first) and after.frame - before.frame <= self.tracker.max_gap * self.fps

    def _close(self, shot: int) -> None:
        """End the tracks of shots before the one that starts at frame ``shot``."""
        for head in [head for head in self.heads if head.frame < shot]:
            if shot - head.frame <= self.tracker.every:
                # Detected last in its shot, so it stays visible until the cut.
                still = head.box.expand(shot - head.frame, 4)
                self.segments.append((head, still, head.frame))
            self._end(head)

    def _end(self, head: _Head) -> None:
        self.heads.remove(head)
        self.done.append(head)

    def _link(self, frame: int, faces: Faces) -> None:
        boxes, scores = faces.boxes.float().cpu(), faces.scores.float().cpu()
        sure = scores >= self.tracker.start_score
        left = torch.ones_like(sure)
        # A head that starts or stops fast leaves its predicted box. Once the clear cases are linked, a face of the last
        # detection may also lie a little beside its box (after C-BIoU, arXiv 2211.14317).
        longest = self.tracker.max_gap * self.fps
        for group, grown, patience in ((sure, 0.0, longest), (~sure, 0.0, longest), (sure, 0.3, self.tracker.every)):
            free = [head for head in self.heads if 0 < frame - head.frame <= patience]
            numbers = (group & left).nonzero()[:, 0]
            predicted = [head.predicted(frame) for head in free]
            for row, column in _assign(predicted, boxes[numbers], grown, self.tracker.min_overlap):
                number = int(numbers[column])
                self._extend(free[row], frame, boxes[number], float(scores[number]))
                left[number] = False
        for head in [head for head in self.heads if frame - head.frame > longest]:
            self._end(head)
        for number in (sure & left).nonzero()[:, 0].tolist():
            tracked = torch.stack([torch.zeros(4), *(head.box for head in self.heads if head.frame == frame)])
            if float(_overlaps(boxes[number, None], tracked).max()) < _NEW_OVERLAP:
                head = _Head(frame, boxes[number], frame, [float(scores[number])])
                head.anchors.extend(boxes[number].tolist())
                self.heads.append(head)

    def _extend(self, head: _Head, frame: int, box: Tensor, score: float) -> None:
        steps = frame - head.frame
        share = torch.arange(steps + 1)[:, None] / steps
        line = head.box + (box - head.box) * share
        self.segments.append((head, line, head.frame))
        head.anchors.extend(line[1:].flatten().tolist())
        velocity = ((box - head.box).view(2, 2).mean(0)) / steps
        head.velocity = velocity if len(head.scores) == 1 else (head.velocity + velocity) / 2
        head.box, head.frame = box, frame
        head.scores.append(score)

    def _measure(self) -> None:
        """Measure the motion of the heads along the new segments, and release finished tracks and frames."""
        if self.segments:
            boxes = torch.cat([boxes for _, boxes, _ in self.segments])
            index = torch.cat([torch.arange(len(boxes)) + first for _, boxes, first in self.segments]) - self.grey_first
            needed = torch.stack(list(self.grey)[: int(index.max()) + 1])
            shift, known = follow(needed, boxes, index)
            centres = boxes.view(-1, 2, 2).mean(1)
            motion = torch.cat([centres.diff(dim=0) + shift, known[:, None].double()], -1)
            place = 0
            for head, line, _ in self.segments:
                head.motion.extend(motion[place : place + len(line) - 1].flatten().tolist())
                place += len(line)
            self.segments = []
        for head in self.done:
            self._complete(head)
        self.done = []
        oldest = min([self.decided, *(head.frame for head in self.heads), *(key.frame for key in self.keys)])
        for _ in range(oldest - self.grey_first):
            self.grey.popleft()
        self.grey_first = oldest

    def _complete(self, head: _Head) -> None:
        boxes = _smoothed(head, self.tracker.smoothing * self.fps)
        if len(boxes) >= self.tracker.min_seconds * self.fps:
            score = sum(head.scores) / len(head.scores)
            self.tracks.append((head.first, len(boxes), score))
            self.boxes.frombytes((boxes / self.scale).astype(np.float32).tobytes())


def _smoothed(head: _Head, width: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The final boxes ``(T, 4)`` of a head: measured motion, with the position and size of the detections."""
    anchors, motion = np.array(head.anchors).reshape(-1, 4), np.array(head.motion).reshape(-1, 3)
    extra = len(motion) + 1 - len(anchors)  # frames after the last detection
    centre, span = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    smooth_centre = _local_line(centre, 2.0)
    steps = motion[:, :2].copy()
    unknown = (motion[:, 2] == 0)[: len(smooth_centre) - 1].nonzero()[0]
    steps[unknown] = np.diff(smooth_centre, axis=0)[unknown]
    path = np.concatenate([centre[:1], centre[:1] + np.cumsum(steps, 0)])
    place = _local_line(centre - path[: len(centre)], width)
    path += np.concatenate([place, np.repeat(place[-1:], extra, 0)])
    span = _local_line(span, width)
    span = np.concatenate([span, np.repeat(span[-1:], extra, 0)])
    return np.concatenate([path - span / 2, path + span / 2], 1)


def _local_line(values: np.ndarray[Any, np.dtype[np.float64]], width: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Smooth by local linear regression with Gaussian weights.

    Linear motion is unchanged, even at the ends, where other filters lag or keep the noise.
    """
    reach = min(int(4 * width), len(values) - 1)
    if reach < 1:
        return values
    offset = np.arange(-reach, reach + 1)
    weight = np.exp(-((offset / width) ** 2) / 2)
    inside = np.ones(len(values))
    inner = slice(reach, reach + len(values))

    def moment(power: int, series: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.asarray(np.convolve(series, (weight * offset**power)[::-1])[inner], dtype=np.float64)

    mass, tilt, spread = (moment(power, inside) for power in range(3))
    fitted = [spread * moment(0, column) - tilt * moment(1, column) for column in values.T]
    smooth: np.ndarray[Any, np.dtype[np.float64]] = np.stack(fitted, 1) / (mass * spread - tilt**2)[:, None]
    return smooth


def _assign(predicted: list[Tensor], boxes: Tensor, grown: float, least: float) -> list[tuple[int, int]]:
    """Pairs of a track and a detection that overlap by at least ``least``, by the Hungarian method.

    Boxes are first enlarged on every side by the share ``grown`` of their width and height.
    """
    from scipy.optimize import linear_sum_assignment

    if not predicted or not len(boxes):
        return []
    larger = torch.eye(4) * (1 + grown) - torch.eye(4).roll(2, 0) * grown
    overlap = _overlaps(torch.stack(predicted) @ larger, boxes @ larger)
    usable = torch.where(
        overlap >= least, overlap, -1.0
    )  # a pair without enough overlap must not replace one with enough
    pairs = zip(*linear_sum_assignment(usable.numpy(), maximize=True), strict=True)
    return [(int(row), int(column)) for row, column in pairs if usable[row, column] > 0]


def _overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)``."""
    low = first[:, None, :2].maximum(second[None, :, :2])
    high = first[:, None, 2:].minimum(second[None, :, 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    return shared / (_area(first)[:, None] + _area(second) - shared).clamp_min(1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(-1)
