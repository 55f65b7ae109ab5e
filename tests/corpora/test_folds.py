"""Folds of a cross-validation: everyone is test once, nobody is in two splits, stores serve all folds."""

import shutil

import pytest
import yaml

from merc.cli import main
from merc.conversation import Conversation, Corpus, CorpusError, Utterance
from merc.corpora import read_folds
from merc.evaluation import PredictionsError
from merc.evaluation.systems import read_systems
from merc.labels import LabelSet
from merc.store import FeatureStore

LABELS = LabelSet("two", ("joy", "anger"))


def talk(name, partition="s1", speakers=("Ann", "Ben"), labels=("joy", "anger")):
    said = zip(speakers, labels, strict=True)
    return Conversation(
        name, tuple(Utterance(str(n), who, "oh", label=what) for n, (who, what) in enumerate(said)), partition
    )


@pytest.fixture
def saved(tmp_path):
    talks = [talk(f"d{n}", f"s{n % 3}", [("Ann", "Ben"), ("Cem", "Ann"), ("Cem", "Ben")][n % 3]) for n in range(12)]
    corpus = Corpus("mine", LABELS, {"train": talks[:8], "val": talks[8:10], "test": talks[10:]}, notes=("as given",))
    corpus.save(tmp_path / "corpus.json")
    return tmp_path


def keys(corpus, split):
    return {key for conversation in corpus[split] for key in conversation.keys}


@pytest.mark.parametrize(("by", "count"), [("dialogue", 4), ("partition", 3)])
def test_every_dialogue_is_test_in_one_fold_and_in_one_split_of_each(saved, by, count):
    whole = {key for split in Corpus.load(saved) for key in keys(Corpus.load(saved), split)}
    tested = []
    for fold in range(count):
        corpus = read_folds(saved, fold=fold, by=by, folds=count)
        parts = [keys(corpus, split) for split in ("train", "val", "test")]
        assert all(parts) and sum(map(len, parts)) == len(set().union(*parts)) and set().union(*parts) == whole
        tested += parts[2]
        assert f"fold {fold + 1} of {count}" in corpus.protocol and corpus.notes == ("as given",)
    assert sorted(tested) == sorted(whole)
    assert read_folds(saved, fold=count, by=by, folds=count) == read_folds(saved, fold=0, by=by, folds=count)


def test_a_partition_is_left_out_as_a_whole(saved):
    assert {c.partition for c in read_folds(saved, fold=1, by="partition")["test"]} == {"s1"}


def test_of_a_speaker_who_is_left_out_nothing_is_trained_on_and_others_are_not_scored(saved):
    for fold, who in enumerate(["Ann", "Ben", "Cem"]):
        corpus = read_folds(saved, fold=fold, by="speaker")
        seen = {u.speaker for split in ("train", "val") for c in corpus[split] for u in c.utterances}
        scored = {u.speaker for c in corpus["test"] for u in c.utterances if u.label is not None}
        assert who not in seen and scored == {who} and f"{who} is test" in corpus.protocol
        assert all(len(conversation) == 2 for conversation in corpus["test"])  # the others are context


def test_the_seed_decides_what_is_dealt_and_drawn(saved):
    first, again, other = (read_folds(saved, fold=0, seed=seed) for seed in (0, 0, 1))
    assert first == again and keys(first, "test") != keys(other, "test")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fold": -1}, "expected a fold of at least 0"),
        ({"fold": 0, "validation": 1.0}, "a share between 0 and 1"),
        ({"fold": 0, "folds": 1}, "expected 2 to 12"),
        ({"fold": 0, "folds": 13}, "expected 2 to 12"),
    ],
)
def test_options_out_of_range(saved, options, words):
    with pytest.raises(CorpusError, match=words):
        read_folds(saved, **options)


def test_a_corpus_without_parts_or_with_too_little_left_is_refused(tmp_path):
    Corpus("one", LABELS, {"train": [talk("a"), talk("b")]}).save(tmp_path / "corpus.json")
    with pytest.raises(CorpusError, match=r"has 1 partitions to leave out \(s1\): expected two or more"):
        read_folds(tmp_path, fold=0, by="partition")
    with pytest.raises(CorpusError, match="Without Ann only 0 conversations"):
        read_folds(tmp_path, fold=0, by="speaker")


def test_a_pipeline_runs_its_folds_as_seeds_on_features_that_are_made_once(tmp_path, capsys):
    rows = [
        f"d{d},{u},{'ab'[u % 2]},{'yes' if d % 2 else 'no'},{'joy' if d % 2 else 'anger'}"
        for d in range(12)
        for u in range(3)
    ]
    (tmp_path / "my.csv").write_text("dialogue,utterance,speaker,text,emotion\n" + "\n".join(rows) + "\n")
    stages = [
        {"name": "fold", "command": "import", "config": "folds",
         "options": {"corpus": "{data}", "folds": 3, "fold": "{seed}"}},
        {"name": "data", "command": "import", "config": "corpus", "options": {"source": "{corpus}"}},
        {"name": "written", "command": "writing", "corpus": "data"},
        {"name": "teacher", "command": "fit", "config": "systems/teacher.yaml", "stores": {"text": "{written}"},
         "options": {"trainer.max_steps": 4, "trainer.val_check_interval": 2}, "outputs": ["logits"]},
    ]  # fmt: skip
    (tmp_path / "folds.yaml").write_text(yaml.safe_dump({"corpus": "fold", "stages": stages[1::-1] + stages[2:]}))
    out = tmp_path / "run"
    words = [
        "run",
        str(tmp_path / "folds.yaml"),
        "--corpus",
        str(tmp_path / "my.csv"),
        "--out",
        str(out),
        "--seeds",
        "3",
    ]
    assert main(words) == 0, capsys.readouterr().err
    assert len(FeatureStore(out / "written")) == 36 and not (out / "seed-0" / "written").exists()
    report = (out / "report.md").read_text()
    assert "| Weighted F1 | Fold 1 | Fold 2 | Fold 3 | Mean of folds | Pooled |" in report
    assert "- Fold 3: fold 3 of 3, part 3 is test" in report
    tables = [(out / f"seed-{seed}/teacher/report/predictions.csv").read_text() for seed in range(3)]
    tested = [line.split(",")[:3] for table in tables for line in table.splitlines()[1:]]
    assert main(["export", str(out), "--out", str(tmp_path / "model")]) == 0, capsys.readouterr().err
    assert "the folds of a cross-validation" in (tmp_path / "model/README.md").read_text()
    [system] = read_systems([out]).values()
    assert len(system.runs) == 1 and len(system.runs[0].keys) == 36 and "fold 3 of 3" in system.info["protocol"]
    shutil.copytree(out / "seed-0/teacher/report", tmp_path / "again")
    two = [out / "seed-0/teacher", out / "seed-1/teacher", tmp_path / "again"]
    with pytest.raises(PredictionsError, match="ran a different number of times"):
        read_systems([f"x={source}" for source in two])
    assert len(tested) == 36 == len(set(map(tuple, tested)))
