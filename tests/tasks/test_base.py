"""The chain of tasks under a real Trainer: teacher, students that learn from its store, fusion, report."""

import csv
import json
import warnings
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn

from merc.callbacks import StoreWriterCallback
from merc.conversation import Conversation, Corpus, Utterance
from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule
from merc.evaluation.metrics import confusion_matrix, weighted_f1
from merc.features.table import FeaturedCorpus
from merc.fusion import ConcatFusion, HierarchicalFusion
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder
from merc.labels import MELD, LabelSet
from merc.losses import DistillationLoss, FusionLoss
from merc.store import FeatureStore, StoreError
from merc.tasks.fusion import FusionTask
from merc.tasks.student import StudentTask
from merc.tasks.teacher import TeacherTask
from support.made_batches import facts_of, make_batch
from support.quiet_trainer import trainer_in

WIDTHS = {"text": 16, "audio": 12, "visual": 10}
C = 7
ADAM = partial(torch.optim.AdamW, lr=3e-3)
GAT = partial(GATEncoder, hidden_dim=16, num_layers=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny simulated corpus on disk, without its optima, which take their time."""
    folder = tmp_path_factory.mktemp("data")
    made = simulate(dialogues={"train": 24, "val": 8, "test": 8}, widths=WIDTHS)
    FeaturedCorpus.save(made, folder)
    return folder


def conversations(data, stores, graph=None, **options):
    graphs = {graph: GraphBuilder(past=2, future=2, speaker=1, similar=1)} if graph else None
    return ConversationDataModule(data / "corpus.json", stores, graphs, **options)


def teacher_data(data, **options):
    return conversations(data, {"text": data / "features/text"}, "text", **options)


def teacher_task(**options):
    return TeacherTask(GAT, "text", optimizer=ADAM, **options)


def student_task(**options):
    return StudentTask(partial(GCNEncoder, hidden_dim=16), "audio", optimizer=ADAM, **options)


def best_checkpoint(folder):
    return ModelCheckpoint(folder, filename="best", monitor="val/weighted_f1", mode="max")


def train(task, module, folder, outputs=("hidden", "logits"), epochs=2):
    """Fit, test the best checkpoint and write stores from it; the checkpoint's path."""
    L.seed_everything(0, verbose=False)
    best = best_checkpoint(folder)
    trainer = trainer_in(folder, best, epochs=epochs)
    trainer.fit(task, datamodule=module)
    trainer.test(task, datamodule=module, ckpt_path=best.best_model_path, weights_only=True, verbose=False)
    trainer.callbacks.append(StoreWriterCallback({name: str(folder / name) for name in outputs}))
    trainer.predict(
        task, datamodule=module, ckpt_path=best.best_model_path, weights_only=True, return_predictions=False
    )
    return best.best_model_path


@pytest.fixture(scope="module")
def chain(data, tmp_path_factory):
    """Folder with a trained teacher, student and fusion; the checkpoint of each by name."""
    out = tmp_path_factory.mktemp("run")
    best = {"teacher": train(teacher_task(), teacher_data(data), out / "teacher")}
    stores = {"audio": data / "features/audio", "teacher": out / "teacher/logits"}
    best["student"] = train(student_task(), conversations(data, stores, "audio"), out / "student", ["hidden"])
    stores = {"text": out / "teacher/hidden", "audio": out / "student/hidden"}
    best["fusion"] = train(fusion_task(), conversations(data, stores), out / "fusion", ["logits", "hidden"])
    return out, best


def fusion_task(**options):
    head, loss = partial(HierarchicalFusion, dim=16), partial(FusionLoss, projection_dim=8)
    return FusionTask(head, loss, optimizer=ADAM, **options)


def logits_on(task, module, split="test"):
    task.eval()
    with torch.no_grad():
        return task.step(module.split(split)).logits


class Given(TeacherTask):
    """Has the terms of a loss that were given, by epoch and batch."""

    def training_step(self, batch, batch_idx):
        terms, size = self.given[self.current_epoch][batch_idx]
        moved = 0 * next(self.parameters()).sum()
        return self.add_terms({name: torch.tensor(value) + moved for name, value in terms.items()}, size)


class Seen(L.Callback):
    """The terms that a callback finds at the end of each epoch, as a progress bar does."""

    def __init__(self):
        self.epochs = []

    def on_train_epoch_end(self, trainer, pl_module):
        terms = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("train/")}
        self.epochs.append(terms)


