"""Joint training: the sum of all losses, from the staged checkpoints, with a second loader where there are clips."""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.nn.functional import cross_entropy, kl_div

from merc.batch import ConversationBatch
from merc.callbacks import StoreWriterCallback
from merc.cli import main
from merc.configs.lookup import find_config
from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule, JointDataModule, LipSyncDataModule, LipSyncSource
from merc.features.table import FeaturedCorpus
from merc.fusion import HierarchicalFusion
from merc.graphs import GATEncoder, GCNEncoder, GraphBuilder
from merc.losses import DistillationLoss, FeatureSimilarityLoss, FusionLoss
from merc.speaker import LipSyncNet, SyncScorer
from merc.store import FeatureStore, StoreError
from merc.tasks import (
    EmotionValueTargets,
    FusionTask,
    JointTask,
    LipSyncTask,
    StudentTask,
    TeacherTask,
    ValueTargets,
)
from support.made_batches import facts_of, make_batch
from support.quiet_trainer import trainer_in
from support.tiny_lips import SIZE, still, talk, write_stores

DIMS = {"text": 5, "audio": 6, "visual": 3}
D = 8
GRAPH = GraphBuilder(past=2, future=2, speaker=1, similar=1)


def adam(lr):
    return partial(torch.optim.AdamW, lr=lr)


def student(name, **options):
    encoder = {"audio": GCNEncoder, "visual": GATEncoder}[name]
    return StudentTask(partial(encoder, hidden_dim=D, num_layers=2), name, optimizer=adam(2e-3), **options)


def teacher(**options):
    return TeacherTask(partial(GATEncoder, hidden_dim=D, num_layers=2), optimizer=adam(4e-3), **options)


def fusion(**options):
    options = {"optimizer": adam(1e-3), "head_weights": {"balance": 0.25}, **options}
    return FusionTask(partial(HierarchicalFusion, dim=16), partial(FusionLoss, projection_dim=8), **options)


def lipsync():
    network = LipSyncNet(size=SIZE, width=4, hidden=8, dropout=0.0)
    return LipSyncTask(network, scorer=SyncScorer(window=24, hop=12), pair_frames=48, optimizer=adam(5e-3))


def joint(**options):
    students = {name: student(name) for name in ("audio", "visual")}
    return JointTask(students, options.pop("fusion", None) or fusion(), **options)


def built(task=None, **options):
    """A joint task for made-up batches."""
    task = task or joint(**options)
    return task.build(facts_of({**DIMS, "text": DIMS["text"] if task.teacher else D, "teacher": 4}))


@pytest.fixture
def batch():
    """A batch as the stores of a frozen teacher give it."""
    return made({"text": D, "audio": 6, "visual": 3, "teacher": 4})


@pytest.fixture
def raw():
    """A batch with the text that a teacher reads."""
    return made(DIMS)


def made(dims, lengths=(4, 1, 6)):
    batch = make_batch(lengths, dims, absent=0.3)
    batch.edges = {name: GRAPH(batch, name) for name in DIMS}
    return batch


# The loss


def distilled(logits, batch, present):
    """Eq. 10, 21, 22, one utterance after the other."""
    known = batch.label >= 0
    divergence = [
        kl_div((s / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="sum")
        for s, t, here in zip(logits, batch.features["teacher"], present, strict=True)
        if here
    ]
    return 0.65 * cross_entropy(logits[known], batch.label[known]) + 0.35 * 4 * torch.stack(divergence).mean()


def by_hand(task, batch, dis=0.3):
    """Eq. 1 without synchrony, from the networks alone."""
    features, total = dict(batch.features), 0
    for name, part in task.students.items():
        logits, hidden = part.network(batch.features[name], batch.present[name], batch.edges[name])
        features[name] = torch.where(batch.present[name][:, None], hidden, 0.0)
        total = total + dis * distilled(logits, batch, batch.present["teacher"])
    inputs = ConversationBatch(features, batch.present, batch.label, batch.speaker, batch.position, batch.ptr)
    out = task.fusion.head(inputs)
    members = [sum(task.fusion.loss(vote, batch.label, out.embeddings).values()) for vote in out.votes]
    total = total + torch.stack(members).mean()
    aux = []
    for name, logits in out.aux_logits.items():
        rows = batch.present[name] & (batch.label >= 0)
        aux.append(cross_entropy(logits[rows], batch.label[rows]))
    return out.logits, total + 0.25 * out.losses["balance"] + 0.1 * sum(aux) / 3


@pytest.mark.parametrize("weight", [0.3, 0.0, 2.0])
def test_the_loss_is_the_sum_of_the_parts(batch, weight):
    task = built(distillation_weight=weight).eval()
    found = task.step(batch)
    logits, loss = by_hand(task, batch, weight)
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.loss, loss)
    assert {name.split("/")[0] for name in found.terms} == {"fusion"} | ({"audio", "visual"} if weight else set())


