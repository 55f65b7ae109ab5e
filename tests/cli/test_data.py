from pathlib import Path

import pytest

from merc.cli import main
from merc.conversation import Corpus
from merc.corpora.simulated import simulate
from merc.store import FeatureStore

ROWS = "dialogue,utterance,speaker,text,label\n{name},0,Ann,Hello.,joy\n{name},1,Bob,Go away!,anger\n"


@pytest.fixture
def files(tmp_path):
    names = ["train.csv", "dev.csv", "test.csv"]
    for name in names:
        (tmp_path / name).write_text(ROWS.format(name=name))
    return [str(tmp_path / name) for name in names]


def test_several_files_stand_side_by_side_as_a_shell_expands_them(files, tmp_path):
    out = tmp_path / "out"
    assert main(["import", "csv", *files, "--out", str(out), "--labels", "[joy, anger]"]) == 0
    corpus = Corpus.load(out / "corpus.json")
    assert {split: conversations[0].id for split, conversations in corpus.items()} == {
        "train": "train.csv",
        "val": "dev.csv",
        "test": "test.csv",
    }


def test_files_may_stand_between_options_and_be_one(tmp_path):
    simulate(dialogues={"train": 1}, length_counts=(1,), cast_counts=(1,)).save(tmp_path)
    table = tmp_path / "train_pitch.csv"
    table.write_text("name,pitch\ndia0_utt0.wav,212.5\n")
    out = tmp_path / "features/audio"
    assert main(["import", "table", f"--corpus={tmp_path}", str(table), "--out", str(out)]) == 0
    assert FeatureStore(out).dim == 1


def test_a_list_in_brackets_is_one_too(files, tmp_path):
    given = "[" + ",".join(files) + "]"
    assert main(["import", "csv", given, "--out", str(tmp_path / "out"), "--labels", "[joy, anger]"]) == 0


@pytest.mark.parametrize(
    "labels", [["joy", "anger"], ["[joy, anger]"], ['["joy", "anger"]']], ids=["words", "brackets", "JSON"]
)
def test_lists_are_plain_words(files, tmp_path, labels):
    out = tmp_path / "out"
    assert main(["import", "csv", "--labels", *labels, "--out", str(out), *files]) == 0
    assert Corpus.load(out).labels.names == ("joy", "anger")


def test_several_columns_name_a_dialogue(tmp_path, capsys):
    file = tmp_path / "a.csv"
    file.write_text("Season,Episode,Scene_ID,Utterance,Speaker,Emotion,split\n1,2,3,Hi.,Ann,joy,train\n")
    options = ["--dialogue", "Season", "Episode", "Scene_ID", "--out", str(tmp_path / "out"), "--labels", "joy"]
    with pytest.raises(SystemExit):
        main(["import", "csv", *options, str(file)])  # what stands behind a list of words is one of them
    assert "the following arguments are required: files" in capsys.readouterr().err
    assert main(["import", "csv", str(file), *options]) == 0
    assert Corpus.load(tmp_path / "out")["train"][0].id == "1_2_3"
    options[1:4] = ["[Season, Episode]"]
    assert main(["import", "csv", "--out", str(tmp_path / "out"), *options[:2], str(file)]) == 0  # brackets say its end
    assert Corpus.load(tmp_path / "out")["train"][0].id == "1_2"


def test_values_of_a_table_are_plain_words(tmp_path):
    simulate(dialogues={"train": 1}, length_counts=(1,), cast_counts=(1,)).save(tmp_path)
    table = tmp_path / "train_pitch.csv"
    table.write_text("name;pitch;mean;note\ndia0_utt0.wav;212.5;3;loud\n")
    for values in (["pitch", "mean"], ["pitch"], ["[pitch]"]):
        given = ["import", "table", str(table), "--values", *values, "--corpus", str(tmp_path)]
        assert main([*given, "--out", str(tmp_path / "features/audio")]) == 0
        assert FeatureStore(tmp_path / "features/audio").dim == len(values)


def test_a_corpus_of_any_kind_is_imported_again(files, tmp_path):
    assert main(["import", "corpus", files[0], "--out", str(tmp_path / "once"), "--name", "mine"]) == 0
    assert main(["import", "corpus", str(tmp_path / "once"), "--out", str(tmp_path / "again")]) == 0
    once, again = (tmp_path / name / "corpus.json" for name in ("once", "again"))
    assert once.read_text() == again.read_text()
    folder = tmp_path / "folder"
    folder.mkdir()
    for file in files:
        Path(file).rename(folder / Path(file).name)
    assert main(["import", "corpus", str(folder), "--out", str(tmp_path / "all"), "--label", "label"]) == 0
    assert set(Corpus.load(tmp_path / "all")) == {"train", "val", "test"}


def test_help_needs_no_files(capsys):
    with pytest.raises(SystemExit) as end:
        main(["import", "csv", "--help"])
    assert end.value.code == 0
    assert "--speaker" in capsys.readouterr().out


def test_the_doctor_of_what_is_not_there_fails(tmp_path, capsys):
    assert main(["doctor", "meld", str(tmp_path / "nowhere")]) == 1
    assert "1 errors" in capsys.readouterr().out
