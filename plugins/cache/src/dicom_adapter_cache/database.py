"""Access to the index database. A broken file is replaced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import structlog
from sqlalchemy import URL, Connection, Engine, NullPool, StaticPool, create_engine, event, inspect, make_url, select
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError

from dicom_adapter import Retriable
from dicom_adapter_cache import schema

log = structlog.get_logger("dicom_adapter_cache")

BUSY_TIMEOUT_S = 30.0  # longest wait for a write lock in SQLite: AE titles with the same `index-url` share a file
BROKEN = ("malformed", "not a database")  # parts of SQLite's messages about a broken file

Transaction: TypeAlias = Connection


class Database:
    """A database of the index. Thread-safe; keep transactions short."""

    def __init__(self, url: str | URL, *, writes: bool) -> None:
        """Create the engine, without a connection. `writes`: True for the processor, False for readers."""
        self._url = make_url(url)
        self._writes = writes
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        self._engine = self._connect()

    def _connect(self) -> Engine:
        if not self._is_sqlite:
            return create_engine(self._url, pool_pre_ping=True)
        # No pool for readers: after the file was replaced, no reader must use a connection to the old file.
        pool = StaticPool if self._writes else NullPool
        engine = create_engine(
            self._url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}, poolclass=pool
        )
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin)
        return engine

    def open(self) -> None:
        """Create the tables. Tables of another version, and a broken file, are replaced."""
        try:
            self._make_tables()
        except DatabaseError as failure:
            if not self._is_sqlite or not any(word in str(failure.orig) for word in BROKEN):
                raise Retriable(f"the cache's index cannot be opened: {_driver_message(failure)}") from failure
            log.error("cache_index_broken", error=_driver_message(failure))
            self._remove_file()
            self._make_tables()

    def _make_tables(self) -> None:
        with self._engine.begin() as transaction:
            if inspect(transaction).has_table(schema.versions.name):
                if transaction.execute(select(schema.versions.c.version)).scalars().all() == [schema.VERSION]:
                    return
                schema.metadata.drop_all(transaction)
            schema.metadata.create_all(transaction)
            transaction.execute(schema.versions.insert().values(version=schema.VERSION))

    def _remove_file(self) -> None:
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._url.database}{suffix}").unlink(missing_ok=True)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """Begin a transaction that may write. Raises Retriable if the database fails."""
        with _retriable_failures(), self._engine.begin() as transaction:
            yield transaction

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """Begin a read transaction, which sees one snapshot. Raises Retriable if the database fails."""
        with _retriable_failures(), self._engine.connect().execution_options(reads_only=True) as transaction:
            yield transaction

    def close(self) -> None:
        self._engine.dispose()


@contextmanager
def _retriable_failures() -> Iterator[None]:
    try:
        yield
    except OperationalError as failure:
        raise Retriable(f"the cache's index cannot be used at present: {_driver_message(failure)}") from failure


def _driver_message(failure: DBAPIError) -> str:
    """Return the database's message without the statement and its values."""
    return str(failure.orig).splitlines()[0]


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not send BEGIN, because `_begin` does
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # rows lost in a power loss are rebuilt from the instances
    connection.execute("PRAGMA foreign_keys = ON")


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("reads_only", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