def step(task, batch):
    """The loss of a training step, and what it logs."""
    logged = {}
    task.log = lambda name, value, **options: logged.update({name: value})
    loss = task.training_step(batch, 0)
    task.on_train_epoch_end()
    return loss, logged


@pytest.mark.parametrize("weight", [0.15, 0.0, 1.0])
def test_synchrony_joins_the_sum_in_training(batch, lips, weight):
    task = built(lipsync=lipsync(), sync_weight=weight).eval()
    lips = next(iter(lips_data(lips).train_dataloader()))
    loss, logged = step(task, {"conversations": batch, "lipsync": lips})
    video, speaks = task.lipsync.network.embed_video(lips.crops)
    sync = sum(task.lipsync.loss(video, task.lipsync.network.embed_audio(lips.sound), lips.kinds).values())
    known = lips.speaks >= 0
    sync = sync + 0.2 * torch.nn.functional.binary_cross_entropy_with_logits(speaks[known], lips.speaks[known].float())
    torch.testing.assert_close(loss, by_hand(task, batch)[1] + weight * sync)
    terms = {name.removeprefix("train/"): value for name, value in logged.items() if name != "train/loss"}
    torch.testing.assert_close(torch.stack(list(terms.values())).sum(), loss.detach())
    expected = {f"{m}/{t}" for m in ("audio", "visual") for t in ("ce", "kl")}
    expected |= {f"fusion/{t}" for t in ("comp", "smooth", "cont", "head/balance", "aux")}
    assert terms.keys() == expected | ({"lipsync/rank", "lipsync/align", "lipsync/activity"} if weight else set())


