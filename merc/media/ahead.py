"""Decoding in a thread of its own, while the frames before are worked on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, cast

T = TypeVar("T")


def ahead(items: Generator[T, None, None]) -> Iterator[T]:
    """The same items, each of them made while the one before it is used.

    Decoders and PyTorch do not hold Python's lock, so reading and using take the time of the slower of the two. One
    more item is in memory. Errors come in the place of the item that could not be made, and ``items`` is closed when
    the iteration ends or is given up.

    Args:
        items: Such as :func:`merc.media.read_frames`.

    Example:
        >>> from merc.media.ahead import ahead
        >>> list(ahead(number**2 for number in range(4)))
        [0, 1, 4, 9]
    """
    with ThreadPoolExecutor(1, thread_name_prefix="merc-decode") as thread:
        try:
            coming = thread.submit(_next, items)
            while (item := coming.result()) is not _END:
                coming = thread.submit(_next, items)
                yield cast(T, item)
        finally:
            thread.submit(items.close).result()  # after the item that is being made


_END: Final = object()


def _next(items: Iterator[object]) -> object:
    return next(items, _END)
