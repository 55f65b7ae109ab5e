import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import Clip, Conversation, Corpus, CorpusError, Utterance, UtteranceKey, split_name
from merc.labels import MELD, LabelSet

# Any text but lone surrogates, which no file in UTF-8 can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SECONDS = st.none() | st.floats(0, 1e5)


@st.composite
def clips(draw):
    start = draw(st.floats(0, 1e5))
    left, top = draw(st.floats(0, 0.5)), draw(st.floats(0, 0.5))
    region = (left, top, draw(st.floats(0.6, 1)), draw(st.floats(0.6, 1)))
    end = start + draw(st.floats(0.01, 1e3))
    return Clip(draw(TEXT), start, draw(st.none() | st.just(end)), draw(st.none() | st.just(region)))


def utterances(labels):
    return st.lists(
        st.builds(
            Utterance,
            id=TEXT,
            speaker=TEXT,
            text=TEXT,
            start=SECONDS,
            end=SECONDS,
            label=st.none() | st.sampled_from(labels.names),
            media=st.none() | TEXT,
            video=st.none() | clips(),
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda utterance: utterance.id,
    ).map(tuple)


@st.composite
def corpora(draw):
    names = draw(st.lists(st.sampled_from("abcdefg"), min_size=1, unique=True))
    aliases = draw(st.dictionaries(TEXT, st.sampled_from(names), max_size=2))
    labels = LabelSet(draw(TEXT), tuple(names), tuple(draw(st.permutations(names))), aliases)
    conversations = draw(
        st.lists(
            st.builds(Conversation, TEXT, utterances(labels), st.sampled_from(["train", "session1"])),
            max_size=5,
            unique_by=lambda c: (c.partition, c.id),
        )
    )
    splits = {}
    for conversation in conversations:
        splits.setdefault(draw(st.sampled_from(["train", "val", "test"])), []).append(conversation)
    return Corpus(draw(TEXT), labels, splits, draw(TEXT), draw(st.lists(TEXT, max_size=2)))


def corpus(**changes):
    said = (Utterance("0", "Joey", "Hey!", label="joy"), Utterance("2", "Ross", label="anger"), Utterance("5", "Joey"))
    made = Corpus("demo", MELD, {"train": [Conversation("7", said)], "test": []}, "official", ("a note",))
    return replace(made, **changes)


@given(made=corpora())
def test_save_and_load_give_the_same_corpus(tmp_path_factory, made):
    file = tmp_path_factory.mktemp("corpus") / "corpus.json"
    made.save(file)
    again = Corpus.load(file)
    assert again == made
    assert again.labels.report_ids == made.labels.report_ids


def test_a_corpus_of_before_there_was_video_is_read(tmp_path):
    """Fields that say nothing are not written, so a file without video looks as it always did."""
    said = (Utterance("0", "Joey", "Hey!", 0.5, 1.0, "joy", "a.mp4"),)
    made = corpus(splits={"train": [Conversation("7", said)]})
    made.save(tmp_path / "corpus.json")
    [written] = json.loads((tmp_path / "corpus.json").read_bytes())["splits"]["train"][0]["utterances"]
    assert set(written) == {"id", "speaker", "text", "start", "end", "label", "media"}
    assert Corpus.load(tmp_path / "corpus.json") == made


def test_where_an_utterance_is_heard_and_seen():
    film = Clip("film.avi", 1.0, 2.0, (0.0, 0.0, 0.5, 1.0))
    own, both, long = (
        Utterance("0", "a", media="a.mp4"),
        Utterance("0", "a", media="a.wav", video=film),
        Utterance("0", "a", video=film),
    )
    assert (Utterance("0", "a").sound, Utterance("0", "a").picture) == (None, None)
    assert (own.sound, own.picture) == (Clip("a.mp4"), Clip("a.mp4"))
    assert (both.sound, both.picture) == (Clip("a.wav"), film)
    assert (long.sound, long.picture) == (film, film)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": -1.0},
        {"start": 2.0, "end": 2.0},
        {"start": float("nan")},
        {"end": float("nan")},
        {"region": (0.5, 0.0, 0.5, 1.0)},
        {"region": (0.0, 0.0, 1.0, 1.1)},
    ],
)
def test_a_clip_in_which_there_can_be_nothing_is_refused(wrong):
    with pytest.raises(CorpusError, match=r"The clip of a\.mp4 .* expected"):
        Clip("a.mp4", **wrong)


def test_keys_and_speakers_of_a_conversation():
    [conversation] = corpus()["train"]
    assert conversation.keys == [UtteranceKey("train", "7", "0"), ("train", "7", "2"), ("train", "7", "5")]
    assert str(conversation.keys[1]) == "train/7/2"
    assert conversation.speakers == ["Joey", "Ross"]
    assert conversation.speaker_ids == [0, 1, 0]
    assert len(conversation) == 3


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=9))
def test_speaker_ids_follow_the_first_appearance(speakers):
    conversation = Conversation("0", tuple(Utterance(str(i), name) for i, name in enumerate(speakers)))
    order = []
    for name, found in zip(speakers, conversation.speaker_ids, strict=True):
        if name not in order:
            order.append(name)
        assert order[found] == name


def test_a_corpus_is_a_mapping_of_splits():
    made = corpus()
    assert list(made) == ["train", "test"]
    assert len(made) == 2
    with pytest.raises(KeyError, match=r"'demo' has no split 'val'; it has train, test"):
        made["val"]


