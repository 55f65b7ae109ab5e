"""Readers: what a task reads of an utterance's clip, in a worker process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from merc.conversation import Clip, Utterance, UtteranceKey
from merc.encoders.inputs import FaceBatch, SoundBatch
from merc.encoders.visual import evenly
from merc.media.ahead import ahead
from merc.media.crops import crop_faces, track_crops
from merc.media.decode import Frames, MediaError, frames_at, probe, read_frames
from merc.media.rates import FRAME_RATE
from merc.media.sound import LogMel, read_sound
from merc.media.tracker import FaceTracker
from merc.media.tracks import FaceTrack, track_of, tracks_to_rows
from merc.speaker.choose import SpeakerChoice
from merc.store import FeatureStore, Kind, Sequences

LONGEST = 60.0
"""Seconds: of a clip that is longer only the beginning is read. Wrongly cut clips of MELD last up to five minutes."""

FIRST_FACE = "first"
"""In the place of a store of speakers: the first face is taken for the speaker's."""


class Reader(ABC):
    """Reads the media of utterances, in a worker process."""

    def prepare(self, task: L.LightningModule) -> None:  # noqa: B027 - most need nothing
        """Open what is needed and adapt to the task, in the main process, before the first utterance."""

    @abstractmethod
    def seconds(self, utterance: Utterance) -> float:
        """How much there is to read, as far as that shows without decoding; batches are of similar lengths."""

    def check(self, key: UtteranceKey, utterance: Utterance) -> None:  # noqa: B027 - some can only try
        """Refuse an utterance as :meth:`read` would, as far as that shows without decoding: training leaves it out.

        Raises:
            MediaError: There is nothing to be had.
        """

    @abstractmethod
    def read(self, key: UtteranceKey, utterance: Utterance) -> Any:  # noqa: ANN401 - what collate takes
        """The media of one utterance.

        Raises:
            MediaError: There is nothing to be had; its reason is recorded.
        """

    @abstractmethod
    def collate(self, keys: Sequence[UtteranceKey], samples: Sequence[Any]) -> Any:  # noqa: ANN401 - the task's inputs
        """The inputs of a batch, from at least one utterance."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """What decides the content of what is read, as plain values."""


class SoundReader(Reader):
    """The sound of utterances, for an audio encoder.

    Args:
        max_seconds: How much of a clip is read at most.
        time_limit: Seconds by which decoding may lag behind real time before the clip counts as broken.
    """

    def __init__(self, max_seconds: float = LONGEST, time_limit: float = 60.0) -> None:
        self.max_seconds = max_seconds
        self.time_limit = time_limit

    def seconds(self, utterance: Utterance) -> float:
        """The length of the sound."""
        return _seconds(utterance.sound, utterance, self.max_seconds)

    def check(self, key: UtteranceKey, utterance: Utterance) -> None:
        """Refuse an utterance without a file."""
        _there(utterance.sound, "sound")

    def read(self, key: UtteranceKey, utterance: Utterance) -> Tensor:
        """The samples ``(S,)``."""
        return read_sound(_beginning(utterance.sound, self.max_seconds), time_limit=self.time_limit)

    def collate(self, keys: Sequence[UtteranceKey], samples: Sequence[Tensor]) -> SoundBatch:
        """The samples side by side."""
        return SoundBatch.pad(keys, samples)

    def provenance(self) -> dict[str, Any]:
        """How much is read of a clip."""
        return {"max_seconds": self.max_seconds}


class FaceReader(Reader):
    """Frames of the speaking face, for a visual encoder: evenly spread over the time in which it is visible.

    Args:
        faces: Store of kind ``faces``: the face tracks of every utterance.
        speaker: Store of kind ``speaker``: which of them speaks. ``first`` takes the first face that appears, the
            largest of several: the ablation without identification of the speaker.
        frames: Frames per utterance; a face that is visible for fewer gives fewer. Default: as many as the task's
            encoder reads.
        size: Height and width of a frame in pixels. Default: that of the task's encoder.
        margin: Share of the face's side that is added to it.
        time_limit: Seconds by which decoding may lag behind real time before the clip counts as broken.
    """

    def __init__(
        self,
        faces: str | Path,
        speaker: str | Path = FIRST_FACE,
        frames: int | None = None,
        size: int | None = None,
        margin: float = 0.2,
        time_limit: float = 60.0,
    ) -> None:
        self._paths = (faces, speaker)
        self.frames = frames
        self.size = size
        self.margin = margin
        self.time_limit = time_limit
        self.faces: FeatureStore
        self.speaker: FeatureStore | None = None

    def prepare(self, task: L.LightningModule) -> None:
        """Open the stores and ask the encoder what it reads.

        Raises:
            StoreError: A store is of another kind.
            ValueError: Number or size of the frames is neither given nor known to the encoder.
        """
        faces, speaker = self._paths
        self.faces = FeatureStore(faces)
        self.faces.require(kind="faces")
        if speaker != FIRST_FACE:
            self.speaker = FeatureStore(speaker)
            self.speaker.require(kind="speaker")
        self.frames, self.size = _frames_of(self, task)

    def seconds(self, utterance: Utterance) -> float:
        """Nothing: all utterances give as many frames."""
        return 0.0

    def check(self, key: UtteranceKey, utterance: Utterance) -> None:
        """Refuse an utterance without a file, and one whose speaker is not visible."""
        self._chosen(key)
        _there(utterance.picture, "video")

    def read(self, key: UtteranceKey, utterance: Utterance) -> Tensor:
        """The frames ``(T, 3, size, size)`` uint8."""
        assert self.frames is not None and self.size is not None, "prepare() comes first"
        track = self._chosen(key)
        places = torch.tensor(evenly(len(track), min(self.frames, len(track))))
        wanted, boxes = track.first + places, track.boxes[places]
        clip = _there(utterance.picture, "video")
        crops = [
            crop_faces(frame.images, boxes[wanted == frame.first] * frame.scale, self.size, margin=self.margin)
            for frame in frames_at(clip, wanted.tolist(), time_limit=self.time_limit)
        ]
        if len(crops) == len(wanted):
            return torch.cat(crops)
        raise MediaError(
            f"{clip.path} ends before the face of {key} does: the store {self.faces.path} is of other clips. "
            "Track the faces again.",
            "faces of another clip",
        )

    def _chosen(self, key: UtteranceKey) -> FaceTrack:
        """The chosen track."""
        for store in (self.faces, self.speaker):
            if store is not None and key not in store:
                [reason] = store.why_missing([key]).values()
                raise MediaError(f"{store.path} has no {key}.", reason)
        number = 0 if self.speaker is None else SpeakerChoice.from_row(self.speaker[key]).track
        track = track_of(self.faces.sequence(key), number)
        if track is None:
            raise MediaError(f"{key} shows no face that could be the speaker's.", "speaker not visible")
        return track

    def collate(self, keys: Sequence[UtteranceKey], samples: Sequence[Tensor]) -> FaceBatch:
        """The frames side by side."""
        return FaceBatch.pad(keys, samples)

    def provenance(self) -> dict[str, Any]:
        """Whose frames they are, how many and how large."""
        return {
            "faces": self.faces.digest,
            "speaker": FIRST_FACE if self.speaker is None else self.speaker.digest,
            "frames": self.frames,
            "size": self.size,
            "margin": self.margin,
        }


class FrameReader(Reader):
    """Whole frames, for a visual encoder: evenly spread over the utterance, their middle square alone.

    What TelME reads (arXiv 2401.12987, section 3.2.2). To read the face of the speaker, use :class:`FaceReader`.

    Args:
        frames: Frames per utterance; a clip that is shorter gives fewer. Default: as many as the task's encoder reads.
        size: Height and width of a frame in pixels. Default: that of the task's encoder.
        max_seconds: How much of a clip is read at most.
        time_limit: Seconds by which decoding may lag behind real time before the clip counts as broken.
    """

    def __init__(
        self,
        frames: int | None = None,
        size: int | None = None,
        max_seconds: float = LONGEST,
        time_limit: float = 60.0,
    ) -> None:
        self.frames = frames
        self.size = size
        self.max_seconds = max_seconds
        self.time_limit = time_limit

    def prepare(self, task: L.LightningModule) -> None:
        """Ask the encoder what it reads.

        Raises:
            ValueError: Number or size of the frames is neither given nor known to the encoder.
        """
        self.frames, self.size = _frames_of(self, task)

    def seconds(self, utterance: Utterance) -> float:
        """The length of the clip: all of it is decoded."""
        return _seconds(utterance.picture, utterance, self.max_seconds)

    def check(self, key: UtteranceKey, utterance: Utterance) -> None:
        """Refuse an utterance without a file."""
        _there(utterance.picture, "video")

    def read(self, key: UtteranceKey, utterance: Utterance) -> Tensor:
        """The frames ``(T, 3, size, size)`` uint8."""
        assert self.frames is not None and self.size is not None, "prepare() comes first"
        clip = _beginning(utterance.picture, self.max_seconds, "video")
        end = min(clip.start + self.max_seconds if clip.end is None else clip.end, probe(clip.path).duration)
        step = max(end - clip.start, 1 / FRAME_RATE) / self.frames
        # A grid with a step for every wanted frame, from the middle of the first step on: no other frame is held.
        middles = replace(clip, start=clip.start + step / 2)
        return torch.cat(
            [
                crop_faces(chunk.images, _middle(chunk.images), self.size, margin=0.0)
                for chunk in read_frames(middles, fps=1 / step, chunk=self.frames, time_limit=self.time_limit)
            ]
        )

    def collate(self, keys: Sequence[UtteranceKey], samples: Sequence[Tensor]) -> FaceBatch:
        """The frames side by side."""
        return FaceBatch.pad(keys, samples)

    def provenance(self) -> dict[str, Any]:
        """How many frames and how large, and how much is read of a clip."""
        return {name: getattr(self, name) for name in ("frames", "size", "max_seconds")}


def _middle(images: Tensor) -> Tensor:
    """The largest square in the middle of images ``(T, 3, H, W)``, as boxes ``(T, 4)``."""
    height, width = images.shape[-2:]
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return torch.tensor([left, top, left + side, top + side]).expand(len(images), 4)


def _frames_of(reader: FaceReader | FrameReader, task: L.LightningModule) -> tuple[int, int]:
    """How many frames a reader is to give, and of which size."""
    encoder = getattr(task, "encoder", None)
    frames = reader.frames or getattr(encoder, "frames", None)
    size = reader.size or getattr(encoder, "size", None)
    if not frames or not size:
        raise ValueError(
            f"How many frames of which size {type(reader).__name__} is to cut, {type(encoder).__name__} does not tell: "
            "give frames and size."
        )
    return frames, size


class TrackReader(Reader):
    """Face tracks, mouth crops and log-mel of utterances, for the stores that LipSyncNet and the visual encoder read.

    A clip is decoded once: its frames are held until its faces are known. Of a clip whose frames take more
    than ``held_bytes`` they are decoded again for the crops, so memory stays bounded.

    Args:
        tracker: Finds and follows the faces.
        crop_size: Height and width of a mouth crop in pixels.
        margin: Share of the mouth region's side that is added to it.
        max_height: Height to which larger frames are scaled down.
        max_seconds: How much of a clip is read at most.
        time_limit: Seconds by which decoding may lag behind real time before the clip counts as broken.
        held_bytes: Most memory that is spent to save a second decoding.
    """

    def __init__(
        self,
        tracker: FaceTracker,
        crop_size: int = 32,
        margin: float = 0.2,
        max_height: int = 480,
        max_seconds: float = LONGEST,
        time_limit: float = 60.0,
        held_bytes: int = 2**28,
    ) -> None:
        self.tracker = tracker
        self.crop_size = crop_size
        self.margin = margin
        self.max_height = max_height
        self.max_seconds = max_seconds
        self.time_limit = time_limit
        self.held_bytes = held_bytes

    def seconds(self, utterance: Utterance) -> float:
        """The length of the clip."""
        return _seconds(utterance.picture or utterance.sound, utterance, self.max_seconds)

    def read(self, key: UtteranceKey, utterance: Utterance) -> dict[Kind, Tensor | str]:
        """Rows of each kind, or the reason why there are none."""
        rows: dict[Kind, Tensor | str] = {}
        try:
            rows["faces"], rows["crops"] = self._seen(_beginning(utterance.picture, self.max_seconds, "video"))
        except MediaError as error:
            rows["faces"] = rows["crops"] = error.reason
        try:
            sound = read_sound(_beginning(utterance.sound, self.max_seconds), time_limit=self.time_limit)
            rows["sound"] = _log_mel()(sound)
        except MediaError as error:
            rows["sound"] = error.reason
        return rows

    def _seen(self, clip: Clip) -> tuple[Tensor, Tensor]:
        frames = _Held(clip, self.max_height, self.time_limit, self.held_bytes)
        tracks = self.tracker(frames.first_time())
        return tracks_to_rows(tracks), track_crops(frames.again(), tracks, self.crop_size, margin=self.margin)

    def collate(
        self, keys: Sequence[UtteranceKey], samples: Sequence[Mapping[Kind, Tensor | str]]
    ) -> dict[Kind, Sequences]:
        """What belongs into each of the three stores."""
        found: dict[Kind, Sequences] = {}
        for kind in samples[0]:
            given = list(zip(keys, (sample[kind] for sample in samples), strict=True))
            rows = {key: part for key, part in given if isinstance(part, Tensor)}
            missing = {key: part for key, part in given if isinstance(part, str)}
            found[kind] = Sequences(list(rows), list(rows.values()), missing)
        return found

    def provenance(self) -> dict[str, Any]:
        """The tracker's, and what was cut out."""
        names = ("crop_size", "margin", "max_height", "max_seconds")
        return {**self.tracker.provenance(), **{name: getattr(self, name) for name in names}}


