"""Who speaks, where a transcript says it in its text: names before what is said, dashes, chevrons; sounds and music."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from merc.corpora.transcripts.lines import Line, TranscriptSource
from merc.rows import shown

_MARK = re.compile(r"(?:(>{2,}+|\u00bb)|([-\u2010\u2011\u2013\u2014\u2022](?!\d)))\s*+")
_OPEN, _CLOSE = "[(\uff08", "])\uff09"
# A name goes on to 60 characters only, so that the time stays linear in the length of the text.
_COLON = re.compile(
    r"([^\W\d_][^:\uff1a<>\[\](){}\uff08\uff09]{0,59}?)\s*+(?:[\[(\uff08]([^\[\]()\uff08\uff09]{0,60}+)[\])\uff09]\s*+)?"
    r"(?::(?=\s|$|[^\x00-\x7f])|\uff1a)\s*+"
)
_BRACKET = re.compile(
    r"(?:\[([^\[\]]{1,60}+)\]|\(([^()]{1,60}+)\)|\uff08([^\uff08\uff09]{1,60}+)\uff09|\u3010([^\u3010\u3011]{1,60}+)\u3011)"
    r"\s*+([:\uff1a])?\s*+"
)
_BOUNDARY = re.compile(
    r" (?=>{2,})|(?<=[.!?\u2026\"\u201d'\u2019)\]]) (?=[-\u2013\u2014]|[^\W\d_])|(?<=[。\uff01\uff1f])(?=[^\W\d_])"
)
_MUSIC = re.compile(
    "[\u2669-\u266c\U0001f3b5\U0001f3b6][^\u2669-\u266c\U0001f3b5\U0001f3b6]*+[\u2669-\u266c\U0001f3b5\U0001f3b6]*+"
)
_SOUND = re.compile(
    r"(?:(?:\[[^\[\]]*+\]|\([^()]*+\)|\uff08[^\uff08\uff09]*+\uff09|\u3010[^\u3010\u3011]*+\u3011|\*[^*]++\*)[\s.,!]*+)++"
    r"|#\s[^#]++#|(?:https?://|www\.)\S++"
)
_ID = re.compile(r"(?:speaker|spk|sprecher|locuteur|hablante)[ _-]?\w{1,3}|S\d{1,2}", re.IGNORECASE)
_NUMBERED = re.compile(r"\S.* ?(?:#\d{1,2}|\b\d{1,2})")
_PARTICLES = frozenset(
    "de del della der den di da do dos das du la le las los van von zu zur y e i bin ibn al el the of and".split()
)
_SAID = ("说", "道", "问", "答", "喊", "想", "說", "問", "言う", "言った")
_NO_NAMES = frozenset(
    (
        "answer attention caution chapter conclusion correction definition episode example fact http https "
        "note notes part ps p.s. question re remember result rule scene source step subtitles summary sync "
        "tip title translation warning www"
    ).split()
)
_SOUNDS = frozenset(
    (
        "applause beep beeps chuckle chuckles cough coughs cries cry exhales gasp gasps giggles groans grunts "
        "inaudible indistinct inhales laugh laughs laughter moans mumbles music noise pause scoffs screams "
        "shouts sighs sigh silence singing sings snorts sniffles sniffs sobs sobbing unintelligible whispers "
        "yawns yells"
    ).split()
)
_MOST_WORDS = 5


@dataclass(frozen=True, slots=True)
class _Label:
    """A name that text may begin with.

    Args:
        name: As it is written, without its addition: ``BOB`` of ``BOB (on phone)``.
        kind: ``id``, ``title``, ``caps``, ``caseless`` or ``lower``, by its letters.
        colon: Whether a colon stands behind it.
        sure: Whether its form alone says that it is one.
        end: Where in the text it ends.
    """

    name: str
    kind: str
    colon: bool
    sure: bool
    end: int

    @property
    def key(self) -> str:
        return self.name.casefold()


@dataclass(frozen=True, slots=True)
class _Row:
    """A part of a line that one person says.

    Args:
        turn: Whether another one begins to speak, as a dash or chevron says.
        chevron: Whether it is a chevron that says so.
        label: The name before it, if it may have one.
        text: All of it but dash or chevron.
    """

    turn: bool
    chevron: bool
    label: _Label | None
    text: str


def find_speakers(lines: Sequence[Line], source: TranscriptSource) -> list[Line]:
    """Lines with their text on one row, without sounds, and with the names in their text as speakers.

    A name is taken for one by its form (``[SPEAKER_00]:``, ``MAN #1:``, ``>> ANN:``), or because it comes twice or most
    lines have one; ``Remember: no notes.`` is text. A dash or chevron begins the words of another speaker, who is
    unknown if no name follows. A subtitle with several speakers gives several lines of the same times.
    """
    cues = [_rows(line) for line in lines]
    names = _accepted(cues, lines)
    chevrons = sum(row.chevron for cue in cues for row in cue) > 1
    found: list[Line] = []
    sounds: list[str] = []
    empty, shared, before = 0, 0, None
    for line, cue in zip(lines, cues, strict=True):
        turns = list(_turns(line, cue, names, before if chevrons else None))
        said = [turn for turn in turns if turn.text]
        if said:
            before = said[-1].speaker
        elif line.text.strip():
            sounds.append(line.text)
        else:
            empty += 1
        shared += len(said) > 1
        found += said
    name = source.path.name
    if sounds:
        source.notes.append(
            f"{len(sounds)} lines of {name} are sounds, music or links, such as {shown(' '.join(sounds[0].split()))}, "
            "and were left out."
        )
    if empty:
        source.notes.append(f"{empty} lines of {name} have no text and were left out.")
    if shared:
        source.notes.append(
            f"{shared} subtitles of {name} hold several speakers. Their lines have the same times, so that sound and "
            "face are those of all of them: at most one of the lines has its own speaker's face."
        )
    return found


def _rows(line: Line) -> list[_Row]:
    text = _MUSIC.sub("\n", line.text)
    rows = [" ".join(row.split()) for row in text.splitlines()]
    rows = [row for row in rows if row]
    dashes = sum(match is not None and match[2] is not None for match in map(_MARK.match, rows))
    found: list[_Row] = []
    for index, row in enumerate(rows):
        mark = _MARK.match(row)
        dash = mark is not None and mark[2] is not None
        for number, part in enumerate(_parts(row, dashed=dash)):
            mark = _MARK.match(part)
            chevron = mark is not None and mark[1] is not None
            # A single dash at the start of a line changes nothing.
            turn = chevron or (mark is not None and (dashes > 1 or index > 0 or number > 0 or (dash and _splits(row))))
            rest = part if mark is None else part[mark.end() :]
            label = None if line.speaker else _label(rest, chevron=chevron, last=index == len(rows) - 1)
            found.append(_Row(turn, chevron, label, rest))
    return found


def _splits(row: str) -> bool:
    return sum(1 for _ in _parts(row, dashed=True)) > 1


def _parts(row: str, *, dashed: bool) -> Iterator[str]:
    """A row, divided before chevrons, before names behind a sentence, and before dashes if it begins with one."""
    first = _label(row[:130].lstrip("-\u2010\u2011\u2013\u2014\u2022> "))
    start, named = 0, first.end if first else 0
    for match in _BOUNDARY.finditer(row):
        if match.end() < named:  # "DR. BEN: "
            continue
        behind = row[match.end() : match.end() + 130]
        mark = _MARK.match(behind)
        label = None if mark else _label(behind)
        if (mark and (mark[1] or dashed)) or (label and label.colon and label.kind != "lower"):
            yield row[start : match.start()]
            start = match.end()
            named = start + (label.end if label else 0)
    yield row[start:]


def _label(text: str, *, chevron: bool = False, last: bool = True) -> _Label | None:
    """The name that a text seems to begin with; a name in brackets alone is one if rows follow."""
    if bracket := _BRACKET.match(text):
        inner = next(group for group in bracket.groups()[:4] if group is not None).strip()
        name = re.split(r"\s*[,\uff0c(\uff08:\uff1a]", inner, maxsplit=1)[0].strip()
        kind, colon = _kind(name), bracket[5] is not None
        if kind is None or (last and bracket.end() == len(text) and not colon):
            return None
        numbered = kind in ("title", "caps") and _NUMBERED.fullmatch(name) is not None
        sure = kind == "id" or numbered or (colon and not _is_sound(name))
        return _Label(name, kind, colon, sure, bracket.end())
    if prefix := _COLON.match(text):
        name = prefix[1].strip()
        kind = _kind(name)
        if kind is None:
            return None
        caps = kind == "caps" and (prefix[2] is not None or _NUMBERED.fullmatch(name) is not None)
        numbered = "#" in name and kind != "lower"
        sure = kind == "id" or caps or numbered or (chevron and kind != "lower")
        return _Label(name, kind, True, sure, prefix.end())
    return None


def _kind(name: str) -> str | None:
    words = name.split()
    if not 0 < len(words) <= _MOST_WORDS or len(name) > 40 or not any(map(str.isalpha, name)):
        return None
    if words[0].casefold().strip(".") in _NO_NAMES or name.endswith(_SAID):
        return None
    if _ID.fullmatch(name):
        return "id"
    if name.lower() == name.upper():
        return "caseless" if len(name) <= 16 else None
    if name == name.upper():
        return "caps"
    if name[0].isupper() and all(not word[0].islower() or word in _PARTICLES for word in words):
        return "title"
    return "lower"


def _is_sound(name: str) -> bool:
    """Whether a word in brackets, and before text, is how it is said rather than by whom."""
    word = name.split()[-1].casefold()
    return word in _SOUNDS or (len(name.split()) == 1 and word.endswith("ing"))


def _accepted(cues: Sequence[Sequence[_Row]], lines: Sequence[Line]) -> dict[str, str]:
    """The names by their folded form: of several ways of writing one, the usual, and rather not the one in capitals."""
    labels = [[row.label for row in cue if row.label] for cue in cues]
    every = [label for cue in labels for label in cue]
    count = Counter(label.key for label in every)
    spelled: dict[str, Counter[str]] = defaultdict(Counter)
    for label in every:
        spelled[label.key][label.name] += 1
    capital = sum(any(label.colon and label.kind != "lower" for label in cue) for cue in labels)
    usual = 2 * capital >= len(cues)
    nearly_all = len(cues) > 1 and sum(any(label.colon for label in cue) for cue in labels) >= 0.8 * len(cues)
    alone = {_inner(line.text).casefold() for line in lines if _SOUND.fullmatch(line.text.strip())}
    shouted = not any(character.islower() for line in lines for character in line.text)
    names = set()
    for label in every:
        if label.kind == "lower":
            accepted = nearly_all and label.colon
        elif label.colon:
            accepted = label.sure or usual or count[label.key] > 1
        else:
            doubtful = _is_sound(label.name) or label.key in alone
            accepted = label.sure or (count[label.key] > 1 and not doubtful)
        if accepted:
            names.add(label.key)
    bracketed = any(label.key in names and not label.colon for label in every)
    once = set()  # but among others that are names
    for label in every:
        if label.colon and label.kind == "caps":
            accepted = bool(names) and not shouted
        else:
            accepted = bracketed and not label.colon and label.kind != "lower" and not _is_sound(label.name)
        if accepted and label.key not in alone:
            once.add(label.key)
    names |= once
    return {
        key: max(spelled[key], key=lambda name: (name != name.upper() or name == name.lower(), spelled[key][name]))
        for key in names
    }


def _inner(text: str) -> str:
    return text.strip().strip("[]()\uff08\uff09\u3010\u3011*., ")


def _turns(line: Line, rows: Sequence[_Row], names: dict[str, str], before: str | None) -> Iterator[Line]:
    """What each speaker of a line says, in order."""
    speaker = line.speaker if line.speaker is not None or (rows and rows[0].turn) else before
    said: list[str] = []
    count = 0
    for row in rows:
        name = names.get(row.label.key) if row.label else None
        if (row.turn or name is not None) and line.speaker is None:
            if said:
                yield _turn(line, speaker, said, whole=False)
                count += 1
            speaker, said = name, []
        text = row.text[row.label.end :] if name is not None and row.label else row.text
        if text and not _SOUND.fullmatch(text):
            said.append(text)
    yield _turn(line, speaker, said, whole=count == 0)


def _turn(line: Line, speaker: str | None, said: Sequence[str], *, whole: bool) -> Line:
    return replace(line, text=" ".join(said), speaker=speaker, words=line.words if whole else ())
