"""Convert errors of SQLAlchemy and of the driver to errors of the ledger, so that no other package depends on them."""

from __future__ import annotations

import sqlite3

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
from dicom_adapter.ledger.driver import driver_error, unavailable

CAUSED_BY_VALUES = (DataError, IntegrityError, NotSupportedError, ProgrammingError)


def ledger_error(failure: SQLAlchemyError | sqlite3.Error) -> LedgerError:
    """Return the ledger's error for an error of a transaction, with its traceback and without values of statements.

    The function `driver_error` describes the conversion.
    """
    if isinstance(failure, sqlite3.Error):
        return driver_error(failure)
    if isinstance(failure, NoConnection):
        converted: LedgerError = LedgerUnavailable("every connection to it is in use")
    elif isinstance(failure, DatabaseError) and not isinstance(failure, CAUSED_BY_VALUES):
        converted = unavailable(failure.orig)
    else:
        converted = RowRejected(type(failure).__name__)
    return converted.with_traceback(failure.__traceback__)
