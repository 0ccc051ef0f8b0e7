"""The lock of a ledger: only one service may use it. Two services could have different data folders and one ledger.

The second service would also process the groups and the jobs of the first service. Like the locks of the data folder,
the lock of the ledger is an advisory lock (flock(2)), which the kernel releases when its process ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

FILE_MODE = 0o600
LOCK_TRIES = 10  # number of attempts, because a process that is ending may still hold the lock
LOCK_PAUSE_SECONDS = 0.1  # between two attempts


@frozen
class LedgerLock:
    """The lock of one ledger. The file of the lock is beside the database, and names the service that holds it."""

    path: Path | None  # file of the database; None: the database is not a file, and has no lock
    data_folder: Path  # data folder of this process, which is written to the file of the lock

    @contextmanager
    def hold(self, service_pid: int | None = None) -> Iterator[str]:
        """Hold the lock until the block ends. Yield "", or the reason if another process holds it.

        `service_pid`: PID of the service, for messages of other processes; None: this process. Without the folder of
        the database there is no lock, and opening the database fails. Raises OSError.
        """
        file = None if self.path is None else _lock_file(self.path)
        if file is None or not file.parent.is_dir():
            yield ""
            return
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        with os.fdopen(descriptor, "r+", encoding="utf-8") as lock:
            if not _lock_soon(descriptor):
                yield self._refusal(lock.read())
                return
            lock.truncate(0)
            lock.write(json.dumps({"pid": service_pid or os.getpid(), "data_folder": str(self.data_folder)}))
            lock.flush()
            yield ""

    def refusal(self) -> str:
        """Return the reason if another process holds the lock, else "". Creates no file. Raises OSError."""
        if self.path is None:
            return ""
        try:
            with _lock_file(self.path).open(encoding="utf-8") as lock:
                return "" if _lock(lock.fileno(), fcntl.LOCK_SH) else self._refusal(lock.read())
        except FileNotFoundError:
            return ""

    def _refusal(self, text: str) -> str:
        return f"{_holder(text)} is already using the ledger {self.path}"


def _lock_file(database: Path) -> Path:
    path = database.resolve()  # the same for every link to the database
    return path.with_name(f"host.{path.name}.lock")


def _lock_soon(descriptor: int) -> bool:
    for _try in range(LOCK_TRIES):
        if _lock(descriptor, fcntl.LOCK_EX):
            return True
        time.sleep(LOCK_PAUSE_SECONDS)
    return False


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"another dicom-adapter (PID {holder['pid']}) with the data folder {holder['data_folder']}"
    except (ValueError, KeyError, TypeError):  # the holder has not written its PID yet
        return "another dicom-adapter"
