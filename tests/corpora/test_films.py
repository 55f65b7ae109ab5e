"""Folders of films: who is in them, which split they are in, and what cannot be."""

import json

import pytest

from merc.cli import main
from merc.conversation import Corpus, CorpusError
from merc.corpora import read_films
from merc.corpora.films import PEOPLE_FILE

NAMES = ["a/s1_x.mp4", "a/s1_y.MPG", "a/s2_x.mkv", "b/s3.webm", "b/s4[1].mov", "s5.avi"]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "films"
    for name in [*NAMES, "a/notes.txt", "b/s3.wav", "folder.mp4/inside.txt"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def films(corpus):
    """Film names by split."""
    return {split: [c.id for c in conversations] for split, conversations in corpus.items()}


def people(corpus):
    return {c.id: c.utterances[0].speaker for conversations in corpus.values() for c in conversations}


def test_every_film_is_a_conversation_of_one_line_without_words(root):
    corpus = read_films(root)
    assert sorted(name for names in films(corpus).values() for name in names) == sorted(NAMES)
    assert people(corpus) == {name: name for name in NAMES}
    assert corpus.name == "films" and "nobody is in two splits, seed 0" in corpus.protocol
    for conversation in (c for split in corpus.values() for c in split):
        [line] = conversation.utterances
        assert line.media == str((root / conversation.id).resolve())
        assert (line.text, line.label) == ("", None)
        assert conversation.keys[0].partition == "all"


def test_patterns_say_what_is_read(root):
    found = read_films(root, include=["a/*", "b/s4[1].mov"], exclude=["*_y.*"])
    assert sorted(people(found)) == ["a/s1_x.mp4", "a/s2_x.mkv", "b/s4[1].mov"]
    assert sorted(people(read_films(root, include=["?5.avi"]))) == ["s5.avi"]
    with pytest.raises(CorpusError, match=r"holds no film that include \(c/\*\) names and exclude \(\) does not"):
        read_films(root, include=["c/*"])
    with pytest.raises(CorpusError, match=r"There is no folder .*expected one with films"):
        read_films(root / "nowhere")


def test_the_first_pattern_that_matches_says_who_it_is_and_an_exact_name_wins(root):
    found = people(read_films(root, people={"a/s1_*": "Ann", "a/*": "Bob", "a/s1_y.MPG": "Cleo", "b/s4[1].mov": "Dan"}))
    assert found == {
        "a/s1_x.mp4": "Ann",
        "a/s1_y.MPG": "Cleo",
        "a/s2_x.mkv": "Bob",
        "b/s3.webm": "b/s3.webm",
        "b/s4[1].mov": "Dan",
        "s5.avi": "s5.avi",
    }


def test_people_come_from_the_folder_unless_they_are_given(root, tmp_path):
    (root / PEOPLE_FILE).write_text('{"a/*": "Ann"}')
    assert people(read_films(root))["a/s2_x.mkv"] == "Ann"
    (tmp_path / "others.json").write_text('{"a/*": "Zoë"}', encoding="utf-8")
    assert people(read_films(root, people=tmp_path / "others.json"))["a/s2_x.mkv"] == "Zoë"
    assert people(read_films(root, people={}))["a/s2_x.mkv"] == "a/s2_x.mkv"


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": ""}', "null", '{"a": "\\ud800"}'])
def test_a_file_of_people_that_is_none_is_refused(text, root):
    (root / PEOPLE_FILE).write_text(text)
    with pytest.raises(CorpusError, match=r"people\.json .*expected an object such as"):
        read_films(root)


def test_people_that_are_not_named_are_refused(root):
    for given in ({"a/*": 1}, {"a/*": ""}):
        with pytest.raises(CorpusError, match="people does not say who is in which film"):
            read_films(root, people=given)
    with pytest.raises(CorpusError, match=r"nowhere\.json cannot be read"):
        read_films(root, people=root / "nowhere.json")


def test_splits_by_name_by_pattern_and_all_the_rest(root):
    who = {"a/s1_*": "s1", "a/s2_*": "s2"}
    found = films(read_films(root, people=who, splits={"train": ["*"], "dev": ["s2"], "test": ["b/*"]}))
    assert found == {
        "train": ["a/s1_x.mp4", "a/s1_y.MPG", "s5.avi"],
        "val": ["a/s2_x.mkv"],
        "test": ["b/s3.webm", "b/s4[1].mov"],
    }
    # Whoever is in one film of a split is in it with all others.
    assert films(read_films(root, people=who, splits={"train": ["*"], "val": ["a/s1_x.mp4"]}))["val"] == [
        "a/s1_x.mp4",
        "a/s1_y.MPG",
    ]
    assert films(read_films(root, splits={"train": ["*"], "test": ["b/s4[1].mov"]}))["test"] == ["b/s4[1].mov"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"splits": {"train": ["s9"]}}, "Split train names 's9', which is no film and no person of the folder"),
        ({"splits": {"train": ["a/*"], "val": ["a/s1_*"]}}, "s1 would be in the splits train and val"),
        ({"splits": {"train": ["*"], "val": ["*"]}}, r"'\*' stands in the splits train and val"),
        ({"splits": {"holdout": ["*"]}}, "Unknown split 'holdout'"),
        ({"shares": {"holdout": 1.0}}, "Unknown split 'holdout'"),
        ({"shares": {"train": -1.0, "val": 2.0}}, "expected shares of people of at least 0"),
        ({"shares": {"train": 0.0}}, "expected shares of people of at least 0"),
    ],
)
def test_splits_that_cannot_be_are_refused(options, words, root):
    with pytest.raises(CorpusError, match=words):
        read_films(root, people={"a/s1_*": "s1"}, **options)


