"""Recipes in steps and in epochs, and that an interrupted training goes on as if it had not been interrupted."""

import math
import warnings
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from merc.callbacks import WeightEMA
from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule
from merc.features.table import FeaturedCorpus
from merc.graphs import GATEncoder, GraphBuilder
from merc.tasks import TeacherTask
from merc.tasks.schedules import WarmupCosineLR
from support.quiet_trainer import trainer_in

EXPECTED = (  # as the command line does, of what is no matter here
    ".*does not have many workers.*",
    ".*LeafSpec.*",
    ".*The dirpath has changed.*",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    FeaturedCorpus.save(simulate(dialogues={"train": 24, "val": 6, "test": 6}, widths={"text": 16}), folder)
    return folder


def data(folder, batch_size=40):
    stores, graphs = {"text": folder / "features/text"}, {"text": GraphBuilder(past=2, future=2)}
    return ConversationDataModule(folder / "corpus.json", stores, graphs, batch_size=batch_size)


@pytest.fixture(scope="module")
def batches(folder):
    """Batches per epoch."""
    return len(data(folder).train_dataloader())


class Seen(L.Callback):
    """What was trained on and when it was validated, by the steps that were done before."""

    def __init__(self):
        self.batches = {}
        self.validated = {}
        self.rates = []

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self.batches[trainer.global_step] = (trainer.current_epoch, batch_idx, tuple(batch.keys))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_validation_end(self, trainer, task):
        self.validated[trainer.global_step] = float(trainer.callback_metrics["val/loss"])


def after(step, found):
    return {done: value for done, value in found.items() if done >= step}


def task():
    return TeacherTask(
        partial(
            GATEncoder, hidden_dim=8, num_layers=1, heads=2, dropout=0.0, input_dropout=0.0
        ),  # dropout draws numbers
        "text",
        optimizer=partial(torch.optim.AdamW, lr=3e-3),
        lr_scheduler=partial(WarmupCosineLR, warmup=0.2),
    )


def train(folder, style, checkpoints, start=None):
    """Train in a style; what was seen, the weights, and the trainer. A warning is an error."""
    L.seed_everything(0, verbose=False)
    seen = Seen()
    keep = ModelCheckpoint(checkpoints, filename="{step}", save_top_k=-1, auto_insert_metric_name=False)
    trainer = trainer_in(checkpoints, seen, WeightEMA(0.3), keep, num_sanity_val_steps=0, **style)
    trained = task()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for message in EXPECTED:
            warnings.filterwarnings("ignore", message=message)
        trainer.fit(trained, datamodule=data(folder), ckpt_path=start, weights_only=True)
    return seen, trained.state_dict(), trainer


STYLES = {
    "steps": {"epochs": None, "max_steps": 21, "val_check_interval": 3, "check_val_every_n_epoch": None},
    "epochs": {"epochs": 3},
    "half epochs": {"epochs": 2, "val_check_interval": 0.5},
}


@pytest.mark.parametrize("style", STYLES)
def test_from_any_checkpoint_training_goes_on_as_if_it_had_not_been_interrupted(folder, tmp_path, batches, style):
    whole, weights, trainer = train(folder, STYLES[style], tmp_path / "whole")
    assert batches not in (3, 6) and len(whole.validated) > 2
    found = sorted(int(file.stem) for file in (tmp_path / "whole").glob("*.ckpt"))
    assert found == sorted(whole.validated)
    for step in found[:-1]:
        rest, same, again = train(folder, STYLES[style], tmp_path / f"from{step}", tmp_path / f"whole/{step}.ckpt")
        assert rest.batches == after(step, whole.batches)
        assert after(step + 1, rest.validated) == pytest.approx(after(step + 1, whole.validated))
        assert again.current_epoch == trainer.current_epoch and again.global_step == trainer.global_step
        for name, value in weights.items():
            torch.testing.assert_close(same[name], value)


def test_in_steps_validation_and_schedule_do_not_depend_on_epochs(folder, tmp_path, batches):
    seen, _, trainer = train(folder, STYLES["steps"], tmp_path)
    assert trainer.global_step == 21 and 21 % batches  # the last epoch is not finished
    assert list(seen.validated) == [3, 6, 9, 12, 15, 18, 21]
    assert max(seen.rates) == 3e-3 and 0 < seen.rates[-1] < 2e-4 and seen.rates[0] < 1e-3


def test_the_hyperparameters_of_a_paper_mean_what_they_say(folder, tmp_path):
    """16 utterances per batch for 30 epochs, a validation after each."""
    module = data(folder, batch_size=16)
    whole = module.split("train")
    steps = min(whole.num_conversations, math.ceil(whole.num_utterances / 16))
    seen, last = Seen(), ModelCheckpoint(tmp_path, filename="last")
    trainer = trainer_in(tmp_path, seen, last, epochs=30, num_sanity_val_steps=0)
    trainer.fit(task(), datamodule=module)
    assert trainer.global_step == 30 * steps == trainer.estimated_stepping_batches
    assert list(seen.validated) == [steps * epoch for epoch in range(1, 31)]
    assert trainer.current_epoch == 30
    utterances = sorted(key for _, _, keys in after(29 * steps, seen.batches).values() for key in keys)
    assert utterances == sorted(whole.keys)


@pytest.mark.parametrize("short", [{"max_steps": 2}, {"epochs": 1, "limit_train_batches": 2}])
def test_a_training_that_ends_before_its_first_validation_is_refused(folder, tmp_path, short):
    style = {"epochs": None, "val_check_interval": 3, "check_val_every_n_epoch": None, **short}
    with pytest.raises(
        ValueError, match=r"has 2 batches and ends before .* after 3: expected trainer.val_check_interval"
    ):
        trainer_in(tmp_path, **style).fit(task(), datamodule=data(folder))
    trainer_in(tmp_path, **style, limit_val_batches=0).fit(task(), datamodule=data(folder))  # where none is wanted


class Given(TeacherTask):
    """Its loss in a step is the number of the step."""

    def training_step(self, batch, batch_idx):
        moved = 0 * next(self.parameters()).sum()
        return self.add_terms({"ce": torch.tensor(float(self.global_step)) + moved}, 1)


class Means(L.Callback):
    """The means of the loss that were known at the end of every epoch."""

    def __init__(self):
        self.found = []

    def on_train_epoch_end(self, trainer, task):
        self.found.append(float(trainer.callback_metrics["train/ce"]))


def mean(*steps):
    return sum(steps) / len(steps)


def test_means_of_terms_are_of_an_epoch_wherever_validation_comes(folder, tmp_path, batches):
    def fit(start=None, stop=3 * batches - 2):
        means = Means()
        keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, auto_insert_metric_name=False)
        style = {"max_steps": stop, "val_check_interval": batches - 1, "check_val_every_n_epoch": None}
        trainer = trainer_in(tmp_path, means, keep, epochs=-1, num_sanity_val_steps=0, **style)
        module, network = data(folder), partial(GATEncoder, hidden_dim=8, num_layers=1, heads=2)
        trainer.fit(Given(network, "text"), datamodule=module, ckpt_path=start, weights_only=True)
        assert float(trainer.callback_metrics["train/loss"]) == means.found[-1]
        return means.found

    n = batches
    last = mean(*range(2 * n, 3 * n - 2))  # an epoch that ends before its last batch
    assert fit() == [mean(*range(n)), mean(*range(n, 2 * n)), last]
    # What was seen before an interruption is not known any more: the mean is of the rest of the epoch.
    assert fit(tmp_path / f"{2 * n - 2}.ckpt") == [mean(2 * n - 2, 2 * n - 1), last]


def test_progress_in_steps_is_shown_in_epochs(folder, tmp_path, batches):
    trainer = trainer_in(tmp_path, epochs=-1, max_steps=2 * batches + 1, limit_val_batches=0)
    trainer.fit(task(), datamodule=data(folder))
    assert (trainer.global_step, trainer.max_epochs) == (2 * batches + 1, 3)
