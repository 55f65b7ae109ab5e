"""The moving average of weights whose horizon is a share of the training."""

import warnings

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from merc.callbacks import WeightEMA
from support.quiet_trainer import trainer_in


class Walk(L.LightningModule):
    """A weight that is the number of steps taken, and buffers that are not to be averaged."""

    def __init__(self, late=False):
        super().__init__()
        self.register_buffer("threshold", torch.tensor(float("-inf")))
        self.register_buffer("seen", torch.tensor(0))
        self.validated = []
        if not late:
            self.configure_model()

    def configure_model(self):
        if not hasattr(self, "weight"):
            self.weight = nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        self.seen += 1
        return -self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.validated.append(float(self.weight))
        self.log("score", self.weight.detach().sum())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(folder, average, task=None, batches=10, **options):
    task = task or Walk()
    trainer = trainer_in(folder, average, num_sanity_val_steps=0, **options)
    trainer.fit(task, DataLoader(torch.zeros(batches)), DataLoader(torch.zeros(1)))
    return task


def averages(steps, decay):
    """The average after every step, of weights that count the steps."""
    found = [1.0]
    for weight in range(2, steps + 1):
        found.append(decay * found[-1] + (1 - decay) * weight)
    return found


@pytest.mark.parametrize(("horizon", "decay"), [(0.25, 0.8), (0.5, 0.9), (1.0, 0.95), (0.01, 0.0)])
def test_the_horizon_is_a_share_of_all_steps(tmp_path, horizon, decay):
    average = WeightEMA(horizon)
    task = fit(tmp_path, average, epochs=2)
    assert average.decay == pytest.approx(decay)
    expected = averages(20, decay)
    assert task.validated == pytest.approx([expected[9], expected[19]])
    assert float(task.weight) == pytest.approx(expected[19])  # and is what is kept


def test_the_same_share_of_a_training_in_steps(tmp_path):
    average = WeightEMA(0.25)
    fit(tmp_path, average, epochs=-1, max_steps=40, check_val_every_n_epoch=None, val_check_interval=20)
    assert average.decay == pytest.approx(0.9)


def test_buffers_are_copied_and_not_averaged(tmp_path):
    """An average of -inf and -inf is not a number, and one of counts no count."""
    task = fit(tmp_path, WeightEMA(0.5))
    assert float(task.threshold) == float("-inf") and int(task.seen) == 10


def test_a_network_that_is_built_late_is_averaged_without_a_warning(tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        task = fit(tmp_path, WeightEMA(0.5), Walk(late=True))
    assert not [str(w.message) for w in caught if "configure_model" in str(w.message)]
    assert float(task.weight) == pytest.approx(averages(10, 0.8)[-1])


def test_checkpoints_hold_the_average_and_training_goes_on_from_the_weights(tmp_path):
    save = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, auto_insert_metric_name=False)
    trainer_in(tmp_path, WeightEMA(0.25), save, epochs=2).fit(
        Walk(), DataLoader(torch.zeros(10)), DataLoader(torch.zeros(1))
    )
    expected = averages(20, 0.8)
    assert float(torch.load(tmp_path / "10.ckpt", weights_only=True)["state_dict"]["weight"]) == pytest.approx(
        expected[9]
    )
    again, average = Walk(), WeightEMA(0.25)
    trainer_in(tmp_path / "again", average, epochs=2).fit(
        again,
        DataLoader(torch.zeros(10)),
        DataLoader(torch.zeros(1)),
        ckpt_path=tmp_path / "10.ckpt",
        weights_only=True,
    )
    assert float(again.weight) == pytest.approx(expected[19])


def test_no_horizon_and_no_end_are_refused(tmp_path):
    with pytest.raises(ValueError, match="horizon is a share of all steps: expected a number above 0, found 0"):
        WeightEMA(0)
    with pytest.raises(
        ValueError, match=r"WeightEMA follows the number of training steps, and this training has no end"
    ):
        fit(tmp_path, WeightEMA(), epochs=-1, max_time={"seconds": 1})
