"""Pairs of lips and sound: what belongs together does, and every negative is one."""

import pytest
import torch

from merc.datamodules import LipSyncDataModule, LipSyncSource
from merc.store import StoreError
from support.tiny_lips import SIZE, still, talk, write_stores

OTHER, SHIFTED, SAME_CLIP, OTHER_CLIP, SILENT = range(5)


def clip(seed, frames=48):
    crops, sound = talk(seed, frames)
    return [(0, crops)], sound, 0


@pytest.fixture
def source(tmp_path):
    crops, sound = talk(50)
    pair = [(0, still(60)), (4, crops[4:])], sound, 1
    splits = {
        "train": [*(clip(seed) for seed in range(4)), pair],
        "val": [clip(10), clip(11)],
        "test": [clip(20), pair, ([], sound, -1)],
    }
    return write_stores(tmp_path, splits)


def module(source, **options):
    data = LipSyncDataModule([LipSyncSource(**source)], window=16, **{"batch_size": 8, **options})
    data.setup()
    return data


def test_own_sounds_are_on_the_diagonal_and_in_step(source):
    data = module(source, batches_per_epoch=20, max_lag=0)
    clips = data.clips("train")
    for batch in data.train_dataloader():
        assert batch.crops.shape[1:] == (16, SIZE, SIZE) and batch.sound.shape == (8, 64, 80)
        assert (batch.kinds.diagonal() == OTHER).all()
        assert (batch.speaks[:8] == 1).all()
        for crops, sound in zip(batch.crops[:8], batch.sound, strict=True):
            found = [
                (c.tracks[c.speaker].first + at, c)
                for c in clips
                if c.speaker is not None and c.speaker >= 0
                for at in range(len(c.tracks[c.speaker].crops) - 15)
                if torch.equal(c.tracks[c.speaker].crops[at : at + 16], crops)
            ]
            start, owner = found[0]
            assert torch.equal(owner.sound[4 * start : 4 * start + 64], sound)


def test_every_kind_of_negative_is_what_it_says(source, tmp_path):
    known = module({**source, "speaker": str(tmp_path / "speaker")}, batches_per_epoch=30, silent=0.5)
    clips = {c.key: c for c in known.clips("train")}
    drawn = list(known.train_dataloader())
    owners = {
        t.crops[i : i + 16].numpy().tobytes(): (key, index, t.first + i)
        for key, c in clips.items()
        for index, t in enumerate(c.tracks)
        for i in range(len(t.crops) - 15)
    }
    seen = set()
    for batch in drawn:
        names = [owners.get(crops.numpy().tobytes()) for crops in batch.crops]
        for anchor in range(8):
            for mouth, kind in enumerate(batch.kinds[anchor].tolist()):
                seen.add(kind)
                a, b = names[anchor], names[mouth]
                if kind == SHIFTED:
                    assert a[:2] == b[:2] and abs(a[2] - b[2]) >= known.min_shift
                elif kind == SAME_CLIP:
                    assert a[0] == b[0] and a[1] != b[1]
                elif kind == OTHER_CLIP:
                    assert a[0] != b[0]
                elif kind == SILENT:
                    assert batch.speaks[mouth] == 0
                else:
                    assert a[:2] == b[:2] and abs(a[2] - b[2]) < known.min_shift
    assert seen == {OTHER, SHIFTED, SAME_CLIP, OTHER_CLIP, SILENT}


def test_clips_with_several_faces_are_positives_only_if_the_speaker_is_known(source, tmp_path):
    unknown, known = module(source), module({**source, "speaker": str(tmp_path / "speaker")})
    assert [c.speaker for c in unknown.clips("train")] == [0, 0, 0, 0, None]
    assert [c.speaker for c in known.clips("train")] == [0, 0, 0, 0, 1]
    assert known.clips("test")[2].speaker == -1


def test_a_sound_may_be_moved_by_the_lag_and_no_more(source):
    data = module(source, batches_per_epoch=10, max_lag=2)
    clips = data.clips("train")
    lags = set()
    for batch in data.train_dataloader():
        for crops, sound in zip(batch.crops[:8], batch.sound, strict=True):
            for c in clips[:4]:
                at = [i for i in range(33) if torch.equal(c.tracks[0].crops[i : i + 16], crops)]
                heard = [i for i in range(33) if torch.equal(c.sound[4 * i : 4 * i + 64], sound)]
                lags |= {h - a for a in at for h in heard}
    assert lags == {-2, -1, 0, 1, 2}


def test_the_seed_decides_the_draws(source):
    data = module(source, batches_per_epoch=2)
    torch.manual_seed(3)
    first = [batch.crops for batch in data.train_dataloader()]
    torch.manual_seed(3)
    again = [batch.crops for batch in data.train_dataloader()]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])


