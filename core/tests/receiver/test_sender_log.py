"""The counts of senders are written in the background; while the ledger is unavailable, they are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import AssociationRequest, RejectedPeer, RejectionCause
from dicom_adapter.ledger import Ledger, senders
from dicom_adapter.net.storage_scp import ClosedAssociation
from dicom_adapter.receiver import sender_log
from dicom_adapter.receiver.sender_log import SenderLog
from support.listening import wait_until

NOW = datetime(2026, 1, 5, 8, 30, tzinfo=timezone.utc)
REQUEST = AssociationRequest(called_ae_title="LUNG", calling_ae_title="CT1", peer_address="10.0.0.7")


def rejected(name: str) -> RejectedPeer:
    cause = RejectionCause.CALLED_AE_TITLE
    return RejectedPeer(peer_address="10.0.0.7", calling_ae_title=name, cause=cause, reason="unknown")


def closed(**statuses: int) -> ClosedAssociation:
    return ClosedAssociation(association_id="a", request=REQUEST, how="released", statuses=statuses)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}", durable=False)
    opened.migrate()
    yield opened
    opened.close()


def counts(ledger: Ledger) -> tuple[int, int]:
    """Return the number of associations and of rejections in the ledger."""
    with ledger.read() as transaction:
        found = senders.load(transaction), senders.rejected(transaction, NOW - timedelta(days=1))
    return sum(one.associations for one in found[0]), sum(one.count for one in found[1])


def test_counts_wait_for_an_unavailable_ledger(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verified to fail when the counts are dropped after a failure."""
    failures: list[None] = []
    write: Callable[..., Any] = ledger.write

    @contextmanager
    def fail_twice(**options: bool) -> Iterator[Any]:
        if len(failures) < 2:
            failures.append(None)
            raise LedgerUnavailable("locked", is_busy=True)
        with write(**options) as transaction:
            yield transaction

    monkeypatch.setattr(ledger, "write", fail_twice)
    counting = SenderLog(ledger, write_seconds=0.01)
    counting.rejected(rejected("CT1"), NOW)
    counting.ended(closed(SUCCESS=3, OUT_OF_RESOURCES=1), NOW)
    wait_until(lambda: counts(ledger) == (1, 1))
    counting.ended(closed(SUCCESS=2), NOW)
    counting.rejected(rejected("CT1"), NOW)
    counting.close()
    assert (2, 2) == counts(ledger)
    with ledger.read() as transaction:
        [known] = senders.load(transaction)
    assert (5, 1) == (known.instances, known.refused)


def test_counts_that_arrive_during_the_last_write_are_written(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verified to fail when the thread ends without another write."""
    write: Callable[..., Any] = ledger.write
    counting = SenderLog(ledger, write_seconds=0.01)

    @contextmanager
    def stop_meanwhile(**options: bool) -> Iterator[Any]:
        if not counting._closing.is_set():
            counting._closing.set()
            counting.rejected(rejected("CT2"), NOW)
        with write(**options) as transaction:
            yield transaction

    monkeypatch.setattr(ledger, "write", stop_meanwhile)
    counting.rejected(rejected("CT1"), NOW)
    wait_until(lambda: not counting._thread.is_alive())
    assert (0, 2) == counts(ledger)


def test_the_counts_in_memory_are_limited(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit, associations and rejections are counted without names."""
    monkeypatch.setattr(sender_log, "MOST", 3)
    counting = SenderLog(ledger, write_seconds=3600)
    for number in range(10):
        counting.rejected(rejected(f"SCAN{number}"), NOW)
        request = evolve(REQUEST, calling_ae_title=f"CT{number}")
        counting.ended(evolve(closed(SUCCESS=1), request=request), NOW)
    assert (4, 4) == (len(counting._rejected), len(counting._ended))
    counting.close()
    assert (10, 10) == counts(ledger)