def test_an_empty_dialogue_is_refused():
    with pytest.raises(CorpusError, match=r"'7' of 'train' has no utterances.*Remove it or fill it"):
        Conversation("7", ())


def test_an_utterance_id_that_occurs_twice_is_refused():
    with pytest.raises(CorpusError, match="'7' of 'val' holds utterance id '1' twice"):
        Conversation("7", (Utterance("1", "a"), Utterance("1", "b")), "val")


@pytest.mark.parametrize(
    "arguments", [(7, (Utterance("1", "a"),)), ("7", (Utterance(1, "a"),)), ("7", (Utterance("1", "a"),), 1)]
)
def test_ids_must_be_strings(arguments):
    with pytest.raises(CorpusError, match="ids must be strings, got int"):
        Conversation(*arguments)


def test_a_dialogue_in_two_splits_is_refused():
    conversation = Conversation("7", (Utterance("0", "a"),))
    with pytest.raises(CorpusError, match=r"'7' of 'train' occurs twice \(splits 'train' and 'test'\)"):
        corpus(splits={"train": [conversation], "test": [conversation]})
    with pytest.raises(CorpusError, match=r"splits 'train' and 'train'"):
        corpus(splits={"train": [conversation, conversation]})
    corpus(splits={"train": [conversation], "test": [replace(conversation, partition="test")]})


def test_an_unknown_label_is_refused_with_its_place():
    conversation = Conversation("7", (Utterance("0", "a", label="bored"),))
    with pytest.raises(CorpusError, match=r"train/7/0 has label 'bored': expected one of neutral, surprise"):
        corpus(splits={"train": [conversation]})


def test_an_unknown_split_is_refused():
    with pytest.raises(CorpusError, match=r"split 'dev': expected one of train, val, test"):
        corpus(splits={"dev": []})


@pytest.mark.parametrize(
    ("name", "expected"), [("dev", "val"), (" Dev ", "val"), ("valid", "val"), ("TRAIN", "train"), ("testing", "test")]
)
def test_split_names(name, expected):
    assert split_name(name) == expected


def test_an_unknown_split_name_is_refused():
    with pytest.raises(ValueError, match=r"'holdout': expected train, val \(or dev\) or test"):
        split_name("holdout")


def test_no_corpus_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus\.json.*merc import"):
        Corpus.load(tmp_path / "corpus.json")


def damage(raw, change):
    change(raw)
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("labels"), "is damaged .KeyError: 'labels'"),
        (lambda raw: raw.pop("splits"), "is damaged"),
        (lambda raw: raw.update(splits=[]), "is damaged"),
        (lambda raw: raw.update(notes=None), "is damaged"),
        (lambda raw: raw.update(format="something"), "is not a merc corpus"),
        (lambda raw: raw.update(version=2), "has version 2, this merc reads 1: upgrade merc"),
        (lambda raw: raw["labels"].update(names=["joy", "joy"]), "is damaged.*unique names"),
        (lambda raw: raw["splits"].update(dev=[]), "is damaged.*'dev'"),
        (lambda raw: raw["splits"]["train"][0].update(utterances=[]), "is damaged.*no utterances"),
        (lambda raw: raw["splits"]["train"][0].update(id=7), "is damaged.*ids must be strings"),
        (lambda raw: raw["splits"]["train"].append(raw["splits"]["train"][0]), "is damaged.*occurs twice"),
        (lambda raw: raw["splits"]["train"][0]["utterances"][0].update(label="bored"), "is damaged.*'bored'"),
        (lambda raw: raw["splits"]["train"][0]["utterances"][0].update(mood="good"), "is damaged.*mood"),
        (lambda raw: raw["splits"]["train"][0]["utterances"][0].pop("id"), "is damaged.*id"),
        (lambda raw: raw["splits"]["train"][0]["utterances"][0].update(video="a.mp4"), "is damaged"),
        (lambda raw: raw["splits"]["train"][0]["utterances"][0].update(video={}), "is damaged.*path"),
        (lambda raw: raw["splits"]["train"][0]["utterances"][0].update(video={"path": "a", "end": -1}), "is damaged"),
        (lambda raw: raw["splits"]["train"][0]["utterances"][0].update(video={"path": "a", "region": 1}), "is damaged"),
    ],
)
def test_a_damaged_corpus_names_the_file_and_the_damage(tmp_path, change, message):
    file = tmp_path / "corpus.json"
    corpus().save(file)
    file.write_bytes(damage(json.loads(file.read_bytes()), change))
    with pytest.raises(CorpusError, match=f"{re.escape(str(file))} {message}"):
        Corpus.load(file)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'"merc.Corpus"', b"\x00" * 8])
def test_a_file_that_is_something_else_is_refused(tmp_path, data):
    file = tmp_path / "corpus.json"
    file.write_bytes(data)
    with pytest.raises(CorpusError, match=re.escape(str(file))):
        Corpus.load(file)


def test_every_truncation_is_noticed(tmp_path):
    file = tmp_path / "corpus.json"
    corpus().save(file)
    data = file.read_bytes().rstrip()
    for length in range(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(CorpusError, match="is not JSON"):
            Corpus.load(file)


def test_a_corpus_that_cannot_be_written_leaves_the_old_one(tmp_path):
    file = tmp_path / "corpus.json"
    corpus().save(file)
    with pytest.raises(TypeError):
        corpus(notes=(object(),)).save(file)
    assert Corpus.load(file) == corpus()
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.json"]