def given_task(*epochs):
    task = Given(GAT, "text", optimizer=ADAM)
    task.given = epochs
    return task


def test_terms_are_logged_as_means_over_the_utterances_of_the_epoch(data, tmp_path):
    """Of two epochs, of batches of different size and of different terms; checkpoints can be chosen by them."""
    first, second = [({"ce": 9.0, "kl": 9.0}, 30), ({"ce": 7.0}, 10)], [({"ce": 1.0, "kl": 4.0}, 30), ({"ce": 7.0}, 10)]
    best, seen = ModelCheckpoint(tmp_path, monitor="train/loss"), Seen()
    trainer = trainer_in(tmp_path, best, seen, epochs=2, limit_train_batches=2)
    trainer.fit(given_task(first, second), datamodule=teacher_data(data, batch_size=80))
    assert seen.epochs == [
        {"train/loss": 15.25, "train/ce": 8.5, "train/kl": 9.0},
        {"train/loss": (30 * 5 + 10 * 7) / 40, "train/ce": (30 * 1 + 10 * 7) / 40, "train/kl": 4.0},
    ]
    assert float(best.best_model_score) == 5.5
    assert float(trainer.logged_metrics["train/ce"]) == 2.5


def test_terms_of_a_training_that_was_cut_are_forgotten(data, tmp_path):
    task, seen = given_task([({"ce": 2.0}, 30)]), Seen()
    task.add_terms({"ce": torch.tensor(9.0)}, 30)  # what Ctrl-C leaves
    trainer_in(tmp_path, seen, limit_train_batches=1).fit(task, datamodule=teacher_data(data))
    assert seen.epochs == [{"train/loss": 2.0, "train/ce": 2.0}]


def test_an_epoch_may_end_before_its_last_batch(data, tmp_path):
    task = given_task([({"ce": 2.0}, 30), ({"ce": 3.0}, 30)])
    trainer = trainer_in(tmp_path, epochs=-1, max_steps=1)
    trainer.fit(task, datamodule=teacher_data(data, batch_size=80))
    assert float(trainer.callback_metrics["train/ce"]) == 2.0


