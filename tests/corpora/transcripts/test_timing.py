"""Times that are wrong, and captions that roll."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.corpora.transcripts import Line, TranscriptSource
from merc.corpora.transcripts.timing import repair_times, unroll
from support.transcripts import clock, lines, read, said, srt


def cues(*rows):
    return "".join(f"{n}\n{start} --> {end}\n{text}\n\n" for n, (start, end, text) in enumerate(rows, start=1))


def repaired(folder, *rows):
    corpus = read(folder, "a.srt", cues(("0:10", "0:11", "so"), ("0:12", "0:13", "no"), *rows))
    found = [row for row in lines(corpus) if row[3] not in ("so", "no")]
    return found, [note for note in corpus.notes if "repaired" in note or "broken" in note]


def test_lines_of_no_length_get_the_time_to_the_next(tmp_path):
    found, [note] = repaired(tmp_path, ("0:09,4", "0:09,4", "a"), ("0:20", "0:20", "b"), ("0:11,2", "0:11,23", "c"))
    assert found == [
        (9.4, 10.0, "unknown", "a"), (11.2, 12.0, "unknown", "c"), (20.0, 22.0, "unknown", "b"),
    ]  # fmt: skip
    assert note == (
        "Times of a.srt were repaired. line 10: lasted 0 s, now 0.6 s; line 14: lasted 0 s, now 2 s; line 18: lasted "
        "0.03 s, now 0.8 s."
    )
    found, [note] = repaired(tmp_path, ("0:09,99", "0:09,99", "a"))
    assert found == [] and "line 10: it lasts 0 s, and the next line begins at once" in note


def test_negative_times_are_cut_and_reversed_ones_left_out(tmp_path):
    found, notes = repaired(tmp_path, ("-0:01", "0:02", "a"), ("-0:03", "-0:02", "b"), ("0:09", "0:08", "c"))
    assert found == [(0.0, 2.0, "unknown", "a")]
    assert "line 10: started at -1 s, now at 0 s" in notes[0]
    assert "2 broken lines of a.srt were left out. line 14: it ends at -2 s, before the recording begins" in notes[1]
    assert "line 18: it ends at 8 s, but starts at 9 s" in notes[1]


TIME = st.floats(allow_nan=True, allow_infinity=True, width=32)


@given(times=st.lists(st.tuples(TIME, TIME), max_size=8))
def test_what_is_left_has_a_length(tmp_path_factory, times):
    source = TranscriptSource(tmp_path_factory.mktemp("t") / "a.srt")
    given_ = [Line(start, end, "a", place=f"line {n}") for n, (start, end) in enumerate(times)]
    kept = repair_times(given_, source)
    assert all(0 <= line.start < line.end for line in kept)
    assert {line.place for line in kept} | {place for place, _ in source.dropped} == {line.place for line in given_}
    sound = [line for line in given_ if 0 <= line.start <= line.end - 1 and line.end < 1e6]
    assert {line.place for line in sound} <= {line.place for line in kept}


# --- rolling captions

PHRASES = ["hello everyone welcome", "to my channel", "today we will", "&gt;&gt; look at it", "- no", "again", "again"]


def youtube(phrases, *, web):
    """Automatic captions of YouTube: a cue with a new row below the last one, then 10 ms without a new one."""
    blocks, above = [], " "
    for n, phrase in enumerate(phrases):
        words = phrase.split(" ")
        timed = words[0] + "".join(f"<{clock(2000 * n + 100 * k, '.')}><c> {w}</c>" for k, w in enumerate(words[1:], 1))
        settings = " align:start position:0%" if web else ""
        for start, end, rows in (
            (2000 * n, 2000 * n + 1990, [above, timed if web else phrase]),
            (2000 * n + 1990, 2000 * n + 2000, [phrase, " "]),
        ):
            times = f"{clock(start, '.' if web else ',')} --> {clock(end, '.' if web else ',')}{settings}"
            blocks.append("\n".join([*([] if web else [str(len(blocks) + 1)]), times, *rows, ""]))
        above = phrase
    return ("WEBVTT\nKind: captions\nLanguage: en\n\n" if web else "") + "\n".join(blocks)


@given(phrases=st.lists(st.sampled_from(PHRASES), min_size=2, max_size=7, unique=True), web=st.booleans())
def test_phrases_of_youtube_are_read_once(tmp_path_factory, phrases, web):
    corpus = read(tmp_path_factory.mktemp("yt"), "a.vtt" if web else "a.srt", youtube(phrases, web=web))
    assert lines(corpus) == [
        (2.0 * n, 2.0 * n + 2, "unknown", phrase.removeprefix("&gt;&gt; ").removeprefix("- "))
        for n, phrase in enumerate(phrases)
    ]
    assert any("rolling captions" in note for note in corpus.notes)


@given(
    rows=st.lists(st.sampled_from("a b c d e f g h".split()), min_size=4, max_size=8, unique=True),
    height=st.integers(2, 3),
)
def test_captions_that_roll_up_are_read_once(tmp_path_factory, rows, height):
    blocks = [(f"0:{n:02}", f"0:{n + 1:02}", "\n".join(rows[max(0, n + 1 - height) : n + 1])) for n in range(len(rows))]
    found = lines(read(tmp_path_factory.mktemp("roll"), "a.srt", cues(*blocks)))
    assert found == [(n, n + 1, "unknown", row) for n, row in enumerate(rows)]


def test_a_row_that_grows_is_read_once(tmp_path):
    texts = ["we", "we are", "we are here", "we are here\nto", "we are here\nto stay"]
    found = lines(read(tmp_path, "a.srt", cues(*((f"0:{n}", f"0:{n + 1}", text) for n, text in enumerate(texts)))))
    assert found == [(0, 3, "unknown", "we are here"), (3, 5, "unknown", "to stay")]


def test_words_that_whisper_highlights_are_one_line(tmp_path):
    texts = ["<u>we</u> are", "we <u>are</u>", "so <u>it</u>", "<u>so</u> it"]
    found = lines(read(tmp_path, "a.srt", cues(*((f"0:{n}", f"0:{n + 1}", text) for n, text in enumerate(texts)))))
    assert found == [(0, 2, "unknown", "we are"), (2, 4, "unknown", "so it")]


def test_who_says_it_again_is_not_rolling(tmp_path):
    texts = ["No.", "No.", "Oh.", "Well, no.", "Well", "Well, yes.", "Yes.", "So.", "Hm."]
    found = said(read(tmp_path, "a.srt", srt(*texts, length=1000)))
    assert [text for _, text in found] == texts


@pytest.mark.parametrize("text", ["a\n" * 20_000, "a b " * 20_000])
def test_unrolling_takes_linear_time(tmp_path, text):
    source = TranscriptSource(tmp_path / "a.srt")
    assert unroll([Line(n, n + 1, text) for n in range(20)], source)
