"""Anyone's own CSV files: columns by name, splits, and every complaint with its line."""

import csv
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import Clip, CorpusError, Utterance
from merc.corpora.csv_corpus import read_corpus, read_csv
from merc.corpora.meld import read_meld
from merc.labels import MELD

HEADER = ["split", "dialogue", "utterance", "speaker", "text", "label"]
CASES = Path(__file__).parent / "cases"
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
    columns = {"dialogue": "conv", "utterance": "turn", "speaker": "who", "text": "said", "label": "emotion"}
    columns |= {"split": "set", "partition": "part", "start": "from", "end": "to", "media": "clip"}
    corpus = read_csv(path, labels=["Calm", "Tense"], name="own", **columns)
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
    columns = {"start": "from", "end": "to", "video": "recording"}
    path = write(tmp_path / "a.csv", *rows, header=header)
    corpus = read_csv(path, labels=MELD, **columns)
    first, second, third = corpus["train"][0].utterances
    assert first.picture == first.sound == Clip(str((tmp_path / "long.mp4").resolve()), 1.5, 2.0)
    assert second.video == Clip(str((tmp_path / "long.mp4").resolve()))
    assert third.video is None and "1 clips that the file names are not there." in corpus.notes
    rows[0][7] = "1.0"
    with pytest.raises(CorpusError, match=r"a\.csv, line 2: The clip of .* expected start < end"):
        read_csv(write(tmp_path / "a.csv", *rows, header=header), labels=MELD, **columns)


def test_a_file_for_every_split_may_reuse_dialogue_ids(tmp_path):
    header = HEADER[1:5]
    files = {
        name: write(tmp_path / f"{name}.csv", ["0", "1", "A", "x"], ["0", "0", "B", "y"], header=header)
        for name in ("train", "dev")
    }
    corpus = read_csv(files, labels=MELD, label="")
    assert [c.partition for c in corpus["val"]] == ["val"]
    assert [u.id for u in corpus["train"][0].utterances] == ["1", "0"]
    assert any(note.startswith("2 dialogues have numeric utterance ids that do not ascend") for note in corpus.notes)
    with pytest.raises(CorpusError, match="are the same split"):
        read_csv({"dev": files["dev"], "val": files["dev"]}, labels=MELD, label="")


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
    with pytest.raises(
        CorpusError,
        match=r"no column of the label recognised: found 'split', 'dialogue', .* Pass --label COLUMN, or --label= if",
    ):
        read_csv(write(tmp_path / "a.csv", ["train", "0", "0", "A", ""], header=HEADER[:5]), labels=MELD)


MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
EMORYNLP_HEADER = "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time"


def lines(path, *rows, newline="\n"):
    path.write_text(newline.join(rows) + newline, encoding="utf-8", newline="")
    return path


def plain(corpus):
    """Everything of the utterances of a corpus, by split, dialogue and order."""
    return {split: {c.id: c.utterances for c in conversations} for split, conversations in corpus.items()}


def test_meld_needs_no_option(tmp_path):
    for split in ("train", "dev", "test"):
        row = f'1,"Oh, {split}!",Ross,Joy,positive,7,3,4,7,"00:20:57,256","00:21:00,049"'
        lines(tmp_path / f"{split}_sent_emo.csv", MELD_HEADER, row)
    corpus = read_csv(tmp_path)
    (talk,) = corpus["val"]
    (utterance,) = talk.utterances
    assert (talk.id, talk.partition, utterance.id, utterance.speaker) == ("7", "val", "3", "Ross")
    assert (utterance.text, utterance.label, utterance.start) == ("Oh, dev!", "joy", 1257.256)
    assert corpus.name == tmp_path.name and corpus.labels.names == ("joy",)
    (columns,) = [note for note in corpus.notes if note.startswith("Columns recognised by their names: ")]
    assert "dialogue = Dialogue_ID, text = Utterance, utterance = Utterance_ID" in columns
    assert columns.endswith("Not read: Sr No., Sentiment, Season, Episode.")