def test_gradients_reach_every_parameter(raw, lips):
    task = built(teacher=teacher(), lipsync=lipsync()).train()
    lips = next(iter(lips_data(lips).train_dataloader()))
    loss, _ = step(task, {"conversations": raw, "lipsync": lips})
    loss.backward()
    assert [name for name, p in task.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_fusion_teaches_the_students(batch):
    task = built(distillation_weight=0.0)
    task.step(batch).loss.backward()
    for name, part in task.students.items():
        assert part.network.project.weight.grad.any(), name
        assert part.network.classify.weight.grad is None  # nothing but distillation reads it


# The teacher


def test_a_frozen_teacher_is_no_part_of_the_task_and_gets_no_gradient(batch):
    for name in ("teacher", "text"):
        batch.features[name].requires_grad_()
    task = built()
    loss = task.step(batch).loss
    assert torch.autograd.grad(loss, batch.features["teacher"], allow_unused=True, retain_graph=True) == (None,)
    assert task.parts.keys() == {"audio", "visual", "fusion"}
    assert task.inputs == {"text": D, "audio": 6, "visual": 3}


def test_a_teacher_that_trains_learns_from_its_labels_and_the_fusion_not_from_its_students(raw):
    task = built(teacher=teacher())
    terms = task.step(raw).terms
    weights = list(task.teacher.parameters())

    def reached(*names):
        total = sum(terms[name] for name in names)
        return any(g is not None for g in torch.autograd.grad(total, weights, allow_unused=True, retain_graph=True))

    assert not reached("audio/kl", "audio/ce", "visual/kl", "visual/ce")
    assert reached("fusion/comp") and reached("teacher/ce")
    assert task.inputs == DIMS
    assert "teacher/ce" not in built(teacher=teacher(), teacher_weight=0.0).step(raw).terms


def test_a_teacher_that_trains_gives_what_its_stores_would(raw):
    task = built(teacher=teacher()).eval()
    said = task.teacher.step(raw)
    stored = {"text": said.hidden * raw.present["text"][:, None], "teacher": said.logits}
    frozen = built().eval()
    frozen.load_state_dict({k: v for k, v in task.state_dict().items() if not k.startswith("teacher.")})
    raw.features |= {name: value.detach() for name, value in stored.items()}
    raw.present["teacher"] = raw.present["text"]
    expected = frozen.step(raw)
    raw.features["text"] = made(DIMS).features["text"]
    found = task.step(raw)
    torch.testing.assert_close(found.logits, expected.logits)
    for name, term in expected.terms.items():
        torch.testing.assert_close(found.terms[name], term)


def test_hidden_states_of_a_teacher_that_trains_reach_a_loss_on_them(raw):
    students = {"audio": student("audio", feature_loss=FeatureSimilarityLoss())}
    both = FusionTask(partial(HierarchicalFusion, dim=16), modalities=["text", "audio"])
    task = built(JointTask(students, both, teacher=teacher()))
    assert "audio/feature" in task.step(raw).terms


# One evaluation path


def test_a_prediction_depends_on_its_own_conversation_alone(batch):
    task = built().eval()
    whole = task.step(batch).logits
    for index in range(batch.num_conversations):
        alone = task.step(batch.select([index])).logits
        rows = slice(int(batch.ptr[index]), int(batch.ptr[index + 1]))
        torch.testing.assert_close(alone, whole[rows], atol=1e-5, rtol=0)
    turned = task.step(batch.select([2, 0, 1])).logits
    torch.testing.assert_close(turned[: batch.lengths[2]], whole[batch.ptr[2] :], atol=1e-5, rtol=0)


def test_what_is_absent_is_not_read(batch):
    task = built().eval()
    before = task.step(batch)
    for name in DIMS:
        batch.features[name] = batch.features[name].masked_fill(~batch.present[name][:, None], 1e4)
    after = task.step(batch)
    torch.testing.assert_close(after.logits[batch.present["text"]], before.logits[batch.present["text"]])


def test_the_fusion_is_given_nothing_where_a_student_has_nothing(batch):
    task, seen = built(), []
    task.fusion.head.register_forward_pre_hook(lambda head, inputs: seen.append(inputs[0].features))
    task.step(batch)
    for name in ("audio", "visual"):
        assert torch.equal(seen[0][name].any(1), batch.present[name])


@pytest.mark.parametrize("absent", [["audio"], ["audio", "visual"], ["text", "audio", "visual"]])
def test_any_subset_of_modalities_trains(batch, absent):
    for name in absent:
        batch.present[name][:] = False
        batch.features[name][:] = 0
    task = built().train()
    loss = task.step(batch).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())


# Learning rates


def test_every_part_has_the_learning_rate_of_its_own_optimizer():
    task = built(teacher=teacher(), lipsync=lipsync())
    groups = task.configure_optimizers().param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rates.keys() == {id(p) for p in task.parameters()}
    expected = {"audio": 2e-3, "visual": 2e-3, "teacher": 4e-3, "fusion": 1e-3, "lipsync": 5e-3}
    for name, part in task.parts.items():
        assert {rates[id(p)] for p in part.parameters()} == {expected[name]}


def test_one_schedule_steps_all_parts():
    made = built(lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1)).configure_optimizers()
    made["optimizer"].step()
    made["lr_scheduler"]["scheduler"].step()
    assert [group["lr"] for group in made["optimizer"].param_groups] == pytest.approx([2e-4, 2e-4, 1e-4])


