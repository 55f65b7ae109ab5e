"""The page of an annotation: its data, and what a browser makes of it."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from merc.annotation import AnnotatedLine, Annotation, SpeakingFace, as_html
from merc.annotation.page import _hash, page_fingerprint
from merc.labels import MELD, LabelSet
from merc.speaker import SpeakingSpan

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "</script><script>document.title='broken'</script><!-- <script> & ]]> \u2028 $data <img src=x onerror=alert(1)>"


def line(number, *, emotion="joy", sure=0.8, speaker="Ann", text="Hi.", missing=(), **more):
    start = 2.0 * number
    rest = (1 - sure) / (len(MELD) - 1)
    values = {} if emotion is None else {name: sure if name == emotion else rest for name in MELD.names}
    modalities = {name: "no sound" if name in missing else None for name in ("text", "audio", "visual")}
    face = SpeakingFace(0, "lips", 4.0, 3.0, 1.0, 0.9, 0.8, (1.0, 2.0, 3.0, 4.0))
    turns = [SpeakingSpan(0, start, start + 1, 0.9)]
    values = (number, start, start + 1.5, speaker, text, emotion, values, modalities, face, None, turns)
    return replace(AnnotatedLine(*values), **more)


def annotation(lines, **more):
    return Annotation(lines, MELD, ["A note."], {"folder": "runs/video", "seed": 0, "members": {}}, **more)


def part(page, name):
    """What a script element holds."""
    found = re.search(rf'<script type="[a-z/]+" id="{name}">(.*?)</script>', page, re.DOTALL)
    return found[1]


THREE = [
    line(1),
    line(2, emotion="fear", sure=0.3, speaker="Bo", missing=("audio",)),
    line(3, emotion=None, missing=("text", "audio", "visual"), face=None, no_face="no face was found", turns=None),
]


def test_the_data_are_those_of_the_annotation():
    told = json.loads(part(as_html(annotation(THREE), faces={1: b"jpeg"}), "data"))
    assert told["people"] == ["Ann", "Bo"] and [one["person"] for one in told["lines"]] == [0, 1, 0]
    names = [emotion["name"] for emotion in told["emotions"]]
    assert names == list(MELD.report_order)
    assert [one["emotion"] for one in told["lines"]] == [names.index("joy"), names.index("fear"), None]
    assert told["lines"][0]["probabilities"][names.index("joy")] == 0.8 and told["lines"][2]["probabilities"] == []
    assert [one["image"] for one in told["lines"]] == ["anBlZw==", None, None]
    assert told["lines"][1]["modalities"] == {"text": None, "audio": "no sound", "visual": None}
    assert (told["uncertain"], told["notes"], told["run"]) == (0.5, ["A note."], "folder video, seed 0")
    assert told["film"] == {"name": "", "source": "", "kind": "video", "type": ""}


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_a_small_film_is_inside_the_page_and_another_is_linked(size, tmp_path):
    (tmp_path / "out").mkdir()
    film = tmp_path / "my talk #1 & co.mp4"
    film.write_bytes(b"x" * size)
    page = as_html(annotation(THREE, video=film), beside=tmp_path / "out", embed=2)
    told = json.loads(part(page, "data"))
    assert (told["title"], told["film"]["name"], told["film"]["type"]) == (film.name, film.name, "video/mp4")
    link = "../my%20talk%20%231%20%26%20co.mp4"
    assert (told["film"]["source"], len(part(page, "film"))) == (("", 1336) if size < 2e6 else ("./" + link, 0))


def test_the_annotated_film_goes_before_the_recording_and_sound_alone_is_played_as_such(tmp_path):
    for name in ("talk.wav", "annotated.mp4"):
        (tmp_path / name).write_bytes(b"x")
    found = annotation(THREE, video=tmp_path / "talk.wav")
    sound = json.loads(part(as_html(found, beside=tmp_path, embed=0), "data"))["film"]
    assert sound == {"name": "talk.wav", "source": "./talk.wav", "kind": "audio", "type": ""}
    both = as_html(replace(found, film=tmp_path / "annotated.mp4"), beside=tmp_path, embed=0)
    assert json.loads(part(both, "data"))["film"]["source"] == "./annotated.mp4"
    found.save(tmp_path / "page.html")
    assert json.loads(part((tmp_path / "page.html").read_text(), "data"))["film"]["name"] == "talk.wav"


def test_nothing_that_a_line_says_leaves_the_data():
    made = annotation([line(1, text=EVIL, speaker=EVIL)])
    page = as_html(replace(made, notes=[EVIL], video=None), fingerprint='a"b<')
    plain = as_html(annotation([line(1)]))
    assert page.count("<script") == plain.count("<script") == 3 and page.count("</script>") == 3
    data = part(page, "data")
    assert not set("<>&") & set(data)
    told = json.loads(data)
    assert told["people"] == [EVIL] and told["lines"][0]["text"] == EVIL and told["notes"] == [EVIL]
    assert '<meta name="merc" content="a&quot;b&lt;">' in page


def test_the_page_asks_the_network_for_nothing():
    page = as_html(annotation(THREE))
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.]+", page))
    assert not {found for found in addresses if "." in found}
    assert "default-src 'none'" in page and not re.search(r"<(?:link|script|img|iframe)[^>]+(?:src|href)=", page)


def test_a_page_knows_what_it_was_made_of(tmp_path):
    assert page_fingerprint(tmp_path / "page.html") is None
    (tmp_path / "page.html").write_text("<html>")
    assert page_fingerprint(tmp_path / "page.html") is None
    (tmp_path / "page.html").write_text(as_html(annotation([]), fingerprint="12ab"))
    assert page_fingerprint(tmp_path / "page.html") == "12ab"


# --- in a browser


def in_chromium(page, folder):
    """The document after its script ran."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH: the page is not looked at in a browser")
    (folder / "page.html").write_text(page, encoding="utf-8")
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", *quiet]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [*command, (folder / "page.html").as_uri()], capture_output=True, timeout=120, check=True, encoding="utf-8"
    )
    return done.stdout


