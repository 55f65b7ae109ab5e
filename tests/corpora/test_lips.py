"""Drawn mouths as stores: what talks is known, a cut run goes on, a seed decides."""

from inspect import signature

import pytest
import torch

from merc.conversation import Corpus, UtteranceKey
from merc.corpora.commands import resolve_import
from merc.datamodules import LipSyncDataModule, LipSyncSource
from merc.store import FeatureStore

for package in ("cv2", "skimage", "torchaudio"):
    pytest.importorskip(package)
lips = pytest.importorskip("merc.corpora.rendered.lips")

COUNTS = {"talking": {"train": 2, "val": 1}, "silent": {"train": 1, "val": 0}}


def draw(out, **options):
    return lips.render_lips(out, **COUNTS, seconds=1.0, workers=0, progress=False, **options)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("lips")
    return out, draw(out)


def source(out):
    return LipSyncSource(out / "corpus.json", out / "faces", out / "crops", out / "sound", out / "speaker")


def test_the_stores_are_what_lipsyncnet_reads(drawn):
    out, corpus = drawn
    assert Corpus.load(out / "corpus.json") == corpus
    assert {FeatureStore(out / name).corpus for name in ("faces", "crops", "sound", "speaker")} == {corpus.digest}
    data = LipSyncDataModule([source(out)])
    data.setup()
    clips = {clip.key.dialogue: clip for clip in data.clips("train")}
    assert {name: clip.speaker for name, clip in clips.items()} == {"talk0": 0, "talk1": 0, "silent0": -1}
    for clip in clips.values():
        assert clip.tracks[0].crops.shape == (25, 32, 32)
        assert abs(len(clip.sound) - 100) <= 1


def test_talking_is_louder_than_a_quiet_room(drawn):
    out, _ = drawn
    sound = FeatureStore(out / "sound")
    talk, silent = UtteranceKey("train", "talk0", "0"), UtteranceKey("train", "silent0", "0")
    assert sound.sequence(talk).exp().sum() > 3 * sound.sequence(silent).exp().sum()


def test_a_cut_run_goes_on_and_gives_the_same(drawn, tmp_path, monkeypatch):
    out, _ = drawn
    plain, calls = lips.draw_head, []

    def cut(*given, **options):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*given, **options)

    monkeypatch.setattr(lips, "draw_head", cut)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path)
    draw(tmp_path)
    assert len(calls) == 5  # two before the cut, the one that was cut, and the two that were left
    for kind in ("faces", "crops", "sound", "speaker"):
        whole, again = FeatureStore(out / kind), FeatureStore(tmp_path / kind)
        assert set(whole.keys) == set(again.keys)
        assert all(torch.equal(whole.sequence(key), again.sequence(key)) for key in whole.keys)


def test_another_seed_draws_other_people(drawn, tmp_path):
    draw(tmp_path, seed=1)
    key = UtteranceKey("train", "talk0", "0")
    assert not torch.equal(
        FeatureStore(drawn[0] / "crops").sequence(key), FeatureStore(tmp_path / "crops").sequence(key)
    )


def test_it_is_offered_on_the_command_line():
    assert "talking" in signature(resolve_import("lips")).parameters
