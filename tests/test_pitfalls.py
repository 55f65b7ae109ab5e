"""What goes wrong in the public code of this field, one test each; the rooms' own tests go into depth.

The eighth, wrong sample rates and colour orders, is a matter of decoding media.
"""

import ast
import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import merc
from merc.batch import ConversationBatch, Edges
from merc.callbacks import StoreWriterCallback
from merc.conversation import Conversation, Corpus, Utterance, split_name
from merc.datamodules import ConversationDataModule
from merc.evaluation import EmotionMetrics, audit_batch_independence
from merc.fusion import ConcatFusion, HierarchicalFusion
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder
from merc.losses import DistillationLoss, FusionLoss, PolynomialCrossEntropy, SupervisedContrastiveLoss
from merc.store import FeatureStore, StoreError
from merc.tasks.fusion import FusionTask
from merc.tasks.student import StudentTask
from merc.tasks.teacher import TeacherTask
from support.made_batches import FOUR, facts_of, make_batch
from support.quiet_trainer import trainer_in

DIMS = {"text": 8, "audio": 6}
SOURCES = sorted(Path(merc.__file__).parent.rglob("*.py"))


@pytest.fixture
def batch():
    made = make_batch([5, 1, 3, 9], {**DIMS, "teacher": 4})
    for name in DIMS:
        made.edges[name] = GraphBuilder(past=2, future=2, speaker=1, similar=2)(made, name)
    return made


def corpus_of(batch):
    """The conversations of a batch as a corpus of three splits, and its keys in order."""
    splits = {}
    for split in ("train", "val", "test"):
        splits[split] = [
            Conversation(
                str(number),
                tuple(
                    Utterance(str(row), f"speaker{batch.speaker[row]}", label=FOUR.names[max(batch.label[row], 0)])
                    for row in range(batch.ptr[number], batch.ptr[number + 1])
                ),
                split,
            )
            for number in range(batch.num_conversations)
        ]
    corpus = Corpus("tiny", FOUR, splits)
    return corpus, [key for split in splits for c in corpus[split] for key in c.keys]


@pytest.fixture
def module(batch, tmp_path):
    corpus, keys = corpus_of(batch)
    torch.manual_seed(0)
    store = FeatureStore.write(tmp_path / "text", keys[1:], torch.randn(len(keys) - 1, 8), missing={keys[0]: "cut"})
    return ConversationDataModule(corpus, {"text": store}, {"text": GraphBuilder()})


def teacher():
    return TeacherTask(partial(GATEncoder, hidden_dim=8, num_layers=1, heads=2), optimizer=torch.optim.AdamW)


def test_pitfall_01_predictions_do_not_depend_on_the_batch(batch):
    # tests/test_contract.py audits every network; this one is the whole of the main system.
    head = HierarchicalFusion(DIMS, 4, dim=8, scope="conversation").eval()
    audit_batch_independence(lambda part: head(part).logits, batch).require()


def test_pitfall_02_there_is_no_padding_to_forget(batch):
    dense, mask = batch.to_dense(batch.features["text"])
    assert mask.sum() == batch.num_utterances < mask.numel()
    assert torch.equal(batch.to_flat(dense), batch.features["text"])
    metrics = EmotionMetrics(FOUR)
    metrics.update(torch.randn(batch.num_utterances, 4), batch.label)
    assert metrics.compute()["confusion"].sum() == (batch.label >= 0).sum()


def test_pitfall_03_every_ablation_changes_the_loss_or_the_parameters(batch):
    def student(alpha):
        torch.manual_seed(0)
        task = StudentTask(partial(GCNEncoder, hidden_dim=8), "audio", DistillationLoss(alpha))
        return task.build(facts_of(DIMS)).eval()

    def fusion(loss=FusionLoss, **switches):
        torch.manual_seed(0)
        return FusionTask(partial(HierarchicalFusion, dim=8, **switches), loss).build(facts_of(DIMS)).eval()

    def loss(task):
        return sum(term.item() for term in task.step(batch).terms.values())

    assert abs(loss(student(0.65)) - loss(student(1.0))) > 1e-3
    full = loss(fusion())
    ablations = {
        "fusion loss": fusion(None),
        "polynomial": fusion(partial(FusionLoss, comp=PolynomialCrossEntropy(alpha=0.0))),
        "contrast": fusion(partial(FusionLoss, lambda_cont=0.0)),
        "gating": fusion(gating=False),
        "cross-attention": fusion(cross_attention=False),
        "experts": fusion(experts=0),
    }
    for name, task in ablations.items():
        assert abs(loss(task) - full) > 1e-4, name


def test_pitfall_04_training_does_not_read_the_test_split(module, tmp_path, monkeypatch):
    read = []
    split = ConversationDataModule.split
    monkeypatch.setattr(ConversationDataModule, "split", lambda self, name: read.append(name) or split(self, name))
    best = ModelCheckpoint(tmp_path, monitor="val/weighted_f1", mode="max")
    trainer = trainer_in(tmp_path, best, epochs=2)
    trainer.fit(teacher(), datamodule=module)
    assert set(read) == {"train", "val"}
    trainer.test(datamodule=module, ckpt_path="best", weights_only=True, verbose=False)
    info = json.loads((tmp_path / "report/metrics.json").read_text())["info"]
    assert info["split"] == "test" and info["selected_on"].startswith("best val/weighted_f1")


