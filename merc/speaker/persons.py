"""One person through a film: lines by their voices, and faces by how they look and where they are, linked to people."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SURE = 0.95  # probability that a link of two certainties can have at most
_BLOCK = 256  # rows of a table that are computed at a time


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


class _Evidence:
    """What speaks for and against one person. Nodes are lines, 0..L - 1, then face tracks; groups are lists of nodes.

    What a table of all pairs of nodes would hold follows from one row per node, and from the pairs that are linked.

    Attributes:
        known: ``(nodes, D + 4)`` what is added up over a group: voice times its squared weight, squared weight, weight,
            appearances, nodes.
        names: ``(nodes,)`` the number of the name of a line, -1 without one.
        looks: ``(faces, D)`` the appearances, of the nodes ``seen``.
        links: From and to which nodes, and nepers: minus infinity refuses the pair. Each pair is there in both orders.
    """

    def __init__(self, linker: PersonLinker, lines: Sequence[SpokenLine]) -> None:
        self.linker, self.lines = linker, lines
        self.tracks = [(number, face) for number, line in enumerate(lines) for face in line.faces]
        self.count = len(lines) + len(self.tracks)
        spoken = [number for number, line in enumerate(lines) if line.voice is not None]
        voices = _stacked([line.voice for line in lines if line.voice is not None])
        lengths = torch.tensor([lines[number].end - lines[number].start for number in spoken])
        # A short line says less, and weighs less beside longer ones of its group.
        weight = (lengths / linker.full).clamp(0.05, 1).sqrt()[:, None]
        self.known = np.zeros((self.count, voices.shape[1] + 4), np.float32)
        self.known[spoken, :-2] = torch.cat([voices * weight**2, weight**2, weight], 1).numpy()
        self.looks = _stacked([face.appearance for _, face in self.tracks if face.appearance is not None])
        looks = [node for node, (_, face) in enumerate(self.tracks, len(lines)) if face.appearance is not None]
        self.seen = np.array(looks, int)
        self.known[self.seen, -2] = 1
        self.known[:, -1] = 1
        numbers = {line.name: number for number, line in enumerate(lines) if line.name is not None}
        self.names = np.full(self.count, -1)
        self.names[: len(lines)] = [-1 if line.name is None else numbers[line.name] for line in lines]
        self.links = self._links()

    def _links(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        own, found = len(self.lines), []
        for number, (line, seen) in enumerate(self.tracks):
            odds = min(max(seen.speaks, 1 - _SURE), _SURE)
            found.append((line, own + number, math.log(odds / (1 - odds))))
        follow, same = self.linker.continuity, 2 * self.linker.face_limit + self.linker.continuity
        nepers = {None: follow, True: same, False: -math.inf}
        found += [(own + first, own + second, nepers[kind]) for first, second, kind in self._meetings()]
        first, second, value = np.array(found).reshape(-1, 3).T
        ends = np.concatenate([first, second]).astype(int), np.concatenate([second, first]).astype(int)
        return *ends, np.concatenate([value, value])

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

    def likenesses(self, nodes: np.ndarray) -> np.ndarray:
        """``(faces, nodes)`` what the appearances of all faces and of some of them say, 0 for a face and itself."""
        at = np.searchsorted(self.seen, nodes)
        found: np.ndarray = self.linker.likeness(self.looks, self.looks[at]).numpy()
        found[at, np.arange(len(at))] = 0
        return found

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
        home: dict[int, int] = {}
        of_name: dict[str, int] = {}
        for node, line in enumerate(self.lines):
            home[node] = node if line.name is None else of_name.setdefault(line.name, node)
        refused: dict[int, list[int]] = defaultdict(list)
        for first, second, nepers in zip(*self.links, strict=True):
            if nepers == -math.inf:
                refused[first].append(second)
        for node, (number, seen) in enumerate(self.tracks, start=len(self.lines)):
            joins = seen.speaks >= self.linker.certain and home[number] not in map(home.get, refused[node])
            home[node] = home[number] if joins else node
        groups: dict[int, list[int]] = defaultdict(list)
        for node, first in home.items():
            groups[first].append(node)
        return list(groups.values())

    def _merged(self, given: Sequence[Sequence[int]]) -> list[list[int]]:
        """Groups of which no two have evidence that they are one person: the most evident two are joined first."""
        if not given:
            return []
        table = _Table(self, given, of_groups=True)
        groups: list[list[int]] = [list(group) for group in given]
        count = np.arange(len(groups))
        total = table.total
        best = total.argmax(1)
        value = total[count, best]
        while value.max() > 0:
            first = int(value.argmax())
            second = int(best[first])
            table.join(first, second)
            groups[first] += groups[second]
            groups[second] = []
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
        table = _Table(self, groups)
        home = table.home
        free = self.names < 0
        moves = 0
        while free.any() and moves < 4 * self.count:
            size = np.array([len(group) for group in groups])
            here = np.where(size[home] > 1, table.total[home, np.arange(self.count)], 0.0)
            gain = np.where(free, table.total.max(0) - here, -np.inf)
            node = int(gain.argmax())
            if not gain[node] > 1e-4:
                break
            groups[home[node]].remove(node)
            table.move(node, int(table.total[:, node].argmax()))
            groups[home[node]].append(node)
            moves += 1
        return [group for group in groups if group], moves > 0

    def persons(self, groups: Sequence[Sequence[int]]) -> LinkedPersons:
        """The people that groups are, and how sure it is that each node belongs to its group."""
        own = len(self.lines)
        said = _Table(self, groups).total
        names = self._names(groups)
        found: list[Person | None] = [None] * self.count
        for number, group in enumerate(groups):
            for node in group:
                others = said[:, node].copy()
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


class _Table:
    """The evidence of groups, in rows, with nodes or with the groups again, in columns, from sums over the groups.

    Attributes:
        home: The row of every node.
        total: ``(rows, columns)`` nepers: minus infinity where it is refused, for a group with itself or without nodes.
    """

    def __init__(self, evidence: _Evidence, groups: Sequence[Sequence[int]], of_groups: bool = False) -> None:
        self.evidence, self.of_groups = evidence, of_groups
        self.home = np.zeros(evidence.count, int)
        for number, group in enumerate(groups):
            self.home[list(group)] = number
        self.rows = np.zeros((len(groups), evidence.known.shape[1]), np.float32)
        _add(self.rows, self.home, evidence.known)
        self.names = np.full(len(groups), -1)
        np.maximum.at(self.names, self.home, evidence.names)
        nodes, numbers = np.arange(evidence.count), np.arange(len(groups))
        # What is known of the columns, their names, the column of every node, and the row that each column is of.
        if of_groups:
            self.columns, self.column_names, self.places, self.within = self.rows, self.names, self.home, numbers
        else:
            self.columns, self.column_names, self.places, self.within = evidence.known, evidence.names, nodes, self.home
        self.faces = np.zeros((len(groups), len(self.columns)), np.float32)
        for block in _blocks(evidence.seen):
            of_block = np.zeros((len(groups), len(block)), np.float32)
            _add(of_block, self.home[evidence.seen], evidence.likenesses(block))
            if of_groups:
                _add(self.faces, self.home[block], of_block.T)
            else:
                self.faces[:, block] = of_block
        self.total = np.zeros_like(self.faces)
        for block in _blocks(numbers):
            self._count(block)

    def _count(self, rows: np.ndarray) -> None:
        """Add up the evidence of some rows."""
        some, others, width = self.rows[rows], self.columns, len(self.columns)
        scale = np.full(some.shape[1] - 3, self.evidence.linker.slope, np.float32)
        scale[-1] *= -self.evidence.linker.middle
        voice = (some[:, :-3] * scale) @ others[:, :-3].T
        weights, faces = (np.outer(some[:, at], others[:, at]) for at in (-3, -2))
        row, column = np.nonzero(rows[:, None] == self.within)
        own = others[column]  # a node is not compared with itself
        voice[row, column] -= (own[:, :-3] ** 2 * scale).sum(1)
        weights[row, column] -= own[:, -3] ** 2
        faces[row, column] -= own[:, -2]
        number = np.full(len(self.rows), -1)
        number[rows] = np.arange(len(rows))
        first, second, nepers = self.evidence.links
        row = number[self.home[first]]
        places = (row * width + self.places[second])[row >= 0]
        links = np.bincount(places, nepers[row >= 0], len(rows) * width).reshape(len(rows), width)
        total = _mean(voice, weights) + _mean(self.faces[rows], faces) + links
        names = self.names[rows, None]
        total[(names >= 0) & (self.column_names >= 0) & (names != self.column_names)] = -np.inf
        total[(some[:, -1:] == 0) | (others[:, -1] == 0)] = -np.inf
        if self.of_groups:
            total[rows[:, None] == self.within] = -np.inf
        self.total[rows] = total

    def join(self, first: int, second: int) -> None:
        """Make the second group a part of the first one, in rows and columns."""
        self.home[self.home == second] = first
        self.rows[first] += self.rows[second]
        self.rows[second] = 0
        self.names[first] = max(self.names[first], self.names[second])
        self.faces[first] += self.faces[second]
        self.faces[:, first] = self.faces[first]
        self.total[second] = self.total[:, second] = -np.inf
        self._count(np.array([first]))
        self.total[:, first] = self.total[first]

    def move(self, node: int, new: int) -> None:
        """Move a node to another group."""
        old, known = int(self.home[node]), self.evidence.known[node]
        self.home[node] = new
        self.rows[old] -= known
        self.rows[new] += known
        if known[-2]:
            likeness = self.evidence.likenesses(np.array([node]))[:, 0]
            self.faces[old, self.evidence.seen] -= likeness
            self.faces[new, self.evidence.seen] += likeness
        self._count(np.array([old, new]))


def _blocks(numbers: np.ndarray) -> Iterator[np.ndarray]:
    return (numbers[at : at + _BLOCK] for at in range(0, len(numbers), _BLOCK))


def _add(table: np.ndarray, rows: np.ndarray, more: np.ndarray) -> None:
    """Add rows to those rows of a table, which may occur several times."""
    torch.from_numpy(table).index_add_(0, torch.from_numpy(rows), torch.from_numpy(more))


def _mean(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means, 0 where nothing is weighed: a weight is 0.05 or more, and subtraction may leave a little of it."""
    means: np.ndarray = np.divide(sums, weights, out=np.zeros_like(sums), where=weights > 0.01)
    return means


def _stacked(rows: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(rows)) if rows else torch.zeros(0, 0)


def _box(seen: SeenFace, time: float) -> Tensor:
    index = int((time - seen.start) * seen.fps)
    return seen.boxes[min(max(index, 0), len(seen.boxes) - 1)]


def _share(first: Tensor, second: Tensor) -> float:
    """Intersection over union of two boxes."""
    low, high = torch.maximum(first[:2], second[:2]), torch.minimum(first[2:], second[2:])
    inside = float((high - low).clamp(min=0).prod())
    areas = [float((box[2:] - box[:2]).prod()) for box in (first, second)]
    return inside / max(sum(areas) - inside, 1e-9)
