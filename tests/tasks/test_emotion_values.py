"""One network that tells emotions and numbers at once: teacher, student and fusion, report, files, what is refused."""

import json
from dataclasses import replace
from functools import partial

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from merc.callbacks import StoreWriterCallback
from merc.conversation import Corpus
from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule
from merc.evaluation import ValueMetrics, read_predictions, read_value_predictions
from merc.features.table import FeaturedCorpus
from merc.fusion import CMATHFusion, ConcatFusion, HierarchicalFusion, LFVDFusion, TelMEFusion
from merc.graphs import GATEncoder, GraphBuilder
from merc.losses import FusionLoss, LogitAdjusted, ValueL1Loss, ValueMSELoss
from merc.store import FeatureStore
from merc.tasks import EmotionTargets, EmotionValueTargets, FusionTask, StudentTask, TeacherTask, ValueTargets
from merc.tasks.checkpoints import refuse_other_model
from support.quiet_trainer import trainer_in
from support.simulated_values import VALUES, WIDTHS, changed_splits, simulated_values

ADAM = partial(torch.optim.AdamW, lr=1e-2)


@pytest.fixture(scope="module")
def made():
    return simulated_values()


@pytest.fixture(scope="module")
def data(made, tmp_path_factory):
    """On disk; a third of the utterances lack their label, another third their numbers."""
    folder = tmp_path_factory.mktemp("data")
    FeaturedCorpus.save(made, folder)

    def partly(row, utterance):
        return replace(
            utterance,
            label=None if row % 3 == 1 else utterance.label,
            values=None if row % 3 == 2 else utterance.values,
        )

    splits = changed_splits(made, partly)
    Corpus("both", made.corpus.labels, splits, dimensions=made.corpus.dimensions).save(folder / "corpus.json")
    return folder


def conversations(data, stores, graph=None):
    graphs = {graph: GraphBuilder(past=1, future=1, speaker=0, similar=0)} if graph else None
    return ConversationDataModule(data / "corpus.json", stores, graphs)


def train(task, module, folder, epochs):
    L.seed_everything(0, verbose=False)
    best = ModelCheckpoint(folder, filename="best", monitor="val/f1_and_ccc", mode="max")
    trainer = trainer_in(folder, best, epochs=epochs)
    trainer.fit(task, datamodule=module)
    with_best = {"datamodule": module, "ckpt_path": best.best_model_path, "weights_only": True}
    logged = trainer.validate(task, verbose=False, **with_best)[0]
    mean = (logged["val/weighted_f1"] + logged["val/ccc"]) / 2
    assert logged["val/f1_and_ccc"] == pytest.approx(mean, abs=1e-6)
    assert float(best.best_model_score) == pytest.approx(mean, abs=1e-5)
    trainer.test(task, verbose=False, **with_best)
    trainer.callbacks.append(StoreWriterCallback({name: str(folder / name) for name in ("hidden", "logits")}))
    trainer.predict(task, return_predictions=False, **with_best)
    return json.loads(next(folder.rglob("metrics.json")).read_text())


