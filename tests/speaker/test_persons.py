"""One person through a film: what joins lines and faces, what keeps them apart, names, and how sure it is."""

import math
import tracemalloc

import pytest
import torch
from torch.nn import functional as F

from merc.media.appearance import APPEARANCE_DIM, COLOURS
from merc.speaker import Person, PersonLinker, SeenFace, SpokenLine

LEFT, RIGHT = (10.0, 10.0, 50.0, 50.0), (200.0, 10.0, 240.0, 50.0)
draw = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _same_draws():
    draw.manual_seed(0)  # whatever tests this process ran before


VOICES = F.normalize(torch.eye(4, 32) + 0.2, dim=1)  # cosines of about 0.6


def voice(who, noise=0.05):
    return F.normalize(VOICES[who] + noise * torch.randn(32, generator=draw), dim=0)


def look(who):
    values = 0.01 * torch.randn(APPEARANCE_DIM, generator=draw)
    values[who], values[COLOURS + who] = 1.0, 1.0
    return torch.cat([F.normalize(values[:COLOURS], dim=0), F.normalize(values[COLOURS:], dim=0)])


def face(start, place=LEFT, seconds=2.0, who=None, speaks=0.5):
    boxes = torch.tensor(place).expand(round(25 * seconds), 4)
    return SeenFace(start, boxes, 25.0, None if who is None else look(who), speaks)


def said(linked):
    return [None if person is None else person.name for person in linked.lines]


def seen(linked):
    return [[person.name for person in row] for row in linked.faces]


def test_voices_alone_link_lines_and_number_people_by_their_first_line():
    order = [0, 1, 0, 2, 1, 0, 2]
    lines = [SpokenLine(3.0 * n, 3.0 * n + 2, voice=voice(who)) for n, who in enumerate(order)]
    linked = PersonLinker()(lines)
    assert said(linked) == [f"person {who + 1}" for who in order]
    assert linked.names == ["person 1", "person 2", "person 3"]
    assert all(person.confidence > 0.9 for person in linked.lines)


def test_names_teach_and_two_names_are_never_one_person():
    same = [SpokenLine(3.0 * n, 3.0 * n + 2, name, voice(0, 0.0)) for n, name in enumerate(["Ann", "Bob", None])]
    names = said(PersonLinker()(same))
    assert names[:2] == ["Ann", "Bob"] and names[2] in ("Ann", "Bob")
    lines = [SpokenLine(0, 2, "Ann", voice(0)), SpokenLine(3, 5, "Bob", voice(1)), SpokenLine(6, 8, None, voice(1))]
    linked = PersonLinker()([*lines, SpokenLine(9, 11, None, voice(2))])
    assert said(linked) == ["Ann", "Bob", "Bob", "person 1"]
    assert linked.lines[0] == Person("Ann", 1.0) and 0.9 < linked.lines[2].confidence < 1


def test_lines_of_one_name_are_one_person_whatever_their_voices():
    lines = [SpokenLine(3.0 * n, 3.0 * n + 2, "Ann", voice(n)) for n in range(3)]
    linked = PersonLinker()([*lines, SpokenLine(9, 11, None, voice(3))])
    assert said(linked) == ["Ann", "Ann", "Ann", "person 1"] and linked.names == ["Ann", "person 1"]


def test_a_number_that_is_a_name_is_not_given_again():
    lines = [SpokenLine(0, 2, "Person 1", voice(0)), SpokenLine(3, 5, None, voice(1))]
    assert said(PersonLinker()(lines)) == ["Person 1", "person 2"]


def test_faces_link_lines_without_voices_and_get_the_names_of_their_lines():
    lines = [
        SpokenLine(0, 2, "Ann", None, [face(0, LEFT, who=0, speaks=0.95), face(0, RIGHT, who=1, speaks=0.05)]),
        SpokenLine(9, 11, None, None, [face(9, RIGHT, who=1, speaks=0.95), face(9, LEFT, who=0, speaks=0.05)]),
        SpokenLine(20, 22, None, None, [face(20, RIGHT, who=0, speaks=0.95)]),
    ]
    linked = PersonLinker()(lines)
    assert said(linked) == ["Ann", "person 1", "Ann"]
    assert seen(linked) == [["Ann", "person 1"], ["person 1", "Ann"], ["Ann"]]