def test_the_real_meld_is_read_as_by_its_own_reader():
    folder = Path(__file__).resolve().parents[3] / "shared/data/meld"
    if not folder.is_dir():
        pytest.skip("needs the CSV files of MELD in ../shared/data/meld")
    files = [folder / f"{split}_sent_emo.csv" for split in ("train", "dev", "test")]
    assert plain(read_csv(files)) == plain(read_meld(folder))
    with pytest.raises(CorpusError, match=r"dev_audio_features\.csv and .*dev_sent_emo\.csv are both val"):
        read_csv(folder)


def test_cases_of_others():
    [first, second] = read_csv(CASES / "26_emorynlp/train.csv")["train"]
    assert (first.id, second.id) == ("1_1_1", "1_2_1")
    assert [u.speaker for u in first.utterances] == ["Ann Example", "Bob Example & Cy Example"]
    assert any(
        "as many speakers as utterances" in note for note in read_csv(CASES / "27_telme_iemocap/train.csv").notes
    )


def test_encodings(tmp_path):
    rows = 'dialogue;speaker;text;emotion\nd;Аня;"Ты получил письмо?";joy\nd;Боря;Да, и я его ненавижу!;anger\n'
    for encoding in ("utf-8", "utf-16", "cp1251"):
        (tmp_path / "a.csv").write_bytes(rows.encode(encoding))
        [dialogue] = read_csv(tmp_path / "a.csv")["train"]
        assert [u.speaker for u in dialogue.utterances] == ["Аня", "Боря"]
    (tmp_path / "a.csv").write_bytes("dialogue,speaker,text,emotion\nd,A,Desculpe; irmão.,joy\n".encode("cp1252"))
    with pytest.raises(CorpusError, match="several code pages make words of it"):
        read_csv(tmp_path / "a.csv")
    assert read_csv(tmp_path / "a.csv", encoding="cp1252")["train"][0].utterances[0].text == "Desculpe; irmão."


def test_control_characters_in_place_of_punctuation_are_mapped(tmp_path):
    corpus = read_csv(
        write(tmp_path / "a.csv", ["train", "d", "0", "A", "It\x92s", "joy"], ["train", "d", "1", "B", "so", "joy"])
    )
    assert corpus["train"][0].utterances[0].text == "It\u2019s"
    assert any("1 lines had control characters" in note for note in corpus.notes)


def test_emorynlp_needs_no_option(tmp_path):
    file = lines(
        tmp_path / "emorynlp_train_final.csv",
        EMORYNLP_HEADER,
        "Hi.,['Monica Geller'],Neutral,1,1,1,1,00:00:03.795,00:00:05.004",
        "What?,\"['Joey Tribbiani', 'Ross Geller']\",Scared,1,2,1,1,00:00:05.171,00:00:07.423",
        "Hey.,['Monica Geller'],Joyful,1,1,1,2,00:00:03.795,00:00:05.004",
        "[laughs],[laughs],Joyful,1,1,2,1,,",
    )
    corpus = read_csv(file)
    talks = {c.id: c for split in corpus.values() for c in split}
    assert list(sorted(talks)) == ["1_1_1", "1_2_1", "2_1_1"]
    assert [u.speaker for u in talks["1_1_1"].utterances] == ["Monica Geller", "Joey Tribbiani & Ross Geller"]
    assert talks["2_1_1"].utterances[0].speaker == "[laughs]"
    assert any("dialogue = Season + Episode + Scene_ID" in note for note in corpus.notes)
    assert any(
        note.startswith("3 speakers are written as Python lists") and "1 utterances" in note for note in corpus.notes
    )
    assert plain(corpus) == plain(read_csv(file, dialogue=["Season", "Episode", "Scene_ID"]))
    with pytest.raises(CorpusError, match=r"utterance '1' of dialogue '1' stands in .* name all columns that make up"):
        read_csv(file, dialogue="Scene_ID")


def test_joined_names_of_dialogues_cannot_collide(tmp_path):
    file = write(
        tmp_path / "a.csv", ["a_b", "c", "Ann", "", ""], ["a", "b_c", "Bob", "", ""], header=["x", "y", *HEADER[3:]]
    )
    with pytest.raises(CorpusError, match=r"line 3: the dialogues .* are both called 'a_b_c'"):
        read_csv(file, labels=MELD, dialogue=["x", "y"])


