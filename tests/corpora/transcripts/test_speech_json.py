"""JSON of speech recognizers, as each of them writes it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.transcripts import lines, read, refused

HI = [(0.5, 1.5, "unknown", "Hi there."), (2.0, 3.0, "unknown", "Yes.")]
NAMED = [(0.5, 1.5, "A", "Hi there."), (2.0, 3.0, "B", "Yes.")]
SEGMENTS = [{"start": 0.5, "end": 1.5, "text": " Hi there."}, {"start": 2.0, "end": 3.0, "text": " Yes."}]
WHO = [{**part, "speaker": name} for part, name in zip(SEGMENTS, "AB", strict=True)]
WORDS = [
    {"word": "Hi", "start": 0.5, "end": 0.9}, {"word": "there.", "start": 1.0, "end": 1.5},
    {"word": "Yes.", "start": 2.0, "end": 3.0},
]  # fmt: skip
FORMATS = {
    "whisper": ({"text": " Hi there. Yes.", "segments": [{"id": 0, "tokens": [1], **part} for part in SEGMENTS]}, HI),
    "whisperX": ({"segments": [{**p, "words": []} for p in WHO], "word_segments": WORDS, "language": "en"}, NAMED),
    "faster-whisper": ([{"id": 1, "seek": 0, **p, "words": None} for p in SEGMENTS], HI),
    "faster-whisper's tuples": (
        [[1, 0, 0.5, 1.5, " Hi there.", [5], -0.2, 0.0, None, 0.0], [2, 0, 2.0, 3.0, " Yes.", [], 0, 0, None, 0]], HI,
    ),
    "whisper.cpp": (
        {"transcription": [
            {"timestamps": {"from": "00:00:00,500", "to": "00:00:01,500"}, "offsets": {"from": 500, "to": 1500},
             "text": " Hi there."},
            {"timestamps": {"from": "00:00:02,000", "to": "00:00:03,000"}, "offsets": {"from": 2000, "to": 3000},
             "text": " Yes."}]}, HI,
    ),
    "transformers": (
        {"text": "Hi there. Yes.", "chunks": [{"timestamp": [0.5, 1.5], "text": " Hi there."},
                                              {"timestamp": [2.0, 3.0], "text": " Yes."}]}, HI,
    ),
    "insanely-fast-whisper": (
        {"speakers": [{"speaker": "A", "timestamp": [0.5, 1.5], "text": "Hi there."},
                      {"speaker": "B", "timestamp": [2.0, 3.0], "text": "Yes."}], "chunks": [], "text": ""}, NAMED,
    ),
    "FunASR with speakers": (
        [{"key": "talk", "text": "Hi there. Yes.", "timestamp": [[500, 900], [1000, 1500]], "sentence_info": [
            {"text": "Hi there.", "start": 500, "end": 1500, "timestamp": [[500, 900], [1000, 1500]], "spk": 0},
            {"text": "Yes.", "start": 2000, "end": 3000, "timestamp": [[2000, 3000]], "spk": 1}]}],
        [(0.5, 1.5, "speaker 0", "Hi there."), (2.0, 3.0, "speaker 1", "Yes.")],
    ),
    "FunASR": ([{"key": "t", "text": "Hi there. Yes.", "timestamp": [[500, 900], [1000, 1500], [2000, 3000]]}], HI),
    "SenseVoice": (
        [{"key": "t", "text": "<|en|><|HAPPY|><|Speech|><|withitn|>Hi there. Yes.",
          "timestamp": [[500, 900], [1000, 1500], [2000, 3000]]}], HI,
    ),
    "AssemblyAI": (
        {"text": "", "utterances": [{"speaker": "A", "start": 500, "end": 1500, "text": "Hi there.", "words": []},
                                    {"speaker": "B", "start": 2000, "end": 3000, "text": "Yes.", "words": []}]}, NAMED,
    ),
    "Deepgram": (
        {"metadata": {}, "results": {"channels": [], "utterances": [
            {"start": 0.5, "end": 1.5, "transcript": "Hi there.", "speaker": 0},
            {"start": 2.0, "end": 3.0, "transcript": "Yes.", "speaker": 1}]}},
        [(0.5, 1.5, "speaker 0", "Hi there."), (2.0, 3.0, "speaker 1", "Yes.")],
    ),
    "words alone": ({"word_segments": WORDS}, HI),
    "merc": ({"format": "merc.Annotation", "notes": [], "lines": [{"line": 1, **p} for p in WHO]}, NAMED),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_formats(tmp_path, name, suffix):
    content, expected = FORMATS[name]
    assert lines(read(tmp_path, f"a{suffix}", json.dumps(content))) == expected


def test_chinese_of_funasr_has_a_time_for_every_character(tmp_path):
    text = "你收到信了吗？收到了，我很讨厌 rock music！"
    times = [[100 * n, 100 * n + 90] for n in range(15)]
    content = json.dumps([{"key": "a", "text": text, "timestamp": times}])
    assert lines(read(tmp_path, "a.json", content, unit="ms")) == [
        (0.0, 0.59, "unknown", "你收到信了吗？"), (0.6, 1.49, "unknown", "收到了，我很讨厌 rock music！"),
    ]  # fmt: skip
    shorter = json.dumps([{"key": "a", "text": text, "timestamp": times[:9]}])
    assert lines(read(tmp_path, "a.json", shorter, unit="ms")) == [(0.0, 0.89, "unknown", text)]


def words_of(speakers, *, blanks):
    return [
        {"word": " " * blanks + f"w{n}{'.' if n % 3 == 2 else ''}", "start": n, "end": n + 0.5, "speaker": who}
        for n, who in enumerate(speakers)
    ]


@given(runs=st.lists(st.integers(2, 4), min_size=1, max_size=5), blanks=st.booleans(), whole=st.booleans())
def test_words_with_speakers_divide_a_segment(tmp_path_factory, runs, blanks, whole):
    speakers = [f"S{n % 3}X" for n, length in enumerate(runs) for _ in range(length)]
    words = words_of(speakers, blanks=blanks)
    text = " ".join(word["word"].strip() for word in words) if whole else "something else"
    segment = {"start": 0, "end": len(words), "text": text, "words": words, "speaker": "S0X"}
    found = lines(read(tmp_path_factory.mktemp("words"), "a.json", json.dumps({"segments": [segment]})))
    assert [row[2] for row in found] == [f"S{n % 3}X" for n in range(len(runs))]
    if whole or len(runs) > 1:
        assert " ".join(row[3] for row in found) == " ".join(word["word"].strip() for word in words)
    starts = [sum(runs[:n]) for n in range(len(runs))]
    assert [row[0] for row in found] == starts


def test_a_single_word_between_is_a_flicker_and_words_without_times_are_borne(tmp_path):
    words = words_of("AABAA", blanks=False)
    del words[3]["start"], words[3]["end"]
    segment = {"start": 0, "end": 5, "text": "w0 w1 w2. w3 w4", "words": words}
    assert lines(read(tmp_path, "a.json", json.dumps({"segments": [segment]}))) == [(0, 5, "A", "w0 w1 w2. w3 w4")]


def test_broken_segments_are_left_out_and_named(tmp_path):
    parts = [
        *SEGMENTS,
        {"text": "so"},
        "no",
        {"start": None, "end": 2, "text": "a"},
        {"start": True, "end": 9, "text": "a"},
    ]
    corpus = read(tmp_path, "a.json", json.dumps({"segments": [*parts, *SEGMENTS, *SEGMENTS]}))
    assert len(lines(corpus)) == 6
    assert (
        "4 broken lines of a.json were left out. segment 3: it has no times; segment 4: it is no object"
        in corpus.notes[0]
    )
    last = json.dumps({"chunks": [{"timestamp": [0.5, None], "text": "hi"}]})
    assert lines(read(tmp_path, "a.json", last)) == [(0.5, 2.5, "unknown", "hi")]


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", "3", '"a"', '{"segments": 3}', '{"text": "hi"}', "[[[]]]", '[{"timestamp": [], "text": "a"}]',
     '{"segments": [{"start": 1e999, "end": 2, "text": "a"}]}', '{"results": ' * 90 + "1" + "}" * 90, "[" * 90_000,
     '{"word_segments": [{"word": "a"}]}', '[{"timestamp": [1, 2], "text": "a"}, {"timestamp": "x", "text": "b"}]'],
)  # fmt: skip
def test_json_of_another_kind_is_refused_or_read(tmp_path, content):
    try:
        assert lines(read(tmp_path, "a.json", content))
    except ValueError:
        assert refused(tmp_path, "a.json", content)


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["a", "0:01", "1.5", "A"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["segments", "start", "end", "text", "words", "word", "timestamp", "speaker", "timestamps", "from"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(value=VALUE)
def test_any_json_is_read_or_refused(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("json")
    try:
        assert lines(read(folder, "a.json", json.dumps(value)))
    except ValueError:
        refused(folder, "a.json", json.dumps(value))
