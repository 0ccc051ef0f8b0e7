"""Who works in a data folder: host and receivers share a lock on it, and a repair has to have it for itself.

A receiver may outlive its host, so the host's own lock does not tell. The kernel gives a lock back when its process
ends, however that comes about.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOCK = "in-use.lock"  # in the data folder
TRIES, PAUSE_S = 10, 0.1  # who only looks whether the folder is in use holds the lock for a moment


def share(folder: Path) -> IO[str] | None:
    """Say that this process works in the folder, for as long as the result is not closed; None while a repair does."""
    file = _open(folder)
    for _try in range(TRIES):
        if _lock(file, fcntl.LOCK_SH):
            return file
        time.sleep(PAUSE_S)
    file.close()
    return None


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether no other process works in the folder; if so, none begins before the block ends."""
    with _open(folder) as file:
        yield _lock(file, fcntl.LOCK_EX)


def is_used(folder: Path) -> bool:
    """Whether any process works in the folder. Makes no file: it might belong to another user than the service's."""
    try:
        with (folder / LOCK).open() as file:
            return not _lock(file, fcntl.LOCK_EX)
    except FileNotFoundError:
        return False


def _open(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return (folder / LOCK).open("w")


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