# Parts that do not fit


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Expected weights >= 0"):
        joint(sync_weight=-1.0)
    with pytest.raises(ValueError, match="no students"):
        JointTask({}, fusion())
    with pytest.raises(ValueError, match="a student of 'audio' under the name 'visual'"):
        JointTask({"visual": student("audio")}, fusion())
    with pytest.raises(ValueError, match="The fusion does not read the hidden states of audio: name them"):
        built(fusion=fusion(modalities=["text", "visual"]))
    with pytest.raises(StoreError, match=r"needs features 'visual', the datamodule has \['audio', 'text'\]"):
        joint().build(facts_of({"text": D, "audio": 6}))
    with pytest.raises(ValueError, match="expected the same class in each, found AdamW and SGD"):
        built(fusion=fusion(optimizer=partial(torch.optim.SGD, lr=0.1))).configure_optimizers()
    scheduled = fusion(lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1))
    with pytest.raises(ValueError, match="give it lr_scheduler, not fusion"):
        joint(fusion=scheduled)
    with pytest.raises(ValueError, match="emotions alone, and the targets of its parts fusion are numbers"):
        joint(fusion=FusionTask(HierarchicalFusion, targets=ValueTargets()))  # D numbers would be scored as D emotions
    with pytest.raises(ValueError, match="the targets of its parts audio are numbers"):
        JointTask({"audio": student("audio", targets=EmotionValueTargets())}, fusion())
    with pytest.raises(ValueError, match="warm_start names lipsync: expected some of audio, visual, fusion"):
        joint(warm_start={"lipsync": "x.ckpt"})


# Under a Trainer

C = 7


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    made = simulate(
        dialogues={"train": 24, "val": 6, "test": 6}, widths=DIMS, latent_dims=dict.fromkeys(DIMS, 3), seed=1
    )
    FeaturedCorpus.save(made, folder)
    return folder


@pytest.fixture(scope="module")
def lips(tmp_path_factory):
    """Clips in which one face speaks, as the arguments of a source."""

    def clip(seed):
        crops, sound = talk(seed)
        return [(0, crops)], sound, 0

    quiet = [(0, still(90))], talk(91)[1], -1
    folder = tmp_path_factory.mktemp("lips")
    source = write_stores(folder, {"train": [*map(clip, range(4)), quiet], "val": [*map(clip, range(70, 73))]})
    return {**source, "speaker": str(folder / "speaker")}


def lips_data(lips, batches=3):
    data = LipSyncDataModule([LipSyncSource(**lips)], window=24, batch_size=4, batches_per_epoch=batches)
    data.setup()
    return data


def conversations(data, stores, graphs=("audio", "visual"), lips=None, **options):
    options = {"batch_size": 80, **options}
    graphs = {name: GRAPH for name in graphs if name in stores}
    if lips is None:
        return ConversationDataModule(data / "corpus.json", stores, graphs, **options)
    return JointDataModule(lips, corpus=data / "corpus.json", stores=stores, graphs=graphs, **options)


def staged(task, module, folder, outputs):
    """Train a stage for an epoch and write its stores, as a pipeline does; its checkpoint."""
    best = ModelCheckpoint(folder, filename="best", monitor="val/weighted_f1", mode="max")
    trainer = trainer_in(folder, best, StoreWriterCallback({name: str(folder / name) for name in outputs}))
    trainer.fit(task, datamodule=module)
    trainer.predict(task, datamodule=module, ckpt_path=best.best_model_path, weights_only=True)
    return best.best_model_path


@pytest.fixture(scope="module")
def chain(data, tmp_path_factory):
    """A staged training: its folder, the stores that joint training reads, the checkpoints that it starts from."""
    L.seed_everything(0, verbose=False)
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("staged")
    features = {name: data / "features" / name for name in DIMS}
    module = conversations(data, {"text": features["text"]}, graphs=["text"])
    found = {"teacher": staged(teacher(), module, out / "teacher", ["hidden", "logits"])}
    for name in ("audio", "visual"):
        stores = {name: features[name], "teacher": out / "teacher/logits"}
        found[name] = staged(student(name), conversations(data, stores), out / name, ["hidden", "logits"])
    hidden = {"text": out / "teacher/hidden", "audio": out / "audio/hidden", "visual": out / "visual/hidden"}
    found["fusion"] = staged(fusion(), conversations(data, hidden), out / "fusion", ["logits"])
    stores = {"text": out / "teacher/hidden", "teacher": out / "teacher/logits"}
    return out, {**features, **stores}, found


