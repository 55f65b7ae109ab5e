"""One person through a film: lines by their voices, and faces by how they look and where they are, linked to people."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SURE = 0.95  # probability that a link of two certainties can have at most


@dataclass(frozen=True, eq=False)
class SeenFace:
    """A face track in a line, on the clock of the film.

    Args:
        start: Seconds of the film.
        boxes: ``(T, 4)`` x1, y1, x2, y2, one per frame of the grid.
        fps: Frames of the grid per second.
        appearance: ``(D,)`` how it looks (:func:`merc.media.face_appearance`), or ``None``.
        speaks: How probable it is that this face speaks the line, in 0..1.
    """

    start: float
    boxes: Tensor
    fps: float
    appearance: Tensor | None = None
    speaks: float = 0.5

    @property
    def end(self) -> float:
        """Seconds of the film."""
        return self.start + len(self.boxes) / self.fps


@dataclass(frozen=True, eq=False)
class SpokenLine:
    """A line of a film, with what is known of who speaks it.

    Args:
        start: Seconds of the film.
        end: Seconds of the film.
        name: The speaker in the transcript, or ``None``.
        voice: ``(D,)`` unit vector of the voice, or ``None``.
        faces: The face tracks of the line.
    """

    start: float
    end: float
    name: str | None = None
    voice: Tensor | None = None
    faces: Sequence[SeenFace] = ()


@dataclass(frozen=True)
class Person:
    """Who somebody is.

    Args:
        name: The name in the transcript, or ``person 1``, ``person 2`` ...
        confidence: How probable it is that it is this person and none of the others in the film, in 0..1. It is 1 for
            the speaker of a line whose name the transcript has.
    """

    name: str
    confidence: float


@dataclass(frozen=True)
class LinkedPersons:
    """The people of a film.

    Args:
        lines: Who speaks every line; ``None`` where neither a voice nor a face tells.
        faces: For every line the person of each of its face tracks.
        names: The people, those that the transcript names first, the others in the order of their first line or face.
    """

    lines: list[Person | None]
    faces: list[list[Person]]
    names: list[str]


@dataclass(frozen=True)
class PersonLinker:
    r"""Finds out which lines and which face tracks of a film belong to one person.

    Every line and every face track begins as a group of its own. The two groups with the highest evidence that they are
    one person are joined, again and again, until none is left with evidence above 0 (average linkage). The evidence of
    two groups is a sum of log-likelihood ratios:

    .. math:: e(A, B) = \overline{s (v_i \cdot v_j - m)} + \overline{a_{kl}}
        + \sum_{i, k} \log \frac{p_{ik}}{1 - p_{ik}}

    with the voices v of their lines, weighted by their length, the likeness a of their faces, and the probability p
    that a face of one speaks a line of the other. Faces that follow each other in the same place are alike by
    ``continuity`` more.

    A line and a face that speaks it for ``certain`` are joined first. Then a line or face that has more evidence for
    another group moves there by itself, and groups are joined again. Lines of one name always are one person, lines of
    two names never, nor faces that are visible in different places at one time. So a name of the transcript teaches
    whose voice and face it is, and lines without a name get it.

    Args:
        slope: By how many nepers a cosine of voices that is larger by 1 speaks for one person.
        middle: The cosine that speaks for one voice as much as for two.
        face_slopes: Likewise for the cosines of colours and of edges of two appearances.
        face_middles: Likewise.
        face_limit: The most that appearance says, in nepers.
        continuity: What it says that two faces follow each other in one place, in nepers.
        gap: Seconds between two tracks that follow each other, at most.
        overlap: Intersection over union of their boxes, at least.
        rounds: How often groups are joined, and single lines and faces moved to groups with more evidence, at most.
        certain: Probability from which a face that speaks a line is joined with it before anything else is compared:
            voice and face then decide together whose they are.
        full: Seconds of speech in which a voice is known as well as it can be; shorter lines say less.
    """

    slope: float = 20.0
    middle: float = 0.68
    face_slopes: tuple[float, float] = (3.0, 25.0)
    face_middles: tuple[float, float] = (0.85, 0.9)
    face_limit: float = 4.0
    continuity: float = 4.0
    gap: float = 0.5
    overlap: float = 0.4
    rounds: int = 4
    certain: float = 0.75
    full: float = 2.0

    def __call__(self, lines: Sequence[SpokenLine]) -> LinkedPersons:
        """Link the lines and faces of one film.

        Args:
            lines: In order of time.
        """
        evidence = _Evidence(self, lines)
        groups = evidence.joined()
        return evidence.persons(groups)

    def likeness(self, first: Tensor, second: Tensor) -> Tensor:
        """What the appearances ``(N, D)`` and ``(M, D)`` say for one person, ``(N, M)`` nepers."""
        from merc.media.appearance import COLOURS

        total = torch.zeros(len(first), len(second))
        parts = (slice(COLOURS), slice(COLOURS, None))
        for part, slope, middle in zip(parts, self.face_slopes, self.face_middles, strict=True):
            total += slope * (first[:, part] @ second[:, part].T - middle)
        return total.clamp(-self.face_limit, self.face_limit)


@dataclass(eq=False)
class _Pairs:
    """Sums of evidence between rows and groups: of voices and faces with weights, of links, and what is refused.

    Rows are groups or nodes; ``apart`` counts what refuses a pair.
    """

    voice: np.ndarray
    voice_weight: np.ndarray
    face: np.ndarray
    face_weight: np.ndarray
    link: np.ndarray
    apart: np.ndarray

    @property
    def tables(self) -> tuple[np.ndarray, ...]:
        """All of them."""
        return self.voice, self.voice_weight, self.face, self.face_weight, self.link, self.apart

    def total(self, rows: slice | np.ndarray | int = slice(None)) -> np.ndarray:
        """The evidence of some rows with all groups, minus infinity where it is refused."""
        voice = self.voice[rows] / np.maximum(self.voice_weight[rows], 1e-9)
        face = self.face[rows] / np.maximum(self.face_weight[rows], 1e-9)
        found: np.ndarray = np.where(self.apart[rows] > 0, -np.inf, voice + face + self.link[rows])
        return found


class _Evidence:
    """What speaks for and against one person, for all pairs of lines and tracks: nodes 0..L - 1 are the lines."""

    def __init__(self, linker: PersonLinker, lines: Sequence[SpokenLine]) -> None:
        self.linker, self.lines = linker, lines
        self.tracks = [(number, face) for number, line in enumerate(lines) for face in line.faces]
        self.count = len(lines) + len(self.tracks)
        self.pairs = self._pairs()

    def _pairs(self) -> _Pairs:
        count, own = self.count, len(self.lines)
        tables = [np.zeros((count, count), np.float32) for _ in range(5)]
        voice, voice_weight, face, face_weight, link = tables
        apart = np.zeros((count, count), np.float32)
        spoken = [number for number, line in enumerate(self.lines) if line.voice is not None]
        if spoken:
            voices = torch.stack([line.voice for line in self.lines if line.voice is not None])
            lengths = torch.tensor([self.lines[number].end - self.lines[number].start for number in spoken])
            known = (lengths / self.linker.full).clamp(0.05, 1).sqrt()
            said = self.linker.slope * (voices @ voices.T - self.linker.middle)
            weight = known[:, None] * known
            places = np.ix_(spoken, spoken)
            # A short line says less, and weighs less beside longer ones of its group.
            voice[places], voice_weight[places] = (said * weight * weight).numpy(), weight.numpy()
        looks = [number for number, (_, seen) in enumerate(self.tracks) if seen.appearance is not None]
        if looks:
            stacked = torch.stack([seen.appearance for _, seen in self.tracks if seen.appearance is not None])
            places = np.ix_([own + number for number in looks], [own + number for number in looks])
            face[places], face_weight[places] = self.linker.likeness(stacked, stacked).numpy(), 1
        for number, (line, seen) in enumerate(self.tracks):
            odds = min(max(seen.speaks, 1 - _SURE), _SURE)
            link[line, own + number] = link[own + number, line] = math.log(odds / (1 - odds))
        for first, second, same in self._meetings():
            a, b = own + first, own + second
            if same is None:
                link[a, b] += self.linker.continuity
                link[b, a] += self.linker.continuity
            elif same:
                link[a, b] = link[b, a] = 2 * self.linker.face_limit + self.linker.continuity
            else:
                apart[a, b] = apart[b, a] = 1
        known_names = {line.name: number for number, line in enumerate(self.lines) if line.name is not None}
        names = np.array([-1 if line.name is None else known_names[line.name] for line in self.lines])
        named = names >= 0
        differ = named[:, None] & named & (names[:, None] != names)
        apart[:own, :own] += differ
        for table in (voice, voice_weight, face, face_weight):
            np.fill_diagonal(table, 0)
        return _Pairs(voice, voice_weight, face, face_weight, link, apart)

    def _meetings(self) -> Iterator[tuple[int, int, bool | None]]:
        """Pairs of tracks that are visible at one time (the same face or not), or follow each other (``None``)."""
        order = sorted(range(len(self.tracks)), key=lambda number: self.tracks[number][1].start)
        open_tracks: list[int] = []
        for number in order:
            here = self.tracks[number][1]
            open_tracks = [n for n in open_tracks if self.tracks[n][1].end >= here.start - self.linker.gap]
            for other in open_tracks:
                before = self.tracks[other][1]
                middle = (max(here.start, before.start) + min(here.end, before.end)) / 2
                if min(here.end, before.end) - here.start > 0.08:
                    yield other, number, _share(_box(before, middle), _box(here, middle)) >= self.linker.overlap
                elif _share(before.boxes[-1], here.boxes[0]) >= self.linker.overlap and self._alike(before, here):
                    yield other, number, None
            open_tracks.append(number)

    def _alike(self, first: SeenFace, second: SeenFace) -> bool:
        """Whether two faces may be one: two people are often shown in one place, one after the other."""
        if first.appearance is None or second.appearance is None:
            return True
        return float(self.linker.likeness(first.appearance[None], second.appearance[None])) > 0

    def joined(self) -> list[list[int]]:
        """The groups, each a list of nodes."""
        groups = self._first_groups()
        for _ in range(self.linker.rounds):
            before = len(groups)
            groups = self._merged(groups)
            groups, moved = self._moved(groups)
            if not moved and len(groups) == before:
                break
        # Those who are named first, then by their first line, then those who say nothing by their first face.
        own = len(self.lines)

        def order(group: list[int]) -> tuple[bool, int]:
            return not any(node < own and self.lines[node].name for node in group), min(group)

        return sorted(groups, key=order)

    def _first_groups(self) -> list[list[int]]:
        """Lines of one name together, and with every line the face that certainly speaks it."""
        groups: dict[int, list[int]] = {}
        of_name: dict[str, int] = {}
        for node, line in enumerate(self.lines):
            home = node if line.name is None else of_name.setdefault(line.name, node)
            groups.setdefault(home, []).append(node)
        for node, (number, seen) in enumerate(self.tracks, start=len(self.lines)):
            name = self.lines[number].name
            home = number if name is None else of_name[name]
            if seen.speaks >= self.linker.certain and not self.pairs.apart[node, groups[home]].any():
                groups[home].append(node)
            else:
                groups[node] = [node]
        return list(groups.values())

    def _places(self, groups: Sequence[Sequence[int]]) -> np.ndarray:
        """``(nodes, groups)``, 1 where a node is in a group."""
        places = np.zeros((self.count, len(groups)), np.float32)
        for number, group in enumerate(groups):
            places[list(group), number] = 1
        return places

    def _merged(self, given: Sequence[Sequence[int]]) -> list[list[int]]:
        """Groups of which no two have evidence that they are one person: the most evident two are joined first."""
        if not given:
            return []
        places = self._places(given)
        pairs = _Pairs(*(places.T @ table @ places for table in self.pairs.tables))
        np.fill_diagonal(pairs.apart, 1)
        groups: list[list[int]] = [list(group) for group in given]
        count = np.arange(len(groups))
        total = pairs.total()
        best = total.argmax(1)
        value = total[count, best]
        while value.max() > 0:
            first = int(value.argmax())
            second = int(best[first])
            for table in pairs.tables:
                table[first] += table[second]
                table[:, first] += table[:, second]
            pairs.apart[second] = pairs.apart[:, second] = 1
            pairs.apart[first, first] = 1
            groups[first] += groups[second]
            groups[second] = []
            total[second] = total[:, second] = -np.inf
            total[first] = total[:, first] = pairs.total(first)
            stale = np.flatnonzero((best == first) | (best == second) | (count == first) | (count == second))
            best[stale] = total[stale].argmax(1)
            value[stale] = total[stale, best[stale]]
            better = total[:, first] > value
            best[better], value[better] = first, total[better, first]
        return [group for group in groups if group]

    def _moved(self, given: Sequence[Sequence[int]]) -> tuple[list[list[int]], bool]:
        """Groups in which no line or face alone has more evidence for another group, and whether any had.

        The face that seems to speak a line may be the wrong one, and would keep the line from its own people.
        """
        groups = [list(group) for group in given]
        places = self._places(groups)
        pairs = _Pairs(*(table @ places for table in self.pairs.tables))
        home = places.argmax(1) if groups else np.zeros(0, int)
        free = np.array([node >= len(self.lines) or self.lines[node].name is None for node in range(self.count)], bool)
        moves = 0
        while free.any() and moves < 4 * self.count:
            total = pairs.total()
            size = np.array([len(group) for group in groups])
            total[:, size == 0] = -np.inf
            here = np.where(size[home] > 1, total[np.arange(self.count), home], 0.0)
            gain = np.where(free, total.max(1) - here, -np.inf)
            node = int(gain.argmax())
            if not gain[node] > 1e-4:
                break
            old, new = int(home[node]), int(total[node].argmax())
            for table, own in zip(pairs.tables, self.pairs.tables, strict=True):
                table[:, old] -= own[:, node]
                table[:, new] += own[:, node]
            groups[old].remove(node)
            groups[new].append(node)
            home[node] = new
            moves += 1
        return [group for group in groups if group], moves > 0

    def persons(self, groups: Sequence[Sequence[int]]) -> LinkedPersons:
        """The people that groups are, and how sure it is that each node belongs to its group."""
        own = len(self.lines)
        places = self._places(groups)
        said = _Pairs(*(table @ places for table in self.pairs.tables)).total()
        names = self._names(groups)
        found: list[Person | None] = [None] * self.count
        for number, group in enumerate(groups):
            for node in group:
                others = said[node].copy()
                if len(group) == 1:
                    others[number] = 0.0  # a person of whom nothing else is known
                odds = np.exp(others - others.max())
                confidence = float(odds[number] / odds.sum())
                found[node] = Person(names[number], round(min(confidence, 1.0), 4))
        lines = [
            Person(line.name, 1.0) if line.name is not None else found[node] if self._tells(line) else None
            for node, line in enumerate(self.lines)
        ]
        faces: list[list[Person]] = [[] for _ in self.lines]
        for number, (line_number, _) in enumerate(self.tracks):
            person = found[own + number]
            assert person is not None
            faces[line_number].append(person)
        return LinkedPersons(lines, faces, [name for name in dict.fromkeys(names) if name])

    @staticmethod
    def _tells(line: SpokenLine) -> bool:
        """Whether something is known of who speaks a line."""
        return line.name is not None or line.voice is not None or any(face.speaks > 0.5 for face in line.faces)

    def _names(self, groups: Sequence[Sequence[int]]) -> list[str]:
        """The names of groups; empty for a line of which nothing is known."""
        own = len(self.lines)
        given = [next((self.lines[n].name for n in group if n < own and self.lines[n].name), None) for group in groups]
        taken = {name.casefold() for name in given if name}
        numbers = iter(range(1, 10**9))
        return [
            name
            or (
                next(name for name in (f"person {n}" for n in numbers) if name not in taken)
                if len(group) > 1 or group[0] >= own or self._tells(self.lines[group[0]])
                else ""
            )
            for name, group in zip(given, groups, strict=True)
        ]


def _box(seen: SeenFace, time: float) -> Tensor:
    index = int((time - seen.start) * seen.fps)
    return seen.boxes[min(max(index, 0), len(seen.boxes) - 1)]


def _share(first: Tensor, second: Tensor) -> float:
    """Intersection over union of two boxes."""
    low, high = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    inside = float((high - low).clamp(min=0).prod())
    areas = [float((box[2:] - box[:2]).prod()) for box in (first, second)]
    return inside / max(sum(areas) - inside, 1e-9)
