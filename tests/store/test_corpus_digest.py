"""Stores record whose keys they use, and are refused with the keys of another corpus instead of being half-matched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.conversation import Conversation, Corpus, Utterance
from merc.corpora import import_pickle
from merc.datamodules import ConversationDataModule
from merc.features.table import FeatureTable
from merc.labels import MELD
from merc.store import FeatureStore, StoreError
from support.made_pickles import write


def corpus_of(dialogues):
    """A corpus from utterance ids by dialogue, all of it train."""
    talks = [
        Conversation(name, tuple(Utterance(i, "A", "x", label="joy") for i in ids), "train")
        for name, ids in dialogues.items()
    ]
    return Corpus("meld", MELD, {"train": talks})


def saved(folder, corpus, missing=0):
    keys = [key for split in corpus.values() for c in split for key in c.keys]
    lacking = dict.fromkeys(keys[:missing], "broken")
    rows = torch.arange(1.0, len(keys) - missing + 1).unsqueeze(1)
    return FeatureTable(keys[missing:], rows, lacking).save(folder, corpus)


IDS = st.lists(st.integers(0, 9), min_size=1, max_size=5, unique=True).map(lambda ids: [str(i) for i in sorted(ids)])
DIALOGUES = st.dictionaries(st.sampled_from("abcdef"), IDS, min_size=1, max_size=4)


@settings(max_examples=60)
@given(ids=DIALOGUES, missing=st.integers(0, 2))
def test_positions_are_refused_wherever_ids_have_gaps(tmp_path_factory, ids, missing):
    positions = {name: [str(i) for i in range(len(found))] for name, found in ids.items()}
    store = saved(tmp_path_factory.mktemp("s"), corpus_of(ids), missing)
    store.require_corpus(corpus_of(ids))
    if positions == ids:
        store.require_corpus(corpus_of(positions))
        return
    with pytest.raises(StoreError, match=r"uses the keys of another corpus|has no utterance of corpus"):
        store.require_corpus(corpus_of(positions))


@settings(max_examples=30)
@given(ids=DIALOGUES, data=st.data())
def test_whole_dialogues_of_the_corpus_will_do_and_others_will_not(tmp_path_factory, ids, data):
    store = saved(tmp_path_factory.mktemp("s"), corpus_of(ids))
    part = data.draw(st.lists(st.sampled_from(sorted(ids)), min_size=1, unique=True))
    store.require_corpus(corpus_of({name: ids[name] for name in part}))
    with pytest.raises(StoreError, match=r"dialogue train/new has the utterances 0 here, none in the store"):
        store.require_corpus(corpus_of({**ids, "new": ["0"]}))


def test_the_digest_is_of_the_keys_and_nothing_else(tmp_path):
    ids = {"a": ["0", "2"], "b": ["1"]}
    one, other = corpus_of(ids), corpus_of(dict(reversed(ids.items())))
    split = Corpus("x", MELD, {"train": one["train"][:1], "test": one["train"][1:]}, protocol="a fold")
    assert one.digest == other.digest == split.digest != corpus_of({**ids, "b": ["2"]}).digest
    assert corpus_of({"a": ["0"], "b": ["0"]}).digest != corpus_of({"a": ["0", "b"]}).digest
    assert FeatureStore(saved(tmp_path, one).path).corpus == one.digest
    assert FeatureStore.write(tmp_path / "bare", [], torch.zeros(0, 1)).corpus is None


def test_two_sources_of_meld_are_not_mixed(tmp_path):
    """COSMIC's file has positions, SDT's has ids with gaps: the rows would be silently shifted."""
    for layout in ("cosmic-meld", "sdt-meld"):
        path, _ = write(tmp_path, layout)
        import_pickle(path, layout=layout).save(tmp_path / layout)
    stores = {"text": tmp_path / "cosmic-meld/features/text", "audio": tmp_path / "sdt-meld/features/audio"}
    data = ConversationDataModule(tmp_path / "sdt-meld/corpus.json", stores)
    with pytest.raises(
        StoreError, match=r"cosmic-meld/features/text uses the keys of another corpus .* 0, 2.* here, 0, 1"
    ):
        data.setup()
    ConversationDataModule(tmp_path / "sdt-meld/corpus.json", {"audio": stores["audio"]}).setup()
