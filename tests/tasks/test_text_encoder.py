"""Fine-tuning, extraction and the datamodule of the text encoder, as users run them; no network."""

import math
import os
import signal
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from merc import __version__
from merc.batch import token_batches
from merc.callbacks import StoreWriterCallback
from merc.datamodules import DataFacts, TextDataModule
from merc.datamodules.batches import ShuffledBuckets
from merc.encoders import SentenceEncoder, TextEncoder
from merc.evaluation import read_predictions
from merc.store import FeatureStore, StoreWriter
from merc.tasks import ExtractTask, TextEncoderTask
from merc.weights import weights_digest
from support.quiet_trainer import trainer_in
from support.tiny_text import conversation, tiny_bert, tiny_corpus

PROMPT = "{speaker} feels {mask}"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def corpus():
    return tiny_corpus()


def tuned(bert, **options):
    settings = {"context": "symmetric", "prompt": PROMPT, "pooling": "mask", "max_tokens": 40, **options}
    return TextEncoderTask(
        TextEncoder(bert, **settings), optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2), dropout=0.0
    )


@pytest.fixture(scope="module")
def fine_tuned(bert, corpus, tmp_path_factory):
    """A short fine-tuning: its checkpoint and what it logged."""
    folder = tmp_path_factory.mktemp("tuned")
    L.seed_everything(0, verbose=False)
    keep = ModelCheckpoint(folder, "best", monitor="val/weighted_f1", mode="max")
    run = trainer_in(folder, keep, epochs=30, gradient_clip_val=1.0)
    task = tuned(bert)
    run.fit(task, datamodule=TextDataModule(corpus, batch_size=8))
    return Path(keep.best_model_path), dict(run.callback_metrics), float(keep.best_model_score)


def test_fine_tuning_learns(fine_tuned):
    _, logged, best = fine_tuned
    assert best > 0.6  # a constant answer reaches less than 0.1
    assert {"train/loss", "val/loss", "val/weighted_f1", "val/macro_f1", "val/accuracy"} <= logged.keys()


def test_a_checkpoint_holds_plain_values_and_comes_back(fine_tuned, bert, corpus, tmp_path):
    path, _, best = fine_tuned
    assert torch.load(path, weights_only=True)["merc"]["origin"]["trained_on"] == "tiny/train"
    task = TextEncoderTask.load_from_checkpoint(path, weights_only=True)
    data = TextDataModule(corpus, batch_tokens=50)
    (from_python,) = trainer_in(tmp_path).validate(task, datamodule=data, verbose=False)
    (by_trainer,) = trainer_in(tmp_path).validate(
        tuned(bert), datamodule=data, ckpt_path=path, weights_only=True, verbose=False
    )
    assert from_python["val/weighted_f1"] == pytest.approx(best, abs=1e-6)
    assert by_trainer == pytest.approx(from_python)


def test_a_test_writes_the_report_of_every_task(fine_tuned, bert, corpus, tmp_path):
    path, _, _ = fine_tuned
    data = TextDataModule(corpus, batch_tokens=50)
    (tested,) = trainer_in(tmp_path).test(tuned(bert), datamodule=data, ckpt_path=path, verbose=False)
    predictions = read_predictions(tmp_path / "report")
    assert predictions.metrics()["weighted_f1"] == pytest.approx(tested["test/weighted_f1"])
    labelled = {key for talk in corpus["test"] for key, u in zip(talk.keys, talk.utterances, strict=True) if u.label}
    assert set(predictions.keys) == labelled
    report = (tmp_path / "report/report.md").read_text()
    assert "best val/weighted_f1" in report and bert in report


def test_a_checkpoint_of_another_reading_or_task_is_refused(fine_tuned, bert, corpus, tmp_path):
    path, _, _ = fine_tuned
    data = TextDataModule(corpus)
    with pytest.raises(ValueError, match=r"max_tokens: expected 41, found 40"):
        trainer_in(tmp_path).test(tuned(bert, max_tokens=41), datamodule=data, ckpt_path=path)
    foreign = torch.load(path, weights_only=True)
    del foreign["merc"]
    torch.save(foreign, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match=r"another model.*task: expected TextEncoderTask"):
        trainer_in(tmp_path).test(tuned(bert), datamodule=data, ckpt_path=tmp_path / "foreign.ckpt")


def test_the_classes_must_fit_the_corpus(bert, corpus, tmp_path):
    task = TextEncoderTask(TextEncoder(bert)).build(DataFacts({}, ("glad", "sad"), (1, 1), ()))
    with pytest.raises(ValueError, match=r"with the classes \['glad', 'sad'\], and the corpus has \['neutral'"):
        trainer_in(tmp_path).validate(task, datamodule=TextDataModule(corpus))


