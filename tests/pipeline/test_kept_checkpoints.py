"""The checkpoints that a training from the command line keeps."""

import pytest
import yaml

from merc.pipeline.lightning import MercCLI

TASK = """
from lightning.pytorch.demos.boring_classes import BoringModel

class Pairs(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("val/pair_loss", self.loss(self.layer(batch)))
"""
MONITORED = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"monitor": "val/pair_loss", "filename": "mine"},
}
PERIODIC = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"every_n_train_steps": 1, "filename": "{step}"},
}
LAST = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"filename": "final"},
}


@pytest.fixture
def fit(tmp_path, monkeypatch):
    """Trains a task that logs nothing but ``val/pair_loss``; gives the trainer."""
    (tmp_path / "pairs_of_ones_own.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def fit(callbacks, *options):
        trainer = {
            "max_epochs": 1,
            "limit_train_batches": 2,
            "limit_val_batches": 1,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "callbacks": callbacks,
        }
        config = {"model": {"class_path": "pairs_of_ones_own.Pairs"}, "trainer": trainer}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        return MercCLI(["fit", "--config", "config.yaml", *options]).trainer

    return fit


def kept(trainer):
    return {callback.filename: callback.monitor for callback in trainer.checkpoint_callbacks}


def test_a_checkpoint_of_ones_own_with_a_monitor_replaces_the_best(fit):
    trainer = fit([MONITORED])
    assert kept(trainer) == {"mine": "val/pair_loss", "last": None}
    assert trainer.checkpoint_callback.best_model_path.endswith("mine.ckpt")


def test_the_best_follows_the_metric_that_the_config_names(fit):
    trainer = fit(None, "--best.monitor=val/pair_loss", "--best.mode=min")
    assert kept(trainer) == {"best-{step}": "val/pair_loss", "last": None}


def test_a_checkpoint_without_a_monitor_does_not_replace_the_best(fit):
    trainer = fit([PERIODIC], "--best.monitor=val/pair_loss")
    assert kept(trainer) == {"{step}": None, "best-{step}": "val/pair_loss", "last": None}


def test_a_last_checkpoint_of_ones_own_is_the_only_one(fit):
    trainer = fit([MONITORED, LAST])
    assert kept(trainer) == {"mine": "val/pair_loss", "final": None}


@pytest.mark.parametrize("option", ["--trainer.enable_checkpointing=false", "--trainer.fast_dev_run=true"])
def test_where_none_are_wanted_none_are_kept(fit, option, tmp_path):
    assert "val/weighted_f1" not in kept(fit(None, option)).values()
    assert not list(tmp_path.rglob("*.ckpt"))
