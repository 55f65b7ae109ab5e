"""LightningDataModules: what feeds the tasks."""

from merc.datamodules.base import CorpusDataModule
from merc.datamodules.conversation import ConversationDataModule
from merc.datamodules.facts import DataFacts
from merc.datamodules.joint import JointDataModule
from merc.datamodules.lipsync import LipSyncDataModule, LipSyncSource
from merc.datamodules.media import MediaBatch, MediaDataModule
from merc.datamodules.readers import FaceReader, FrameReader, Reader, SoundReader, TrackReader
from merc.datamodules.text import TextDataModule
from merc.datamodules.utterances import UtteranceDataModule

__all__ = [
    "ConversationDataModule",
    "CorpusDataModule",
    "DataFacts",
    "FaceReader",
    "FrameReader",
    "JointDataModule",
    "LipSyncDataModule",
    "LipSyncSource",
    "MediaBatch",
    "MediaDataModule",
    "Reader",
    "SoundReader",
    "TextDataModule",
    "TrackReader",
    "UtteranceDataModule",
]
