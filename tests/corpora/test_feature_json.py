"""JSON features of DAG-ERC and MultiDAG+CL, as their makers write them: no ids, names for labels and speakers."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.conversation import CorpusError
from merc.corpora import import_pickle
from merc.corpora.feature_json import JSON_LAYOUTS
from merc.labels import IEMOCAP4, IEMOCAP6, MELD

LABELS = {
    "meld": ["neutral", "joy", "anger"],
    "iemocap": ["hap", "exc", "fru"],
    "emorynlp": ["Joyful", "Mad", "Neutral"],
    "dailydialog": ["happiness", "neutral", "anger"],
}
WIDTHS = {"text": 5, "audio": 3, "visual": 2}


def utterance(layout, index):
    vectors = [[float(width + index)] * width for width in WIDTHS.values()]
    found = {"text": f"Caf\xe9 {index}", "speaker": "AB"[index % 2], "cls": vectors[0]}
    if len(JSON_LAYOUTS[layout].features) > 1:
        found["cls"] = vectors
    return found if index == 3 else {**found, "label": LABELS[JSON_LAYOUTS[layout].corpus][index % 3]}


def write(folder, layout, sizes=None, change=None):
    """Three files; ``sizes`` are the lengths of the dialogues by split."""
    sizes = sizes or {"train": [4, 1, 2], "dev": [2], "test": [3, 1]}
    for split, lengths in sizes.items():
        talks = [[utterance(layout, index) for index in range(length)] for length in lengths]
        if change and split == "train":
            change(talks)
        (folder / f"{split}{JSON_LAYOUTS[layout].suffix}").write_text(json.dumps(talks), encoding="utf-8")
    return folder


@pytest.mark.parametrize("layout", JSON_LAYOUTS)
@settings(max_examples=8)
@given(data=st.data())
def test_every_utterance_keeps_its_place(tmp_path_factory, layout, data):
    lengths = st.lists(st.integers(1, 6), min_size=1, max_size=3)
    sizes = {"train": [3, *data.draw(lengths)], "dev": data.draw(lengths), "test": data.draw(lengths)}
    featured = import_pickle(write(tmp_path_factory.mktemp("j"), layout, sizes), layout=layout, standardize=())
    corpus, chosen = featured.corpus, JSON_LAYOUTS[layout]
    assert tuple(featured.features) == chosen.features
    for split, name in {"train": "train", "val": "dev", "test": "test"}.items():
        assert [len(c) for c in corpus[split]] == sizes[name]
        for number, conversation in enumerate(corpus[split]):
            assert (conversation.partition, conversation.id) == (split, str(number))
            for index, (key, found) in enumerate(zip(conversation.keys, conversation.utterances, strict=True)):
                assert (found.id, found.text, found.speaker) == (str(index), f"Caf\xe9 {index}", "AB"[index % 2])
                label = None if index == 3 else corpus.labels.canonical(LABELS[chosen.corpus][index % 3])
                assert found.label == label
                for feature, table in featured.features.items():
                    row = table.features[list(table.keys).index(key)]
                    np.testing.assert_array_equal(row, [WIDTHS[feature] + index] * WIDTHS[feature])


def test_label_sets(tmp_path):
    def labels(layout, **options):
        return import_pickle(write(tmp_path, layout), layout=layout, **options).corpus.labels

    assert labels("dagerc-meld") == MELD
    assert labels("multidag-iemocap") == IEMOCAP6
    assert labels("dagerc-iemocap", merge="excited-as-happy") == IEMOCAP4
    assert labels("dagerc-emorynlp").names == ("Joyful", "Mad", "Neutral")
    with pytest.raises(ValueError, match="merged in IEMOCAP only"):
        labels("dagerc-meld", merge="excited-dropped")


def test_one_of_the_files_names_the_folder(tmp_path):
    write(tmp_path, "dagerc-meld")
    corpus = import_pickle(tmp_path / "test_data_roberta.json.feature", layout="dagerc-meld").corpus
    assert [len(c) for c in corpus["train"]] == [4, 1, 2]
    assert any("ids are positions" in note for note in corpus.notes)
    assert "its own train, validation and test" in corpus.protocol
    assert "0.3" not in corpus.protocol
    drawn = import_pickle(tmp_path, layout="dagerc-meld", validation=0.3).corpus
    assert [len(drawn[split]) for split in ("train", "val", "test")] == [3, 1, 2]


def test_rows_without_information_become_missing(tmp_path):
    def damage(talks):
        talks[0][0]["cls"][1] = [0.0] * 3
        talks[0][1]["cls"][2] = [float("nan")] * 2

    features = import_pickle(write(tmp_path, "multidag-meld", change=damage), layout="multidag-meld").features
    assert {str(k): why for k, why in features["audio"].missing.items()} == {"train/0/0": "all zeros in the file"}
    assert {str(k): why for k, why in features["visual"].missing.items()} == {
        "train/0/1": "NaN or infinite in the file"
    }


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        ("dagerc-meld", lambda t: t[0][1].update(label="bored"), r"dialogue 0, utterance 1: Unknown label 'bored'"),
        (
            "dagerc-meld",
            lambda t: t[1][0].pop("cls"),
            r"dialogue 1: expected a list of objects with cls, speaker, text",
        ),
        ("dagerc-meld", lambda t: t.append([]), r"dialogue 3: expected a list of objects"),
        ("dagerc-meld", lambda t: t[0][0].update(cls=[1.0]), r"widths \[1, 5\], expected one"),
        ("dagerc-meld", lambda t: t[0][0].update(cls=["a"]), "utterance 0: cls is not a vector"),
        ("dagerc-meld", lambda t: t[0][0]["cls"].__setitem__(0, 10**400), "text has a number that no float holds"),
        ("multidag-meld", lambda t: t[2][1]["cls"].pop(), "dialogue 2, utterance 1: cls is not three vectors"),
    ],
)
def test_damage_is_told_with_its_place(tmp_path, layout, change, message):
    with pytest.raises(CorpusError, match=message) as caught:
        import_pickle(write(tmp_path, layout, change=change), layout=layout)
    assert str(tmp_path) in str(caught.value)


def test_null_is_no_text(tmp_path):
    write(tmp_path, "dagerc-meld", change=lambda t: t[0][0].update(text=None, speaker=None))
    utterance = import_pickle(tmp_path, layout="dagerc-meld").corpus["train"][0].utterances[0]
    assert (utterance.text, utterance.speaker) == ("", "")


def test_a_label_of_0_is_a_label(tmp_path):
    with pytest.raises(CorpusError, match="Unknown label '0'"):
        import_pickle(write(tmp_path, "dagerc-meld", change=lambda t: t[0][0].update(label=0)), layout="dagerc-meld")


def test_a_wrong_layout_is_told_the_right_one(tmp_path):
    write(tmp_path, "multidag-meld")
    with pytest.raises(
        FileNotFoundError, match=r"train_data_roberta\.json\.feature.*can be of multidag-meld, multidag-ie"
    ):
        import_pickle(tmp_path, layout="dagerc-meld")
    with pytest.raises(CorpusError, match=r"is a folder, but .*sdt-meld is one file.*multidag-meld, multidag-iemocap"):
        import_pickle(tmp_path, layout="sdt-meld")
    with pytest.raises(CorpusError, match=r"Unknown label 'joy'.* can be of multidag-meld"):
        import_pickle(tmp_path, layout="multidag-iemocap")
    (tmp_path / "train_data_roberta_mm.json.feature").write_text("[", encoding="utf-8")
    with pytest.raises(CorpusError, match="is not JSON"):
        import_pickle(tmp_path, layout="multidag-meld")
