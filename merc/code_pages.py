"""Which code page old text is in: tried one by one, and accepted only where no other reading makes sense.

Statistics of characters alone (charset-normalizer) misread one in four short subtitle files, and do not say so. Here
they decide only between readings that are words of some language in their own right.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping

from charset_normalizer import from_bytes

CODE_PAGES = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874", "iso8859_2", "iso8859_7",
    "iso8859_5", "mac_cyrillic", "koi8_r", "koi8_u", "cp866", "gb18030", "big5", "cp932", "euc_jp", "cp949",
)  # fmt: skip
"""Encodings that are tried, in this order. Of two that read the same text, the first is named."""

_LETTERS: Mapping[str, Iterable[str]] = {
    "cp1252": (
        "àâæçèéêëîïôœùûüÿ", "äöüßé", "áéíñóúüªº", "áâãàçéêíóôõúü", "àèéìíîòóùú", "áäéèëïíóöúü", "æøåéèêòóôü",
        "åäöéü", "áðéíóúýþæö", "äöüõšž", "àáçèéíïòóúü·", "ëçâ",
    ),
    "cp1250": ("ąćęłńóśźż", "áčďéěíňóřšťúůýžö", "áäčďéíĺľňóôŕšťúýž", "áéíóöőúüű", "čćđšž", "ăâîşţ", "äöüßé", "ëç"),
    "cp1254": ("âçğıîöşüûi\u0307",),
    "cp1257": ("ąčęėįšųūž", "āčēģīķļņšūž", "äõöüšž"),
    "cp1251": (
        "абвгдеёжзийклмнопрстуфхцчшщъыьэюя", "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",
        "абвгдеёжзійклмнопрстуўфхцчшыьэюя", "абвгдђежзијклљмнњопрстћуфхцчџш",
        "абвгдѓежзѕијклљмнњопрстќуфхцчџш",
    ),
    "cp1253": ("αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΐΰ",),
    "cp874": ("กขคฆงจฉชซฌญฎฏฐฑฒณดตถทธนบปผฝพฟภมยรฤลวศษสหฬอฮฯะัาำิีึืฺุูเแโใไๅๆ็่้๊๋์ํ",),
    "cp1255": ("אבגדהוזחטיכךלמםנןסעפףצץקרשת",),
    "cp1256": ("ءآأؤإئابةتثجحخدذرزسشصضطظعغفقكلمنهوىيپچژگـ",),
}  # fmt: skip
"""Letters of languages, besides those of ASCII, by the first code page that holds them."""

_SAME_LETTERS = {
    "iso8859_2": "cp1250", "iso8859_7": "cp1253", "iso8859_5": "cp1251", "koi8_r": "cp1251", "koi8_u": "cp1251",
    "cp866": "cp1251", "mac_cyrillic": "cp1251",
}  # fmt: skip
_ALPHABETS = {page: [frozenset(letters) for letters in alphabets] for page, alphabets in _LETTERS.items()}
_COMMON_HANZI = frozenset(
    "的一是不了我你他她在有这這那个個们們来來说說到大就上也好要会會可没沒对對起什么麼吗嗎吧呢啊很知道想去看人都还還"
    "和为為能过過下得着著做让讓里裡谁誰怎样樣真叫给給家现現事天再快走别別等小多后後心今请請问問太因为為"
)
_ENGLISH = frozenset("and are for i'm is it it's my not of that the this was what with yeah yes you your".split())
_LOANS = frozenset("àâäçèéêëîïñóôöûü")
_FREQUENT = {
    "cp1251": "оеаинті", "cp1253": "αεηιοτσςνάέήίό", "cp1255": "יוהלאמ", "cp1256": "اليمونه", "cp874": "านรอกเง่ัีมย",
}  # fmt: skip
"""Letters that make up 40 to 50 % of any text in these scripts."""
_VOWELS = frozenset("аеёиоуыэюяіїєўр")
# Final letters inside a word, marks and vowels on nothing.
_MISPLACED = re.compile(
    r"[ךםןףץ](?=[\u05d0-\u05ea])|ς(?=[α-ώ])|σ(?![α-ώ])"
    r"|(?<![\u0e01-\u0e5b])[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]|[\u0e40-\u0e44](?![\u0e01-\u0e2e])"
)
_MOST = 100_000
"""Characters of a file that are looked at: enough for any statistics."""


def guess_code_page(data: bytes) -> tuple[str | None, list[str]]:
    """The code page of text that is not UTF-8, if there is little doubt.

    Args:
        data: Lines with bytes above 127.

    Returns:
        The code page, or ``None`` if none makes sense or several do; and those that make sense.
    """
    sample = data[:_MOST]
    readings: dict[str, list[str]] = {}
    for page in CODE_PAGES:
        text = _decoded(data, page)
        if text is not None and _makes_sense(_decoded(sample, page) or text[:_MOST], page):
            readings.setdefault(text, []).append(page)
    pages = [same[0] for same in readings.values()]
    if len(pages) <= 1:
        return (pages[0] if pages else None), pages
    if "cp1252" in pages and _is_english(sample.decode("cp1252", "replace")):
        return "cp1252", pages
    matches = [match for match in from_bytes(sample, cp_isolation=pages) if match.encoding in pages]
    scores = sorted(((match.coherence, match.encoding) for match in matches), reverse=True)
    if scores and scores[0][0] >= 0.3 and (len(scores) == 1 or scores[0][0] >= scores[1][0] + 0.2):
        return scores[0][1], pages
    return None, pages


def _decoded(data: bytes, page: str) -> str | None:
    try:
        return data.decode(page)
    except UnicodeDecodeError:
        return None


def _makes_sense(text: str, page: str) -> bool:
    """Whether everything that is not ASCII is words of one language, or punctuation beside words."""
    foreign = {character for character in text if character > "\x7f"}
    if any(unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs") for character in foreign):
        return False
    letters = {character for character in foreign if unicodedata.category(character)[0] in "LM"}
    if page in ("gb18030", "big5", "cp932", "euc_jp", "cp949"):
        return _is_east_asian(text, page)
    if _MISPLACED.search(text):
        return False
    script = _SAME_LETTERS.get(page, page)
    lower = {part for letter in letters for part in letter.lower()}
    if letters and not any(lower <= alphabet for alphabet in _ALPHABETS[script]):
        if not (page == "cp1252" and lower <= _LOANS and _is_english(text)):
            return False
    if script in _FREQUENT:
        counts = Counter(letter for letter in text.lower() if letter in lower)
        if sum(counts[letter] for letter in _FREQUENT[script]) < 0.3 * counts.total():
            return False
    if script == "cp1251" and not _is_voiced(text):
        return False
    # Without letters it is punctuation, and of that the Windows code pages agree: the first is as good as any.
    return (bool(letters) or page == "cp1252") and not _has_mixed_words(text)


_WORD = re.compile(r"[^\W\d_]+")
_BEHIND = re.compile(r"(?<=[^\W\d_])(?:[^\w\x00-\x7f]|[¹²³¼½¾])(?=([^\W\d_])?)")


def _has_mixed_words(text: str) -> bool:
    """Whether a word mixes scripts, has capitals after small letters, or a symbol between its letters."""
    for match in _BEHIND.finditer(text):
        kind = unicodedata.category(match[0])
        if (kind[0] in "SN" or match[0] in "¶§†‡·") and match[0] not in "™®©°\u00b4":
            return True
        if match[1] and kind[0] == "P" and match[0] not in "\u2019\u2018\u2026\u2013\u2014\u2011·":
            return True
    for match in _WORD.finditer(text):
        word = match[0]
        if not word.isascii() and (len({_script(letter) for letter in word}) > 1 or _RAGGED.search(_cases(word))):
            return True
    return False


_RAGGED = re.compile("aB|b[AB]|[AB][AB]b|(?:AB|B[AB])a")  # a capital behind a small letter, or a small one behind two


def _cases(word: str) -> str:
    """A letter for each of a word: ``a`` small, ``A`` capital, ``b`` and ``B`` if it is not ASCII."""
    return "".join(
        ("A" if letter.isascii() else "B") if letter.isupper() else "a" if letter.isascii() else "b" for letter in word
    )


def _script(letter: str) -> str:
    if letter < "\u0250":
        return "LATIN"
    name = unicodedata.name(letter, "").split(" ")[0]
    return "EAST ASIAN" if name in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "KATAKANA-HIRAGANA") else name


_GLUED = re.compile(r"[A-Za-z][^\x00-\x7f\W]|[^\x00-\x7f\W][A-Za-z]")


def _is_east_asian(text: str, page: str) -> bool:
    wide = [letter for letter in text if letter > "\x7f" and unicodedata.category(letter)[0] in "LM"]
    if not wide or any(_script(letter) != "EAST ASIAN" or "\uff61" <= letter <= "\uff9f" for letter in wide):
        return False
    if len(_GLUED.findall(text)) > 0.2 * len(wide):
        return False
    kana = sum("\u3040" <= letter <= "\u30ff" for letter in wide) / len(wide)
    hangul = sum("\uac00" <= letter <= "\ud7a3" for letter in wide) / len(wide)
    if page in ("cp932", "euc_jp"):
        return kana >= 0.3
    if page == "cp949":
        usual = sum(_is_usual_hangul(letter) for letter in wide) / len(wide)
        return hangul >= 0.9 and usual >= 0.95 * hangul
    common = sum(letter in _COMMON_HANZI for letter in wide) / len(wide)
    return common >= 0.1 and kana < 0.1 and hangul == 0


def _is_usual_hangul(letter: str) -> bool:
    """Whether it is one of the 2,350 syllables of KS X 1001; chance gives the other 8,822."""
    try:
        return "\uac00" <= letter <= "\ud7a3" and len(letter.encode("euc_kr")) == 2
    except UnicodeEncodeError:
        return False


def _is_voiced(text: str) -> bool:
    """Whether nearly all longer words of Cyrillic text have a vowel (or the r of Serbian)."""
    words = [word for word in map(str.lower, _WORD.findall(text)) if len(word) > 2 and not word.isascii()]
    return sum(_VOWELS.isdisjoint(word) for word in words) <= 0.1 * len(words)


def _is_english(text: str) -> bool:
    words = re.findall(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?", text.lower())
    return sum(word.replace("\u2019", "'") in _ENGLISH for word in words) >= 0.1 * max(len(words), 1)
