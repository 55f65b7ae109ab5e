"""Whole conversations, and beside them windows of lips and sound, for a training of both at once."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities import CombinedLoader

from merc.datamodules.conversation import ConversationDataModule
from merc.datamodules.lipsync import LipSyncDataModule


class JointDataModule(ConversationDataModule):
    """A :class:`ConversationDataModule` whose training batches come with lips and sound.

    A training batch is ``{"conversations": ConversationBatch, "lipsync": LipSyncBatch}``. An epoch goes once through
    the conversations, however many windows that takes: they are drawn at random and have no end of their own.
    Validation, test and prediction read conversations alone, and open nothing of the lips.

    Args:
        lipsync: Deals out the lips and sounds.
        options: The arguments of :class:`ConversationDataModule`.
    """

    def __init__(self, lipsync: LipSyncDataModule, **options: Any) -> None:  # noqa: ANN401 - those of the base
        super().__init__(**options)
        self.lipsync = lipsync

    def setup(self, stage: str | None = None) -> None:
        """Open the corpus and the stores; for training, the clips as well.

        Raises:
            FileNotFoundError: A corpus or a store is not there.
            StoreError: A store is damaged, or of another kind or corpus.
        """
        super().setup(stage)
        if stage == "fit":
            self.lipsync.setup(stage)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401 - with lips or without
        """As that of the base, also where conversations come with lips."""
        if isinstance(batch, dict):
            conversations = super().on_before_batch_transfer(batch["conversations"], dataloader_idx)
            return {**batch, "conversations": conversations}
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def train_dataloader(self) -> CombinedLoader:  # type: ignore[override]
        """Conversations of ``train``, shuffled, each batch with drawn windows of lips and sound."""
        conversations = super().train_dataloader()
        self.lipsync.trainer = self.trainer  # whose processes share the lips too
        lips = self.lipsync.train_dataloader(len(conversations))
        return CombinedLoader({"conversations": conversations, "lipsync": lips}, "min_size")
