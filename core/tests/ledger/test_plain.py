"""The ledger without SQLAlchemy: its transactions, limits of waits and errors are those of `Ledger`."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest

from dicom_adapter.api.errors import LedgerReplaced, LedgerUnavailable, RowRejected
from dicom_adapter.ledger import Ledger, health
from dicom_adapter.ledger.driver import AnyTransaction, execute
from dicom_adapter.ledger.health import PartHealth, PartState
from dicom_adapter.ledger.plain import PlainLedger

NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)
PART = PartHealth(part="service", state=PartState.OK, since=NOW, seen_at=NOW, pid=17)


@pytest.fixture
def plain(url: str, ledger: Ledger) -> Iterator[PlainLedger]:
    """Return the migrated ledger of the fixture `ledger`, opened without SQLAlchemy."""
    opened = PlainLedger(url, wait_seconds=0.05)
    yield opened
    opened.close()


def value(transaction: AnyTransaction, statement: str) -> object:
    [row] = execute(transaction, statement).fetchall()
    return row[0]


def test_both_ledgers_see_the_rows_of_each_other(plain: PlainLedger, ledger: Ledger) -> None:
    with plain.write() as written:
        health.save(written, [PART])
    with ledger.read() as read:
        assert {"service": PART} == health.load(read)
    with ledger.write() as changed:
        health.delete_old_parts(changed, receivers=1)
        execute(changed, "UPDATE health SET reason = 'changed'")
    with plain.read() as again:
        assert "changed" == health.load(again)["service"].reason


def test_a_write_that_raises_changes_nothing(plain: PlainLedger) -> None:
    """Verified to fail when the transaction is not rolled back."""
    with pytest.raises(ZeroDivisionError), plain.write() as transaction:
        health.save(transaction, [PART])
        raise ZeroDivisionError
    with plain.read() as transaction:
        assert {} == health.load(transaction)
    with plain.write() as transaction:  # the connection can still be used
        health.save(transaction, [PART])


def test_a_reader_sees_one_snapshot_and_does_not_block_writers(plain: PlainLedger, ledger: Ledger) -> None:
    """Verified to fail when `read` begins no transaction."""
    with plain.read() as reader:
        assert {} == health.load(reader)
        with plain.write() as transaction:
            health.save(transaction, [PART])
        assert {} == health.load(reader)


@pytest.mark.parametrize(("durable", "synced", "synchronous"), [(True, True, 2), (True, False, 1), (False, True, 1)])
def test_a_synced_transaction_survives_a_power_loss(
    url: str, ledger: Ledger, durable: bool, synced: bool, synchronous: int
) -> None:
    """2 is FULL: each commit is synced. An earlier transaction with the other value of `synced` changes nothing."""
    plain = PlainLedger(url, durable=durable)
    with plain.write(synced=not synced):
        pass
    with plain.write(synced=synced) as transaction:
        assert synchronous == value(transaction, "PRAGMA synchronous")
    plain.close()


def test_a_transaction_of_another_connection_is_waited_for_only_for_a_limited_time(
    plain: PlainLedger, ledger: Ledger
) -> None:
    with ledger.write(), pytest.raises(LedgerUnavailable) as raised, plain.write():
        pytest.fail("the ledger is locked")
    assert raised.value.is_busy


def test_a_transaction_of_another_thread_is_waited_for_only_for_a_limited_time(plain: PlainLedger) -> None:
    with plain.write(), pytest.raises(LedgerUnavailable) as raised, plain.write():
        pytest.fail("another transaction is open")
    assert raised.value.is_busy


@pytest.mark.parametrize("opens", [Ledger, PlainLedger])
def test_the_error_of_a_rejected_row_does_not_contain_its_values(
    url: str, ledger: Ledger, opens: type[Ledger | PlainLedger]
) -> None:
    """Statements without SQLAlchemy raise the same errors in both ledgers."""
    opened = opens(url)
    with pytest.raises(RowRejected) as raised, opened.write() as transaction:
        execute(transaction, "INSERT INTO health (part, state) VALUES (?, ?)", ["PID-4711", None])
    assert "PID-4711" not in str(raised.value)
    opened.close()


@pytest.mark.parametrize("opens", [Ledger, PlainLedger])
def test_a_full_ledger_is_unavailable(url: str, ledger: Ledger, opens: type[Ledger | PlainLedger]) -> None:
    opened = opens(url)
    with pytest.raises(LedgerUnavailable) as raised, opened.write() as transaction:
        execute(transaction, f"PRAGMA max_page_count = {value(transaction, 'PRAGMA page_count')}")
        execute(transaction, "INSERT INTO health VALUES ('x', 'ok', ?, 0, 0, NULL)", ["x" * 1_000_000])
    assert raised.value.is_full
    opened.close()


def test_nothing_is_written_to_a_deleted_file(plain: PlainLedger, url: str) -> None:
    """Verified to fail when a commit does not check first that the opened file is still at its path."""
    with plain.write():
        pass
    Path(url.removeprefix("sqlite:///")).unlink()

    assert "the ledger is not the one that the service has opened" in plain.problem()
    with pytest.raises(LedgerReplaced), plain.write():
        pass


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_bytes(b"no database " * 100)
    plain = PlainLedger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    with pytest.raises(LedgerUnavailable), plain.read():
        pass
    plain.close()


def test_threads_read_and_write_at_the_same_time(url: str, ledger: Ledger) -> None:
    """Each of two threads increments a number in each transaction: no increment is lost."""
    plain = PlainLedger(url)
    with plain.write() as transaction:
        health.save(transaction, [PART])

    def increment() -> None:
        for _number in range(50):
            with plain.write(synced=False) as transaction:
                execute(transaction, "UPDATE health SET pid = pid + 1")
            with plain.read() as transaction:
                value(transaction, "SELECT pid FROM health")

    threads = [threading.Thread(target=increment) for _number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with plain.read() as transaction:
        assert 117 == value(transaction, "SELECT pid FROM health")
    plain.close()


def test_a_ledger_is_closed_although_a_thread_uses_it(
    url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An abandoned thread, which waits for the ledger, must not stop the process from ending."""
    monkeypatch.setattr("dicom_adapter.ledger.plain.CLOSING_SECONDS", 0.01)
    plain = PlainLedger(url)
    with plain.write() as transaction:
        plain.close()
        assert isinstance(transaction, sqlite3.Connection)
    plain.close()
