"""TextGrids of Praat, long and short, and files of ELAN."""

from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.transcripts import lines, read, refused

TEXT = st.text(
    st.characters(categories=("L", "Zs"), include_characters="\"'&<>.,0123456789 =[]!"), min_size=1, max_size=12
)
SPANS = st.lists(st.tuples(st.integers(1, 3), TEXT), min_size=1, max_size=4)
TIERS = st.dictionaries(st.sampled_from(["Ann", "Bob Example", "小美"]), SPANS, min_size=1, max_size=3)


def intervals(spans):
    """Intervals of a tier, silence between them: (start, end, text)."""
    at, found = 0.5, []
    for length, text in spans:
        found.append((at, at + length, text))
        at += length + 0.25
    return found


def expected(tiers):
    rows = [
        (start, end, name, " ".join(text.split()))
        for name, spans in tiers.items()
        for start, end, text in intervals(spans)
    ]
    return sorted((row for row in rows if row[3]), key=lambda row: row[:2])


def textgrid(tiers, *, short, points=False):
    def quoted(text):
        return '"' + text.replace('"', '""') + '"'

    def row(name, value):
        return str(value) if short else f"{name} = {value}"

    out = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", row("xmin", 0), row("xmax", 50)]
    out += [
        "<exists>" if short else "tiers? <exists>",
        row("size", len(tiers) + points),
        *([] if short else ["item []:"]),
    ]
    for number, (name, spans) in enumerate(tiers.items(), start=1):
        every, at = [], 0.0
        for start, end, text in intervals(spans):
            every += [(at, start, ""), (start, end, text)]
            at = end
        out += [] if short else [f"    item [{number}]:"]
        out += [row("class", '"IntervalTier"'), row("name", quoted(name)), row("xmin", 0), row("xmax", 50)]
        out.append(row("intervals: size", len(every)))
        for index, (start, end, text) in enumerate(every, start=1):
            out += [] if short else [f"        intervals [{index}]:"]
            out += [row("xmin", start), row("xmax", end), row("text", quoted(text))]
    if points:
        out += [row("class", '"TextTier"'), row("name", '"clicks"'), row("xmin", 0), row("xmax", 50)]
        out += [row("points: size", 1), row("number", 1.5), row("mark", '"x"')]
    return "\n".join(out) + "\n"


def refused_or(folder, name, content, rows):
    if rows:
        assert lines(read(folder, name, content)) == rows
    else:
        refused(folder, name, content)


@given(tiers=TIERS, short=st.booleans(), points=st.booleans(), encoding=st.sampled_from(["utf-8", "utf-16"]))
def test_textgrids_read_back(tmp_path_factory, tiers, short, points, encoding):
    tiers = {name: [(n, text.replace("[", "")) for n, text in spans] for name, spans in tiers.items()}
    content = textgrid(tiers, short=short, points=points).encode(encoding)
    refused_or(tmp_path_factory.mktemp("grid"), "a.TextGrid", content, expected(tiers))


def test_words_of_a_forced_aligner_are_lines(tmp_path):
    words = [(1, "hi"), (1, "there."), (1, "sil"), (2, "so")]
    grid = textgrid({"Ann - words": words, "Ann - phones": [(1, "h")]}, short=False)
    corpus = read(tmp_path, "a.TextGrid", grid)
    assert lines(corpus) == [(0.5, 2.75, "Ann", "hi there."), (4.25, 6.25, "Ann", "so")]
    assert any("Tiers of a.TextGrid that were not read: 'Ann - phones'" in note for note in corpus.notes)
    both = textgrid({"Ann": [(5, "hi there")], "words": words}, short=True)
    assert lines(read(tmp_path, "a.TextGrid", both)) == [(0.5, 5.5, "Ann", "hi there")]


def test_tiers_are_chosen(tmp_path):
    grid = textgrid({"Ann": [(1, "hi")], "gaze": [(1, "left")]}, short=False)
    assert lines(read(tmp_path, "a.TextGrid", grid, tiers=["Ann"])) == [(0.5, 1.5, "Ann", "hi")]
    assert "no tier 'Cy' with text: found 'Ann', 'gaze'" in refused(tmp_path, "a.TextGrid", grid, tiers=["Cy"])


@pytest.mark.parametrize("at", range(8, 40, 3))
def test_a_textgrid_that_breaks_off_is_refused(tmp_path, at):
    grid = textgrid({"Ann": [(1, "hi")]}, short=True).split("\n")[:at]
    refused_or(tmp_path, "a.TextGrid", "\n".join(grid[: min(at, len(grid) - 2)]), [])


