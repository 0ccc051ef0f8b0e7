"""Convert errors of the driver and of SQLAlchemy to errors of the ledger, so that no other package depends on them."""

from __future__ import annotations

from sqlalchemy.exc import (
    DatabaseError,
    DataError,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as NoConnection

from dicom_adapter.api.errors import LedgerError, LedgerUnavailable, RowRejected

# Primary result codes (https://www.sqlite.org/rescode.html); the module sqlite3 has their names since Python 3.11.
SQLITE_BUSY, SQLITE_IOERR, SQLITE_FULL = 5, 10, 13
PRIMARY_CODE_BITS = 0xFF  # the bits of an extended code, such as SQLITE_IOERR_FSYNC, that are the primary code

# Messages of these codes (sqlite3_errstr): Python 3.10 provides only the message, not the code.
CODES = {"database is locked": SQLITE_BUSY, "disk I/O error": SQLITE_IOERR, "database or disk is full": SQLITE_FULL}

CAUSED_BY_VALUES = (DataError, IntegrityError, NotSupportedError, ProgrammingError)


def ledger_error(failure: SQLAlchemyError) -> LedgerError:
    """Return the ledger's error for an error of SQLAlchemy, with its traceback and without the values of its statement.

    Errors that the values of a statement can cause become RowRejected. Every other error of the database (full, busy,
    not a database, malformed, no such table) affects other transactions as well, and becomes LedgerUnavailable.
    """
    if isinstance(failure, NoConnection):
        converted: LedgerError = LedgerUnavailable("every connection to it is in use")
    elif isinstance(failure, DatabaseError) and not isinstance(failure, CAUSED_BY_VALUES):
        code = _code(failure.orig)
        converted = LedgerUnavailable(
            str(failure.orig),
            is_full=code == SQLITE_FULL,
            is_busy=code == SQLITE_BUSY,
            is_io_error=code == SQLITE_IOERR,
        )
    else:
        converted = RowRejected(type(failure).__name__)
    return converted.with_traceback(failure.__traceback__)


def _code(failure: BaseException | None) -> int | None:
    code: int | None = getattr(failure, "sqlite_errorcode", None)
    return CODES.get(str(failure)) if code is None else code & PRIMARY_CODE_BITS
