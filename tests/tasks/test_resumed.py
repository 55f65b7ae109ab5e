"""A training that was interrupted and resumed equals the uninterrupted one, bit for bit."""

import random
import shutil
from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from merc.callbacks import WeightEMA
from merc.graphs import GATEncoder
from merc.tasks import TeacherTask
from support import two_processes
from support.quiet_trainer import trainer_in


class Noisy(TeacherTask):
    """Draws random numbers of every kind in its training."""

    def training_step(self, batch, batch_idx):
        drawn = random.random() + np.random.rand() + float(torch.rand(()))
        return super().training_step(batch, batch_idx) * drawn


class Unplugged(Callback):
    """Ends the training in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == self.step:
            raise RuntimeError("unplugged")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("resumed")
    two_processes.prepare(made)
    return made


def fit(make, data, out, *callbacks, start=None):
    L.seed_everything(0, verbose=False)
    last = ModelCheckpoint(out, filename="last", enable_version_counter=False)
    style = {"epochs": 4, "val_check_interval": 2, "check_val_every_n_epoch": None}
    task = make()
    trainer_in(out, last, WeightEMA(0.5), *callbacks, **style).fit(
        task, datamodule=data(), ckpt_path=start, weights_only=True
    )
    return task, torch.load(out / "last.ckpt", weights_only=True)


@pytest.mark.parametrize("name", ["noisy", "student", "fusion", "joint", "lipsync", "text encoder"])
@pytest.mark.parametrize("step", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_a_resumed_training_equals_an_uninterrupted_one(folder, tmp_path, name, step):
    make, data = two_processes.systems(folder)["teacher" if name == "noisy" else name]
    if name == "noisy":
        make = partial(Noisy, partial(GATEncoder, hidden_dim=8), "text")
    whole, after = fit(make, data, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="unplugged"):
        fit(make, data, tmp_path / "cut", Unplugged(step))
    shutil.copy(tmp_path / "cut/last.ckpt", tmp_path / "start.ckpt")
    torch.manual_seed(99)  # a new process has other random numbers
    again, resumed = fit(make, data, tmp_path / "cut", start=tmp_path / "start.ckpt")
    assert resumed["global_step"] == after["global_step"] > step
    for state in ("state_dict", "current_model_state"):
        for key, value in after[state].items():
            assert torch.equal(resumed[state][key], value), key
    if hasattr(again, "origin"):
        assert again.origin["resumed_at"] == [step - step % 2] and whole.origin["resumed_at"] == []