@given(
    names=st.fixed_dictionaries(
        {
            "dialogue": st.sampled_from(["dialogue", "DIALOGUE_ID", "conversation_id", "dialog", "Dialog ID"]),
            "utterance": st.sampled_from(["Utterance_ID", "turn", "utt-id"]),
            "speaker": st.sampled_from(["Speaker", "speaker_name", "Speaker ID"]),
            "text": st.sampled_from(["Utterance", "text", "Sentence", "transcript"]),
            "label": st.sampled_from(["Emotion", "Label", "emotion_label"]),
            "split": st.sampled_from(["Split", "set", "PARTITION"]),
            "start": st.sampled_from(["StartTime", "start", "Start_Time"]),
            "end": st.sampled_from(["EndTime", "end", "End Time"]),
        }
    ),
    order=st.permutations(["dialogue", "utterance", "speaker", "text", "label", "split", "start", "end", "other"]),
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    decimal=st.sampled_from([".", ","]),
)
def test_common_names_and_delimiters_are_recognised(tmp_path_factory, names, order, delimiter, decimal):
    cells = {"dialogue": "d", "utterance": "4", "speaker": "Ann", "text": "a, b; c", "label": "Joy", "split": "dev"}
    cells |= {"start": f"0{decimal}5", "end": f"1{decimal}492", "other": "x"}
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    with file.open("w", newline="") as opened:
        csv.writer(opened, delimiter=delimiter).writerows(
            [[names.get(role, "other") for role in order], [cells[role] for role in order]]
        )
    corpus = read_csv(file)
    (talk,) = corpus["val"]
    assert (talk.id, talk.utterances) == ("d", (Utterance("4", "Ann", "a, b; c", 0.5, 1.492, "joy"),))
    (columns,) = [note for note in corpus.notes if note.startswith("Columns recognised")]
    assert all(f"{role} = {name}" in columns for role, name in names.items()) and columns.endswith("Not read: other.")
    assert any("cells are separated by" in note for note in corpus.notes) == (delimiter != ",")


def test_a_column_called_utterance_is_text_or_id(tmp_path):
    def read(header, row, **options):
        (talk,) = read_csv(
            lines(tmp_path / "a.csv", f"dialogue,speaker,label,{header}", f"0,Ann,joy,{row}"), **options
        )["train"]
        return talk.utterances[0].id, talk.utterances[0].text

    assert read("utterance", "Hello.") == ("0", "Hello.")
    assert read("utterance,text", "u7,Hello.") == ("u7", "Hello.")
    assert read("utterance,turn", "Hello.,5") == ("5", "Hello.")
    assert read("utterance", "7", text="") == ("7", "")
    with pytest.raises(CorpusError, match="no column of the text recognised"):
        read("utterance", "7")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "speaker,text,label",
            r"no column of dialogues recognised: found 'speaker', .* Pass --dialogue COLUMN \(or several",
        ),
        (
            "dialogue,text,label",
            "no column of the speaker recognised: .* Pass --speaker COLUMN, or --speaker= if there is none",
        ),
        (
            "dialogue,speaker,text,label,emotion",
            "'label' and 'emotion' could both be the label: .* Pass --label COLUMN",
        ),
        ("dialogue,speaker,text,label,set,split", "'set' and 'split' could both be the split"),
    ],
)
def test_what_is_missing_or_ambiguous_is_asked_for(tmp_path, header, message):
    with pytest.raises(CorpusError, match=message):
        read_csv(lines(tmp_path / "a.csv", header, ",".join("x" for _ in header.split(","))))


def test_a_column_that_was_named_must_be_there(tmp_path):
    file = write(tmp_path / "a.csv", ["train", "0", "0", "A", "", "joy"])
    with pytest.raises(CorpusError, match=r"no column 'who' \(--speaker\): found 'split', .* Pass --speaker COLUMN"):
        read_csv(file, speaker="who")
    with pytest.raises(TypeError, match="speeker"):
        read_csv(file, speeker="who")