def test_faces_that_are_visible_at_one_time_are_two_people_although_they_look_alike():
    lines = [SpokenLine(0, 2, None, None, [face(0, LEFT, who=0, speaks=0.9), face(0, RIGHT, who=0)])]
    [[first, second]] = seen(PersonLinker()(lines))
    assert first != second


def test_lines_of_the_same_time_show_the_same_faces():
    faces = [[face(0, LEFT, speaks=0.9), face(0, RIGHT, speaks=0.1)], [face(0, RIGHT, speaks=0.9), face(0, LEFT)]]
    linked = PersonLinker()([SpokenLine(0, 2, faces=own) for own in faces])
    assert seen(linked)[0] == seen(linked)[1][::-1]
    assert said(linked)[0] != said(linked)[1]


def test_a_face_that_goes_on_in_the_next_line_is_one_person_unless_it_looks_otherwise():
    def film(second):
        return [SpokenLine(0, 2, "Ann", faces=[face(0, speaks=0.95)]), SpokenLine(2.1, 4, faces=[second])]

    assert seen(PersonLinker()(film(face(2.1)))) == [["Ann"], ["Ann"]]
    assert seen(PersonLinker()(film(face(2.1, RIGHT)))) == [["Ann"], ["person 1"]]
    late = [SpokenLine(0, 2, "Ann", faces=[face(0, speaks=0.95)]), SpokenLine(9, 11, faces=[face(9)])]
    assert seen(PersonLinker()(late)) == [["Ann"], ["person 1"]]
    cut = [
        SpokenLine(0, 2, "Ann", faces=[face(0, who=0, speaks=0.95)]),
        SpokenLine(2.1, 4, faces=[face(2.1, who=1)]),
    ]
    assert seen(PersonLinker()(cut)) == [["Ann"], ["person 1"]]


def test_voice_and_face_together_decide_what_neither_does_alone():
    middling = F.normalize(VOICES[0] + VOICES[1], dim=0)  # as like one voice as the other
    known = [
        SpokenLine(0, 2, "Ann", voice(0), [face(0, who=0, speaks=0.95)]),
        SpokenLine(3, 5, "Bob", voice(1), [face(3, who=1, speaks=0.95)]),
    ]
    for who, name in enumerate(("Ann", "Bob")):
        unclear = SpokenLine(6, 8, None, middling, [face(6, who=who, speaks=0.9)])
        alone = PersonLinker()([*known, SpokenLine(6, 8, None, middling)])
        linked = PersonLinker()([*known, unclear])
        assert said(linked)[2] == name
        assert linked.lines[2].confidence > alone.lines[2].confidence


def test_short_lines_are_less_sure():
    def confidence(seconds):
        near = F.normalize(VOICES[0] + 0.5 * VOICES[1], dim=0)
        lines = [SpokenLine(0, 2, "Ann", VOICES[0]), SpokenLine(3, 5, "Bob", VOICES[1])]
        return PersonLinker(slope=10.0)([*lines, SpokenLine(6, 6 + seconds, None, near)]).lines[2].confidence

    assert confidence(0.3) < confidence(2.0) == confidence(10.0)


def test_a_line_without_evidence_is_nobodys():
    lines = [SpokenLine(0, 1), SpokenLine(2, 4, voice=voice(0)), SpokenLine(5, 6, faces=[face(5, speaks=0.1)])]
    linked = PersonLinker()(lines)
    assert said(linked) == [None, "person 1", None] and seen(linked)[2] == ["person 2"]
    empty = PersonLinker()([])
    assert (empty.lines, empty.faces, empty.names) == ([], [], [])


def test_joining_is_that_of_a_slow_version():
    """Against a version that computes every pair of groups anew from all of their members."""
    linker = PersonLinker()
    generator = torch.Generator().manual_seed(3)
    whose = torch.randint(4, (14,), generator=generator).tolist()
    voices = [F.normalize(VOICES[who] + 0.12 * torch.randn(32, generator=generator), dim=0) for who in whose]
    lines = [SpokenLine(3.0 * n, 3.0 * n + 2, voice=own) for n, own in enumerate(voices)]
    groups = [[n] for n in range(len(lines))]

    def evidence(first, second):
        pairs = [linker.slope * (float(voices[a] @ voices[b]) - linker.middle) for a in first for b in second]
        return sum(pairs) / len(pairs)

    while len(groups) > 1:
        best, a, b = max((evidence(x, y), i, j) for i, x in enumerate(groups) for j, y in enumerate(groups) if i < j)
        if best <= 0:
            break
        groups[a] += groups.pop(b)
    expected = {frozenset(group) for group in groups}
    names = said(linker(lines))
    found = {frozenset(n for n, name in enumerate(names) if name == one) for one in set(names)}
    assert found == expected and 1 < len(found) < 14