def test_default_schedule_warms_up_and_falls_to_zero(bert, corpus, tmp_path):
    rates = []

    class Note(L.Callback):
        def on_train_batch_start(self, trainer, task, batch, index):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    task = TextEncoderTask(TextEncoder(bert), optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    trainer_in(tmp_path, Note(), epochs=2).fit(task, datamodule=TextDataModule(corpus, batch_size=3))
    steps = len(rates)
    warm = round(0.1 * steps)
    assert warm > 1
    expected = [(s + 1) / (warm + 1) if s < warm else (steps - s) / (steps - warm) for s in range(steps)]
    assert rates == pytest.approx(expected)


def test_loss_and_schedule_are_injected(bert, corpus, tmp_path):
    task = TextEncoderTask(
        TextEncoder(bert),
        loss=nn.CrossEntropyLoss(label_smoothing=0.5),
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.1),
    )
    run = trainer_in(tmp_path, epochs=2, limit_train_batches=1, precision="bf16-mixed")
    run.fit(task, datamodule=TextDataModule(corpus, batch_size=4))
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-2)
    assert run.callback_metrics["train/loss"].isfinite()


def test_unlabelled_utterances_are_predicted_but_not_scored(bert, corpus, tmp_path):
    data = TextDataModule(corpus)
    data.trainer = trainer_in(tmp_path)
    data.trainer.strategy.connect(ExtractTask(TextEncoder(bert)))
    data.setup()
    labelled = sum(u.label is not None for c in corpus["train"] for u in c.utterances)
    total = sum(len(c) for split in corpus for c in corpus[split])
    assert labelled < sum(map(len, corpus["train"]))
    assert sum(len(batch.keys) for batch in data.train_dataloader()) == labelled
    assert sum(len(batch.keys) for batch in data.predict_dataloader()) == total
    labels = {
        key: label
        for batch in data.val_dataloader()
        for key, label in zip(batch.keys, batch.label.tolist(), strict=True)
    }
    for talk in corpus["val"]:
        for key, utterance in zip(talk.keys, talk.utterances, strict=True):
            assert labels.get(key, -100) == corpus.labels.index(utterance.label)


@given(lengths=st.lists(st.integers(1, 60), max_size=60), budget=st.integers(1, 200))
def test_token_batches_hold_everything_once_within_the_budget(lengths, budget):
    batches = token_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=60), size=st.integers(1, 9))
def test_shuffled_buckets_hold_everything_once_and_differ_each_epoch(lengths, size):
    sampler = ShuffledBuckets(lengths, size)
    first = list(sampler)
    assert list(sampler) == first  # the seed and the epoch decide
    sampler.set_epoch(1)
    second = list(sampler)
    for epoch in (first, second):
        assert len(epoch) == len(sampler) == math.ceil(len(lengths) / size)
        assert sorted(index for batch in epoch for index in batch) == list(range(len(lengths)))
        assert max(map(len, epoch)) <= size
    if len(lengths) > 20:
        assert first != second


def extract(encoder, corpus, out, callbacks=(), **options):
    writer = StoreWriterCallback({"features": str(out)}, shard_rows=10)
    data = TextDataModule(corpus, batch_tokens=60, **options)
    run = trainer_in(Path(out).parent, *callbacks, writer)
    run.predict(ExtractTask(encoder), datamodule=data, return_predictions=False)
    return run


def test_extraction_writes_every_utterance_with_its_origin(bert, corpus, tmp_path):
    encoder = TextEncoder(bert)
    extract(encoder, corpus, tmp_path / "store")
    store = FeatureStore(tmp_path / "store")
    keys = [key for split in ("train", "val", "test") for talk in corpus[split] for key in talk.keys]
    assert set(store.keys) == set(keys)
    encoder.eval()
    with torch.no_grad():
        for split in corpus:
            for talk in corpus[split]:
                expected = encoder(encoder.collate(encoder.tokenize([talk])))
                torch.testing.assert_close(store.gather(talk.keys)[0], expected, atol=1e-5, rtol=0)
    assert store.kind == "features" and store.dim == encoder.dim
    assert encoder.provenance().items() <= store.provenance.items()
    assert store.provenance["trained_on"] == "nothing (frozen)"


