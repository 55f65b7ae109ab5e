"""Folders of .npy files, as MERTools, emotion2vec and EmoBox write them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.cli import main
from merc.conversation import Conversation, Corpus, CorpusError, Utterance
from merc.features import import_arrays
from merc.labels import IEMOCAP6, MELD
from merc.store import FeatureStore

CASE = Path(__file__).parents[2].parent / "shared/cases/23_npy_folder/emotion2vec"


def corpus_of(ids, partition="train", labels=MELD):
    talks = [Conversation(d, tuple(Utterance(u, "A", "x") for u in us), partition) for d, us in ids.items()]
    return Corpus("toy", labels, {"train": talks})


@pytest.mark.skipif(not CASE.is_dir(), reason="the case of a folder of .npy files is not at ../shared/cases")
def test_a_folder_of_emotion2vec(tmp_path):
    corpus_of({"0": ["0", "1"], "1": ["0", "1"]}).save(tmp_path / "corpus.json")
    command = ["import", "npy", str(CASE), "--corpus", str(tmp_path / "corpus.json"), "--out", str(tmp_path / "audio")]
    assert main(command) == 0
    store = FeatureStore(tmp_path / "audio")
    assert (len(store), store.dim) == (3, 768)
    assert {str(key): why for key, why in store.missing.items()} == {"train/1/1": "no file"}
    assert store.corpus == Corpus.load(tmp_path / "corpus.json").digest
    np.testing.assert_array_equal(store[store.keys[1]], np.load(CASE / "dia0_utt1.npy"))


@settings(max_examples=25)
@given(
    frames=st.dictionaries(st.tuples(st.sampled_from("012"), st.integers(0, 4)), st.integers(0, 4), min_size=1),
    split=st.sampled_from(["", "train_", "train/"]),
)
def test_frames_are_averaged_whatever_the_names(tmp_path_factory, frames, split):
    folder = tmp_path_factory.mktemp("npy")
    arrays = {}
    for (dialogue, utterance), length in frames.items():
        shape = (length, 3) if length else (3,)
        arrays[dialogue, str(utterance)] = np.random.default_rng(length).normal(size=shape)
        file = folder / f"{split}dia{dialogue}_utt{utterance}.npy"
        file.parent.mkdir(exist_ok=True)
        np.save(file, arrays[dialogue, str(utterance)])
    ids = {d: [str(u) for u in range(5)] for d in "012"}
    table = import_arrays(folder, corpus_of(ids))
    assert {(key.dialogue, key.utterance) for key in table.keys} == set(arrays)
    assert len(table.missing) == 15 - len(arrays)
    for key, row in zip(table.keys, table.features, strict=True):
        array = arrays[key.dialogue, key.utterance]
        np.testing.assert_allclose(row, array.mean(0) if array.ndim == 2 else array, rtol=1e-6, atol=1e-6)
    assert bool(table.provenance["notes"]) == any(length > 1 for length in frames.values())


def test_a_column_is_a_vector(tmp_path):
    for number, shape in enumerate([(3,), (1, 3), (3, 1)]):
        np.save(tmp_path / f"dia0_utt{number}.npy", np.arange(3.0).reshape(shape))
    table = import_arrays(tmp_path, corpus_of({"0": ["0", "1", "2"]}))
    assert table.features.tolist() == [[0, 1, 2]] * 3 and not table.provenance["notes"]


def test_of_a_name_without_a_partition_the_message_says_what_to_do(tmp_path):
    np.save(tmp_path / "dia0_utt0.npy", np.ones(2))
    talks = {name: [Conversation("0", (Utterance("0", "A", "x"),), name)] for name in ("train", "val")}
    with pytest.raises(CorpusError, match=r"dia0_utt0\.npy: .* in the partitions train, val, and nothing says which"):
        import_arrays(tmp_path, Corpus("toy", MELD, talks))


def test_names_of_utterances(tmp_path):
    names = ["Ses01F_impro01_F000", "Ses01F_impro01_M000"]
    np.save(tmp_path / f"{names[1]}.npy", np.ones(2, np.float32))
    np.save(tmp_path / "other.npy", np.ones(2, np.float32))
    table = import_arrays(tmp_path, corpus_of({"Ses01F_impro01": names}, "session1", IEMOCAP6))
    assert [key.utterance for key in table.keys] == names[1:]
    assert "1 files are of no utterance of the corpus, the first other.npy" in table.provenance["notes"][0]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, r"No \.npy files in"),
        ({"x": np.ones(2)}, r"the first is x\.npy, the first utterance is train/0/0\. Pass --pattern"),
        ({"dia0_utt0": np.ones(2), "dia0_utt1": np.ones(3)}, "utt1.npy has width 3, .*utt0.npy has 2"),
        ({"dia0_utt0": np.ones((2, 2, 2))}, r"holds \(2, 2, 2\) of float64: expected a vector"),
        ({"dia0_utt0": np.array(["a"])}, r"of <U1: expected a vector"),
        ({"dia0_utt0": np.array([{}])}, "is no plain array"),
        ({"dia0_utt0": np.ones(2), "train_dia0_utt0": np.ones(2)}, "are both of train/0/0"),
    ],
)
def test_what_is_refused(tmp_path, arrays, message):
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    with pytest.raises(CorpusError, match=message):
        import_arrays(tmp_path, corpus_of({"0": ["0", "1"]}))


def test_broken_arrays_are_missing(tmp_path):
    np.save(tmp_path / "dia0_utt0.npy", np.array([1, np.nan]))
    np.save(tmp_path / "dia0_utt1.npy", np.zeros((0, 2)))
    np.save(tmp_path / "dia0_utt2.npy", np.ones(2))
    table = import_arrays(tmp_path, corpus_of({"0": ["0", "1", "2"]}))
    assert [key.utterance for key in table.keys] == ["2"]
    assert list(table.missing.values()) == ["NaN or infinite in the file", "no frames in the file"]
    with pytest.raises(ValueError, match="needs the groups"):
        import_arrays(tmp_path, corpus_of({"0": ["0"]}), pattern="x")


@pytest.mark.parametrize(("array", "why"), [(np.full(3, np.nan), "NaN or infinite"), (np.zeros((0, 3)), "no frames")])
def test_a_folder_without_a_vector_is_refused(tmp_path, array, why):
    np.save(tmp_path / "dia0_utt0.npy", array)
    with pytest.raises(CorpusError, match=rf"None of the 1 files .*/dia0_utt0\.npy has {why} in the file"):
        import_arrays(tmp_path, corpus_of({"0": ["0", "1"]}))
