"""`PlainLedger`: the ledger without SQLAlchemy, for a process that writes few rows."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dicom_adapter.ledger.driver import driver_error
from dicom_adapter.ledger.ledger_file import (
    CLOSING_SECONDS,
    WAIT_SECONDS,
    LedgerFile,
    busy_timeout,
    prepare,
    synchronous,
)


class PlainLedger(LedgerFile):
    """The open ledger: two connections of the driver, one to write and one to read. Thread-safe."""

    def __init__(self, url: str, *, durable: bool = True, wait_seconds: float = WAIT_SECONDS) -> None:
        super().__init__(url, durable=durable, wait_seconds=wait_seconds)
        self._writer: sqlite3.Connection | None = None
        self._has_recorded_logs = False
        self._reader: sqlite3.Connection | None = None
        self._reading = threading.Lock()

    @contextmanager
    def write(self, *, synced: bool = True, waits: bool = True) -> Iterator[sqlite3.Connection]:
        seconds = self._acquire(self._wait_seconds if waits else 0)
        try:
            writer = self._writer = self._writer or self._connect()
            writer.execute(synchronous(durable=synced and self._durable))
            writer.execute(busy_timeout(seconds))
            # IMMEDIATE acquires the write lock at the beginning: a transaction that reads first and writes later would
            # fail if another transaction wrote in between.
            with _transaction(writer, "BEGIN IMMEDIATE"):
                if not self._has_recorded_logs:
                    self._placed.record_logs()
                    self._has_recorded_logs = True
                yield writer
                self._placed.require()  # a commit to a deleted file would be lost
        except sqlite3.Error as failure:
            raise driver_error(failure) from None
        finally:
            self._writing.release()

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._reading:
                reader = self._reader = self._reader or self._connect()
                with _transaction(reader, "BEGIN"):
                    yield reader
        except sqlite3.Error as failure:
            raise driver_error(failure) from None

    def _connect(self) -> sqlite3.Connection:
        self._placed.require()  # before SQLite creates another file
        connection = sqlite3.connect(self._file, timeout=self._wait_seconds, check_same_thread=False)
        try:
            prepare(connection, self._placed, durable=self._durable)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        if self._reading.acquire(timeout=CLOSING_SECONDS):
            if self._reader is not None:
                self._reader.close()
                self._reader = None
            self._reading.release()
        if self._writing.acquire(timeout=CLOSING_SECONDS):  # otherwise, an abandoned thread waits for the ledger
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._writing.release()


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    """Commit when the block ends, roll back if it raises."""
    connection.execute(begin)
    try:
        yield
        connection.commit()
    except BaseException:
        connection.rollback()
        raise
