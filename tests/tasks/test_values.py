"""The chain on numbers: teacher, student that learns from its numbers, fusion by any head, report, what is refused."""

import json
from dataclasses import replace
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from merc.callbacks import StoreWriterCallback
from merc.conversation import Corpus
from merc.datamodules import ConversationDataModule
from merc.evaluation import read_value_predictions
from merc.features.table import FeaturedCorpus
from merc.fusion import CMATHFusion, ConcatFusion, HierarchicalFusion, LFVDFusion
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder
from merc.labels import LabelSet
from merc.losses import (
    DistillationLoss,
    FusionLoss,
    LogitAdjusted,
    ValueDistillationLoss,
    ValueL1Loss,
    ValueMSELoss,
)
from merc.store import FeatureStore
from merc.tasks import FusionTask, StudentTask, TeacherTask, ValueTargets
from support.quiet_trainer import trainer_in
from support.simulated_values import WIDTHS, changed_splits, simulated_values

ADAM = partial(torch.optim.AdamW, lr=1e-2)


@pytest.fixture(scope="module")
def made():
    return simulated_values()


@pytest.fixture(scope="module")
def data(made, tmp_path_factory):
    """On disk, a third of the numbers missing, and no labels at all: a corpus of numbers alone."""
    folder = tmp_path_factory.mktemp("data")
    FeaturedCorpus.save(made, folder)

    def without(row, utterance):
        return replace(utterance, label=None, values=None if row % 3 == 2 else utterance.values)

    splits = changed_splits(made, without)
    corpus = Corpus("numbers", LabelSet("none", ()), splits, dimensions=made.corpus.dimensions)
    corpus.save(folder / "corpus.json")
    assert Corpus.load(folder / "corpus.json").splits == splits
    return folder


def conversations(data, stores, graph=None):
    graphs = {graph: GraphBuilder(past=1, future=1, speaker=0, similar=0)} if graph else None
    return ConversationDataModule(data / "corpus.json", stores, graphs)


def train(task, module, folder, epochs=2):
    L.seed_everything(0, verbose=False)
    best = ModelCheckpoint(folder, filename="best", monitor="val/ccc", mode="max")
    trainer = trainer_in(folder, best, epochs=epochs)
    trainer.fit(task, datamodule=module)
    with_best = {"datamodule": module, "ckpt_path": best.best_model_path, "weights_only": True}
    trainer.validate(task, verbose=False, **with_best)
    trainer.test(task, verbose=False, **with_best)
    trainer.callbacks.append(StoreWriterCallback({name: str(folder / name) for name in ("hidden", "logits")}))
    trainer.predict(task, return_predictions=False, **with_best)
    return json.loads(next(folder.rglob("metrics.json")).read_text())


def teacher(**options):
    return TeacherTask(partial(GATEncoder, hidden_dim=16, num_layers=2), "text", optimizer=ADAM, **options)


def test_the_whole_chain_learns_numbers(data, made, tmp_path):
    text = data / "features/text"
    metrics = train(teacher(targets=ValueTargets()), conversations(data, {"text": text}, "text"), tmp_path / "t", 8)
    optimum = made.optimal_ccc("test", ["text"])
    assert 0.6 * optimum < metrics["ccc"] < 1.15 * optimum
    assert metrics["val"]["ccc"] > 0.3
    assert metrics["dimensions"] == {"sentiment": [-3, 3], "arousal": [0, 6]}
    assert metrics["scored"] < metrics["utterances"]

    found = read_value_predictions(next((tmp_path / "t").rglob("predictions.csv")), made.corpus.dimensions)
    assert found.scores()["arousal"]["ccc"] == pytest.approx(metrics["values"]["arousal"]["ccc"], abs=1e-5)
    # The store of the teacher has the units of the corpus: what it predicts of test is in the table.
    stored, there = FeatureStore(tmp_path / "t/logits").gather(found.keys)
    assert there.any()
    assert torch.allclose(stored[there], found.values[there], atol=1e-4)
    assert found.values[:, 1].mean() > found.values[:, 0].mean() + 1

    stores = {"audio": data / "features/audio", "teacher": tmp_path / "t/logits"}
    student = StudentTask(partial(GCNEncoder, hidden_dim=16), "audio", optimizer=ADAM, targets=ValueTargets())
    learned = train(student, conversations(data, stores, "audio"), tmp_path / "s", 4)
    assert learned["ccc"] > 0.15

    stores = {"text": tmp_path / "t/hidden", "audio": tmp_path / "s/hidden"}
    fused = FusionTask(ConcatFusion, optimizer=ADAM, targets=ValueTargets(ValueL1Loss()))
    scores = train(fused, conversations(data, stores), tmp_path / "f", 4)
    assert scores["ccc"] > 0.4
    assert set(scores["without_ccc"]) == {"text", "audio"}
    text = next((tmp_path / "f").rglob("report.md")).read_text()
    assert "Acc-7" in text
    assert "onfusion" not in text


