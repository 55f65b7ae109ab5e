"""The reader of a folder of films of talking faces, for training LipSyncNet: one person in each, split by person."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from merc.conversation import SPLITS, WHOLE, Conversation, Corpus, CorpusError, Utterance, split_name
from merc.files import parse_json
from merc.labels import MELD

FILM_SUFFIXES = frozenset(
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()
)
"""Suffixes of the files that are taken for films."""

SOUND_SUFFIXES = frozenset(".aac .aif .aiff .amr .flac .m4a .mka .mp3 .oga .ogg .opus .wav .wma".split())
"""Suffixes of the files that are taken for recordings of sound alone."""

PEOPLE_FILE = "people.json"
"""The file of a folder that says who is in which film, where there is one."""


def read_films(
    root: str | Path,
    *,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    people: Mapping[str, str] | str | Path | None = None,
    splits: Mapping[str, Sequence[str]] | None = None,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Corpus:
    """Read a folder of films in which one person talks, without words and labels.

    Every film becomes a conversation of one utterance, with the film as its clip. Nobody is in two splits. Patterns are
    those of file names (``*``, ``?``, ``[ab]``) for paths relative to the folder, with forward slashes; ``*`` matches
    those as well. A path that is given as it is always matches itself.

    Args:
        root: The folder. Folders inside it are searched too, for files with :data:`FILM_SUFFIXES`.
        include: Patterns of the films to read.
        exclude: Patterns of films to leave out.
        people: Who is in a film, by pattern: a mapping, or a JSON file that holds one. The first pattern that matches
            counts; a film that none matches shows a person of its own. Default: ``people.json`` in the folder, if it
            is there.
        splits: Patterns of films, or names of people, of each split; ``*`` stands for all who are named in no other.
            Who is named in none is drawn.
        shares: The share of people that is drawn for each split. Default: 80 % train, 10 % val, 10 % test. Where few
            are drawn, train gets at least one of them, then val, then test.
        seed: Decides who is drawn for which split.

    Raises:
        CorpusError: The folder is not there or holds no such film, the people cannot be read, a split or share is
            not valid, or somebody would be in two splits.

    Example:
        >>> corpus = read_films("GRID", people={"s1_*": "s1", "s2_*": "s2"}, splits={"test": ["s2"]})  # doctest: +SKIP
    """
    root = Path(root)
    if not root.is_dir():
        raise CorpusError(f"There is no folder {root}: expected one with films of talking faces.")
    names = sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix.lower() in FILM_SUFFIXES and path.is_file()
    )
    names = [name for name in names if _any_match(name, include) and not _any_match(name, exclude)]
    if not names:
        raise CorpusError(
            f"{root} holds no film that include ({', '.join(include)}) names and exclude ({', '.join(exclude)}) does "
            f"not: expected files with one of the suffixes {' '.join(sorted(FILM_SUFFIXES))}."
        )
    persons = _persons(names, people, root)
    chosen = _splits(persons, splits or {}, shares or {"train": 0.8, "val": 0.1, "test": 0.1}, seed)
    conversations: dict[str, list[Conversation]] = {split: [] for split in SPLITS}
    for name in names:
        media = str((root / name).resolve())
        talk = Conversation(name, (Utterance("0", persons[name], "", media=media),), WHOLE)
        conversations[chosen[persons[name]]].append(talk)
    told = ", ".join(f"{split} {len({c.utterances[0].speaker for c in conversations[split]})}" for split in SPLITS)
    return Corpus(root.resolve().name, MELD, conversations, f"people: {told}; nobody is in two splits, seed {seed}")


def _any_match(name: str, patterns: Sequence[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _persons(names: Sequence[str], people: Mapping[str, str] | str | Path | None, root: Path) -> dict[str, str]:
    """Who is in each film."""
    if people is None:
        people = root / PEOPLE_FILE if (root / PEOPLE_FILE).is_file() else {}
    expected = 'expected an object such as {"s1_*": "s1"}, from patterns of films to people'
    given: object = people
    if not isinstance(people, Mapping):
        try:
            given = parse_json(Path(people).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CorpusError(f"{people} cannot be read ({error}): {expected}.") from error
    if not isinstance(given, Mapping) or not all(isinstance(who, str) and who for who in given.values()):
        source = "people" if isinstance(people, Mapping) else people
        raise CorpusError(f"{source} does not say who is in which film: {expected}.")
    return {
        name: given[name] if name in given else next((w for p, w in given.items() if fnmatchcase(name, p)), name)
        for name in names
    }


def _splits(
    persons: Mapping[str, str], named: Mapping[str, Sequence[str]], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """The split of each person: as named, otherwise drawn by a hash, so that new films move nobody."""
    try:
        named = {split_name(split): patterns for split, patterns in named.items()}
        shares = {split_name(split): float(share) for split, share in shares.items()}
    except ValueError as error:
        raise CorpusError(f"splits and shares are of train, val and test: {error}") from error
    chosen: dict[str, str] = {}
    rest = [split for split, patterns in named.items() if "*" in patterns]
    if len(rest) > 1:
        raise CorpusError(f"'*' stands in the splits {' and '.join(rest)}: expected it in one, for all who are left.")
    for split, patterns in named.items():
        for pattern in [pattern for pattern in patterns if pattern != "*"]:
            who = {person for name, person in persons.items() if pattern == person or _any_match(name, [pattern])}
            if not who:
                raise CorpusError(f"Split {split} names {pattern!r}, which is no film and no person of the folder.")
            for person in who:
                if chosen.setdefault(person, split) != split:
                    raise CorpusError(f"{person} would be in the splits {chosen[person]} and {split}.")
    if rest:
        shares = {rest[0]: 1.0}
    if min(shares.values(), default=0.0) < 0 or sum(shares.values()) <= 0:
        raise CorpusError(f"shares are {shares}: expected shares of people of at least 0, for train, val or test.")
    total = sum(shares.values())
    drawn = {person: _draw(f"{seed} {person}") for person in sorted(set(persons.values()) - chosen.keys())}
    for person, number in drawn.items():
        place = number * total
        for split, share in shares.items():
            chosen[person] = split
            place -= share
            if place < 0:
                break
    _fill(chosen, {split for split, share in shares.items() if share > 0 and split not in named}, drawn)
    return chosen


def _draw(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _fill(chosen: dict[str, str], wanted: set[str], drawn: Mapping[str, float]) -> None:
    """Give a split for which nobody was drawn somebody of a split that can spare one: train first, then val, then test.

    A small folder would else have nobody to train on, or to choose a checkpoint on.
    """
    for place, split in enumerate(SPLITS):
        if split not in wanted or split in chosen.values():
            continue
        there = Counter(chosen.values())
        spare = [who for who in drawn if there[chosen[who]] > 1 or SPLITS.index(chosen[who]) > place]
        if spare:
            chosen[max(spare, key=lambda who: (there[chosen[who]], drawn[who]))] = split
