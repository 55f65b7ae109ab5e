"""Anyone's own CSV files: columns by name, splits, and every complaint with its line."""

import csv
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import Clip, CorpusError
from merc.corpora.csv_corpus import CsvColumns, read_csv
from merc.labels import MELD

HEADER = ["split", "dialogue", "utterance", "speaker", "text", "label"]
NAME = st.text(string.ascii_letters + string.digits, min_size=1, max_size=3)


def write(path, *rows, header=HEADER):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["train", "dev", "test"]),
            NAME,
            NAME,
            NAME,
            st.text(string.printable),
            st.sampled_from([*MELD.names, ""]),
        ),
        min_size=1,
        unique_by=lambda row: (row[1], row[2]),
    )
)
def test_what_was_written_is_read(tmp_path_factory, rows):
    rows = [(rows[0][0] if row[1] == rows[0][1] else "test", *row[1:]) for row in rows]
    corpus = read_csv(write(tmp_path_factory.mktemp("csv") / "a.csv", *rows), labels=MELD)
    found = [
        ("dev" if split == "val" else split, c.id, u.id, u.speaker, u.text, u.label or "")
        for split, conversations in corpus.items()
        for c in conversations
        for u in c.utterances
    ]
    assert sorted(found) == sorted((*row[:4], row[4].strip(), row[5]) for row in rows)
    for conversations in corpus.values():
        for c in conversations:
            assert [u.id for u in c.utterances] == [row[2] for row in rows if row[1] == c.id]


def test_own_column_names_times_media_and_labels(tmp_path):
    (tmp_path / "a.mp4").touch()
    header = ["who", "conv", "turn", "from", "to", "clip", "part", "said", "emotion", "set"]
    path = write(
        tmp_path / "own.csv",
        ["Ann", "c1", "t9", "1.5", "0:02", "a.mp4", "room1", "hello", " Calm", "valid"],
        ["Bob", "c1", "t3", "", "", "b.mp4", "room1", "hi", "", "valid"],
        ["Bob", "c1", "t3", "", "", "", "room2", "yo", "Tense", "train"],
        header=header,
    )
    columns = CsvColumns("conv", "turn", "who", "said", "emotion", "set", "part", "from", "to", "clip")
    corpus = read_csv(path, labels=["Calm", "Tense"], columns=columns, name="own")
    (conversation,) = corpus["val"]
    first, second = conversation.utterances
    assert conversation.partition == "room1"
    assert (first.id, first.speaker, first.text, first.start, first.end) == ("t9", "Ann", "hello", 1.5, 2.0)
    assert first.label == "calm"
    assert first.media == str((tmp_path / "a.mp4").resolve())
    assert (second.label, second.media, second.start) == (None, None, None)
    assert corpus.labels.names == ("calm", "tense")
    assert "1 of 3 utterances have no label and serve as context only." in corpus.notes
    assert "1 clips that the file names are not there." in corpus.notes


def test_times_of_a_longer_recording(tmp_path):
    (tmp_path / "long.mp4").touch()
    header = (*HEADER, "from", "to", "recording")
    rows = [
        ["train", "0", "0", "A", "", "joy", "1.5", "2.0", "long.mp4"],
        ["train", "0", "1", "B", "", "joy", "", "", "long.mp4"],
        ["train", "0", "2", "B", "", "joy", "3", "4", "gone.mp4"],
    ]
    columns = CsvColumns(start="from", end="to", video="recording")
    path = write(tmp_path / "a.csv", *rows, header=header)
    corpus = read_csv(path, labels=MELD, columns=columns)
    first, second, third = corpus["train"][0].utterances
    assert first.picture == first.sound == Clip(str((tmp_path / "long.mp4").resolve()), 1.5, 2.0)
    assert second.video == Clip(str((tmp_path / "long.mp4").resolve()))
    assert third.video is None and "1 clips that the file names are not there." in corpus.notes
    rows[0][7] = "1.0"
    with pytest.raises(CorpusError, match=r"a\.csv, line 2: The clip of .* expected start < end"):
        read_csv(write(tmp_path / "a.csv", *rows, header=header), labels=MELD, columns=columns)


def test_a_file_for_every_split_may_reuse_dialogue_ids(tmp_path):
    header = HEADER[1:5]
    files = {
        name: write(tmp_path / f"{name}.csv", ["0", "1", "A", "x"], ["0", "0", "B", "y"], header=header)
        for name in ("train", "dev")
    }
    corpus = read_csv(files, labels=MELD, columns=CsvColumns(label=None))
    assert [c.partition for c in corpus["val"]] == ["val"]
    assert [u.id for u in corpus["train"][0].utterances] == ["1", "0"]
    assert any(note.startswith("2 dialogues have numeric utterance ids that do not ascend") for note in corpus.notes)
    with pytest.raises(CorpusError, match="are the same split"):
        read_csv({"dev": files["dev"], "val": files["dev"]}, labels=MELD, columns=CsvColumns(label=None))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            ["train", "0", "0", "B", "", "joy"],
            r"a\.csv, line 3: utterance '0' of dialogue '0' stands in .* line 2 already",
        ),
        (
            ["test", "0", "1", "B", "", "joy"],
            "line 3: dialogue '0' is of split 'test', its earlier rows are of 'train'",
        ),
        (["train", "0", "1", "B", "", "glee"], "line 3: Unknown label 'glee'"),
        (["holdout", "0", "1", "B", "", "joy"], "line 3, column 'split': Unknown split 'holdout'"),
        (["train", "", "1", "B", "", "joy"], "line 3: column 'dialogue' is empty"),
        (["train", "0", "1", " ", "", "joy"], "line 3: column 'speaker' is empty"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(tmp_path, row, message):
    path = write(tmp_path / "a.csv", ["train", "0", "0", "A", "", "joy"], row)
    with pytest.raises(CorpusError, match=message):
        read_csv(path, labels=MELD)


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(CorpusError, match="has no column 'label'"):
        read_csv(write(tmp_path / "a.csv", ["train", "0", "0", "A", ""], header=HEADER[:5]), labels=MELD)