def starts(chain, *names):
    return {name: chain[2][name] for name in names or ("audio", "visual", "fusion")}


class First(Callback):
    """What the task says, and its weights, before the first step."""

    def on_train_start(self, trainer, pl_module):
        split = trainer.datamodule.split("test")
        pl_module.eval()
        with torch.no_grad():
            self.keys, self.logits = split.keys, pl_module.step(split).logits
        pl_module.train()
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_a_warm_start_says_what_the_staged_system_says(data, chain, tmp_path, trained):
    names = ("audio", "visual", "fusion", *(["teacher"] if trained else []))
    task = joint(warm_start=starts(chain, *names), teacher=teacher() if trained else None)
    stores = {**chain[1], "text": data / "features/text"} if trained else chain[1]
    first = First()
    trainer_in(tmp_path, first, limit_train_batches=1).fit(
        task, datamodule=conversations(data, stores, graphs=["text", "audio", "visual"] if trained else DIMS)
    )
    staged_logits, there = FeatureStore(chain[0] / "fusion/logits").gather(first.keys)
    assert there.any()
    torch.testing.assert_close(first.logits[there], staged_logits[there], atol=1e-5, rtol=1e-5)
    assert task.origin["started_from"].keys() == set(names)
    said_by = FeatureStore(chain[0] / "audio/hidden").provenance["weights"]
    assert task.origin["started_from"]["audio"] == said_by


def test_without_a_warm_start_nothing_is_read(data, chain, tmp_path):
    task = joint()
    task.build(conversations(data, chain[1]).facts)
    before = {name: value.clone() for name, value in task.state_dict().items()}
    first = First()
    trainer_in(tmp_path, first, limit_train_batches=1).fit(task, datamodule=conversations(data, chain[1]))
    assert all(torch.equal(first.state[name], value) for name, value in before.items())


def test_the_teachers_stores_are_as_they_were(data, chain, tmp_path):
    module = conversations(data, chain[1])
    before = {name: FeatureStore(chain[1][name]).digest for name in ("text", "teacher")}
    rows = {name: module.split("train").features[name].clone() for name in ("text", "teacher")}
    trainer_in(tmp_path).fit(joint(), datamodule=module)
    for name in ("text", "teacher"):
        assert FeatureStore(chain[1][name]).digest == before[name]
        assert torch.equal(module.split("train").features[name], rows[name])


def test_a_cut_training_goes_on_without_the_staged_checkpoints(data, chain, tmp_path):
    paths = {name: shutil.copy(path, tmp_path / f"{name}.ckpt") for name, path in starts(chain).items()}
    module = conversations(data, chain[1])
    last = ModelCheckpoint(tmp_path, filename="last")
    trainer_in(tmp_path, last).fit(joint(warm_start=paths), datamodule=module)
    for path in paths.values():
        Path(path).unlink()
    task, first = joint(warm_start=paths), First()
    trainer = trainer_in(tmp_path, first, epochs=2)
    trainer.fit(task, datamodule=module, ckpt_path=last.best_model_path, weights_only=True)
    saved = torch.load(last.best_model_path, weights_only=True)
    assert all(torch.equal(first.state[name], value) for name, value in saved["state_dict"].items())
    assert trainer.current_epoch == 2
    assert task.origin["started_from"] == saved["merc"]["origin"]["started_from"] != {}
    trainer.fit_loop.max_epochs = 3
    trainer.fit(task, datamodule=module)  # trained weights: nothing is read again
    trainer.test(task, datamodule=module, ckpt_path=last.best_model_path, weights_only=True, verbose=False)
    metrics = json.loads((tmp_path / "report/metrics.json").read_text())
    assert metrics["without"].keys() == metrics["noise"].keys() == {"text", "audio", "visual"}
    assert metrics["noise"]["audio"].keys() == {"0", "0.5", "1", "2"}


