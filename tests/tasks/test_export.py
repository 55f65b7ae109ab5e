"""The export of a trained LipSyncNet: weights that load anywhere, and a card that says what they can do."""

import re
from dataclasses import replace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from merc.conversation import Corpus, UtteranceKey
from merc.datamodules import LipSyncDataModule, LipSyncSource
from merc.datamodules.lipsync import LipSyncClip
from merc.evaluation.synchrony import compare_all, synchrony_scores
from merc.pipeline.kinds import ExportLipSyncStage
from merc.pipeline.stage import Stage
from merc.speaker import LikelihoodScorer, LipSyncNet, MouthTrack, load_lipsync
from merc.tasks import LipSyncTask
from merc.tasks.export import export_lipsync, synchrony_by_source
from support.quiet_trainer import trainer_in
from support.read_off import ReadOff, heard, like, mouths, signal
from support.tiny_lips import SIZE, talk, write_stores


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that was trained for a step, on stores in which every clip shows somebody else."""
    folder = tmp_path_factory.mktemp("films")

    def clips(seeds):
        return [([(0, crops)], sound, 0) for crops, sound in (talk(seed, 75) for seed in seeds)]

    source = write_stores(folder, {"train": clips([1, 2, 3]), "val": clips([4, 5]), "test": clips([6, 7, 8])})
    named(folder, lambda key: f"{key.partition}{key.dialogue}")
    L.seed_everything(0)
    best = ModelCheckpoint(folder / "trained", "best", monitor="val/pair_loss")
    task = LipSyncTask(LipSyncNet(size=SIZE, width=2, hidden=8), pair_frames=30)
    data = LipSyncDataModule([LipSyncSource(**source)], window=16, batch_size=4, batches_per_epoch=1)
    trainer_in(folder, best, epochs=1).fit(task, datamodule=data)
    return folder, task


def named(folder, name):
    """Give every clip of the corpus a speaker."""
    corpus = Corpus.load(folder / "corpus.json")
    splits = {
        split: [
            replace(c, utterances=tuple(replace(u, speaker=name(k)) for k, u in zip(c.keys, c.utterances, strict=True)))
            for c in conversations
        ]
        for split, conversations in corpus.items()
    }
    replace(corpus, splits=splits).save(folder / "corpus.json")


def test_the_folder_predicts_as_the_task_did(run, tmp_path):
    folder, task = run
    export_lipsync(folder / "trained", folder / "corpus.json", folder, tmp_path / "out", licence="CC0")
    found = load_lipsync(tmp_path / "out")
    own = task.network.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in found.network.state_dict().items())
    assert torch.equal(found.calibration, LikelihoodScorer().uncalibrated())  # two clips of val are too few
    assert found.trained_on == "lips/train"
    card = (tmp_path / "out/README.md").read_text()
    assert card.startswith("# lipsync\n") and "Licence of the weights: CC0." in card
    assert "3 films of 3 people in train, 2 films of 2 people in val, 3 films of 3 people in test" in card
    assert re.search(r"^\| films \| 2 s \| 3 \| 3 \| [\d.]+ % \| [\d.]+ % \| [\d.]+ % \| [\d.]+ % \|$", card, re.M)
    assert "| films | 3 s | 3 | 3 |" in card and str(tmp_path) not in card and str(folder) not in card


def test_the_card_says_what_it_is_told(run, tmp_path):
    folder, _ = run
    export_lipsync(folder / "trained", folder / "corpus.json", folder, tmp_path, name="mine", data="Two films, CC0")
    card = (tmp_path / "README.md").read_text()
    assert (
        'load_lipsync("mine")' in card and "\nTwo films, CC0. " in card and "Licence of the weights: not given" in card
    )
    assert load_lipsync(tmp_path).trained_on == "Two films, CC0"


def test_somebody_in_two_splits_is_refused(run, tmp_path):
    folder, _ = run
    twice = tmp_path / "corpus.json"
    twice.write_bytes((folder / "corpus.json").read_bytes())
    named(tmp_path, lambda key: "Ann" if key.dialogue == "0" else f"{key.partition}{key.dialogue}")
    with pytest.raises(ValueError, match="has Ann in more than one split"):
        export_lipsync(folder / "trained", twice, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_are_by_the_folder_of_a_film_and_of_two_people_or_more():
    scorer, net, calibration = LikelihoodScorer(), ReadOff(), torch.tensor([0.5, 0.15])

    def clip(name, seed, frames=130):
        voice = signal(seed, frames)
        key = UtteranceKey("all", name, "0")
        return LipSyncClip(key, (mouths(like(voice, 0.6, seed + 50)),), heard(voice), talking=(0,))

    clips = [clip("a/x.mp4", 1), clip("a/y.mp4", 2), clip("b/x.mp4", 3), clip("b/y.mp4", 4), clip("c.mp4", 5)]
    people = {c.key: who for c, who in zip(clips, ["Ann", "Bob", "Cleo", "Cleo", "Dan"], strict=True)}
    found = synchrony_by_source(net, scorer, calibration, clips, people, 60)
    assert list(found) == ["a"]
    trials = [
        scorer.trial(net, MouthTrack(start, c.tracks[0].crops[start:]), c.sound, 60)
        for c in clips[:2]
        for start in (0, 60)
    ]
    expected = synchrony_scores(compare_all(scorer, trials, ["Ann", "Ann", "Bob", "Bob"], calibration))
    assert found["a"] == expected and expected.trials == 4 and expected.pair_accuracy == 1


def test_it_is_a_stage_of_pipelines():
    stage = Stage("weights", "export_lipsync", options={"trained": "{lipsync}", "corpus": "x", "faces": "y"})
    assert isinstance(stage.kind, ExportLipSyncStage)
    assert stage.kind.function(stage) is export_lipsync
