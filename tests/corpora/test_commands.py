"""What `merc import` and `merc doctor` run: files on disk, a summary, an exit status; nothing after bad input."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from jsonargparse import auto_cli

from merc.conversation import Corpus, CorpusError
from merc.corpora.commands import DOCTORS, IMPORTS
from merc.store import FeatureStore
from support.iemocap_tree import make_iemocap
from support.meld_tree import make_meld


def run(functions, *args):
    return auto_cli(dict(functions), args=list(map(str, args)), as_positional=True)


def test_meld_and_a_table(tmp_path, capsys):
    root, out = make_meld(tmp_path / "[meld]"), tmp_path / "[out]"
    run(IMPORTS, "meld", root, "--out", out)
    assert len(Corpus.load(out / "corpus.json")["test"]) == 2
    numbers = tmp_path / "numbers_train.csv"
    numbers.write_text("file,a\ndia0_utt0.wav,1\ndia5_utt5.wav,2\n")
    run(IMPORTS, "table", f'["{numbers}"]', "--corpus", out, "--out", out / "features/audio", "--bound", "null")
    assert len(FeatureStore(out / "features/audio")) == 1
    text = capsys.readouterr().out.replace("\n", "")
    assert "MELD's own train, dev (called val) and test" in text
    assert "[out]/corpus.json" in text
    assert "features audio: 1 utterances, width 1; 5 missing: no row in the table" in text
    assert "1 rows are about utterances that the corpus does not have" in text


def test_iemocap(tmp_path):
    run(
        IMPORTS,
        "iemocap",
        make_iemocap(tmp_path / "i", sound=False),
        "--out",
        tmp_path / "o",
        "--protocol",
        "loso",
        "--fold",
        "2",
        "--merge",
        "excited-dropped",
    )
    corpus = Corpus.load(tmp_path / "o/corpus.json")
    assert {c.partition for c in corpus["test"]} == {"session2"}
    assert len(corpus.labels) == 4
    assert "fold 2" in corpus.protocol
    run(IMPORTS, "iemocap", tmp_path / "i", "--out", tmp_path / "o", "--validation", "0.2", "--seed", "3")
    assert "seed 3" in Corpus.load(tmp_path / "o/corpus.json").protocol


def test_csv(tmp_path):
    files = [tmp_path / f"my_{split}.csv" for split in ("train", "dev")]
    for file in files:
        file.write_text("dialogue,utterance,who,text,label\n0,0,A,hi,calm\n")
    paths = "[" + ",".join(f'"{file}"' for file in files) + "]"
    options = ["--labels", "[calm,tense]", "--speaker", "who", "--name", "own"]
    run(IMPORTS, "csv", paths, "--out", tmp_path / "o", *options)
    assert set(Corpus.load(tmp_path / "o/corpus.json")) == {"train", "val"}
    with pytest.raises(CorpusError, match="its name should say one split"):
        IMPORTS["csv"](files=[files[0], files[0]], out=tmp_path / "x", labels=["calm"])
    assert not (tmp_path / "x").exists()


def test_pickle(tmp_path):
    rows = {name: np.ones((1, 2)) for name in (0, 1039, 1153)}
    one = {name: [1] for name in rows}
    speakers = {name: [np.eye(9)[0]] for name in rows}
    (tmp_path / "f.pkl").write_bytes(
        pickle.dumps([speakers, one, one, rows, rows, rows, rows, {name: ["hi"] for name in rows}, [0], [1153], [1039]])
    )
    run(IMPORTS, "pickle", tmp_path / "f.pkl", "--layout", "cosmic-meld", "--out", tmp_path / "o")
    assert {path.name for path in (tmp_path / "o/features").iterdir()} == {"text", "roberta2", "roberta3", "roberta4"}
    with pytest.raises(CorpusError, match="is not of layout cosmic-iemocap"):
        run(IMPORTS, "pickle", tmp_path / "f.pkl", "--layout", "cosmic-iemocap", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_simulated(tmp_path):
    sizes = '{"train": 3, "val": 2, "test": 2}'
    run(IMPORTS, "simulated", "--out", tmp_path / "o", "--seed", "3", "--dialogues", sizes)
    assert [len(c) for c in Corpus.load(tmp_path / "o/corpus.json").values()] == [3, 2, 2]
    assert (tmp_path / "o/optimum.json").is_file()
    IMPORTS["simulated"](out=tmp_path / "p", seed=3, dialogues={"train": 3, "val": 2, "test": 2})
    assert (tmp_path / "p/corpus.json").read_text() == (tmp_path / "o/corpus.json").read_text()


@pytest.mark.parametrize("name", DOCTORS)
def test_doctor_gives_the_exit_status(tmp_path, capsys, name):
    assert run(DOCTORS, name, tmp_path) == 1
    assert "1 errors" in capsys.readouterr().out


def test_bad_input_leaves_an_earlier_import_alone(tmp_path):
    root = make_meld(tmp_path / "m")
    IMPORTS["meld"](str(root), out=tmp_path / "o")
    before = (tmp_path / "o/corpus.json").read_bytes()
    Path(root / "dev_sent_emo.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CorpusError, match="has no column"):
        IMPORTS["meld"](root, out=tmp_path / "o")
    assert (tmp_path / "o/corpus.json").read_bytes() == before
