"""Corpora: readers that turn what researchers have on disk into conversations and feature tables."""

from merc.conversation import CORPUS_FILE
from merc.corpora.csv_corpus import CsvColumns, read_corpus, read_csv
from merc.corpora.iemocap import read_iemocap, speaker_half
from merc.corpora.meld import read_meld
from merc.corpora.pickles import LAYOUTS, import_pickle
from merc.corpora.rendered import RenderConfig, render
from merc.corpora.simulated import SimulatedCorpus, SimulationConfig, simulate
from merc.corpora.transcript import TranscriptColumns, read_transcript
from merc.corpora.unpickle import UnsafePickleError

__all__ = [
    "CORPUS_FILE",
    "LAYOUTS",
    "CsvColumns",
    "RenderConfig",
    "SimulatedCorpus",
    "SimulationConfig",
    "TranscriptColumns",
    "UnsafePickleError",
    "import_pickle",
    "read_corpus",
    "read_csv",
    "read_iemocap",
    "read_meld",
    "read_transcript",
    "render",
    "simulate",
    "speaker_half",
]
