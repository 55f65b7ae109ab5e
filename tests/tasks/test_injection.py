"""Heads, networks and losses are made from what the data knows: on any corpus, from the command line and in Python."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from made_batches import facts_of, make_batch
from quiet_trainer import trainer_in
from torch import nn

from merc.cli import main
from merc.cli.lightning import MercCLI
from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule
from merc.fusion import ConcatFusion, FusionHead, FusionOutput
from merc.graphs import GATEncoder, GraphBuilder
from merc.losses import FusionLoss, LogitAdjusted
from merc.store import StoreError
from merc.tasks import FusionTask, TeacherTask

OWN = """
import torch
from torch import nn
from merc.fusion import FusionHead, FusionOutput

class Own(FusionHead):
    def __init__(self, dims: dict[str, int], num_classes: int, dropout: float = 0.35, scale: float = 1.0) -> None:
        super().__init__(dims, num_classes)
        self.dropout, self.scale = dropout, scale
        self.classify = nn.Sequential(nn.Dropout(dropout), nn.Linear(sum(dims.values()), num_classes))

    def forward(self, batch):
        fused = torch.cat([batch.features[name] for name in self.dims], dim=-1)
        return FusionOutput(logits=self.scale * self.classify(fused), embeddings=fused)

class Weighted(nn.Module):
    def __init__(self, dim: int, weight: float = 1.0) -> None:
        super().__init__()
        self.dim, self.weight = dim, weight

    def forward(self, logits, label, embeddings=None):
        return {"ce": self.weight * nn.functional.cross_entropy(logits, label, ignore_index=-100)}
"""
CORPORA = {
    "three": (dict.fromkeys(("calm", "cross", "glad"), 1), {"text": 5, "audio": 4}),
    "seven": (None, {"audio": 6, "visual": 3, "text": 9}),
}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two corpora with other emotions, other modalities and other widths."""
    folder = tmp_path_factory.mktemp("corpora")
    for name, (emotions, widths) in CORPORA.items():
        options = {} if emotions is None else {"emotions": emotions}
        latent = dict.fromkeys(widths, 2)
        sizes = {"train": 12, "val": 6, "test": 6}
        simulate(dialogues=sizes, widths=widths, latent_dims=latent, **options).save(folder / name)
    return folder


def data_of(corpora, name):
    stores = {modality: corpora / name / "features" / modality for modality in CORPORA[name][1]}
    return ConversationDataModule(corpora / name / "corpus.json", stores)


