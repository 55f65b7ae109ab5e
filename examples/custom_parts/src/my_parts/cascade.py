"""A face detector: the cascade of local binary patterns that comes with scikit-image."""

from __future__ import annotations

from typing import Any

import skimage
import torch
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade
from torch import Tensor

from merc.media import Faces


class CascadeDetector:
    """Finds frontal faces with boosted local binary patterns (Liao et al. 2007), without a neural network.

    It gives neither scores nor landmarks: every face has score 1. It misses faces that are turned or tilted.

    Args:
        min_face: Shortest side of a face, in pixels of the image.
    """

    def __init__(self, min_face: int = 32) -> None:
        self.min_face = min_face
        self._cascade = Cascade(lbp_frontal_face_cascade_filename())

    def __call__(self, images: Tensor) -> list[Faces]:
        """The faces of every image of ``(T, 3, H, W)`` uint8 RGB, each found by itself."""
        return [self._find(image) for image in images]

    def _find(self, image: Tensor) -> Faces:
        height, width = image.shape[1:]
        if min(height, width) < self.min_face:
            return Faces(torch.zeros(0, 4), torch.zeros(0))
        largest = (min(height, width), min(height, width))
        found = self._cascade.detect_multi_scale(
            image.permute(1, 2, 0).contiguous().numpy(),
            scale_factor=1.2,
            step_ratio=1,
            min_size=(self.min_face, self.min_face),
            max_size=largest,
        )
        boxes = [[face["c"], face["r"], face["c"] + face["width"], face["r"] + face["height"]] for face in found]
        return Faces(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.ones(len(boxes)))

    def provenance(self) -> dict[str, Any]:
        """What the found faces depend on."""
        return {"detector": "my_parts.CascadeDetector", "scikit-image": skimage.__version__, "min_face": self.min_face}
