"""LipSyncNet: maps lips and sound of the same time span to vectors that are close if they belong together."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.media.rates import MEL_BANDS
from merc.speaker.base import TraceNetwork, require_crop_size


class LipSyncNet(TraceNetwork):
    r"""A 3D network for the mouth and a 2D network for the sound, with a common space, after arXiv 2511.13731.

    Both encoders keep the time axis: each gives ``channels`` traces with one value per frame. A vector is what the
    traces do around their mean in the window, flattened and L2-normalised,

    .. math:: f = \frac{z - \bar z}{\lVert z - \bar z \rVert}, \qquad z \in R^{channels \times T},

    so that the Euclidean distance of the paper is a correlation over time, :math:`d^2 = 2 - 2 \, corr(z_v, z_a)`,
    and neither a face nor a voice has a place of its own in the space. A window of 32 frames (1.28 s) gives the
    paper's 256 numbers with 8 channels. The time axis and the head below are merc's own;
    :class:`merc.speaker.PooledLipSyncNet` is the network as the paper describes it.

    The mouth enters as a grey image, normalised by the window's mean and contrast, the change from one frame to
    the next, and the size of that change; the sound as log-mel and as the root of the energy in each band.

    A head on the video encoder predicts whether the lips speak at all, independently of the sound. Against a still
    face, a correlation alone would decide by chance.

    Args:
        size: Height and width S of the mouth crops, in pixels; a multiple of 8.
        channels: Traces.
        width: Channels of the first convolution; the later ones have multiples of it.
        hidden: Channels of the temporal layers.
        dropout: Dropout before the temporal layers, in 0..1.

    Raises:
        ValueError: The size is not a multiple of 8, or below 16.
    """

    def __init__(
        self, size: int = 32, channels: int = 8, width: int = 16, hidden: int = 128, dropout: float = 0.2
    ) -> None:
        super().__init__(size)
        require_crop_size("LipSyncNet", size)
        self.channels = channels
        self.width = width
        self.hidden = hidden
        self.dropout = dropout
        self.mouth_features = nn.Sequential(
            nn.Conv3d(3, width, (3, 5, 5), (1, 2, 2), (1, 2, 2)),
            nn.GroupNorm(1, width),
            nn.GELU(),
            nn.Conv3d(width, 2 * width, (3, 3, 3), (1, 2, 2), (1, 1, 1)),
            nn.GroupNorm(1, 2 * width),
            nn.GELU(),
        )
        self.sound_features = nn.Sequential(
            nn.Conv2d(2, width, 5, 2, 2),
            nn.GroupNorm(1, width),
            nn.GELU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.GroupNorm(1, 2 * width),
            nn.GELU(),
            nn.AvgPool2d((1, 4)),
        )
        mouth_dim, sound_dim = 2 * width * (size // 8) ** 2, 2 * width * (MEL_BANDS // 16)
        self.lips = _temporal(mouth_dim, hidden, dropout)
        self.voice = _temporal(sound_dim, hidden, dropout)
        self.lips_trace = nn.Conv1d(hidden, channels, 3, padding=1)
        self.voice_trace = nn.Conv1d(hidden, channels, 3, padding=1)
        self.speaks = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def trace_video(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Encode windows of a mouth.

        Args:
            crops: ``(B, T, S, S)`` grey levels in 0..255, of any type; T at least 2.

        Returns:
            Traces ``(B, channels, T)``, and ``(B,)`` log-odds that the lips speak.
        """
        grey = crops.to(self.lips_trace.weight.dtype) / 255
        grey = grey - grey.mean((1, 2, 3), keepdim=True)
        grey = grey / (grey.square().mean((1, 2, 3), keepdim=True).sqrt() + 0.01)
        change = 3 * F.pad(grey[:, 1:] - grey[:, :-1], (0, 0, 0, 0, 1, 0))
        maps = self.mouth_features(torch.stack([grey, change, change.abs()], dim=1))
        # Frame by frame, as PyTorch has no 3D pooling in half precision on a CPU.
        pooled = torch.unflatten(F.avg_pool2d(maps.transpose(1, 2).flatten(0, 1), 2), 0, crops.shape[:2])
        hidden = self.lips(pooled.flatten(2).transpose(1, 2))
        summary = torch.cat([hidden.mean(-1), (hidden.var(-1, correction=0) + 1e-6).sqrt()], dim=-1)
        return self.lips_trace(hidden), self.speaks(summary).squeeze(-1)

    def trace_audio(self, sound: Tensor) -> Tensor:
        """Encode windows of sound.

        Args:
            sound: ``(B, 4 T, 80)`` log-mel, natural logarithm, 100 frames per second.

        Returns:
            Traces ``(B, channels, T)``.
        """
        sound = sound.to(self.voice_trace.weight.dtype)
        level = sound - sound.mean((1, 2), keepdim=True)
        energy = (level - level.amax((1, 2), keepdim=True)).exp()
        energy = (energy / energy.mean((1, 2), keepdim=True)).sqrt()
        maps = self.sound_features(torch.stack([level / 3, energy], dim=1))
        traces: Tensor = self.voice_trace(self.voice(maps.transpose(2, 3).flatten(1, 2)))
        return traces


def _temporal(inputs: int, hidden: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Conv1d(inputs, hidden, 5, padding=2), nn.GELU(), nn.Dropout(dropout))