def options_of(corpora, name):
    stores = {modality: str(corpora / name / "features" / modality) for modality in CORPORA[name][1]}
    return [
        f"--data.corpus={corpora / name / 'corpus.json'}",
        f"--data.stores={stores}",
        "--trainer.accelerator=cpu",
        "--trainer.max_epochs=1",
    ]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a package of one's own."""
    (tmp_path / "own_head.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CORPORA)
def test_a_head_of_ones_own_needs_no_option_on_any_corpus(name, corpora, place):
    fit = ["fit", "--config", "systems/concat.yaml", "--model.head", "own_head.Own", *options_of(corpora, name)]
    assert main(fit) == 0
    [run] = Path("lightning_logs").iterdir()
    kept = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["head"]
    assert kept == {"class_path": "own_head.Own", "init_args": {"dropout": 0.0, "scale": 1.0}}
    task = FusionTask.load_from_checkpoint(run / "checkpoints/last.ckpt", weights_only=True)
    assert task.head.dims == CORPORA[name][1] and type(task.head).__name__ == "Own"
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/last.ckpt")]) == 0


def parsed(*args):
    return MercCLI(["--config", "systems/concat.yaml", *args], run=False).model


def test_two_configs_merge_inside_the_head_and_the_loss(place):
    loss = {"class_path": "own_head.Weighted", "init_args": {"weight": 3.0}}
    first = {"head": {"class_path": "own_head.Own", "init_args": {"dropout": 0.5, "scale": 4.0}}, "loss": loss}
    Path("first.yaml").write_text(yaml.safe_dump({"model": {"init_args": first}}))
    Path("second.yaml").write_text("model: {init_args: {head: {init_args: {scale: 2.0}}, modalities: [text]}}")
    task = parsed(
        "--config", "first.yaml", "--config", "second.yaml", "--model.init_args.head.init_args.dropout", "0.2"
    )
    task.build(facts_of({"text": 3, "audio": 5}))
    assert (task.head.dropout, task.head.scale, task.head.dims) == (0.2, 2.0, {"text": 3})
    assert (task.loss.dim, task.loss.weight) == (3, 3.0)


def test_a_width_is_no_option(place):
    with pytest.raises(Exception, match="Option 'num_classes' is not accepted"):
        parsed("--model.head.num_classes", "7")


# Checkpoints


def made_here(**options):
    optimizer = partial(torch.optim.AdamW, lr=1e-2)
    loss = partial(FusionLoss, projection_dim=4, comp=LogitAdjusted(0.5))
    return FusionTask(partial(ConcatFusion, hidden_dim=8), loss, optimizer=optimizer, **options)


def trained(task, data, folder, *callbacks, **options):
    keep = ModelCheckpoint(folder, filename="kept")
    trainer_in(folder, keep, *callbacks, **options).fit(task, datamodule=data)
    return keep.best_model_path


@pytest.fixture(scope="module")
def kept(corpora, tmp_path_factory):
    """A task, as training left it, and its checkpoint."""
    task = made_here()
    return task, trained(task, data_of(corpora, "three"), tmp_path_factory.mktemp("kept"))


def test_a_checkpoint_of_python_needs_neither_config_nor_data(kept, corpora, tmp_path):
    task, path = kept
    loaded = FusionTask.load_from_checkpoint(path, weights_only=True)
    assert loaded.facts == data_of(corpora, "three").facts == task.facts
    assert loaded.loss.comp.class_counts == list(task.facts.class_counts)
    recorded = torch.load(path, weights_only=True)["merc"]
    assert recorded["modalities"] == {"text": 5, "audio": 4} and recorded["embedding_dim"] == 8
    batch = data_of(corpora, "three").split("val")
    torch.testing.assert_close(loaded.eval().predict(batch).logits, task.eval().predict(batch).logits)
    trainer_in(tmp_path).test(loaded, datamodule=data_of(corpora, "three"), verbose=False)
    assert (tmp_path / "report/report.md").is_file()
    assert loaded.configure_optimizers().param_groups[0]["lr"] == 1e-2


def wider(corpora, folder):
    """The corpus of three emotions, with other features of its text."""
    emotions, widths = CORPORA["three"]
    latent = dict.fromkeys(widths, 2)
    sizes = {"train": 12, "val": 6, "test": 6}
    simulate(dialogues=sizes, widths={**widths, "text": 8}, latent_dims=latent, emotions=emotions).save(folder)
    stores = {name: folder / "features" / name for name in widths}
    return ConversationDataModule(folder / "corpus.json", stores)


@pytest.mark.parametrize("how", ["loaded in Python", "given to the Trainer"])
def test_a_checkpoint_of_other_widths_emotions_or_stores_is_refused(how, kept, corpora, tmp_path):
    _, path = kept

    def test(data):
        trainer = trainer_in(tmp_path)
        if how == "loaded in Python":
            trainer.test(FusionTask.load_from_checkpoint(path, weights_only=True), datamodule=data)
        else:
            trainer.test(made_here(), datamodule=data, ckpt_path=path, weights_only=True)

    with pytest.raises(StoreError, match=r"features/text has vectors of width 8, expected 5: give a store like"):
        test(wider(corpora, tmp_path / "wider"))
    seven = data_of(corpora, "seven")
    narrow = simulate(
        dialogues={"train": 8, "test": 4}, widths=CORPORA["three"][1], latent_dims={"text": 2, "audio": 2}
    )
    narrow.save(tmp_path / "narrow")
    stores = {name: tmp_path / "narrow/features" / name for name in ("text", "audio")}
    with pytest.raises(ValueError, match=r"on simulated/train, with the classes \['calm', .* has \['neutral', "):
        test(ConversationDataModule(tmp_path / "narrow/corpus.json", stores))
    with pytest.raises(StoreError, match=r"needs features 'audio', the datamodule has \['text'\]"):
        test(ConversationDataModule(corpora / "three/corpus.json", {"text": corpora / "three/features/text"}))
    with pytest.raises(StoreError, match="expected 5"):
        test(seven)
    assert not (tmp_path / "report").exists()


def test_a_checkpoint_that_tells_no_facts_is_refused(kept, tmp_path):
    checkpoint = torch.load(kept[1], weights_only=True)
    del checkpoint["merc"]["facts"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match="Expected widths, classes, class_counts and modalities, found None"):
        FusionTask.load_from_checkpoint(tmp_path / "old.ckpt", weights_only=True)


# Building


def test_training_with_averaged_weights_builds_before_the_task_is_set_up(corpora, tmp_path):
    average = EMAWeightAveraging(decay=0.5)
    path = trained(made_here(), data_of(corpora, "three"), tmp_path, average)
    assert average._average_model.module.head.dims == {"text": 5, "audio": 4}
    loaded = FusionTask.load_from_checkpoint(path, weights_only=True)
    averaged = average._average_model.module.state_dict()
    assert all(torch.equal(value, averaged[name]) for name, value in loaded.state_dict().items())


def test_the_network_is_built_once(corpora, tmp_path):
    made = []

    def head(dims, num_classes):
        made.append(dims)
        return ConcatFusion(dims, num_classes)

    task, data = FusionTask(head), data_of(corpora, "three")
    for _ in range(2):
        trainer_in(tmp_path, limit_train_batches=1, limit_val_batches=1).fit(task, datamodule=data)
    trainer_in(tmp_path).test(task, datamodule=data, verbose=False)
    assert made == [{"text": 5, "audio": 4}]


def test_first_weights_are_those_of_the_seed_at_any_precision_and_on_any_device(corpora):
    facts = data_of(corpora, "three").facts

    def first():
        torch.manual_seed(3)
        return made_here().build(facts).state_dict()

    full = first()
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):  # as Lightning does for the device of the training
            reduced = first()
        assert torch.get_default_dtype() == torch.bfloat16
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(value, reduced[name]) for name, value in full.items())


