"""The IEMOCAP reader: annotation and transcripts of the licensed release, and its split protocols."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from merc.conversation import Clip, Conversation, Corpus, CorpusError, Utterance
from merc.decoding import decode
from merc.labels import IEMOCAP6, MergeRule, merge_rule

USUAL_VALIDATION = (
    "Ses01M_impro01",
    "Ses01M_script03_1",
    "Ses02F_impro02",
    "Ses02F_impro07",
    "Ses02M_script01_2",
    "Ses03F_impro01",
    "Ses03M_impro02",
    "Ses03M_impro08a",
    "Ses03M_script02_2",
    "Ses03M_script03_2",
    "Ses04F_impro07",
    "Ses04F_script02_1",
)
"""The validation dialogues that most papers use when session 5 is the test set."""

SESSIONS = (1, 2, 3, 4, 5)

_Rating = tuple[float, float, str, dict[str, float] | None]

_CODES = ("hap", "sad", "neu", "ang", "exc", "fru")
_OUTSIDE = {"xxx", "sur", "fea", "dis", "oth"}
_ID = re.compile(r"(?P<dialogue>Ses0(?P<session>[1-5])(?P<marker>[FM])_.+)_(?P<speaker>[FM])(?:\d{3}|XX\d)")
_SPAN = r"\[\s*(\d{1,9}(?:\.\d+)?)\s*-\s*(\d{1,9}(?:\.\d+)?)\s*\]"  # 400 digits would be infinite
_TURN = re.compile(rf"(\S+) {_SPAN}:\s*(.*)")
_RATING = re.compile(rf"{_SPAN}\t(\S+)\t(\w+)\t\[(.*)\]")
_NUMBER = re.compile(r"\d{1,3}(?:\.\d{1,9})?")
_DIMENSIONS = {"valence": (1.0, 5.0), "activation": (1.0, 5.0), "dominance": (1.0, 5.0)}


def speaker_half(utterance_id: str) -> Literal["left", "right"]:
    """The half of IEMOCAP's video frame in which the speaker of an utterance sits.

    Frames are 480x720 with two half-frames of 360 columns. The actor who wears the markers, the sixth
    character of the id, is on the left.

    Args:
        utterance_id: For example ``Ses01F_impro01_M000``.

    Raises:
        ValueError: This is no utterance id of IEMOCAP.
    """
    match = _parts(utterance_id)
    return "left" if match["speaker"] == match["marker"] else "right"


_HALVES = {"left": (0.0, 0.0, 0.5, 1.0), "right": (0.5, 0.0, 1.0, 1.0)}


def speaker_of(utterance_id: str) -> str:
    """The actor who speaks an utterance, as session and sex (``Ses01F``).

    Args:
        utterance_id: For example ``Ses01F_impro01_M000``.

    Raises:
        ValueError: This is no utterance id of IEMOCAP.
    """
    match = _parts(utterance_id)
    return f"Ses0{match['session']}{match['speaker']}"


def _parts(utterance_id: str) -> re.Match[str]:
    match = _ID.fullmatch(utterance_id)
    if match is None:
        raise ValueError(f"{utterance_id!r} is no utterance id of IEMOCAP: expected one like Ses01F_impro01_M000.")
    return match


@dataclass(frozen=True)
class IemocapSplit:
    """Which dialogues are validation and test; all others train.

    Args:
        validation: Dialogue ids.
        test: Dialogue ids.
        protocol: The rule in words, for reports.
    """

    validation: frozenset[str]
    test: frozenset[str]
    protocol: str


def split_iemocap(
    dialogues: Mapping[str, int],
    *,
    protocol: Literal["session5", "loso"] = "session5",
    fold: int | None = None,
    validation: Literal["usual"] | float | Sequence[str] = "usual",
    seed: int = 0,
) -> IemocapSplit:
    """Choose the validation and test dialogues of IEMOCAP.

    ``session5`` tests on session 5, as most papers do; ``loso`` leaves out one session a fold. The usual
    validation dialogues are of sessions 1 to 4. When one of these is the test session, its validation
    dialogues are replaced by as many of session 5, those that come first in the order of a hash of seed
    and id, which depends on neither platform nor order of reading. So fold 5 is ``session5``.

    Args:
        dialogues: Session of every dialogue.
        protocol: ``session5`` or ``loso``.
        fold: Test session 1..5 of ``loso``.
        validation: ``usual``, a fraction in (0, 1) of the dialogues that are not test, or dialogue ids.
        seed: Decides the drawn validation dialogues.

    Raises:
        ValueError: Protocol, fold or validation is not one of those.
        CorpusError: A validation dialogue is not in the corpus or is test.
    """
    if protocol not in ("session5", "loso"):
        raise ValueError(f"Unknown protocol {protocol!r}: expected session5 or loso.")
    if (protocol == "loso") != (fold is not None) or fold not in (None, *SESSIONS):
        expected = "a fold from 1 to 5" if protocol == "loso" else "no fold"
        raise ValueError(f"Protocol {protocol} takes {expected}, got fold {fold}.")
    left_out = fold or 5
    test = frozenset(name for name, session in dialogues.items() if session == left_out)
    rest = sorted(set(dialogues) - test)
    if isinstance(validation, str):
        if validation != "usual":
            raise ValueError(f"Unknown validation {validation!r}: expected usual, a fraction or dialogue ids.")
        fitting = [name for name in USUAL_VALIDATION if not name.startswith(f"Ses0{left_out}")]
        drawn = draw([name for name in rest if dialogues[name] == 5], len(USUAL_VALIDATION) - len(fitting), seed)
        chosen, rule = [*fitting, *drawn], "the usual validation dialogues"
        if drawn:
            rule += f", those of session {left_out} replaced by {', '.join(sorted(drawn))} (seed {seed})"
    elif isinstance(validation, float | int):
        if not 0 < validation < 1:
            raise ValueError(f"The validation fraction is {validation}, expected one between 0 and 1.")
        chosen = draw(rest, max(1, math.floor(validation * len(rest))), seed)
        rule = f"{validation:.0%} of the other dialogues drawn as validation (seed {seed})"
    else:
        chosen, rule = list(validation), f"{len(validation)} validation dialogues as given"
    if wrong := sorted(set(chosen) - set(rest)):
        raise CorpusError(
            f"Validation dialogues {', '.join(wrong)} are not among the {len(rest)} that are not test: expected "
            "dialogue ids of the other sessions. Complete the corpus, or give a fraction or other ids as validation."
        )
    name = "session 5 is test" if protocol == "session5" else f"leave one session out, fold {left_out}: it is test"
    return IemocapSplit(frozenset(chosen), test, f"IEMOCAP, {name}; {rule}")


def draw(names: Sequence[str], count: int, seed: int) -> list[str]:
    """Draw ``count`` names in the order of a hash of seed and name.

    Unlike a shuffle this depends on neither platform nor library version nor the order of ``names``.
    """
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())[:count]


def read_iemocap(
    root: str | Path,
    *,
    protocol: Literal["session5", "loso"] = "session5",
    fold: int | None = None,
    merge: Literal["six", "excited-as-happy", "excited-dropped"] = "six",
    validation: Literal["usual"] | float | Sequence[str] = "usual",
    seed: int = 0,
    faces: Literal["half", "whole"] = "half",
) -> Corpus:
    """Read IEMOCAP (Busso et al. 2008) from the folders of its release.

    Every transcribed turn is an utterance; those whose label is outside the set (``xxx``, ``sur``,
    ``fea``, ``dis``, ``oth``) or that were not rated stay as context without a label. The partition is
    the session, so that features serve every fold. Valence, activation and dominance, means of raters on scales from
    1 to 5, are the ``values`` of an utterance, whatever its label. Sound is that of the sentences' own files; the
    picture is the span of the dialogue's video (``dialog/avi/DivX``, where it is there). Of its frame it is the half in
    which the speaker sits (:func:`speaker_half`), so that the one face that is there is the speaker's; or the whole of
    it, with both actors, so that somebody has to find out who speaks.

    Args:
        root: Folder with ``Session1`` to ``Session5``, or the one above it.
        protocol: Test on session 5, or leave one session out (see :func:`split_iemocap`).
        fold: Test session 1..5 of loso.
        merge: Six emotions, or four with excited merged into happy or dropped.
        validation: The usual dialogues, a fraction of those that are not test, or dialogue ids.
        seed: Decides drawn validation dialogues.
        faces: Show the ``half`` of the frame in which the annotation says that the speaker sits, or the ``whole``.

    Returns:
        The corpus; times are seconds of the dialogue. Its notes list the lines that do not parse, what
        has no label, no sound or no video, and the source of the labels.

    Raises:
        FileNotFoundError: There is no such folder.
        CorpusError: A session or an EmoEvaluation file is missing, or a label is unknown.
        ValueError: Protocol, fold, merge, validation or faces is not one of those.
    """
    if faces not in ("half", "whole"):
        raise ValueError(f"Unknown faces {faces!r}: expected half (of the frame, where the speaker sits) or whole.")
    rule = merge_rule(merge)
    folder = find_iemocap(root)
    reading = _Reading(rule, whole=faces == "whole")
    conversations: list[tuple[int, Conversation]] = []
    for session in SESSIONS:
        for path in _texts(folder / f"Session{session}/dialog/transcriptions"):
            if conversation := reading.dialogue(folder / f"Session{session}", session, path):
                conversations.append((session, conversation))
    split = split_iemocap(
        {c.id: session for session, c in conversations},
        protocol=protocol,
        fold=fold,
        validation=validation,
        seed=seed,
    )
    splits: dict[str, list[Conversation]] = {"train": [], "val": [], "test": []}
    for _, conversation in conversations:
        name = "test" if conversation.id in split.test else "val" if conversation.id in split.validation else "train"
        splits[name].append(conversation)
    return Corpus(
        "iemocap", rule.target, splits, f"{split.protocol}; labels {rule.name}", tuple(reading.notes()), _DIMENSIONS
    )


def find_iemocap(root: str | Path) -> Path:
    """The folder that holds ``Session1`` to ``Session5``: ``root`` or ``root/IEMOCAP_full_release``.

    Raises:
        FileNotFoundError: There is no such folder.
        CorpusError: A session or one of its two text folders is missing.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"No folder {root}: expected IEMOCAP's root, with Session1 to Session5.")
    inner = root / "IEMOCAP_full_release"
    folder = inner if inner.is_dir() else root
    for session in SESSIONS:
        for part in ("EmoEvaluation", "transcriptions"):
            place = folder / f"Session{session}/dialog/{part}"
            if not place.is_dir():
                raise CorpusError(
                    f"IEMOCAP has no folder {place}: expected Session1 to Session5, each with dialog/EmoEvaluation and "
                    "dialog/transcriptions. Unpack the whole release."
                )
    return folder