def test_pitfall_05_the_best_weights_come_from_their_file(module, tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="val/weighted_f1", mode="max", save_weights_only=True)
    trainer = trainer_in(tmp_path, best, epochs=2)
    task = teacher()
    trainer.fit(task, datamodule=module)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.fill_(0.5)
    trainer.test(task, datamodule=module, ckpt_path="best", weights_only=True, verbose=False)
    saved = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in task.state_dict().items())


def test_pitfall_06_nothing_is_silently_zero(module, tmp_path):
    whole = module.split("test")
    train = module.split("train")
    assert not train.present["text"][0] and whole.present["text"].all()
    network = GATEncoder(8, 4, hidden_dim=8).eval()
    network.absent.data.normal_()
    features, edges = torch.zeros_like(whole.features["text"]), whole.edges["text"]
    zeros = network(features, whole.present["text"], edges).logits
    absent = network(features, torch.zeros_like(whole.present["text"]), edges).logits
    assert (zeros - absent).abs().max() > 1e-3
    trainer_in(tmp_path).test(teacher(), datamodule=module, verbose=False)
    assert json.loads((tmp_path / "report/metrics.json").read_text())["missing"] == {"text": 0}
    assert module.missing("train")["text"] == {train.keys[0]: "cut"}


def test_pitfall_07_names_and_widths_are_checked_before_training(module, tmp_path):
    assert split_name("dev") == split_name("val") == "val"
    wide = teacher().build(facts_of({"text": 16}))
    with pytest.raises(StoreError, match="text has vectors of width 8, expected 16: give a store like the one that"):
        trainer_in(tmp_path).fit(wide, datamodule=module)


def test_pitfall_09_a_speaker_is_a_person_in_one_conversation():
    def dialogue(number, names):
        return Conversation(number, tuple(Utterance(f"utt{i}", name) for i, name in enumerate(names)))

    batch = ConversationBatch.from_conversations(
        [dialogue("0", ["Ross", "Joey", "Ross"]), dialogue("1", ["Joey", "Ross", "Joey"])], FOUR
    )
    assert batch.speaker.tolist() == [0, 1, 0, 0, 1, 0]  # the order of appearance, anew in every conversation
    batch.features["text"], batch.present["text"] = torch.randn(6, 3), torch.ones(6, dtype=torch.bool)
    edges = GraphBuilder(past=0, future=0, speaker=2, similar=0)(batch, "text")
    assert sorted(map(tuple, edges.index.T.tolist())) == sorted(
        [(i, i) for i in range(6)] + [(0, 2), (2, 0), (3, 5), (5, 3)]
    )


@pytest.mark.parametrize("network", [GATEncoder, GCNEncoder])
def test_pitfall_10_layers_use_the_weights_of_edges(batch, network):
    model = network(8, 4, hidden_dim=8).eval()
    edges = batch.edges["text"]
    weight = edges.weight * torch.rand_like(edges.weight)
    attributes = torch.cat([edges.attributes[:, :-1], weight[:, None]], dim=1)
    other = Edges(edges.index, attributes, weight, edges.ptr)
    logits = [model(batch.features["text"], batch.present["text"], e).logits for e in (edges, other)]
    assert (logits[0] - logits[1]).abs().max() > 1e-4


def test_pitfall_11_the_anchor_is_no_negative_and_the_loss_is_trained():
    pair = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    loss = SupervisedContrastiveLoss()(pair, torch.tensor([1, 1]))
    assert loss.item() == pytest.approx(0.0, abs=1e-6)  # log 2 with the anchor in its own denominator
    task = FusionTask(partial(ConcatFusion, hidden_dim=8), FusionLoss).build(facts_of(DIMS))
    held = {id(p) for group in task.configure_optimizers().param_groups for p in group["params"]}
    assert all(id(p) in held for p in task.loss.parameters()) and list(task.loss.parameters())


def test_pitfall_12_a_store_tells_its_origin(module, tmp_path):
    task = teacher()
    trainer = trainer_in(tmp_path, StoreWriterCallback({"logits": str(tmp_path / "logits")}))
    trainer.fit(task, datamodule=module)
    trainer.predict(task, datamodule=module, return_predictions=False)
    about = FeatureStore(tmp_path / "logits").provenance
    assert about["trained_on"] == "tiny/train" and about["classes"] == list(FOUR.names)
    assert about["inputs"] == {"text": module.stores["text"].digest}
    first = about["weights"]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(task, datamodule=module)
    trainer.predict(task, datamodule=module, return_predictions=False)
    assert FeatureStore(tmp_path / "logits").provenance["weights"] != first


def test_pitfall_13_features_are_mapped_and_not_parsed(batch, tmp_path):
    _, keys = corpus_of(batch)
    rows = torch.randn(len(keys), 256)
    store = FeatureStore.write(tmp_path / "store", keys, rows)
    assert {file.suffix for file in store.path.glob("[!.]*")} == {".json", ".safetensors"}
    assert (store.path / "manifest.json").stat().st_size < 100 * len(keys) + 2000  # keys, no numbers
    first, _ = store.gather(keys)
    again, _ = store.gather(keys)
    assert first.untyped_storage().data_ptr() == again.untyped_storage().data_ptr()


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(SOURCES[0].parent)))
def test_pitfall_14_no_source_names_a_device_or_somebodys_folder(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    calls = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not calls & {"cuda"}
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    assert not [s for s in strings if re.match(r"(/home/|/root|/Users/|/mnt/|[A-Z]:\\|cuda(:\d)?$)", s)]