def test_looking_at_the_embeddings_changes_nothing():
    torch.manual_seed(3)
    plain = FusionTask(ConcatFusion).build(facts_of({"text": 5}))
    after = torch.rand(2)
    torch.manual_seed(3)
    seen = FusionTask(ConcatFusion, lambda dim: nn.Identity()).build(facts_of({"text": 5}))
    assert torch.equal(torch.rand(2), after)
    assert all(torch.equal(value, seen.state_dict()[name]) for name, value in plain.state_dict().items())
    assert seen.embedding_dim == 256 and seen.head.training
    assert not made_here().eval().build(facts_of({"text": 5})).head.training


def test_a_head_may_read_graphs_and_give_no_embeddings():
    class Graphs(FusionHead):
        def __init__(self, dims, num_classes):
            super().__init__(dims, num_classes)
            self.classify = nn.Linear(sum(dims.values()), num_classes)

        def forward(self, batch):
            assert batch.edges["text"].index.shape[0] == 2
            return FusionOutput(self.classify(batch.features["text"]))

    with pytest.raises(ValueError, match=r"FusionLoss contrasts embeddings .*head gives none: set lambda_cont to 0"):
        FusionTask(Graphs, FusionLoss).build(facts_of({"text": 4}))
    task = FusionTask(Graphs, partial(FusionLoss, lambda_cont=0)).build(facts_of({"text": 4}))
    assert task.embedding_dim == 0


def test_modalities_are_the_stores_of_the_data_or_some_of_them():
    facts = facts_of({"teacher": 4, "text": 5, "audio": 6})
    assert FusionTask(ConcatFusion).build(facts).inputs == {"text": 5, "audio": 6}
    assert list(FusionTask(ConcatFusion, modalities=["audio", "teacher"]).build(facts).inputs) == ["teacher", "audio"]
    with pytest.raises(StoreError, match=r"needs features 'visual', the datamodule has \['audio', 'teacher', 'text'\]"):
        FusionTask(ConcatFusion, modalities=["visual"]).build(facts)


def test_losses_learn_how_frequent_emotions_are_and_keep_what_the_training_counted(kept, corpora, tmp_path):
    counts = data_of(corpora, "three").facts.class_counts
    task = TeacherTask(partial(GATEncoder, hidden_dim=8, num_layers=1), loss=LogitAdjusted())
    data = data_of(corpora, "three")
    data.graphs = {"text": GraphBuilder()}
    path = trained(task, data, tmp_path)
    assert task.loss.class_counts == list(counts) and sum(counts) > 0
    other = TeacherTask(partial(GATEncoder, hidden_dim=8, num_layers=1), loss=LogitAdjusted())
    other.build(replace(data.facts, class_counts=(0, 0, 0)))  # as conversations without labels have it
    other.on_load_checkpoint(torch.load(path, weights_only=True))
    assert other.loss.class_counts == list(counts)


def test_an_unknown_number_of_emotions_trains_and_predicts():
    task = FusionTask(ConcatFusion).build(facts_of({"text": 5}, 11))
    assert task.predict(make_batch([3], {"text": 5})).logits.shape == (3, 11)
