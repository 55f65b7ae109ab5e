"""Corpora: readers that turn what researchers have on disk into conversations and feature tables.

Names are imported when they are first used: only the pickles and the rendered corpus need PyTorch.
"""

from typing import TYPE_CHECKING

from merc._lazy import lazy_names

if TYPE_CHECKING:
    from merc.conversation import CORPUS_FILE
    from merc.corpora.csv_corpus import CsvColumns, read_corpus, read_csv
    from merc.corpora.films import read_films
    from merc.corpora.folds import read_folds
    from merc.corpora.iemocap import read_iemocap, speaker_half
    from merc.corpora.layouts import LAYOUTS
    from merc.corpora.meld import read_meld
    from merc.corpora.mmsa import import_mmsa
    from merc.corpora.pickles import import_pickle
    from merc.corpora.rendered import RenderConfig, render
    from merc.corpora.simulated import SimulatedCorpus, SimulationConfig, simulate
    from merc.corpora.transcripts import TranscriptColumns, TranscriptOptions, read_transcript
    from merc.corpora.unpickle import UnsafePickleError

__all__ = [
    "CORPUS_FILE",
    "LAYOUTS",
    "CsvColumns",
    "RenderConfig",
    "SimulatedCorpus",
    "SimulationConfig",
    "TranscriptColumns",
    "TranscriptOptions",
    "UnsafePickleError",
    "import_mmsa",
    "import_pickle",
    "read_corpus",
    "read_csv",
    "read_films",
    "read_folds",
    "read_iemocap",
    "read_meld",
    "read_transcript",
    "render",
    "simulate",
    "speaker_half",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "merc.conversation": ["CORPUS_FILE"],
        "merc.corpora.csv_corpus": ["CsvColumns", "read_corpus", "read_csv"],
        "merc.corpora.films": ["read_films"],
        "merc.corpora.folds": ["read_folds"],
        "merc.corpora.iemocap": ["read_iemocap", "speaker_half"],
        "merc.corpora.meld": ["read_meld"],
        "merc.corpora.layouts": ["LAYOUTS"],
        "merc.corpora.mmsa": ["import_mmsa"],
        "merc.corpora.pickles": ["import_pickle"],
        "merc.corpora.rendered": ["RenderConfig", "render"],
        "merc.corpora.simulated": ["SimulatedCorpus", "SimulationConfig", "simulate"],
        "merc.corpora.transcripts": ["TranscriptColumns", "TranscriptOptions", "read_transcript"],
        "merc.corpora.unpickle": ["UnsafePickleError"],
    },
)