@pytest.mark.parametrize("stage", ["teacher", "student", "fusion"])
def test_every_stage_leaves_a_report_that_adds_up(data, chain, stage):
    folder = chain[0] / stage / "report"
    names = ["metrics.json", "predictions.csv", "confusion.png", "report.md", "uncertainty.png"]
    assert sorted(f.name for f in folder.iterdir()) == sorted(names)
    metrics = json.loads((folder / "metrics.json").read_text())
    corpus = Corpus.load(data / "corpus.json")
    utterances = {str(key): u for c in corpus["test"] for key, u in zip(c.keys, c.utterances, strict=True)}
    with (folder / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(utterances) == metrics["utterances"]
    said = [(row["speaker"], row["text"]) for row in rows]
    assert said == [(u.speaker, u.text) for u in utterances.values()]
    names = corpus.labels.names
    gold = torch.tensor([names.index(u.label) for u in utterances.values()])
    store = FeatureStore(chain[0] / stage / "logits") if stage != "student" else None
    if store is not None:
        logits, present = store.gather([k for c in corpus["test"] for k in c.keys])
        told = [names.index(row["predicted"]) for row in rows]
        assert torch.tensor(told)[present].tolist() == logits[present].argmax(1).tolist()
    predicted = torch.tensor([names.index(row["predicted"]) for row in rows])
    expected = weighted_f1(confusion_matrix(predicted, gold, C).double()).item()
    assert metrics["weighted_f1"] == pytest.approx(expected)
    assert metrics["info"]["split"] == "test" and metrics["info"]["seed"] == 0
    assert metrics["info"]["selected_on"].startswith("best val/weighted_f1 = 0.")
    inputs = {"teacher": ["text"], "student": ["audio"], "fusion": ["text", "audio"]}[stage]
    assert list(metrics["missing"]) == inputs


def test_stores_hold_what_the_best_checkpoint_says(data, chain):
    out, best = chain
    task = TeacherTask.load_from_checkpoint(best["teacher"], weights_only=True)
    module = teacher_data(data)
    for split in ("train", "val", "test"):
        batch = module.split(split)
        logits, present = FeatureStore(out / "teacher/logits").gather(batch.keys)
        assert torch.equal(present, batch.present["text"])
        torch.testing.assert_close(logits[present], logits_on(task, module, split)[present], atol=1e-5, rtol=1e-4)


def test_stores_know_where_they_come_from(data, chain):
    out, _ = chain
    about = FeatureStore(out / "student/hidden").provenance
    digest = {
        "audio": FeatureStore(data / "features/audio").digest,
        "teacher": FeatureStore(out / "teacher/logits").digest,
    }
    assert about["task"] == "StudentTask" and about["modules"] == ["GCNEncoder", "DistillationLoss"]
    assert about["trained_on"] == "simulated/train" and about["selected_on"] == "simulated/val"
    assert about["trained_with"] == digest and about["inputs"] == {"audio": digest["audio"]}
    assert about["classes"] == list(Corpus.load(data / "corpus.json").labels.names)
    assert about["weights"] != FeatureStore(out / "teacher/hidden").provenance["weights"]


def test_stores_say_why_an_utterance_is_missing(chain):
    missing = FeatureStore(chain[0] / "teacher/hidden").missing
    assert missing and set(missing.values()) == {"text: absent at random in the simulation"}


def test_weights_that_were_never_trained_say_so(data, tmp_path):
    trainer = trainer_in(tmp_path, StoreWriterCallback({"logits": str(tmp_path / "logits")}))
    trainer.predict(teacher_task(), datamodule=teacher_data(data), return_predictions=False)
    assert FeatureStore(tmp_path / "logits").provenance["trained_on"] == "nothing"


def test_the_origin_of_weights_follows_them_to_another_corpus(data, chain, tmp_path):
    renamed = replace(Corpus.load(data / "corpus.json"), name="elsewhere")
    module = ConversationDataModule(renamed, {"text": data / "features/text"}, teacher_data(data).graphs)
    trainer = trainer_in(tmp_path, StoreWriterCallback({"logits": str(tmp_path / "logits")}))
    trainer.predict(teacher_task(), datamodule=module, ckpt_path=chain[1]["teacher"], weights_only=True)
    assert FeatureStore(tmp_path / "logits").provenance["trained_on"] == "simulated/train"


def test_checkpoints_load_as_plain_values(chain):
    for path in chain[1].values():
        checkpoint = torch.load(path, weights_only=True)
        assert len(checkpoint["merc"]["facts"]["classes"]) == C
        json.dumps(checkpoint["merc"])


def test_a_test_run_reads_the_given_checkpoint(data, chain, tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.test(
        teacher_task(), datamodule=teacher_data(data), ckpt_path=chain[1]["teacher"], weights_only=True, verbose=False
    )
    first, again = (json.loads((f / "report/metrics.json").read_text()) for f in (chain[0] / "teacher", tmp_path))
    assert again["weighted_f1"] == first["weighted_f1"] and again["confusion"] == first["confusion"]
    assert again["info"]["selected_on"] == first["info"]["selected_on"]  # the checkpoint itself tells


def test_untested_weights_are_called_that(data, tmp_path):
    trainer_in(tmp_path).test(teacher_task(), datamodule=teacher_data(data), verbose=False)
    info = json.loads((tmp_path / "report/metrics.json").read_text())["info"]
    assert info["selected_on"] == "nothing: the weights in memory, without a checkpoint"


def test_validation_scores_what_training_logged(data, chain, tmp_path):
    checkpoint = torch.load(chain[1]["teacher"], weights_only=True)
    (state,) = [s for name, s in checkpoint["callbacks"].items() if name.startswith("ModelCheckpoint")]
    found = trainer_in(tmp_path).validate(
        teacher_task(), datamodule=teacher_data(data), ckpt_path=chain[1]["teacher"], weights_only=True, verbose=False
    )
    assert found[0]["val/weighted_f1"] == pytest.approx(float(state["best_model_score"]), abs=1e-6)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (
            lambda: TeacherTask(partial(GCNEncoder, hidden_dim=16), "text"),
            r"another model \(modules: expected \['GCNEncoder', .*found \['GATEncoder',",
        ),
        (
            lambda: TeacherTask(partial(GAT, hidden_dim=8), "text"),
            r"network.absent: expected \(8,\), found \(16,\)",
        ),
        (
            lambda: TeacherTask(partial(GAT, num_layers=1), "text"),
            r"network.norms.1.weight: expected None, found \(16,\)",
        ),
    ],
)
def test_the_checkpoint_of_another_model_is_refused(data, chain, tmp_path, other, says):
    with pytest.raises(ValueError, match=says):
        trainer_in(tmp_path).test(
            other(), datamodule=teacher_data(data), ckpt_path=chain[1]["teacher"], weights_only=True
        )
    assert not (tmp_path / "report").exists()


