"""The rendered corpus: real clips that depend on the seed alone, heads that talk, and a truth that is true."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest

av = pytest.importorskip("av", reason="rendering needs PyAV")
pytest.importorskip("cv2", reason="rendering needs OpenCV")
pytest.importorskip("skimage", reason="the photograph is in scikit-image")

import numpy as np  # noqa: E402
from scipy.signal import correlate  # noqa: E402

from merc.cli import main  # noqa: E402
from merc.conversation import Corpus, CorpusError  # noqa: E402
from merc.corpora.rendered import RenderConfig, render, silent_heads, talking_heads  # noqa: E402
from merc.corpora.rendered.clips import draw_take, sound_of  # noqa: E402
from merc.corpora.rendered.faces import Face, Look  # noqa: E402
from merc.corpora.rendered.plan import plan_dialogue  # noqa: E402
from merc.corpora.rendered.scene import IDLES, Actor, movement  # noqa: E402
from merc.corpora.rendered.speech import CONSONANTS, VOWELS, Manner, Voice, speak, utter  # noqa: E402
from merc.corpora.rendered.words import sentence  # noqa: E402
from merc.labels import MELD  # noqa: E402
from merc.media import FRAME_RATE, SAMPLE_RATE, rows_to_tracks  # noqa: E402
from merc.speaker import NOBODY, SpeakerChoice  # noqa: E402
from merc.store import FeatureStore  # noqa: E402

TINY = RenderConfig(
    dialogues={"train": 1, "test": 1},
    people={"train": 3, "test": 3},
    utterances=(2, 2),
    seconds=(0.6, 0.9),
    cast=(2, 3),
    width=160,
    height=120,
    cut=1.0,
)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    out = tmp_path_factory.mktemp("rendered")
    return out, render(out, TINY, workers=0, progress=False)


def decode(path):
    """All frames (T, H, W, 3) and all sound (S,) of a clip."""
    with av.open(path) as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(path) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    return frames, sound


def test_the_corpus_is_as_planned(rendered):
    out, corpus = rendered
    loaded = Corpus.load(out / "corpus.json")
    assert loaded == corpus
    assert set(loaded) == {"train", "test"}
    people = {split: {u.speaker for c in loaded[split] for u in c.utterances} for split in loaded}
    assert not people["train"] & people["test"]
    for split, conversations in loaded.items():
        for conversation in conversations:
            takes = plan_dialogue(TINY, split, int(conversation.id))
            assert [take.text for take in takes] == [u.text for u in conversation.utterances]
            assert [take.emotion for take in takes] == [u.label for u in conversation.utterances]


def test_clips_show_and_say_what_was_planned(rendered):
    out, corpus = rendered
    conversation = corpus["train"][0]
    for take, utterance in zip(plan_dialogue(TINY, "train", 0), conversation.utterances, strict=True):
        frames, sound = decode(utterance.media)
        assert frames.shape == (take.frames, TINY.height, TINY.width, 3)
        assert out in (out / utterance.media).parents
        planned = np.stack(list(draw_take(TINY, take)))
        assert np.abs(frames.astype(float) - planned).mean() < 8  # what is lost in compression
        said = sound_of(TINY, take)
        assert len(said) == take.frames * SAMPLE_RATE // FRAME_RATE
        assert 0 <= len(sound) - len(said) < 1024  # AAC has whole frames
        lag = correlate(sound[: len(said)], said).argmax() - (len(said) - 1)
        assert abs(lag) <= 1


def test_the_truth(rendered):
    out, corpus = rendered
    faces, speaker = FeatureStore(out / "truth/faces"), FeatureStore(out / "truth/speaker")
    people = json.loads((out / "truth/tracks.json").read_text())
    assert (faces.kind, speaker.kind) == ("faces", "speaker")
    assert faces.corpus == speaker.corpus == corpus.digest
    for conversation in (*corpus["train"], *corpus["test"]):
        chosen, _ = speaker.gather(conversation.keys)
        for key, utterance, row in zip(conversation.keys, conversation.utterances, chosen, strict=True):
            tracks, known = rows_to_tracks(faces.sequence(key)), people[str(key)]
            frames = len(decode(utterance.media)[0])
            assert min(track.first for track in tracks) == 0
            assert max(track.end for track in tracks) == frames
            for track, person in zip(tracks, known, strict=True):
                assert (track.first, len(track)) == (person["first"], person["frames"])
                assert person["speaks"] == (person["person"] == utterance.speaker)
                if person["speaks"]:
                    assert person["emotion"] == utterance.label
                x1, y1, x2, y2 = track.boxes.T
                assert (x1 < x2).all() and (y1 < y2).all()
                assert (track.boxes >= 0).all() and (x2 <= TINY.width).all() and (y2 <= TINY.height).all()
            longest = max((person["frames"] for person in known if person["speaks"]), default=0)
            choice = SpeakerChoice.from_row(row)
            if choice.track == NOBODY:
                assert longest == 0 and choice.coverage == 0
            else:
                assert known[choice.track]["speaks"]
                assert known[choice.track]["frames"] == longest
                assert choice.coverage == pytest.approx(longest / frames)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_clips_with_workers(rendered, tmp_path):
    _, corpus = rendered
    again = render(tmp_path, TINY, workers=2, progress=False)
    for one, other in zip(corpus["test"][0].utterances, again["test"][0].utterances, strict=True):
        assert one.media != other.media
        for a, b in zip(decode(one.media), decode(other.media), strict=True):
            assert np.array_equal(a, b)
    store = FeatureStore(tmp_path / "truth/faces")
    for key in again["test"][0].keys:
        assert store.sequence(key).equal(FeatureStore(rendered[0] / "truth/faces").sequence(key))


def test_another_seed_gives_other_people():
    one, other = (plan_dialogue(dataclasses.replace(TINY, seed=seed), "train", 0) for seed in (0, 1))
    first, second = (takes[0].shots[0].actors[0].face for takes in (one, other))
    assert not np.array_equal(first.texture, second.texture)


def test_splits_have_dialogues_of_their_own_whatever_their_sizes():
    larger = dataclasses.replace(
        TINY, dialogues={"train": 5, "val": 1, "test": 1}, people={"train": 3, "val": 3, "test": 3}
    )
    assert [t.text for t in plan_dialogue(larger, "test", 0)] == [t.text for t in plan_dialogue(TINY, "test", 0)]


def test_a_render_goes_on_where_it_was(rendered, tmp_path):
    out, corpus = rendered
    render(tmp_path, TINY, workers=0, progress=False)
    gone, kept = (
        c.utterances[0].media.replace(str(out), str(tmp_path)) for c in (corpus["train"][0], corpus["test"][0])
    )
    os.unlink(gone)
    cut = tmp_path / "clips/train/.dia0_utt0.mp4.abcd1234.tmp"
    cut.write_bytes(b"half a clip")
    before = os.stat(kept).st_mtime_ns
    render(tmp_path, TINY, workers=0, progress=False)
    assert os.stat(kept).st_mtime_ns == before
    assert not cut.exists()
    for a, b in zip(decode(gone), decode(corpus["train"][0].utterances[0].media), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.skipif(os.name != "posix", reason="kills a process group")
def test_a_killed_render_leaves_nothing_damaged(rendered, tmp_path):
    out, _ = rendered
    fields = {f.name: getattr(TINY, f.name) for f in dataclasses.fields(TINY)}
    script = (
        f"from merc.corpora.rendered import render\nrender({str(tmp_path)!r}, workers=0, progress=False, **{fields!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    clips, deadline = tmp_path / "clips", time.monotonic() + 60
    while not list(clips.rglob("*.mp4")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for clip in clips.rglob("dia*.mp4"):
        decode(str(clip))
    corpus = render(tmp_path, TINY, workers=0, progress=False)
    for conversation in (*corpus["train"], *corpus["test"]):
        for utterance in conversation.utterances:
            whole = utterance.media.replace(str(tmp_path), str(out))
            assert np.array_equal(decode(utterance.media)[0], decode(whole)[0])


def test_a_folder_has_one_render(rendered):
    with pytest.raises(CorpusError, match="other parameters"):
        render(rendered[0], TINY, workers=0, progress=False, seed=5)
    assert Corpus.load(rendered[0] / "corpus.json")  # and what was there is still whole


def test_the_command(tmp_path, capsys, rendered):
    arguments = ["import", "rendered", "--out", str(tmp_path), "--workers", "0", "--dialogues", '{"test": 1}']
    arguments += ["--people", '{"test": 2}', "--utterances", "[1, 1]", "--seconds", "[0.5, 0.5]", "--cast", "[1, 2]"]
    arguments += ["--width", "128", "--height", "96", "--seed", "4"]
    assert main(arguments) == 0
    corpus = Corpus.load(tmp_path / "corpus.json")
    assert len(corpus["test"]) == 1
    assert "seed 4" in corpus.protocol
    assert "rendered" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dialogues": {}}, "at least one split"),
        ({"dialogues": {"dev": 3}}, "train, val or test"),
        ({"people": {"train": 1, "test": 3}}, "largest cast"),
        ({"utterances": (3, 2)}, "fewest"),
        ({"seconds": (0.1, 1.0)}, "seconds"),
        ({"cast": (1, 5)}, "cast"),
        ({"width": 161}, "even"),
        ({"height": 50}, "height"),
        ({"cut": 1.5}, "probability"),
        ({"emotions": {"bored": 1.0}}, "frequencies"),
        ({"emotions": {"joy": 0.0}}, "frequencies"),
        ({"seed": -1}, "negative"),
    ],
)
def test_bad_parameters_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **fields)


def between_the_lips(face, gap):
    """How dark the middle of the mouth is."""
    picture = face.draw((gap, gap, 0, 0, 0, 0, 0))[..., :3].astype(float)
    x, y = round(face._upper.centre), face._upper.corners
    return picture[round(y) : round(y + 26), x - 8 : x + 8].mean(axis=(1, 2)).min()


@pytest.mark.parametrize("seed", range(4))
def test_a_mouth_opens(seed):
    face = Face(Look.draw(np.random.default_rng(seed)))
    closed, opened = between_the_lips(face, 0.0), between_the_lips(face, 0.9)
    assert opened < 0.75 * closed
    rest, round_ = (face.draw((0.3, 0.2, width, 0, 0, 0, 0)).astype(int) for width in (0, -1))
    assert np.abs(rest - round_).max() > 25
    upper_half = slice(0, round(face._nose) - 5)
    assert np.array_equal(face.draw((0,) * 7)[upper_half], face.draw((0.9, 0.9, 0, 0, 0, 0, 0))[upper_half])


@pytest.mark.parametrize("seed", range(4))
def test_eyes_close_and_brows_rise(seed):
    face = Face(Look.draw(np.random.default_rng(seed)))
    upper, lower, brow = face._eyes[0]
    open_, shut = (face.draw((0, 0, 0, 0, 0, 0, lid))[..., :3].astype(float) for lid in (0.0, 1.0))
    eye = (slice(round(upper.corners + upper.rise) + 3, round(upper.corners + lower.rise) - 2), round(upper.centre))
    assert shut[eye].std(axis=0).mean() < open_[eye].std(axis=0).mean()  # skin is smoother than an eye
    raised = face.draw((0, 0, 0, 0, 1.0, 0, 0))[..., :3].astype(float)
    band = (slice(round(brow) - 8, round(brow) + 4), slice(round(upper.centre) - 6, round(upper.centre) + 6))
    assert raised[band].mean((1, 2)).argmin() < open_[band].mean((1, 2)).argmin()


def test_looks_differ():
    textures = [Face(Look.draw(np.random.default_rng(seed))).texture.astype(float) for seed in range(5)]
    for i, one in enumerate(textures):
        for other in textures[:i]:
            assert np.abs(one - other)[..., :3].mean() > 8


def test_boxes_move_with_the_head():
    rng = np.random.default_rng(0)
    face = Face(Look.draw(rng))
    pose = movement(30, (80, 60), 50, 1.0, rng)
    pose[:, 3:] = 0
    boxes = Actor(face, None, pose).boxes()
    assert (boxes[:, :2] + boxes[:, 2:]) / 2 == pytest.approx(pose[:, :2], abs=1e-3)
    assert boxes[:, 3] - boxes[:, 1] == pytest.approx(pose[:, 2], abs=1e-3)


def test_lips_close_for_closures_and_open_for_vowels(monkeypatch):
    from merc.corpora.rendered import speech

    monkeypatch.setattr(speech, "CONSONANTS", {name: CONSONANTS["b"] for name in CONSONANTS})
    monkeypatch.setattr(speech, "VOWELS", {"a": VOWELS["a"]})
    rng = np.random.default_rng(0)
    voice = dataclasses.replace(Voice.draw(rng), movement=1.0, rate=0.8)
    said = speak(voice, Manner(), 6.0, rng)
    voiced, silent = said.voiced > 0.5, (said.voiced < 0.2) & (said.noise > 0.02)
    assert said.gap[voiced].mean() > 0.5
    assert said.gap[silent].mean() < 0.25
    assert np.corrcoef(said.gap, said.voiced)[0, 1] > 0.5


def test_mouth_and_sound_belong_together_but_not_perfectly():
    rng = np.random.default_rng(1)
    own, other = [], []
    said = [speak(Voice.draw(rng), Manner(), 3.0, rng) for _ in range(12)]
    sounds = [np.abs(utter(s, 48000, rng)).reshape(75, -1).mean(1) for s in said]
    gaps = [s.mouth(np.arange(75) / 25)[0] for s in said]
    for i, sound in enumerate(sounds):
        for j, gap in enumerate(gaps):
            (own if i == j else other).append(np.corrcoef(sound, gap)[0, 1])
    assert 0.3 < np.mean(own) < 0.9
    assert abs(np.mean(other)) < 0.15


def test_voices_have_their_pitch_and_emotions_change_it():
    rng = np.random.default_rng(2)
    voice = dataclasses.replace(Voice.draw(rng), pitch=150.0)
    calm, tense = (
        speak(voice, manner, 3.0, np.random.default_rng(3)) for manner in (Manner(), Manner(pitch=1.4, loudness=6.0))
    )
    assert np.median(tense.pitch) / np.median(calm.pitch) == pytest.approx(1.4, rel=0.01)
    quiet, loud = (utter(s, 48000, np.random.default_rng(4)) for s in (calm, tense))
    assert 20 * np.log10(loud.std() / quiet.std()) == pytest.approx(6.0, abs=0.5)
    middle = quiet[12000:36000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    frequency = np.fft.rfftfreq(len(middle), 1 / 16000)
    assert spectrum[frequency < 4000].sum() > 3 * spectrum[frequency > 4000].sum()


def test_words_tell_the_emotion_mostly():
    rng = np.random.default_rng(0)
    for emotion in MELD.names:
        clear = {sentence(emotion, 1.0, rng) for _ in range(200)}
        others = {sentence(other, 1.0, rng) for other in MELD.names if other != emotion for _ in range(100)}
        assert len(clear) > 10 or emotion == "disgust"
        assert not clear & others
        assert {sentence(emotion, 0.0, rng) for _ in range(200)} - clear


def test_heads_talk_and_keep_silent():
    talking = list(talking_heads(2, 0.8, seed=3, size=96))
    silent = list(silent_heads(4, 0.8, seed=3, size=96))
    assert [head.mouth for head in silent] == list(IDLES)
    assert talking[0].person == silent[0].person != talking[1].person
    for head in (*talking, *silent):
        assert head.frames.shape == (20, 3, 96, 96)
        assert str(head.frames.dtype) == "torch.uint8"
        assert head.sound.shape == (20 * SAMPLE_RATE // FRAME_RATE,)
        assert head.boxes.shape == (20, 4)
        assert head.sound.abs().max() <= 1
    assert min(head.sound.std() for head in talking) > 3 * max(head.sound.std() for head in silent)
    again = next(iter(talking_heads(1, 0.8, seed=3, size=96)))
    assert again.frames.equal(talking[0].frames)
    assert again.sound.equal(talking[0].sound)
    assert {head.person for head in talking_heads(3, 0.5, people=2, size=96)} == {"0/head0", "0/head1"}


def test_detectors_find_the_faces():
    pytest.importorskip("facenet_pytorch", reason="the detector needs facenet-pytorch")
    from facenet_pytorch import MTCNN

    detector = MTCNN(min_face_size=40)
    for head in talking_heads(3, 0.5, seed=9, size=128):
        found, _ = detector.detect(head.frames[5].permute(1, 2, 0).numpy())
        assert found is not None
        x1, y1, x2, y2 = np.split(np.stack([found[0], head.boxes[5].numpy()]), 4, axis=1)
        shared = max(x2.min() - x1.max(), 0) * max(y2.min() - y1.max(), 0)
        both = ((x2 - x1) * (y2 - y1)).sum() - shared
        assert shared / both > 0.5
