"""Community pickles of every layout, written as their makers write them."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from merc.conversation import Corpus, CorpusError
from merc.corpora.iemocap import USUAL_VALIDATION
from merc.corpora.layouts import ALIASES, LAYOUTS, MOSEI2, MOSEI7
from merc.corpora.pickles import _order, import_pickle
from merc.corpora.unpickle import UnsafePickleError
from merc.labels import IEMOCAP4, IEMOCAP6, MELD
from merc.store import FeatureStore
from support.made_pickles import IEMOCAP_SPLITS, SPLITS, WIDTHS, write

LABELS = {"meld": MELD, "iemocap": IEMOCAP6, "mosei": MOSEI2}
ROLES = {*WIDTHS, "audio frames"}
SINGLE = [name for name, layout in LAYOUTS.items() if not layout.files]


@pytest.mark.parametrize("splits_as", [list, set, tuple, lambda names: np.array(list(names))])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path, layout, protocol, splits_as):
    path, parts = write(tmp_path, layout, protocol=protocol, splits_as=splits_as)
    chosen = LAYOUTS[layout]
    featured = import_pickle(path, layout=layout, standardize=())
    corpus = featured.corpus
    labels = corpus.labels
    assert labels == (LABELS[chosen.corpus] if "scores" not in parts else MOSEI7)
    with_ids = {"ids", "ids?"} & set(chosen.elements)
    start = {"train": 0, "val": 1039, "test": 1153}
    splits = SPLITS[chosen.corpus]
    if chosen.corpus == "mosei" and "val" not in parts:
        assert len(corpus["val"]) == 1
        drawn = corpus["val"][0].id
        rest = {*splits["train"], *splits["val"]}
        splits = {"train": sorted(rest - {drawn}, key=_order), "val": [drawn], "test": splits["test"]}
    for split, names in splits.items():
        names = sorted(names) if chosen.corpus != "mosei" else sorted(names, key=_order)
        assert len(corpus[split]) == len(names)
        for name, conversation in zip(names, corpus[split], strict=True):
            if chosen.corpus == "meld":
                assert (conversation.partition, conversation.id) == (split, str(name - start[split]))
            elif chosen.corpus == "iemocap":
                assert (conversation.partition, conversation.id) == (f"session{name[4]}", name)
            elif split != "val":  # without dev, which dialogues are val is drawn
                assert (conversation.partition, conversation.id) == (split, name)
            if "scores" not in parts:
                assert [labels.index(u.label) for u in conversation.utterances] == parts["labels"][name]
            speakers = [i % 2 if "speakers" in parts else 0 for i in range(len(conversation))]
            assert conversation.speaker_ids == speakers
            assert conversation.utterances[0].text == "Caf\xe9 0"
            wanted = parts["ids" if "ids" in parts else "ids?"][name] if with_ids else range(len(conversation))
            assert [u.id for u in conversation.utterances] == [str(i) for i in wanted]
            for role in ROLES & set(parts):
                table = featured.features["text" if role == "roberta1" else role.split()[0]]
                rows = [list(table.keys).index(key) for key in conversation.keys]
                wanted_rows = [v.mean(0) for v in parts[role][name]] if "frames" in role else parts[role][name]
                np.testing.assert_array_equal(table.features[rows], np.array(wanted_rows))
    assert set(featured.features) == set(chosen.features)
    assert set(chosen.features) == {"text" if role == "roberta1" else role.split()[0] for role in ROLES & set(parts)}


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


@pytest.mark.parametrize("other", SINGLE)
@pytest.mark.parametrize("layout", SINGLE)
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


def test_a_sentence_that_is_not_there_has_no_text(tmp_path):
    def change(parts):
        parts["sentences"][2][:2] = [None, float("nan")]

    path, _ = write(tmp_path, "sdt-meld", change=change)
    train = import_pickle(path, layout="sdt-meld").corpus["train"]
    (talk,) = (conversation for conversation in train if conversation.id == "2")
    assert [utterance.text for utterance in talk.utterances[:2]] == ["", ""]


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
    layout=st.sampled_from(sorted(SINGLE)),
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


def test_m3net_joins_two_files_by_position_and_keeps_the_ids(tmp_path):
    folder, parts = write(tmp_path, "m3net-meld")
    featured = import_pickle(folder / "MELD_features_raw1.pkl", layout="m3net-meld", standardize=())
    (first, *_) = featured.corpus["train"]
    assert [u.id for u in first.utterances] == ["0", "2", "4", "6"][: len(first)]  # with gaps, as in MELD
    for index, key in enumerate(first.keys):
        for role in ("roberta1", "audio"):
            table = featured.features["text" if role == "roberta1" else role]
            row = list(table.keys).index(key)
            np.testing.assert_array_equal(table.features[row], parts[role][0][index])
    assert featured.features["text"].provenance["file"] == "meld_features_roberta.pkl"


@pytest.mark.parametrize("layout", ["m3net-meld", "m3net-iemocap"])
@settings(max_examples=15)
@given(data=st.data())
def test_files_with_other_rows_are_refused_whatever_differs(tmp_path_factory, layout, data):
    def disagree(parts):
        name = data.draw(st.sampled_from(sorted(parts["labels again"], key=str)))
        rows = parts["labels again"][name]
        index = data.draw(st.integers(0, len(rows) - 1))
        if data.draw(st.booleans()):
            rows[index] = (rows[index] + data.draw(st.integers(1, 5))) % 6
        else:
            del rows[index]

    folder, _ = write(tmp_path_factory.mktemp("p"), layout, change=disagree)
    with pytest.raises(CorpusError, match=r"features_roberta\.pkl has other labels in dialogue"):
        import_pickle(folder, layout=layout)


@pytest.mark.parametrize("layout", ["m3net-meld", "m3net-iemocap"])
def test_rows_whose_labels_are_not_there_are_not_joined(tmp_path, layout):
    roles = ("labels again", "roberta1", "roberta2", "roberta3", "roberta4")
    folder, parts = write(tmp_path, layout, change=lambda parts: parts["labels again"].popitem())
    gone = (parts["roberta1"].keys() - parts["labels again"].keys()).pop()
    with pytest.raises(CorpusError, match=rf"has roberta\d of dialogue '{gone}' but no labels"):
        import_pickle(folder, layout=layout)
    folder, parts = write(tmp_path, layout, change=lambda parts: [parts[role].pop(gone) for role in roles])
    text = import_pickle(folder, layout=layout).features["text"]
    assert set(text.missing.values()) == {"the file has no such dialogue"}


@pytest.mark.parametrize("layout", ["cosmic-meld", "tbje-mosei"])
@pytest.mark.parametrize("other", ["train", "test"])
def test_a_dialogue_is_in_one_split(tmp_path, layout, other):
    path, _ = write(tmp_path, layout, change=lambda parts: parts["val"].append(parts[other][0]))
    with pytest.raises(CorpusError, match=r"dialogue '.*' is in (train and val|val and test): damaged"):
        import_pickle(path, layout=layout)


def test_features_without_a_training_vector_are_named(tmp_path):
    def no_faces(parts):
        parts["visual"].update({name: [row * 0 for row in rows] for name, rows in parts["visual"].items()})

    path, _ = write(tmp_path, "sdt-meld", change=no_faces)
    with pytest.raises(CorpusError, match=r"features\.pkl: no training utterance has visual, .* --features"):
        import_pickle(path, layout="sdt-meld")
    assert "visual" not in import_pickle(path, layout="sdt-meld", features=["text", "audio"]).features


def test_m3net_needs_both_files(tmp_path):
    folder, _ = write(tmp_path, "m3net-meld")
    with pytest.raises(CorpusError, match=r"is a folder, but .* sdt-meld is one file.* may have: m3net-meld\."):
        import_pickle(folder, layout="sdt-meld")
    with pytest.raises(CorpusError, match=r"is not of layout sdt-meld: .* Layouts that fit: mmgcn-meld, m3net-meld\."):
        import_pickle(folder / "MELD_features_raw1.pkl", layout="sdt-meld")
    other, _ = write(tmp_path, "bclstm-meld")
    other.rename(folder / "meld_features_roberta.pkl")
    with pytest.raises(CorpusError, match=r"not what layout m3net-meld has beside MELD_features_raw1\.pkl"):
        import_pickle(folder, layout="m3net-meld")
    (folder / "meld_features_roberta.pkl").unlink()
    with pytest.raises(FileNotFoundError, match=r"meld_features_roberta\.pkl"):
        import_pickle(folder, layout="m3net-meld")


@pytest.mark.parametrize("alias", ALIASES)
def test_a_system_has_the_layout_of_another(tmp_path, alias):
    path, _ = write(tmp_path, ALIASES[alias])
    assert import_pickle(path, layout=alias).corpus == import_pickle(path, layout=ALIASES[alias]).corpus


def four_way(parts):
    for name, rows in parts["labels"].items():
        parts["labels"][name] = [label % 4 for label in rows]


def test_a_four_way_file_needs_its_merge_rule(tmp_path):
    path, parts = write(tmp_path, "mmgcn-iemocap", change=four_way)
    happy = parts["labels"]["Ses05F_impro01"].count(0)
    for merge in (None, "six"):
        with pytest.raises(CorpusError, match=rf"a four-way file.* --merge excited-dropped .* this one has {happy}\."):
            import_pickle(path, layout="cogmen-iemocap", merge=merge)
    drawn = import_pickle(path, layout="cogmen-iemocap", merge="excited-dropped", validation=0.5).corpus
    assert drawn.protocol.endswith("(seed 0); labels excited-dropped")
    corpus = import_pickle(path, layout="cogmen-iemocap", merge="excited-dropped").corpus
    assert corpus.labels == IEMOCAP4
    assert corpus.protocol.endswith("labels excited-dropped")
    assert any("four emotions" in note for note in corpus.notes)
    (conversation,) = corpus["test"]
    assert [IEMOCAP4.index(u.label) for u in conversation.utterances] == parts["labels"]["Ses05F_impro01"]


@pytest.mark.parametrize(("merge", "excited"), [("excited-as-happy", "happy"), ("excited-dropped", None)])
def test_six_emotions_can_be_merged(tmp_path, merge, excited):
    path, parts = write(tmp_path, "sdt-iemocap")
    corpus = import_pickle(path, layout="sdt-iemocap", merge=merge).corpus
    meaning = ["happy", "sad", "neutral", "angry", excited, None]
    for conversation in (c for split in corpus.values() for c in split):
        assert [u.label for u in conversation.utterances] == [meaning[i] for i in parts["labels"][conversation.id]]
    with pytest.raises(ValueError, match="merged in IEMOCAP only: layout sdt-meld"):
        import_pickle(path, layout="sdt-meld", merge=merge)


def test_sentiments_become_the_seven_classes_of_the_loaders(tmp_path):
    scores = [-3, -2.1, -2, -1.5, -1, -0.1, 0, 0.1, 1, 1.1, 2, 2.1, 3]
    expected = [0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 6]

    def set_scores(parts):
        for value in parts.values():
            if isinstance(value, dict):
                for name, rows in value.items():
                    value[name] = (list(rows) * 7)[:13]
        parts["ids"].update({name: [f"{name}_{i}" for i in range(13)] for name in parts["ids"]})
        parts["scores"].update(dict.fromkeys(parts["scores"], scores))

    path, _ = write(tmp_path, "graphsmile-mosei", change=set_scores)
    corpus = import_pickle(path, layout="graphsmile-mosei").corpus
    assert [MOSEI7.index(u.label) for u in corpus["test"][0].utterances] == expected
    assert any("sentiments from -3 to 3" in note for note in corpus.notes)

    def too_far(parts):
        next(iter(parts["scores"].values()))[0] = 3.5

    path, _ = write(tmp_path, "graphsmile-mosei", change=too_far)
    with pytest.raises(CorpusError, match=r"the sentiment 3\.5, expected numbers from -3 to 3"):
        import_pickle(path, layout="graphsmile-mosei")


@pytest.mark.parametrize("layout", ["sdt-meld", "mmgcn-iemocap", "cosmic-meld", "graphsmile-mosei"])
@settings(max_examples=10)
@given(data=st.data())
def test_other_validation_dialogues_change_neither_keys_nor_test(tmp_path_factory, layout, data):
    path, _ = write(tmp_path_factory.mktemp("p"), layout)
    usual = import_pickle(path, layout=layout, standardize=())
    rest = [c for split in ("train", "val") for c in usual.corpus[split]]
    by_id = data.draw(st.booleans())
    names = [f"{c.partition}/{c.id}" if "meld" in layout else c.id for c in rest]
    chosen = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=len(names) - 1, unique=True))
    validation = chosen if by_id else data.draw(st.floats(0.01, 0.8))
    found = import_pickle(path, layout=layout, standardize=(), validation=validation)
    assert found.corpus["test"] == usual.corpus["test"]
    everyone = sorted(key for c in rest for key in c.keys)
    assert everyone == sorted(key for split in ("train", "val") for c in found.corpus[split] for key in c.keys)
    assert len(found.corpus["val"]) == (len(chosen) if by_id else max(1, int(validation * len(rest))))
    if by_id:
        wanted = {name for name, c in zip(names, rest, strict=True) if c in found.corpus["val"]}
        assert wanted == set(chosen)
    assert ("as given" if by_id else "drawn") in found.corpus.protocol
    for name, table in usual.features.items():
        assert list(found.features[name].keys) == list(table.keys)


def test_a_validation_that_cannot_be(tmp_path):
    path, _ = write(tmp_path, "sdt-meld")
    with pytest.raises(CorpusError, match="Validation dialogues test/0 are not among the 5 that are not test"):
        import_pickle(path, layout="sdt-meld", validation=["test/0"])
    with pytest.raises(ValueError, match=r"fraction is 1\.0, expected one between 0 and 1"):
        import_pickle(path, layout="sdt-meld", validation=1.0)
    with pytest.raises(ValueError, match="'dev': expected usual, a fraction or dialogue ids"):
        import_pickle(path, layout="sdt-meld", validation="dev")


def test_features_can_be_chosen_and_are_required(tmp_path):
    path, _ = write(tmp_path, "sdt-meld")
    assert set(import_pickle(path, layout="sdt-meld", features=["audio", "roberta3"]).features) == {"audio", "roberta3"}
    path, _ = write(tmp_path, "cosmic-meld")
    with pytest.raises(ValueError, match=r"cosmic-meld have no audio.* Layouts that have text, audio: mmgcn-iemocap, "):
        import_pickle(path, layout="cosmic-meld", features=["text", "audio"])