def test_a_checkpoint_from_elsewhere_is_refused(data, tmp_path):
    trainer = trainer_in(tmp_path, limit_train_batches=1, limit_val_batches=1)
    trainer.fit(BoringModel())
    trainer.save_checkpoint(tmp_path / "boring.ckpt", weights_only=True)
    with pytest.raises(ValueError, match="task: expected TeacherTask, found None"):
        trainer_in(tmp_path).test(
            teacher_task(), datamodule=teacher_data(data), ckpt_path=tmp_path / "boring.ckpt", weights_only=True
        )


def relabelled(data, names):
    """The corpus on disk with other names for its emotions."""
    corpus = Corpus.load(data / "corpus.json")
    new = dict(zip(corpus.labels.names, names, strict=True))
    splits = {
        split: [
            replace(c, utterances=tuple(replace(u, label=new[u.label]) for u in c.utterances)) for c in corpus[split]
        ]
        for split in corpus
    }
    return replace(corpus, labels=LabelSet("other", tuple(names)), splits=splits)


def test_weights_of_other_emotions_are_refused(data, chain, tmp_path):
    other = relabelled(data, [f"emotion{i}" for i in range(C)])
    module = ConversationDataModule(other, {"text": data / "features/text"}, teacher_data(data).graphs)
    says = "trained on simulated/train, with the classes .*'neutral'.*the corpus has .*'emotion0'"
    with pytest.raises(ValueError, match=says):
        trainer_in(tmp_path).test(teacher_task(), datamodule=module, ckpt_path=chain[1]["teacher"], weights_only=True)
    task = teacher_task()
    task.on_load_checkpoint(torch.load(chain[1]["teacher"], weights_only=True))
    with pytest.raises(ValueError, match=says):
        trainer_in(tmp_path).test(task, datamodule=module)
    stores = {"audio": data / "features/audio", "teacher": chain[0] / "teacher/logits"}
    module = ConversationDataModule(other, stores, {"audio": GraphBuilder()})
    with pytest.raises(StoreError, match=r"logits has the classes \['neutral'.*expected \['emotion0'"):
        trainer_in(tmp_path).fit(student_task(), datamodule=module)


