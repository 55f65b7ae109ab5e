"""A checkpoint refuses features of another encoder than it was trained on, though they are as wide."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule
from merc.features.table import FeaturedCorpus
from merc.fusion import ConcatFusion
from merc.graphs import GATEncoder, GraphBuilder
from merc.losses import DistillationLoss, FusionLoss
from merc.store import FeatureStore, StoreError
from merc.tasks import FusionTask, JointTask, StudentTask, TeacherTask
from support.quiet_trainer import trainer_in

BERT = {"encoder": "/a/bert", "weights": "w1", "trained_on": "nothing"}
GAT = partial(GATEncoder, hidden_dim=8, num_layers=1, heads=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    widths = {"text": 8, "audio": 8}
    made = simulate(dialogues={"train": 6, "val": 3, "test": 3}, widths=widths, latent_dims={"text": 6, "audio": 6})
    FeaturedCorpus.save(made, folder)
    return folder


def store(data, folder, name="text", **provenance):
    """The features of a modality, said to be of some encoder."""
    given = FeatureStore(data / "features" / name)
    rows, missing = given.gather(given.keys)[0], given.missing
    return FeatureStore.write(folder, given.keys, rows, missing=missing, provenance={**BERT, **provenance})


def module(data, **stores):
    graphs = {name: GraphBuilder(past=1, future=1) for name in stores if name in ("text", "audio")}
    return ConversationDataModule(data / "corpus.json", stores, graphs)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The checkpoint of a teacher."""
    folder = tmp_path_factory.mktemp("trained")
    return fitted(TeacherTask(GAT), module(data, text=store(data, folder / "text")), folder)


def fitted(task, given, folder):
    best = ModelCheckpoint(folder, filename="best", monitor="val/weighted_f1", mode="max")
    trainer_in(folder, best).fit(task, datamodule=given)
    return best.best_model_path


def test_the_checkpoint_records_the_encoders(trained):
    origin = torch.load(trained, weights_only=True)["merc"]["origin"]
    assert origin["encoders"] == {"text": {"encoder": "/a/bert", "weights": "w1"}}


@pytest.mark.parametrize("what", ["validate", "test", "predict", "fit"])
def test_features_of_another_encoder_are_refused_unless_they_are_said_to_mean_the_same(what, data, trained, tmp_path):
    def run(given):
        trainer = trainer_in(tmp_path, epochs=1)
        getattr(trainer, what)(TeacherTask(GAT), datamodule=given, ckpt_path=trained, weights_only=True)

    other = store(data, tmp_path / "text", weights="w2")
    with pytest.raises(StoreError, match=r"text holds 'text' of another encoder .*weights: expected 'w1', found 'w2'"):
        run(module(data, text=other))
    given = module(data, text=other)
    given.other_encoders = True
    run(given)
    run(module(data, text=store(data, tmp_path / "moved", encoder="/b/bert")))


def test_a_task_that_was_loaded_refuses_them_too(data, trained, tmp_path):
    task = TeacherTask.load_from_checkpoint(trained, weights_only=True)
    trainer_in(tmp_path).validate(task, datamodule=module(data, text=store(data, tmp_path / "text")), verbose=False)
    with pytest.raises(StoreError, match="another encoder"):
        other = store(data, tmp_path / "other", encoder="/a/roberta", weights="w2")
        trainer_in(tmp_path).validate(task, datamodule=module(data, text=other), verbose=False)


def joint(warm_start):
    student = StudentTask(GAT, "audio", DistillationLoss(alpha=1.0))
    fusion = FusionTask(partial(ConcatFusion, hidden_dim=8), partial(FusionLoss, projection_dim=4))
    return JointTask({"audio": student}, fusion, warm_start=warm_start)


def test_a_joint_training_starts_from_weights_of_the_same_encoders_alone(data, tmp_path):
    text = store(data, tmp_path / "text", weights="t1")
    audio, other = (store(data, tmp_path / name, "audio", weights=name) for name in ("a1", "a2"))
    student = fitted(StudentTask(GAT, "audio", DistillationLoss(alpha=1.0)), module(data, audio=audio), tmp_path)
    fit = partial(trainer_in(tmp_path / "joint").fit, weights_only=True)
    fit(joint({"audio": student}), datamodule=module(data, text=text, audio=audio))
    with pytest.raises(ValueError, match=r"cannot start its part 'audio' from .*another encoder .*'a1', found 'a2'"):
        fit(joint({"audio": student}), datamodule=module(data, text=text, audio=other))


def test_a_fusion_that_goes_on_jointly_reads_hidden_states_that_are_made_here(data, tmp_path):
    text = store(data, tmp_path / "text", weights="t1")
    audio, hidden = (store(data, tmp_path / name, "audio", weights=name) for name in ("a1", "hidden"))
    task = FusionTask(partial(ConcatFusion, hidden_dim=8), partial(FusionLoss, projection_dim=4))
    fusion = fitted(task, module(data, text=text, audio=hidden), tmp_path)
    fit = partial(trainer_in(tmp_path / "joint").fit, weights_only=True)
    fit(joint({"fusion": fusion}), datamodule=module(data, text=text, audio=audio))
    other = store(data, tmp_path / "other", weights="t2")
    with pytest.raises(ValueError, match=r"cannot start its part 'fusion' .*'t1', found 't2'"):
        fit(joint({"fusion": fusion}), datamodule=module(data, text=other, audio=audio))
