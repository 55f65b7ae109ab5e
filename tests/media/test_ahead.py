"""Making items in a thread of its own."""

import threading
from collections.abc import Generator

import pytest

from merc.media.ahead import ahead


def test_items_come_in_their_order() -> None:
    assert list(ahead(number for number in range(20))) == list(range(20))
    assert list(ahead(number for number in ())) == []


def test_the_next_item_is_made_while_one_is_used() -> None:
    made = [threading.Event() for _ in range(3)]

    def items() -> Generator[int, None, None]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in ahead(items()):
        if number + 1 < len(made):
            assert made[number + 1].wait(10)


def test_an_error_comes_in_the_place_of_its_item() -> None:
    def items() -> Generator[int, None, None]:
        yield 1
        raise OSError("no more")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(OSError, match="no more"):
        next(coming)


@pytest.mark.parametrize("used", [0, 1, 3])
def test_what_is_given_up_is_closed_and_leaves_no_thread(used: int) -> None:
    closed = []

    def items() -> Generator[int, None, None]:
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    before = threading.active_count()
    coming = ahead(items())
    for _ in range(used):
        next(coming)
    del coming
    assert bool(closed) == bool(used)  # one that never began has nothing to close
    assert threading.active_count() == before
