"""The database file of a ledger, as one process uses it."""

from __future__ import annotations

import os
import sqlite3
import threading
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.ledger.driver import AnyTransaction
from dicom_adapter.ledger.placed_database import PlacedDatabase

SQLITE = "sqlite:///"
# Limit of the wait for other transactions. A stopping host waits longer than this for the steps of jobs, so that a step
# that waits for the ledger can end.
WAIT_SECONDS = 6.0
CLOSING_SECONDS = 1.0  # the same limit while the process stops
# A wait for other threads is counted in this number of parts. A pause of the whole machine, such as for the snapshot of
# a virtual machine, counts as one part at most: it has also stopped the thread that writes. SQLite counts its waits for
# other processes in the same way.
WAIT_PARTS = 6


class LedgerFile(ABC):
    """An open ledger: its file, and the lock of its writing transactions in this process. Thread-safe."""

    def __init__(self, url: str, *, durable: bool = True, wait_seconds: float = WAIT_SECONDS) -> None:
        """Open `sqlite:///<file>`. `durable`: a committed transaction survives a power loss.

        `wait_seconds`: limit of the wait for other transactions; 1.5 times this value if threads of this process wait,
        too. After it, LedgerUnavailable with `is_busy` is raised: a program that locks the ledger for a long time must
        not stop the service.
        """
        self.url = url
        self._durable = durable
        self._wait_seconds = wait_seconds
        self._file = database_file(url)
        self._placed = PlacedDatabase(self._file)
        # SQLite allows one writing transaction. Threads of one process wait for this lock instead of polling the file.
        self._writing = threading.Lock()

    @abstractmethod
    def write(self, *, synced: bool = True, waits: bool = True) -> AbstractContextManager[AnyTransaction]:
        """Begin a writing transaction: committed when the block ends, rolled back if it raises.

        A transaction that is not `synced` becomes durable with the next synced transaction of any process: transactions
        become durable in the order of their commits. Without `waits`, LedgerUnavailable with `is_busy` is
        raised while another transaction is writing, and nothing is changed.
        """

    @abstractmethod
    def read(self) -> AbstractContextManager[AnyTransaction]:
        """Begin a read-only transaction, which sees a snapshot of the ledger and blocks no other transaction."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection. Closing the last one moves the write-ahead log into the database file."""

    def _acquire(self, seconds: float) -> float:
        """Wait for the other threads of this process. Return the seconds to wait for other processes.

        After a long wait, the result is smaller than `seconds`, so that both waits take `1.5 * seconds` at most. After
        a short wait the result is `seconds`, because a change of the connection's setting takes time.
        """
        for part in range(1, WAIT_PARTS + 1):
            if self._writing.acquire(timeout=seconds / WAIT_PARTS):
                return seconds if part <= WAIT_PARTS / 2 else seconds * (1 - part / WAIT_PARTS)
        raise LedgerUnavailable("another transaction is writing", is_busy=True)

    def shorten_waits(self) -> None:
        """Shorten the waits of all later transactions: the process stops, and must not wait long. Thread-safe."""
        self._wait_seconds = min(self._wait_seconds, CLOSING_SECONDS)

    def free_bytes(self) -> int:
        """Return the free space of the disk with the database."""
        disk = os.statvfs(self._file.parent)
        return disk.f_bavail * disk.f_frsize

    def problem(self) -> str:
        """Return why an opened file was replaced or is missing; "" if none was. Calls stat(2) three times."""
        problem = self._placed.problem()
        return problem and f"the ledger is not the one that the service has opened: {problem}"


def exists(url: str) -> bool:
    """Return whether the ledger exists, without creating it."""
    return database_file(url).exists()


def database_file(url: str) -> Path:
    """Return the file of `sqlite:///<file>`. Its name may contain any character, also `?`, `#` and `%`."""
    return Path(url.removeprefix(SQLITE))


def prepare(connection: sqlite3.Connection, placed: PlacedDatabase, *, durable: bool) -> None:
    """Prepare a new connection."""
    connection.isolation_level = None  # the ledger begins transactions, not the driver
    connection.execute("PRAGMA journal_mode = WAL")
    placed.record_database()
    connection.execute(synchronous(durable=durable))
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -16000")  # negative: KiB; the memory of one connection


def synchronous(*, durable: bool) -> str:
    """Return the statement that sets whether commits are synced.

    In WAL mode, NORMAL keeps the file consistent but may lose the last commits in a power loss; FULL syncs each.
    """
    return f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}"


def busy_timeout(seconds: float) -> str:
    """Return the statement that sets the limit of the wait for other processes."""
    return f"PRAGMA busy_timeout = {round(seconds * 1000)}"
