"""Students that are encoders: tuned from clips, taught by stores, interrupted, in half precision, up to the fusion."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.nn import functional as F

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

from merc.callbacks import StoreWriterCallback
from merc.conversation import Clip, Conversation, Corpus, Utterance, UtteranceKey
from merc.datamodules import (
    ConversationDataModule,
    DataFacts,
    FaceReader,
    FrameReader,
    MediaBatch,
    MediaDataModule,
    SoundReader,
    TextDataModule,
)
from merc.encoders import AudioEncoder, FaceBatch, SoundBatch, TextEncoder, VisualEncoder, freeze_layers
from merc.evaluation import read_predictions
from merc.fusion import TelMEFusion
from merc.labels import MELD
from merc.losses import DistillationLoss, DISTLoss, FeatureSimilarityLoss
from merc.media.tracks import FaceTrack, tracks_to_rows
from merc.store import FeatureStore, StoreError
from merc.tasks import EncoderStudentTask, FusionTask
from merc.weights import weights_digest
from support.quiet_trainer import trainer_in
from support.tiny_clips import write_clip
from support.tiny_media import crops, keys, noises, tiny_speech, tiny_video
from support.tiny_text import tiny_bert

EMOTIONS = ("neutral", "joy")
FACTS = DataFacts({}, tuple(MELD.names), (1,) * 7, ())
CLIPS = Path(__file__).parents[3] / "shared/data/clips"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tiny encoders, by modality."""
    places = {name: tmp_path_factory.mktemp(name) for name in ("data2vec-audio", "timesformer", "videomae", "bert")}
    tiny_speech(places["data2vec-audio"], "data2vec-audio")
    tiny_video(places["timesformer"], "timesformer")
    tiny_video(places["videomae"], "videomae")
    tiny_bert(places["bert"])
    return {name: str(place) for name, place in places.items()}


def encoder_of(folders, kind):
    if kind == "data2vec-audio":
        return AudioEncoder(folders[kind], pooling="first")
    return TextEncoder(folders[kind]) if kind == "bert" else VisualEncoder(folders[kind])


MODALITY = {"data2vec-audio": "audio", "timesformer": "visual", "videomae": "visual", "bert": "text"}


def student(folders, kind, **options):
    given = {
        "loss": DISTLoss(alpha=1.0, temperature=4.0),
        "feature_loss": FeatureSimilarityLoss(),
        "optimizer": partial(torch.optim.AdamW, lr=5e-3),
        **options,
    }
    return EncoderStudentTask(encoder_of(folders, kind), MODALITY[kind], **given)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """High tones are glad and show a green square, low ones neutral and red; some clips cannot be read."""
    folder = tmp_path_factory.mktemp("clips")
    files = {
        emotion: [write_clip(folder / f"{emotion}{n}.mp4", 8 + 3 * n, (place,), (250.0, 1500.0)[place]) for n in (0, 1)]
        for place, emotion in enumerate(EMOTIONS)
    }
    deaf = write_clip(folder / "deaf.mp4", 8, silent=True)
    (folder / "broken.mp4").write_text("this is no film")
    splits = {}
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        talks = []
        for d in range(count):
            names = [EMOTIONS[(d + n) % 2] for n in range(3)]
            turns = [
                Utterance(str(n), "AB"[n % 2], f"oh {e}", label=e, media=files[e][n % 2]) for n, e in enumerate(names)
            ]
            talks.append(Conversation(str(d), tuple(turns), split))
        unread = [Utterance("deaf", "A", "oh", label="joy", media=deaf), Utterance("none", "A", "oh", label="joy")]
        unread.append(Utterance("broken", "A", "oh", label="neutral", media=str(folder / "broken.mp4")))
        unread.append(Utterance("unlabelled", "A", "oh", media=files["joy"][0]))
        talks.append(Conversation("unread", tuple(unread), split))
        splits[split] = talks
    return Corpus("toned", MELD, splits)


def all_keys(corpus):
    return [key for split in corpus.values() for talk in split for key in talk.keys]