def test_a_wrong_face_does_not_keep_a_line_from_its_people():
    def faces(start, ann):
        return [face(start, LEFT, who=0, speaks=ann), face(start, RIGHT, who=1, speaks=1 - ann)]

    order = [0, 1, 0, 1, 0, 1]
    lines = [
        SpokenLine(3.0 * n, 3.0 * n + 2, None, voice(who), faces(3.0 * n, 0.9 - 0.8 * who))
        for n, who in enumerate(order)
    ]
    lines.append(SpokenLine(18, 20, None, voice(0), faces(18.0, 0.1)))  # Bob's lips seem to move
    linked = PersonLinker()(lines)
    assert said(linked) == [f"person {who + 1}" for who in [*order, 0]]
    assert seen(linked)[-1] == ["person 1", "person 2"]
    assert linked.lines[-1].confidence < linked.lines[0].confidence


def test_confidence_is_that_of_a_slow_version():
    """Against the evidence of a node with a group, computed from every pair of the two."""
    linker, order = PersonLinker(), [0, 1, 2, 0, 1, 2, 0, 1, 2]
    lines = []
    for n, who in enumerate(order):
        own, other = face(5.0 * n, LEFT, who=who, speaks=0.7), face(5.0 * n, RIGHT, who=(who + 1) % 3, speaks=0.4)
        said = None if n == 3 else voice(who, 0.09)
        lines.append(SpokenLine(5.0 * n, 5.0 * n + 0.4 + 0.3 * n, "Ann" if n == 0 else None, said, [own, other]))
    lines[4].faces[1] = face(20.0, RIGHT, speaks=0.4)  # nobody saw how it looks
    linked = linker(lines)
    tracks = [(n, seen) for n, line in enumerate(lines) for seen in line.faces]
    people = [*linked.lines, *(person for row in linked.faces for person in row)]

    def known(line):
        return min(max((line.end - line.start) / linker.full, 0.05), 1) ** 0.5

    def evidence(node, group):
        voices = weights = links = 0.0
        alike = []
        for other in group:
            low, high = sorted((node, other))
            first, second = (x - len(lines) for x in (low, high))
            if low == high:
                continue
            if high < len(lines):
                a, b = lines[low], lines[high]
                if a.voice is not None and b.voice is not None:
                    weight = known(a) * known(b)
                    voices += weight**2 * linker.slope * (float(a.voice @ b.voice) - linker.middle)
                    weights += weight
            elif low < len(lines):
                line, seen = tracks[second]
                links += math.log(seen.speaks / (1 - seen.speaks)) if line == low else 0.0
            elif tracks[first][0] == tracks[second][0]:
                return -math.inf  # visible at one time
            elif tracks[first][1].appearance is not None and tracks[second][1].appearance is not None:
                a, b = (tracks[x][1].appearance[None] for x in (first, second))
                alike.append(float(linker.likeness(a, b)))
        return voices / max(weights, 1e-9) + sum(alike) / max(len(alike), 1) + links

    groups = {name: [n for n, person in enumerate(people) if person.name == name] for name in linked.names}
    assert len(groups) > 2 and sum(len(group) > 1 for group in groups.values()) > 1
    for node, person in enumerate(people[1:], 1):  # the name of the first is given
        found = torch.tensor([evidence(node, group) for group in groups.values()], dtype=torch.float64).softmax(0)
        assert person.confidence == pytest.approx(float(found[list(groups).index(person.name)]), abs=1e-4)
    assert min(person.confidence for person in people) < 0.99


def test_a_long_film_needs_less_memory_than_two_tables_of_all_pairs():
    lines = []
    for n in range(1000):
        faces = [face(3.0 * n, LEFT, who=n % 4, speaks=0.9), face(3.0 * n, RIGHT, who=(n + 1) % 4, speaks=0.1)]
        lines.append(SpokenLine(3.0 * n, 3.0 * n + 2, f"P{n % 4}", voice(n % 4), faces))
    tracemalloc.start()
    try:
        linked = PersonLinker()(lines)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sorted(linked.names) == ["P0", "P1", "P2", "P3"]
    assert peak < 2 * 4 * 3000**2
