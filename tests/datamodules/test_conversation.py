"""Conversations with stored features: what is dealt out, and what is refused."""

import pytest
import torch

from merc.conversation import Conversation, Corpus, Utterance
from merc.datamodules import ConversationDataModule
from merc.graphs import GraphBuilder
from merc.labels import MELD
from merc.store import FeatureStore, StoreError


def made_corpus():
    def dialogue(split, number, length):
        return Conversation(
            str(number), tuple(Utterance(f"u{i}", "ab"[i % 2], label=MELD.names[i % 7]) for i in range(length)), split
        )

    lengths = {"train": [3, 5, 1, 4, 2], "val": [2, 3], "test": [4]}
    return Corpus(
        "made", MELD, {s: [dialogue(s, n, length) for n, length in enumerate(many)] for s, many in lengths.items()}
    )


@pytest.fixture
def corpus():
    return made_corpus()


@pytest.fixture
def keys(corpus):
    return [key for split in corpus for c in corpus[split] for key in c.keys]


@pytest.fixture
def text(keys, tmp_path):
    """A store whose vectors tell the place of their utterance, without the last one of the first dialogue."""
    features = torch.arange(len(keys), dtype=torch.float32)[:, None].repeat(1, 3)
    rows = [row for row, key in enumerate(keys) if key != ("train", "0", "u2")]
    return FeatureStore.write(
        tmp_path / "text", [keys[r] for r in rows], features[rows], missing={keys[2]: "the clip is broken"}
    )


def module_of(corpus, text, **options):
    return ConversationDataModule(corpus, {"text": text}, {"text": GraphBuilder(past=1)}, **options)


def test_a_batch_is_whole_conversations_each_once(corpus, keys, text):
    torch.manual_seed(1)
    batches = list(module_of(corpus, text, batch_size=6).train_dataloader())
    assert len(batches) == 3  # of 15 utterances
    seen = []
    for batch in batches:
        row = [keys.index(key) for key in batch.keys]
        seen += row
        there = batch.present["text"]
        assert batch.features["text"][there, 0].tolist() == [float(r) for r, t in zip(row, there, strict=True) if t]
        assert not batch.features["text"][~there].any()
        assert (
            batch.conversation[batch.edges["text"].index[0]] == batch.conversation[batch.edges["text"].index[1]]
        ).all()
        wanted = {c.id: len(c) for c in corpus["train"]}
        starts = [batch.keys[p] for p in batch.ptr[:-1].tolist()]
        assert [wanted[key.dialogue] for key in starts] == batch.lengths.tolist()
    assert sorted(seen) == list(range(15)) and seen != sorted(seen)


def test_training_is_shuffled_in_every_epoch_and_evaluation_is_not(corpus, text):
    module = module_of(corpus, text, batch_size=1, eval_batch_size=1)
    loader, orders = module.train_dataloader(), set()
    for epoch in range(5):
        loader.sampler.set_epoch(epoch)
        orders.add(tuple(b.keys[0].dialogue for b in loader))
    assert len(orders) > 1
    for loader, split in ((module.val_dataloader(), "val"), (module.test_dataloader(), "test")):
        assert [b.keys[0].dialogue for b in loader] == [c.id for c in corpus[split]]


def test_batches_are_counted_in_utterances(corpus, text):
    module = module_of(corpus, text, batch_size=5, eval_batch_size=4)
    assert len(list(module.train_dataloader())) == len(module.train_dataloader()) == 3
    assert [b.num_utterances for b in module.val_dataloader()] == [2, 3]
    assert [b.num_utterances for b in module_of(corpus, text, eval_batch_size=5).val_dataloader()] == [5]
    assert [b.num_utterances for b in module_of(corpus, text, eval_batch_size=1).test_dataloader()] == [4]