@pytest.fixture(scope="module")
def teacher(corpus, tmp_path_factory):
    """What a text teacher leaves: logits that lean to the label, and vectors; of one utterance nothing."""
    folder, known = tmp_path_factory.mktemp("teacher"), all_keys(corpus)[1:]
    labels = {k: u.label for split in corpus.values() for c in split for k, u in zip(c.keys, c.utterances, strict=True)}
    right = torch.tensor([MELD.index(labels[key] or "fear") for key in known])
    generator = torch.Generator().manual_seed(0)
    logits = 3 * F.one_hot(right, 7) + 0.1 * torch.randn(len(known), 7, generator=generator)
    hidden = F.one_hot(right, 16) + 0.1 * torch.randn(len(known), 16, generator=generator)
    about = {"classes": list(MELD.names)}
    missing = {all_keys(corpus)[0]: "no words"}
    FeatureStore.write(folder / "logits", known, logits, kind="logits", provenance=about, missing=missing)
    FeatureStore.write(folder / "features", known, hidden, missing=missing)
    return folder


def media(corpus, teacher, kind="data2vec-audio", **options):
    reader = options.pop("reader", SoundReader() if kind == "data2vec-audio" else FrameReader())
    if "stores" not in options:
        options["stores"] = {"teacher": teacher / "logits", "teacher_hidden": teacher / "features"}
    return MediaDataModule(corpus, reader, **{"batch_size": 5, "workers": 0, **options})


def sounds(task, *lengths, missing=0):
    """A batch of noise, some utterances of which cannot be read."""
    names = keys(len(lengths) + missing)
    unread = {key: "no sound" for key in names[len(lengths) :]}
    label = torch.arange(len(names)) % 2
    return MediaBatch(SoundBatch.pad(names[: len(lengths)], noises(*lengths)) if lengths else None, unread, label)


def frames(*lengths):
    return MediaBatch(FaceBatch.pad(keys(len(lengths)), crops(*lengths)), label=torch.arange(len(lengths)) % 2)


def batch_for(kind):
    return sounds(None, 3000, 5000, 4000) if kind == "data2vec-audio" else frames(4, 6, 2)


class Pitch(nn.Module):
    """A sound encoder of one's own, which learns fast what a tone is."""

    dim = 16

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Conv1d(1, 16, 64, 16), nn.ReLU())

    def forward(self, batch):
        return torch.stack([10 * self.network(row[None]).mean(1) for row in batch.rows()])

    def settings(self):
        return {}

    def provenance(self):
        return {"encoder": "pitch", "weights": weights_digest(self)}


# What is learned


def test_a_student_learns_from_clips_and_a_teacher(folders, corpus, teacher, tmp_path):
    L.seed_everything(0, verbose=False)
    keep = ModelCheckpoint(tmp_path, "best", monitor="val/weighted_f1", mode="max")
    run = trainer_in(tmp_path, keep, epochs=8, gradient_clip_val=10.0)
    losses = {"loss": DISTLoss(), "feature_loss": FeatureSimilarityLoss()}
    task = EncoderStudentTask(Pitch(), optimizer=partial(torch.optim.AdamW, lr=2e-2), **losses)
    run.fit(task, datamodule=media(corpus, teacher))
    assert {"train/ce", "train/inter", "train/intra", "train/feature"} <= run.callback_metrics.keys()
    # 6 of 9 labelled utterances are heard; the bias says the same of the others, which is right for one or two.
    assert float(keep.best_model_score) > 0.7

    # It loads by itself, and tests the utterances that it cannot hear too.
    task = EncoderStudentTask.load_from_checkpoint(keep.best_model_path, weights_only=True)
    trainer_in(tmp_path).test(task, datamodule=media(corpus, teacher), verbose=False)
    found = read_predictions(tmp_path / "report")
    assert len(found.keys) == 9 and found.present["audio"].sum() == 6
    unheard = [row for row, key in enumerate(found.keys) if key.dialogue == "unread"]
    assert len({tuple(found.probabilities[row].tolist()) for row in unheard}) == 1
    report = (tmp_path / "report/report.md").read_text()
    assert all(reason in report for reason in ("no sound", "no file with sound", "not media or damaged header"))


def test_a_student_learns_from_frames(folders, corpus, teacher, tmp_path):
    L.seed_everything(0, verbose=False)
    run = trainer_in(tmp_path, epochs=8, gradient_clip_val=10.0)
    run.fit(student(folders, "videomae"), datamodule=media(corpus, teacher, "videomae"))
    assert float(run.callback_metrics["val/weighted_f1"]) > 0.7


