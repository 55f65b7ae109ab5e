"""Schedules that are as long as the training, and the schedulers of PyTorch beside them."""

import math
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.utils.data import DataLoader

from merc.tasks.optimizers import scheduled
from merc.tasks.schedules import WarmupCosineLR, WarmupLinearLR
from support.quiet_trainer import trainer_in


def optimizer(*rates):
    return torch.optim.SGD([{"params": [nn.Parameter(torch.ones(1))], "lr": rate} for rate in rates])


def rates_of(schedule, steps):
    """The learning rate of every group in every step."""
    found = []
    for _ in range(steps):
        found.append([group["lr"] for group in schedule.optimizer.param_groups])
        schedule.optimizer.step()
        schedule.step()
    return found


def slow(shape, step, steps, warmup, final):
    """The learning rate of a step, written down from the documentation."""
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    progress = (step - warm) / (steps - warm)
    left = {WarmupCosineLR: (1 + math.cos(math.pi * progress)) / 2, WarmupLinearLR: 1 - progress}[shape]
    return final + (1 - final) * left


@pytest.mark.parametrize("shape", [WarmupCosineLR, WarmupLinearLR])
@pytest.mark.parametrize(("steps", "warmup", "final"), [(40, 0.0, 0.0), (40, 0.1, 0.05), (7, 0.5, 1.0), (1, 0.0, 0.0)])
def test_rates_are_those_of_the_formula_in_every_group(shape, steps, warmup, final):
    schedule = shape(optimizer(1.0, 0.01), warmup=warmup, final=final)
    schedule.plan(steps)
    expected = [slow(shape, step, steps, warmup, final) for step in range(steps)]
    found = rates_of(schedule, steps)
    assert [first for first, _ in found] == pytest.approx(expected)
    assert [second for _, second in found] == pytest.approx([0.01 * rate for rate in expected])
    assert min(expected) > 0  # no step is wasted
    assert schedule.get_last_lr() == pytest.approx([final, 0.01 * final])


def test_the_first_rate_is_set_by_the_plan():
    schedule = WarmupLinearLR(optimizer(1.0), warmup=0.5)
    schedule.plan(8)
    assert schedule.optimizer.param_groups[0]["lr"] == pytest.approx(0.2) == schedule.get_last_lr()[0]


def test_more_steps_than_planned_stay_at_the_end():
    schedule = WarmupCosineLR(optimizer(1.0), final=0.1)
    schedule.plan(5)
    assert rates_of(schedule, 9)[5:] == [[pytest.approx(0.1)]] * 4


def test_a_schedule_that_nobody_planned_says_so():
    schedule = WarmupCosineLR(optimizer(1.0))
    schedule.optimizer.step()
    with pytest.raises(RuntimeError, match=r"WarmupCosineLR does not know its length: call plan\(total_steps\)"):
        schedule.step()


@pytest.mark.parametrize("shares", [{"warmup": -0.1}, {"warmup": 1.0}, {"final": 1.5}, {"final": -1.0}])
def test_shares_out_of_range_are_refused(shares):
    with pytest.raises(ValueError, match=r"expected warmup in \[0, 1\) and final in \[0, 1\]"):
        WarmupLinearLR(optimizer(1.0), **shares)


@pytest.mark.parametrize("shape", [WarmupCosineLR, WarmupLinearLR])
def test_it_goes_on_from_its_state(shape, tmp_path):
    whole = shape(optimizer(1.0), warmup=0.2)
    whole.plan(20)
    expected = rates_of(whole, 20)
    first = shape(optimizer(1.0), warmup=0.2)
    first.plan(20)
    rates_of(first, 8)
    torch.save([first.state_dict(), first.optimizer.state_dict()], tmp_path / "state")
    states = torch.load(tmp_path / "state", weights_only=True)  # plain values
    second = shape(optimizer(1.0), warmup=0.2)
    second.plan(20)
    second.load_state_dict(states[0])
    second.optimizer.load_state_dict(states[1])
    assert rates_of(second, 12) == expected[8:]


def test_a_training_that_is_made_longer_gets_a_longer_schedule():
    short = WarmupLinearLR(optimizer(1.0))
    short.plan(10)
    rates_of(short, 5)
    long = WarmupLinearLR(optimizer(1.0))
    long.plan(20)
    long.load_state_dict(short.state_dict())
    rates_of(long, 1)
    assert long.get_last_lr() == [pytest.approx(1 - 6 / 20)]


class Task(L.LightningModule):
    """Trains a number with a schedule, and logs the learning rate of every step."""

    def __init__(self, lr_scheduler, scores=()):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.lr_scheduler = lr_scheduler
        self.scores = list(scores)
        self.rates = []

    def configure_optimizers(self):
        return scheduled(self, torch.optim.SGD(self.parameters(), lr=1.0), self.lr_scheduler, monitor="score")

    def training_step(self, batch, batch_idx):
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return self.weight.square().sum()

    def validation_step(self, batch, batch_idx):
        self.log("score", torch.tensor(self.scores[min(self.current_epoch, len(self.scores) - 1)]))


def fit(folder, schedule, scores=(), batches=4, **options):
    task = Task(schedule, scores)
    data = [DataLoader(torch.zeros(batches), batch_size=1)] + [DataLoader(torch.zeros(1))] * bool(scores)
    trainer_in(folder, **options).fit(task, *data)
    return task.rates


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"epochs": 3}, 12),
        ({"epochs": -1, "max_steps": 7}, 7),
        ({"epochs": 3, "max_steps": 7}, 7),
        ({"epochs": 1, "max_steps": 7}, 4),
        ({"epochs": 3, "accumulate_grad_batches": 2}, 6),
        ({"epochs": 3, "limit_train_batches": 2}, 6),
    ],
)
def test_a_planned_schedule_is_as_long_as_the_training(tmp_path, options, steps):
    rates = list(dict.fromkeys(fit(tmp_path, WarmupLinearLR, **options)))
    assert rates == pytest.approx([1 - step / steps for step in range(steps)])


def test_a_schedule_of_pytorch_is_stepped_once_an_epoch(tmp_path):
    rates = fit(tmp_path, partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1), epochs=3, batches=2)
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    "plateau", [torch.optim.lr_scheduler.ReduceLROnPlateau, partial(ReduceLROnPlateau, monitor="score")]
)
def test_a_plateau_is_seen_in_the_metric(tmp_path, plateau):
    rates = fit(tmp_path, partial(plateau, patience=0, factor=0.5), scores=[3.0, 2.0, 2.5, 2.6], epochs=4, batches=1)
    assert rates == [1.0, 1.0, 1.0, 0.5]


def test_without_a_schedule_the_rate_stays(tmp_path):
    assert fit(tmp_path, None, epochs=2, batches=2) == [1.0] * 4


def test_a_training_without_an_end_is_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"WarmupCosineLR follows the number of training steps, and this training has no "
        r"end: set trainer.max_steps or trainer.max_epochs",
    ):
        fit(tmp_path, WarmupCosineLR, epochs=-1, max_time={"seconds": 1})