def test_the_whole_chain_learns_both(data, made, tmp_path):
    stores = {"text": data / "features/text"}
    teacher = TeacherTask(
        partial(GATEncoder, hidden_dim=16, num_layers=2), "text", optimizer=ADAM, targets=EmotionValueTargets()
    )
    metrics = train(teacher, conversations(data, stores, "text"), tmp_path / "t", 10)
    assert 0.6 * made.optimal_ccc("test", ["text"]) < metrics["ccc"]
    assert 0.6 * made.optimum("test", ["text"]) < metrics["weighted_f1"]
    assert {"weighted_f1", "ccc"} <= metrics["val"].keys()
    assert {"confusion", "values", "uncertainty"} <= metrics.keys()

    folder = next((tmp_path / "t").rglob("predictions.csv")).parent
    emotions = read_predictions(folder, made.corpus.labels)
    values = read_value_predictions(folder, made.corpus.dimensions)
    assert emotions.keys == values.keys
    assert emotions.metrics()["weighted_f1"] == pytest.approx(metrics["weighted_f1"])
    assert values.scores()["arousal"]["ccc"] == pytest.approx(metrics["values"]["arousal"]["ccc"], abs=1e-5)
    assert (emotions.gold == -100).sum() > 10
    assert values.gold.isnan().all(1).sum() > 10
    text = (folder / "report.md").read_text()
    assert f"weighted F1 {100 * metrics['weighted_f1']:.2f} %, CCC {metrics['ccc']:.3f}" in text.splitlines()[0]
    assert "Acc-7" in text and "confusion.png" in text
    assert {"predictions_val.csv", "confusion.png", "uncertainty.png"} <= {file.name for file in folder.iterdir()}

    # The store has logits, then numbers in the units of the corpus, and says so.
    store = FeatureStore(tmp_path / "t/logits")
    assert store.provenance["values"] == ["sentiment", "arousal"]
    rows, there = store.gather(values.keys)
    assert torch.allclose(rows[there][:, 7:], values.values[there], atol=1e-4)
    assert torch.allclose(rows[there][:, :7].softmax(-1), emotions.probabilities[there], atol=1e-4)

    stores = {"audio": data / "features/audio", "teacher": tmp_path / "t/logits"}
    student = StudentTask(
        partial(GATEncoder, hidden_dim=16, num_layers=1), "audio", optimizer=ADAM, targets=EmotionValueTargets()
    )
    learned = train(student, conversations(data, stores, "audio"), tmp_path / "s", 6)
    assert learned["ccc"] > 0.1

    stores = {"text": tmp_path / "t/hidden", "audio": tmp_path / "s/hidden"}
    head = partial(HierarchicalFusion, dim=32)
    fused = FusionTask(head, FusionLoss, optimizer=ADAM, targets=EmotionValueTargets(ValueL1Loss(), 0.5))
    scores = train(fused, conversations(data, stores), tmp_path / "f", 6)
    assert scores["ccc"] > 0.2
    assert scores["weighted_f1"] > 0.3
    assert set(scores["without"]) == set(scores["without_ccc"]) == {"text", "audio"}
    assert scores["without"]["text"]["0"] == pytest.approx(scores["weighted_f1"])
    again = FusionTask.load_from_checkpoint(tmp_path / "f/best.ckpt", weights_only=True)
    assert again.targets.weight == 0.5
    assert isinstance(again.targets.loss, ValueL1Loss)
    assert again.head.num_values == 2


@pytest.fixture
def batch_and_facts(made):
    module = ConversationDataModule(made.corpus, {}, graphs=None)
    module.setup()
    batch = module.split("val")
    generator = torch.Generator().manual_seed(0)
    for name, width in WIDTHS.items():
        batch.features[name] = torch.randn(batch.num_utterances, width, generator=generator)
        batch.present[name] = torch.ones(batch.num_utterances, dtype=torch.bool)
    return batch, replace(module.facts, widths=WIDTHS, modalities=tuple(WIDTHS))


HEADS = {
    "concat": ConcatFusion,
    "hierarchical": partial(HierarchicalFusion, dim=32),
    "cmath": partial(CMATHFusion, dim=32),
    "lfvd": partial(LFVDFusion, dim=32),
    "telme": partial(TelMEFusion, dim=32, heads=4),
}


@pytest.mark.parametrize("head", HEADS)
def test_heads_need_no_change_and_keep_their_losses_of_emotions(batch_and_facts, head):
    batch, facts = batch_and_facts
    task = FusionTask(HEADS[head], targets=EmotionValueTargets()).build(facts)
    prediction = task.step(batch)
    assert prediction.logits.shape == (batch.num_utterances, 9)
    assert {"ce", "values"} <= prediction.terms.keys()
    assert {"cmath": "head/high_level", "lfvd": "head/full"}.get(head, "ce") in prediction.terms
    prediction.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


