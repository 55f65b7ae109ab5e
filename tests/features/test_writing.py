"""How utterances are written, counted by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import Conversation, Corpus, Utterance, UtteranceKey
from merc.corpora.commands import import_writing
from merc.features import measure_writing, writing_table
from merc.features.writing import WRITING
from merc.labels import LabelSet
from merc.store import FeatureStore, StoreError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("Hi, Joey!", {"words": 2, "letters": 6, "exclamations": 1, "commas": 1}),
        ("WHAT?! NO! I... I didn\u2019t\u2026", {"words": 5, "letters": 13, "exclamations": 2, "questions": 1}
         | {"ellipses": 2, "shouted": 2}),
        ("Oh!!!!!", {"words": 1, "letters": 2, "exclamations": 3}),
        ("I said OK 2 U.", {"words": 5, "letters": 8, "shouted": 1}),
    ],
)  # fmt: skip
def test_counted_by_hand(text, expected):
    numbers = dict(zip(WRITING, measure_writing(text), strict=True))
    for name, value in numbers.items():
        wanted = expected.get(name, 0)
        assert value == pytest.approx(math.log(1 + wanted) if name in ("words", "letters") else wanted)


@given(st.text())
def test_any_text_gives_numbers_of_one_scale(text):
    numbers = measure_writing(text)
    assert len(numbers) == len(WRITING)
    assert all(0 <= number <= max(3, math.log1p(len(text))) for number in numbers)


def corpus():
    utterances = tuple(Utterance(str(i), "Ann", text) for i, text in enumerate(["No!", "Why, Ross?", "Oh..."]))
    return Corpus("mine", LabelSet("mine", ("neutral", "joy")), {"train": [Conversation("7", utterances, "train")]})


def test_a_table_alone_and_behind_features(tmp_path):
    alone = writing_table(corpus())
    assert (
        alone.features.tolist() == torch.tensor([measure_writing(t) for t in ("No!", "Why, Ross?", "Oh...")]).tolist()
    )
    keys = list(alone.keys)
    store = FeatureStore.write(
        tmp_path / "features", keys[:2], torch.tensor([[1.0, 2.0], [3.0, 4.0]]), missing={keys[2]: "no clip"}
    )
    behind = writing_table(corpus(), store)
    assert list(behind.keys) == keys[:2] and behind.missing == {keys[2]: "no clip"}
    torch.testing.assert_close(
        behind.features, torch.cat([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), alone.features[:2]], 1)
    )
    assert behind.provenance["of"]["digest"] == store.digest


def test_logits_are_no_features(tmp_path):
    key = UtteranceKey("train", "7", "0")
    store = FeatureStore.write(tmp_path / "logits", [key], torch.zeros(1, 2), kind="logits", provenance={})
    with pytest.raises(StoreError, match="features"):
        writing_table(corpus(), store)


def test_from_the_command_line(tmp_path, capsys):
    corpus().save(tmp_path / "corpus.json")
    import_writing(tmp_path, out=tmp_path / "writing")
    assert FeatureStore(tmp_path / "writing").dim == 7
    assert "3 utterances, width 7" in capsys.readouterr().out
