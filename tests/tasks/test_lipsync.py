"""LipSyncNet learns synchrony, is calibrated on validation, and writes who speaks."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from merc.callbacks import StoreWriterCallback
from merc.conversation import UtteranceKey
from merc.datamodules import LipSyncDataModule, LipSyncSource
from merc.losses import SyncLoss
from merc.speaker import (
    NOBODY,
    SPEAKER_COLUMNS,
    LipSyncNet,
    SpeakerChoice,
    SyncAugmentation,
    SyncScorer,
    rows_to_spans,
    save_lipsync,
)
from merc.store import FeatureStore, StoreWriter
from merc.tasks import LipSyncTask
from support.quiet_trainer import trainer_in
from support.read_off import ReadOff, heard, like, mouths, signal
from support.tiny_lips import SIZE, still, talk, write_stores


def beside(talker, other, sound, speaker):
    """A clip with a talking face at place ``speaker`` of two."""
    faces = [other, talker] if speaker else [talker, other]
    return [(0, crops) for crops in faces], sound, speaker


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lips")

    def clip(seed):
        crops, sound = talk(seed)
        return [(0, crops)], sound, 0

    test = []
    for seed in range(300, 312):
        crops, sound = talk(seed)
        test.append(beside(crops, still(seed + 50) if seed % 2 else talk(seed + 70)[0], sound, seed // 2 % 2))
    silent = [(0, still(400)), (0, still(401))], talk(402)[1], -1
    nobody = [], talk(403)[1], -1
    splits = {
        "train": [clip(seed) for seed in range(40)],
        "val": [clip(seed) for seed in range(200, 210)],
        "test": [*test, silent, nobody],
    }
    return write_stores(folder, splits), folder


def network():
    return LipSyncNet(size=SIZE, width=6, hidden=32, dropout=0.0)


def task(**options):
    return LipSyncTask(network(), loss=SyncLoss(contrast=1.0), augment=SyncAugmentation(), pair_frames=48, **options)


@pytest.fixture(scope="module")
def trained(stores, tmp_path_factory):
    source, folder = stores
    L.seed_everything(0)
    torch.set_num_threads(1)
    best = ModelCheckpoint(monitor="val/pair_loss", dirpath=tmp_path_factory.mktemp("checkpoints"))
    trainer = trainer_in(folder, best, epochs=4)
    model = task()
    data = LipSyncDataModule([LipSyncSource(**source)], window=24, batch_size=12, batches_per_epoch=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model.scorer), "enough", 5)
        trainer.fit(model, datamodule=data)
    return model, trainer.callback_metrics, best.best_model_path


def known(stores):
    source, folder = stores
    return LipSyncDataModule([LipSyncSource(**source, speaker=str(folder / "speaker"))])


def choices(store):
    return {key: SpeakerChoice.from_row(store[key]) for key in store.keys}


def test_own_lips_win_over_others_and_over_still_ones(trained):
    _, metrics, _ = trained
    assert metrics["val/pair_accuracy"] > 0.9
    assert metrics["val/still_accuracy"] == 1
    assert {"train/rank", "train/align", "train/contrast", "train/activity", "val/pair_loss"} <= metrics.keys()


def test_the_speaker_is_chosen_better_than_by_the_first_face(trained, stores, tmp_path):
    model, _, _ = trained
    [scores] = trainer_in(tmp_path).test(model, datamodule=known(stores), verbose=False)
    assert scores["test/choice_accuracy"] > 0.8 > scores["test/first_face_accuracy"]


def test_the_calibration_comes_from_validation_and_travels_in_the_checkpoint(trained):
    model, _, path = trained
    mean, deviation = model.calibration.tolist()
    assert 0.3 < mean < 1 and 0 < deviation < 0.5
    assert not torch.equal(model.calibration, model.scorer.uncalibrated())
    again = task()
    again.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert not torch.equal(again.calibration, again.scorer.uncalibrated())


def test_prediction_writes_who_speaks(trained, stores, tmp_path):
    model, _, _ = trained
    out = tmp_path / "speaker"
    trainer_in(tmp_path, StoreWriterCallback({"speaker": str(out)})).predict(
        model,
        datamodule=LipSyncDataModule([LipSyncSource(**stores[0])], predict_splits=["test"]),
        return_predictions=False,
    )
    store = FeatureStore(out)
    store.require(kind="speaker", dim=len(SPEAKER_COLUMNS))
    assert store.missing == {UtteranceKey("test", "13", "0"): "no face was found"}
    truth = choices(FeatureStore(stores[1] / "speaker"))
    found = choices(store)
    right = [found[key].track == truth[key].track for key in store.keys[:12]]
    assert sum(right) > 0.8 * len(right)
    assert all((choice.track == NOBODY) == (choice.coverage == 0) for choice in found.values())
    assert store.provenance["trained_on"] == "lips/train"
    assert store.provenance["calibration"] == pytest.approx(model.calibration.tolist())
    assert store.provenance["scorer"]["class"] == "LikelihoodScorer"


def test_a_clip_that_could_not_be_read_keeps_its_reason(trained, stores, tmp_path):
    model, _, _ = trained
    deaf, unknown = (UtteranceKey("test", dialogue, "0") for dialogue in ("0", "1"))
    sound = FeatureStore(stores[0]["sound"])
    with StoreWriter(tmp_path / "sound", kind="sound") as writer:
        for key in sound.keys:
            if key not in (deaf, unknown):
                writer.add([key], sound.sequence(key), [len(sound.sequence(key))])
        writer.skip(deaf, "no audio")
    out = tmp_path / "speaker"
    trainer_in(tmp_path, StoreWriterCallback({"speaker": str(out)})).predict(
        model,
        datamodule=LipSyncDataModule(
            [LipSyncSource(**{**stores[0], "sound": str(tmp_path / "sound")})], predict_splits=["test"]
        ),
        return_predictions=False,
    )
    store = FeatureStore(out)
    assert store.missing[deaf] == "no audio"
    assert store.missing[unknown] == "not in the store"
    assert len(store) + len(store.missing) == 14


def test_nobody_is_chosen_below_the_threshold(stores, tmp_path):
    model = task(scorer=SyncScorer())
    model.calibration.fill_(0.5)  # no score is above 0
    out = tmp_path / "speaker"
    trainer_in(tmp_path, StoreWriterCallback({"speaker": str(out)})).predict(
        model,
        datamodule=LipSyncDataModule([LipSyncSource(**stores[0])], predict_splits=["val"]),
        return_predictions=False,
    )
    assert {choice.track for choice in choices(FeatureStore(out)).values()} == {NOBODY}


def test_crops_of_another_size_are_refused(stores, tmp_path):
    other = LipSyncTask(LipSyncNet(size=32, width=4, hidden=8))
    with pytest.raises(ValueError, match="looks at crops of 32 x 32 pixels, the store has 16 x 16"):
        trainer_in(tmp_path).test(other, datamodule=known(stores), verbose=False)


def test_the_checkpoint_of_another_network_is_refused(trained, stores, tmp_path):
    _, _, path = trained
    other = LipSyncTask(LipSyncNet(size=SIZE, width=4, hidden=8))
    with pytest.raises(ValueError, match="checkpoint is of another model"):
        trainer_in(tmp_path).test(other, datamodule=known(stores), ckpt_path=path, weights_only=True, verbose=False)


def predicted(model, source, tmp_path, *outputs):
    """The stores that a prediction writes."""
    writer = StoreWriterCallback({name: str(tmp_path / f"out/{name}") for name in outputs})
    data = LipSyncDataModule([LipSyncSource(**source)], predict_splits=["test"])
    trainer_in(tmp_path, writer).predict(model, datamodule=data, return_predictions=False)
    return [FeatureStore(tmp_path / f"out/{name}") for name in outputs]


def test_prediction_writes_sounds_in_sync_and_says_what_it_moved(tmp_path):
    def film(seed, late=0, foreign=False):
        voice = signal(seed, 140)
        track = mouths(like(voice, 0.6, seed + 50)[:, 20:120])
        return [(0, track.crops)], heard((signal(seed + 90, 140) if foreign else voice)[:, 20 - late : 120 - late]), -1

    clips = [film(1), film(2, late=5), film(3, late=-4), film(4, foreign=True), ([], film(5)[1], -1)]
    source = write_stores(tmp_path, {"test": clips}, size=4)
    model = LipSyncTask(ReadOff())
    model.calibration.copy_(torch.tensor([0.6, 0.1]))
    with pytest.warns(UserWarning, match="Sounds that did not fit their lips") as told:
        sound, speaker = predicted(model, source, tmp_path, "sound", "speaker")
    [message] = [str(w.message) for w in told if "Sounds that did not fit" in str(w.message)]
    assert message.splitlines()[1:] == [
        "1: its sound was 0.20 s late",
        "2: its sound was 0.16 s early",
        "3: left out, the sound does not fit the lips of the face at any lag",
    ]
    keys = [UtteranceKey("test", str(number), "0") for number in range(5)]
    assert sound.missing == {
        keys[3]: "the sound does not fit the lips of the face at any lag",
        keys[4]: "no face was found",
    }
    assert speaker.missing == {keys[4]: "no face was found"}
    before = FeatureStore(source["sound"])
    assert torch.equal(sound.sequence(keys[0]), before.sequence(keys[0]))
    assert torch.equal(sound.sequence(keys[1])[:380], before.sequence(keys[1])[20:])
    assert torch.equal(sound.sequence(keys[2])[16:], before.sequence(keys[2])[:384])
    # A second training reads this store: what is foreign is no clip of it.
    again = LipSyncDataModule([LipSyncSource(**{**source, "sound": str(sound.path)})])
    again.setup()
    assert [clip.key for clip in again.clips("test")] == keys[:3]


def test_prediction_writes_turns_even_of_clips_in_which_nobody_speaks(tmp_path):
    voices = [signal(seed, 100) for seed in (1, 2)]
    turns = torch.cat([voices[0][:, :50], voices[1][:, 50:]], 1)
    faces = [(0, mouths(voice).crops) for voice in voices]
    source = write_stores(tmp_path, {"test": [(faces, heard(turns), -1), (faces, heard(signal(9, 100)), -1)]}, size=4)
    model = LipSyncTask(ReadOff())
    model.calibration.copy_(torch.tensor([0.6, 0.15]))
    [store] = predicted(model, source, tmp_path, "turns")
    found, none = (rows_to_spans(store.sequence(UtteranceKey("test", name, "0"))) for name in "01")
    assert [span.track for span in found] == [0, 1] and none == []
    assert found[0].end == pytest.approx(2, abs=0.5) and found[1].end == 4


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(1)
    net, folder = network(), tmp_path / "weights"
    save_lipsync(folder, net, torch.tensor([0.45, 0.12]), trained_on="GRID")
    return str(folder), net.state_dict()


def equal(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def test_prediction_without_a_checkpoint_is_by_the_weights_to_start_from(weights, stores, tmp_path):
    folder, state = weights
    model = task(warm_start=folder)
    [store] = predicted(model, stores[0], tmp_path, "speaker")
    assert equal(model.network.state_dict(), state) and model.calibration.tolist() == pytest.approx([0.45, 0.12])
    assert store.provenance["trained_on"] == "GRID"
    assert store.provenance["calibration"] == pytest.approx([0.45, 0.12])


def test_training_starts_from_weights_and_what_it_learned_stays(weights, stores, tmp_path):
    folder, state = weights
    model, starts = task(warm_start=folder), []

    class First(L.Callback):
        def on_train_start(self, trainer, module):
            starts.append({name: value.clone() for name, value in module.network.state_dict().items()})

    best = ModelCheckpoint(tmp_path, "last", save_last=False)
    data = LipSyncDataModule([LipSyncSource(**stores[0])], window=16, batch_size=4, batches_per_epoch=1)
    trainer_in(tmp_path, First(), best, limit_val_batches=0).fit(model, datamodule=data)
    assert equal(starts[0], state) and model.trained_on == "GRID; then lips/train"
    learned = {name: value.clone() for name, value in model.network.state_dict().items()}
    assert not equal(learned, state)
    trainer_in(tmp_path).test(model, datamodule=known(stores), verbose=False)
    assert equal(model.network.state_dict(), learned)
    again = LipSyncTask.load_from_checkpoint(best.best_model_path, weights_only=True)
    predicted(again, stores[0], tmp_path, "speaker")
    assert equal(again.network.state_dict(), learned) and again.trained_on == "GRID; then lips/train"


def test_weights_of_another_network_and_missing_ones_are_refused(weights, stores, tmp_path):
    other = LipSyncTask(LipSyncNet(size=SIZE, width=4, hidden=8), warm_start=weights[0])
    with pytest.raises(ValueError, match=r"are of another network than model\.network, LipSyncNet with these options"):
        predicted(other, stores[0], tmp_path, "speaker")
    with pytest.raises(FileNotFoundError, match="There are no weights 'nothing'"):
        predicted(task(warm_start="nothing"), stores[0], tmp_path, "speaker")
