"""Augmentation of mouths and sounds, so that a network learns their motion, not their appearance."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SyncAugmentation(nn.Module):
    """Changes the appearance of windows of mouths and sounds. Each window changes as a whole, so its motion stays.

    Random numbers come from PyTorch's global generator, so a seed makes them reproducible.

    Args:
        shift: Standard deviation of the position of the crop, as a share of its half width.
        scale: Standard deviation of the logarithm of its size.
        angle: Standard deviation of its rotation, in radians.
        flip: Probability of a mirrored mouth.
        light: Standard deviation of the logarithm of the contrast; the brightness moves along, by up to as much of
            the full range.
        noise: Largest standard deviation of the noise of the frames, of 255.
        gain: Standard deviation of the sound's level, in nepers of power; its spectrum tilts by as much.
        hum: Noise floor of the sound, drawn from 4 to ``4 + hum`` nepers below its loudest band.
    """

    def __init__(
        self,
        shift: float = 0.12,
        scale: float = 0.1,
        angle: float = 0.08,
        flip: float = 0.5,
        light: float = 0.2,
        noise: float = 3.0,
        gain: float = 1.0,
        hum: float = 8.0,
    ) -> None:
        super().__init__()
        self.shift = shift
        self.scale = scale
        self.angle = angle
        self.flip = flip
        self.light = light
        self.noise = noise
        self.gain = gain
        self.hum = hum

    def forward(self, crops: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Other looks of mouths ``(V, T, S, S)`` in 0..255, and of log-mels ``(A, M, bands)``; both as floats."""
        return self._frames(crops.float()), self._sound(sound.float())

    def _frames(self, crops: Tensor) -> Tensor:
        count, device = len(crops), crops.device
        turn = self.angle * torch.randn(count, device=device)
        size = (self.scale * torch.randn(count, device=device)).exp()
        side = 1 - 2 * (torch.rand(count, device=device) < self.flip).float()
        place = self.shift * torch.randn(2, count, device=device)
        theta = torch.stack([size * turn.cos() * side, -size * turn.sin(), place[0]], dim=-1)
        theta = torch.stack([theta, torch.stack([size * turn.sin() * side, size * turn.cos(), place[1]], -1)], dim=1)
        where = F.affine_grid(theta, list(crops.shape), align_corners=False)
        crops = F.grid_sample(crops, where, padding_mode="border", align_corners=False)
        contrast = (self.light * torch.randn(count, 1, 1, 1, device=device)).exp()
        brightness = 127 * self.light * (2 * torch.rand(count, 1, 1, 1, device=device) - 1)
        grain = self.noise * torch.rand(count, 1, 1, 1, device=device) * torch.randn_like(crops)
        return (crops * contrast + brightness + grain).clamp(0, 255)

    def _sound(self, sound: Tensor) -> Tensor:
        level, tilt = self.gain * torch.randn(2, len(sound), 1, 1, device=sound.device)
        sound = sound + level + tilt * torch.linspace(-1, 1, sound.shape[-1], device=sound.device)
        depth = 4 + self.hum * torch.rand(len(sound), 1, 1, device=sound.device)
        return torch.logaddexp(sound, sound.amax((1, 2), keepdim=True) - depth)