def test_sources_are_drawn_by_their_weight(tmp_path):
    a = write_stores(tmp_path / "a", {"train": [clip(0)], "val": [], "test": []})
    b = write_stores(tmp_path / "b", {"train": [clip(1)], "val": [], "test": []})
    data = LipSyncDataModule([LipSyncSource(**a, weight=3.0), LipSyncSource(**b)], window=16, batches_per_epoch=60)
    data.setup()
    first = data.opened[0].clip(data.opened[0].keys("train")[0]).tracks[0].crops
    windows = {first[i : i + 16].numpy().tobytes() for i in range(33)}
    drawn = [crops.numpy().tobytes() in windows for batch in data.train_dataloader() for crops in batch.crops[:24]]
    assert 0.65 < sum(drawn) / len(drawn) < 0.85


def test_without_a_usable_clip_the_error_says_what_is_needed(source):
    data = LipSyncDataModule([LipSyncSource(**source)], window=64)
    data.setup()
    with pytest.raises(StoreError, match="No clip of split train shows one face with its sound for 64 frames"):
        data.train_dataloader()
    with pytest.raises(ValueError, match="got no sources"):
        LipSyncDataModule([])


def test_a_store_of_another_kind_is_refused(source):
    data = LipSyncDataModule([LipSyncSource(**{**source, "crops": source["sound"]})])
    with pytest.raises(StoreError, match="holds sound, expected crops"):
        data.setup()


def test_prediction_leaves_out_sources_that_only_add_to_the_training(source):
    only = LipSyncDataModule([LipSyncSource(**source, predict=False), LipSyncSource(**source)], predict_splits=["val"])
    only.setup()
    assert len(only.predict_dataloader().dataset) == 2


def test_a_batch_is_of_one_source_whatever_the_weights(tmp_path):
    sources = [
        write_stores(tmp_path / name, {"train": [clip(seed), clip(seed + 1)], "val": [], "test": []})
        for name, seed in (("a", 0), ("b", 10))
    ]
    data = LipSyncDataModule([LipSyncSource(**s) for s in sources], window=16, batch_size=6, batches_per_epoch=20)
    data.setup()
    windows = [
        {
            track.crops[start : start + 16].numpy().tobytes()
            for key in source.keys("train")
            for track in source.clip(key).tracks
            for start in range(33)
        }
        for source in data.opened
    ]
    drawn = []
    for batch in data.train_dataloader():
        own = [crops.numpy().tobytes() for crops in batch.crops[:6]]
        [of] = [index for index, known in enumerate(windows) if set(own) <= known]
        drawn.append(of)
    assert set(drawn) == {0, 1}


def test_faces_that_are_alone_in_the_frame_talk_though_there_are_several(tmp_path):
    # One person, whom a cut divides into two tracks, and a third track beside the end of the second.
    crops, sound = talk(1, frames=100)
    tracks = [(0, crops[:40]), (40, crops[40:70]), (68, still(2, 32))]
    source = write_stores(tmp_path, {"train": [(tracks, sound, 0)], "val": [], "test": []})
    data = module(source, batches_per_epoch=20, batch_size=6)
    [found] = data.clips("train")
    assert found.speaker is None and found.talking == (0,)
    apart = write_stores(tmp_path / "apart", {"train": [(tracks[:2], sound, 0)], "val": [], "test": []})
    data = module(apart, batches_per_epoch=20, batch_size=6, max_lag=0)
    [found] = data.clips("train")
    assert found.speaker is None and found.talking == (0, 1)
    places = set()
    for batch in data.train_dataloader():
        assert (batch.kinds[batch.kinds != SILENT] != OTHER_CLIP).all()
        for mouth, heard in zip(batch.crops[:6], batch.sound, strict=True):
            [at] = [i for i in range(85) if torch.equal(crops[i : i + 16], mouth)]
            assert torch.equal(sound[4 * at : 4 * at + 64], heard)
            places.add(at)
    assert any(at + 16 <= 40 for at in places) and any(at >= 40 for at in places)
    assert not any(at < 40 < at + 16 for at in places)  # no window goes across the cut


def test_validation_leaves_out_sources_that_only_add_to_the_training(source):
    sources = [LipSyncSource(**source, validate=False), LipSyncSource(**source)]
    both = LipSyncDataModule(sources, window=16)
    both.setup()
    assert len(both.val_dataloader().dataset) == 2 and len(both.test_dataloader().dataset) == 3
    assert len(both.predict_dataloader().dataset) == 2 * 10
    none = LipSyncDataModule(sources[:1], window=16)
    none.setup()
    assert len(none.val_dataloader().dataset) == 0
