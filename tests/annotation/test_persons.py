"""The people of a film in annotations: what is read, what is kept, who the networks are told, and what is written."""

import pytest
import torch

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

from merc.annotation import PersonSearch, spoken_lines, with_persons
from merc.annotation import persons as persons_module
from merc.conversation import Clip, Conversation, Corpus, Utterance
from merc.labels import MELD
from merc.media import FaceTrack, tracks_to_rows
from merc.pipeline.apply import _leading_to
from merc.pipeline.stage import Stage
from merc.speaker import PersonLinker, SpeakerChoice, SpeakingSpan, spans_to_rows
from merc.store import FeatureStore
from support.made_media import beeps, write_media
from support.tiny_clips import GREEN, RED, picture
from support.tiny_run import stages


class Pitch:
    """A voice encoder that hears how many beeps there are."""

    dim, slope, middle = 2, 30.0, 0.9

    def __init__(self):
        self.calls = 0

    def __call__(self, batch):
        self.calls += 1
        loud = torch.stack([sound.abs().gt(0.1).float().mean() for sound in batch.rows()])
        angle = (loud * 60).round() / 4
        return torch.stack([angle.cos(), angle.sin()], 1)

    def provenance(self):
        return {"encoder": "Pitch"}


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Eight seconds with two faces; the first and the last two have many beeps, the others few."""
    path = tmp_path_factory.mktemp("film") / "talk.mp4"
    many = [t for at in (0, 2) for t in torch.arange(at + 0.1, at + 1.8, 0.1).tolist()]
    few = [4.2, 5.0, 6.2, 7.0]
    images = [picture(frame, (RED, GREEN)) for frame in range(200)]
    return write_media(path, pictures=images, sound=beeps([*many, *few], 8))


def corpus_of(film, names=(None, None, None, None)):
    utterances = tuple(
        Utterance(str(n), name or "unknown", "hi", 2.0 * n, 2.0 * n + 1.9, video=Clip(film, 2.0 * n, 2.0 * n + 1.9))
        for n, name in enumerate(names)
    )
    return Corpus("talk", MELD, {"test": [Conversation("talk", utterances, "test")]})


@pytest.fixture
def stores(film, tmp_path):
    """Two faces in each line; the left one speaks the first two, the right one the others, who in one says a little."""
    keys = corpus_of(film)["test"][0].keys
    tracks = [FaceTrack(0, torch.tensor([[4.0 + x, 4, 24 + x, 24]]).expand(45, 4), 0.9) for x in (0, 30)]
    rows = [tracks_to_rows(tracks) for _ in keys]
    choices = [SpeakerChoice(int(n > 1), 2.0, 1.0, 1.0, (), 0.9, 0.9).to_row() for n in range(4)]
    turns = [
        spans_to_rows([SpeakingSpan(int(n > 1), 0, 1, 0.9), SpeakingSpan(int(n < 2), 1, 1.5, 0.8)]) for n in range(4)
    ]
    FeatureStore.write(tmp_path / "faces", keys, torch.cat(rows), kind="faces", lengths=[90] * 4)
    FeatureStore.write(tmp_path / "speaker", keys, torch.stack(choices), kind="speaker")
    FeatureStore.write(tmp_path / "turns", keys, torch.cat(turns), kind="turns", lengths=[2] * 4)
    return {kind: FeatureStore(tmp_path / kind) for kind in ("faces", "speaker", "turns")}


def names_of(found, corpus):
    return [found.lines[key].name for key in corpus["test"][0].keys]


def test_voices_alone_name_the_lines(film):
    corpus = corpus_of(film)
    found = PersonSearch(Pitch())(corpus, {})
    assert names_of(found, corpus) == ["person 1", "person 1", "person 2", "person 2"]
    assert "4 lines without a name are by 2 people (person 1, person 2), linked by voice" in found.notes[0]
    named = with_persons(corpus, found)
    assert [u.speaker for u in named["test"][0].utterances] == names_of(found, corpus)
    assert named["test"][0].speaker_ids == [0, 0, 1, 1]


def test_faces_get_the_names_of_the_lines_that_they_speak(film, stores):
    corpus = corpus_of(film, ("Ann", None, "Bob", None))
    found = PersonSearch(Pitch())(corpus, stores)
    keys = corpus["test"][0].keys
    assert names_of(found, corpus) == ["Ann", "Ann", "Bob", "Bob"]
    assert [[face.name for face in found.faces[key]] for key in keys] == [["Ann", "Bob"]] * 4
    assert found.face(keys[0], 1).name == "Bob" and found.face(keys[0], 2) is None
    assert "linked by voice and face" in found.notes[0]


def test_what_is_known_of_a_face_is_read_from_the_stores(film, stores):
    [conversation] = corpus_of(film)["test"]
    first = spoken_lines(conversation, stores, None)[0]
    assert first.voice is None and [face.start for face in first.faces] == [0.0, 0.0]
    assert [round(face.speaks, 3) for face in first.faces] == [0.9, round(0.8 * 0.5 / 1.9, 3)]
    assert all(face.appearance.shape == (336,) for face in first.faces)
    second = spoken_lines(conversation, {"faces": stores["faces"]}, None)[1]
    assert second.faces[0].start == 2.0 and [face.speaks for face in second.faces] == [0.6, 0.4]


def test_the_result_is_kept_for_the_same_question(film, stores, tmp_path):
    corpus, voice = corpus_of(film), Pitch()
    search, kept = PersonSearch(voice), tmp_path / "persons.json"
    found = search(corpus, stores, kept)
    calls = voice.calls
    again = search(corpus, stores, kept)
    assert (again, voice.calls) == (found, calls)
    search(corpus_of(film, ("Ann", None, None, None)), stores, kept)
    assert voice.calls > calls
    calls = voice.calls
    PersonSearch(voice, PersonLinker(slope=1.0))(corpus, stores, kept)
    assert voice.calls > calls
    kept.write_text("{}")
    assert search(corpus, stores, kept) == found


def test_without_weights_faces_alone_are_linked_and_a_note_says_so(film, stores, monkeypatch):
    def missing():
        raise ModuleNotFoundError("pip install the weights")

    monkeypatch.setattr(persons_module, "VoiceEncoder", missing)
    corpus = corpus_of(film)
    found = PersonSearch()(corpus, stores)
    assert found.notes[0] == "Voices were not compared. pip install the weights"
    assert names_of(found, corpus) == ["person 1", "person 1", "person 2", "person 2"]
    nothing = PersonSearch()(corpus, {})
    assert not nothing.lines and "neither voice nor face" in nothing.notes[1]
    assert with_persons(corpus, nothing) == corpus


def test_the_stages_that_lead_to_faces_come_first():
    given = [Stage(**{**one, "config": ""}) for one in stages()]
    assert [one.name for one in _leading_to(("faces", "speaker", "turns"), given)] == ["data", "faces", "lipsync"]
