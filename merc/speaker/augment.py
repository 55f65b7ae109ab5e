"""Augmentation of mouths and sounds, so that a network learns how they move together, not how they look and sound."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.media.rates import MEL_PER_FRAME


class SyncAugmentation(nn.Module):
    """Changes the looks of windows of mouths and sounds, and keeps what moves them together.

    Every window changes on its own: its camera, light and person as a whole, the position of the head slowly over
    time. Random numbers come from PyTorch's global generator, so a seed makes them reproducible.

    Args:
        shift: Standard deviation of the position of the crop, as a share of its half width.
        scale: Standard deviation of the logarithm of its size.
        angle: Standard deviation of its rotation, in radians.
        turn: Standard deviation of the logarithm of its width alone, and of its shear: what a turned head does.
        drift: Standard deviation of what position, size and rotation change within a window, as a share of how much
            they vary between windows: a moving head, or a tracker that does not follow it well.
        flip: Probability of a mirrored mouth.
        light: Standard deviation of the logarithms of contrast and gamma; the brightness moves along, by up to as much
            of the full range.
        noise: Largest standard deviation of the noise of the frames, of 255.
        coarse: Probability of a lower resolution, down to a third: a small face, or a strongly compressed one.
        stutter: Probability that a window repeats frames, as films do whose rate was converted.
        occlusion: Probability that something grey covers a part of the mouth, up to half of its width and height.
        speed: How much faster or slower speech gets, drawn from 1 / (1 + speed) to 1 + speed. Windows become shorter,
            by ``1 / (1 + speed)``: draw longer ones.
        gain: Standard deviation of the sound's level, in nepers of power; its spectrum tilts by as much.
        voice: Standard deviation of the shift of its spectrum, in mel bands: another throat.
        hum: Noise floor of the sound, drawn from 4 to ``4 + hum`` nepers below its loudest band; 0 for none.
        babble: Probability that the sound of another window is heard as well, 1 to 4 nepers below.
        echo: Probability of reverberation, of up to 0.3 s.
        masks: Probability of each of two masks: a band of up to 16 mel bands, and a span of up to 0.12 s, which fall to
            the mean (SpecAugment, arXiv 1904.08779).
    """

    def __init__(
        self,
        shift: float = 0.12,
        scale: float = 0.1,
        angle: float = 0.08,
        turn: float = 0.1,
        drift: float = 0.3,
        flip: float = 0.5,
        light: float = 0.2,
        noise: float = 3.0,
        coarse: float = 0.3,
        stutter: float = 0.2,
        occlusion: float = 0.15,
        speed: float = 0.0,
        gain: float = 1.0,
        voice: float = 3.0,
        hum: float = 8.0,
        babble: float = 0.2,
        echo: float = 0.3,
        masks: float = 0.3,
    ) -> None:
        super().__init__()
        self.shift = shift
        self.scale = scale
        self.angle = angle
        self.turn = turn
        self.drift = drift
        self.flip = flip
        self.light = light
        self.noise = noise
        self.coarse = coarse
        self.stutter = stutter
        self.occlusion = occlusion
        self.speed = speed
        self.gain = gain
        self.voice = voice
        self.hum = hum
        self.babble = babble
        self.echo = echo
        self.masks = masks

    def forward(self, crops: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Other looks of mouths and sounds.

        Args:
            crops: ``(V, T, S, S)`` mouths in 0..255; the first A belong to the sounds.
            sound: ``(A, 4 T, bands)`` log-mels.

        Returns:
            Mouths ``(V, T', S, S)`` and log-mels ``(A, 4 T', bands)``, as floats, with ``T' = T / (1 + speed)``.
        """
        crops, sound = crops.float(), sound.float()
        if self.speed:
            crops, sound = self._at_other_speed(crops, sound)
        return self._frames(crops), self._sound(sound)

    def _at_other_speed(self, crops: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
        """Faster or slower speech; a mouth keeps its sound."""
        count, length = len(crops), crops.shape[1]
        kept = int(length / (1 + self.speed))
        spread = torch.log(torch.tensor(1 + self.speed))
        factor = ((2 * torch.rand(count, device=crops.device) - 1) * spread).exp()
        start = (length - kept * factor) * torch.rand(count, device=crops.device)
        frames = start[:, None] + (torch.arange(kept, device=crops.device) + 0.5) * factor[:, None] - 0.5
        heard = len(sound)
        steps = torch.arange(MEL_PER_FRAME * kept, device=crops.device) + 0.5
        mels = MEL_PER_FRAME * start[:heard, None] + steps * factor[:heard, None] - 0.5
        return _read(crops, frames), _read(sound, mels)

    def _frames(self, crops: Tensor) -> Tensor:
        count, length, device = len(crops), crops.shape[1], crops.device

        def varied(deviation: float) -> Tensor:
            """A value per window and frame, ``(V, T)``, that wanders a little around its own mean."""
            return deviation * (torch.randn(count, 1, device=device) + self.drift * _wander(count, length, device))

        turn, size = varied(self.angle), varied(self.scale).exp()
        wide, shear = size * varied(self.turn).exp(), varied(self.turn)
        side = 1 - 2 * (torch.rand(count, 1, device=device) < self.flip).float()
        across = torch.stack([wide * turn.cos() * side, size * (shear - turn.sin()), varied(self.shift)], dim=-1)
        down = torch.stack([wide * turn.sin() * side, size * turn.cos(), varied(self.shift)], dim=-1)
        theta = torch.stack([across, down], dim=2).flatten(0, 1)
        single = crops.flatten(0, 1)[:, None]
        where = F.affine_grid(theta, list(single.shape), align_corners=False)
        crops = F.grid_sample(single, where, padding_mode="border", align_corners=False).view(crops.shape)
        crops = self._stuttering(self._occluded(self._coarser(crops)))
        contrast, gamma = (self.light * torch.randn(2, count, 1, 1, 1, device=device)).exp()
        brightness = 127 * self.light * (2 * torch.rand(count, 1, 1, 1, device=device) - 1)
        grain = self.noise * torch.rand(count, 1, 1, 1, device=device) * torch.randn_like(crops)
        lit = 255 * (crops.clamp(0, 255) / 255).pow(gamma)
        looks: Tensor = (lit * contrast + brightness + grain).clamp(0, 255)
        return looks

    def _coarser(self, crops: Tensor) -> Tensor:
        level = torch.where(torch.rand(len(crops), device=crops.device) < self.coarse, 1.0, 0.0)
        level = level * torch.randint(2, 4, (len(crops),), device=crops.device)
        for factor in (2, 3):
            chosen = (level == factor).nonzero()[:, 0]
            if len(chosen):
                size = crops.shape[-1] // factor
                small = F.interpolate(crops[chosen], (size, size), mode="area")
                large = F.interpolate(small, crops.shape[-2:], mode="bilinear", align_corners=False)
                crops = crops.index_copy(0, chosen, large)
        return crops

    def _occluded(self, crops: Tensor) -> Tensor:
        count, size, device = len(crops), crops.shape[-1], crops.device
        covered = torch.rand(count, device=device) < self.occlusion
        place = torch.rand(2, count, 1, device=device)
        reach = 0.05 + 0.2 * torch.rand(2, count, 1, device=device)
        pixel = (torch.arange(size, device=device) + 0.5) / size
        inside = (pixel - place).abs() < reach
        area = (inside[0, :, :, None] & inside[1, :, None, :] & covered[:, None, None])[:, None]
        return torch.where(area, 255 * torch.rand(count, 1, 1, 1, device=device), crops)

    def _stuttering(self, crops: Tensor) -> Tensor:
        count, length, device = len(crops), crops.shape[1], crops.device
        stutters = torch.rand(count, 1, device=device) < self.stutter
        again = (torch.rand(count, length, device=device) < 0.2) & stutters
        frame = torch.arange(length, device=device).expand(count, length)
        index = (frame - again.long()).clamp(min=0)
        return crops.gather(1, index[:, :, None, None].expand_as(crops))

    def _sound(self, sound: Tensor) -> Tensor:
        count, _, bands = sound.shape
        device = sound.device

        def some(probability: float) -> Tensor:
            return torch.rand(count, 1, 1, device=device) < probability

        if self.voice and count:
            moved = torch.arange(bands, device=device) + self.voice * torch.randn(count, 1, device=device)
            sound = _read(sound.mT, moved).mT
        if self.echo and count:
            sound = torch.where(some(self.echo), self._reverberant(sound), sound)
        if self.babble and count > 1:
            beside = sound.roll(1, 0) - sound.roll(1, 0).amax((1, 2), keepdim=True)
            depth = 1 + 3 * torch.rand(count, 1, 1, device=device)
            mixed = torch.logaddexp(sound, beside + sound.amax((1, 2), keepdim=True) - depth)
            sound = torch.where(some(self.babble), mixed, sound)
        level, tilt = self.gain * torch.randn(2, count, 1, 1, device=device)
        sound = sound + level + tilt * torch.linspace(-1, 1, bands, device=device)
        if self.hum and count:
            depth = 4 + self.hum * torch.rand(count, 1, 1, device=device)
            sound = torch.logaddexp(sound, sound.amax((1, 2), keepdim=True) - depth)
        mean = sound.mean((1, 2), keepdim=True)
        for axis, widest in ((2, 16), (1, 12)):
            size = sound.shape[axis]
            width = widest * torch.rand(count, 1, device=device)
            start = (size - width) * torch.rand(count, 1, device=device)
            place = torch.arange(size, device=device)
            inside = (place >= start) & (place < start + width)
            sound = torch.where(inside.unsqueeze(3 - axis) & some(self.masks), mean, sound)
        return sound

    @staticmethod
    def _reverberant(sound: Tensor) -> Tensor:
        """The power of a sound and of its echoes, which fall by 60 dB within 0.1 to 0.3 s, at a third of the power."""
        count, length, bands = sound.shape
        taps = 30
        seconds = 0.1 + 0.2 * torch.rand(count, 1, device=sound.device)
        tail = (-13.8 * torch.arange(taps, device=sound.device) / 100 / seconds).exp()  # 60 dB are 13.8 nepers
        tail = torch.cat([torch.ones_like(tail[:, :1]), 0.3 * tail[:, 1:]], dim=1)
        top = sound.amax((1, 2), keepdim=True)
        power = F.pad((sound - top).exp().mT.reshape(1, count * bands, length), (taps - 1, 0))
        kernels = tail.flip(1).repeat_interleave(bands, 0)[:, None]
        heard = F.conv1d(power, kernels, groups=count * bands).view(count, bands, length)
        return heard.clamp(min=1e-9).log().mT + top


def _read(values: Tensor, places: Tensor) -> Tensor:
    """Values ``(B, T, ...)`` at fractional places ``(B, T')`` of their second axis, between neighbours linearly."""
    last = values.shape[1] - 1
    places = places.clamp(0, last)
    low = places.floor().long().clamp(max=max(0, last - 1))
    share = (places - low).view(*places.shape, *(1,) * (values.ndim - 2)).to(values.dtype)
    rows = torch.arange(len(values), device=values.device)[:, None]
    return values[rows, low] * (1 - share) + values[rows, (low + 1).clamp(max=last)] * share


def _wander(count: int, length: int, device: torch.device) -> Tensor:
    """Slow random motion ``(count, length)`` with a deviation of about 1: noise at five points, joined by lines."""
    points = torch.randn(count, 1, 5, device=device)
    return F.interpolate(points, length, mode="linear", align_corners=True)[:, 0]