def _texts(folder: Path) -> list[Path]:
    # macOS leaves ._* files in the archives of the release.
    return sorted(path for path in folder.glob("*.txt") if not path.name.startswith("."))


class _Reading:
    """Reads dialogue after dialogue and remembers what a reader of results must know."""

    def __init__(self, rule: MergeRule, whole: bool) -> None:
        self.rule = rule
        self.whole = whole
        self.codes: Counter[str] = Counter()
        self.unparsed: list[str] = []
        self.silent = 0
        self.unseen = 0
        self.unrated = 0
        self.untranscribed = 0
        self.utterances = 0

    def dialogue(self, session_folder: Path, session: int, transcript: Path) -> Conversation | None:
        """The conversation of one transcript, or ``None`` if not one of its lines parses."""
        name = transcript.stem
        ratings = self._ratings(session_folder / "dialog/EmoEvaluation" / transcript.name)
        turns = self._turns(transcript)
        for utterance_id, (start, end, _, _) in ratings.items():
            if utterance_id not in turns:
                self.untranscribed += 1
                turns[utterance_id] = (start, end, "")
        film = session_folder / "dialog/avi/DivX" / f"{name}.avi"
        path = str(film.resolve()) if film.is_file() else None
        utterances = []
        for utterance_id, (start, end, text) in sorted(turns.items(), key=lambda item: (item[1][0], item[1][1])):
            code, values = ratings[utterance_id][2:] if utterance_id in ratings else (None, None)
            self.unrated += code is None
            self.codes[code or ""] += 1
            label = IEMOCAP6.canonical(code) if code and code not in _OUTSIDE else None
            sound = session_folder / "sentences/wav" / name / f"{utterance_id}.wav"
            self.silent += not sound.is_file()
            seen = path is not None and end > start
            self.unseen += not seen
            self.utterances += 1
            region = None if self.whole else _HALVES[speaker_half(utterance_id)]
            utterances.append(
                Utterance(
                    id=utterance_id,
                    speaker=speaker_of(utterance_id),
                    text=text,
                    start=start,
                    end=end,
                    label=self.rule.apply(label),
                    media=str(sound.resolve()) if sound.is_file() else None,
                    video=Clip(path, start, end, region) if path and seen else None,
                    values=values,
                )
            )
        return Conversation(name, tuple(utterances), f"session{session}") if utterances else None

    def _ratings(self, path: Path) -> dict[str, _Rating]:
        if not path.is_file():
            raise CorpusError(f"No annotation {path}: every transcript needs its EmoEvaluation file. Unpack it again.")
        ratings: dict[str, _Rating] = {}
        for number, line in enumerate(decode(path, legacy="cp1252").lines, start=1):
            if not line.startswith("["):
                continue  # the raters' single judgements, and the headline
            match = _RATING.fullmatch(line.strip())
            if match is None or not _ID.fullmatch(match[3]):
                self.unparsed.append(f"{path.name}:{number}")
                continue
            code = match[4].lower()
            if code not in _OUTSIDE and code not in _CODES:
                known = ", ".join((*_CODES, *sorted(_OUTSIDE)))
                raise CorpusError(f"{path}, line {number}: unknown label {match[4]!r}, expected one of {known}.")
            if match[3] in ratings:
                raise CorpusError(f"{path}, line {number}: {match[3]} is rated twice: an utterance occurs once.")
            numbers = [part.strip() for part in match[5].split(",")]
            rated = len(numbers) == len(_DIMENSIONS) and all(map(_NUMBER.fullmatch, numbers))
            values = dict(zip(_DIMENSIONS, map(float, numbers), strict=True)) if rated else None
            ratings[match[3]] = (float(match[1]), float(match[2]), code, values)
        return ratings

    def _turns(self, path: Path) -> dict[str, tuple[float, float, str]]:
        turns: dict[str, tuple[float, float, str]] = {}
        for number, line in enumerate(decode(path, legacy="cp1252").lines, start=1):
            if not line.strip():
                continue
            match = _TURN.fullmatch(line.strip())
            if match is None or not _ID.fullmatch(match[1]) or match[1] in turns:
                self.unparsed.append(f"{path.name}:{number}")
                continue
            turns[match[1]] = (float(match[2]), float(match[3]), match[4])
        return turns

    def notes(self) -> list[str]:
        outside = sum(self.codes[code] for code in _OUTSIDE)
        kept = ", ".join(f"{code} {self.codes[code]}" for code in _CODES)
        notes = [
            f"Labels are a fresh parse of EmoEvaluation ({kept}); the community pickles count happy differently (648), "
            "so results on the two are not on the same labels.",
            f"{outside + self.unrated} of {self.utterances} utterances have no label of the six ({outside} rated as "
            f"others, {self.unrated} not rated) and serve as context only.",
        ]
        if self.unparsed:
            notes.append(f"{len(self.unparsed)} lines did not parse and were left out: {', '.join(self.unparsed)}.")
        if self.untranscribed:
            notes.append(f"{self.untranscribed} rated utterances have no transcript; their text is empty.")
        if self.silent:
            notes.append(f"{self.silent} of {self.utterances} utterances have no file in sentences/wav.")
        if self.unseen < self.utterances:
            notes.append(
                "Frames are whole: both actors are in them."
                if self.whole
                else "Of frames, the half is shown in which "
                "the annotation says that the speaker sits: whoever is found there is the speaker."
            )
        if self.unseen:
            notes.append(f"{self.unseen} of {self.utterances} utterances have no video in dialog/avi/DivX.")
        return notes
