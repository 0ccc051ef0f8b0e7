"""A ledger that another program keeps locked: waits for it are limited, also when the service stops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

import pytest

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.ledger import WAIT_SECONDS, Ledger, events
from dicom_adapter.ledger.events import Event

LONG_S = 3600.0  # longer than the time limit of a test


@pytest.mark.parametrize("who", ["another process", "another thread"])
def test_a_transaction_waits_for_others_only_for_a_limited_time(url: str, ledger: Ledger, who: str) -> None:
    """Then it is refused as busy, and nothing is changed. Later transactions can write.

    Verified to fail when a thread waits for the other threads without a limit: this test hangs.
    """
    waiting = Ledger(url, wait_seconds=0.05)
    with (waiting if who == "another thread" else ledger).write(), pytest.raises(LedgerUnavailable) as raised:
        call_in_thread(lambda: enter_event(waiting))
    assert raised.value.is_busy
    enter_event(waiting)
    waiting.close()


def test_a_wait_for_other_threads_shortens_the_wait_for_other_processes(url: str, ledger: Ledger) -> None:
    """The limit is for both. A transaction without contention waits for the whole time again."""
    waiting = Ledger(url, wait_seconds=0.2)
    with ledger.write(), ThreadPoolExecutor(2) as executor:
        failures = [call.exception() for call in [executor.submit(enter_event, waiting) for _call in range(2)]]
    assert [LedgerUnavailable] * 2 == [type(failure) for failure in failures]
    with waiting.write() as transaction:
        assert 200 == transaction.exec_driver_sql("PRAGMA busy_timeout").scalar()
    waiting.close()


def test_a_pause_of_the_machine_is_not_a_long_wait(url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pause, a wait for another thread has reached its time limit, but the other thread could not write.

    Verified to fail when the wait has one time limit: the transaction is refused as busy.
    """
    waiting = Ledger(url)
    enter_event(waiting)
    monkeypatch.setattr(waiting, "_writing", LockOfPausedThread())
    enter_event(waiting)
    with waiting.write() as transaction:
        assert 1000 * WAIT_SECONDS == transaction.exec_driver_sql("PRAGMA busy_timeout").scalar()
    waiting.close()


class LockOfPausedThread:
    """A lock whose first wait ends without it, as after a pause of the machine."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._was_paused = False

    def acquire(self, timeout: float) -> bool:
        if not self._was_paused:
            self._was_paused = True
            return False
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()


def test_transactions_of_a_process_that_stops_wait_for_a_short_time(url: str, ledger: Ledger) -> None:
    """Verified to fail without the shorter wait: this test exceeds its time limit."""
    stopping = Ledger(url, wait_seconds=LONG_S)
    enter_event(stopping)
    stopping.shorten_waits()
    with ledger.write(), pytest.raises(LedgerUnavailable):
        enter_event(stopping)
    stopping.close()


def test_a_ledger_is_closed_although_a_thread_uses_it(url: str) -> None:
    """The thread was abandoned: its transaction waits for another program.

    Verified to fail when `close` waits for the thread: this test hangs.
    """
    opened = Ledger(url)
    opened.migrate()
    with opened.write():
        call_in_thread(opened.close)


def enter_event(ledger: Ledger) -> None:
    with ledger.write() as transaction:
        events.record(transaction, [Event(at=datetime.now(timezone.utc), event="lane_restarted", ae_title="LUNG")])


def call_in_thread(call: Callable[[], object]) -> None:
    """Call it in another thread, and raise what it raises."""
    with ThreadPoolExecutor(1) as executor:
        executor.submit(call).result()
