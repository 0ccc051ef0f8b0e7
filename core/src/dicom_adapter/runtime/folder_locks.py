"""The locks of a data folder: advisory locks (flock(2)), which the kernel releases when their process ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attrs import field, frozen

SERVICE_LOCK = "service.lock"  # locked by the supervisor
USE_LOCK = "in-use.lock"  # host and receivers lock it shared, a repair exclusively
LOCK_TRIES = 10  # number of tries: a process that only checks a lock holds it for a moment


@frozen
class FolderLocks:
    """The locks of a data folder that its processes share.

    The first lock is for use of the folder: processes of the service lock it `shared`, a repair `exclusive`. The second
    lock, `as_service`, excludes nothing: it shows that the supervisor runs.
    """

    path: Path
    lock_pause_seconds: float = field(default=0.1, kw_only=True)  # pause between two tries

    @contextmanager
    def as_service(self) -> Iterator[None]:
        """Hold the lock of the supervisor until the block ends. The block also runs if the lock cannot be acquired.

        This lock need not exclude a second supervisor: its host cannot start, because of the lock of the host.
        """
        try:
            file = self._open(SERVICE_LOCK)
        except OSError:  # for example on a full disk
            yield
            return
        with file:
            self._lock_soon(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def shared(self) -> Iterator[bool]:
        """Use the folder together with other processes until the block ends. Yield False while a repair uses it."""
        with self._open(USE_LOCK) as file:
            yield self._lock_soon(file, fcntl.LOCK_SH)

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Use the folder exclusively until the block ends. Yield False if another process uses it."""
        with self._open(USE_LOCK) as file:
            yield _lock(file, fcntl.LOCK_EX)

    @property
    def is_used(self) -> bool:
        """True if any process uses the folder. Creates no file, which might belong to another user than the service."""
        return self._is_locked(USE_LOCK, fcntl.LOCK_EX)

    @property
    def user_pids(self) -> list[int]:
        """PIDs of the processes that use the folder; empty if there are no such processes or they are unknown."""
        return _lock_owners_of(self.path / USE_LOCK)

    def _open(self, name: str) -> IO[str]:
        return (self.path / name).open("a")

    def _lock_soon(self, file: IO[str], kind: int) -> bool:
        for _try in range(LOCK_TRIES):
            if _lock(file, kind):
                return True
            time.sleep(self.lock_pause_seconds)
        return False

    def _is_locked(self, name: str, kind: int) -> bool:
        try:
            with (self.path / name).open() as file:
                return not _lock(file, kind)
        except FileNotFoundError:
            return False


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_owners_of(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return lock_owners(status.st_dev, status.st_ino)


def lock_owners(device: int, inode: int) -> list[int]:
    """Return the PIDs of the processes that hold flock(2) locks on a file, from /proc/locks (proc(5)).

    Only for messages: the list is empty where /proc/locks does not exist or names the file system differently.
    """
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    file = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    locks = (line.split() for line in lines)  # such as "1: FLOCK ADVISORY WRITE 27195 fe:00:2179566 0 EOF"
    return sorted({int(lock[4]) for lock in locks if lock[1] == "FLOCK" and lock[5] == file})
