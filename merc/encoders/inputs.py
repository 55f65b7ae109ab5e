"""What the encoders of sound and of faces read: padded batches with a mask, one row per utterance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from merc.batch import FlatBatch
from merc.conversation import UtteranceKey


@dataclass(slots=True, eq=False)
class SoundBatch(FlatBatch):
    """The sound of B utterances, padded on the right to the longest of them.

    Args:
        keys: The B utterance keys.
        sound: ``(B, S)`` float samples in -1..1, mono, 16 kHz.
        mask: ``(B, S)``, true at real samples. Other values of ``sound`` are never read.
    """

    keys: Sequence[UtteranceKey]
    sound: Tensor
    mask: Tensor

    @classmethod
    def pad(cls, keys: Sequence[UtteranceKey], sounds: Sequence[Tensor]) -> SoundBatch:
        """Pad sounds ``(S_i,)`` to a batch."""
        return cls(keys, pad_sequence(list(sounds), batch_first=True), _mask([len(sound) for sound in sounds]))

    def rows(self) -> list[Tensor]:
        """The real samples of every utterance, float32.

        Raises:
            ValueError: Shapes or types are not those above, padding is not on the right, or an utterance has no sample
                or one that is not finite.
        """
        if self.sound.ndim != 2 or not self.sound.is_floating_point():
            raise ValueError(
                f"Sound must be floating-point samples (utterances, samples), found {self.sound.dtype} of shape "
                f"{tuple(self.sound.shape)}. Average the channels, and divide integer samples by their largest value."
            )
        lengths = _lengths(self.keys, self.mask, self.sound, "sample")
        broken = ((~self.sound.isfinite()) & self.mask).any(1)
        if broken.any():
            key = self.keys[int(broken.int().argmax())]
            raise ValueError(f"The sound of {key} contains NaN or infinite samples. Record the utterance as missing.")
        return [sound[:length].float() for sound, length in zip(self.sound, lengths, strict=True)]


@dataclass(slots=True, eq=False)
class FaceBatch(FlatBatch):
    """The face crops of B utterances, evenly sampled over each, padded on the right to the most frames.

    Args:
        keys: The B utterance keys.
        frames: ``(B, T, 3, H, W)`` uint8, RGB.
        mask: ``(B, T)``, true at real frames. Other values of ``frames`` are never read.
    """

    keys: Sequence[UtteranceKey]
    frames: Tensor
    mask: Tensor

    @classmethod
    def pad(cls, keys: Sequence[UtteranceKey], clips: Sequence[Tensor]) -> FaceBatch:
        """Pad clips ``(T_i, 3, H, W)`` of one size to a batch."""
        return cls(keys, pad_sequence(list(clips), batch_first=True), _mask([len(clip) for clip in clips]))

    def rows(self) -> list[Tensor]:
        """The real frames of every utterance.

        Raises:
            ValueError: Shapes or types are not those above, padding is not on the right, or an utterance has no frame.
        """
        shape = tuple(self.frames.shape)
        if len(shape) != 5 or shape[2] != 3 or self.frames.dtype != torch.uint8:
            raise ValueError(
                "Faces must be uint8 RGB frames (utterances, frames, 3, height, width), found "
                f"{self.frames.dtype} of shape {shape}."
            )
        if 0 in shape[3:]:
            raise ValueError(f"Faces must have pixels, found frames of {shape[3]} x {shape[4]}.")
        lengths = _lengths(self.keys, self.mask, self.frames, "frame")
        return [frames[:length] for frames, length in zip(self.frames, lengths, strict=True)]


def _mask(lengths: list[int]) -> Tensor:
    return torch.arange(max(lengths, default=0)) < torch.tensor(lengths)[:, None]


def _lengths(keys: Sequence[UtteranceKey], mask: Tensor, values: Tensor, unit: str) -> list[int]:
    """The number of real samples or frames of every row."""
    if mask.shape != values.shape[:2] or mask.dtype != torch.bool or len(keys) != len(mask):
        raise ValueError(
            f"A batch of {len(keys)} keys with values of shape {tuple(values.shape)} needs a boolean mask of shape "
            f"{(len(keys), *values.shape[1:2])}, found {mask.dtype} of shape {tuple(mask.shape)}."
        )
    length = mask.sum(1)
    ragged = (mask != (torch.arange(mask.shape[1], device=mask.device) < length[:, None])).any(1)
    for bad, problem in ((ragged, "padding before or between real {}s. Pad on the right"), (length == 0, "")):
        if bad.any():
            key = keys[int(bad.int().argmax())]
            problem = problem or "no {} at all. Leave it out of the batch and record it as missing"
            raise ValueError(f"Utterance {key} has {problem.format(unit)}.")
    lengths: list[int] = length.tolist()
    return lengths
