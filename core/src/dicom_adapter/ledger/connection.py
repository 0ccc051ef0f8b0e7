"""Open the ledger: SQLite in WAL mode, with one writing transaction at a time and any number of readers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from sqlalchemy import URL, Connection, CursorResult, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from dicom_adapter.api.errors import LedgerUnavailable, Refused
from dicom_adapter.ledger import migration
from dicom_adapter.ledger.errors import ledger_error
from dicom_adapter.ledger.ledger_file import (
    CLOSING_SECONDS,
    WAIT_SECONDS,
    LedgerFile,
    busy_timeout,
    database_file,
    prepare,
    synchronous,
)

Transaction: TypeAlias = Connection


class Ledger(LedgerFile):
    """The open ledger: connections of SQLAlchemy to the database, and transactions on them. Thread-safe."""

    def __init__(self, url: str, *, durable: bool = True, wait_seconds: float = WAIT_SECONDS) -> None:
        super().__init__(url, durable=durable, wait_seconds=wait_seconds)
        self._engine = self._connect()
        self._writer: Connection | None = None  # stays open: to get one from the pool takes as long as a small change
        self._writer_syncs, self._writer_timeout = durable, busy_timeout(wait_seconds)
        self._has_recorded_logs = False  # whether `record_logs` was called for the current writer

    def _connect(self) -> Engine:
        url = _sqlalchemy_url(self.url)
        engine = create_engine(url, connect_args={"timeout": self._wait_seconds}, pool_size=32)
        event.listen(engine, "do_connect", lambda *_: self._placed.require())  # before SQLite creates another file
        event.listen(engine, "connect", self._prepare)
        event.listen(engine, "begin", _begin)
        return engine

    def _prepare(self, connection: Any, _record: Any) -> None:
        prepare(connection, self._placed, durable=self._durable)

    @contextmanager
    def write(self, *, synced: bool = True, waits: bool = True) -> Iterator[Transaction]:
        seconds = self._acquire(self._wait_seconds if waits else 0)
        try:
            writer = self._writing_connection(syncs=synced and self._durable, timeout=busy_timeout(seconds))
            with writer.begin():
                if not self._has_recorded_logs:
                    self._placed.record_logs()
                    self._has_recorded_logs = True
                yield writer
                self._placed.require()  # a commit to a deleted file would be lost
        except (SQLAlchemyError, sqlite3.Error) as failure:
            raise ledger_error(failure) from None
        finally:
            self._writing.release()

    def _writing_connection(self, *, syncs: bool, timeout: str) -> Connection:
        if self._writer is None or self._writer.invalidated:
            self._writer, self._writer_syncs = self._engine.connect(), self._durable
            self._writer_timeout = ""  # unknown
            self._has_recorded_logs = False
        if self._writer_syncs is not syncs:
            _set(self._writer, synchronous(durable=syncs))
            self._writer_syncs = syncs
        if self._writer_timeout != timeout:
            _set(self._writer, timeout)
            self._writer_timeout = timeout
        return self._writer

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        try:
            with self._engine.connect().execution_options(reads_only=True) as transaction:
                yield transaction
        except (SQLAlchemyError, sqlite3.Error) as failure:
            raise ledger_error(failure) from None

    def migrate(self) -> None:
        """Create or upgrade the schema. One process does this before the others start.

        Raises Refused, and changes nothing, if the database belongs to a newer version or to another program.
        """
        if self.require_known() == migration.REVISION:
            return
        with self.write() as transaction:  # check again: another process may have created the tables meanwhile
            if not migration.has_tables(transaction):
                migration.create(transaction)
        if self._revision() == migration.REVISION:
            return
        try:
            with self._engine.connect() as connection:
                migration.upgrade(connection)
                connection.commit()
        except SQLAlchemyError as failure:
            raise ledger_error(failure) from None

    def require_known(self) -> str | None:
        """Return the revision of the schema; None if there are no tables. Raises Refused if it is unknown."""
        with self.read() as transaction:
            revision = migration.read_revision(transaction)
            has_tables = migration.has_tables(transaction)
        require_known_schema(self.url, revision, has_tables=has_tables)
        return revision

    def _revision(self) -> str | None:
        with self.read() as transaction:
            return migration.read_revision(transaction)

    def require_current(self) -> None:
        """Raise Refused if the schema does not have the revision that this version of the adapter needs."""
        try:
            revision = self._revision()
        except LedgerUnavailable as failure:
            raise Refused(f"the ledger {self.url} cannot be opened: {failure.reason}") from failure
        if revision is not None and revision not in migration.known_revisions():
            raise Refused(_unknown(self.url, revision))
        if revision != migration.REVISION:
            raise Refused(
                f"the ledger {self.url} has schema {revision or 'none'}, this version needs {migration.REVISION}; "
                "start the service once with `dicom-adapter run`, which brings it up to date"
            )

    def close(self) -> None:
        if self._writing.acquire(timeout=CLOSING_SECONDS):  # otherwise, an abandoned thread waits for the ledger
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._writing.release()
        self._engine.dispose()


def require_known_schema(url: str, revision: str | None, *, has_tables: bool) -> None:
    """Raise Refused if the database has a schema of another program or of a newer version."""
    if revision is None and has_tables:
        raise Refused(
            f"the database {url} has tables, but not those of a ledger: it belongs to another program; name another "
            "file in [ledger] url"
        )
    if revision is not None and revision not in migration.known_revisions():
        raise Refused(_unknown(url, revision))


def _unknown(url: str, revision: str) -> str:
    return (
        f"the ledger {url} has schema {revision}, which this version does not know (its newest is "
        f"{migration.REVISION}): a newer version of dicom-adapter has upgraded it; install that version, or "
        "restore a backup of the data folder from before the upgrade"
    )


def _set(writer: Connection, pragma: str) -> None:
    try:
        writer.connection.cursor().execute(pragma)
    except writer.dialect.loaded_dbapi.Error as failure:
        raise as_sqlalchemy_error(writer, failure) from failure


def _sqlalchemy_url(url: str) -> URL:
    return URL.create("sqlite", database=str(database_file(url)))


def inserted_id(result: CursorResult[Any]) -> int:
    """Return the number that the database assigned to the inserted row."""
    key = result.inserted_primary_key
    assert key is not None  # SQLAlchemy sets it after every INSERT of one row
    number: int = key[0]
    return number


def as_sqlalchemy_error(connection: Connection, failure: Exception) -> BaseException:
    """Return an error of the driver as SQLAlchemy raises it, without the statement's values (patient data)."""
    return DBAPIError.instance(None, None, failure, connection.dialect.loaded_dbapi.Error)


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail if another transaction wrote in between. IMMEDIATE
    # acquires the write lock at the beginning, before anything has been read.
    reads = connection.get_execution_options().get("reads_only", False)
    statement = "BEGIN" if reads else "BEGIN IMMEDIATE"
    try:
        connection.connection.cursor().execute(statement)  # through SQLAlchemy, this takes ten times as long
    except connection.dialect.loaded_dbapi.Error as failure:
        raise as_sqlalchemy_error(connection, failure) from failure
