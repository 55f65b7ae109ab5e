"""ActiveSpeakerNet: whether a visible face speaks, frame by frame, from face and sound."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.media.rates import MEL_PER_FRAME

_WIDTHS = (1, 32, 64, 128)
_REACH = 6  # frames to either side that the vector of a frame depends on: 2 in each of the three blocks
_SLICE = 50  # frames at once, which limits the memory


class ActiveSpeakerNet(nn.Module):
    r"""A face-and-sound network of the kind of Light-ASD (Liao et al. 2023, arXiv 2303.04439).

    Each encoder has three blocks. A block adds two branches, with kernels of 3 and of 5; a branch filters in space (the
    face) or over coefficients (the sound), then over time. Both encoders end in 128 numbers per frame, whose sum goes
    through a GRU forwards and another one backwards:

    .. math:: h = \overleftarrow{GRU}(gelu(\overrightarrow{GRU}(z_{face} + z_{sound}))), \quad
        \log \frac{p}{1 - p} = w_1 gelu(h) - w_0 gelu(h) + b_1 - b_0

    It has learned who moves their lips while somebody speaks; it was not taught whose lips fit the sound. Its weights
    are not merc's: :meth:`from_light_asd` loads the files that the authors publish.
    """

    size = 112
    """Height and width of the face crops, in pixels."""

    coefficients = 13
    """Cepstral coefficients of a row of sound."""

    def __init__(self) -> None:
        super().__init__()
        pairs = list(pairwise(_WIDTHS))
        self.face = nn.ModuleList(_Block(a, b, moving=True, stride=2 if a == 1 else 1) for a, b in pairs)
        self.sound = nn.ModuleList(_Block(a, b, moving=False) for a, b in pairs)
        self.ahead = nn.GRU(_WIDTHS[-1], _WIDTHS[-1], batch_first=True)
        self.back = nn.GRU(_WIDTHS[-1], _WIDTHS[-1], batch_first=True)
        self.speaks = nn.Linear(_WIDTHS[-1], 2)

    @classmethod
    def from_light_asd(cls, path: str | Path) -> ActiveSpeakerNet:
        """The network with the weights of a file of Light-ASD, in evaluation mode.

        The files are ``pretrain_AVA_CVPR.model`` and ``finetuning_TalkSet.model`` in the folder ``weight`` of
        https://github.com/Junhua-Liao/Light-ASD. Names are translated as :data:`LIGHT_ASD_NAMES` says. The second
        classifier of a file, ``lossV``, only served its training and is left out.

        Args:
            path: The file. It is read as tensors and plain values; nothing in it is run.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is no such file: damaged, or with missing, unknown or wrongly shaped weights.
        """
        given = _read(path)
        network = cls().eval()
        names = {
            f"{theirs}.{name.removeprefix(ours + '.')}": name
            for ours, theirs in LIGHT_ASD_NAMES.items()
            for name in network.state_dict()
            if name.startswith(ours + ".")
        }
        own = network.state_dict()
        differ = [f"{name} is missing" for name in names if name not in given]
        differ += [f"{name} is unknown" for name in given if name not in names]
        differ += [
            f"{theirs} has the shape {tuple(given[theirs].shape)}, expected {tuple(own[ours].shape)}"
            for theirs, ours in names.items()
            if theirs in given and given[theirs].shape != own[ours].shape
        ]
        if differ:
            more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
            raise ValueError(
                f"{path} does not hold the weights of Light-ASD ({'; '.join(differ[:3])}{more}): expected "
                "pretrain_AVA_CVPR.model or finetuning_TalkSet.model of its repository."
            )
        network.load_state_dict({ours: given[theirs] for theirs, ours in names.items()})
        return network

    def forward(self, faces: Tensor, sound: Tensor) -> Tensor:
        """Judge every frame.

        Args:
            faces: ``(B, T, 112, 112)`` grey levels in 0..255, of any type: from nose to chin, 25 per second.
            sound: ``(B, 4 T, 13)`` cepstral coefficients (:class:`merc.media.MFCC`) of the same time.

        Returns:
            ``(B, T)`` log-odds that the face speaks, in float32 or wider.

        Raises:
            ValueError: The shapes do not fit.
        """
        size, rows = (self.size, self.size), (MEL_PER_FRAME * faces.shape[1], self.coefficients)
        if faces.shape[2:] != size or sound.shape != (len(faces), *rows) or not faces.shape[1]:
            raise ValueError(
                f"ActiveSpeakerNet: expected faces (B, T, 112, 112) and sound (B, {MEL_PER_FRAME} T, 13), got "
                f"{tuple(faces.shape)} and {tuple(sound.shape)}."
            )
        hidden, _ = self.ahead(self.embed_faces(faces) + self.embed_sound(sound))
        hidden, _ = self.back(F.gelu(hidden).flip(1))
        odds: Tensor = self.speaks(F.gelu(hidden.flip(1)))
        odds = odds.float() if odds.element_size() < 4 else odds
        return odds[..., 1] - odds[..., 0]

    def embed_faces(self, faces: Tensor) -> Tensor:
        """Vectors ``(B, T, 128)`` of faces ``(B, T, 112, 112)``."""
        frames = faces.shape[1]
        if self.training or frames <= _SLICE:
            return self._embed_faces(faces)
        parts = []
        for start in range(0, frames, _SLICE):
            begin, end = max(0, start - _REACH), min(frames, start + _SLICE + _REACH)
            parts.append(self._embed_faces(faces[:, begin:end])[:, start - begin :][:, :_SLICE])
        return torch.cat(parts, dim=1)

    def _embed_faces(self, faces: Tensor) -> Tensor:
        maps = (faces.to(self.speaks.weight.dtype) / 255 - 0.4161)[:, None] / 0.1688
        for index, block in enumerate(self.face):
            maps = block(maps)
            if index < 2:  # frame by frame, as PyTorch has no 3D pooling in half precision on a CPU
                maps = torch.unflatten(F.max_pool2d(maps.flatten(1, 2), 3, 2, 1), 1, maps.shape[1:3])
        return maps.amax((-2, -1)).transpose(1, 2)

    def embed_sound(self, sound: Tensor) -> Tensor:
        """Vectors ``(B, T, 128)`` of sound ``(B, 4 T, 13)``."""
        maps = sound.to(self.speaks.weight.dtype).transpose(1, 2)[:, None]
        for index, block in enumerate(self.sound):
            maps = block(maps)
            if index < 2:
                maps = F.max_pool2d(maps, (1, 3), (1, 2), (0, 1))
        return maps.mean(2).transpose(1, 2)


class _Block(nn.Module):
    """Two branches with kernels of 3 and 5, each over place and then over time, and a convolution of their sum."""

    def __init__(self, inputs: int, outputs: int, *, moving: bool, stride: int = 1) -> None:
        super().__init__()
        self.small = _branch(inputs, outputs, 3, moving, stride)
        self.large = _branch(inputs, outputs, 5, moving, stride)
        conv = nn.Conv3d if moving else nn.Conv2d
        self.join = nn.Sequential(conv(outputs, outputs, 1, bias=False), *_after(outputs, moving))

    def forward(self, maps: Tensor) -> Tensor:
        joined: Tensor = self.join(self.small(maps) + self.large(maps))
        return joined


def _branch(inputs: int, outputs: int, kernel: int, moving: bool, stride: int) -> nn.Sequential:
    """Over ``(B, C, T, H, W)`` of moving images, or over ``(B, C, coefficients, rows)`` of sound."""
    half = kernel // 2
    place: nn.Module
    time: nn.Module
    if moving:
        place = nn.Conv3d(inputs, outputs, (1, kernel, kernel), (1, stride, stride), (0, half, half), bias=False)
        time = nn.Conv3d(outputs, outputs, (kernel, 1, 1), 1, (half, 0, 0), bias=False)
    else:
        place = nn.Conv2d(inputs, outputs, (kernel, 1), 1, (half, 0), bias=False)
        time = nn.Conv2d(outputs, outputs, (1, kernel), 1, (0, half), bias=False)
    return nn.Sequential(place, *_after(outputs, moving), time, *_after(outputs, moving))


def _after(channels: int, moving: bool) -> tuple[nn.Module, nn.Module]:
    norm = nn.BatchNorm3d if moving else nn.BatchNorm2d
    return norm(channels, momentum=0.01, eps=0.001), nn.ReLU()


def _light_asd_names() -> dict[str, str]:
    names = {"ahead": "model.GRU.gru_forward", "back": "model.GRU.gru_backward", "speaks": "lossAV.FC"}
    for ours, theirs, place in (("face", "visualEncoder", "s"), ("sound", "audioEncoder", "m")):
        for index in range(3):
            mine, other = f"{ours}.{index}", f"model.{theirs}.block{index + 1}"
            names |= {f"{mine}.join.0": f"{other}.last", f"{mine}.join.1": f"{other}.bn_last"}
            for branch, kernel in (("small", 3), ("large", 5)):
                for layer, kind in ((0, place), (3, "t")):
                    names[f"{mine}.{branch}.{layer}"] = f"{other}.{kind}_{kernel}"
                    names[f"{mine}.{branch}.{layer + 1}"] = f"{other}.bn_{kind}_{kernel}"
    return names


LIGHT_ASD_NAMES = _light_asd_names()
"""What the layers of :class:`ActiveSpeakerNet` are called in the files of Light-ASD, by their names here."""


def _read(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file, by their names there, without those of the classifier that only served training."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"No file {path}: expected weights of Light-ASD, such as finetuning_TalkSet.model of its repository."
        ) from error
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise ValueError(
            f"{path} holds no weights, or is damaged ({type(error).__name__}): expected a file of Light-ASD, such as "
            "finetuning_TalkSet.model. Copy it again."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} holds a {type(found).__name__}, expected weights by name: give a file of Light-ASD.")
    return {name: value for name, value in found.items() if not str(name).startswith("lossV.")}
