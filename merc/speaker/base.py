"""The base classes of networks that compare lips with a sound, and of scorers that choose the speaker by them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, Self, TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from merc.media.crops import rows_to_crops
from merc.media.rates import MEL_PER_FRAME

if TYPE_CHECKING:
    from merc.media.tracks import FaceTrack
    from merc.speaker.choose import SpeakerChoice


class SyncNetwork(nn.Module, ABC):
    """Base of networks that map lips and sound to unit vectors, close if they belong together.

    :class:`merc.tasks.LipSyncTask` trains any of them, a :class:`SpeakerScorer` chooses speakers with it. The
    vectors of a window must not depend on the other windows of a call.

    Args:
        size: Height and width S of the mouth crops, in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @abstractmethod
    def embed_video(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Encode windows of a mouth.

        Args:
            crops: ``(B, T, S, S)`` grey levels in 0..255, of any type; T at least 2.

        Returns:
            Unit vectors ``(B, d)``, in float32 or wider, and ``(B,)`` log-odds that the lips speak at all; ``None`` if
            the network does not judge that.
        """

    @abstractmethod
    def embed_audio(self, sound: Tensor) -> Tensor:
        """Encode windows of sound.

        Args:
            sound: ``(B, 4 T, 80)`` log-mel, natural logarithm, 100 rows per second.

        Returns:
            Unit vectors ``(B, d)``, in float32 or wider.
        """


def require_crop_size(network: str, size: int) -> None:
    """Refuse a size of crops that three halvings do not divide.

    Raises:
        ValueError: The size is not a multiple of 8, or below 16.
    """
    if size < 16 or size % 8:
        raise ValueError(f"{network}: size is {size}, expected a multiple of 8, at least 16.")


class TraceNetwork(SyncNetwork):
    """Base of networks that keep the time axis: they map lips and sound to traces, with one value per frame.

    A vector is what the traces of a window do around their mean, scaled to length 1, so the scalar product of two is a
    correlation over time.
    """

    @abstractmethod
    def trace_video(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Traces ``(B, C, T)`` of mouths ``(B, T, S, S)``, and ``(B,)`` log-odds that the lips speak, or ``None``."""

    @abstractmethod
    def trace_audio(self, sound: Tensor) -> Tensor:
        """Traces ``(B, C, T)`` of log-mels ``(B, 4 T, 80)``."""

    def embed_video(self, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """Unit vectors ``(B, C * T)`` of the traces, and the log-odds."""
        traces, activity = self.trace_video(crops)
        return self.unit(traces), activity

    def embed_audio(self, sound: Tensor) -> Tensor:
        """Unit vectors ``(B, C * T)`` of the traces."""
        return self.unit(self.trace_audio(sound))

    @staticmethod
    def unit(traces: Tensor) -> Tensor:
        """Centre traces ``(B, C, T)`` over time and scale them to unit vectors ``(B, C * T)``.

        Computed in float32 or wider.
        """
        traces = traces.float() if traces.element_size() < 4 else traces
        return F.normalize((traces - traces.mean(-1, keepdim=True)).flatten(1), dim=-1)


@dataclass(frozen=True, slots=True, eq=False)
class MouthTrack:
    """The mouth of one face over a part of a clip.

    Args:
        first: The frame of the clip with which the track begins, on the grid of
            :data:`~merc.media.rates.FRAME_RATE` frames per second.
        crops: ``(T, S, S)`` uint8 grey mouth crops, one per frame.
    """

    first: int
    crops: Tensor

    @property
    def stop(self) -> int:
        """The frame after the last."""
        return self.first + len(self.crops)

    def lasts(self, frames: int, sound: Tensor) -> bool:
        """Whether it shows so many frames, and a log-mel ``(M, 80)`` of the clip lasts to the last of them."""
        return len(self.crops) >= frames and MEL_PER_FRAME * (self.first + frames - 1) <= len(sound)


def mouth_tracks(tracks: Sequence[FaceTrack], rows: Tensor) -> list[MouthTrack]:
    """The mouths of the face tracks of a clip, from the rows of a ``crops`` store.

    Args:
        tracks: K tracks of the clip.
        rows: ``(n, S * S)`` uint8, as :func:`merc.media.track_crops` gives them.

    Raises:
        ValueError: There is not one row for every frame of every track, or rows are no squares.
    """
    crops = rows_to_crops(rows, tracks)
    return [MouthTrack(track.first, own) for track, own in zip(tracks, crops, strict=True)]


class Trial(Protocol):
    """What a scorer keeps of a talking face and its sound, to compare them with others."""

    def cpu(self) -> Self:
        """The same in the memory of the CPU."""


TrialT = TypeVar("TrialT", bound=Trial)


class SpeakerScorer(ABC, Generic[TrialT]):
    """Base of what turns the vectors or traces of a network into a choice of the speaker.

    Attributes:
        spread: A difference of scores that counts as clear.
        enough: Clips of a validation from which on they calibrate the scorer.
    """

    spread: ClassVar[float]
    enough: ClassVar[int] = 2

    @abstractmethod
    def choose(
        self, network: SyncNetwork, tracks: Sequence[MouthTrack], sound: Tensor, calibration: Tensor | None = None
    ) -> SpeakerChoice:
        """Choose the track that speaks.

        Args:
            network: In evaluation mode.
            tracks: K tracks of a clip.
            sound: ``(M, 80)`` log-mel of the same clip.
            calibration: From :meth:`calibrated`. Default: :meth:`uncalibrated`.
        """

    @abstractmethod
    def uncalibrated(self) -> Tensor:
        """What is assumed before a validation."""

    @abstractmethod
    def calibrated(self, trials: Sequence[TrialT]) -> Tensor:
        """What two trials or more of the validation split say of scores, as a vector."""

    @abstractmethod
    def nobody(self, calibration: Tensor, tracks: int = 1) -> float:
        """The score above which the best of that many tracks, all visible throughout, is said to speak."""

    @abstractmethod
    def trial(self, network: SyncNetwork, track: MouthTrack, sound: Tensor, frames: int) -> TrialT | None:
        """Encode the first ``frames`` frames of a track with its sound; ``None`` if it is shorter.

        Args:
            network: In evaluation mode.
            track: The talking face.
            sound: ``(M, 80)`` log-mel of the clip.
            frames: Frames to use.
        """

    @abstractmethod
    def pairs(self, trials: Sequence[TrialT], calibration: Tensor) -> tuple[Tensor, Tensor]:
        """Score every sound against every face.

        Args:
            trials: N trials of one length.
            calibration: From :meth:`calibrated`.

        Returns:
            ``(N, N)``: row i holds the score of each face with sound i; ``(N,)`` the score of each sound with its own
            still face.
        """
