"""Pickles of MMSA: sentiment as a number, means over frames, what is refused."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from merc.conversation import CorpusError, UtteranceKey
from merc.corpora import import_mmsa

CASE = Path("../shared/cases/22_mmsa_pickle/unaligned_50.pkl")


def write(path, **changes):
    random = np.random.default_rng(0)
    parts = {}
    for split, ids in {"train": ["b$_$10", "b$_$2", "a_1$_$0"], "valid": ["c$_$0"], "test": ["d$_$1"]}.items():
        count = len(ids)
        parts[split] = {
            "id": ids,
            "raw_text": [f"said {name}" for name in ids],
            "text": random.normal(size=(count, 4, 3)).astype(np.float32),
            "audio": random.normal(size=(count, 4, 2)).astype(np.float32),
            "annotations": ["Negative", "Neutral", "Positive"][:count],
            "regression_labels": np.array([-2.5, 0.0, 1.2])[:count],
            **changes,
        }
    parts["train"]["text"][0, 2:] = 0  # padding
    parts["train"]["text"][1] = 0
    path.write_bytes(pickle.dumps(parts))
    return parts


def test_a_video_is_a_dialogue_and_features_are_means_over_frames(tmp_path):
    parts = write(tmp_path / "mosi.pkl")
    found = import_mmsa(tmp_path / "mosi.pkl", standardize=())
    first = found.corpus["train"][0]
    assert (first.id, [u.id for u in first.utterances]) == ("b", ["2", "10"])
    assert [u.values for u in first.utterances] == [{"sentiment": 0.0}, {"sentiment": -2.5}]
    assert [u.label for u in first.utterances] == ["neutral", "negative"]
    assert first.utterances[0].text == "said b$_$2"
    assert found.corpus.dimensions == {"sentiment": (-3, 3)}
    assert list(found.corpus) == ["train", "val", "test"]
    text = found.features["text"]
    row = text.keys.index(UtteranceKey("train", "b", "10"))
    assert torch.allclose(text.features[row], torch.tensor(parts["train"]["text"][0, :2].mean(0)))
    assert text.missing == {UtteranceKey("train", "b", "2"): "all zeros in the file"}
    assert sorted(found.features) == ["audio", "text"]


def test_a_text_that_is_not_there_is_empty(tmp_path):
    parts = write(tmp_path / "mosi.pkl")
    parts["test"]["raw_text"] = [None]
    (tmp_path / "mosi.pkl").write_bytes(pickle.dumps(parts))
    assert import_mmsa(tmp_path / "mosi.pkl").corpus["test"][0].utterances[0].text == ""


def test_sims_has_a_scale_from_minus_1_to_1(tmp_path):
    write(tmp_path / "sims.pkl", regression_labels=np.array([0.4]))
    with pytest.raises(CorpusError, match="3 ids and 1 regression_labels"):
        import_mmsa(tmp_path / "sims.pkl")
    parts = write(tmp_path / "sims.pkl")
    for of in parts.values():
        of["regression_labels"] /= 2.5
    (tmp_path / "sims.pkl").write_bytes(pickle.dumps(parts))
    assert import_mmsa(tmp_path / "sims.pkl").corpus.dimensions == {"sentiment": (-1, 1)}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "is not of MMSA"),
        ({"train": {"id": ["a$_$1"]}}, "is not of MMSA"),
        ({"train": {"id": ["a"], "regression_labels": [1.0]}}, "expected video"),
        ({"train": {"id": ["a$_$1"], "regression_labels": ["x"]}}, "is damaged"),
        ({"train": {"id": ["a$_$1"], "regression_labels": [np.nan]}}, "every regression_label is NaN"),
        ({"train": {"id": ["a$_$1"], "regression_labels": [1.0], "text": np.ones((1, 3))}}, "expected .1, T, d."),
    ],
)
def test_other_layouts_are_refused(tmp_path, value, message):
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(value))
    with pytest.raises(CorpusError, match=message):
        import_mmsa(tmp_path / "file.pkl")


@pytest.mark.skipif(not CASE.is_file(), reason="no ../shared/cases")
def test_the_layout_of_mmsa_imports():
    found = import_mmsa(CASE)
    assert {name: table.features.shape[1] for name, table in found.features.items()} == {
        "text": 768,
        "audio": 25,
        "visual": 177,
    }
