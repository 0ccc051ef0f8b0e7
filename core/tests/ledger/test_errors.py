"""The errors of the ledger: their class identifies the failure, and no message quotes the values of a statement."""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from dicom_adapter import InstanceStorageInfo, Retriable
from dicom_adapter.api.errors import (
    LedgerError,
    LedgerUnavailable,
    RowRejected,
    describe_failure,
    reports_no_free_space,
)
from dicom_adapter.ledger import Ledger, arrivals, instances
from dicom_adapter.ledger.errors import ledger_error
from dicom_adapter.ledger.schema import instances as table

MakeInstance = Callable[..., InstanceStorageInfo]
PATIENT = "PID-4711"


@pytest.fixture
def other(url: str) -> Iterator[Ledger]:
    """Return a second ledger object for the same file, as in another process."""
    second = Ledger(url, durable=False)
    yield second
    second.close()


def kinds(failure: LedgerUnavailable) -> tuple[bool, bool, bool]:
    return failure.is_full, failure.is_busy, failure.is_io_error


# --- LedgerUnavailable ------------------------------------------------------------------------------------------------


def test_a_full_ledger_reports_no_free_space(ledger: Ledger, an_instance: MakeInstance) -> None:
    """SQLite raises the error of a full disk. Verified to fail when the error code is not evaluated."""
    with ledger.write() as transaction:
        pages = transaction.exec_driver_sql("PRAGMA page_count").scalar()
        transaction.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(LedgerUnavailable) as raised, ledger.write() as transaction:
        instances.insert(transaction, an_instance(patient_id=PATIENT * 10_000))

    assert (True, False, False) == kinds(raised.value)
    assert reports_no_free_space(raised.value)
    assert "the ledger is not available: database or disk is full" == str(raised.value)


def test_a_ledger_is_busy_while_another_transaction_writes(ledger: Ledger, other: Ledger) -> None:
    """A transaction that does not wait fails, whether the other transaction is in the same process or in another one.

    Verified to fail when the driver's error is raised instead of LedgerUnavailable.
    """
    with other.write():
        with pytest.raises(LedgerUnavailable) as in_another_process, ledger.write(waits=False):
            pass
        with pytest.raises(LedgerUnavailable) as in_this_process, other.write(waits=False):
            pass
    assert [(False, True, False)] * 2 == [kinds(in_another_process.value), kinds(in_this_process.value)]
    assert not reports_no_free_space(in_another_process.value)
    with ledger.write(waits=False):
        pass


def test_a_ledger_without_its_tables_is_unavailable(url: str) -> None:
    """The error is not RowRejected: without the tables, every statement fails, whatever its values."""
    empty = Ledger(url)
    with pytest.raises(LedgerUnavailable, match="no such table") as raised, empty.read() as transaction:
        instances.last_number(transaction)
    assert (False, False, False) == kinds(raised.value)
    empty.close()


@pytest.mark.parametrize("begins_with", [b"SQLite format 3\0", b"not SQLite at all"])
def test_a_file_that_is_damaged_is_unavailable(url: str, tmp_path: Path, begins_with: bytes) -> None:
    """No transaction can succeed. SQLite reports a damaged file with DatabaseError, not with OperationalError."""
    (tmp_path / "ledger.sqlite").write_bytes(begins_with + b"garbage " * 1000)
    damaged = Ledger(url)
    for begin in (damaged.read, damaged.write):
        with pytest.raises(LedgerUnavailable), begin() as transaction:
            instances.last_number(transaction)
    with pytest.raises(LedgerUnavailable):
        damaged.migrate()
    damaged.close()