def test_what_does_not_fit_is_refused_before_the_first_step(data, chain, tmp_path):
    def fit(task, stores, graph):
        trainer_in(tmp_path).fit(task, datamodule=conversations(data, stores, graph))

    audio, text = data / "features/audio", data / "features/text"
    with pytest.raises(StoreError, match=r"features/text has vectors of width 16, expected 12"):
        twelve = student_task().build(facts_of({"audio": 12}, Corpus.load(data / "corpus.json").labels))
        fit(twelve, {"audio": text, "teacher": chain[0] / "teacher/logits"}, "audio")
    with pytest.raises(StoreError, match=r"needs features 'text', the datamodule has \['audio'\]: add --data.stores.t"):
        fit(teacher_task(), {"audio": audio}, None)
    with pytest.raises(StoreError, match=r"needs features 'teacher', the datamodule has \['audio'\]"):
        fit(student_task(), {"audio": audio}, "audio")
    with pytest.raises(StoreError, match=r"teacher/hidden holds hidden, expected logits: give the store that fits"):
        fit(student_task(), {"audio": audio, "teacher": chain[0] / "teacher/hidden"}, "audio")
    four = teacher_task().build(facts_of({"text": 16}))
    with pytest.raises(ValueError, match=r"with the classes \['calm', .*the corpus has \['neutral', "):
        fit(four, {"text": text}, "text")
    with pytest.raises(TypeError, match=r"expects a ConversationDataModule, found NoneType: pass trainer\.fit"):
        trainer_in(tmp_path).fit(teacher_task(), torch.utils.data.DataLoader(range(3)))


def test_a_student_reads_its_teacher_and_does_not_ask_again(data, chain, tmp_path):
    """Another store of logits gives another loss; the student holds no teacher."""
    out, _ = chain
    assert not any("teacher" in name for name, _ in student_task().build(facts_of({"audio": 12})).named_modules())
    other = FeatureStore(out / "teacher/logits")
    flat, _ = other.gather(other.keys)
    FeatureStore.write(
        tmp_path / "flat", other.keys, torch.zeros_like(flat), kind="logits", provenance=other.provenance
    )
    L.seed_everything(0, verbose=False)
    task = student_task().build(facts_of({"audio": 12}, C)).eval()
    losses = {}
    for name, folder in (("teacher", out / "teacher/logits"), ("flat", tmp_path / "flat")):
        module = conversations(data, {"audio": data / "features/audio", "teacher": folder}, "audio")
        losses[name] = {key: term.item() for key, term in task.step(module.split("train")).terms.items()}
    assert losses["teacher"]["ce"] == losses["flat"]["ce"]
    assert abs(losses["teacher"]["kl"] - losses["flat"]["kl"]) > 1e-3


def test_a_student_needs_its_teacher_to_learn_only(data, chain, tmp_path):
    module = conversations(data, {"audio": data / "features/audio"}, "audio")
    trainer_in(tmp_path).test(
        student_task(), datamodule=module, ckpt_path=chain[1]["student"], weights_only=True, verbose=False
    )
    first, again = (json.loads((f / "report/metrics.json").read_text()) for f in (chain[0] / "student", tmp_path))
    assert again["confusion"] == first["confusion"]
    alone = student_task(loss=DistillationLoss(alpha=1.0))
    trainer_in(tmp_path).fit(alone, datamodule=module)


