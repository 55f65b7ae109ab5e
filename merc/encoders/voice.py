"""Voices: a unit vector of who speaks, whatever is said, for utterances of any length."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.encoders.inputs import SoundBatch
from merc.encoders.loading import local_folder, read_sound_settings
from merc.media.rates import SAMPLE_RATE
from merc.weights import packaged, weights_digest

_STEP = 160  # samples of a frame of 10 ms
_FRAMES = 160  # of a window
_HOP = 77  # frames from one window to the next: 1.3 windows a second
_LEAST = 0.75  # share of the last window that must be sound
_LOUD = 10 ** (-30 / 20)  # root mean square to which quieter sound is raised
_AT_ONCE = 64  # windows, which limits the memory


class VoiceModel(Protocol):
    """Turns sounds into unit vectors that are alike for one voice, with what their likeness means.

    Attributes:
        dim: Width of the vectors.
        slope: By how many nepers a cosine that is larger by 1 speaks for one voice.
        middle: The cosine that speaks for one voice as much as for two.
    """

    dim: int
    slope: float
    middle: float

    def __call__(self, batch: SoundBatch, /) -> Tensor:
        """The voices ``(B, dim)`` of a batch."""
        ...

    def provenance(self) -> dict[str, Any]:
        """What decides the vectors, as plain values."""
        ...


class VoiceEncoder(nn.Module):
    r"""The voice encoder of Resemblyzer: three LSTM layers on 40 mel bands (Wan et al. 2018, arXiv 1710.10467).

    The sound is raised to -30 dBFS if it is quieter. Its power in 40 mel bands (25 ms windows, every 10 ms) is cut into
    windows of 1.6 s, 1.3 a second; the last state of the third layer gives a vector for each, with a linear layer, a
    ReLU and unit length, and the mean of these, at unit length again, is the voice:

    .. math:: v = \frac{\sum_w e_w}{\lVert \sum_w e_w \rVert}, \qquad
        e_w = \frac{\max(0, A h_w + b)}{\lVert \max(0, A h_w + b) \rVert}

    Unlike Resemblyzer it does not remove pauses, so that it needs no second voice detector.

    Args:
        weights: File of weights. Default: ``pretrained.pt`` of the package Resemblyzer (Apache 2.0), which need not be
            importable.

    Attributes:
        dim: 256.
        slope: As for :class:`VoiceModel`, measured on lines of 2 to 3 s (see docs/speaker.md).
        middle: Likewise.

    Raises:
        ModuleNotFoundError: Resemblyzer is not installed, and no weights are given.
        ValueError: The weights are of another network.

    Shape:
        - Input: B sounds (:class:`~merc.encoders.SoundBatch`).
        - Output: ``(B, 256)``, not negative, of length 1.
    """

    dim = 256
    slope = 20.0
    middle = 0.68

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        from torchaudio.transforms import MelSpectrogram

        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        self.mel = MelSpectrogram(
            SAMPLE_RATE,
            n_fft=400,
            hop_length=_STEP,
            n_mels=40,
            norm="slaney",
            mel_scale="slaney",
            pad_mode="constant",
        )
        file = _resemblyzer() if weights is None else Path(weights)
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = {name: value for name, value in state.get("model_state", state).items() if name.split(".")[0] != "mel"}
        own = {name for name in self.state_dict() if not name.startswith("mel.")}
        if not own <= state.keys():
            raise ValueError(
                f"{file} lacks {', '.join(sorted(own - state.keys())[:3])}: expected weights of Resemblyzer."
            )
        self.load_state_dict({name: state[name] for name in own}, strict=False)
        self.eval()

    @torch.no_grad()
    def forward(self, batch: SoundBatch) -> Tensor:
        """The voices of a batch; that of an utterance does not depend on the others.

        Raises:
            ValueError: The batch is not valid, or a sound is empty or not finite.
        """
        windows = [self.windows(sound) for sound in batch.rows()]
        parts = torch.split(torch.cat(windows), _AT_ONCE)
        vectors = torch.cat([self._embed(part) for part in parts])
        means = [part.mean(0) for part in torch.split(vectors, [len(rows) for rows in windows])]
        return F.normalize(torch.stack(means), dim=1)

    def windows(self, sound: Tensor) -> Tensor:
        """The mel bands ``(W, 160, 40)`` of the windows of a sound ``(S,)``."""
        level = sound.square().mean().sqrt()
        sound = sound * max(1.0, _LOUD / max(float(level), 1e-9))
        frames = math.ceil((len(sound) + 1) / _STEP)
        starts = list(range(0, max(1, frames - _FRAMES + _HOP + 1), _HOP))
        if len(starts) > 1 and len(sound) / _STEP - starts[-1] < _LEAST * _FRAMES:
            starts.pop()
        end = (starts[-1] + _FRAMES) * _STEP
        bands: Tensor = self.mel(F.pad(sound, (0, max(0, end - len(sound))))).T
        return torch.stack([bands[start : start + _FRAMES] for start in starts])

    def _embed(self, windows: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(windows)
        return F.normalize(self.linear(hidden[-1]).relu(), dim=1)

    def provenance(self) -> dict[str, Any]:
        """The network and its weights."""
        return {"encoder": "VoiceEncoder", "weights": weights_digest(self)}


class XVectorEncoder(nn.Module):
    """Any model of transformers for speaker verification, such as WavLM's, UniSpeech's or wav2vec 2.0's x-vectors.

    Args:
        model: Name on the Hugging Face hub, such as ``microsoft/wavlm-base-plus-sv``, a local folder, or
            ``package:folder``. Folders need no network.
        slope: As for :class:`VoiceModel`.
        middle: Likewise. The default is the threshold on the card of ``microsoft/wavlm-base-plus-sv``.

    Attributes:
        dim: Width of the vectors.

    Raises:
        FileNotFoundError: The model is neither a folder nor available on the hub.
        ValueError: Its file lacks weights.

    Shape:
        - Input: B sounds (:class:`~merc.encoders.SoundBatch`).
        - Output: ``(B, dim)``, of length 1.
    """

    def __init__(self, model: str, slope: float = 25.0, middle: float = 0.86) -> None:
        super().__init__()
        from transformers import AutoModelForAudioXVector

        self.model, self.slope, self.middle = model, slope, middle
        folder = local_folder(model)
        place, local = (str(folder), True) if folder else (model, False)
        try:
            settings = read_sound_settings(place, local_files_only=local)
            self.network, report = AutoModelForAudioXVector.from_pretrained(
                place, local_files_only=local, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"Voice encoder {model!r} could not be loaded: expected a folder or name of a model with x-vectors, "
                f"such as 'microsoft/wavlm-base-plus-sv' ({error})."
            ) from error
        # The classifier of the training speakers is not used.
        lacking = [name for name in report["missing_keys"] if not name.startswith(("classifier.", "objective."))]
        if lacking:
            raise ValueError(f"Voice encoder {model!r} has no weights for {', '.join(sorted(lacking)[:3])}.")
        self.normalize = bool(settings.get("do_normalize", True))
        self.dim = int(self.network.config.xvector_output_dim)
        config = self.network.config
        kernels, dilations = config.tdnn_kernel, config.tdnn_dilation
        frames = 2 + sum((kernel - 1) * dilation for kernel, dilation in zip(kernels, dilations, strict=True))
        for kernel, stride in zip(config.conv_kernel[::-1], config.conv_stride[::-1], strict=True):
            frames = (frames - 1) * stride + kernel
        self.shortest = frames  # two vectors over time, as their deviation is taken
        self.eval()

    @torch.no_grad()
    def forward(self, batch: SoundBatch) -> Tensor:
        """The voices of a batch, one sound at a time, so that padding changes nothing; shorter ones are repeated."""
        vectors = []
        for sound in batch.rows():
            if self.normalize:
                sound = (sound - sound.mean()) / (sound.var(correction=0) + 1e-7).sqrt()
            sound = sound.repeat(math.ceil(self.shortest / len(sound)))
            vectors.append(self.network(input_values=sound[None]).embeddings[0])
        return F.normalize(torch.stack(vectors), dim=1)

    def provenance(self) -> dict[str, Any]:
        """The model and its weights."""
        return {"encoder": self.model, "weights": weights_digest(self)}


def _resemblyzer() -> Path:
    file = packaged("resemblyzer", "pretrained.pt")
    if file is None or not file.is_file():
        raise ModuleNotFoundError(
            "The voice encoder needs the weights of Resemblyzer: pip install --no-deps resemblyzer==0.1.4, or pass the "
            "folder of a speaker verification model to XVectorEncoder."
        )
    return file
