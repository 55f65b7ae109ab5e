"""A network that compares nothing: its traces stand in the pixels and in the mel bands, so that tests know them."""

import math

import torch
from torch import nn

from merc.speaker import MouthTrack, TraceNetwork

CHANNELS, SIZE = 4, 4


class ReadOff(TraceNetwork):
    """Traces are the first row of pixels and the first mel bands; the last pixel holds the log-odds."""

    def __init__(self):
        super().__init__(SIZE)
        self.scale = nn.Parameter(torch.tensor(1 / 32), requires_grad=False)

    def trace_video(self, crops):
        level = (crops.float() - 128) * self.scale
        return level[:, :, 0].mT, level[:, :, -1, -1].mean(1)

    def trace_audio(self, sound):
        return sound[:, ::4, :CHANNELS].mT


def signal(seed, frames, smooth=0.0):
    """``(CHANNELS, frames)`` noise with deviation 1, whose neighbours correlate by ``smooth``."""
    drawn = torch.Generator().manual_seed(seed)
    noise = torch.randn(CHANNELS, frames, generator=drawn)
    for frame in range(1, frames):
        noise[:, frame] = smooth * noise[:, frame - 1] + math.sqrt(1 - smooth**2) * noise[:, frame]
    return noise


def mouths(traces, first=0, odds=3.0):
    """The track whose traces those are."""
    crops = torch.full((traces.shape[1], SIZE, SIZE), 128 + 32 * odds)
    crops[:, 0] = 128 + 32 * traces.T
    return MouthTrack(first, crops.round().clamp(0, 255).byte())


def heard(traces):
    """The log-mel ``(4 M, 80)`` whose traces those are."""
    sound = torch.zeros(4 * traces.shape[1], 80)
    sound[:, :CHANNELS] = traces.T.repeat_interleave(4, 0)
    return sound


def like(traces, correlation, seed):
    """A signal that correlates with another one as much as that."""
    return correlation * traces + math.sqrt(1 - correlation**2) * signal(seed, traces.shape[1])
