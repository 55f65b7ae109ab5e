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


def test_help_needs_no_files(capsys):
    with pytest.raises(SystemExit) as end:
        main(["import", "csv", "--help"])
    assert end.value.code == 0
    assert "--speaker" in capsys.readouterr().out


def test_the_doctor_of_what_is_not_there_fails(tmp_path, capsys):
    assert main(["doctor", "meld", str(tmp_path / "nowhere")]) == 1
    assert "1 errors" in capsys.readouterr().out
