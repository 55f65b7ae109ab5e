"""A trainer that says nothing."""

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint


def trainer_in(folder, *callbacks, epochs=1, **options):
    """On the CPU, without logs; it keeps the checkpoints that its callbacks ask for."""
    return L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        **options,
    )