def test_checkpoints_that_do_not_fit_are_refused(data, chain, tmp_path):
    def start(**paths):
        trainer_in(tmp_path).fit(joint(warm_start=paths), datamodule=conversations(data, chain[1]))

    with pytest.raises(ValueError, match=r"cannot start its part 'audio' from .*: The checkpoint is of another model"):
        start(audio=chain[2]["visual"])
    with pytest.raises(ValueError, match=r"its part 'fusion' .*expected FusionTask, found StudentTask"):
        start(fusion=chain[2]["audio"])
    with pytest.raises(FileNotFoundError, match=r"No checkpoint .*none\.ckpt"):
        start(audio=str(tmp_path / "none.ckpt"))
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(Path(chain[2]["audio"]).read_bytes()[:1000])
    with pytest.raises(ValueError, match="was not written to its end"):
        start(audio=str(cut))
    foreign = {"state_dict": {}, "pytorch-lightning_version": "2.6.0", "hyper_parameters": {}}
    torch.save(foreign, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="expected StudentTask, found None"):
        start(audio=str(tmp_path / "foreign.ckpt"))


def test_a_checkpoint_of_other_emotions_is_refused(data, chain, tmp_path):
    other = torch.load(chain[2]["audio"], weights_only=True)
    other["merc"]["facts"]["classes"] = [f"e{index}" for index in range(C)]
    torch.save(other, tmp_path / "other.ckpt")
    task = joint(warm_start={"audio": str(tmp_path / "other.ckpt")})
    with pytest.raises(ValueError, match="with the classes"):
        trainer_in(tmp_path).fit(task, datamodule=conversations(data, chain[1]))


def test_the_teacher_is_needed_for_distillation_only(data, chain, tmp_path):
    stores = {name: path for name, path in chain[1].items() if name != "teacher"}
    with pytest.raises(StoreError, match="needs features 'teacher'"):
        trainer_in(tmp_path).fit(joint(), datamodule=conversations(data, stores))
    module = conversations(data, stores)
    task = joint(distillation_weight=0.0)
    trainer_in(tmp_path, limit_train_batches=1).fit(task, datamodule=module)
    trainer_in(tmp_path).test(joint(), datamodule=module, verbose=False)


def test_stores_of_students_and_fusion(data, chain, tmp_path):
    """Steps of no length leave the students where the staged training left them, and so the stores."""
    still_there = dict.fromkeys(("audio", "visual"))
    students = {name: student(name) for name in still_there}
    for part in (*students.values(), both := fusion()):
        part.make_optimizer = partial(torch.optim.SGD, lr=0.0)
    task = JointTask(students, both, warm_start=starts(chain))
    module = conversations(data, chain[1])
    outputs = ["logits", "hidden", "audio/hidden", "visual/logits"]
    writer = StoreWriterCallback({name: str(tmp_path / "out" / name) for name in outputs})
    trainer = trainer_in(tmp_path, writer)
    trainer.fit(task, datamodule=module)
    trainer.predict(task, datamodule=module, return_predictions=False)
    for name in ("audio/hidden", "visual/logits"):
        found, expected = FeatureStore(tmp_path / "out" / name), FeatureStore(chain[0] / name)
        assert list(found.keys) == list(expected.keys) and found.missing == expected.missing
        torch.testing.assert_close(found.gather(found.keys)[0], expected.gather(found.keys)[0], atol=1e-5, rtol=1e-5)
    logits = FeatureStore(tmp_path / "out/logits")
    logits.require(kind="logits", dim=C, classes=module.labels.names)
    assert logits.provenance["task"] == "JointTask" and logits.provenance["started_from"].keys() == starts(chain).keys()
    assert FeatureStore(tmp_path / "out/hidden").dim == 16


# Two loaders


