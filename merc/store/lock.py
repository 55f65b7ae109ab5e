"""The lock of a store's folder: one writer at a time, and none that outlives its process."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from merc.store.kinds import StoreError

LOCK = ".lock"
"""File in a store's folder that its writer holds. It stays there; only a running process can hold it."""

PATIENCE = 10.0
"""Seconds to wait for another writer: enough for one that writes from memory, or that is being ended."""


def take_lock(folder: Path) -> FileLock:
    """Hold the lock of a store, until it is released or the process ends, however it ends.

    Args:
        folder: The folder of the store, which must be there.

    Raises:
        StoreError: Another writer holds it; the message says which.
    """
    file = folder / LOCK
    # One object per writer, whichever thread lets go: a second writer in the same process is a second writer.
    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise StoreError(
            f"{folder} is being written by {_holder(file)}: expected one writer at a time. Wait until it has ended, or "
            "write to another folder."
        ) from error
    with suppress(OSError):  # only the message of others needs it; Windows lets nobody write to a locked file
        # Where there are no locks, filelock has written a marker of the same form, and needs it as it is.
        if not file.read_bytes().startswith(b"%d\n" % os.getpid()):
            file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
    return lock


def _holder(file: Path) -> str:
    """Who holds a lock, as it has written there."""
    try:
        pid, host, *_ = file.read_bytes()[:300].decode("utf-8", "replace").split("\n")
    except (OSError, ValueError):
        return "another process"
    return f"process {pid} on {host}"
