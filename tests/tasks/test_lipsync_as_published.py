"""LipSyncNet as the paper has it: pooled vectors, eq. 2-4 alone, one score per utterance."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from merc.callbacks import StoreWriterCallback
from merc.datamodules import LipSyncDataModule, LipSyncSource
from merc.losses import SyncLoss
from merc.speaker import LipSyncNet, PooledLipSyncNet, SyncScorer
from merc.store import FeatureStore
from merc.tasks import LipSyncTask
from support.quiet_trainer import trainer_in
from support.tiny_lips import SIZE, talk, write_stores


def task(network=None):
    return LipSyncTask(
        network or PooledLipSyncNet(size=SIZE, width=8, dropout=0.0),
        loss=SyncLoss(rank=0.7, align=0.3, margin=1.5),
        scorer=SyncScorer(window=None, max_lag=0, activity=0.0),
        activity=0.0,
        pair_frames=48,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lips")
    clips = {seed: talk(seed) for seed in (*range(40), *range(200, 210))}
    splits = {
        "train": [([(0, clips[seed][0])], clips[seed][1], 0) for seed in range(40)],
        "val": [([(0, clips[seed][0])], clips[seed][1], 0) for seed in range(200, 210)],
    }
    source = LipSyncSource(**write_stores(folder, splits))
    L.seed_everything(0)
    torch.set_num_threads(1)
    best = ModelCheckpoint(monitor="val/pair_loss", dirpath=tmp_path_factory.mktemp("checkpoints"))
    trainer, model = trainer_in(folder, best, epochs=6), task()
    data = LipSyncDataModule([source], window=24, batch_size=12, batches_per_epoch=20, max_lag=0)
    trainer.fit(model, datamodule=data)
    return model, trainer.callback_metrics, best.best_model_path, source


def test_it_learns_which_lips_fit(trained):
    _, metrics, _, _ = trained
    assert metrics["val/pair_accuracy"] > 0.7
    assert {"train/rank", "train/align"} <= metrics.keys()
    assert not {"train/contrast", "train/activity"} & metrics.keys()


def test_a_network_without_a_head_for_moving_lips_has_no_such_term():
    model = task()
    model.activity = 0.5
    crops, sound = torch.randint(0, 256, (4, 12, SIZE, SIZE), dtype=torch.uint8), torch.randn(4, 48, 80)
    batch = torch.nn.Module()
    batch.crops, batch.sound, batch.kinds, batch.speaks = crops, sound, 3 - 3 * torch.eye(4).long(), torch.ones(4)
    assert model.terms(batch).keys() == {"rank", "align"}


def test_the_checkpoint_comes_back_and_predicts_the_same(trained, tmp_path):
    model, _, path, source = trained
    again = task()
    for name, network in (("first", model), ("second", again)):
        trainer_in(tmp_path, StoreWriterCallback({"speaker": str(tmp_path / name)})).predict(
            network,
            datamodule=LipSyncDataModule([source], predict_splits=["val"]),
            ckpt_path=path,
            return_predictions=False,
            weights_only=True,
        )
    first, second = (FeatureStore(tmp_path / name) for name in ("first", "second"))
    assert len(first) == 10 and torch.isfinite(again.calibration).all()
    assert all(torch.equal(first[key], second[key]) for key in first.keys)
    assert first.provenance["scorer"]["window"] is None


def test_neither_network_takes_the_checkpoint_of_the_other(trained, tmp_path):
    _, _, path, source = trained
    other = task(LipSyncNet(size=SIZE, width=4, hidden=8))
    with pytest.raises(ValueError, match="checkpoint is of another model"):
        trainer_in(tmp_path).validate(
            other, datamodule=LipSyncDataModule([source]), ckpt_path=path, weights_only=True, verbose=False
        )
