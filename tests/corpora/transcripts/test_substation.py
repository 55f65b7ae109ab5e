"""Events of Aegisub and its like."""

from support.transcripts import lines, read, refused

HEAD = "[Script Info]\nTitle: a: b\n\n[V4+ Styles]\nFormat: Name, Fontname\nStyle: Default,broken\n\n[Events]\n"
FORMAT = "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"


def event(start, end, name, text, kind="Dialogue"):
    return f"{kind}: 0,{start},{end},Default,{name},0,0,0,,{text}\n"


def test_names_commas_overrides_and_comments(tmp_path):
    content = HEAD + FORMAT + event("0:00:01.50", "0:00:02.25", "Ann", "{\\i1}Oh,{\\i0} well,\\Nyes\\hthere")
    content += event("0:00:03.00", "0:00:04.00", "", "Bob: &amp; so") + event("0:00:03.00", "0:00:04.00", "", "Bob: no")
    content += event("0:00:05.00", "0:00:06.00", "Ann", "note", kind="Comment")
    content += event("0:00:05.00", "0:00:06.00", "Ann", "{\\p1}m 0 0 l 100 0{\\p0}")
    assert lines(read(tmp_path, "a.ass", content)) == [
        (1.5, 2.25, "Ann", "Oh, well, yes there"), (3.0, 4.0, "Bob", "& so"), (3.0, 4.0, "Bob", "no"),
    ]  # fmt: skip


def test_the_order_of_fields_is_that_of_the_file(tmp_path):
    content = "[Events]\nFormat: Start, End, Actor, Text\nDialogue: 0:00:01.00,0:00:02.00,Ann,hi, you\n"
    assert lines(read(tmp_path, "a.ssa", content)) == [(1.0, 2.0, "Ann", "hi, you")]
    assert "line 2: expected fields with Start" in refused(tmp_path, "a.ass", "[Events]\nFormat: Text, Start, End\n")


def test_broken_events_are_left_out_and_named(tmp_path):
    good = "".join(event(f"0:00:0{n}.00", f"0:00:0{n}.90", "Ann", "hi") for n in range(4))
    content = HEAD + FORMAT + good + event("0:0x", "0:00:02.00", "", "a") + "Dialogue: 0,0:00:01.00\n"
    corpus = read(tmp_path, "a.ass", content)
    assert len(lines(corpus)) == 4
    assert "line 14: '0:0x' is no time; line 15: 2 fields, expected 10" in corpus.notes[0]


def test_many_overrides_take_linear_time(tmp_path):
    for text in ("{\\i1}" * 20_000, "{\\" * 50_000, "{" * 100_000, "hi" + "\\N" * 50_000):
        content = HEAD + FORMAT + event("0:00:01.00", "0:00:02.00", "Ann", text + "hi")
        assert len(lines(read(tmp_path, "a.ass", content))) == 1