def test_without_ids_and_names_rows_are_numbered_and_by_one_speaker(tmp_path):
    file = write(
        tmp_path / "a.csv", ["b", "hi", "joy"], ["a", "ho", "joy"], ["b", "hey", ""], header=["dialog", "text", "label"]
    )
    corpus = read_csv(file, speaker="")
    talks = {c.id: c for c in corpus["train"]}
    assert [(u.id, u.speaker, u.text) for u in talks["b"].utterances] == [
        ("0", "unknown", "hi"),
        ("1", "unknown", "hey"),
    ]
    assert any("rows are numbered from 0" in note for note in corpus.notes)
    assert any("no column of speakers" in note for note in corpus.notes)


def test_labels_are_those_found_in_alphabetical_order(tmp_path):
    rows = [["train", "0", str(n), "A", "", label] for n, label in enumerate(["Sad", "joy", "Joy", "", "anger"])]
    corpus = read_csv(write(tmp_path / "a.csv", *rows))
    assert corpus.labels.names == ("anger", "joy", "sad")
    assert "Labels as found, in alphabetical order: anger (1), joy (2), sad (1)." in corpus.notes
    scores = [["train", "0", str(n), "A", "", f"{n / 10}"] for n in range(31)]
    with pytest.raises(CorpusError, match="column 'label' has 31 different labels: expected 1 to 30"):
        read_csv(write(tmp_path / "a.csv", *scores))
    with pytest.raises(CorpusError, match="column 'label' has 0 different labels"):
        read_csv(write(tmp_path / "a.csv", ["train", "0", "0", "A", "", ""]))
    with pytest.raises(CorpusError, match=r"no column of labels: .* Pass --labels"):
        read_csv(write(tmp_path / "a.csv", rows[0]), label="")


def test_splits_are_drawn_by_dialogue(tmp_path):
    rows = [[f"d{n // 3}", str(n % 3), "AB"[n % 2], "hi", "joy"] for n in range(120)]
    file = write(tmp_path / "talks.csv", *rows, header=HEADER[1:])
    corpus = read_csv(file)
    assert {split: len(conversations) for split, conversations in corpus.items()} == {"train": 32, "val": 4, "test": 4}
    assert sum(len(c) for split in corpus.values() for c in split) == 120
    assert corpus.protocol.startswith("splits drawn by dialogue, 80/10/10 % with seed 0; labels as given in talks.csv")
    backwards = read_csv(write(tmp_path / "talks.csv", *rows[::-1], header=HEADER[1:]))
    assert {s: set(ids) for s, ids in plain(backwards).items()} == {s: set(ids) for s, ids in plain(corpus).items()}
    other = read_csv(file, seed=1)
    assert set(plain(other)["test"]) != set(plain(corpus)["test"]) and "seed 1" in other.protocol
    keys = [{key for split in drawn.values() for c in split for key in c.keys} for drawn in (corpus, other)]
    assert keys[0] == keys[1]  # one feature store serves every seed
    few = read_csv(write(tmp_path / "talks.csv", *rows[:6], header=HEADER[1:]))
    assert set(few) == {"train"} and "2 cannot be divided" in few.protocol


def test_a_split_column_may_be_left_aside(tmp_path):
    rows = [["A", str(n), "0", "Ann", "hi", "joy"] for n in range(10)]
    file = write(tmp_path / "a.csv", *rows, header=["set", *HEADER[1:]])
    with pytest.raises(CorpusError, match=r"column 'set': Unknown split 'A': .* or --split= to draw splits"):
        read_csv(file)
    assert set(read_csv(file, split="")) == {"train", "val", "test"}


