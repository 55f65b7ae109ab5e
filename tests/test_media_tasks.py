"""Faces, sound and pictures of clips into stores, as users run them: resumed, killed, spread, with broken clips."""

import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")
pytest.importorskip("torchaudio", reason="log-mel needs torchaudio: pip install 'merc[media]'")

from merc.callbacks import StoreWriterCallback
from merc.conversation import Corpus, UtteranceKey
from merc.datamodules import FaceReader, MediaDataModule, SoundReader, TrackReader
from merc.datamodules.media import batches_of_seconds
from merc.media import FRAME_RATE, MEL_RATE, SAMPLE_RATE, read_frames, read_sound
from merc.media.crops import crop_faces
from merc.media.tracker import FaceTracker
from merc.media.tracks import FaceTrack, rows_to_tracks, tracks_to_rows
from merc.speaker import SpeakerChoice
from merc.store import MANIFEST, FeatureStore, StoreError
from merc.tasks import ExtractTask, FacesTask
from support.quiet_trainer import trainer_in
from support.tiny_clips import GREEN, RED, Colour, Loudness, SquareDetector, clips_corpus

BROKEN = {name: UtteranceKey("test", "broken", name) for name in ("deaf", "blind", "empty", "part")}
ALL = ("faces", "crops", "sound")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    made = clips_corpus(folder)
    made.save(folder / "corpus.json")
    return made


def all_of(corpus):
    return {key: u for split in corpus.values() for c in split for key, u in zip(c.keys, c.utterances, strict=True)}


def tracker():
    return FaceTracker(SquareDetector(), every=4, min_seconds=0.2)


def predict(folder, task, reader, corpus, outputs, callbacks=(), **options):
    options = {"workers": 0, "batch_seconds": 4.0, **options}
    data = MediaDataModule(corpus, reader, **options)
    writer = StoreWriterCallback({kind: str(folder / kind) for kind in outputs}, shard_rows=6)
    trainer_in(folder, *callbacks, writer).predict(task, datamodule=data, return_predictions=False)
    return [FeatureStore(folder / kind) for kind in outputs]


@pytest.fixture(scope="module")
def tracked(corpus, tmp_path_factory):
    """The stores faces, crops and sound of the corpus."""
    folder = tmp_path_factory.mktemp("tracked")
    predict(
        folder, FacesTask(), TrackReader(tracker(), crop_size=16), corpus, ("faces", "crops", "sound"), batch_size=1
    )
    return folder


def same(first, second):
    """Whether two stores hold the same, bit for bit, in whatever order and shards."""
    assert sorted(first.keys) == sorted(second.keys) and first.missing == second.missing
    assert (first.kind, first.dim, first.dtype) == (second.kind, second.dim, second.dtype)
    assert first.provenance == second.provenance
    return all(torch.equal(first.sequence(key), second.sequence(key)) for key in first.keys)


# --- what is written


def test_faces_crops_and_sound_of_every_clip(corpus, tracked):
    faces, crops, sound = (FeatureStore(tracked / kind) for kind in ALL)
    assert (faces.dim, crops.dim, crops.dtype, sound.dim) == (7, 256, torch.uint8, 80)
    for key, utterance in all_of(corpus).items():
        if key.dialogue == "broken":
            continue
        red, green = rows_to_tracks(faces.sequence(key))
        frames = round(utterance.end * FRAME_RATE)
        assert (red.first, len(red), green.first, len(green)) == (0, frames, 0, frames)
        assert float((red.boxes.mean(0) - torch.tensor([6.5, 8, 26.5, 28])).abs().max()) < 2
        assert len(crops.sequence(key)) == len(red) + len(green)
        assert len(sound.sequence(key)) == pytest.approx(MEL_RATE * utterance.end, abs=12)  # AAC pads
    assert faces.provenance["detector"] == "squares" and faces.provenance["crop_size"] == 16


