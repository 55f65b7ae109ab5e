"""Tables: delimiters, decimal commas, columns by name, seconds and milliseconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.transcripts import lines, read, refused, said


def test_a_table_needs_no_speakers(tmp_path):
    assert lines(read(tmp_path, "a.csv", "start,end,text\n0,1.5,hello\n")) == [(0.0, 1.5, "unknown", "hello")]


@pytest.mark.parametrize(
    "head",
    ["start,end,speaker,text", "Start Time,End Time,Speaker Name,Transcript", "begin,stop,who,utterance",
     "from,to,Name,Sentence", "START,END,SPEAKER,TEXT", "start_ms,end_ms,speaker,text"],
)  # fmt: skip
def test_columns_are_recognised_by_their_names(tmp_path, head):
    assert lines(read(tmp_path, "a.csv", f"{head}\n1,2,Ann,hi\n")) == [(1.0, 2.0, "Ann", "hi")]


def test_a_table_without_names_of_columns(tmp_path):
    corpus = read(tmp_path, "a.csv", '0,1480," Did you?"\n1480,2930," I did, yes."\n')
    assert lines(corpus) == [(0.0, 1.48, "unknown", "Did you?"), (1.48, 2.93, "unknown", "I did, yes.")]
    assert "a.csv has no line of column names" in corpus.notes[0]
    message = refused(tmp_path, "a.csv", "0;1;hi\n1;2;3;4\n")
    assert message.startswith("line 2: 4 cells, expected 3")


MILLISECONDS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(400, 9000)), min_size=3, max_size=8)


@given(spans=MILLISECONDS, name=st.sampled_from(["a.csv", "a.tsv"]), point=st.booleans(), known=st.booleans())
def test_milliseconds_are_told_from_seconds(tmp_path_factory, spans, name, point, known):
    spans = [(start, start + length) for start, length in sorted(spans)]
    delimiter = "\t" if name == "a.tsv" else ","
    folder = tmp_path_factory.mktemp("ms")
    film = max(end for _, end in spans) / 1000 + 3 if known else None
    rows = [f"{start}{'.0' * point}{delimiter}{end}{'.0' * point}{delimiter}hi" for start, end in spans]
    corpus = read(folder, name, "\n".join([delimiter.join(["start", "end", "text"]), *rows]), duration=film)
    expected = sorted((start / 1000, end / 1000) for start, end in spans)
    assert [row[:2] for row in lines(corpus)] == expected
    assert any("only milliseconds have" in note for note in corpus.notes)
    rows = [f"{start / 1000}{delimiter}{end / 1000}{delimiter}hi" for start, end in spans]
    corpus = read(folder, name, "\n".join([delimiter.join(["start", "end", "text"]), *rows]), duration=film)
    assert [row[:2] for row in lines(corpus)] == expected


def test_what_could_be_both_is_asked_for(tmp_path):
    table = "start,end,text\n0,1480,a\n1480,2930,b\n"
    assert lines(read(tmp_path, "a.csv", table, duration=5.0))[0][:2] == (0.0, 1.48)
    with pytest.raises(
        ValueError, match=r"a\.csv: its times go to 2930 and could be .* of 7200 s\. Name .*--unit s or"
    ):
        read(tmp_path, "a.csv", table, duration=7200.0)
    assert lines(read(tmp_path, "a.csv", table, duration=7200.0, unit="s"))[0][:2] == (0.0, 1480.0)
    assert lines(read(tmp_path, "a.csv", table, duration=7200.0, unit="ms"))[0][:2] == (0.0, 1.48)
    assert lines(read(tmp_path, "a.csv", "start,end,text\n0,9,a\n", unit="ms"))[0][3] == "a"
    assert lines(read(tmp_path, "a.csv", "start,end,text\n0:00:00,0:24:40,a\n"))[0][1] == 1480  # not a plain number


def test_decimal_commas_are_named_if_they_part_cells(tmp_path):
    message = refused(tmp_path, "a.csv", "start,end,text\n0,5,1,492,hi\n")
    assert message == (
        "line 2: 5 cells, expected 3 ('start', 'end', 'text'). Quote cells that hold commas, or write decimals with a "
        "point."
    )
    assert said(read(tmp_path, "a.csv", "sep=;\nstart;end;text\n0,5;1,492;hi\n")) == [("unknown", "hi")]


def test_absent_columns_are_named(tmp_path):
    message = refused(tmp_path, "a.csv", "start,end\n0,1\n")
    assert message.startswith("no column 'text' and none of another name") and "--columns.text COLUMN" in message