@pytest.mark.parametrize("batches", [1, 50], ids=["few windows", "many windows"])
def test_an_epoch_is_one_pass_through_the_conversations(data, chain, lips, batches):
    module = conversations(data, chain[1], lips=lips_data(lips, batches))
    module.setup("fit")
    loader = module.train_dataloader()
    iter(loader)
    utterances = module.split("train").num_utterances
    assert len(loader) == math.ceil(utterances / 80) > 1
    found = [batch for batch, _, _ in loader]
    assert sum(batch["conversations"].num_conversations for batch in found) == 24
    assert all(len(batch["lipsync"].sound) == 4 for batch in found)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_lips_and_emotions_learn_together(data, chain, lips, tmp_path, precision):
    task = joint(lipsync=lipsync(), warm_start=starts(chain))
    task.lipsync.calibration.fill_(-1.0)
    first, last = First(), ModelCheckpoint(tmp_path, filename="last")
    trainer = trainer_in(tmp_path, first, last, precision=precision)
    module = conversations(data, chain[1], lips=lips_data(lips))
    trainer.fit(task, datamodule=module)
    assert trainer.global_step == math.ceil(module.split("train").num_utterances / 80)
    logged = trainer.callback_metrics.keys()
    assert {"train/lipsync/rank", "train/audio/kl", "train/fusion/comp", "val/weighted_f1"} <= logged
    # A linear layer in front of a softmax over equal things may stand still; here nothing does.
    moved = {name.split(".")[0] for name, p in task.named_parameters() if not torch.equal(p, first.state[name])}
    assert moved == {"students", "fusion", "lipsync"}
    assert all(not torch.equal(p, first.state[f"lipsync.{n}"]) for n, p in task.lipsync.named_parameters())
    assert not torch.isfinite(task.lipsync.calibration).all()  # it was that of other weights
    again = joint(lipsync=lipsync())
    trainer_in(tmp_path).test(
        again, datamodule=module, ckpt_path=last.best_model_path, weights_only=True, verbose=False
    )
    assert again.lipsync.trained_on == "lips/train"
    trainer_in(tmp_path).validate(again.lipsync, datamodule=lips_data(lips), verbose=False)
    assert torch.isfinite(again.lipsync.calibration).all()


class Passes(Callback):
    """The conversations of every step, by the steps that were done before."""

    def __init__(self):
        self.found = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.found[trainer.global_step] = list(batch["conversations"].keys)


@pytest.mark.filterwarnings("error:.*not resumable")
@pytest.mark.parametrize("windows", [1, 50], ids=["few windows", "many windows"])
def test_an_interrupted_epoch_goes_on_with_the_conversations_that_are_left(data, chain, lips, tmp_path, windows):
    def fit(folder, start=None):
        L.seed_everything(0, verbose=False)
        passes, keep = (
            Passes(),
            ModelCheckpoint(folder, filename="{step}", save_top_k=-1, auto_insert_metric_name=False),
        )
        style = {"max_steps": 5, "val_check_interval": 2, "check_val_every_n_epoch": None}
        trainer = trainer_in(folder, passes, keep, epochs=-1, **style)
        module = conversations(data, chain[1], lips=lips_data(lips, windows), batch_size=60)
        trainer.fit(joint(lipsync=lipsync()), datamodule=module, ckpt_path=start, weights_only=True)
        return passes.found

    whole = fit(tmp_path)
    assert len(whole) == 5
    assert fit(tmp_path / "again", tmp_path / "2.ckpt") == {step: keys for step, keys in whole.items() if step >= 2}


class Together(Callback):
    """That all processes have the same weights in the end, which no longer are the first."""

    def on_fit_start(self, trainer, pl_module):
        self.first = [p.detach().clone() for p in pl_module.parameters()]

    def on_fit_end(self, trainer, pl_module):
        weights = torch.cat([p.detach().flatten() for p in pl_module.parameters()])
        everywhere = pl_module.all_gather(weights)
        assert everywhere.shape[0] == 2 and torch.equal(everywhere[0], everywhere[1])
        assert not torch.equal(weights, torch.cat([p.flatten() for p in self.first]))


def test_two_processes_train_together(data, chain, lips, tmp_path):
    task, module = joint(lipsync=lipsync()), conversations(data, chain[1], lips=lips_data(lips))
    trainer = trainer_in(tmp_path, Together(), devices=2, strategy="ddp_spawn")
    trainer.fit(task, datamodule=module)
    assert {"train/lipsync/rank", "train/audio/kl", "val/weighted_f1"} <= trainer.callback_metrics.keys()