def test_of_a_broken_clip_there_is_what_there_is_and_why_not_the_rest(tracked):
    faces, crops, sound = (FeatureStore(tracked / kind) for kind in ALL)
    assert faces.missing == crops.missing
    assert {key.utterance: reason for key, reason in faces.missing.items()} == {
        "none": "no file with video",
        "text": "not media or damaged header",
        "gone": "no such file",
        "blind": "no video",
    }
    assert {key.utterance: reason for key, reason in sound.missing.items()} == {
        "none": "no file with sound",
        "text": "not media or damaged header",
        "gone": "no such file",
        "deaf": "no sound",
    }
    assert len(rows_to_tracks(faces.sequence(BROKEN["deaf"]))) == 2
    assert len(sound.sequence(BROKEN["blind"])) > 70
    assert faces.sequence(BROKEN["empty"]).shape == (0, 7) and crops.sequence(BROKEN["empty"]).shape == (0, 256)
    [part] = rows_to_tracks(faces.sequence(BROKEN["part"]))  # of the half that its region shows, in its time
    assert len(part) == 20 and part.boxes[:, 2].max() < 32


def test_a_clip_too_large_to_hold_is_decoded_twice_with_the_same_result(corpus, tracked, tmp_path):
    small = Corpus("clips", corpus.labels, {"val": corpus["val"]})
    reader = TrackReader(tracker(), crop_size=16, held_bytes=1000)
    stores = predict(tmp_path, FacesTask(), reader, small, ("faces", "crops"))
    for store in stores:
        whole = FeatureStore(tracked / store.kind)
        assert all(torch.equal(store.sequence(key), whole.sequence(key)) for key in small["val"][0].keys)


def test_sound_is_encoded_as_it_is_alone(corpus, tmp_path):
    [store] = predict(tmp_path, ExtractTask(Loudness()), SoundReader(), corpus, ["features"])
    assert {key.utterance for key in store.missing} == {"none", "text", "gone", "deaf"}
    for key, utterance in all_of(corpus).items():
        if key not in store.missing:
            samples = read_sound(utterance.sound)
            torch.testing.assert_close(
                store[key], torch.stack([samples.abs().mean(), torch.tensor(len(samples) / SAMPLE_RATE)])
            )
    assert store.provenance["encoder"] == "loudness" and store.provenance["max_seconds"] == 60.0


def test_no_more_than_the_beginning_of_a_clip_is_read(corpus, tmp_path):
    short, long = (
        predict(tmp_path / str(most), ExtractTask(Loudness()), SoundReader(most), corpus, ["features"])[0]
        for most in (0.5, 60.0)
    )
    for key in short.keys:
        assert short[key][1] == pytest.approx(min(0.5, float(long[key][1])))


def choice(folder, corpus, track):
    keys = list(all_of(corpus))
    rows = SpeakerChoice(track, 1.0, 1.0, 1.0).to_row().expand(len(keys), -1)
    return FeatureStore.write(folder, keys, rows, kind="speaker")


@pytest.mark.parametrize("chosen", [RED, GREEN, "first"])
def test_the_face_of_the_speaker_is_encoded(corpus, tracked, tmp_path, chosen):
    speaker = chosen if chosen == "first" else choice(tmp_path / "speaker", corpus, chosen).path
    reader = FaceReader(tracked / "faces", speaker)
    [store] = predict(tmp_path, ExtractTask(Colour()), reader, corpus, ["features"], batch_size=3)
    expected = {"none": "no file with video", "text": "not media or damaged header", "gone": "no such file"}
    expected |= {"blind": "no video", "empty": "speaker not visible"}
    if chosen == GREEN:
        expected["part"] = "speaker not visible"  # it has one track
    assert {key.utterance: reason for key, reason in store.missing.items()} == expected
    face = RED if chosen == "first" else chosen  # the first is the larger one
    for key in store.keys:
        if key.dialogue != "broken":
            colours = store[key][:3]
            assert colours[face] > 3 * colours[1 - face], key
            assert store[key][3] == 5
    assert store.provenance["speaker"] == (chosen if chosen == "first" else FeatureStore(speaker).digest)


