"""Damaged checkpoints, splits without labels and trainings that diverge end in one clear error."""

import random
from dataclasses import replace
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from merc.conversation import Corpus
from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule
from merc.graphs import GATEncoder, GraphBuilder
from merc.store import FeatureStore
from merc.tasks import TeacherTask
from merc.tasks.checkpoints import read_checkpoint
from support.quiet_trainer import trainer_in


def teacher(lr=1e-2):
    return TeacherTask(partial(GATEncoder, hidden_dim=8), optimizer=partial(torch.optim.SGD, lr=lr))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A corpus with features of text, and the checkpoint of a short training."""
    made = tmp_path_factory.mktemp("bad")
    widths = dict.fromkeys(("text", "audio", "visual"), 5)
    simulate(dialogues={"train": 6, "val": 3, "test": 3}, widths=widths, latent_dims=dict.fromkeys(widths, 3)).save(
        made
    )
    L.seed_everything(0, verbose=False)
    keep = ModelCheckpoint(made, filename="good")
    trainer_in(made, keep).fit(teacher(), datamodule=data(made))
    return made


def data(folder, corpus=None):
    return ConversationDataModule(
        corpus or folder / "corpus.json", {"text": folder / "features/text"}, {"text": GraphBuilder()}
    )


def unlabelled(corpus, *splits):
    """The corpus without the labels of some splits."""
    strip = lambda talk: replace(talk, utterances=tuple(replace(u, label=None) for u in talk.utterances))  # noqa: E731
    return replace(corpus, splits={s: [strip(c) if s in splits else c for c in corpus[s]] for s in corpus})


def test_every_flipped_bit_of_a_checkpoint_is_noticed(folder, tmp_path):
    good, draw = (folder / "good.ckpt").read_bytes(), random.Random(0)
    path = tmp_path / "flipped.ckpt"
    for _ in range(60):
        bad = bytearray(good)
        bad[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        try:
            found = read_checkpoint(path)
        except ValueError as error:
            assert "damaged" in str(error) and str(path) in str(error)
        else:  # a bit that no checksum covers, such as of padding, changes no value
            expected = read_checkpoint(folder / "good.ckpt")
            assert all(torch.equal(found["state_dict"][key], value) for key, value in expected["state_dict"].items())


def test_a_damaged_checkpoint_is_refused_from_python(folder, tmp_path):
    checkpoint = torch.load(folder / "good.ckpt", weights_only=True)
    weights = max(checkpoint["state_dict"].values(), key=torch.Tensor.numel)
    bad = bytearray((folder / "good.ckpt").read_bytes())
    at = bad.find(weights.numpy().tobytes())
    assert at > 0
    bad[at + 3] ^= 64  # the exponent of a weight
    path = tmp_path / "bad.ckpt"
    path.write_bytes(bad)
    with pytest.raises(ValueError, match=r"bad.ckpt .* does not match its checksum"):
        TeacherTask.load_from_checkpoint(path, weights_only=True)
    with pytest.raises(ValueError, match=r"bad.ckpt .* does not match its checksum"):
        trainer_in(tmp_path).test(teacher(), datamodule=data(folder), ckpt_path=path, weights_only=True)


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
@pytest.mark.parametrize("lacks", ["labels", "split"])
def test_a_split_that_is_needed_must_be_there_with_labels(folder, tmp_path, stage, lacks):
    corpus, split = Corpus.load(folder), {"fit": "train", "validate": "val", "test": "test"}[stage]
    if lacks == "labels":
        corpus, message = unlabelled(corpus, split), f"Split '{split}' .* has no labelled utterance"
    else:
        corpus, message = replace(corpus, splits={s: corpus[s] for s in corpus if s != split}), f"no split '{split}'"
    task = TeacherTask.load_from_checkpoint(folder / "good.ckpt", weights_only=True)
    with pytest.raises(ValueError, match=message):
        getattr(trainer_in(tmp_path), stage)(task, datamodule=data(folder, corpus))


def test_a_training_needs_no_test_split(folder, tmp_path):
    corpus = Corpus.load(folder)
    two, one = (replace(corpus, splits={s: corpus[s] for s in kept}) for kept in (("train", "val"), ("train",)))
    trainer_in(tmp_path).fit(teacher(), datamodule=data(folder, two))
    trainer_in(tmp_path, limit_val_batches=0).fit(teacher(), datamodule=data(folder, one))


def test_a_graph_that_is_missing_is_named(folder, tmp_path):
    bare = ConversationDataModule(folder / "corpus.json", {"text": folder / "features/text"})
    with pytest.raises(ValueError, match=r"no graph of 'text', found none: .*graphs=\{'text': GraphBuilder"):
        trainer_in(tmp_path).fit(teacher(), datamodule=bare)


def test_a_training_that_diverges_says_so(folder, tmp_path):
    store = FeatureStore(folder / "features/text")
    vectors = store.gather(store.keys)[0] * 1e30
    FeatureStore.write(tmp_path / "huge", store.keys, vectors, kind="features", provenance={"made": "for a test"})
    huge = ConversationDataModule(folder / "corpus.json", {"text": tmp_path / "huge"}, {"text": GraphBuilder()})
    with pytest.raises(ValueError, match=r"not finite .* diverged. Lower the learning rate"):
        trainer_in(tmp_path, num_sanity_val_steps=0).fit(teacher(lr=1e30), datamodule=huge)


ODD = {
    "no version": lambda c: c.pop("pytorch-lightning_version"),
    "no weights": lambda c: c.pop("state_dict"),
    "a number for weights": lambda c: c.update(state_dict=5),
    "a list of callbacks": lambda c: c.update(callbacks=[]),
    "no arguments": lambda c: c.update(hyper_parameters={}),
    "text for arguments": lambda c: c.update(hyper_parameters="x"),
    "no description": lambda c: c.pop("merc"),
    "a description in a list": lambda c: c.update(merc=[]),
    "no facts": lambda c: c["merc"].pop("facts"),
    "a negative width": lambda c: c["merc"]["facts"].update(widths={"text": -1}),
    "classes in a number": lambda c: c["merc"]["facts"].update(classes=3),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_checkpoint_that_holds_something_else_is_refused(folder, tmp_path, odd):
    checkpoint = torch.load(folder / "good.ckpt", weights_only=True)
    ODD[odd](checkpoint)
    torch.save(checkpoint, tmp_path / "odd.ckpt")
    with pytest.raises(ValueError, match=r"checkpoint|odd\.ckpt|Expected widths"):
        TeacherTask.load_from_checkpoint(tmp_path / "odd.ckpt", weights_only=True)
