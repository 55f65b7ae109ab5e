"""Tables of features: read from files, computed from text, or derived from stores of encoder features."""

from merc.features.arrays import import_arrays
from merc.features.evidence import GaussianEvidence, evidence_table, fit_evidence
from merc.features.numbers import KeyColumns, import_table
from merc.features.table import FeaturedCorpus, FeatureTable
from merc.features.writing import measure_writing, writing_table

__all__ = [
    "FeatureTable",
    "FeaturedCorpus",
    "GaussianEvidence",
    "KeyColumns",
    "evidence_table",
    "fit_evidence",
    "import_arrays",
    "import_table",
    "measure_writing",
    "writing_table",
]
