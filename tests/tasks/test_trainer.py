"""Strategies that split a network over devices are refused, before anything is built."""

from functools import partial
from types import SimpleNamespace

import pytest
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)

from merc.graphs import GATEncoder
from merc.speaker import LipSyncNet
from merc.tasks import LipSyncTask, TeacherTask
from merc.tasks.trainer import require_whole_network


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
@pytest.mark.parametrize("make", [partial(TeacherTask, partial(GATEncoder)), lambda: LipSyncTask(LipSyncNet())])
def test_tasks_refuse_to_be_split(make, strategy):
    task, unmade = make(), strategy.__new__(strategy)  # some need a device to be made
    task.trainer = SimpleNamespace(strategy=unmade, datamodule=None)
    with pytest.raises(ValueError, match=rf"{strategy.__name__}, which splits a network.* trainer.strategy ddp"):
        task.setup("fit")


def test_one_device_and_ddp_are_accepted():
    for strategy in (SingleDeviceStrategy("cpu"), DDPStrategy()):
        require_whole_network(SimpleNamespace(strategy=strategy))