def test_the_best_epoch_is_tested_and_not_the_last(data, tmp_path):
    """Training that goes wrong after its best epoch, and a report that does not show it."""

    class Forgetful(TeacherTask):
        def on_train_epoch_start(self):
            if self.current_epoch == 2:
                with torch.no_grad():
                    self.network.classify.weight.zero_()
                    self.network.classify.bias.copy_(torch.eye(C)[2] * 100)

    L.seed_everything(0, verbose=False)
    task = Forgetful(GAT, "text", optimizer=ADAM)
    module, best = teacher_data(data), best_checkpoint(tmp_path)
    trainer = trainer_in(tmp_path, best, epochs=3, limit_train_batches=1)
    trainer.fit(task, datamodule=module)
    last = trainer.test(task, datamodule=module, ckpt_path=None, verbose=False)
    assert (logits_on(task, module).argmax(1) == 2).all()  # the last epoch knows one emotion
    found = trainer.test(task, datamodule=module, ckpt_path="best", weights_only=True, verbose=False)
    assert found[0]["test/weighted_f1"] > last[0]["test/weighted_f1"]
    report = json.loads((tmp_path / "report/metrics.json").read_text())
    assert report["weighted_f1"] == pytest.approx(found[0]["test/weighted_f1"])
    loaded = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert torch.equal(task.network.classify.weight, loaded["network.classify.weight"])


def test_rows_of_a_cut_test_are_not_reported(data, tmp_path):
    task, module = teacher_task(), teacher_data(data, eval_batch_size=20)
    task._tested = [{"keys": ["stale"]}]  # what Ctrl-C leaves
    trainer_in(tmp_path).test(task, datamodule=module, verbose=False)
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    assert metrics["utterances"] == module.split("test").num_utterances


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_trains(data, tmp_path, precision):
    trainer = trainer_in(tmp_path, precision=precision)
    task, module = teacher_task(), teacher_data(data)
    trainer.fit(task, datamodule=module)
    trainer.test(task, datamodule=module, verbose=False)
    assert all(p.isfinite().all() for p in task.parameters())


# Fusion


def test_parameters_of_the_loss_are_in_the_optimizer():
    task = fusion_task().build(facts_of({"text": 16, "audio": 16}))
    held = {id(p) for group in task.configure_optimizers().param_groups for p in group["params"]}
    assert held == {id(p) for p in task.parameters()}
    assert {id(p) for p in task.loss.projection.parameters()} <= held


def test_a_schedule_is_stepped_and_may_watch_validation():
    schedule = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, mode="max")
    made = fusion_task(lr_scheduler=schedule).build(facts_of({"text": 16})).configure_optimizers()
    assert made["lr_scheduler"]["monitor"] == "val/weighted_f1"


@pytest.fixture
def batch():
    return make_batch([30, 20, 50], {"text": 16, "audio": 16}, absent=0.3)


def four(head=None, **options):
    head = head or partial(HierarchicalFusion, dim=16)
    return FusionTask(head, **options).build(facts_of({"text": 16, "audio": 16}))


def test_modality_dropout_keeps_one_and_never_adds(batch):
    task = four(modality_dropout=0.9).train()
    dropped = task._drop_modalities(batch)
    had = torch.stack([batch.present[n] for n in task.head.dims])
    has = torch.stack([dropped.present[n] for n in task.head.dims])
    assert not (has & ~had).any()
    assert torch.equal(has.any(0), had.any(0))
    both = had.all(0)
    assert (has[:, both].sum(0) == 1).float().mean() > 0.7
    for name, features in dropped.features.items():
        assert torch.equal(features, batch.features[name] * dropped.present[name][:, None])
    assert had.sum() > has.sum() and torch.equal(torch.stack([batch.present[n] for n in task.head.dims]), had)


def test_modality_dropout_is_for_training_only(batch):
    task = four(modality_dropout=0.9).eval()
    plain = four(modality_dropout=0.0).eval()
    plain.load_state_dict(task.state_dict())
    with torch.no_grad():
        assert torch.equal(task.step(batch).logits, plain.step(batch).logits)


