"""Try whether a service could use a ledger, without any change to it."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import URL, create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from dicom_adapter.api.errors import LedgerError, LedgerUnavailable, Refused
from dicom_adapter.ledger import migration
from dicom_adapter.ledger.connection import Ledger, require_known_schema
from dicom_adapter.ledger.errors import ledger_error
from dicom_adapter.ledger.ledger_file import database_file

HEADER_BYTES = 100  # length of the header of a database file (sqlite.org/fileformat2.html)
MAGIC = b"SQLite format 3\0"
WRITE_VERSION = 18  # position in the header
WAL = 2  # value at WRITE_VERSION: write-ahead log (1: rollback journal)


def require_usable(url: str) -> None:
    """Raise Refused if a service could not use the ledger. A ledger that does not exist yet is usable."""
    file = database_file(url)
    try:
        with file.open("rb") as opened:
            header = opened.read(HEADER_BYTES)
    except FileNotFoundError:
        return
    except OSError as failure:
        raise Refused(f"the ledger {file} cannot be read: {failure.strerror}; {_advice(file)}") from None
    if header and not header.startswith(MAGIC):
        raise Refused(f"the ledger {file} is not an SQLite database; name another file in [ledger] url")
    if not os.access(file, os.W_OK):
        raise Refused(f"the ledger {file} cannot be written; {_advice(file)}")
    if header:
        _require_known(url, is_wal=header[WRITE_VERSION] == WAL)


def _require_known(url: str, *, is_wal: bool) -> None:
    """Raise Refused if the schema is unknown.

    A database that is not in WAL mode is opened without `Ledger`, which would change it to WAL mode.
    """
    try:
        if is_wal:
            ledger = Ledger(url)
            try:
                ledger.require_known()
            finally:
                ledger.close()
        else:
            _require_known_without_wal(url)
    except LedgerError as failure:
        reason = failure.reason if isinstance(failure, LedgerUnavailable) else failure
        raise Refused(f"the ledger {database_file(url)} cannot be used: {reason}") from None


def _require_known_without_wal(url: str) -> None:
    read_only = f"file:{quote(str(database_file(url)))}?mode=ro"
    engine = create_engine(URL.create("sqlite", database=read_only, query={"uri": "true"}), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            require_known_schema(url, migration.read_revision(connection), has_tables=migration.has_tables(connection))
    except SQLAlchemyError as failure:
        raise ledger_error(failure) from None


def _advice(file: Path) -> str:
    return f"give the service's user access to {file.parent}"