def test_an_extraction_that_failed_goes_on_where_it_was(bert, corpus, tmp_path):
    class Fail(L.Callback):
        def on_predict_batch_start(self, trainer, task, batch, index, dataloader_idx=0):
            if index == 6:
                raise RuntimeError("pulled the plug")

    class Count(L.Callback):
        rows = 0

        def on_predict_batch_end(self, trainer, task, outputs, batch, index, dataloader_idx=0):
            self.rows += len(outputs["keys"])

    encoder = TextEncoder(bert)
    with pytest.raises(RuntimeError, match="pulled"):
        extract(encoder, corpus, tmp_path / "cut", [Fail()])
    with pytest.raises(FileNotFoundError, match="run the same command again"):
        FeatureStore(tmp_path / "cut")
    count = Count()
    extract(encoder, corpus, tmp_path / "cut", [count])
    extract(encoder, corpus, tmp_path / "whole")
    cut, whole = FeatureStore(tmp_path / "cut"), FeatureStore(tmp_path / "whole")
    assert len(cut) == len(whole) and set(cut.keys) == set(whole.keys)
    assert 0 < count.rows < len(whole)
    torch.testing.assert_close(cut.gather(whole.keys)[0], whole.gather(whole.keys)[0], atol=1e-5, rtol=0)

    done = Count()
    before = (tmp_path / "cut" / "manifest.json").read_bytes()
    extract(encoder, corpus, tmp_path / "cut", [done])
    assert done.rows == 0
    assert (tmp_path / "cut" / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_an_extraction_killed_by_the_system_goes_on(bert, corpus, tmp_path):
    corpus.save(tmp_path / "corpus.json")
    script = textwrap.dedent(f"""
        import os, signal, sys
        import lightning as L
        from merc.callbacks import StoreWriterCallback
        from merc.datamodules import DataFacts, TextDataModule
        from merc.encoders import TextEncoder
        from merc.tasks import ExtractTask

        class Kill(L.Callback):
            def on_predict_batch_start(self, trainer, task, batch, index, dataloader_idx=0):
                if index == 7:
                    os.kill(os.getpid(), signal.SIGKILL)

        L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False,
            callbacks=[Kill(), StoreWriterCallback({{"features": {str(tmp_path / "cut")!r}}}, shard_rows=10)],
        ).predict(
            ExtractTask(TextEncoder({bert!r})),
            datamodule=TextDataModule({str(tmp_path / "corpus.json")!r}, batch_tokens=60),
        )
        """)
    ended = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    left = list((tmp_path / "cut").glob("*.safetensors"))
    assert left and not (tmp_path / "cut" / "manifest.json").exists()
    extract(TextEncoder(bert), corpus, tmp_path / "cut")
    extract(TextEncoder(bert), corpus, tmp_path / "whole")
    cut, whole = FeatureStore(tmp_path / "cut"), FeatureStore(tmp_path / "whole")
    assert {file.name for file in left} <= {shard["file"] for shard in cut.manifest["shards"]}
    assert len(cut) == len(whole)
    torch.testing.assert_close(cut.gather(whole.keys)[0], whole.gather(whole.keys)[0], atol=1e-5, rtol=0)


def test_a_killed_last_commit_is_made_up_for(bert, corpus, tmp_path):
    """All shards are there and only the manifest lacks: nothing is left to predict, yet the store must be closed."""
    extract(TextEncoder(bert), corpus, tmp_path / "store")
    (tmp_path / "store" / "manifest.json").unlink()
    extract(TextEncoder(bert), corpus, tmp_path / "store")
    assert len(FeatureStore(tmp_path / "store")) == sum(len(c) for split in corpus for c in corpus[split])


def test_other_settings_do_not_take_over_old_rows(bert, corpus, tmp_path):
    extract(TextEncoder(bert), corpus, tmp_path / "store")
    extract(TextEncoder(bert, "past"), corpus, tmp_path / "store")
    assert FeatureStore(tmp_path / "store").provenance["context"] == "past"
    extract(TextEncoder(bert, "past"), corpus, tmp_path / "some", predict_splits=["dev"])
    assert {key.partition for key in FeatureStore(tmp_path / "some").keys} == {"val"}


def test_a_fine_tuned_encoder_gives_features_and_logits(fine_tuned, bert, corpus, tmp_path):
    path, _, _ = fine_tuned
    task = tuned(bert)
    writer = StoreWriterCallback({"features": str(tmp_path / "f"), "logits": str(tmp_path / "l")})
    trainer_in(tmp_path, writer).predict(task, datamodule=TextDataModule(corpus), ckpt_path=path)
    features, logits = FeatureStore(tmp_path / "f"), FeatureStore(tmp_path / "l")
    features.require(kind="features", dim=16)
    logits.require(kind="logits", dim=7, classes=corpus.labels.names)
    assert features.provenance["trained_on"] == "tiny/train"
    # The digest is that of the tuned weights, not of those the encoder was made with.
    assert features.provenance["weights"] == task.encoder.provenance()["weights"]
    assert features.provenance["weights"] != tuned(bert).encoder.provenance()["weights"]
    with torch.no_grad():
        expected = task.eval().classifier(features.gather(logits.keys)[0])
    torch.testing.assert_close(logits.gather(logits.keys)[0], expected, atol=1e-5, rtol=0)


def test_predicting_without_fine_tuning_warns(bert, corpus, tmp_path):
    with pytest.warns(UserWarning, match="pass the checkpoint with --ckpt_path"):
        trainer_in(tmp_path, fast_dev_run=True).predict(tuned(bert), datamodule=TextDataModule(corpus))


class Hashed(SentenceEncoder):
    """A text encoder of one's own: words into a fixed number of rows of a table, with the speaker if wanted."""

    def __init__(self, dim=16, speakers=False):
        super().__init__()
        self.dim = dim
        self.speakers = speakers
        self.table = nn.EmbeddingBag(64, dim)

    def read(self, conversation, index):
        utterance = conversation.utterances[index]
        return f"{utterance.speaker} {utterance.text}" if self.speakers else utterance.text

    def encode(self, texts):
        rows = [torch.tensor([zlib.crc32(w.encode()) % 64 for w in text.split()] or [0]) for text in texts]
        starts = torch.tensor([0, *map(len, rows)]).cumsum(0)[:-1]
        device = self.table.weight.device
        return self.table(torch.cat(rows).to(device), starts.to(device))

    def provenance(self):
        return {"encoder": "hashed", "weights": weights_digest(self), **self.settings()}

    def settings(self):
        return {"dim": self.dim, "speakers": self.speakers}


def test_an_encoder_of_ones_own_is_extracted_as_any_other(corpus, tmp_path):
    encoder = Hashed()
    extract(encoder, corpus, tmp_path / "store")
    store = FeatureStore(tmp_path / "store")
    talk = corpus["test"][0]
    torch.testing.assert_close(store.gather(talk.keys)[0], encoder.encode([u.text for u in talk.utterances]).detach())
    assert (store.provenance["encoder"], store.dim) == ("hashed", 16)
    extract(encoder, corpus, tmp_path / "few", predict_splits=["test"])
    assert {key.partition for key in FeatureStore(tmp_path / "few").keys} == {"test"}


def test_an_encoder_of_ones_own_is_tuned_and_comes_back(corpus, tmp_path):
    L.seed_everything(0, verbose=False)
    keep = ModelCheckpoint(tmp_path, "best", monitor="val/weighted_f1", mode="max")
    task = TextEncoderTask(Hashed(), optimizer=lambda p: torch.optim.AdamW(p, lr=0.05), dropout=0.0)
    run = trainer_in(tmp_path, keep, epochs=20)
    run.fit(task, datamodule=TextDataModule(corpus, batch_size=8))
    assert float(keep.best_model_score) > 0.6
    again = TextEncoderTask.load_from_checkpoint(keep.best_model_path, encoder=Hashed())
    (validated,) = trainer_in(tmp_path).validate(again, datamodule=TextDataModule(corpus), verbose=False)
    assert validated["val/weighted_f1"] == pytest.approx(float(keep.best_model_score), abs=1e-6)
    with pytest.raises(ValueError, match="speakers: expected True, found False"):
        TextEncoderTask.load_from_checkpoint(keep.best_model_path, encoder=Hashed(speakers=True))


def test_what_is_no_text_encoder_is_refused(corpus, tmp_path):
    with pytest.raises(TypeError, match=r"has Linear as its encoder: .* subclass of merc.encoders.SentenceEncoder"):
        trainer_in(tmp_path).predict(ExtractTask(nn.Linear(2, 2)), datamodule=TextDataModule(corpus))


class Rows(L.LightningModule):
    """A task that predicts what it is told."""

    def __init__(self, outputs, provenance=None):
        super().__init__()
        self.outputs = outputs
        self.provenance = provenance

    def predict_step(self, batch, index):
        return self.outputs


def write(folder, task, *kinds):
    writer = StoreWriterCallback({kind: str(folder / kind) for kind in kinds})
    trainer_in(folder, writer).predict(task, dataloaders=torch.utils.data.DataLoader([0]))


def test_a_prediction_that_is_told_to_end_ends_and_goes_on_later(tmp_path):
    keys = conversation(["a", "b", "c"]).keys

    class Told(Rows):
        def predict_step(self, batch, index):
            if index == 1 and self.outputs:
                os.kill(os.getpid(), signal.SIGTERM)
            return {"keys": [keys[index]], "hidden": torch.full((1, 2), float(index))}

    def predict(told):
        task, writer = Told(told, lambda: {}), StoreWriterCallback({"hidden": str(tmp_path / "hidden")})
        trainer_in(tmp_path, writer).predict(task, dataloaders=torch.utils.data.DataLoader([0, 1, 2]))
        return writer

    with pytest.raises(SystemExit) as end:
        predict(told=True)
    assert end.value.code == 128 + signal.SIGTERM
    assert StoreWriter(tmp_path / "hidden", kind="hidden", provenance={"merc": __version__}).done == set(keys[:2])
    predict(told=False)
    assert FeatureStore(tmp_path / "hidden").keys == list(keys)


def test_what_a_task_lacks_is_recorded_with_its_reason(tmp_path):
    one, two = conversation(["a", "b"]).keys
    outputs = {"keys": [one], "hidden": torch.ones(1, 3, dtype=torch.bfloat16), "missing": {two: "no sound"}}
    write(tmp_path, Rows(outputs, lambda: {"task": "Rows"}), "hidden")
    store = FeatureStore(tmp_path / "hidden")
    assert store.keys == [one] and store.missing == {two: "no sound"}
    assert store[one].dtype == torch.float32
    assert store.provenance["task"] == "Rows" and store.provenance["merc"]


def test_rows_that_a_cut_run_left_are_not_written_twice(tmp_path):
    """Also where the datamodule deals everything out again: the second half of a batch may be new."""
    one, two = conversation(["a", "b"]).keys
    task = Rows({"keys": [one, two], "features": torch.tensor([[1.0], [2.0]])}, lambda: {"task": "Rows"})
    provenance = {"task": "Rows", "merc": __version__}
    StoreWriter(tmp_path / "features", provenance=provenance, shard_rows=1).add([one], torch.tensor([[1.0]]))
    write(tmp_path, task, "features")
    store = FeatureStore(tmp_path / "features")
    assert store.gather([one, two])[0].tolist() == [[1.0], [2.0]] and len(store.manifest["shards"]) == 2


def test_the_default_schedule_needs_an_end(bert, corpus, tmp_path):
    run = trainer_in(tmp_path, epochs=-1, max_time={"seconds": 1})
    with pytest.raises(ValueError, match=r"this training has no end: set trainer\.max_steps or"):
        run.fit(TextEncoderTask(TextEncoder(bert)), datamodule=TextDataModule(corpus))


def test_bad_use_of_the_store_writer(tmp_path, bert):
    with pytest.raises(ValueError, match=r"outputs \['vectors'\]: expected a folder for one or more of features"):
        StoreWriterCallback({"vectors": "x"})
    with pytest.raises(ValueError, match="expected a folder"):
        StoreWriterCallback({})
    key = conversation(["a"]).keys[0]
    with pytest.raises(TypeError, match=r"Rows .* has no provenance\(\)"):
        write(tmp_path, Rows({"keys": [key], "features": torch.ones(1, 2)}), "features")
    with pytest.raises(TypeError, match="lacks 'classes'"):
        write(tmp_path, Rows({"keys": [key], "logits": torch.ones(1, 2)}, dict), "logits")
    with pytest.raises(ValueError, match=r"gave keys, features: expected a dict with 'keys' and 'hidden'"):
        write(tmp_path, Rows({"keys": [key], "features": torch.ones(1, 2)}, dict), "hidden")
    with pytest.raises(ValueError, match="untrained projection"):
        ExtractTask(TextEncoder(bert, projection=4))


def test_a_task_without_a_text_encoder_is_refused(corpus, tmp_path):
    with pytest.raises(TypeError, match="Rows has NoneType as its encoder"):
        trainer_in(tmp_path).predict(Rows({}, dict), datamodule=TextDataModule(corpus))


def test_real_minilm_on_real_meld(minilm, real_meld, tmp_path):
    """The fast path, frozen and mean-pooled: a batch of real rows equals each of them alone."""
    from merc.corpora.meld import read_meld

    talks = read_meld(real_meld)["val"][:4]
    encoder = TextEncoder(str(minilm)).eval()
    assert (encoder.max_tokens, encoder.dim) == (512, 384)
    inputs = encoder.tokenize(talks)
    with torch.no_grad():
        together = encoder(encoder.collate(inputs))
        alone = torch.cat([encoder(encoder.collate([item])) for item in inputs])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert torch.nn.functional.cosine_similarity(together[0], together[1:]).max() < 0.95
    with_context = TextEncoder(str(minilm), "symmetric", PROMPT, "mask", max_tokens=96).tokenize(talks)
    assert max(len(item.ids) for item in with_context) <= 96
