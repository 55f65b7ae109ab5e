"""A run applied to new conversations: never the features of others, never nothing in the place of an answer."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml

from merc.cli import main
from merc.conversation import Conversation, Corpus, Utterance
from merc.labels import LabelSet
from merc.pipeline.apply import apply_pipeline
from merc.pipeline.stage import PipelineError
from merc.store import FeatureStore
from support.tiny_text import tiny_bert

LABELS = LabelSet("tiny", ("anger", "joy", "neutral"))
WITHOUT_TRAIN = {"data.predict_splits": ["test"]}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu", "num_sanity_val_steps": 0}
ENCODER = """
from merc.encoders import TextEncoder

class Own(TextEncoder):
    pass
"""


def corpus(words, split="test", dialogues=2):
    lines = tuple(Utterance(str(number), "Ann", text, label="joy") for number, text in enumerate(words))
    talks = [Conversation(str(number), lines, partition=split) for number in range(dialogues)]
    return Corpus("new", LABELS, {split: talks})


def changed(run, folder, change):
    """A copy of a finished run, whose stages, by name, were changed in its record."""
    shutil.copytree(run, folder, symlinks=True)
    record = json.loads((folder / "pipeline.json").read_text())
    stages = {stage["name"]: stage for stage in record["stages"]}
    change(stages)
    (folder / "pipeline.json").write_text(json.dumps({**record, "stages": list(stages.values())}))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run on transcripts, whose encoder is of a module beside it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "own_encoder.py").write_text(ENCODER)
    encoder = {"class_path": "own_encoder.Own", "init_args": {"model": tiny_bert(folder / "bert"), "pooling": "mean"}}
    text = {"class_path": "merc.datamodules.TextDataModule", "init_args": {"corpus": "none"}}
    network = {"class_path": "merc.graphs.GCNEncoder", "init_args": {"hidden_dim": 8, "num_layers": 1}}
    data = {"corpus": "none", "stores": {}, "graphs": {"text": {"class_path": "merc.graphs.GraphBuilder"}}}
    task = {"class_path": "merc.tasks.TeacherTask", "init_args": {"network": network}}
    conversations = {"class_path": "merc.datamodules.ConversationDataModule", "init_args": data}
    extract = {"class_path": "merc.tasks.ExtractTask", "init_args": {"encoder": encoder}}
    for name, config in {
        "words": {"trainer": QUIET, "model": extract, "data": text},
        "teacher": {"trainer": {**QUIET, "max_epochs": 1}, "model": task, "data": conversations},
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    given = {split: corpus(["no not why", "oh my"], split)[split] for split in ("train", "val", "test")}
    Corpus("tiny", LABELS, given).save(folder / "corpus.json")
    stages = [
        {"name": "data", "command": "import", "config": "corpus", "options": {"source": "{corpus}"}},
        {"name": "words", "command": "predict", "config": "words.yaml", "outputs": ["features"]},
        {"name": "teacher", "command": "fit", "config": "teacher.yaml", "stores": {"text": "{words}/features"}},
    ]
    (folder / "pipeline.yaml").write_text(yaml.safe_dump({"corpus": "data", "stages": stages}))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        args = ["run", str(folder / "pipeline.yaml"), "--corpus", str(folder / "corpus.json")]
        assert main([*args, "--out", str(folder / "out")]) == 0
        yield folder / "out"


def stages_that_run(run, words, out, capsys):
    capsys.readouterr()
    apply_pipeline(run, corpus(words), out)
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stage ")]
    return [line.split(": ")[1] for line in titles if "unchanged" not in line]


def test_new_words_under_old_keys_get_their_own_answers(run, tmp_path):
    old, new = (apply_pipeline(run, corpus(w), tmp_path / w[0]) for w in (["no", "oh my"], ["yes", "well okay"]))
    assert old.logits.keys == new.logits.keys and not new.logits.missing
    found = [FeatureStore(applied.stores["words/features"]).gather(old.logits.keys)[0] for applied in (old, new)]
    assert not torch.isclose(found[0], found[1]).all(1).any()


def test_a_changed_class_is_applied_again(run, tmp_path, capsys):
    assert stages_that_run(run, ["no", "yes"], tmp_path / "out", capsys) == ["data", "words", "teacher"]
    assert stages_that_run(run, ["no", "yes"], tmp_path / "out", capsys) == []
    source = run.parent / "own_encoder.py"
    source.write_text(ENCODER + "# changed\n")
    try:
        assert stages_that_run(run, ["no", "yes"], tmp_path / "out", capsys) == ["words", "teacher"]
    finally:
        source.write_text(ENCODER)


@pytest.mark.parametrize("option", ["data.corpus", "data.init_args.corpus"])
@pytest.mark.parametrize("name", ["words", "teacher"])
def test_a_corpus_that_cannot_be_replaced_is_refused(name, option, run, tmp_path):
    def change(stages):
        del stages[name]["options"]["data.corpus"]
        stages[name]["options"][option] = str(run.parent / "corpus.json") if name == "words" else "{corpus}"

    folder = changed(run, tmp_path / "run", change)
    with pytest.raises(PipelineError, match=f"Stage '{name}' reads the corpus .* cannot be put: expected --data"):
        apply_pipeline(folder, corpus(["no", "yes"]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_an_imported_corpus_is_refused(run, tmp_path):
    def change(stages):
        del stages["data"]
        for stage in stages.values():
            stage["options"]["data.corpus"] = "{corpus}"

    folder = changed(run, tmp_path / "run", change)
    with pytest.raises(PipelineError, match=r"reads the corpus '\{corpus\}'"):
        apply_pipeline(folder, corpus(["no", "yes"]), tmp_path / "out")


@pytest.mark.parametrize("name", ["words", "teacher"])
def test_an_utterance_that_a_stage_leaves_out_is_an_error(name, run, tmp_path):
    both = replace(corpus(["no", "yes"]), splits={**corpus(["no"], "train"), **corpus(["no", "yes"])})
    folder = changed(run, tmp_path / "run", lambda stages: stages[name]["options"].update(WITHOUT_TRAIN))
    with pytest.raises(PipelineError, match=f"'{name}' says nothing about 2 of the given utterances, the first"):
        apply_pipeline(folder, both, tmp_path / "out")


def test_utterances_of_all_splits_are_answered(run, tmp_path):
    both = replace(corpus(["no", "yes"]), splits={**corpus(["no"], "train"), **corpus(["no", "yes"])})
    assert len(apply_pipeline(run, both, tmp_path / "out").logits) == 6
