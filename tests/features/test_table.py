"""Feature tables and corpora with features: refused before anything is written, saved corpus last."""

import pytest
import torch

from merc.conversation import Conversation, Corpus, CorpusError, Utterance
from merc.features.table import FeaturedCorpus, FeatureTable
from merc.labels import MELD
from merc.store import FeatureStore


@pytest.fixture
def corpus():
    return Corpus("toy", MELD, {"train": [Conversation("0", (Utterance("0", "A"), Utterance("1", "B")))]})


def test_save_writes_stores_then_the_corpus(corpus, tmp_path):
    first, second = corpus["train"][0].keys
    table = FeatureTable([first], torch.ones(1, 3), {second: "no clip"}, {"encoder": "none"})
    FeaturedCorpus(corpus, {"audio": table}).save(tmp_path / "out")
    store = FeatureStore(tmp_path / "out/features/audio")
    assert store.keys == [first]
    assert store.missing == {second: "no clip"}
    assert store.provenance == {"encoder": "none"}
    assert Corpus.load(tmp_path / "out/corpus.json") == corpus


def test_a_cut_save_leaves_no_corpus_file(corpus, tmp_path, monkeypatch):
    table = FeatureTable([corpus["train"][0].keys[0]], torch.ones(1, 3))
    featured = FeaturedCorpus(corpus, {"audio": table})
    featured.save(tmp_path)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(FeatureStore, "write", full_disk)
    with pytest.raises(OSError, match="No space"):
        featured.save(tmp_path)
    assert not (tmp_path / "corpus.json").exists()


def test_bad_tables_are_refused(corpus):
    first, second = corpus["train"][0].keys
    with pytest.raises(CorpusError, match=r"shape \(2, d\), got \(1, 3\)"):
        FeatureTable([first, second], torch.ones(1, 3))
    with pytest.raises(CorpusError, match="train/0/0 twice"):
        FeatureTable([first, first], torch.ones(2, 3))
    with pytest.raises(CorpusError, match="and as missing"):
        FeatureTable([first], torch.ones(1, 3), {first: "why"})
    with pytest.raises(CorpusError, match=r"NaN or infinite features for 1 utterances \(train/0/1\)"):
        FeatureTable([first, second], torch.tensor([[1.0], [float("nan")]]))


def test_names_and_keys_must_fit(corpus):
    table = FeatureTable([corpus["train"][0].keys[0]._replace(dialogue="9")], torch.ones(1, 3))
    with pytest.raises(CorpusError, match="train/9/0, which is not in the corpus"):
        FeaturedCorpus(corpus, {"audio": table})
    with pytest.raises(CorpusError, match=r"cannot be named '\.\./x'"):
        FeaturedCorpus(corpus, {"../x": table})