def test_what_is_no_textgrid_is_refused(tmp_path):
    assert "expected a text file of Praat" in refused(tmp_path, "a.TextGrid", "ooBinaryFile\x08TextGrid")
    grid = textgrid({"Ann": [(1, "hi")]}, short=True)
    assert "'0.5.5' is no time" in refused(tmp_path, "a.TextGrid", grid.replace("\n0.5\n", "\n0.5.5\n", 1))
    assert "'1e999' is no time" in refused(tmp_path, "a.TextGrid", grid.replace("\n1\n", "\n1e999\n"))
    assert "breaks off" in refused(tmp_path, "a.TextGrid", grid.replace("\n1\n", "\n99999999\n"))


# --- ELAN


def eaf(tiers, *, participants=True, dependent=""):
    slots, out = [], []
    for name, spans in tiers.items():
        person = f" PARTICIPANT={quoteattr(name)}" if participants else ""
        out.append(f'<TIER LINGUISTIC_TYPE_REF="t"{person} TIER_ID={quoteattr(f"tier of {name}")}>')
        for start, end, text in intervals(spans):
            slots += [start, end]
            refs = f'TIME_SLOT_REF1="ts{len(slots) - 1}" TIME_SLOT_REF2="ts{len(slots)}"'
            value = f"<ANNOTATION_VALUE>{escape(text)}</ANNOTATION_VALUE>"
            out.append(f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{len(slots)}" {refs}>{value}')
            out.append("</ALIGNABLE_ANNOTATION></ANNOTATION>")
        out.append("</TIER>")
    order = "".join(
        f'<TIME_SLOT TIME_SLOT_ID="ts{n}"' + ("" if time is None else f' TIME_VALUE="{round(time * 1000)}"') + "/>"
        for n, time in enumerate(slots, start=1)
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT FORMAT="3.0"><HEADER TIME_UNITS="milliseconds"/>'
        f"<TIME_ORDER>{order}</TIME_ORDER>{''.join(out)}{dependent}</ANNOTATION_DOCUMENT>"
    )


@given(tiers=TIERS, participants=st.booleans(), encoding=st.sampled_from(["utf-8", "utf-16"]))
def test_elan_reads_back(tmp_path_factory, tiers, participants, encoding):
    tiers = {name: [(n, text.replace("[", "")) for n, text in spans] for name, spans in tiers.items()}
    rows = [
        (start, end, name if participants else f"tier of {name}", text) for start, end, name, text in expected(tiers)
    ]
    content = eaf(tiers, participants=participants).encode(encoding)
    refused_or(tmp_path_factory.mktemp("eaf"), "a.eaf", content, rows)


DEPENDENT = (
    '<TIER PARENT_REF="tier of Ann" TIER_ID="gloss"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="r1" ANNOTATION_REF="a2">'
    "<ANNOTATION_VALUE>hello</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER>"
)


def test_tiers_that_depend_on_others_are_not_read(tmp_path):
    corpus = read(tmp_path, "a.eaf", eaf({"Ann": [(1, "hi")]}, dependent=DEPENDENT))
    assert lines(corpus) == [(0.5, 1.5, "Ann", "hi")]
    assert list(corpus.notes) == ["Tiers of a.eaf that were not read: 'gloss'. --tiers chooses."]
    chosen = read(tmp_path, "a.eaf", eaf({"Ann": [(1, "hi")], "gaze": [(1, "left")]}), tiers=["tier of Ann"])
    assert lines(chosen) == [(0.5, 1.5, "Ann", "hi")]


def test_times_that_elan_has_not_aligned_lie_between_those_that_it_has(tmp_path):
    content = eaf({"Ann": [(1, "a"), (1, "b")]})
    for slot in ("ts2", "ts3"):
        head, _, tail = content.partition(f'TIME_SLOT_ID="{slot}"')
        content = f'{head}TIME_SLOT_ID="{slot}"/>' + tail.split("/>", 1)[1]
    assert lines(read(tmp_path, "a.eaf", content)) == [(0.5, 1.25, "Ann", "a"), (2.0, 2.75, "Ann", "b")]
    lost = eaf({"Ann": [(1, "a"), (1, "b")]}).replace('REF2="ts4"', 'REF2="ts9"')
    assert "annotation a4: it has no times" in read(tmp_path, "a.eaf", lost).notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<a", "not XML"),
        ("<a/>", "found XML of 'a'"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><ANNOTATION_DOCUMENT>&b;</ANNOTATION_DOCUMENT>', "document type or entities"),
        ("<ANNOTATION_DOCUMENT/>", "no line with times"),
    ],
)
def test_what_is_not_of_elan_is_refused(tmp_path, content, message):
    assert message in refused(tmp_path, "a.eaf", content)
