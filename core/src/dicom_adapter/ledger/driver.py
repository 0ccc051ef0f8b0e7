"""SQL statements without SQLAlchemy, for modules that the supervisor uses.

SQLAlchemy needs 15 MB. The supervisor runs for months and writes few rows, so it does not load SQLAlchemy. Modules with
these statements import SQLAlchemy neither directly nor through other modules.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

from dicom_adapter.api.errors import LedgerError, LedgerUnavailable, RowRejected

if TYPE_CHECKING:
    from sqlalchemy import Connection

# A transaction of a `PlainLedger` or of a `Ledger`
AnyTransaction: TypeAlias = Union[sqlite3.Connection, "Connection"]

# Primary result codes (https://www.sqlite.org/rescode.html); the module sqlite3 has their names since Python 3.11.
SQLITE_BUSY, SQLITE_IOERR, SQLITE_FULL = 5, 10, 13
PRIMARY_CODE_BITS = 0xFF  # the bits of an extended code, such as SQLITE_IOERR_FSYNC, that are the primary code

# Messages of these codes (sqlite3_errstr): Python 3.10 provides only the message, not the code.
CODES = {"database is locked": SQLITE_BUSY, "disk I/O error": SQLITE_IOERR, "database or disk is full": SQLITE_FULL}

CAUSED_BY_VALUES = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.NotSupportedError, sqlite3.ProgrammingError)


def execute(transaction: AnyTransaction, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
    """Execute a statement with these values. The transaction converts errors of the driver to errors of the ledger."""
    return _connection(transaction).execute(statement, values)


def execute_many(transaction: AnyTransaction, statement: str, rows: Iterable[Sequence[Any]]) -> None:
    """Execute a statement for each of these rows of values."""
    _connection(transaction).executemany(statement, rows)


def _connection(transaction: AnyTransaction) -> sqlite3.Connection:
    if isinstance(transaction, sqlite3.Connection):
        return transaction
    connection = transaction.connection.driver_connection
    assert isinstance(connection, sqlite3.Connection)  # the only driver that `Ledger` uses
    return connection


def driver_error(failure: sqlite3.Error) -> LedgerError:
    """Return the ledger's error for an error of the driver, with its traceback.

    Errors that the values of a statement can cause become RowRejected. Every other error of the database (full, busy,
    not a database, malformed, no such table) affects other transactions as well, and becomes LedgerUnavailable.
    """
    if isinstance(failure, sqlite3.DatabaseError) and not isinstance(failure, CAUSED_BY_VALUES):
        converted: LedgerError = unavailable(failure)
    else:
        converted = RowRejected(type(failure).__name__)
    return converted.with_traceback(failure.__traceback__)


def unavailable(failure: BaseException | None) -> LedgerUnavailable:
    """Return the ledger's error for an error of the driver that affects every transaction."""
    code = _code(failure)
    return LedgerUnavailable(
        str(failure), is_full=code == SQLITE_FULL, is_busy=code == SQLITE_BUSY, is_io_error=code == SQLITE_IOERR
    )


def _code(failure: BaseException | None) -> int | None:
    code: int | None = getattr(failure, "sqlite_errorcode", None)
    return CODES.get(str(failure)) if code is None else code & PRIMARY_CODE_BITS
