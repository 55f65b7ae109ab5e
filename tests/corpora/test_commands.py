"""What `merc import` and `merc doctor` run: files on disk, a summary, an exit status; nothing after bad input."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from merc.cli.data import data_command
from merc.conversation import Corpus, CorpusError
from merc.corpora.commands import DOCTORS, IMPORTS, import_kind, resolve_import
from merc.store import FeatureStore
from support.iemocap_tree import make_iemocap
from support.meld_tree import make_meld


def run(*args, command="import"):
    return data_command(command, list(map(str, args)))


def test_meld_and_a_table(tmp_path, capsys):
    root, out = make_meld(tmp_path / "[meld]"), tmp_path / "[out]"
    run("meld", root, "--out", out)
    assert len(Corpus.load(out / "corpus.json")["test"]) == 2
    numbers = tmp_path / "numbers_train.csv"
    numbers.write_text("file,a\ndia0_utt0.wav,1\ndia5_utt5.wav,2\n")
    run("table", f'["{numbers}"]', "--corpus", out, "--out", out / "features/audio", "--bound", "null")
    assert len(FeatureStore(out / "features/audio")) == 1
    text = capsys.readouterr().out.replace("\n", "")
    assert "MELD's own train, dev (called val) and test" in text
    assert "[out]/corpus.json" in text
    assert "features audio: 1 utterances, width 1; 5 missing: no row in the table" in text
    assert "1 rows belong to utterances that are not in the corpus" in text


def test_iemocap(tmp_path):
    run(
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
    run("iemocap", tmp_path / "i", "--out", tmp_path / "o", "--validation", "0.2", "--seed", "3")
    assert "seed 3" in Corpus.load(tmp_path / "o/corpus.json").protocol


def test_csv(tmp_path):
    files = [tmp_path / f"my_{split}.csv" for split in ("train", "dev")]
    for file in files:
        file.write_text("dialogue,utterance,who,text,label\n0,0,A,hi,calm\n")
    options = ["--labels", "[calm,tense]", "--speaker", "who", "--name", "own"]
    run("csv", *files, "--out", tmp_path / "o", *options)
    assert set(Corpus.load(tmp_path / "o/corpus.json")) == {"train", "val"}
    with pytest.raises(CorpusError, match="are both train: expected one file per split"):
        resolve_import("csv")([files[0], files[0]], out=tmp_path / "x", labels=["calm"])
    assert not (tmp_path / "x").exists()


def test_pickle(tmp_path):
    rows = {name: np.ones((1, 2)) for name in (0, 1039, 1153)}
    one = {name: [1] for name in rows}
    speakers = {name: [np.eye(9)[0]] for name in rows}
    (tmp_path / "f.pkl").write_bytes(
        pickle.dumps([speakers, one, one, rows, rows, rows, rows, {name: ["hi"] for name in rows}, [0], [1153], [1039]])
    )
    run("pickle", tmp_path / "f.pkl", "--layout", "cosmic-meld", "--out", tmp_path / "o")
    assert {path.name for path in (tmp_path / "o/features").iterdir()} == {"text", "roberta2", "roberta3", "roberta4"}
    with pytest.raises(CorpusError, match="is not of layout cosmic-iemocap"):
        run("pickle", tmp_path / "f.pkl", "--layout", "cosmic-iemocap", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_simulated(tmp_path):
    sizes = '{"train": 3, "val": 2, "test": 2}'
    run("simulated", "--out", tmp_path / "o", "--seed", "3", "--dialogues", sizes)
    assert [len(c) for c in Corpus.load(tmp_path / "o/corpus.json").values()] == [3, 2, 2]
    assert (tmp_path / "o/optimum.json").is_file()
    resolve_import("simulated")(out=tmp_path / "p", seed=3, dialogues={"train": 3, "val": 2, "test": 2})
    assert (tmp_path / "p/corpus.json").read_text() == (tmp_path / "o/corpus.json").read_text()


@pytest.mark.parametrize("name", DOCTORS)
def test_doctor_gives_the_exit_status(tmp_path, capsys, name):
    assert run(name, tmp_path, command="doctor") == 1
    assert "1 errors" in capsys.readouterr().out


def test_bad_input_leaves_an_earlier_import_alone(tmp_path):
    root = make_meld(tmp_path / "m")
    resolve_import("meld")(str(root), out=tmp_path / "o")
    before = (tmp_path / "o/corpus.json").read_bytes()
    Path(root / "dev_sent_emo.csv").write_text("a,b\n1,2\n")
    with pytest.raises(CorpusError, match="has no column"):
        resolve_import("meld")(root, out=tmp_path / "o")
    assert (tmp_path / "o/corpus.json").read_bytes() == before


# Readers of one's own

PACKAGE = '''
from pathlib import Path

import torch

from merc.conversation import Conversation, Corpus, Utterance
from merc.corpora import read_csv
from merc.corpora.commands import recomputable
from merc.corpora.doctor import Report
from merc.features.table import FeaturedCorpus, FeatureTable
from merc.labels import LabelSet


def corpus_of(text):
    talk = Conversation("0", (Utterance("0", "Ann", text, label="joy"),))
    return Corpus("own", LabelSet("own", ("joy",)), {"train": [talk]})


def read_own(root: Path, *, loud: bool = False, words: list[str] | None = None) -> Corpus:
    """Read what is mine.

    Args:
        root: Its file.
        loud: In capitals.
        words: What stands behind it.
    """
    text = " ".join([root.read_text(), *(words or [])])
    return corpus_of(text.upper() if loud else text)


def read_with_features(root: str):
    corpus = corpus_of(Path(root).read_text())
    keys = corpus["train"][0].keys
    return FeaturedCorpus(corpus, {"text": FeatureTable(keys, torch.ones(1, 2))})


def read_like_csv(root: Path, **options) -> Corpus:
    return read_csv(root, **options)


def write_own(root: Path, *, out: Path) -> Corpus:
    corpus = corpus_of(root.read_text())
    corpus.save(out / "corpus.json")
    return corpus


def lengths(corpus: Path, *, out: Path) -> None:
    pass


lengths_again = recomputable(lambda corpus, out: None)


def read_untyped(root):
    return corpus_of(root)


def read_nothing():
    return 3


def check_own(root: Path, *, strict: bool = False) -> Report:
    report = Report(f"own corpus at {root}")
    if strict:
        report.add("error", "strict", root, "not strict enough")
    return report


no_function = 3
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A package on the path, and a file for its readers."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/my_own.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "package")
    yield tmp_path / "own.txt"
    sys.modules.pop("my_own", None)


@pytest.fixture
def text(own):
    own.write_text("hi")
    return own


@pytest.mark.parametrize("name", ["read_own", "read_with_features", "write_own"])
def test_a_reader_of_ones_own_is_an_import_path(name, text, tmp_path, capsys):
    run(f"my_own.{name}", text, "--out", tmp_path / "o")
    corpus = Corpus.load(tmp_path / "o")
    assert corpus["train"][0].utterances[0].text == "hi"
    assert (tmp_path / "o/features/text").is_dir() == (name == "read_with_features")


def test_its_parameters_are_options(text, tmp_path, capsys):
    run("my_own.read_own", "--words", "there", "you", "--loud", "true", text, "--out", tmp_path / "o")
    assert Corpus.load(tmp_path / "o")["train"][0].utterances[0].text == "HI THERE YOU"
    run("my_own.read_own", text, "--words", "there", "--out", tmp_path / "o")
    assert Corpus.load(tmp_path / "o")["train"][0].utterances[0].text == "hi there"
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("my_own.read_own", "--help")
    said = capsys.readouterr().out
    assert "Read what is mine." in said and "In capitals." in said


def test_its_options_may_be_those_of_another_reader(own, tmp_path):
    own.write_text("talk,who,text,label\n1,Ann,hi,calm\n")
    run(
        "my_own.read_like_csv",
        own,
        "--dialogue",
        "talk",
        "--speaker",
        "who",
        "--labels",
        "calm",
        "--out",
        tmp_path / "o",
    )
    assert Corpus.load(tmp_path / "o")["train"][0].utterances[0].speaker == "Ann"


def test_its_parameters_need_types(text, tmp_path):
    with pytest.raises(ValueError, match=r"'root' .* does not specify a type"):
        run("my_own.read_untyped", text, "--out", tmp_path / "o")


def test_short_names_are_import_paths(tmp_path):
    root = make_meld(tmp_path / "m")
    run(IMPORTS["meld"], root, "--out", tmp_path / "long")
    run("meld", root, "--out", tmp_path / "short")
    assert Corpus.load(tmp_path / "long") == Corpus.load(tmp_path / "short")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("emory", "There is no import 'emory': expected one of corpus, csv, meld, .*, or the import path of a corpus"),
        ("my_own.read", "There is no import 'my_own.read': module 'my_own' has no function 'read'"),
        ("my_own.no_function", "has no function 'no_function'"),
        ("nowhere.read", "'nowhere' of import 'nowhere.read' cannot be imported .* add its folder to PYTHONPATH"),
        ("my_own.read_nothing", "my_own.read_nothing returned int: expected a Corpus or a FeaturedCorpus"),
    ],
)
def test_what_is_no_reader_is_refused(name, message, text, tmp_path):
    with pytest.raises(CorpusError, match=message):
        run(name, "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_doctor_of_ones_own(text, capsys):
    assert run("my_own.check_own", text, command="doctor") == 0
    assert run("my_own.check_own", text, "--strict", "true", command="doctor") == 1
    with pytest.raises(CorpusError, match=r"returned int: expected a merc\.corpora\.doctor\.Report"):
        run("my_own.read_nothing", command="doctor")
    with pytest.raises(
        CorpusError, match="no doctor 'emory': expected one of meld, iemocap, or the import path of a doct"
    ):
        run("emory", command="doctor")


def test_what_an_import_brings(text):
    kinds = {name: import_kind(name) for name in IMPORTS}
    others = {"table": "numbers", "npy": "numbers", "evidence": "numbers", "film": "numbers", "writing": "features"}
    assert kinds == {**dict.fromkeys(IMPORTS, "corpus"), **others}
    assert import_kind(IMPORTS["writing"]) == "features"
    own = {"read_own": "corpus", "read_with_features": "corpus", "write_own": "corpus", "lengths": "numbers"}
    own |= {"lengths_again": "features"}
    assert {name: import_kind(f"my_own.{name}") for name in own} == own


def test_the_commands_are_listed(capsys):
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert all(f"\n  {name} " in said for name in IMPORTS) and "my_package.read_emorynlp" in said
    assert run(command="doctor") == 2
    assert all(f"\n  {name} " in capsys.readouterr().out for name in ["meld"])