def test_what_cannot_be_read_is_left_out_of_training_and_said(folders, corpus, teacher, tmp_path, caplog):
    data = media(corpus, teacher)
    data.trainer = trainer_in(tmp_path)
    data.trainer.strategy.connect(student(folders, "data2vec-audio"))
    data.setup()
    with caplog.at_level("INFO"):
        batches = list(data.train_dataloader())
    assert "leaves out 1 of 15 labelled utterances, which cannot be read: no file with sound (1)." in caplog.text
    assert sum(len(batch.keys) for batch in batches) == 14
    unread = {key.utterance: why for batch in batches for key, why in batch.missing.items()}
    assert unread == {"deaf": "no sound", "broken": "not media or damaged header"}  # that only decoding shows
    assert len(batches) == 3 and max(len(batch.keys) for batch in batches) == 5
    assert sum(len(batch.keys) for batch in data.val_dataloader()) == 9


def test_a_corpus_of_which_nothing_can_be_trained_on_is_refused(folders, corpus, tmp_path):
    talks = {
        split: [replace(c, utterances=tuple(replace(u, media=None) for u in c.utterances)) for c in of]
        for split, of in corpus.items()
    }
    data = MediaDataModule(Corpus("mute", MELD, talks), SoundReader(), workers=0)
    task = student(folders, "data2vec-audio", loss=DISTLoss(alpha=0.0), feature_loss=None)
    with pytest.raises(ValueError, match=r"None of the 15 labelled .* can be read: no file with sound \(15\)"):
        trainer_in(tmp_path).fit(task, datamodule=data)


def test_unread_utterances_change_neither_loss_nor_gradients(folders):
    task = student(folders, "data2vec-audio", loss=DISTLoss(alpha=0.0), feature_loss=None).build(FACTS).eval()
    found = []
    for missing in (0, 2):
        task.zero_grad()
        prediction = task.step(sounds(task, 3000, 5000, missing=missing))
        prediction.loss.backward()
        found.append((prediction.loss.detach(), torch.cat([p.grad.flatten() for p in task.parameters()])))
        assert len(prediction.logits) == 2 + missing
    torch.testing.assert_close(found[0], found[1])
    assert torch.equal(prediction.logits[2], task.classifier[1].bias)


def test_val_loss_is_the_mean_over_the_utterances_that_are_read(folders):
    """A batch counts in val/loss by what its loss is a mean of, whatever could not be read beside it."""
    task = student(folders, "data2vec-audio").build(FACTS)
    batch = sounds(task, 3000, 5000, 4000, missing=2)
    batch = replace(batch, label=torch.tensor([0, -100, 1, 0, 1]))
    assert task.compared(batch).tolist() == [True, False, True, False, False]


def test_a_batch_of_which_nothing_can_be_read_gives_zero_gradients(folders):
    task = student(folders, "data2vec-audio", loss=DISTLoss(alpha=0.0), feature_loss=None).build(FACTS).train()
    prediction = task.step(sounds(task, missing=3))
    prediction.loss.backward()
    assert prediction.loss == 0 and all(p.grad is not None and not p.grad.any() for p in task.parameters())
    task.encoder.requires_grad_(False)  # as frozen_layers does, where nothing stands behind the layers
    assert task.step(sounds(task, missing=3)).loss == 0


# The losses


def slow_telme(task, batch, logits_t, hidden_t):
    """Eq. 6 to 15 of TelME, utterance by utterance."""
    hidden, logits = task.encode(batch)
    ce = sum(-logits[i].log_softmax(0)[y] for i, y in enumerate(batch.label.tolist())) / len(logits)

    def pearson(a, b):
        return torch.corrcoef(torch.stack([a, b]))[0, 1]

    s, t = (logits / 4).softmax(1), (logits_t / 4).softmax(1)
    inter = 16 * sum(1 - pearson(s[i], t[i]) for i in range(len(s))) / len(s)
    intra = 16 * sum(1 - pearson(s[:, j], t[:, j]) for j in range(7)) / 7
    s, t = F.normalize(hidden, dim=1), F.normalize(hidden_t, dim=1)
    feature = 0.0
    for row in t:
        p, q = (
            torch.stack([row @ other for other in t]).softmax(0),
            torch.stack([row @ other for other in s]).softmax(0),
        )
        feature = feature + (p * (p / q).log()).sum() / len(t)
    return ce + inter + intra + feature


