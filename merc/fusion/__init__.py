"""Fusion heads: from the modalities of an utterance to one emotion. Subclass :class:`FusionHead` for your own."""

from merc.fusion.base import FusionHead, FusionOutput
from merc.fusion.cmath import CMATHFusion
from merc.fusion.concat import ConcatFusion
from merc.fusion.hierarchical import HierarchicalFusion
from merc.fusion.lfvd import LFVDFusion
from merc.fusion.telme import TelMEFusion

__all__ = [
    "CMATHFusion",
    "ConcatFusion",
    "FusionHead",
    "FusionOutput",
    "HierarchicalFusion",
    "LFVDFusion",
    "TelMEFusion",
]
