"""Multimodal emotion recognition in conversation.

The chain from a corpus to a report, by the names that this package gives:

- ``read_meld``, ``read_iemocap``, ``read_csv`` and ``read_transcript`` turn what is on disk into a :class:`Corpus` of
  :class:`Conversation` and :class:`Utterance`; ``simulate`` draws one from a known model.
- A :class:`FeatureStore` holds the vectors of one modality. A datamodule, such as :class:`ConversationDataModule`,
  makes a :class:`ConversationBatch` of corpus and stores.
- A task, such as :class:`TeacherTask`, :class:`StudentTask` or :class:`FusionTask`, is a LightningModule: a
  ``lightning.Trainer`` fits, tests and predicts it. Subclass :class:`FusionHead`, which gives a
  :class:`FusionOutput`, for a fusion of your own.
- :func:`run` runs all stages of a pipeline, and :func:`annotate` applies a finished run to a new video.
- :func:`load` reads a :class:`Model`, which tells the emotions of conversations anywhere; :func:`export_run` makes one
  of a finished run.

Names are imported when they are first used: ``import merc`` takes no time and imports no PyTorch.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from merc._lazy import lazy_names

if TYPE_CHECKING:
    from merc.annotation import annotate
    from merc.batch import ConversationBatch
    from merc.conversation import Conversation, Corpus, Utterance
    from merc.corpora import read_csv, read_iemocap, read_meld, read_transcript, simulate
    from merc.datamodules import (
        ConversationDataModule,
        JointDataModule,
        LipSyncDataModule,
        MediaDataModule,
        TextDataModule,
    )
    from merc.fusion import FusionHead, FusionOutput
    from merc.models import Model, export_run, load
    from merc.pipeline.run import run_pipeline as run
    from merc.store import FeatureStore
    from merc.tasks import (
        EncoderStudentTask,
        ExtractTask,
        FacesTask,
        FusionTask,
        JointTask,
        LipSyncTask,
        StudentTask,
        TeacherTask,
        TextEncoderTask,
    )

try:
    __version__ = version("merc")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Conversation",
    "ConversationBatch",
    "ConversationDataModule",
    "Corpus",
    "EncoderStudentTask",
    "ExtractTask",
    "FacesTask",
    "FeatureStore",
    "FusionHead",
    "FusionOutput",
    "FusionTask",
    "JointDataModule",
    "JointTask",
    "LipSyncDataModule",
    "LipSyncTask",
    "MediaDataModule",
    "Model",
    "StudentTask",
    "TeacherTask",
    "TextDataModule",
    "TextEncoderTask",
    "Utterance",
    "__version__",
    "annotate",
    "export_run",
    "load",
    "read_csv",
    "read_iemocap",
    "read_meld",
    "read_transcript",
    "run",
    "simulate",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "merc.annotation": ["annotate"],
        "merc.batch": ["ConversationBatch"],
        "merc.conversation": ["Conversation", "Corpus", "Utterance"],
        "merc.corpora": ["read_csv", "read_iemocap", "read_meld", "read_transcript", "simulate"],
        "merc.datamodules": [
            "ConversationDataModule",
            "JointDataModule",
            "LipSyncDataModule",
            "MediaDataModule",
            "TextDataModule",
        ],
        "merc.fusion": ["FusionHead", "FusionOutput"],
        "merc.models": ["Model", "export_run", "load"],
        "merc.pipeline.run": ["run_pipeline as run"],
        "merc.store": ["FeatureStore"],
        "merc.tasks": [
            "EncoderStudentTask",
            "ExtractTask",
            "FacesTask",
            "FusionTask",
            "JointTask",
            "LipSyncTask",
            "StudentTask",
            "TeacherTask",
            "TextEncoderTask",
        ],
    },
)
