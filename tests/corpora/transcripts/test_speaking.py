"""Who speaks when, joined to lines without names."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import CorpusError
from merc.corpora.transcripts import Line, SpeakerTurn, TranscriptSource, read_turns
from merc.corpora.transcripts.speaking import _LEAST, name_by_turns
from support.transcripts import lines, read, said, srt, write


def rttm(*turns, recording="talk"):
    return "".join(
        f"SPEAKER {recording} 1 {start} {length} <NA> <NA> {who} <NA> <NA>\n" for start, length, who in turns
    )


def test_lines_get_the_name_of_who_speaks_most_in_them(tmp_path):
    path = write(
        tmp_path,
        "a.rttm",
        ";; made by hand\n"
        + rttm((0.9, 1.0, "Ann"), (1.8, 1.0, "Bob"), (3.0, 0.4, "Ann"), (3.2, 0.7, "Bob"), (5, 0, "Cy")),
    )
    corpus = read(tmp_path, "a.srt", srt("Did you?", "I did!", "So.", "No.", "Dora: Me.", "Dora: So."), speakers=path)
    assert [name for name, _ in said(corpus)] == ["Ann", "Bob", "Bob", "unknown", "Dora", "Dora"]
    assert corpus.notes[0] == (
        "4 lines without a name got theirs from a.rttm; in 1 of them nobody speaks there; 1 are of two speakers and "
        "got the name of who speaks more."
    )


def test_names_of_the_transcript_stay(tmp_path):
    path = write(tmp_path, "a.rttm", rttm((0, 9, "Ann")))
    corpus = read(tmp_path, "a.srt", srt("Bob: Hi.", "Bob: so"), speakers=path)
    assert [name for name, _ in said(corpus)] == ["Bob", "Bob"]
    assert list(corpus.notes) == ["All lines of a.srt have names: a.rttm was not needed."]


def test_words_with_times_divide_a_line(tmp_path):
    words = [{"word": word, "start": n, "end": n + 0.8} for n, word in enumerate(["Did", "you?", "I", "did."])]
    content = json.dumps({"segments": [{"start": 0, "end": 4, "text": "Did you? I did.", "words": words}]})
    path = write(tmp_path, "b.rttm", rttm((0, 1.9, "Ann"), (2.0, 2.0, "Bob")))
    assert lines(read(tmp_path, "a.json", content, speakers=path)) == [
        (0, 1.8, "Ann", "Did you?"),
        (2, 4, "Bob", "I did."),
    ]


def test_words_with_speakers_name_the_lines_of_another_transcript(tmp_path):
    words = [{"word": "a", "start": n, "end": n + 0.9, "speaker": who} for n, who in enumerate("AABB", start=1)]
    path = write(
        tmp_path, "x.json", json.dumps({"segments": [{"start": 1, "end": 5, "text": "a a a a", "words": words}]})
    )
    corpus = read(tmp_path, "a.srt", srt("one", "two", "three", "four", "five"), speakers=path)
    assert [name for name, _ in said(corpus)] == ["A", "A", "B", "B", "unknown"]
    nobody = write(tmp_path, "y.srt", srt("hi"))
    with pytest.raises(CorpusError, match=r"y\.srt names no speakers\. Expected an RTTM file"):
        read(tmp_path, "a.srt", srt("one"), speakers=nobody)


def test_a_file_about_several_recordings_is_read_for_this_one(tmp_path):
    path = write(tmp_path, "a.rttm", rttm((0, 9, "Ann"), recording="x") + rttm((0, 9, "Bob")))
    assert read_turns(path, "talk.mp4") == [SpeakerTurn(0, 9, "Bob")]
    with pytest.raises(CorpusError, match=r"it is about 'x', 'talk', and none is 'other'. Rename the recording"):
        read_turns(path, "other.mp4")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("SPEAKER talk 1 0.5 Ann\n", "line 1: 'SPEAKER talk 1 0.5 Ann' is not of the form"),
        ("SPEAKER talk 1 x 1 <NA> <NA> Ann\n", "line 1: .* is not of the form SPEAKER file"),
        ("LEXEME talk 1 0 1 hi lex Ann <NA>\n", "it has no SPEAKER row"),
        ("", "it has no SPEAKER row"),
    ],
)
def test_broken_rttm_is_refused(tmp_path, content, message):
    with pytest.raises(CorpusError, match=message):
        read_turns(write(tmp_path, "a.rttm", content), "talk.mp4")


SPAN = st.tuples(st.integers(0, 20), st.integers(1, 8))


@given(
    turns=st.lists(st.tuples(SPAN, st.sampled_from("ABC")), max_size=8), spans=st.lists(SPAN, min_size=1, max_size=5)
)
def test_the_name_is_that_of_the_longest_speech(tmp_path_factory, turns, spans):
    """Against tenths of seconds, counted one by one."""
    given_turns = [SpeakerTurn(start, start + length, who) for (start, length), who in turns]
    given_lines = [Line(start, start + length, "a") for start, length in spans]
    source = TranscriptSource(tmp_path_factory.mktemp("t") / "a.srt")
    found = name_by_turns(given_lines, given_turns, source, source.path)
    for line, named in zip(given_lines, found, strict=True):
        heard = {
            who: sum(
                any(turn.speaker == who and turn.start <= tenth / 10 < turn.end for turn in given_turns)
                for tenth in range(int(line.start * 10), int(line.end * 10))
            )
            for who in "ABC"
        }
        most = max(heard.values())
        if most < _LEAST * 10 * (line.end - line.start):
            assert named.speaker is None
        else:
            assert heard[named.speaker] == most


def test_too_many_speakers_are_refused(tmp_path):
    path = write(tmp_path, "a.rttm", rttm(*((n, 1, f"S{n}") for n in range(1001))))
    with pytest.raises(CorpusError, match="names 1001 speakers, expected at most 1000"):
        read(tmp_path, "a.srt", srt("hi"), speakers=path)
