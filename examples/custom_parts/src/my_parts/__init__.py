"""Parts of merc, as another project would write them: a text encoder, a loss, a stage and a face detector."""

from my_parts.balanced import BalancedCrossEntropy
from my_parts.cascade import CascadeDetector
from my_parts.doubtful import DoubtfulStage
from my_parts.hashed import HashedEncoder

__all__ = ["BalancedCrossEntropy", "CascadeDetector", "DoubtfulStage", "HashedEncoder"]
