"""What a task was made with, in plain values; copies that do not drag along what made it."""

import copy
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from merc.fusion import ConcatFusion
from merc.graphs import GATEncoder, GraphBuilder
from merc.losses import DistillationLoss, FusionLoss, LogitAdjusted, PolynomialCrossEntropy, SyncLoss
from merc.speaker import LipSyncNet, SyncScorer
from merc.tasks import FusionTask, JointTask, LipSyncTask, StudentTask, TeacherTask
from merc.tasks.describe import Undescribed, describe
from support.made_batches import facts_of, make_batch
from support.quiet_trainer import trainer_in

DIMS = {"text": 5, "audio": 6}


def wider(dims: dict[str, int], num_classes: int) -> ConcatFusion:
    return ConcatFusion(dims, num_classes, hidden_dim=12)


def path(made):
    return f"{made.__module__}.{made.__qualname__}"


def test_classes_partials_and_objects_become_what_configs_have():
    assert describe([1, 2.5, "x", None, True, Path("a/b"), {"k": (1,)}]) == [1, 2.5, "x", None, True, "a/b", {"k": [1]}]
    assert describe(ConcatFusion) == {"class_path": "merc.fusion.concat.ConcatFusion"}
    assert describe(wider) == path(wider)
    loss = partial(FusionLoss, comp=LogitAdjusted(0.3, class_counts=[4, 1]))
    assert describe(loss)["init_args"] == {
        "comp": {
            "class_path": path(LogitAdjusted),
            "init_args": {
                "tau": 0.3,
                "loss": {"class_path": path(PolynomialCrossEntropy), "init_args": {"alpha": 0.0, "gamma": 1.2}},
                "class_counts": [4, 1],
            },
        }
    }
    assert describe(SyncScorer(window=24))["init_args"]["window"] == 24
    assert describe(SyncLoss(negatives={"shifted": 2.0}))["init_args"]["negatives"]["shifted"] == 2.0
    assert describe(LipSyncNet(hidden=16))["init_args"] == {
        "size": 32,
        "channels": 8,
        "width": 16,
        "hidden": 16,
        "dropout": 0.2,
    }


def test_what_plain_values_cannot_tell_is_refused():
    class Local(nn.Module):
        pass

    for value in (
        lambda: 0,
        untold,
        Local,
        Local(),
        torch.zeros(2),
        partial(ConcatFusion, {"text": 3}),
        nn.Linear(2, 2),
        nn.Sequential(nn.ReLU()),
    ):
        with pytest.raises(Undescribed):
            describe(value)


def untold(dims, num_classes):
    return wider(dims, num_classes)


def saved(task, folder):
    """A checkpoint of a task that no command line has made."""
    if task.facts is None:
        task.build(facts_of(DIMS))
    task.eval()
    trainer = trainer_in(folder)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(folder / "task.ckpt", weights_only=True)
    return folder / "task.ckpt"


@pytest.fixture
def batch():
    made = make_batch([3, 5], {**DIMS, "teacher": 4})
    made.edges = {name: GraphBuilder()(made, name) for name in DIMS}
    return made


def fusion(**options):
    return FusionTask(partial(ConcatFusion, hidden_dim=8), partial(FusionLoss, projection_dim=3), **options)


def student():
    return StudentTask(
        partial(GATEncoder, hidden_dim=8, num_layers=1), "audio", DistillationLoss(0.4), teacher="teacher"
    )