def test_pictures_are_spread_over_the_time_in_which_the_face_is_visible(corpus, tracked):
    reader = FaceReader(tracked / "faces", frames=4, size=16)
    reader.prepare(L.LightningModule())
    key, utterance = next(iter(all_of(corpus).items()))
    found = reader.read(key, utterance)
    track = rows_to_tracks(reader.faces.sequence(key))[0]
    [frames] = read_frames(utterance.picture)
    length = len(track)
    places = [length // 8, 3 * length // 8, 5 * length // 8, 7 * length // 8]
    assert torch.equal(found, crop_faces(frames.images[places], track.boxes[places], 16))
    reader.frames = 100
    assert len(reader.read(key, utterance)) == length, "a short clip gives what it has"


def test_nobody_and_stores_that_do_not_fit(corpus, tracked, tmp_path):
    nobody = choice(tmp_path / "nobody", corpus, -1).path
    [store] = predict(tmp_path, ExtractTask(Colour()), FaceReader(tracked / "faces", nobody), corpus, ["features"])
    assert not len(store) and store.missing[UtteranceKey("train", "0", "0")] == "speaker not visible"
    for stores, message in (
        ((tracked / "sound", "first"), "holds sound, expected faces"),
        ((tracked / "faces", tracked / "faces"), "holds faces, expected speaker"),
    ):
        with pytest.raises(StoreError, match=message):
            FaceReader(*stores).prepare(ExtractTask(Colour()))
    with pytest.raises(ValueError, match="Loudness does not tell: give frames and size"):
        FaceReader(tracked / "faces").prepare(ExtractTask(Loudness()))
    other = Corpus("clips", corpus.labels, {"train": corpus["train"]})
    shorter = FeatureStore.write(
        tmp_path / "shorter",
        [UtteranceKey("train", "0", "0")],
        tracks_to_rows([FaceTrack(900, torch.tensor([[1.0, 1, 9, 9]]), 1.0)]),
        kind="faces",
        lengths=[1],
    )
    [store] = predict(tmp_path / "other", ExtractTask(Colour()), FaceReader(shorter.path), other, ["features"])
    assert store.missing[UtteranceKey("train", "0", "0")] == "faces of another clip"
    assert store.missing[UtteranceKey("train", "0", "1")] == "not in the store"


def test_worker_processes_give_the_same(corpus, tmp_path):
    alone, helped = (
        predict(tmp_path / str(n), ExtractTask(Loudness()), SoundReader(), corpus, ["features"], workers=n)[0]
        for n in (0, 2)
    )
    assert same(alone, helped)


class Defect(SoundReader):
    """Cannot read some clips, for a reason that nobody has foreseen."""

    def __init__(self, *errors):
        super().__init__()
        self.errors = dict(zip(("3", "5"), errors, strict=False))

    def seconds(self, utterance):
        if utterance.id in self.errors:
            raise ArithmeticError("not even its length is known")
        return super().seconds(utterance)

    def read(self, key, utterance):
        if key[:2] == ("val", "0") and key.utterance in self.errors:
            raise self.errors[key.utterance]
        return super().read(key, utterance)


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_clip_that_fails_is_recorded_and_stops_nothing(corpus, tmp_path, batch_size):
    val = Corpus("clips", corpus.labels, {"val": corpus["val"]})
    reader = Defect(ZeroDivisionError("a defect\nof ours"), ZeroDivisionError("another"))
    with pytest.warns(UserWarning, match="could not be read") as caught:
        [store] = predict(
            tmp_path, ExtractTask(Loudness()), reader, val, ["features"], batch_size=batch_size, batch_seconds=99.0
        )
    assert store.missing == {
        UtteranceKey("val", "0", "3"): "ZeroDivisionError: a defect of ours",
        UtteranceKey("val", "0", "5"): "ZeroDivisionError: another",
    }
    assert len(store) == len(val["val"][0].utterances) - 2
    [warning] = [str(one.message) for one in caught if "could not be read" in str(one.message)]
    assert "val/0/3" in warning or "val/0/5" in warning
    assert "raise self.errors[key.utterance]" in warning and "ZeroDivisionError" in warning


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError("no room"), torch.OutOfMemoryError("no room")])
def test_what_is_no_fault_of_the_clip_stops_the_run(corpus, tmp_path, error):
    with pytest.raises((KeyboardInterrupt, SystemExit, MemoryError, torch.OutOfMemoryError)):
        predict(tmp_path, ExtractTask(Loudness()), Defect(error), corpus, ["features"])
    assert not (tmp_path / "features" / MANIFEST).exists()


