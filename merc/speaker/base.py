"""The base class of networks that compare lips with a sound."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class SyncNetwork(nn.Module, ABC):
    """Base of networks that map lips and sound to unit vectors, close if they belong together.

    :class:`merc.tasks.LipSyncTask` trains any of them, :class:`merc.speaker.SyncScorer` chooses speakers with it. The
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