def test_what_a_head_makes_of_probabilities_does_not_depend_on_the_numbers(batch_and_facts):
    batch, facts = batch_and_facts
    task = FusionTask(HEADS["hierarchical"], targets=EmotionValueTargets()).build(facts).eval()
    before = task.head(batch)
    with torch.no_grad():
        for module in [*(head[-1] for head in task.head.heads), *task.head.auxiliary.values()]:
            module.bias[7:] += 5.0  # of the numbers
    after = task.head(batch)
    assert not torch.allclose(before.logits[:, 7:], after.logits[:, 7:])
    assert torch.allclose(before.logits[:, :7], after.logits[:, :7])  # through the gates too
    for name, measure in before.uncertainty.items():
        assert torch.allclose(measure, after.uncertainty[name])


def test_the_losses_are_those_of_either_kind_alone_and_are_weighted(batch_and_facts):
    batch, facts = batch_and_facts
    task = FusionTask(ConcatFusion, targets=EmotionValueTargets(ValueMSELoss(), 0.25), aux_weight=0).build(facts).eval()
    found = task.step(batch)
    emotions, values = found.logits[:, :7], found.logits[:, 7:]
    alone = EmotionTargets().default_loss(emotions, batch.label)
    assert found.terms["ce"].item() == pytest.approx(alone.item())
    scaled = ValueTargets().of(batch, facts)
    assert found.terms["values"].item() == pytest.approx(0.25 * (values - scaled).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("targets", [ValueTargets(), EmotionValueTargets()])
def test_reports_have_the_annotated_numbers_though_half_precision_rounds_those_of_a_batch(made, targets):
    splits = {
        split: [
            replace(c, utterances=tuple(replace(u, values={"sentiment": 1.2345, "arousal": 3.3}) for u in c.utterances))
            for c in talks
        ]
        for split, talks in made.corpus.items()
    }
    corpus = Corpus("rounded", made.corpus.labels, splits, dimensions=made.corpus.dimensions)
    module = ConversationDataModule(corpus, {}, graphs=None)
    module.setup()
    batch = module.split("val")
    batch = replace(batch, values=batch.values.bfloat16())  # as Lightning does it for bf16-true
    outputs = torch.zeros(batch.num_utterances, 2 if isinstance(targets, ValueTargets) else 9)
    rows = {"keys": batch.keys, "present": {}, "lines": (), **targets.rows(outputs, batch, module.facts)}
    found = targets.predictions(corpus, rows)
    gold = found.values.gold if isinstance(targets, EmotionValueTargets) else found.gold
    assert torch.equal(gold, torch.tensor([1.2345, 3.3]).expand_as(gold))


@pytest.mark.parametrize("targets", [ValueTargets(), EmotionValueTargets()])
def test_losses_and_scores_are_of_the_annotated_numbers_in_half_precision(made, data, targets, tmp_path, monkeypatch):
    module = ConversationDataModule(made.corpus, {"text": data / "features/text"}, graphs=None, batch_size=40)
    module.setup()
    seen, update, of = {"scores": [], "loss": []}, ValueMetrics.update, ValueTargets.of

    def updated(self, predicted, gold):
        seen["scores"].append(gold)
        update(self, predicted, gold)

    def learned(self, batch, facts):
        seen["loss"].append(of(self, batch, facts))
        return seen["loss"][-1]

    monkeypatch.setattr(ValueMetrics, "update", updated)
    monkeypatch.setattr(ValueTargets, "of", learned)
    task = FusionTask(ConcatFusion, targets=targets, optimizer=partial(torch.optim.AdamW, lr=1e-3))
    trainer = trainer_in(tmp_path, precision="bf16-true")
    trainer.validate(task, datamodule=module, verbose=False)
    exact = module.split("val").values
    assert exact.isfinite().any() and not torch.equal(exact, exact.bfloat16().float().where(~exact.isnan(), 0))
    assert torch.equal(torch.cat(seen["scores"]).nan_to_num(99), exact.nan_to_num(99))
    means, deviations = (torch.tensor(row) for row in zip(*module.facts.values.values(), strict=True))
    wanted = ((exact - means) / deviations).nan_to_num(99)
    assert torch.equal(torch.cat(seen["loss"]).nan_to_num(99), wanted)
    trainer.fit(task, datamodule=module)
    hidden = module.split("val")
    hidden.values = torch.full_like(hidden.values, torch.nan).bfloat16()  # of repeated utterances
    assert module.on_before_batch_transfer(hidden, 0).values.isnan().all()


def test_a_term_of_the_loss_that_is_called_like_the_loss_of_the_numbers_is_refused(batch_and_facts):
    class Named(torch.nn.Module):
        def forward(self, logits, target, embeddings):
            return {"values": logits.mean()}

    batch, facts = batch_and_facts
    task = FusionTask(ConcatFusion, lambda _: Named(), targets=EmotionValueTargets()).build(facts)
    with pytest.raises(ValueError, match=r"Named gives a term 'values', .* EmotionValueTargets .* Rename the term"):
        task.step(batch)


def test_a_loss_that_counts_classes_counts_emotions_alone(batch_and_facts):
    _, facts = batch_and_facts
    encoder = partial(GATEncoder, hidden_dim=16, num_layers=1)
    task = TeacherTask(encoder, loss=LogitAdjusted(), targets=EmotionValueTargets()).build(facts)
    assert task.loss.class_counts == list(facts.class_counts)


def test_what_does_not_fit_is_refused(batch_and_facts, data, made, tmp_path):
    _, facts = batch_and_facts
    encoder = partial(GATEncoder, hidden_dim=16, num_layers=1)
    with pytest.raises(ValueError, match=r"give it as model\.targets\.init_args\.loss"):
        TeacherTask(encoder, loss=ValueMSELoss(), targets=EmotionValueTargets())
    with pytest.raises(ValueError, match="7 emotions and 0 dimensions"):
        TeacherTask(encoder, targets=EmotionValueTargets()).build(replace(facts, values={}))
    with pytest.raises(ValueError, match="expected 0 or more"):
        EmotionValueTargets(weight=-1.0)
    splits = {
        split: [replace(c, utterances=tuple(replace(u, label=None) for u in c.utterances)) for c in talks]
        for split, talks in made.corpus.items()
    }
    corpus = Corpus("numbers", made.corpus.labels, splits, dimensions=made.corpus.dimensions)
    module = ConversationDataModule(corpus, {"text": data / "features/text"}, {"text": GraphBuilder(past=1, future=1)})
    with pytest.raises(ValueError, match="has no labelled utterance"):
        trainer_in(tmp_path, epochs=1).fit(TeacherTask(encoder, targets=EmotionValueTargets()), datamodule=module)


def test_the_highest_concordance_of_equal_numbers_is_0():
    same = dict.fromkeys(("joy", "surprise", "sadness", "anger", "fear", "disgust", "neutral"), 1.0)
    sizes = {"widths": WIDTHS, "latent_dims": dict.fromkeys(WIDTHS, 6)}
    both = {"same": same, "sentiment": VALUES["sentiment"]}
    made = simulate(dialogues={"train": 4, "test": 6}, values=both, **sizes)
    assert 0 < made.optimal_ccc("test", ["text"]) < 0.6  # half of that of sentiment, and not NaN


def test_a_checkpoint_with_modalities_in_another_order_is_refused():
    settings = {"modalities": {"text": 4, "audio": 4}}
    other = {"modalities": {"audio": 4, "text": 4}}
    refuse_other_model(settings, {"modalities": {"text": 4, "audio": 4}}, {}, {})
    with pytest.raises(ValueError, match=r"order text, audio, and the checkpoint audio, text: give the stores in"):
        refuse_other_model(settings, other, {}, {})
