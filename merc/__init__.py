"""Multimodal emotion recognition in conversation.

Names are imported when they are first used, so that ``import merc`` takes no time. ``dir(merc)`` lists them.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

try:
    __version__ = version("merc")
except PackageNotFoundError:  # a copy of the sources that is not installed
    __version__ = "0.0.0"

if TYPE_CHECKING:
    from merc.annotation import annotate
    from merc.batch import ConversationBatch
    from merc.conversation import Conversation, Corpus, Utterance
    from merc.corpora import read_csv, read_iemocap, read_meld, read_transcript
    from merc.datamodules import ConversationDataModule, LipSyncDataModule, MediaDataModule, TextDataModule
    from merc.fusion import FusionHead, FusionOutput
    from merc.pipeline.run import run_pipeline as run
    from merc.store import FeatureStore
    from merc.tasks import FusionTask, JointTask, LipSyncTask, StudentTask, TeacherTask, TextEncoderTask

__all__ = [
    "Conversation",
    "ConversationBatch",
    "ConversationDataModule",
    "Corpus",
    "FeatureStore",
    "FusionHead",
    "FusionOutput",
    "FusionTask",
    "JointTask",
    "LipSyncDataModule",
    "LipSyncTask",
    "MediaDataModule",
    "StudentTask",
    "TeacherTask",
    "TextDataModule",
    "TextEncoderTask",
    "Utterance",
    "__version__",
    "annotate",
    "read_csv",
    "read_iemocap",
    "read_meld",
    "read_transcript",
    "run",
]

_PLACES = {
    "merc.annotation": ("annotate",),
    "merc.batch": ("ConversationBatch",),
    "merc.conversation": ("Conversation", "Corpus", "Utterance"),
    "merc.corpora": ("read_csv", "read_iemocap", "read_meld", "read_transcript"),
    "merc.datamodules": ("ConversationDataModule", "LipSyncDataModule", "MediaDataModule", "TextDataModule"),
    "merc.fusion": ("FusionHead", "FusionOutput"),
    "merc.store": ("FeatureStore",),
    "merc.tasks": ("FusionTask", "JointTask", "LipSyncTask", "StudentTask", "TeacherTask", "TextEncoderTask"),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has that name
    """Import a name where it is first used."""
    if name == "run":
        return import_module("merc.pipeline.run").run_pipeline
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'merc' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    """What a user starts with."""
    return sorted(__all__)