def test_faces_that_cannot_be_tracked_are_recorded_in_all_stores(corpus, tmp_path):
    class Broken(SquareDetector):
        def __call__(self, images):
            raise IndexError("no such face")

    val = Corpus("clips", corpus.labels, {"val": corpus["val"]})
    reader = TrackReader(FaceTracker(Broken(), every=4), crop_size=16)
    with pytest.warns(UserWarning, match="could not be read"):
        stores = predict(tmp_path, FacesTask(), reader, val, ALL, batch_size=1)
    for store in stores:
        assert store.missing == dict.fromkeys(val["val"][0].keys, "IndexError: no such face") and not len(store)


@given(
    seconds=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.25, 90.0]), max_size=40),
    budget=st.floats(0.1, 100),
    most=st.integers(1, 9),
)
def test_batches_of_seconds(seconds, budget, most):
    batches = batches_of_seconds(seconds, budget, most)
    assert sorted(index for batch in batches for index in batch) == list(range(len(seconds)))
    for batch in batches:
        assert len(batch) <= most
        assert len(batch) == 1 or len(batch) * max(seconds[index] for index in batch) <= budget
    longest = [max(seconds[index] for index in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)


# --- what was cut goes on


class Count(L.Callback):
    def __init__(self):
        self.batches = 0

    def on_predict_batch_end(self, trainer, task, outputs, batch, index, dataloader_idx=0):
        self.batches += 1


class Cut(L.Callback):
    def on_predict_batch_start(self, trainer, task, batch, index, dataloader_idx=0):
        if index == 5:
            raise RuntimeError("pulled the plug")


def test_a_cut_run_goes_on_and_a_mended_clip_is_found(corpus, tmp_path):
    clip = tmp_path / "late.mp4"
    turns = [*corpus["val"][0].utterances, *corpus["test"][1].utterances]
    turns[3] = type(turns[3])("late", "A", start=0.0, end=0.6, media=str(clip))
    small = Corpus("clips", corpus.labels, {"val": [type(corpus["val"][0])("0", tuple(turns), "val")]})

    def run(folder, *callbacks):
        return predict(folder, ExtractTask(Loudness()), SoundReader(), small, ["features"], callbacks, batch_size=2)[0]

    with pytest.raises(RuntimeError, match="pulled"):
        run(tmp_path / "cut", Cut())
    whole, rest, mended = Count(), Count(), Count()
    run(tmp_path / "whole", whole)
    store = run(tmp_path / "cut", rest)
    assert rest.batches == whole.batches - 5, "batches with broken clips are settled too"
    assert (
        same(store, FeatureStore(tmp_path / "whole/features")) and store.missing[("val", "0", "late")] == "no such file"
    )
    clip.write_bytes(Path(turns[0].media).read_bytes())
    assert ("val", "0", "late") in run(tmp_path / "cut", mended)
    assert 0 < mended.batches < whole.batches, "batches without missing clips are not read again"


SCRIPT = textwrap.dedent("""
    import os, sys
    import lightning as L
    from support.killing import die_at
    from support.tiny_clips import SquareDetector
    from merc.callbacks import StoreWriterCallback
    from merc.datamodules import MediaDataModule, TrackReader
    from merc.media.tracker import FaceTracker
    from merc.tasks import FacesTask

    def extract(corpus, out, devices=1, **options):
        reader = TrackReader(FaceTracker(SquareDetector(), every=4, min_seconds=0.2), crop_size=16)
        outputs = {kind: f"{out}/{kind}" for kind in ("faces", "crops", "sound")}
        L.Trainer(
            accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            callbacks=[StoreWriterCallback(outputs, shard_bytes=9000)],
        ).predict(
            FacesTask(), datamodule=MediaDataModule(corpus, reader, batch_size=1, workers=0, **options),
            return_predictions=False,
        )

    def serve(corpus):
        for line in sys.stdin:
            moment, out = line.strip().split(" ", 1)
            answer, ask = os.pipe()
            child = os.fork()
            if child == 0:
                lines = die_at(int(moment) or None, "merc/store/writer.py", "merc/files.py", "merc/callbacks.py")
                extract(corpus, out, predict_splits=["val"])
                os.write(ask, str(lines()).encode())
                os._exit(0)
            os.close(ask)
            status = os.waitpid(child, 0)[1]
            print(status, os.read(answer, 20).decode() or 0, flush=True)
            os.close(answer)

    if sys.argv[2] == "serve":
        serve(sys.argv[1])
    else:
        extract(sys.argv[1], sys.argv[2], devices=2)
""")


@pytest.fixture
def start(corpus, tmp_path):
    """Starts a process that extracts the corpus into a folder, or some of it into one folder after another."""
    script = tmp_path / "extract.py"
    script.write_text(SCRIPT)
    clips = Path(corpus["train"][0].utterances[0].media).parent
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"}

    def started(out, **pipes):
        command = [sys.executable, str(script), str(clips / "corpus.json"), str(out)]
        return subprocess.Popen(command, env=environment, text=True, **pipes)

    return started


@pytest.mark.parametrize("times", [5, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork to start many extractions quickly")
def test_an_extraction_killed_many_times_equals_an_uncut_one(times, start, tmp_path):
    with start("serve", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:

        def shards(folder):
            return len(list(folder.glob("*/shard-*")))

        def extract_until(moment, out):
            process.stdin.write(f"{moment} {out}\n")
            process.stdin.flush()
            return [int(answer) for answer in process.stdout.readline().split()]

        status, lines = extract_until(0, tmp_path / "whole")
        assert status == 0
        moments, targets, cut = random.Random(0), [tmp_path / "killed0"], 0
        for attempt in range(times):
            if all((targets[-1] / kind / MANIFEST).exists() for kind in ALL):
                targets.append(tmp_path / f"killed{attempt}")
            status, _ = extract_until(moments.randint(1, lines), targets[-1])
            cut += status == signal.SIGKILL and shards(targets[-1]) > 0
        assert cut >= times // 4, "too few kills fell into the work to show anything"
        for target in targets:
            assert extract_until(0, target)[0] == 0
        process.stdin.close()
    for target in targets:
        for kind in ALL:
            assert same(FeatureStore(target / kind), FeatureStore(tmp_path / "whole" / kind))
            kept = {shard["file"] for shard in FeatureStore(target / kind).manifest["shards"]}
            assert {file.name for file in (target / kind).glob("[!.]*")} == {*kept, MANIFEST}


@pytest.mark.slow
def test_two_processes_write_the_store_of_one(start, tracked, tmp_path):
    process = start(tmp_path / "out", stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    for kind in ALL:
        store = FeatureStore(tmp_path / "out" / kind)
        assert same(store, FeatureStore(tracked / kind))
        kept = {shard["file"] for shard in store.manifest["shards"]}
        assert len(kept) > 2 and {file.name for file in store.path.glob("[!.]*")} == {*kept, MANIFEST}
