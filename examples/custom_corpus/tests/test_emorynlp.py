import ast
import csv

import pytest
from made_emorynlp import make_emorynlp
from my_corpora import read_emorynlp

from merc.conversation import CorpusError
from merc.corpora import read_csv

FILES = {"train": "train", "val": "dev", "test": "test"}


@pytest.fixture
def root(tmp_path):
    return make_emorynlp(tmp_path / "emorynlp")


def test_every_row_becomes_an_utterance_of_its_scene(root):
    corpus = read_emorynlp(root)
    for split, name in FILES.items():
        with (root / f"emorynlp_{name}_final.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        found = [(c.id, u.id, u.text, u.speaker, u.label) for c in corpus[split] for u in c.utterances]
        assert found == [
            (
                f"s{row['Season']}_e{row['Episode']}_c{row['Scene_ID']}",
                row["Utterance_ID"],
                row["Utterance"],
                " & ".join(ast.literal_eval(row["Speaker"])),
                row["Emotion"].lower(),
            )
            for row in rows
        ]
    assert corpus["train"][0].utterances[1].start == 61.5


def test_it_agrees_with_what_merc_reads_by_itself(root):
    mine, theirs = read_emorynlp(root), read_csv(root)
    for split in FILES:
        assert [c.utterances for c in mine[split]] == [c.utterances for c in theirs[split]]


def test_emotions_merge_into_sentiments(root):
    seven, three = read_emorynlp(root), read_emorynlp(root, emotions="three")
    pairs = {
        (a.label, b.label)
        for split in seven
        for c, d in zip(seven[split], three[split], strict=True)
        for a, b in zip(c.utterances, d.utterances, strict=True)
    }
    assert {("mad", "negative"), ("peaceful", "positive"), ("neutral", "neutral")} <= pairs and len(pairs) == 7


def test_a_bad_row_is_refused_with_its_place(root):
    file = root / "emorynlp_dev_final.csv"
    lines = file.read_text().splitlines()
    lines[1] = "Hm.,['Ann Example'],Bored,1,1,1,1,,"
    file.write_text("\n".join(lines))
    with pytest.raises(CorpusError, match=r"emorynlp_dev_final\.csv, line 2: Unknown label 'Bored'"):
        read_emorynlp(root)


def test_a_missing_file_is_named(root):
    (root / "emorynlp_test_final.csv").unlink()
    with pytest.raises(CorpusError, match=r"No file .*emorynlp_test_final\.csv"):
        read_emorynlp(root)