@cache
def _log_mel() -> LogMel:
    return LogMel()


class _Held:
    """The frames of a clip, read twice: from memory the second time, if they are not too many."""

    def __init__(self, clip: Clip, max_height: int, time_limit: float, held_bytes: int) -> None:
        self.clip = clip
        self.max_height = max_height
        self.time_limit = time_limit
        self.left = held_bytes
        self.held: list[Frames] = []

    def first_time(self) -> Iterator[Frames]:
        for chunk in self._decoded():
            self.left -= chunk.images.nbytes
            self.held.append(chunk)
            if self.left < 0:
                self.held.clear()
            yield chunk

    def again(self) -> Iterable[Frames]:
        return self.held if self.left >= 0 else self._decoded()

    def _decoded(self) -> Iterator[Frames]:
        return ahead(read_frames(self.clip, max_height=self.max_height, time_limit=self.time_limit))


def _there(clip: Clip | None, word: str) -> Clip:
    if clip is None:
        raise MediaError(f"The corpus names no file with {word} for this utterance.", f"no file with {word}")
    return clip


def _beginning(clip: Clip | None, seconds: float, word: str = "sound") -> Clip:
    """The clip, or as much of its beginning."""
    clip = _there(clip, word)
    end = clip.start + seconds
    return replace(clip, end=end if clip.end is None else min(clip.end, end))


def _seconds(clip: Clip | None, utterance: Utterance, most: float) -> float:
    """How long a clip is: as its own times or those of the utterance say, else as the file does."""
    if clip is None:
        return 0.0
    start, end = (clip.start, clip.end) if clip.end is not None else (utterance.start, utterance.end)
    if start is not None and end is not None:
        return min(max(end - start, 0.0), most)
    try:
        return min(max(probe(clip.path).duration - clip.start, 0.0), most)
    except MediaError:
        return 0.0