def many(root, count):
    for number in range(count):
        (root / f"p{number}_1.mp4").write_bytes(b"")
        (root / f"p{number}_2.mp4").write_bytes(b"")
    return {f"p{number}_*": f"p{number}" for number in range(count)}


def test_people_are_drawn_by_their_shares_and_new_films_move_nobody(tmp_path):
    who = many(tmp_path, 200)
    corpus = read_films(tmp_path, people=who, shares={"train": 3, "val": 1, "test": 1})
    sizes = {split: len(names) for split, names in films(corpus).items()}
    assert sizes["train"] == pytest.approx(240, abs=40) and sizes["val"] == pytest.approx(80, abs=30)
    by_split = [{people(corpus)[name] for name in names} for names in films(corpus).values()]
    assert sum(map(len, by_split)) == len(set().union(*by_split)) == 200
    before = {name: split for split, names in films(corpus).items() for name in names}
    more = read_films(tmp_path, people=many(tmp_path, 260), shares={"train": 3, "val": 1, "test": 1})
    after = {name: split for split, names in films(more).items() for name in names}
    assert all(after[name] == split for name, split in before.items())
    other = read_films(tmp_path, people=who, shares={"train": 3, "val": 1, "test": 1}, seed=1)
    assert films(other) != films(corpus)
    assert films(read_films(tmp_path, people=who, shares={"test": 1}))["train"] == []


def test_the_command_imports_a_folder(root, tmp_path, capsys):
    splits = json.dumps({"train": ["*"], "test": ["Ann"]})
    out = tmp_path / "out"
    words = ["import", "films", str(root), "--out", str(out), '--people={"a/*": "Ann"}', f"--splits={splits}"]
    assert main([*words, '--exclude=["s5.*"]']) == 0
    corpus = Corpus.load(out / "corpus.json")
    assert films(corpus)["test"] == ["a/s1_x.mp4", "a/s1_y.MPG", "a/s2_x.mkv"] and "s5.avi" not in people(corpus)
    assert "people: train 2, val 0, test 1; nobody is in two splits" in capsys.readouterr().out
    assert main(["import", "films", str(root / "nowhere"), "--out", str(out)]) != 0
    assert "There is no folder" in capsys.readouterr().err