@pytest.mark.parametrize("identified_by", ["code", "message"])
@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (13, "database or disk is full", (True, False, False)),
        (5, "database is locked", (False, True, False)),
        (5 | 2 << 8, "database is locked", (False, True, False)),  # SQLITE_BUSY_SNAPSHOT
        (10, "disk I/O error", (False, False, True)),
        (10 | 4 << 8, "disk I/O error", (False, False, True)),  # SQLITE_IOERR_FSYNC
        (1, "no such table: instances", (False, False, False)),
    ],
)
def test_the_kind_is_decided_by_the_error_code_or_by_the_message(
    identified_by: str, code: int, message: str, expected: tuple[bool, bool, bool]
) -> None:
    """In Python 3.10 only the message identifies the error, because the driver passes no code."""
    failure = sqlite3.OperationalError(message if identified_by == "message" else "another message")
    if identified_by == "code":
        failure.sqlite_errorcode = code
    error = ledger_error(OperationalError("INSERT", {"patient": PATIENT}, failure))
    assert isinstance(error, LedgerUnavailable)
    assert expected == kinds(error)


def test_an_unavailable_ledger_is_a_retriable_error() -> None:
    """Code that retries after any Retriable also retries after errors of the ledger."""
    assert issubclass(LedgerUnavailable, Retriable)
    assert not issubclass(RowRejected, Retriable)


# --- RowRejected ------------------------------------------------------------------------------------------------------


def rejected_by_constraint(ledger: Ledger, an_instance: MakeInstance) -> None:
    instance = an_instance(patient_id=PATIENT, sop_instance_uid=PATIENT)
    with ledger.write() as transaction:
        instances.insert(transaction, instance)
        instances.insert(transaction, instance)


def rejected_by_type(ledger: Ledger, an_instance: MakeInstance) -> None:
    naive = datetime(2026, 1, 5)  # noqa: DTZ001 - the mistake under test
    with ledger.write() as transaction:
        instances.insert(transaction, an_instance(patient_id=PATIENT, received_at=naive))


def rejected_by_the_driver(ledger: Ledger, _an_instance: MakeInstance) -> None:
    with ledger.write() as transaction:
        cannot_be_bound: Any = {PATIENT}  # the driver accepts no set
        arrivals.enter(transaction, [(cannot_be_bound,) * len(arrivals.COLUMNS)], [""], 0)


@pytest.mark.parametrize("reject", [rejected_by_constraint, rejected_by_type, rejected_by_the_driver])
def test_a_row_with_wrong_values_is_not_an_unavailable_ledger(
    ledger: Ledger, an_instance: MakeInstance, reject: Callable[[Ledger, MakeInstance], None]
) -> None:
    """The ledger works: a retry would not help, and other rows can be written."""
    with pytest.raises(RowRejected):
        reject(ledger, an_instance)
    with ledger.write() as transaction:
        instances.insert(transaction, an_instance())


# --- messages -------------------------------------------------------------------------------------------------------


def missing_table(ledger: Ledger, an_instance: MakeInstance) -> None:
    with ledger.write() as transaction:
        transaction.execute(text(f"DROP TABLE {table.name}"))
        instances.insert(transaction, an_instance(patient_id=PATIENT))


@pytest.mark.parametrize(
    "fail",
    [rejected_by_constraint, rejected_by_type, rejected_by_the_driver, missing_table],
    ids=lambda each: each.__name__,
)
def test_no_value_of_a_statement_is_in_the_error(
    ledger: Ledger, an_instance: MakeInstance, fail: Callable[[Ledger, MakeInstance], None]
) -> None:
    """No value is in the message nor in a printed traceback.

    Verified to fail when the error is raised `from` the original error.
    """
    with pytest.raises(LedgerError) as raised:
        fail(ledger, an_instance)
    printed = "".join(traceback.format_exception(raised.value))
    assert PATIENT not in "\n".join([str(raised.value), repr(raised.value), printed, describe_failure(raised.value)])


def test_the_traceback_shows_the_statement_that_failed(ledger: Ledger, an_instance: MakeInstance) -> None:
    """It has the frames in which the driver's error was raised, not only the end of the `with` block."""
    with pytest.raises(RowRejected) as raised:
        rejected_by_constraint(ledger, an_instance)
    frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert "rejected_by_constraint" in frames
    assert "insert" in frames