def test_the_loss_is_that_of_the_paper(folders, corpus, teacher, tmp_path):
    task = student(folders, "data2vec-audio").build(FACTS).eval()
    data = media(corpus, teacher)
    data.setup()
    run = trainer_in(tmp_path)
    run.datamodule, task.trainer = data, run
    names = corpus["train"][1].keys
    batch = MediaBatch(SoundBatch.pad(names, noises(3000, 5000, 4000)), label=torch.tensor([0, 4, 0]))
    stores = [FeatureStore(teacher / name) for name in ("logits", "features")]
    expected = slow_telme(task, batch, *(store.gather(names)[0] for store in stores))
    torch.testing.assert_close(task.step(batch).loss, expected, rtol=1e-4, atol=1e-5)

    # An utterance that the teacher lacks, and one that cannot be read, are in no term of the distillation.
    lacked = corpus["train"][0].keys[0]
    more = MediaBatch(
        SoundBatch.pad([*names, lacked], noises(3000, 5000, 4000, 6000)),
        {UtteranceKey("train", "unread", "deaf"): "no sound"},
        torch.tensor([0, 4, 0, -100, 4]),
    )
    torch.testing.assert_close(task.step(more).loss, expected, rtol=1e-4, atol=1e-5)


def test_a_teacher_that_does_not_fit_is_refused(folders, corpus, teacher, tmp_path):
    def fit(stores, **options):
        task = student(folders, "data2vec-audio", **options)
        trainer_in(tmp_path).fit(task, datamodule=media(corpus, teacher, stores=stores))

    with pytest.raises(
        StoreError, match=r"needs features 'teacher', the datamodule has \[\]: add --data\.stores\.teacher"
    ):
        fit({})
    with pytest.raises(StoreError, match="holds features, expected logits"):
        fit({"teacher": teacher / "features"})
    wide = FeatureStore.write(tmp_path / "wide", all_keys(corpus), torch.ones(len(all_keys(corpus)), 9))
    with pytest.raises(StoreError, match="width 9, expected 16"):
        fit({"teacher": teacher / "logits", "teacher_hidden": wide.path})
    other = FeatureStore.write(tmp_path / "other", [UtteranceKey("val", "9", "9")], torch.ones(1, 16))
    with pytest.raises(StoreError, match="no utterance of corpus 'toned'"):
        fit({"teacher": teacher / "logits", "teacher_hidden": other.path})
    with pytest.raises(TypeError, match="expects a UtteranceDataModule, found ConversationDataModule"):
        task = student(folders, "data2vec-audio")
        trainer_in(tmp_path).fit(task, datamodule=ConversationDataModule(corpus, {"text": teacher / "features"}))


def test_a_teacher_of_any_modality_needs_no_stores(folders, corpus, tmp_path):
    """Tables 5 to 7 of TelME: the audio encoder as the teacher, then a text student of it."""
    L.seed_everything(0, verbose=False)
    alone = student(folders, "data2vec-audio", loss=DISTLoss(alpha=0.0), feature_loss=None)
    data = media(corpus, None, stores={})
    trainer_in(tmp_path, limit_train_batches=1).fit(alone, datamodule=data)
    export(alone, data, tmp_path / "audio")
    stores = {"teacher": tmp_path / "audio/logits", "teacher_hidden": tmp_path / "audio/features"}
    run = trainer_in(tmp_path)
    run.fit(student(folders, "bert"), datamodule=TextDataModule(corpus, batch_size=8, stores=stores))
    assert {"train/ce", "train/inter", "train/intra", "train/feature"} <= run.callback_metrics.keys()


# How much is tuned


