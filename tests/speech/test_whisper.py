"""Whisper of random weights: windows, batches, words, languages; and what becomes of its words."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("av", reason="reading media needs PyAV: pip install 'merc[media]'")

import merc.speech.whisper as whisper_module
from merc.cli import main
from merc.conversation import Clip, CorpusError
from merc.corpora.transcripts import Line, TranscriptOptions, TranscriptSource, Word, read_lines
from merc.labels import MELD
from merc.media import read_sound
from merc.speech import (
    Transcriber,
    Transcript,
    VoiceActivity,
    WhisperTranscriber,
    transcribed,
    transcript_corpus,
    write_transcript,
)
from merc.speech.whisper import _lines, packed
from support.made_media import beeps, write_media
from support.tiny_text import tiny_bert
from support.tiny_whisper import tiny_whisper


class Every(VoiceActivity):
    """Speech from 0.5 to 2 s, from 3 to 5 s and from 30 to 31 s."""

    def spans(self, media, progress=None):
        return [(0.5, 2.0), (3.0, 5.0), (30.0, 31.0)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "talk.mp4"
    return write_media(path, sound=beeps(range(32), 32))


@pytest.fixture(scope="module")
def found(model, film):
    return WhisperTranscriber(model, activity=Every()).transcribe(film)


def test_words_lie_within_their_windows_and_the_language_is_found(found, model):
    assert found.lines and found.has_words and found.language in ("en", "de")
    assert found.by["model"] == model and "nobody has checked" in found.notes[0]
    for line in found.lines:
        assert 0.5 <= line.start <= line.end <= 5.0 or 30.0 <= line.start <= line.end <= 31.0
        assert line.words and all(line.start <= word.start <= word.end <= line.end for word in line.words)
    assert isinstance(WhisperTranscriber(model), Transcriber)


def test_the_batch_changes_nothing(found, model, film):
    assert WhisperTranscriber(model, batch_size=1, activity=Every()).transcribe(film).lines == found.lines


def test_the_network_gets_the_sound_of_its_windows(model, film, monkeypatch):
    transcriber = WhisperTranscriber(model, activity=Every())
    network, processor = transcriber._parts
    seen = []
    generate = network.generate
    monkeypatch.setattr(network, "generate", lambda **given: seen.append(given["input_features"]) or generate(**given))
    transcriber.transcribe(film)
    sounds = [read_sound(Clip(film, start, end)).numpy() for start, end in ((0.5, 5.0), (30.0, 31.0))]
    expected = processor.feature_extractor(sounds, sampling_rate=16000, return_tensors="pt").input_features
    assert len(seen) == 1 and torch.equal(seen[0], expected) and not torch.equal(expected[0], expected[1])


def test_a_given_language_is_not_detected(model, film, monkeypatch):
    given = WhisperTranscriber(model, language="de", activity=Every())
    monkeypatch.setattr(type(given._parts[0]), "detect_language", None)
    assert given.transcribe(film).language == "de"


def test_without_alignment_heads_lines_are_segments(tmp_path, film):
    found = WhisperTranscriber(tiny_whisper(tmp_path, aligned=False), activity=Every()).transcribe(film)
    assert "no times of words" in found.notes[1]
    assert found.lines and all(not line.words and 0 <= line.start <= line.end <= 31 for line in found.lines)


def test_windows_hold_what_fits():
    spans = [(0, 10), (11, 20), (21, 30), (40, 75), (76, 80)]
    assert list(packed(spans, 29)) == [(0, 20), (21, 30), (40, 75), (76, 80)]
    assert list(packed([], 29)) == []


def test_words_become_sentences_on_the_clock_of_the_film():
    chunks = [
        {"text": " Oh", "timestamp": (0.0, 0.4)},
        {"text": " no.", "timestamp": (0.4, 0.8)},
        {"text": " ", "timestamp": (0.8, 0.9)},
        {"text": " Why", "timestamp": (1.0, None)},
    ]
    lines = _lines("", chunks, 10.0, 12.0, words=True)
    assert [(line.start, line.end, line.text) for line in lines] == [(10.0, 10.8, "Oh no."), (11.0, 12.0, "Why")]
    [line] = _lines(" all", [{"text": " all", "timestamp": (0.0, 99.0)}], 10.0, 12.0, words=False)
    assert (line.start, line.end, line.words) == (10.0, 12.0, ())
    assert _lines("", [], 10.0, 12.0, words=True) == []


def test_what_is_no_whisper_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="could not be loaded: expected a folder"):
        WhisperTranscriber(str(tmp_path))
    with pytest.raises(ValueError, match="expected a Whisper model"):
        WhisperTranscriber(tiny_bert(tmp_path / "bert"))
    with pytest.raises(ValueError, match="batch_size"):
        WhisperTranscriber("any", batch_size=0)


# --- transcripts as files

TOLD = Transcript(
    [
        Line(0.5, 1.25, "A --> B & <i>", words=(Word("A", 0.5, 0.75), Word("B", 0.8, 1.25))),
        Line(2.0, 4.5, "It's fine."),
    ],
    "en",
    {"transcriber": "none"},
    ["a note"],
)


@pytest.mark.parametrize("suffix", [".srt", ".vtt", ".tsv", ".json"])
def test_what_is_written_is_read_again(suffix, tmp_path):
    write_transcript(TOLD, tmp_path / f"talk{suffix}")
    lines = read_lines(TranscriptSource(tmp_path / f"talk{suffix}", TranscriptOptions()))
    assert [(line.start, line.end) for line in lines] == [(0.5, 1.25), (2.0, 4.5)]
    assert lines[1].text == "It's fine." and lines[0].text.startswith("A -")


def test_a_transcript_survives_its_file_and_another_suffix_is_refused(tmp_path):
    TOLD.save(tmp_path / "talk.json")
    assert Transcript.load(tmp_path / "talk.json") == TOLD
    with pytest.raises(ValueError, match=r"ends in none of \.srt"):
        write_transcript(TOLD, tmp_path / "talk.docx")
    (tmp_path / "other.json").write_text('{"segments": []}')
    with pytest.raises(CorpusError, match="no transcript of merc"):
        Transcript.load(tmp_path / "other.json")


class Told:
    """Says the same of every film, and counts."""

    def __init__(self, lines):
        self.lines, self.calls = lines, 0

    def transcribe(self, media, progress=None):
        self.calls += 1
        return Transcript(self.lines, notes=["made up"])

    def provenance(self):
        return {"transcriber": "Told"}


def test_a_film_is_transcribed_once(film, tmp_path):
    told = Told(TOLD.lines)
    first = transcribed(film, tmp_path / "t.json", told)
    assert transcribed(film, tmp_path / "t.json", told) == first and told.calls == 1
    (tmp_path / "t.json").write_text("{")
    assert transcribed(film, tmp_path / "t.json", told) == first and told.calls == 2
    other = write_media(tmp_path / "other.mp4", sound=beeps([0.5], 1))
    transcribed(other, tmp_path / "t.json", told)
    assert told.calls == 3
    with pytest.raises(CorpusError, match="Nobody speaks in"):
        transcribed(film, tmp_path / "none.json", Told([]))
    assert not (tmp_path / "none.json").exists()


def test_words_go_through_the_reader_and_lines_without_words_stay(film, tmp_path):
    words = Transcript([Line(0, 1, "[Music]"), Line(1, 2, "Hello.")], notes=["made up"])
    words.save(tmp_path / "words.json")
    corpus = transcript_corpus(words, tmp_path / "words.json", film, labels=MELD)
    assert [u.text for u in corpus["test"][0].utterances] == ["Hello."] and corpus.notes[0] == "made up"
    silent = Transcript([Line(2, 3, ""), Line(0, 1, "")])
    corpus = transcript_corpus(silent, tmp_path / "none.json", film, labels=MELD)
    assert [(u.id, u.start, u.text) for u in corpus["test"][0].utterances] == [("1", 0, ""), ("2", 2, "")]


# --- the command


def test_the_command_writes_what_the_transcriber_says(model, film, found, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(whisper_module, "VoiceActivity", Every)
    assert main(["transcribe", str(film), "--model", model, "--out", str(tmp_path / "talk.json")]) == 0
    assert Transcript.load(tmp_path / "talk.json").lines == found.lines
    assert f"{len(found.lines)} lines in" in capsys.readouterr().out
    assert main(["transcribe", str(film), "--model", model, "--out", str(tmp_path / "talk.pdf")]) == 1
    assert "ends in none of .srt, .vtt, .tsv, .json" in capsys.readouterr().err
    assert main(["transcribe", str(film), "--model", str(tmp_path), "--out", str(tmp_path / "a.srt")]) == 1
    assert "could not be loaded" in capsys.readouterr().err and not Path(tmp_path / "a.srt").exists()