def rows_of(document):
    return re.findall(r'<li [^>]*role="option".*?</li>', document, re.DOTALL)


def text_of(element):
    return html.unescape(re.sub(r"<[^>]+>", " ", element))


def test_a_browser_shows_every_line_and_what_is_uncertain_or_missing(tmp_path):
    document = in_chromium(as_html(annotation(THREE), faces={1: b"jpeg"}), tmp_path)
    assert 'data-ready="3"' in document
    first, second, third = map(text_of, rows_of(document))
    assert "Ann" in first and "joy" in first and "80 %" in first and "?" not in first and "no face" not in first
    assert "? fear" in second and "30 %" in second and "without audio" in second
    assert "\u00d7 no emotion" in third and "no face" in third and "without text, audio, visual" in third
    assert "3 lines, 2 speakers; 1 uncertain, 1 without emotion" in document
    assert "The film is not known to this page" in text_of(document)


def test_a_browser_runs_no_script_of_a_line_and_says_that_it_cannot_play_a_film(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"this is no film")
    made = annotation([line(1, text=EVIL, speaker=EVIL)], video=tmp_path / "film.mp4")
    document = in_chromium(as_html(made, beside=tmp_path, embed=0), tmp_path)
    plain = in_chromium(as_html(annotation([line(1)])), tmp_path)
    assert "<title>film.mp4</title>" in document and 'data-ready="1"' in document
    [row] = rows_of(document)
    assert "onerror" in row and re.findall(r"<(\w+)", row) == re.findall(r"<(\w+)", rows_of(plain)[0])
    assert "film.mp4 cannot be played" in text_of(document)


def of_numbers():
    """Lines of a model of numbers alone; the last lacks all modalities."""
    lines = [line(number, emotion=None, values={"valence": 1.0 + number, "arousal": 2.5}) for number in (1, 2)]
    dimensions = {"valence": (1.0, 5.0), "arousal": (0.0, 5.0)}
    return Annotation([*lines, THREE[2]], LabelSet("numbers", ()), [], {}, dimensions=dimensions)


def test_a_browser_shows_the_numbers_of_a_model_without_emotions(tmp_path):
    made = of_numbers()
    told = json.loads(part(as_html(made), "data"))
    assert [(one["name"], one["low"], one["high"]) for one in told["dimensions"]] == [
        ("valence", 1.0, 5.0),
        ("arousal", 0.0, 5.0),
    ]
    document = in_chromium(as_html(made), tmp_path)
    first, _, third = map(text_of, rows_of(document))
    assert "valence 2.00, arousal 2.50" in first and "\u00d7 no numbers" in third
    assert "3 lines, 1 speaker; 1 without numbers" in document and "no emotion" not in text_of(first + third)
    widths = re.findall(r'<div class="fill" style="width: ([\d.]+)%', document)
    assert widths == ["25", "50"]  # of the first line, over both scales
    emotions_too = replace(annotation(THREE[:1]), dimensions=made.dimensions)
    emotions_too = replace(emotions_too, lines=[replace(THREE[0], values={"valence": 5.0, "arousal": 0.0})])
    document = in_chromium(as_html(emotions_too), tmp_path)
    assert "joy" in text_of(rows_of(document)[0]) and "1 lines, 1 speaker; 0 uncertain, 0 without emotion" in document
    assert re.findall(r'<div class="fill" style="width: ([\d.]+)%', document)[-2:] == ["100", "0"]


def test_keys_and_filters_of_numbers(tmp_path):
    told = told_by(
        as_html(of_numbers()),
        HELPERS
        + """
        const doubt = document.getElementById("doubt"), all = shown();
        doubt.value = "doubtful";
        change(doubt);
        return [all, shown(), document.getElementById("emotions").hidden];""",
        tmp_path,
    )
    assert told == [["line-0", "line-1", "line-2"], ["line-2"], True]