def test_terms_are_weighted_and_those_of_weight_zero_are_left_out(batch):
    head = HierarchicalFusion({"text": 16, "audio": 16}, 4, dim=16).eval()
    out = head(batch)
    ce = sum(nn.functional.cross_entropy(votes, batch.label).item() for votes in out.votes) / 3
    terms = four(lambda dims, classes: head, aux_weight=0.0, head_weights={"balance": 0.0}).eval().step(batch).terms
    assert {name: t.item() for name, t in terms.items()} == {"ce": pytest.approx(ce, abs=1e-5)}
    terms = four(lambda dims, classes: head, aux_weight=0.5, head_weights={"balance": 0.25}).eval().step(batch).terms
    assert terms["head/balance"].item() == pytest.approx(0.25 * out.losses["balance"].item())
    aux = []
    for name, logits in out.aux_logits.items():
        rows = batch.present[name] & (batch.label >= 0)
        aux.append(nn.functional.cross_entropy(logits[rows], batch.label[rows]).item())
    assert terms["aux"].item() == pytest.approx(0.5 * sum(aux) / 2, abs=1e-5)


def test_members_of_an_ensemble_learn_from_their_own_mistakes(batch):
    """Under a loss of the mean, two heads get one gradient, whatever they say: their differences would stay noise."""
    torch.manual_seed(0)
    head = HierarchicalFusion({"text": 16, "audio": 16}, 4, dim=16, dropout=0.0)
    with torch.no_grad():  # of one classifier of the hidden layer: only what the heads say differs
        for other in head.heads[1:]:
            other.load_state_dict(head.heads[0].state_dict())
        head.heads[1][-1].bias += torch.tensor([3.0, 0.0, 0.0, 0.0])
    sum(four(lambda dims, classes: head, aux_weight=0.0).step(batch).terms.values()).backward()
    first, second, third = (member[-1].bias.grad for member in head.heads)
    assert (first - second).abs().max() > 0.1 * first.abs().max()
    torch.testing.assert_close(first, third)


def test_options_of_fusion_are_checked():
    with pytest.raises(ValueError, match=r"modality_dropout in \[0, 1\), got .*, 1.0"):
        four(modality_dropout=1.0)
    with pytest.raises(ValueError, match="Expected weights >= 0"):
        four(head_weights={"balance": -1.0})


def test_a_head_of_ones_own_size_is_told_apart(data, chain, tmp_path):
    stores = {"text": chain[0] / "teacher/hidden", "audio": chain[0] / "student/hidden"}
    concat = FusionTask(ConcatFusion, FusionLoss)
    with pytest.raises(ValueError, match=r"expected \['ConcatFusion', 'FusionLoss'\], found \['HierarchicalFusion'"):
        trainer_in(tmp_path).test(
            concat, datamodule=conversations(data, stores), ckpt_path=chain[1]["fusion"], weights_only=True
        )


def test_a_weight_that_no_term_of_the_head_has_is_told(data, tmp_path):
    stores = {name: data / "features" / name for name in ("text", "audio")}
    module = conversations(data, stores)
    task = FusionTask(ConcatFusion, head_weights={"balance": 0.5, "other": 0.0}, optimizer=ADAM)
    with pytest.warns(UserWarning, match=r"names balance, which changes nothing: ConcatFusion .* no loss terms"):
        trainer_in(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(task, datamodule=module)
    module.setup()
    task = FusionTask(ConcatFusion, head_weights={"balance": 0.5}, optimizer=ADAM).build(module.facts)
    with pytest.warns(UserWarning, match="names balance"):  # with the first batch, not after an epoch of hours
        task.train().step(module.split("val"))
    with warnings.catch_warnings(action="error"):
        task.step(module.split("val"))


def test_the_ledger_tells_corpora_stores_and_warm_starts_apart(monkeypatch):
    def digest(label="joy", store="a", **started):
        utterance = Utterance("0", "A", "oh", label=label)
        corpus = Corpus("toy", MELD, {"test": [Conversation("0", (utterance,), "test")]})
        task = teacher_task()
        task.origin = {"started_from": started}
        read = SimpleNamespace(corpus=corpus, stores={"text": SimpleNamespace(digest=store)})
        monkeypatch.setattr(TeacherTask, "data", read)
        return task._inputs()

    assert digest() == digest()
    assert len({digest(), digest(label="fear"), digest(store="b"), digest(text="weights")}) == 4
