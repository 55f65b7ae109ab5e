"""What the data tells of itself, so that no config has to."""

import json
from dataclasses import FrozenInstanceError

import pytest
import torch

from merc.conversation import Conversation, Corpus, Utterance
from merc.corpora.simulated import simulate
from merc.datamodules import ConversationDataModule, DataFacts, TextDataModule
from merc.labels import LabelSet
from merc.store import FeatureStore, StoreError
from support.tiny_text import conversation

EMOTIONS = {"calm": 3, "cross": 1, "glad": 1}


@pytest.fixture(scope="module")
def made():
    return simulate(
        dialogues={"train": 20, "val": 4},
        emotions=EMOTIONS,
        widths={"text": 5, "audio": 4},
        latent_dims={"text": 2, "audio": 2},
    )


def test_widths_emotions_and_their_counts_come_from_the_data(made, tmp_path):
    made.save(tmp_path)
    corpus = Corpus.load(tmp_path / "corpus.json")
    keys = [key for split in corpus.values() for c in split for key in c.keys]
    FeatureStore.write(tmp_path / "logits", keys, torch.zeros(len(keys), 3), kind="logits")
    stores = {"teacher": tmp_path / "logits", **{name: tmp_path / "features" / name for name in ("text", "audio")}}
    facts = ConversationDataModule(tmp_path / "corpus.json", stores).facts
    labels = [u.label for c in corpus["train"] for u in c.utterances]
    assert facts == DataFacts(
        {"teacher": 3, "text": 5, "audio": 4},
        ("calm", "cross", "glad"),
        tuple(labels.count(name) for name in EMOTIONS),
        ("text", "audio"),
    )
    assert TextDataModule(corpus).facts == DataFacts({}, facts.classes, facts.class_counts, ())
    assert DataFacts.from_plain(json.loads(json.dumps(facts.plain()))) == facts
    with pytest.raises(FrozenInstanceError):
        facts.classes = ()


def test_without_a_training_split_nothing_is_counted_and_the_unlabelled_never(made):
    labels = LabelSet("two", ("calm", "cross"))
    talk = Conversation("0", (Utterance("0", "A"), Utterance("1", "B")), "train")
    assert DataFacts.of(Corpus("none", labels, {"test": [talk]}), {}).class_counts == (0, 0)
    assert DataFacts.of(Corpus("none", labels, {"train": [talk]}), {}).class_counts == (0, 0)


def test_what_is_not_there_is_named(tmp_path):
    facts = DataFacts({"text": 5}, ("calm", "cross"), (1, 1), ("text",))
    with pytest.raises(StoreError, match=r"needs features 'audio', the datamodule has \['text'\]: add --data.stores.a"):
        facts.width("audio")
    [key, *_] = conversation(["a"]).keys
    empty = FeatureStore.write(tmp_path / "empty", [], torch.zeros(0, 0), missing={key: "no sound"})
    with pytest.raises(StoreError, match="empty holds nothing: 1 utterances are missing, the first because: no sound"):
        DataFacts.of(Corpus("none", LabelSet("two", ("a", "b")), {}), {"audio": empty})


@pytest.mark.parametrize(
    "values",
    [None, {}, {"widths": 3}, {"widths": {"text": "wide"}, "classes": [], "class_counts": [], "modalities": []}],
)
def test_values_that_are_no_facts_are_refused(values):
    with pytest.raises(ValueError, match="Expected widths, classes, class_counts and modalities, found"):
        DataFacts.from_plain(values)
