"""CSV files of unknown origin: encodings, widths, columns, times."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.conversation import CorpusError
from merc.decoding import map_controls
from merc.rows import DELIMITERS, parse_time, read_rows

CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12).map(map_controls)


def write(folder, content, name="a.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@given(table=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=8))
def test_any_table_reads_back_with_the_line_it_starts_on(tmp_path_factory, table):
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(["a", "b", "c"])
    starts = []
    for row in table:
        starts.append(len(buffer.getvalue().replace("\r\n", "\n").replace("\r", "\n").split("\n")))
        writer.writerow(row)
    path = write(tmp_path_factory.mktemp("csv"), buffer.getvalue())
    rows = read_rows(path, ["a", "c"]).rows
    assert [list(row.cells.values()) for row in rows] == [[cell.strip() for cell in row] for row in table]
    assert [row.line for row in rows] == starts


@given(content=st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused_but_never_crash(tmp_path_factory, content):
    path = write(tmp_path_factory.mktemp("bytes"), content)
    try:
        table = read_rows(path, [])
    except CorpusError as error:
        assert str(path) in str(error)
    else:
        assert table.rows
        assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_a_few_cp1252_bytes_do_not_spoil_the_utf8_around_them(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbfa,b\n" + "é\u2019,1\n".encode() + b"it\x92s,2\n")
    table = read_rows(path, ["a"])
    assert [row.cells["a"] for row in table.rows] == ["é\u2019", "it\u2019s"]
    assert (table.decoded.legacy, table.decoded.legacy_lines) == ("cp1252", 1)
    assert "1 lines were not UTF-8" in table.notes[0]


def test_excel_says_what_separates_the_cells_and_writes_utf_16(tmp_path):
    for content in (b"sep=;\r\na;b\r\n1,5;2\r\n", "\ufeffa\tb\r\n\r\n1,5\t2\r\n".encode("utf-16-le")):
        table = read_rows(write(tmp_path, content), ["a", "b"])
        assert [(row.line, dict(row.cells)) for row in table.rows] == [(3, {"a": "1,5", "b": "2"})]


def test_a_given_encoding_is_used(tmp_path):
    path = write(tmp_path, "a,b\nй,é\n".encode("utf-16-be"))
    assert dict(read_rows(path, encoding="utf-16-be").rows[0].cells) == {"a": "й", "b": "é"}


def test_plain_utf8_needs_no_note(tmp_path):
    assert read_rows(write(tmp_path, "a\né\n"), ["a"]).notes == []


@given(
    table=st.lists(st.lists(CELL, min_size=3, max_size=3), min_size=1, max_size=6),
    delimiter=st.sampled_from(list(DELIMITERS)),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
)
def test_the_delimiter_is_found_whatever_the_cells_hold(tmp_path_factory, table, delimiter, quoting):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=delimiter, quoting=quoting).writerows([["a", "b", "c"], *table])
    found = read_rows(write(tmp_path_factory.mktemp("csv"), buffer.getvalue()))
    assert found.delimiter == delimiter and found.columns == ("a", "b", "c")
    assert [list(row.cells.values()) for row in found.rows] == [[cell.strip() for cell in row] for row in table]
    assert bool(found.notes) == (delimiter != ",")


@pytest.mark.parametrize(
    ("content", "required", "columns"),
    [
        ("a (x;y);b\n1;2;3\n", (), ("a (x", "y)", "b")),
        ("a, in s;b\n1;2\n", (), ("a, in s", "b")),  # both part the names in two, but only one the rows
        ("a;b,c;d\n1,2\n", ("c;d",), ("a;b", "c;d")),  # the required columns decide
        ("only\n1;2\n", (), ("only",)),
    ],
)
def test_names_of_columns_may_hold_other_delimiters(tmp_path, content, required, columns):
    assert read_rows(write(tmp_path, content), required).columns == columns


def test_a_broken_row_is_not_taken_for_another_delimiter(tmp_path):
    with pytest.raises(CorpusError, match=r"line 3: 3 cells, expected 2 .* Quote cells that hold semicolons"):
        read_rows(write(tmp_path, "a;b\n1;2\n1;2;3\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,b\n", "is empty"),
        (b"a,b\n1,2\n3\n", "line 3: 1 cells, expected 2"),
        (b"a,b\n1,2,3\n", "line 2: 3 cells, expected 2"),
        (b'a,b\n1,"2\n', "not CSV"),
        (b"a,a\n1,2\n", "two columns named 'a'"),
        (b"a,c\n1,2\n", "no column 'b': found 'a', 'c'"),
        (b"a,b\n\x81,2\n", "line 2: it is not UTF-8"),
        (b"a,b\n1,2\0\n", "zero bytes"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(CorpusError, match=message) as caught:
        read_rows(path, ["a", "b"])
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CorpusError, match=r"No file .*nowhere\.csv"):
        read_rows(tmp_path / "nowhere.csv", [])


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("", None),
        ("12", 12.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("01:02:03,250", 3723.25),
        ("2:03.25", 123.25),
        ("1,512", 1.512),
    ],
)
def test_times(tmp_path, cell, seconds):
    assert parse_time(cell, tmp_path, 1) == seconds


@given(milliseconds=st.integers(0, 10**7), digits=st.integers(1, 6))
def test_a_decimal_comma_is_a_point(milliseconds, digits):
    cell = f"{milliseconds / 1000:.{digits}f}"
    path = Path("a.csv")
    assert parse_time(cell.replace(".", ","), path, 1) == parse_time(cell, path, 1) == float(cell)


@pytest.mark.parametrize("cell", ["soon", "1,2,3", ",", "-1", "nan", "1e3", "1:2:3:4", "00:00:01,5x"])
def test_what_is_no_time_is_refused(tmp_path, cell):
    with pytest.raises(CorpusError, match=r"line 7: .* is not a time"):
        parse_time(cell, tmp_path, 7)
