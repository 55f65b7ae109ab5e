"""The visual encoder: one vector from the face crops of an utterance, with any Hugging Face video encoder."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.encoders.inputs import FaceBatch
from merc.encoders.loading import load_pretrained, read_image_settings
from merc.weights import weights_digest


class VisualEncoder(nn.Module):
    """Mean over the tokens of a video encoder's last hidden states (arXiv 2511.13731, section 3.3.3).

    Any encoder that takes a fixed number of RGB frames: TimeSformer, VideoMAE, ViViT. Pixels are scaled and
    normalised with the mean and standard deviation in the model's ``preprocessor_config.json``. Crops of another size
    than ``size`` are resized (bilinear, antialiased).

    The network always reads ``frames`` frames. From a clip of T real frames it reads, for i = 0 to frames - 1, the
    frame ``floor((i + 1/2) T / frames)``: all of them if T is ``frames``, evenly spaced ones if there are
    more, each repeated about equally often if there are fewer. There is no padding, so the vector of an utterance does
    not depend on its batch.

    Args:
        model: Name on the Hugging Face hub, a local folder, or ``package:folder`` for a folder inside an
            installed Python package. Folders need no network.
        frames: Number of frames that the network reads. Default: that of its training.
        size: Height and width that it reads, in pixels. Default: those of its training. TimeSformer and similar models
            interpolate their position embeddings to other values; VideoMAE refuses them.
        pooling: ``mean`` over the tokens, or the ``first`` token, which in TimeSformer stands for the whole clip: so in
            the public code of TelME (arXiv 2401.12987).

    Attributes:
        dim: Width of the vectors.
        frames: Frames per utterance that a datamodule samples, evenly spaced.
        size: Height and width of the crops of a datamodule.

    Raises:
        FileNotFoundError: The model is neither a folder nor available on the hub.
        ValueError: The model does not read videos, or not with these ``frames`` or this ``size``.

    Example:
        >>> encoder = VisualEncoder("facebook/timesformer-base-finetuned-k400").eval()  # doctest: +SKIP
        >>> vectors = encoder(FaceBatch.pad(keys, clips))  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str,
        frames: int | None = None,
        size: int | None = None,
        pooling: Literal["mean", "first"] = "mean",
    ) -> None:
        super().__init__()
        self.model = model
        self.pooling: Literal["mean", "first"] = pooling
        settings, self.network = load_pretrained(
            model, "Visual encoder", "preprocessor_config.json", read_image_settings
        )
        config = self.network.config
        if self.network.main_input_name != "pixel_values" or not hasattr(config, "num_frames"):
            raise ValueError(
                f"Visual encoder {model!r} ({config.model_type}) does not read a number of frames. Expected a video "
                "encoder such as TimeSformer or VideoMAE."
            )
        trained = int(config.num_frames), _side(config.image_size)
        self.frames = trained[0] if frames is None else frames
        self.size = trained[1] if size is None else size
        self.dim = int(config.hidden_size)
        scale = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
        normalize = settings.get("do_normalize", True)
        mean, std = (settings["image_mean"], settings["image_std"]) if normalize else ([0.0] * 3, [1.0] * 3)
        # In units of the input bytes, so that one subtraction and one division are enough.
        self.pixel_mean = [value / scale for value in mean]
        self.pixel_std = [value / scale for value in std]
        if (self.frames, self.size) != trained:
            self._reshape(*trained)

    def _reshape(self, frames: int, size: int) -> None:
        """Change the ``frames`` and ``size`` of a trained network; refuse them if it does not support others."""
        config = self.network.config
        config.num_frames, config.image_size = self.frames, self.size
        try:
            with torch.no_grad():
                self._encode(torch.zeros(1, self.frames, 3, self.size, self.size, dtype=torch.uint8))
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"Visual encoder {self.model!r} does not read {self.frames} frames of {self.size} pixels ({error}): "
                f"leave frames and size out for its own {frames} and {size}."
            ) from error

    def forward(self, batch: FaceBatch) -> Tensor:
        """Encode a batch.

        Returns:
            ``(B, dim)`` float32 vectors, one per utterance.

        Raises:
            ValueError: The batch is not a valid :class:`~merc.encoders.FaceBatch`, or an utterance has no frame.
        """
        return self._encode(torch.stack([clip[evenly(len(clip), self.frames)] for clip in batch.rows()]))

    def _encode(self, clips: Tensor) -> Tensor:
        mean, std = (torch.tensor(x, device=clips.device).view(3, 1, 1) for x in (self.pixel_mean, self.pixel_std))
        pixels = (resize(clips, self.size) - mean) / std
        hidden: Tensor = self.network(pixel_values=pixels.to(self.network.dtype)).last_hidden_state
        return hidden.float().mean(1) if self.pooling == "mean" else hidden[:, 0].float()

    def settings(self) -> dict[str, Any]:
        """The options that determine the meaning of a vector, as plain values, without the location of the model."""
        return {
            "frames": self.frames,
            "size": self.size,
            "pixel_mean": self.pixel_mean,
            "pixel_std": self.pixel_std,
            "pooling": self.pooling,
        }

    def provenance(self) -> dict[str, Any]:
        """The model, a digest of its current weights and the settings, for the provenance of a store."""
        return {"encoder": self.model, "weights": weights_digest(self), **self.settings()}


def evenly(found: int, wanted: int) -> list[int]:
    """Evenly spaced indices into ``found`` frames: ``floor((i + 1/2) found / wanted)`` for i in ``range(wanted)``."""
    return [(2 * i + 1) * found // (2 * wanted) for i in range(wanted)]


def resize(frames: Tensor, size: int) -> Tensor:
    """Frames ``(..., 3, H, W)`` as float32 in 0..255, ``size`` pixels high and wide."""
    if frames.shape[-2:] == (size, size):
        return frames.float()
    flat = frames.flatten(0, -4).float()
    small = F.interpolate(flat, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return small.view(*frames.shape[:-2], size, size)


def _side(size: int | list[int]) -> int:
    return size if isinstance(size, int) else int(size[0])
