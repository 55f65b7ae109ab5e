"""LightningDataModules: what feeds the tasks."""

from merc.datamodules.conversation import ConversationDataModule
from merc.datamodules.text import TextDataModule

__all__ = ["ConversationDataModule", "TextDataModule"]