TASKS = {
    "fusion": lambda: fusion(
        head_weights={"x": 2.0},
        modality_dropout=0.2,
        lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2),
    ),
    "fusion of one": lambda: fusion(modalities=["audio"]),
    "fusion by a function": lambda: FusionTask(wider),
    "fusion under an adjusted loss": lambda: FusionTask(ConcatFusion, partial(FusionLoss, comp=LogitAdjusted(0.7))),
    "teacher": lambda: TeacherTask(partial(GATEncoder, hidden_dim=8), optimizer=lambda p: torch.optim.SGD(p, lr=0.1)),
    "student": student,
    "joint": lambda: JointTask(
        {"audio": student()}, fusion(), lipsync=LipSyncTask(LipSyncNet(hidden=8, width=4)), distillation_weight=0.7
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_the_checkpoint_of_a_task_made_in_python_loads_by_itself(name, batch, tmp_path):
    task = TASKS[name]()
    file = saved(task, tmp_path)
    loaded = type(task).load_from_checkpoint(file, weights_only=True)
    assert loaded.facts == task.facts and loaded.inputs == task.inputs
    for before, after in ((task.eval(), loaded.eval()),):
        torch.testing.assert_close(after.step(batch).logits, before.step(batch).logits)
        assert {n: t.item() for n, t in after.step(batch).terms.items()} == pytest.approx(
            {n: t.item() for n, t in before.step(batch).terms.items()}
        )
    again = tmp_path / "again"
    again.mkdir()
    other = saved(loaded, again)  # which the command line's way of making tasks made
    twice = type(task).load_from_checkpoint(other, weights_only=True)
    torch.testing.assert_close(twice.eval().step(batch).logits, task.step(batch).logits)


def test_an_argument_that_cannot_be_described_is_to_be_given(batch, tmp_path):
    head = partial(ConcatFusion, hidden_dim=8)
    task = FusionTask(lambda dims, classes: head(dims, classes))
    file = saved(task, tmp_path)
    says = r"(?s)arguments of its FusionTask: head \(.*lambda.*FusionTask.load_from_checkpoint\(path, head=...\)"
    with pytest.raises(ValueError, match=says):
        FusionTask.load_from_checkpoint(file, weights_only=True)
    for given in (head, lambda dims, classes: head(dims, classes)):
        loaded = FusionTask.load_from_checkpoint(file, weights_only=True, head=given).eval()
        torch.testing.assert_close(loaded.step(batch).logits, task.step(batch).logits)


def test_a_default_that_does_not_fit_is_told(tmp_path):
    file = saved(FusionTask(ConcatFusion, lambda dim: FusionLoss(dim)), tmp_path)
    with pytest.raises(ValueError, match=r"load_from_checkpoint\(path, loss=...\)"):
        FusionTask.load_from_checkpoint(file, weights_only=True)
    assert FusionTask.load_from_checkpoint(file, weights_only=True, loss=FusionLoss).loss.dim == 256


class Held:
    """Makes things, and holds what no copy can be made of, as a callable from the command line does."""

    def __init__(self, make):
        self.make = make
        self.lock = threading.Lock()

    def __call__(self, *given):
        return self.make(*given)


def test_copies_share_what_makes_networks_and_optimizers(batch):
    step = partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    options = {"optimizer": Held(torch.optim.AdamW), "lr_scheduler": Held(step)}
    network = Held(partial(GATEncoder, hidden_dim=8, num_layers=1))
    joint = JointTask(
        {"audio": StudentTask(network, optimizer=Held(torch.optim.AdamW))},
        FusionTask(Held(ConcatFusion), Held(FusionLoss), optimizer=Held(torch.optim.AdamW)),
        lipsync=LipSyncTask(LipSyncNet(), optimizer=Held(torch.optim.AdamW)),
        lr_scheduler=Held(step),
    )
    for task in (FusionTask(Held(ConcatFusion), Held(FusionLoss), **options), TeacherTask(network, **options), joint):
        with pytest.raises(TypeError, match="cannot pickle"):
            copy.deepcopy(task.make_lr_scheduler.make)
        twin = copy.deepcopy(task.build(facts_of(DIMS)))
        assert twin.make_optimizer is task.make_optimizer
        torch.testing.assert_close(twin.eval().step(batch).logits, task.eval().step(batch).logits)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert all(p.any() for n, p in task.named_parameters() if n.endswith("classify.weight"))