@pytest.mark.parametrize("head", [ConcatFusion, HierarchicalFusion, CMATHFusion, LFVDFusion])
def test_heads_need_no_change_and_see_no_emotions(made, head):
    module = ConversationDataModule(made.corpus, {}, graphs=None)
    module.setup()
    batch = module.split("val")
    for name, width in WIDTHS.items():
        batch.features[name] = torch.randn(batch.num_utterances, width)
        batch.present[name] = torch.ones(batch.num_utterances, dtype=torch.bool)
    facts = replace(module.facts, widths=WIDTHS, modalities=tuple(WIDTHS))
    task = FusionTask(partial(head, dim=32) if head is not ConcatFusion else head, targets=ValueTargets()).build(facts)
    seen = []
    task.head.register_forward_pre_hook(lambda module, args: seen.append(args[0].label))
    prediction = task.step(batch)
    assert prediction.logits.shape == (batch.num_utterances, 2)
    assert (seen[0] == -100).all()
    assert "values" in prediction.terms
    assert not {"head/high_level", "head/full"} & prediction.terms.keys()
    prediction.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


def test_targets_have_mean_0_and_deviation_1_and_outputs_the_units_of_the_corpus(made):
    module = ConversationDataModule(made.corpus, {})
    module.setup()
    batch, facts, targets = module.split("train"), module.facts, ValueTargets()
    scaled = targets.of(batch, facts)
    assert scaled.mean(0).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert scaled.std(0, correction=0).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert torch.allclose(targets.outputs(scaled, facts), batch.values, atol=1e-5)
    assert type(facts).from_plain(json.loads(json.dumps(facts.plain()))) == facts


def test_losses_of_the_other_kind_are_refused(made):
    for loss in (LogitAdjusted(), DistillationLoss()):
        with pytest.raises(ValueError, match="is a loss of emotions, and the targets are numbers"):
            teacher(loss=loss, targets=ValueTargets())
    with pytest.raises(ValueError, match="is a loss of numbers, and the targets are emotions"):
        teacher(loss=ValueMSELoss())
    with pytest.raises(ValueError, match=r"ValueDistillationLoss is not a loss for this task.*init_args\.loss"):
        teacher(loss=ValueDistillationLoss(), targets=ValueTargets())
    with pytest.raises(ValueError, match="ValueL1Loss is not a loss for this task"):
        StudentTask(partial(GCNEncoder, hidden_dim=16), loss=ValueL1Loss(), targets=ValueTargets())
    module = ConversationDataModule(made.corpus, {})
    facts = replace(module.facts, widths=WIDTHS, modalities=tuple(WIDTHS))
    with pytest.raises(ValueError, match="ValueL1Loss is not a loss for this task"):
        FusionTask(ConcatFusion, loss=lambda width: ValueL1Loss(), targets=ValueTargets()).build(facts)
    with pytest.raises(ValueError, match="FusionLoss is a loss of emotions"):
        FusionTask(ConcatFusion, loss=FusionLoss, targets=ValueTargets()).build(facts)
    with pytest.raises(ValueError, match="the corpus has none"):
        teacher(targets=ValueTargets()).build(replace(facts, values={}))


def test_a_corpus_without_numbers_and_a_checkpoint_of_emotions_are_refused(data, made, tmp_path):
    stores = {"text": data / "features/text"}
    plain = Corpus(
        "plain",
        made.corpus.labels,
        {
            split: [replace(c, utterances=tuple(replace(u, values=None) for u in c.utterances)) for c in talks]
            for split, talks in made.corpus.items()
        },
    )
    module = ConversationDataModule(plain, stores, {"text": GraphBuilder(past=1, future=1)})
    with pytest.raises(ValueError, match="no annotated utterance"):
        trainer_in(tmp_path, epochs=1).fit(teacher(targets=ValueTargets()), datamodule=module)
    trainer = trainer_in(tmp_path, ModelCheckpoint(tmp_path, filename="best", monitor="val/weighted_f1"), epochs=1)
    trainer.fit(teacher(), datamodule=module)
    with pytest.raises(ValueError, match="give a checkpoint that was trained on these"):
        trainer_in(tmp_path, epochs=1).test(
            teacher(targets=ValueTargets()),
            conversations(data, stores, "text"),
            tmp_path / "best.ckpt",
            weights_only=True,
        )