@pytest.mark.parametrize("kind", ["data2vec-audio", "timesformer", "videomae"])
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_gradients_reach_what_is_not_frozen_and_nothing_else(folders, kind, frozen):
    options = {"loss": DISTLoss(alpha=0.0), "feature_loss": None, "frozen_layers": frozen}
    task = student(folders, kind, **options).build(FACTS).train()
    task.step(batch_for(kind)).loss.backward()
    reached = {name for name, p in task.named_parameters() if p.grad is not None and p.grad.any()}
    layer = ("encoder.network.encoder.layers.", "encoder.network.encoder.layer.")
    for name, parameter in task.named_parameters():
        inside = name.startswith(layer)
        number = int(name.split("layer")[1].lstrip("s.").split(".")[0]) if inside else None
        early = number < frozen if inside else ("embed" in name or "feature" in name or "encoder.layer_norm" in name)
        assert parameter.requires_grad is not (frozen > 0 and early), name
        # The attention of keys does not depend on their bias: its gradient is 0 but for rounding.
        if parameter.requires_grad and not name.endswith("k_proj.bias"):
            assert name in reached, name
    optimizer = task._optimizer()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in task.parameters() if p.requires_grad
    }


def test_too_many_frozen_layers_and_networks_without_any(folders):
    with pytest.raises(ValueError, match="has 2 layers, frozen_layers is 3: expected 0 to 2"):
        student(folders, "timesformer", frozen_layers=3)
    with pytest.raises(ValueError, match="has no layers to freeze"):
        freeze_layers(nn.Linear(2, 2), 1)
    with pytest.raises(ValueError, match="supports no gradient checkpointing"):
        EncoderStudentTask(nn.Linear(2, 2), gradient_checkpointing=True)


def test_the_norm_behind_the_layers_is_tuned(tmp_path):
    encoder = AudioEncoder(tiny_speech(tmp_path, "wav2vec2-layer"))
    freeze_layers(encoder.network, 2)
    left = {name for name, p in encoder.network.named_parameters() if p.requires_grad}
    assert left == {"encoder.layer_norm.weight", "encoder.layer_norm.bias"}


@pytest.mark.parametrize("kind", ["data2vec-audio", "timesformer", "videomae"])
def test_checkpointing_changes_no_loss_and_no_gradient(folders, kind):
    found = []
    for checkpointing in (False, True):
        options = {"loss": DISTLoss(alpha=0.0), "feature_loss": None, "gradient_checkpointing": checkpointing}
        torch.manual_seed(0)
        task = student(folders, kind, **options).build(FACTS).train()
        torch.manual_seed(1)  # the same dropout
        loss = task.step(batch_for(kind)).loss
        loss.backward()
        assert task.encoder.network.is_gradient_checkpointing is checkpointing
        found.append((loss.detach(), torch.cat([p.grad.flatten() for p in task.parameters()])))
    torch.testing.assert_close(found[0], found[1])


def test_the_classifier_may_learn_faster(folders):
    task = student(folders, "timesformer", head_lr=0.5).build(FACTS)
    encoder, head = task._optimizer().param_groups
    assert (encoder["lr"], head["lr"]) == (5e-3, 0.5)
    assert [p.shape[0] for p in head["params"]] == [7, 7]


# How it runs


