"""Text in every encoding: read as it was written, or refused; never as other letters."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from merc.code_pages import CODE_PAGES, guess_code_page
from merc.conversation import CorpusError
from merc.decoding import decode, map_controls

SAID = {
    "Russian": ["Ты получил письмо?", "Да, и я его ненавижу!", "Мне очень жаль.", "Что ты будешь делать теперь?"],
    "Ukrainian": ["Ти отримав листа?", "Так, і я його ненавиджу!", "Мені дуже шкода.", "Що ти збираєшся робити?"],
    "French": ["Tu as reçu la lettre ?", "Oui, et je la déteste !", "Je suis désolée.", "Où, à l'école ?"],
    "German": ["Hast du den Brief bekommen?", "Ja, für immer!", "Es tut leid, Jürgen.", "Ich weiß es nicht, schön."],
    "Spanish": ["¿Recibiste la carta, señor?", "Sí, ¡y la odio!", "Lo siento mucho, niña.", "¿Qué vas a hacer mañana?"],
    "Polish": ["Dostałeś list?", "Tak, i nienawidzę go!", "Bardzo mi przykro.", "Nie wiem, muszę pomyśleć."],
    "Czech": ["Dostal jsi ten dopis?", "Ano, a nenávidím ho!", "Je mi to moc líto, příteli.", "Co chceš teď dělat?"],
    "Turkish": ["Mektubu aldın mı?", "Evet, ondan nefret ediyorum!", "Çok üzgünüm, gerçekten.", "Şimdi ne yapacaksın?"],
    "Greek": ["Πήρες το γράμμα;", "Ναι, και το μισώ!", "Λυπάμαι πολύ.", "Τι θα κάνεις τώρα;"],
    "Hebrew": ["קיבלת את המכתב?", "כן, ואני שונא אותו!", "אני מצטער מאוד.", "מה תעשה עכשיו?"],
    "Arabic": ["هل استلمت الرسالة؟", "نعم، وأنا أكرهها!", "أنا آسف جدا.", "ماذا ستفعل الآن؟"],
    "Thai": ["คุณได้รับจดหมายไหม", "ใช่ ฉันเกลียดมัน", "ฉันขอโทษ", "คุณจะทำอะไร"],
    "Chinese": ["你收到信了吗？", "收到了，我很讨厌它！", "对不起。", "你现在要做什么？"],
    "Taiwanese": ["你收到信了嗎？", "收到了，我很討厭它！", "對不起。", "你現在要做什麼？"],
    "Japanese": ["手紙を受け取りましたか？", "はい、大嫌いです！", "ごめんなさい。", "これからどうするの？"],
    "Korean": ["편지 받았어?", "응, 정말 싫어!", "정말 미안해.", "이제 뭐 할 거야?"],
    "English": ["It\u2019s fine \u2013 so\u2026", "\u201cI did,\u201d he said.", "No.", "Se\u00f1or, a caf\u00e9."],
}  # fmt: skip
PAGES = [
    ("Russian", "cp1251", True), ("Russian", "koi8-r", True), ("Russian", "cp866", True),
    ("Russian", "iso8859-5", True),
    ("Ukrainian", "cp1251", True), ("French", "cp1252", True), ("French", "mac-roman", False),
    ("German", "cp1252", True), ("German", "cp850", False), ("Spanish", "cp1252", True), ("Polish", "cp1250", True),
    ("Polish", "iso8859-2", True), ("Czech", "cp1250", True), ("Turkish", "cp1254", True), ("Greek", "cp1253", True),
    ("Greek", "iso8859-7", True), ("Hebrew", "cp1255", False), ("Arabic", "cp1256", True), ("Thai", "cp874", True),
    ("Chinese", "gbk", True), ("Taiwanese", "big5", True), ("Japanese", "shift_jis", True),
    ("Japanese", "euc_jp", True),
    ("Korean", "cp949", True), ("English", "cp1252", True),
]  # fmt: skip
"""Language, code page, and whether its text is recognised; otherwise it is refused."""


def write(folder, content):
    path = folder / "a.srt"
    path.write_bytes(content)
    return path


def subtitles(lines):
    return "".join(f"{n}\n00:00:{n:02},000 --> 00:00:{n:02},900\n{text}\n\n" for n, text in enumerate(lines, start=1))


@pytest.mark.parametrize(("language", "page", "known"), PAGES)
def test_a_code_page_is_recognised_or_refused(tmp_path, language, page, known):
    text = subtitles(SAID[language])
    path = write(tmp_path, text.encode(page))
    if known:
        found = decode(path)
        assert found.text == text and found.legacy in CODE_PAGES
        assert f"were not UTF-8 and were read as {found.legacy}" in found.notes[0]
    else:
        with pytest.raises(CorpusError, match=r"a\.srt, line \d: it is not UTF-8, .*--encoding"):
            decode(path)
    assert decode(path, page).text == text


@pytest.mark.parametrize(("language", "page"), [(language, page) for language, page, _ in PAGES if page != "cp850"])
def test_few_lines_of_a_code_page_are_never_read_as_other_letters(tmp_path, language, page):
    for count in (2, 3):
        text = subtitles(SAID[language][:count])
        for changed in (text, text.lower(), text.upper()):
            try:
                data = changed.encode(page)
            except UnicodeEncodeError:
                continue  # a capital that the code page lacks
            try:
                assert decode(write(tmp_path, data)).text == changed
            except CorpusError as error:
                assert "--encoding" in str(error)


def test_what_could_be_several_is_shown_in_each(tmp_path):
    with pytest.raises(CorpusError) as caught:
        decode(write(tmp_path, "Lo siento mucho, niña.".encode("cp1252")))
    assert "cp1252 ('Lo siento mucho, niña.'), cp1250 ('Lo siento mucho, nińa.')" in str(caught.value)


def test_a_byte_order_mark_decides(tmp_path):
    text = "1\r\nZoë: 你好\n"
    for encoding in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        found = decode(write(tmp_path, ("\ufeff" + text).encode(encoding)))
        assert found.text == text and found.notes == [f"a.srt was read as {encoding}."]
    found = decode(write(tmp_path, codecs.BOM_UTF8 + text.encode()))
    assert (found.text, found.lines, found.notes) == (text, ["1\r\n", "Zoë: 你好\n"], [])
    assert decode(write(tmp_path, codecs.BOM_UTF8 + text.encode()), "utf-8").text == text


def test_zero_bytes_are_utf_16_or_no_text(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        assert decode(write(tmp_path, "Hi there.\n".encode(encoding))).text == "Hi there.\n"
    for content in (b"Hi\nthere\0.", "\ufeffHi\nthere\0.".encode("utf-16-le")):
        with pytest.raises(CorpusError, match="line 2: holds zero bytes"):
            decode(write(tmp_path, content))


def test_a_given_encoding_must_exist_and_fit(tmp_path):
    path = write(tmp_path, b"a\nb\xff\n")
    for name in ("cp12510", "rot13", "base64", "\0"):
        with pytest.raises(CorpusError, match=r"there is no encoding .* such as utf-8"):
            decode(path, name)
    with pytest.raises(CorpusError, match=r"line 2: it is not utf-8 .* Name the right encoding"):
        decode(path, "UTF8")


def test_punctuation_that_was_converted_to_control_characters_is_mapped(tmp_path):
    path = write(tmp_path, "I can\x92t\x85 he\x92s late\nno\x97\x81\nyes\n".encode())
    found = decode(path)
    assert found.text == "I can\u2019t\u2026 he\u2019s late\nno\u2014\nyes\n"
    [note] = found.notes
    assert note.startswith("a.srt: 2 lines had control characters")


@given(text=st.text(st.characters(max_codepoint=0x2FFF, exclude_characters="\0\ufeff", exclude_categories=("Cs",))))
def test_utf8_is_read_as_it_is(tmp_path_factory, text):
    found = decode(write(tmp_path_factory.mktemp("utf8"), text.encode()))
    assert found.text == map_controls(text) and found.legacy is None
    assert [map_controls(line) for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line] == [
        line.strip("\r\n") for line in found.lines if line.strip("\r\n")
    ]


@given(data=st.binary(max_size=60))
def test_bytes_are_decoded_or_refused(tmp_path_factory, data):
    path = write(tmp_path_factory.mktemp("bytes"), data)
    try:
        assert "\0" not in decode(path).text
    except CorpusError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("data", [b"\xe9" * 200_000, b"a\xe9 " * 100_000, "你".encode("gbk") * 100_000])
def test_guessing_takes_linear_time(data):
    assert guess_code_page(data)[1]