def test_lipsync_starts_from_its_own_stage(data, chain, lips, tmp_path):
    alone, module = lipsync(), lips_data(lips)
    best = ModelCheckpoint(tmp_path, filename="lips", monitor="train/loss")
    trainer_in(tmp_path, best).fit(alone, datamodule=module)
    task, first = joint(lipsync=lipsync(), warm_start={"lipsync": best.best_model_path}), First()
    both = conversations(data, chain[1], lips=lips_data(lips))
    trainer_in(tmp_path, first, limit_train_batches=1).fit(task, datamodule=both)
    saved = torch.load(best.best_model_path, weights_only=True)["state_dict"]
    assert all(torch.equal(first.state[f"lipsync.{n}"], v) for n, v in saved.items() if n != "calibration")


def test_clips_are_opened_for_training_only(data, chain, tmp_path):
    nowhere = LipSyncDataModule([LipSyncSource("none", "none", "none", "none")])
    module = conversations(data, chain[1], lips=nowhere)
    trainer_in(tmp_path).test(joint(lipsync=lipsync()), datamodule=module, verbose=False)
    with pytest.raises(FileNotFoundError):
        trainer_in(tmp_path).fit(joint(lipsync=lipsync()), datamodule=conversations(data, chain[1], lips=nowhere))


def test_lips_need_clips_of_their_size(data, chain, lips, tmp_path):
    with pytest.raises(ValueError, match=r"ConversationDataModule has no clips: give merc\.datamodules"):
        trainer_in(tmp_path).fit(joint(lipsync=lipsync()), datamodule=conversations(data, chain[1]))
    wide = LipSyncTask(LipSyncNet(size=32, width=4, hidden=8))
    with pytest.raises(ValueError, match="looks at crops of 32 x 32 pixels, the store has 16 x 16"):
        trainer_in(tmp_path).fit(joint(lipsync=wide), datamodule=conversations(data, chain[1], lips=lips_data(lips)))
    unused = joint(lipsync=lipsync(), sync_weight=0.0)
    trainer_in(tmp_path, limit_train_batches=1).fit(unused, datamodule=conversations(data, chain[1]))


# The command line


@pytest.mark.slow
def test_the_shipped_config_from_the_command_line(data, chain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(Path(find_config("simulated/joint.yaml")).read_text(encoding="utf-8"))
    parts = config["model"]["init_args"]
    for part in parts["students"].values():
        part["init_args"]["network"]["init_args"] |= {"hidden_dim": D, "num_layers": 2}
    parts["fusion"]["init_args"]["head"]["init_args"] |= {"dim": 16, "experts": 4}
    parts["fusion"]["init_args"]["loss"]["init_args"] = {"projection_dim": 8}
    parts["warm_start"] = {name: str(Path(path).absolute()) for name, path in starts(chain).items()}
    config["data"]["init_args"] |= {
        "corpus": str(data / "corpus.json"),
        "stores": {name: str(path) for name, path in chain[1].items()},
    }
    config["trainer"] |= {"max_steps": 2, "val_check_interval": 1, "accelerator": "cpu", "enable_progress_bar": False}
    config["trainer"]["callbacks"] = [
        c for c in config["trainer"]["callbacks"] if "RichProgress" not in c["class_path"]
    ]
    Path("joint.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert main(["fit", "--config", "joint.yaml", "--model.distillation_weight", "0.5"]) == 0
    [run] = Path("lightning_logs").iterdir()
    [best] = (run / "checkpoints").glob("best-*.ckpt")
    task = JointTask.load_from_checkpoint(best, weights_only=True)
    assert task.distillation_weight == 0.5 and isinstance(task.students["audio"].loss, DistillationLoss)
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(best)]) == 0
    given = ["--config", str(run / "config.yaml"), "--ckpt_path", str(best)]
    assert main(["predict", *given, "--out", "out", "--outputs", "[logits, audio/hidden]"]) == 0
    assert FeatureStore("out/audio/hidden").dim == D and FeatureStore("out/logits").dim == C
    assert main(["fit", "--config", "joint.yaml", "--model.warm_start", '{"audio": "nowhere.ckpt"}']) == 1