@pytest.mark.parametrize(
    ("speakers", "doubtful"),
    [
        (["u0", "u1", "u2", "u0", "u1", "u2"], True),  # ids that start again in every dialogue
        (["u0", "u1", "u2", "u3", "u4", "u5"], True),
        (["Ann", "Bob", "Ann", "Ann", "Bob", "Ann"], False),
        (["Ann", "Bob", "Cy", "Ann", "Bob", "Ann"], False),
    ],
)
def test_as_many_speakers_as_utterances_are_doubted(tmp_path, speakers, doubtful):
    rows = [["train", str(n // 3), str(n % 3), who, "hi", "joy"] for n, who in enumerate(speakers)]
    notes = read_csv(write(tmp_path / "a.csv", *rows)).notes
    assert (
        any(note.startswith("There are as many speakers as utterances: column 'speaker'") for note in notes) == doubtful
    )


def test_short_dialogues_of_the_same_two_are_not_doubted(tmp_path):
    rows = [["train", str(n // 2), str(n % 2), "AB"[n % 2], "hi", "joy"] for n in range(6)]
    assert not any("as many speakers" in note for note in read_csv(write(tmp_path / "a.csv", *rows)).notes)


def test_a_folder_is_read_if_its_files_say_their_split(tmp_path):
    row = ["0", "0", "A", "hi", "joy"]
    write(tmp_path / "my_train.tsv", row, header=HEADER[1:])
    (tmp_path / "README.md").touch()
    assert set(read_csv(tmp_path)) == {"train"}  # one file: too few dialogues to draw from
    write(tmp_path / "my_test.csv", row, header=HEADER[1:])
    assert set(read_csv(tmp_path)) == {"train", "test"}
    write(tmp_path / "extra.csv", row, header=HEADER[1:])
    with pytest.raises(CorpusError, match=r"extra\.csv: its name should say one split"):
        read_csv(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match=r"empty holds no corpus\.json and no CSV file"):
        read_csv(tmp_path / "empty")


def test_a_corpus_of_any_kind(tmp_path):
    file = write(tmp_path / "a.csv", ["train", "0", "0", "A", "hi", "joy"])
    corpus = read_corpus(file, name="mine")
    assert corpus == read_csv(file, name="mine")
    corpus.save(tmp_path / "imported/corpus.json")
    assert read_corpus(tmp_path / "imported") == read_corpus(tmp_path / "imported/corpus.json") == corpus
    assert read_corpus(tmp_path, name="mine") == corpus
    with pytest.raises(CorpusError, match="is an imported corpus: labels, speaker can only be chosen for CSV files"):
        read_corpus(tmp_path / "imported", labels=["joy"], speaker="who", text=None)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_corpus(tmp_path / "nowhere.json")
    with pytest.raises(CorpusError, match="nowhere"):
        read_corpus(tmp_path / "nowhere")


def test_two_columns_are_never_one_dimension(tmp_path):
    (tmp_path / "own.csv").write_text("dialogue,speaker,text,a-b,a_b\na,A,x,1,2\na,B,y,2,3\n")
    for values in (["a-b", "a_b"], {"a-b": (1, 5), "a_b": (1, 5)}):
        with pytest.raises(CorpusError, match="'a-b', 'a_b' would be one dimension, 'a_b'"):
            read_csv(tmp_path / "own.csv", values=values)


def test_columns_of_numbers_are_dimensions(tmp_path):
    rows = ["dialogue,speaker,text,valence,arousal level", 'a,A,x,"3,5",2', "a,B,y,,4", "b,A,z,1,1"]
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n")
    corpus = read_csv(tmp_path / "own.csv", values=["valence", "arousal level"])
    talks = {talk.id: talk for split in corpus.values() for talk in split}
    assert [u.values for u in talks["a"].utterances] == [{"valence": 3.5, "arousal_level": 2}, {"arousal_level": 4}]
    assert corpus.dimensions == {"valence": (1, 3.5), "arousal_level": (1, 4)}
    assert len(corpus.labels) == 0
    assert any("Scales are those of the numbers" in note for note in corpus.notes)
    assert read_csv(tmp_path / "own.csv", values={"valence": (1, 5)}).dimensions == {"valence": (1, 5)}
    with pytest.raises(CorpusError, match="no column 'dominance'"):
        read_csv(tmp_path / "own.csv", values=["dominance"])
    with pytest.raises(CorpusError, match="line 2: column 'text' has 'x', expected a number"):
        read_csv(tmp_path / "own.csv", text="", values=["text"])