def test_prediction_goes_through_the_splits_that_are_there(corpus, text):
    module = module_of(corpus, text, predict_splits=["test", "dev"])
    assert [next(iter(loader)).keys[0].partition for loader in module.predict_dataloader()] == ["test", "val"]
    del corpus.splits["val"]
    assert len(module_of(corpus, text).predict_dataloader()) == 2
    with pytest.raises(ValueError, match="Unknown split 'holdout'"):
        module_of(corpus, text, predict_splits=["holdout"])


def test_graphs_and_features_are_made_once(corpus, text, monkeypatch):
    calls = []
    build = GraphBuilder.__call__
    monkeypatch.setattr(GraphBuilder, "__call__", lambda self, *args: calls.append(args) or build(self, *args))
    module = module_of(corpus, text)
    for _ in range(3):
        list(module.train_dataloader())
    assert len(calls) == 1
    assert module.split("train") is module.split("train")


def test_stores_in_order_are_not_copied(corpus, keys, tmp_path):
    store = FeatureStore.write(tmp_path / "whole", keys, torch.randn(len(keys), 3))
    features = module_of(corpus, store).split("val").features["text"]
    assert features.untyped_storage().data_ptr() == store._shards[0][1].untyped_storage().data_ptr()


def test_half_precision_on_disk_is_full_precision_in_a_batch(corpus, keys, tmp_path):
    values = torch.randn(len(keys), 3).half()
    FeatureStore.write(tmp_path / "half", keys, values)
    batch = module_of(corpus, tmp_path / "half").split("train")
    assert batch.features["text"].dtype == torch.float32
    assert torch.equal(batch.features["text"], values[:15].float())


def test_missing_utterances_are_told_with_their_reasons(corpus, text):
    module = module_of(corpus, text)
    assert module.missing("train") == {"text": {("train", "0", "u2"): "the clip is broken"}}
    assert module.missing("val") == {"text": {}}


def test_paths_do_as_well_as_objects(corpus, text, tmp_path):
    corpus.save(tmp_path / "corpus.json")
    module = ConversationDataModule(str(tmp_path / "corpus.json"), {"text": str(text.path)})
    assert torch.equal(module.split("train").features["text"], module_of(corpus, text).split("train").features["text"])


def test_setting_up_again_opens_nothing_again(corpus, text):
    module = module_of(corpus, text.path)
    module.setup("fit")
    opened = module.stores["text"]
    module.setup("test")
    assert module.stores["text"] is opened


def test_the_store_of_another_corpus_is_refused(corpus, tmp_path):
    other = [key._replace(partition="session1") for c in corpus["train"] for key in c.keys]
    store = FeatureStore.write(tmp_path / "other", other, torch.randn(len(other), 3))
    says = r"other has no utterance of corpus 'made': expected keys such as .*, found session1/0/u0"
    with pytest.raises(StoreError, match=says):
        module_of(corpus, store).setup()


def test_what_is_not_there_is_named(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus.json"):
        ConversationDataModule(tmp_path / "corpus.json", {}).setup()
    with pytest.raises(FileNotFoundError, match=r"No feature store at .*nowhere"):
        ConversationDataModule(corpus, {"text": tmp_path / "nowhere"}).setup()


def test_graphs_of_no_store_are_refused(corpus):
    with pytest.raises(ValueError, match=r"Graphs are asked for \['audio'\], but the stores are \[\]"):
        ConversationDataModule(corpus, {}, {"audio": GraphBuilder()})


def test_requirements_say_what_was_found(corpus, text):
    module = module_of(corpus, text)
    module.setup()
    module.require("text", kind="features", dim=3)
    with pytest.raises(StoreError, match="has vectors of width 3, expected 4"):
        module.require("text", dim=4)
    with pytest.raises(
        StoreError, match=r"needs features 'visual', the datamodule has \['text'\]: add --data.stores.v"
    ):
        module.require("visual")


def test_a_damaged_store_is_refused(corpus, text):
    shard = next(text.path.glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match="does not match its checksum"):
        module_of(corpus, text.path).setup()
