"""LipSyncNet in the shape of the paper: both encoders pool over time and end in 256 numbers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from merc.media.rates import MEL_BANDS
from merc.speaker.base import SyncNetwork, require_crop_size


class PooledLipSyncNet(SyncNetwork):
    r"""A 3D CNN for the mouth and a 2D CNN for the sound, pooled over time (arXiv 2511.13731, section 3.2).

    .. math:: f_v = \frac{W_v \bar z_v}{\lVert W_v \bar z_v \rVert}, \quad
        f_a = \frac{W_a \bar z_a}{\lVert W_a \bar z_a \rVert}, \qquad f_v, f_a \in R^{256},

    where :math:`\bar z` is the mean over time of what the convolutions give. This is what the paper says: there is no
    head for moving lips, and a window may have any length. The paper does not give layers, kernels or widths; those
    here are merc's. :class:`merc.speaker.LipSyncNet` keeps the time axis instead, and tells more faces apart.

    Args:
        size: Height and width S of the mouth crops, in pixels; a multiple of 8.
        dim: Numbers of a vector.
        width: Channels of the first convolution; the later ones have two and four times as many.
        dropout: Dropout before the linear layers, in 0..1.

    Raises:
        ValueError: The size is not a multiple of 8, or below 16.
    """

    def __init__(self, size: int = 32, dim: int = 256, width: int = 32, dropout: float = 0.2) -> None:
        super().__init__(size)
        require_crop_size("PooledLipSyncNet", size)
        self.dim = dim
        self.width = width
        self.dropout = dropout
        widths = [width, 2 * width, 4 * width]
        self.mouth = nn.Sequential(
            nn.Conv3d(1, widths[0], (3, 5, 5), (1, 2, 2), (1, 2, 2)),
            *_after(widths[0]),
            nn.Conv3d(widths[0], widths[1], 3, (1, 2, 2), 1),
            *_after(widths[1]),
            nn.Conv3d(widths[1], widths[2], 3, (1, 2, 2), 1),
            *_after(widths[2]),
        )
        self.voice = nn.Sequential(
            nn.Conv2d(1, widths[0], 5, 2, 2),
            *_after(widths[0]),
            nn.Conv2d(widths[0], widths[1], 3, 2, 1),
            *_after(widths[1]),
            nn.Conv2d(widths[1], widths[2], 3, (1, 2), 1),
            *_after(widths[2]),
        )
        self.drop = nn.Dropout(dropout)
        self.mouth_vector = nn.Linear(widths[2] * (size // 8) ** 2, dim)
        self.voice_vector = nn.Linear(widths[2] * (MEL_BANDS // 8), dim)

    def embed_video(self, crops: Tensor) -> tuple[Tensor, None]:
        """Unit vectors ``(B, dim)`` of windows of a mouth ``(B, T, S, S)``; nothing says whether the lips speak."""
        grey = crops.to(self.mouth_vector.weight.dtype) / 127.5 - 1
        return _unit(self.mouth_vector(self.drop(self.mouth(grey[:, None]).mean(2).flatten(1)))), None

    def embed_audio(self, sound: Tensor) -> Tensor:
        """Unit vectors ``(B, dim)`` of windows of log-mel ``(B, 4 T, 80)``."""
        level = (sound.to(self.voice_vector.weight.dtype) + 4) / 4  # speech is at about -12..4
        return _unit(self.voice_vector(self.drop(self.voice(level[:, None]).mean(2).flatten(1))))


def _after(channels: int) -> tuple[nn.Module, nn.Module]:
    """What follows a convolution: a norm that does not look at the rest of the batch, and a ReLU."""
    return nn.GroupNorm(1, channels), nn.ReLU()


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.float() if vectors.element_size() < 4 else vectors, dim=-1)
