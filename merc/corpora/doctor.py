"""The doctor: what is on disk against what is known of MELD and IEMOCAP, before anything is trained."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from merc.conversation import Corpus, CorpusError, Utterance
from merc.corpora.iemocap import SESSIONS, find_iemocap, read_iemocap
from merc.corpora.meld import CLIP_FOLDERS, CLIP_NAME, find_meld, read_meld
from merc.decoding import decode
from merc.labels import IEMOCAP6, MELD

LONGEST = 30.0
"""Seconds beyond which a MELD utterance was cut wrongly: the longest sound one lasts 28.5."""

TOLERANCE = 1.0
"""Seconds by which a clip may differ from its times in the CSV file: the sound ones differ by less."""


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor found.

    Args:
        severity: ``error`` needs mending, ``warning`` is known damage or costs a few utterances, ``info`` is
            worth knowing.
        code: Short name of the kind of finding.
        path: Where.
        message: What was found and what it means.
    """

    severity: Literal["error", "warning", "info"]
    code: str
    path: str
    message: str


@dataclass(frozen=True)
class Count:
    """A number next to the one that is known.

    Args:
        part: Split or session.
        what: What was counted.
        found: On disk.
        expected: In the published corpus.
    """

    part: str
    what: str
    found: int
    expected: int


@dataclass
class Report:
    """What the doctor found in one corpus.

    Args:
        title: Name and place of the corpus.
        findings: In the order of checking.
        counts: Numbers next to the known ones.
    """

    title: str
    findings: list[Finding] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Number of findings that need mending."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """Exit status for a shell: 1 if there are errors, else 0."""
        return int(self.errors > 0)

    def add(self, severity: Literal["error", "warning", "info"], code: str, path: object, message: str) -> None:
        """Append a finding."""
        self.findings.append(Finding(severity, code, str(path), message))

    def count(self, part: str, what: str, found: int, expected: int) -> None:
        """Append a count, and an error if it differs from the known one."""
        self.counts.append(Count(part, what, found, expected))
        if found != expected:
            self.add("error", "count", part, f"{found} {what}, expected {expected}: this is not the published corpus.")

    def print(self, console: Console | None = None) -> None:
        """Print both tables and a verdict."""
        console = console or Console()
        if self.counts:
            table = Table("part", "what", "found", "expected", title=Text(self.title))
            for count in self.counts:
                style = None if count.found == count.expected else "bold red"
                table.add_row(count.part, count.what, str(count.found), str(count.expected), style=style)
            console.print(table)
        if self.findings:
            styles = {"error": "bold red", "warning": "yellow", "info": "dim"}
            where = Column("where", overflow="fold")
            table = Table("severity", "code", where, "finding", title=Text(self.title))
            for finding in sorted(self.findings, key=lambda f: list(styles).index(f.severity)):
                # Text, because a path may hold what rich takes for markup.
                severity = Text(finding.severity, styles[finding.severity])
                table.add_row(severity, finding.code, Text(finding.path), Text(finding.message))
            console.print(table)
        warnings = sum(finding.severity == "warning" for finding in self.findings)
        console.print(f"{self.errors} errors, {warnings} warnings.")


class MediaError(ValueError):
    """A clip cannot be decoded; the message says why."""


def mp4_duration(path: Path) -> float:
    """Seconds that an MP4 file says it lasts, from its ``mvhd`` box (ISO/IEC 14496-12), without decoding.

    Raises:
        MediaError: The file is empty, truncated, or has no ``moov`` box, so that no player can open it.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise MediaError("the file is empty")
        boxes = _boxes(file, 0, size)
        if "moov" not in boxes:
            raise MediaError("no moov atom")
        inner = _boxes(file, *boxes["moov"])
        if "mvhd" not in inner:
            raise MediaError("no mvhd atom")
        file.seek(inner["mvhd"][0])
        head = file.read(32)
    wide = head[:1] == b"\1"
    if len(head) < (32 if wide else 20):
        raise MediaError("truncated mvhd atom")
    scale_at, width = (20, 8) if wide else (12, 4)
    scale = int.from_bytes(head[scale_at : scale_at + 4], "big")
    duration = int.from_bytes(head[scale_at + 4 : scale_at + 4 + width], "big")
    if scale == 0:
        raise MediaError("mvhd has no time scale")
    return duration / scale


def _boxes(file: BinaryIO, start: int, end: int) -> dict[str, tuple[int, int]]:
    """Where the content of each box between two positions begins and ends; of equal names the first counts."""
    found: dict[str, tuple[int, int]] = {}
    while start < end:
        file.seek(start)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        content = start + 8
        if length == 1:
            length, content = int.from_bytes(head[8:16], "big"), start + 16
        stop = end if length == 0 else start + length
        if len(head) < 8 or stop < content or stop > end:
            raise MediaError("truncated")
        found.setdefault(head[4:8].decode("latin1"), (content, stop))
        start = stop
    return found


