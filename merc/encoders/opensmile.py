"""openSMILE: the feature sets of the paralinguistic literature, from its own package."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.encoders.inputs import SoundBatch
from merc.media.rates import SAMPLE_RATE

SHORTEST = SAMPLE_RATE // 4
"""Samples to which shorter sounds are padded; openSMILE returns NaN for less than about 60 ms."""


class OpenSmileEncoder(nn.Module):
    """Functionals of an openSMILE feature set over an utterance (Eyben et al. 2010).

    **Licence:** the ``opensmile`` package is not open source. Its audEERING Research License Agreement allows
    non-commercial use such as research, teaching and personal experiments; commercial use needs another licence from
    audEERING. It is therefore not in merc's extras; run ``pip install opensmile`` if you accept its terms.
    :class:`~merc.encoders.ProsodyEncoder` has no such terms.

    It runs on the CPU for any device of the batch, utterance by utterance. Sounds under a quarter of a second are
    padded with zeros on the right, and numbers that openSMILE cannot compute are 0. Scales differ widely: standardize
    the columns by the training split before you train on them.

    Args:
        feature_set: A member of ``opensmile.FeatureSet``: ``eGeMAPSv02`` (88 numbers), ``IS10`` (1582, as in the
            feature files of MMGCN, arXiv 2107.06779), ``emobase`` (988), ``ComParE_2016`` (6373) and others.

    Attributes:
        names: openSMILE's name of each number.
        dim: Number of numbers.

    Raises:
        ImportError: The package is not installed.
        ValueError: There is no such feature set.
    """

    def __init__(self, feature_set: str = "eGeMAPSv02") -> None:
        super().__init__()
        try:
            opensmile: Any = import_module("opensmile")
        except ImportError as error:
            raise ImportError(
                "OpenSmileEncoder needs the package opensmile, which is free for non-commercial use only: "
                "pip install opensmile, or use ProsodyEncoder."
            ) from error
        sets = opensmile.FeatureSet.__members__
        if feature_set not in sets:
            raise ValueError(f"openSMILE has no feature set {feature_set!r}: expected one of {', '.join(sets)}.")
        self.feature_set = feature_set
        self._release: str = opensmile.__version__
        self._smile = opensmile.Smile(sets[feature_set], opensmile.FeatureLevel.Functionals)
        self.names: tuple[str, ...] = tuple(self._smile.feature_names)
        self.dim = len(self.names)

    def forward(self, batch: SoundBatch) -> Tensor:
        """Measure a batch.

        Returns:
            ``(B, dim)`` float32 numbers in the order of :attr:`names`.

        Raises:
            ValueError: The batch is not a valid :class:`~merc.encoders.SoundBatch`, or a sound is empty or not finite.
        """
        rows = [F.pad(sound, (0, max(0, SHORTEST - len(sound)))) for sound in batch.to("cpu").rows()]
        numbers = torch.stack([torch.from_numpy(self._smile(row.numpy(), SAMPLE_RATE)).flatten() for row in rows])
        return numbers.float().nan_to_num(0.0, 0.0, 0.0).to(batch.sound.device)

    def provenance(self) -> dict[str, Any]:
        """The feature set and version, for the provenance of a store; there are no weights."""
        return {
            "encoder": type(self).__name__,
            "feature_set": self.feature_set,
            "opensmile": self._release,
            "names": list(self.names),
        }