@pytest.mark.parametrize("kind", ["data2vec-audio", "timesformer", "videomae"])
def test_a_prediction_does_not_depend_on_its_batch(folders, kind):
    task = student(folders, kind).build(FACTS).eval()
    inputs = noises(3000, 9000, 5000) if kind == "data2vec-audio" else crops(4, 7, 2)
    pad = SoundBatch.pad if kind == "data2vec-audio" else FaceBatch.pad
    with torch.no_grad():
        together = task.encode(MediaBatch(pad(keys(3), inputs), label=torch.zeros(3)))
        for row, one in enumerate(inputs):
            alone = task.encode(MediaBatch(pad(keys(1), [one]), label=torch.zeros(1)))
            for ours, theirs in zip(alone, together, strict=True):
                torch.testing.assert_close(ours[0], theirs[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["data2vec-audio", "timesformer"])
def test_bfloat16_autocast_trains(folders, corpus, teacher, tmp_path, kind):
    task = student(folders, kind, gradient_checkpointing=True)
    run = trainer_in(tmp_path, precision="bf16-mixed", gradient_clip_val=10.0)
    run.fit(task, datamodule=media(corpus, teacher, kind))
    assert all(run.callback_metrics[f"train/{term}"].isfinite() for term in ("ce", "inter", "intra", "feature"))
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in task.parameters())
    batch = batch_for(kind)
    task.eval()
    with torch.no_grad():
        exact = task(batch)
        with torch.autocast("cpu", torch.bfloat16):
            half = task(batch)
    torch.testing.assert_close(half, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(half, exact)


class Unplugged(Callback):
    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 4:
            raise RuntimeError("unplugged")


class Killed(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 5:  # one step behind the checkpoint
            os.kill(os.getpid(), signal.SIGKILL)


def fitted(folder, corpus, teacher, out, *callbacks, start=None, precision="32-true"):
    """Trains a student in a folder; what its last checkpoint holds."""
    L.seed_everything(0, verbose=False)
    last = ModelCheckpoint(out, filename="last", enable_version_counter=False)
    style = {"epochs": 2, "val_check_interval": 2, "check_val_every_n_epoch": None, "precision": precision}
    task = student({"data2vec-audio": folder}, "data2vec-audio", gradient_checkpointing=True, dropout=0.1)
    data = media(corpus, teacher)
    trainer_in(out, last, *callbacks, **style).fit(task, datamodule=data, ckpt_path=start, weights_only=True)
    return torch.load(out / "last.ckpt", weights_only=True)


@pytest.fixture
def fit(folders, corpus, teacher):
    return partial(fitted, folders["data2vec-audio"], corpus, teacher)


KILLED = """
import sys
from pathlib import Path
from merc.conversation import Corpus
from test_encoder_student import Killed, fitted

encoder, corpus, teacher, out = sys.argv[1:]
fitted(encoder, Corpus.load(corpus), Path(teacher), Path(out), Killed())
"""


def test_killed_and_resumed_it_equals_an_uninterrupted_one(fit, folders, corpus, teacher, tmp_path):
    whole = fit(tmp_path / "whole")
    corpus.save(tmp_path / "corpus.json")
    (tmp_path / "cut").mkdir()
    inputs = [folders["data2vec-audio"], tmp_path / "corpus.json", teacher, tmp_path / "cut"]
    here = Path(__file__).parent
    places = {"PYTHONPATH": os.pathsep.join(map(str, (here, here.parent, here.parents[1])))}
    command = [sys.executable, "-c", KILLED, *map(str, inputs)]
    child = subprocess.run(command, env={**os.environ, **places, "OMP_NUM_THREADS": "1"}, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    shutil.copy(tmp_path / "cut/last.ckpt", tmp_path / "start.ckpt")
    resumed = fit(tmp_path / "cut", start=tmp_path / "start.ckpt")
    assert resumed["global_step"] == whole["global_step"] == 6
    assert resumed["merc"]["origin"]["resumed_at"] == [4]
    assert all(torch.equal(resumed["state_dict"][name], value) for name, value in whole["state_dict"].items())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_interrupted_and_resumed_it_equals_an_uninterrupted_one(fit, tmp_path, precision):
    whole = fit(tmp_path / "whole", precision=precision)
    with pytest.raises(RuntimeError, match="unplugged"):
        fit(tmp_path / "cut", Unplugged(), precision=precision)
    shutil.copy(tmp_path / "cut/last.ckpt", tmp_path / "start.ckpt")
    resumed = fit(tmp_path / "cut", start=tmp_path / "start.ckpt", precision=precision)
    assert resumed["global_step"] == whole["global_step"] == 6
    assert resumed["merc"]["origin"]["resumed_at"] == [4]
    assert all(torch.equal(resumed["state_dict"][name], value) for name, value in whole["state_dict"].items())


# What comes after


def export(task, data, out):
    writer = StoreWriterCallback({kind: str(out / kind) for kind in ("features", "logits")})
    trainer_in(out, writer).predict(task, datamodule=data, return_predictions=False)


def test_the_fusion_reads_what_students_export(folders, corpus, teacher, tmp_path):
    kinds = {"audio": "data2vec-audio", "visual": "timesformer"}
    for modality, kind in kinds.items():
        task, data = student(folders, kind), media(corpus, teacher, kind)
        trainer_in(tmp_path, limit_train_batches=1, limit_val_batches=1).fit(task, datamodule=data)
        export(task, data, tmp_path / modality)
        store = FeatureStore(tmp_path / modality / "features")
        assert store.dim == 16 and store.provenance["trained_on"] == "toned/train"
        assert store.provenance["trained_with"]["teacher"] == FeatureStore(teacher / "logits").digest
        assert len(store) + len(store.missing) == len(all_keys(corpus))
    assert store.missing[UtteranceKey("test", "unread", "none")] == "no file with video"
    assert UtteranceKey("test", "unread", "deaf") in store  # it can be seen
    stores = {name: tmp_path / name / "features" for name in kinds}
    data = ConversationDataModule(corpus, {"text": teacher / "features", **stores})
    fusion = FusionTask(partial(TelMEFusion, heads=2), optimizer=partial(torch.optim.AdamW, lr=1e-3))
    run = trainer_in(tmp_path)
    run.fit(fusion, datamodule=data)
    assert run.callback_metrics["val/weighted_f1"].isfinite() and fusion.inputs == dict.fromkeys(("text", *kinds), 16)


# What is read


def test_whole_frames_are_spread_over_the_clip(corpus, tmp_path):
    reader = FrameReader(frames=4, size=24)
    long = write_clip(tmp_path / "long.mp4", 60)
    seen = reader.read(None, Utterance("0", "A", media=long))
    assert seen.shape == (4, 3, 24, 24) and seen.dtype == torch.uint8
    # The middle square of 64 x 48 pixels has the red square at its left edge, which moves a pixel in four frames.
    part = reader.read(None, Utterance("0", "A", video=Clip(long, 1.0, 1.4)))
    assert len(part) == 4
    from merc.media import read_frames
    from merc.media.crops import resample

    [chunk] = read_frames(Clip(long))
    expected = resample(
        chunk.images[[7, 22, 37, 52]][..., 8:56], torch.tensor([[0.0, 0, 48, 48]]).expand(4, 4), (24, 24)
    )
    assert (seen.float() - expected).abs().max() <= 1
    short = reader.read(None, Utterance("0", "A", video=Clip(long, 2.36, 2.4)))
    assert len(short) >= 1


def test_a_student_of_the_speakers_face_is_trained_where_it_is_seen(folders, corpus, teacher, tmp_path, caplog):
    """Frames of tracked faces: without a track, an utterance takes no part."""
    box = torch.tensor([[4.0, 8, 24, 28]]).expand(8, 4)
    names = all_keys(corpus)
    rows = [tracks_to_rows([FaceTrack(0, box, 0.9)] if key.utterance != "2" else []) for key in names]
    FeatureStore.write(tmp_path / "faces", names, torch.cat(rows), kind="faces", lengths=[len(row) for row in rows])
    reader = FaceReader(tmp_path / "faces")
    with caplog.at_level("INFO"):
        trainer_in(tmp_path).fit(student(folders, "timesformer"), datamodule=media(corpus, teacher, reader=reader))
    assert "speaker not visible (4)" in caplog.text


@pytest.mark.skipif(not CLIPS.is_dir(), reason="real clips of talking faces are in ../shared/data/clips")
@pytest.mark.parametrize("kind", ["data2vec-audio", "timesformer"])
def test_real_clips(folders, tmp_path, kind):
    """Real sound and frames, end to end, under bf16: train, checkpoint, export."""
    files = sorted(str(path) for path in CLIPS.glob("grid_*.mpg"))[:6]
    turns = [Utterance(str(n), "A", "set red at b", label=EMOTIONS[n % 2], media=f) for n, f in enumerate(files)]
    corpus = Corpus("real", MELD, {s: [Conversation("0", tuple(turns), s)] for s in ("train", "val", "test")})
    task = student(folders, kind, loss=DistillationLoss(alpha=1.0), feature_loss=None, frozen_layers=1)
    before = [p.detach().clone() for p in task.encoder.parameters()]
    data = media(corpus, None, kind, stores={}, batch_size=3)
    trainer_in(tmp_path, precision="bf16-mixed").fit(task, datamodule=data)
    moved = [not torch.equal(p, old) for p, old in zip(task.encoder.parameters(), before, strict=True)]
    assert any(moved) and moved == [p.requires_grad for p in task.encoder.parameters()]
    export(task, data, tmp_path)
    store = FeatureStore(tmp_path / "features")
    assert len(store) == 18 and not store.missing
    assert store.gather(store.keys)[0].std(0).min() > 0