@dataclass(frozen=True)
class _MeldSplit:
    """What is known of a split of MELD; clips are (Dialogue_ID, Utterance_ID)."""

    utterances: int
    dialogues: int
    speakers: int
    labels: tuple[int, ...]
    absent: frozenset[tuple[int, int]] = frozenset()
    unreadable: frozenset[tuple[int, int]] = frozenset()
    cut: frozenset[tuple[int, int]] = frozenset()
    no_time: frozenset[tuple[int, int]] = frozenset()
    stray: frozenset[tuple[int, int]] = frozenset()
    bad_sound: frozenset[tuple[int, int]] = frozenset()


_MELD = {
    "train": _MeldSplit(
        *(9989, 1038, 260, (4710, 1205, 268, 683, 1743, 271, 1109)),
        unreadable=frozenset({(125, 3)}),
        cut=frozenset({(309, 0)}),
        bad_sound=frozenset({(793, 0), (164, 5), (682, 1), (529, 2), (1029, 1), (1008, 1), (757, 7), (485, 0)}),
    ),
    "val": _MeldSplit(
        *(1109, 114, 47, (470, 150, 40, 111, 163, 22, 153)),
        absent=frozenset({(110, 7)}),
        stray=frozenset({(49, 4), (49, 5), (66, 9), (66, 10)}),
    ),
    "test": _MeldSplit(
        *(2610, 280, 100, (1256, 281, 50, 208, 402, 68, 345)),
        cut=frozenset({(38, 4), (220, 0), (220, 1)}),
        no_time=frozenset({(155, 3)}),
        stray=frozenset({(93, 5), (93, 6), (93, 7), (108, 1), (108, 2)}),
    ),
}


def check_meld(root: str | Path) -> Report:
    """Compare a copy of MELD with the published one and with the known list of damaged clips.

    Works without clips as well. Clips are opened but not decoded: whether one is readable, and how long
    it is, is taken from its header.

    Args:
        root: As for :func:`merc.corpora.read_meld`.
    """
    report = Report(f"MELD at {root}")
    try:
        files, corpus = find_meld(root), read_meld(root)
    except (CorpusError, FileNotFoundError) as error:
        report.add("error", "unreadable", root, str(error))
        return report
    for split, known in _MELD.items():
        _encoding(report, files.csv[split])
        utterances = {(int(c.id), int(u.id)): u for c in corpus[split] for u in c.utterances}
        report.count(split, "utterances", len(utterances), known.utterances)
        report.count(split, "dialogues", len(corpus[split]), known.dialogues)
        report.count(split, "speakers", len({u.speaker for u in utterances.values()}), known.speakers)
        labels = Counter(u.label for u in utterances.values())
        for name, expected in zip(MELD.names, known.labels, strict=True):
            report.count(split, name, labels[name], expected)
        _meld_times(report, files.csv[split], utterances, known)
        if split in files.clips:
            _meld_clips(report, split, files.clips[split], utterances, known)
        else:
            where = Path(root) / CLIP_FOLDERS[split]
            report.add("info", "no-clips", where, f"No folder of {split} clips: only the CSV files were checked.")
    _notes(report, corpus, "episodes", "test utterances")
    return report


def _meld_times(report: Report, path: Path, utterances: Mapping[tuple[int, int], Utterance], known: _MeldSplit) -> None:
    for clip, utterance in utterances.items():
        seconds = _seconds(utterance)
        if seconds is None:
            continue
        if seconds <= 0:
            where = f"{path.name}: {_clip(clip)}"
            report.add("warning", "no-time", where, f"Ends when it starts{_known(clip in known.no_time)}.")
        elif seconds > LONGEST:
            where = f"{path.name}: {_clip(clip)}"
            report.add("warning", "long", where, f"Lasts {seconds:.1f} s: cut wrongly{_known(clip in known.cut)}.")