def told_by(page, actions, folder):
    """What a script of the test returns, after which the page's own ran."""
    script = f"document.body.dataset.told = JSON.stringify((() => {{{actions}}})());"
    allowed = page.replace("script-src '", f"script-src '{_hash(script)}' '", 1)
    document = in_chromium(allowed.replace("</body>", f"<script>{script}</script></body>"), folder)
    return json.loads(html.unescape(re.search(r'data-told="([^"]*)"', document)[1]))


HELPERS = """
    const list = document.getElementById("lines");
    const key = (name) => list.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
    const chosen = () => document.querySelector('[aria-selected="true"]')?.id ?? null;
    const shown = () => [...list.querySelectorAll("li[id]")].map((row) => row.id);
    const change = (element) => element.dispatchEvent(new Event("input", {bubbles: true}));
    const box = (place, index) => {
        const one = document.querySelectorAll(`#${place} input`)[index];
        one.checked = !one.checked;
        change(one);
    };
    const at = () => document.getElementById("clock").textContent.split(" / ")[0];
"""


def test_keys_choose_lines_and_move_in_the_film(tmp_path):
    told = told_by(
        as_html(annotation(THREE)),
        HELPERS
        + """
        const told = [[chosen(), at()]];
        for (const name of ["ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "ArrowUp", "u", "u", "u", "ArrowLeft"]) {
            key(name);
            told.push([chosen(), at()]);
        }
        return told;""",
        tmp_path,
    )
    first, second, third = (["line-0", "0:02.0"], ["line-1", "0:04.0"], ["line-2", "0:06.0"])
    begin = ["line-0", "0:00.0"]
    # `u` goes to what is uncertain or without emotion: the second and the third line.
    assert told == [begin, second, third, third, second, first, second, third, third, ["line-2", "0:04.0"]]


def test_filters_of_people_emotions_words_and_doubts(tmp_path):
    names = list(MELD.report_order)
    told = told_by(
        as_html(annotation([*THREE, line(4, text="Something else")])),
        HELPERS
        + f"""
        const told = [shown()];
        const doubt = document.getElementById("doubt"), search = document.getElementById("search");
        for (const act of [
            () => box("people", 0), () => box("people", 0), () => box("emotions", {names.index("joy")}),
            () => box("emotions", {names.index("joy")}), () => box("emotions", {len(names)}),
            () => box("emotions", {len(names)}), () => {{ doubt.value = "doubtful"; change(doubt); }},
            () => {{ doubt.value = "missing"; change(doubt); }},
            () => {{ doubt.value = "all"; search.value = "ELSE"; change(search); }},
            () => {{ search.value = "not said"; change(search); }},
        ]) {{ act(); told.push(shown().map((name) => Number(name.slice(5)))); }}
        return [...told.slice(1), document.getElementById("count").textContent, list.textContent];""",
        tmp_path,
    )
    without_ann, everything, no_joy, _, told_only, _, doubtful, missing, words, nothing, count, text = told
    assert (without_ann, everything, no_joy, told_only) == ([1], [0, 1, 2, 3], [1, 2], [0, 1, 3])
    assert (doubtful, missing, words, nothing) == ([1, 2], [1, 2], [3], [])
    assert (count, text) == ("0 of 4 lines", "No line passes the filters.")


def test_a_click_shows_why_something_is_missing_and_what_parts_say(tmp_path):
    page = as_html(annotation(THREE))
    data = json.loads(part(page, "data"))
    data["lines"][1]["parts"] = {"text": {"joy": 0.25, "anger": 0.75}}
    page = page.replace(part(page, "data"), json.dumps(data))
    told = told_by(
        page,
        HELPERS
        + """
        return [1, 2].map((number) => {
            document.getElementById(`line-${number}`).click();
            return document.getElementById("details").textContent;
        });""",
        tmp_path,
    )
    assert "Bo" in told[0] and "Without audio: no sound." in told[0] and "text alone: anger 75 %." in told[0]
    assert "Uncertain: the most probable emotion has less than 50 %." in told[0]
    assert "No emotion: all modalities are missing." in told[1] and "No face: no face was found." in told[1]


def test_a_browser_shows_an_annotation_without_lines(tmp_path):
    assert 'data-ready="0"' in in_chromium(as_html(annotation([])), tmp_path)


def test_a_browser_shows_thousands_of_lines(tmp_path):
    lines = [line(number, speaker=f"Person {number % 9}") for number in range(1, 2001)]
    document = in_chromium(as_html(annotation(lines), faces={one.line: b"x" * 2000 for one in lines}), tmp_path)
    assert 'data-ready="2000"' in document and len(rows_of(document)) == 2000
