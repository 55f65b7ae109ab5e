"""Community pickles of every layout, written as their makers write them."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import Corpus, CorpusError
from merc.corpora.iemocap import USUAL_VALIDATION
from merc.corpora.pickles import LAYOUTS, import_pickle
from merc.corpora.unpickle import UnsafePickleError
from merc.labels import IEMOCAP6, MELD
from merc.store import FeatureStore
from support.made_pickles import IEMOCAP_SPLITS, SPLITS, WIDTHS, write


@pytest.mark.parametrize("splits_as", [list, set, tuple, lambda names: np.array(list(names))])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path, layout, protocol, splits_as):
    path, parts = write(tmp_path, layout, protocol=protocol, splits_as=splits_as)
    chosen = LAYOUTS[layout]
    featured = import_pickle(path, layout=layout, standardize=())
    corpus = featured.corpus
    labels = MELD if chosen.corpus == "meld" else IEMOCAP6
    assert corpus.labels == labels
    with_ids = {"ids", "ids?"} & set(chosen.elements)
    start = {"train": 0, "val": 1039, "test": 1153}
    for split, names in SPLITS[chosen.corpus].items():
        assert len(corpus[split]) == len(names)
        for name, conversation in zip(sorted(names), corpus[split], strict=True):
            if chosen.corpus == "meld":
                assert (conversation.partition, conversation.id) == (split, str(name - start[split]))
            else:
                assert (conversation.partition, conversation.id) == (f"session{name[4]}", name)
            assert [labels.index(u.label) for u in conversation.utterances] == parts["labels"][name]
            assert conversation.speaker_ids == [i % 2 for i in range(len(conversation))]
            assert conversation.utterances[0].text == "Caf\xe9 0"
            wanted = parts["ids" if "ids" in parts else "ids?"][name] if with_ids else range(len(conversation))
            assert [u.id for u in conversation.utterances] == [str(i) for i in wanted]
            for role in set(WIDTHS) & set(parts):
                table = featured.features["text" if role == "roberta1" else role]
                rows = [list(table.keys).index(key) for key in conversation.keys]
                np.testing.assert_array_equal(table.features[rows], np.array(parts[role][name]))
    assert len(featured.features) == len(set(WIDTHS) & set(parts))


def test_sound_and_faces_are_standardized_over_train_and_text_is_not(tmp_path):
    def measure(parts):
        for name, rows in parts["audio"].items():
            parts["audio"][name] = [row * [1e5, 1, 0] + [3e6, 0, 7] for row in rows]
        parts["audio"][1153][0][0] = 1e9  # of a test clip that lasts minutes

    path, _ = write(tmp_path, "sdt-meld", change=measure)
    raw, features = (
        import_pickle(path, layout="sdt-meld", **options).features for options in ({"standardize": []}, {})
    )
    for name in ("text", "audio", "visual"):
        train = [row for row, key in enumerate(features[name].keys) if key.partition == "train"]
        before, after = raw[name].features[train].double(), features[name].features
        assert list(raw[name].keys) == list(features[name].keys)
        if name == "text":
            np.testing.assert_array_equal(after, raw[name].features)
            continue
        deviation = before.std(0, correction=0)
        expected = (raw[name].features - before.mean(0)) / torch.where(deviation > 1e-9, deviation, 1.0)
        torch.testing.assert_close(after, expected.clamp(-10, 10).float(), atol=1e-4, rtol=1e-4)
        assert features[name].provenance["standardized"] == {
            "over": "train split",
            "bound": 10.0,
            "set_to_it": int(name == "audio"),
        }
    with pytest.raises(ValueError, match="expected some of text, audio, visual"):
        import_pickle(path, layout="sdt-meld", standardize=["sound"])


@pytest.mark.parametrize("layout", ["sdt-iemocap", "cosmic-meld"])
def test_saved_it_can_be_opened(tmp_path, layout):
    path, _ = write(tmp_path, layout)
    featured = import_pickle(path, layout=layout)
    featured.save(tmp_path / "out")
    assert Corpus.load(tmp_path / "out/corpus.json") == featured.corpus
    store = FeatureStore(tmp_path / "out/features/text")
    assert "fine-tuned on the labels of train" in store.provenance["about"]
    assert store.provenance["element"] == "roberta1"
    lower = FeatureStore(tmp_path / "out/features/roberta3").provenance["about"]
    assert lower == "RoBERTa fine-tuned on the labels of train, hidden state 3 from the top"
    assert len(store.provenance["sha256"]) == 64


def test_speakers_are_named_after_the_session(tmp_path):
    path, _ = write(tmp_path, "sdt-iemocap")
    (conversation,) = import_pickle(path, layout="sdt-iemocap").corpus["test"]
    assert conversation.speakers == ["Ses05F", "Ses05M"]

    def one_hot(parts):
        parts["speakers"].update({name: [[0, 1], [1, 0]] * 3 for name in parts["speakers"]})
        parts["speakers"].update(
            {name: parts["speakers"][name][: len(parts["labels"][name])] for name in parts["speakers"]}
        )

    path, _ = write(tmp_path, "sdt-iemocap", change=one_hot)
    (conversation,) = import_pickle(path, layout="sdt-iemocap").corpus["test"]
    assert conversation.speakers == ["Ses05F", "Ses05M"]


def test_the_validation_split_is_named(tmp_path):
    def protocol(layout):
        return import_pickle(write(tmp_path, layout)[0], layout=layout).corpus.protocol

    assert "2 of the 12 usual validation dialogues" in protocol("mmgcn-iemocap")
    assert "MELD's dev, the 2 train dialogues numbered from 1039 on" in protocol("mmgcn-meld")
    assert "its own train, validation and test" in protocol("cosmic-meld")
    assert set(IEMOCAP_SPLITS["val"]) <= set(USUAL_VALIDATION)


def test_other_numbers_than_melds_get_a_drawn_validation_split(tmp_path):
    def renumber(parts):
        for value in parts.values():
            if isinstance(value, dict):
                for old, new in {1039: 60, 1041: 61, 1153: 62, 1432: 63}.items():
                    value[new] = value.pop(old)
        parts["train"][:] = [0, 2, 10, 60, 61]
        parts["test"][:] = [62, 63]

    corpus = import_pickle(write(tmp_path, "mmgcn-meld", change=renumber)[0], layout="mmgcn-meld").corpus
    assert "validation is a tenth of train (1 dialogues" in corpus.protocol
    assert [len(corpus[split]) for split in ("train", "val", "test")] == [4, 1, 2]
    assert [c.id for c in corpus["test"]] == ["62", "63"]
    assert any("do not follow" in note for note in corpus.notes)


def test_notes_of_provenance(tmp_path):
    notes = " ".join(import_pickle(write(tmp_path, "mmgcn-meld")[0], layout="mmgcn-meld").corpus.notes)
    assert "some elements of this layout is not verified" in notes
    notes = " ".join(import_pickle(write(tmp_path, "cosmic-iemocap")[0], layout="cosmic-iemocap").corpus.notes)
    assert "no utterance ids" in notes
    assert "a fresh parse of EmoEvaluation differs" in notes


@pytest.mark.parametrize(
    ("role", "width", "about"), [("text", 600, "trained on MELD's labels"), ("visual", 342, "DenseFace")]
)
def test_known_widths_have_their_story(tmp_path, role, width, about):
    def widen(parts):
        parts[role].update({name: np.ones((len(rows), width)) for name, rows in parts[role].items()})

    features = import_pickle(write(tmp_path, "mmgcn-meld", change=widen)[0], layout="mmgcn-meld").features
    assert features[role].provenance["about"] == about
    assert features["audio"].provenance["about"].startswith("unknown")


def test_rows_without_information_become_missing_not_zeros(tmp_path):
    def damage(parts):
        parts["audio"][0] = np.array(parts["audio"][0])
        parts["audio"][0][0] = 0
        parts["audio"][0][1] = np.nan
        del parts["visual"][1153]

    features = import_pickle(write(tmp_path, "sdt-meld", change=damage)[0], layout="sdt-meld").features
    reasons = {str(key): reason for key, reason in features["audio"].missing.items()}
    assert reasons == {"train/0/0": "all zeros in the file", "train/0/2": "NaN or infinite in the file"}
    assert set(features["visual"].missing.values()) == {"the file has no such dialogue"}
    assert not set(features["audio"].missing) & set(features["audio"].keys)


@pytest.mark.parametrize("other", [name for name in LAYOUTS if "multiemo" not in name])
@pytest.mark.parametrize("layout", [name for name in LAYOUTS if "multiemo" not in name])
def test_a_wrong_layout_says_what_would_fit(tmp_path, layout, other):
    path, _ = write(tmp_path, layout)
    if layout == other:
        assert import_pickle(path, layout=other)
        return
    with pytest.raises(CorpusError, match=rf"is not of layout {other}: .* Layouts that fit: {layout}\b"):
        import_pickle(path, layout=other)


def test_no_layout_fits_a_stranger(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": np.zeros(3)}))
    with pytest.raises(
        CorpusError, match=r"It is a dict of 1 \('a': an array \(3,\) of float64\)\. Layouts that fit: none"
    ):
        import_pickle(path, layout="sdt-meld")
    with pytest.raises(ValueError, match="Unknown layout 'sdt': expected one of mmgcn-iemocap"):
        import_pickle(path, layout="sdt")


def test_multiemo_needs_all_its_files(tmp_path):
    folder, _ = write(tmp_path, "multiemo-meld")
    assert import_pickle(folder / "Speakers.pkl", layout="multiemo-meld").features.keys() == {"text", "audio", "visual"}
    (folder / "AudioFeatures.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"AudioFeatures\.pkl"):
        import_pickle(folder, layout="multiemo-meld")


def shorten(role):
    return lambda parts: parts[role][0].pop()


def put(role, value):
    return lambda parts: parts[role].__setitem__(2, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorten("labels"), r"dialogue '0' has \d labels but \d speakers"),
        (shorten("sentences"), r"labels but \d sentences"),
        (shorten("audio"), r"audio of dialogue '0' has shape \(\d, 3\), expected \(\d, d\)"),
        (put("labels", [9] * 3), "label id 9, expected 0 to 6"),
        (put("labels", None), "not throughout"),
        (put("labels", ["joy"] * 3), "label id joy, expected 0 to 6"),
        (put("labels", [1.5] * 3), "label id 1.5, expected 0 to 6"),
        (put("labels", [-0.5] * 3), "label id -0.5, expected 0 to 6"),
        (put("labels", [True] * 3), "label id True, expected 0 to 6"),
        (put("speakers", [0.5] * 3), r"has speaker \[0.5\], expected a whole number"),
        (
            lambda parts: parts["labels"].update({" 2": [0] * 3}),
            "labels has dialogue '2' twice, the second time as ' 2'",
        ),
        (lambda parts: parts["audio"].update({"02": [[0.0]] * 3}), "audio has dialogue '2' twice"),
        (put("speakers", [[0, 0, 0]] * 3), "expected one-hot"),
        (put("audio", [["a"] * 3] * 3), "audio of dialogue '2' are no numbers"),
        (put("audio", np.ones((3, 7))), "has width 7"),
        (put("audio", [[1.0], [1.0, 2.0], [1.0]]), "are no numbers"),
        (lambda parts: parts["test"].append(7), "test names dialogue '7', which has no labels"),
        (lambda parts: parts["test"].append(0), "dialogue '0' is in train and test"),
    ],
)
def test_damage_is_told_with_its_dialogue(tmp_path, change, message):
    def change_lists(parts):
        parts["labels"][2] = parts["labels"][2][:3] + [0] * (3 - len(parts["labels"][2]))
        for role in ("ids", "speakers", "sentences", "audio", "roberta1"):
            parts[role][2] = (list(parts[role][2]) * 2)[:3]
        change(parts)

    path, _ = write(tmp_path, "sdt-meld", change=change_lists)
    with pytest.raises(CorpusError, match=message) as caught:
        import_pickle(path, layout="sdt-meld")
    assert "features.pkl" in str(caught.value)


@given(
    value=st.recursive(
        st.none() | st.integers(-5, 5) | st.text(max_size=3) | st.just("Ses01F_impro01"),
        lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.integers(0, 3), inner, max_size=3),
        max_leaves=30,
    ),
    layout=st.sampled_from(sorted(name for name in LAYOUTS if "multiemo" not in name)),
)
def test_anything_else_is_refused(tmp_path_factory, value, layout):
    path = tmp_path_factory.mktemp("p") / "x.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(CorpusError, match=r"x\.pkl is not of layout"):
        import_pickle(path, layout=layout)


class Evil:
    def __reduce__(self):
        return (eval, ("1 + 1",))


def test_a_layout_that_hides_code_is_refused(tmp_path):
    path, _ = write(tmp_path, "sdt-meld", change=lambda parts: parts["sentences"].update({0: [Evil()]}))
    with pytest.raises(UnsafePickleError, match=r"asks for builtins\.eval"):
        import_pickle(path, layout="sdt-meld")
