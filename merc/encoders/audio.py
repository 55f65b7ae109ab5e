"""The audio encoder: one vector from the sound of an utterance, with any Hugging Face speech encoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from merc.encoders.inputs import SoundBatch
from merc.encoders.loading import load_pretrained, read_sound_settings
from merc.media.rates import SAMPLE_RATE
from merc.weights import weights_digest

PADDABLE = frozenset({"data2vec-audio", "hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm"})
"""Families whose frames do not depend on padding with the corrections of :class:`_Padding`."""


class AudioEncoder(nn.Module):
    """Mean over time of a speech encoder's last hidden states (arXiv 2511.13731, section 3.3.2).

    Any encoder that reads raw 16 kHz samples: wav2vec 2.0, data2vec-audio, HuBERT, WavLM and similar. Samples
    are normalised over the real samples of the utterance, as the model's ``preprocessor_config.json`` says.

    The vector of an utterance is that of the model for this sound alone, without padding, and does not depend on the
    batch. An attention mask is not enough: models with ``feat_extract_norm: group`` (wav2vec2-base and -large of
    LibriSpeech, HuBERT-base) normalise their first layer over all of time, and data2vec-audio applies convolutions to
    convolved padding. Both layers get the real lengths here, so the known families (:data:`PADDABLE`) run padded
    batches. Other families, and models with adapter layers, run sounds of one length at a time.

    Sounds shorter than the model's receptive field (25 ms for wav2vec 2.0) are padded with zeros on the right, after
    normalisation. Sounds longer than ``max_seconds`` are read in equal pieces, and the mean is over the frames of all
    pieces. Random masking (SpecAugment) is off: it is meant for pretraining, and refuses short sounds.

    Args:
        model: Name on the Hugging Face hub, a local folder, or ``package:folder`` for a folder inside an
            installed Python package. Folders need no network.
        max_seconds: Length of the longest piece, in seconds; time and memory of attention grow with its square.
        pooling: ``mean`` over time, or the ``first`` frame, as in the public code of TelME (arXiv 2401.12987), where
            fine-tuning gathers in it what attention finds in the others.

    Attributes:
        dim: Width of the vectors.

    Raises:
        FileNotFoundError: The model is neither a folder nor available on the hub.
        ValueError: The model does not read 16 kHz samples, or ``max_seconds`` is too short for its receptive field.

    Example:
        >>> encoder = AudioEncoder("facebook/wav2vec2-large-960h").eval()  # doctest: +SKIP
        >>> vectors = encoder(SoundBatch.pad(keys, sounds))  # doctest: +SKIP
    """

    def __init__(self, model: str, max_seconds: float = 30.0, pooling: Literal["mean", "first"] = "mean") -> None:
        super().__init__()
        self.model = model
        self.max_seconds = max_seconds
        self.pooling: Literal["mean", "first"] = pooling
        settings, self.network = load_pretrained(
            model, "Audio encoder", "preprocessor_config.json", read_sound_settings
        )
        config = self.network.config
        if self.network.main_input_name != "input_values" or not hasattr(config, "conv_kernel"):
            raise ValueError(
                f"Audio encoder {model!r} ({config.model_type}) does not read raw samples. Expected a model such as "
                " wav2vec 2.0, data2vec-audio, HuBERT or WavLM."
            )
        rate = settings.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise ValueError(f"Audio encoder {model!r} reads {rate} samples per second, expected {SAMPLE_RATE}.")
        self.normalize = bool(settings.get("do_normalize", True))
        self.dim = int(config.hidden_size)
        self.receptive_field = _receptive_field(config)
        if max_seconds * SAMPLE_RATE < 2 * self.receptive_field:  # pieces are at least half as long
            raise ValueError(
                f"max_seconds is {max_seconds}, but one frame of {model!r} covers "
                f"{self.receptive_field / SAMPLE_RATE} s: expected at least twice that, and about 30."
            )
        config.apply_spec_augment = False
        self._padding = _Padding(self.network)

    def forward(self, batch: SoundBatch) -> Tensor:
        """Encode a batch.

        Returns:
            ``(B, dim)`` float32 vectors, one per utterance.

        Raises:
            ValueError: The batch is not a valid :class:`~merc.encoders.SoundBatch`, or a sound is empty or not finite.
        """
        pieces = [self._pieces(sound) for sound in batch.rows()]
        frames = self._frames([piece for row in pieces for piece in row])
        vectors, start = [], 0
        for row in pieces:
            own = torch.cat(frames[start : start + len(row)])
            vectors.append(own.mean(0) if self.pooling == "mean" else own[0])
            start += len(row)
        return torch.stack(vectors)

    def _pieces(self, sound: Tensor) -> tuple[Tensor, ...]:
        """The normalised samples of an utterance, in pieces that the network can read."""
        if self.normalize:  # as transformers' Wav2Vec2FeatureExtractor does
            sound = (sound - sound.mean()) / (sound.var(correction=0) + 1e-7).sqrt()
        sound = F.pad(sound, (0, max(0, self.receptive_field - len(sound))))
        return sound.tensor_split(math.ceil(len(sound) / (self.max_seconds * SAMPLE_RATE)))

    def _frames(self, sounds: list[Tensor]) -> list[Tensor]:
        """The last hidden states ``(frames, dim)`` of every sound."""
        lengths = [len(sound) for sound in sounds]
        if self._padding.supported and len(set(lengths)) > 1:
            return self._padded_frames(sounds)
        frames: dict[int, Tensor] = {}
        for length in set(lengths):
            same_length = [index for index, other in enumerate(lengths) if other == length]
            samples = torch.stack([sounds[index] for index in same_length]).to(self.network.dtype)
            hidden = self.network(input_values=samples).last_hidden_state.float()
            frames.update(zip(same_length, hidden, strict=True))
        return [frames[index] for index in range(len(sounds))]

    def _padded_frames(self, sounds: list[Tensor]) -> list[Tensor]:
        lengths = [len(sound) for sound in sounds]
        samples = pad_sequence(sounds, batch_first=True)
        real = pad_sequence([torch.ones_like(sound, dtype=torch.long) for sound in sounds], batch_first=True)
        with self._padding.of(lengths):
            output = self.network(input_values=samples.to(self.network.dtype), attention_mask=real)
        hidden: Tensor = output.last_hidden_state.float()
        return [states[: self._padding.frames(length)] for states, length in zip(hidden, lengths, strict=True)]

    def settings(self) -> dict[str, Any]:
        """The options that determine the meaning of a vector, as plain values, without the location of the model."""
        return {"normalize": self.normalize, "max_seconds": self.max_seconds, "pooling": self.pooling}

    def provenance(self) -> dict[str, Any]:
        """The model, a digest of its current weights and the settings, for the provenance of a store."""
        return {"encoder": self.model, "weights": weights_digest(self), **self.settings()}


class _Padding:
    """Passes the real lengths to the layers of a speech encoder that would mix padding into real frames.

    Attributes:
        supported: Whether all such layers of the network are known, so that it can run padded batches.
    """

    def __init__(self, network: nn.Module) -> None:
        config: Any = network.config
        self._layers = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self._lengths: list[int] | None = None
        mixes = getattr(config, "add_adapter", False) or getattr(config, "conv_pos_batch_norm", False)
        self.supported = config.model_type in PADDABLE and not mixes
        if not self.supported:
            return
        first: Any = network.get_submodule("feature_extractor.conv_layers.0")
        if getattr(config, "feat_extract_norm", None) == "group":
            first.layer_norm = _RealGroupNorm(first.layer_norm, self)
        if config.model_type == "data2vec-audio":
            stack: Any = network.get_submodule("encoder.pos_conv_embed.layers")
            for layer in stack[1:]:  # the input of the first is already zero beyond the real frames
                layer.register_forward_pre_hook(self._silence)

    @contextmanager
    def of(self, lengths: list[int]) -> Iterator[None]:
        """Run the network on rows with these numbers of real samples."""
        self._lengths = lengths
        try:
            yield
        finally:
            self._lengths = None

    def frames(self, samples: int, layers: int | None = None) -> int:
        """Number of frames after the convolutions, or after the first ``layers`` of them."""
        for kernel, stride in self._layers[:layers]:
            samples = (samples - kernel) // stride + 1
        return samples

    def real(self, layers: int | None = None) -> list[int] | None:
        """Number of frames of every row after so many layers; ``None`` if no row is padded."""
        return None if self._lengths is None else [self.frames(length, layers) for length in self._lengths]

    def _silence(self, _: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        frames = self.real()
        if frames is None:
            return None
        (hidden,) = inputs  # (B, channels, frames)
        real = torch.arange(hidden.shape[2], device=hidden.device) < torch.tensor(frames, device=hidden.device)[:, None]
        return hidden.masked_fill(~real[:, None], 0.0)


class _RealGroupNorm(nn.Module):
    """Group normalisation of every row over its real frames, with the weights of ``norm``; zero beyond them."""

    def __init__(self, norm: nn.GroupNorm, padding: _Padding) -> None:
        super().__init__()
        self.num_groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        self._padding = padding

    def forward(self, x: Tensor) -> Tensor:
        lengths = self._padding.real(layers=1)
        if lengths is None:
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        rows = (
            F.group_norm(row[None, :, :length], self.num_groups, self.weight, self.bias, self.eps)
            for row, length in zip(x, lengths, strict=True)
        )
        return torch.cat([F.pad(row, (0, x.shape[2] - row.shape[2])) for row in rows])


def _receptive_field(config: Any) -> int:  # noqa: ANN401 - transformers is untyped
    """Number of samples that one frame needs."""
    samples = int(getattr(config, "squeeze_factor", 1))  # SEW makes one frame of several
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    return samples