def _meld_clips(
    report: Report, split: str, folder: Path, utterances: Mapping[tuple[int, int], Utterance], known: _MeldSplit
) -> None:
    clips = {}
    strangers = 0
    for path in sorted(folder.iterdir()):
        if match := CLIP_NAME.fullmatch(path.name):
            clips[int(match[1]), int(match[2])] = path
        else:
            strangers += 1
    if strangers:
        report.add("info", "stranger", folder, f"{strangers} files are not named like clips and are not used.")
    for clip in sorted(clips.keys() - utterances.keys()):
        message = f"No utterance has this clip; it is not used{_known(clip in known.stray)}."
        report.add("warning", "stray", clips[clip], message)
    for clip in sorted(utterances.keys() - clips.keys()):
        expected = clip in known.absent | known.unreadable
        message = f"The clip is not there{_known(expected)}."
        report.add("warning" if expected else "error", "missing", folder / f"{_clip(clip)}.mp4", message)
    usable = 0
    for clip in sorted(clips.keys() & utterances.keys()):
        try:
            seconds = mp4_duration(clips[clip])
        except (MediaError, OSError) as error:
            expected = clip in known.unreadable
            message = f"The clip cannot be opened: {error}{_known(expected)}."
            report.add("warning" if expected else "error", "broken", clips[clip], message)
            continue
        usable += 1
        planned = _seconds(utterances[clip])
        if seconds > LONGEST:
            message = f"The clip lasts {seconds:.1f} s: cut wrongly{_known(clip in known.cut)}."
            report.add("warning", "long", clips[clip], message)
        elif planned is not None and abs(seconds - planned) > TOLERANCE:
            message = f"The clip lasts {seconds:.1f} s, its times in the CSV file say {planned:.1f} s."
            report.add("warning", "length", clips[clip], message)
        if clip in known.bad_sound or (split == "train" and clip[0] == 241 and clip[1] > 0):
            report.add("info", "sound", clips[clip], "Bad or unsynchronised sound was reported for this clip.")
    report.count(split, "usable clips", usable, known.utterances - len(known.absent | known.unreadable))


def _seconds(utterance: Utterance) -> float | None:
    return None if utterance.start is None or utterance.end is None else utterance.end - utterance.start


def _clip(clip: tuple[int, int]) -> str:
    return f"dia{clip[0]}_utt{clip[1]}"


def _known(expected: bool) -> str:
    return ", as is known of every copy" if expected else ""


_DIALOGUES = {1: 28, 2: 30, 3: 32, 4: 30, 5: 31}
_IEMOCAP_LABELS = {"happy": 595, "sad": 1084, "neutral": 1708, "angry": 1103, "excited": 1041, "frustrated": 1849}
"""Of a fresh parse of EmoEvaluation; the community pickles have 648 happy."""


def check_iemocap(root: str | Path) -> Report:
    """Compare a copy of IEMOCAP with the published one.

    Args:
        root: As for :func:`merc.corpora.read_iemocap`.
    """
    report = Report(f"IEMOCAP at {root}")
    try:
        # Which dialogues validate is of no matter here, and a copy that lacks some is to be examined too.
        folder, corpus = find_iemocap(root), read_iemocap(root, validation=0.2)
    except (CorpusError, FileNotFoundError) as error:
        report.add("error", "unreadable", root, str(error))
        return report
    conversations = [conversation for split in corpus.values() for conversation in split]
    by_session = Counter(conversation.partition for conversation in conversations)
    for session, expected in _DIALOGUES.items():
        report.count(f"session{session}", "dialogues", by_session[f"session{session}"], expected)
    labels = Counter(u.label for conversation in conversations for u in conversation.utterances)
    for name in IEMOCAP6.names:
        report.count("all sessions", name, labels[name], _IEMOCAP_LABELS[name])
    for session in SESSIONS:
        for part in ("EmoEvaluation", "transcriptions"):
            for path in sorted((folder / f"Session{session}/dialog" / part).glob("[!.]*.txt")):
                _encoding(report, path)
    sounds = [u.media for c in conversations for u in c.utterances if u.media]
    _riff(report, "sound", folder / "Session*/sentences/wav", map(Path, sounds), b"WAVE")
    videos = [
        folder / f"Session{c.partition.removeprefix('session')}/dialog/avi/DivX/{c.id}.avi" for c in conversations
    ]
    there = [path for path in videos if path.is_file()]
    _riff(report, "video", folder / "Session*/dialog/avi/DivX", there, b"AVI ")
    for path in videos if there else ():
        if not path.is_file():
            report.add("error", "missing", path, "The dialogue has no video.")
    _notes(report, corpus, "parse", "transcript", "sentences/wav", "no label")
    return report


def _riff(report: Report, what: str, where: Path, paths: Iterable[Path], kind: bytes) -> None:
    """Check that files are RIFF files of a kind; say so if there are none."""
    checked = 0
    for path in paths:
        checked += 1
        with path.open("rb") as file:
            head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != kind:
            report.add("error", "broken", path, f"The {what} file is empty or has no {kind.decode().strip()} header.")
    if not checked:
        report.add("info", f"no-{what}", where, f"No {what} files: only what is text was checked.")


def _encoding(report: Report, path: Path) -> None:
    for note in decode(path, legacy="cp1252").notes:
        report.add("warning", "encoding", path, f"{note} This is an older copy.")


def _notes(report: Report, corpus: Corpus, *about: str) -> None:
    """Pass on those notes of the reader that are about these things."""
    for note in corpus.notes:
        if re.search("|".join(about), note):
            report.add("info", "note", corpus.name, note)
