"""Statistics of senders: rows are added up, limited in number, and deleted when they are old."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from dicom_adapter.ledger import Ledger, senders
from dicom_adapter.ledger.senders import MOST_ROWS_OF_HOUR, MOST_ROWS_OF_PEER, Rejected, Sender

NOW = datetime(2026, 1, 5, 8, 30, tzinfo=timezone.utc)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def a_rejection(at: datetime = NOW, **values: Any) -> Rejected:
    defaults = {
        "peer_address": "10.0.0.7",
        "calling_ae_title": "CT1",
        "ae_title": "LUNGG",
        "cause": "called-ae-title",
        "reason": "the called AE title is not configured",
        "count": 1,
        "first_at": at,
        "last_at": at,
    }
    return Rejected(**{**defaults, **values})


def a_sender(at: datetime = NOW, **values: Any) -> Sender:
    defaults = {
        "calling_ae_title": "CT1",
        "ae_title": "LUNGG",
        "peer_address": "10.0.0.7",
        "first_at": at,
        "last_at": at,
        "associations": 1,
        "instances": 2,
        "refused": 0,
    }
    return Sender(**{**defaults, **values})


def reject(ledger: Ledger, *rejected: Rejected) -> list[Rejected]:
    """Add rejections. Return all rejections in the ledger."""
    with ledger.write() as transaction:
        senders.add_rejections(transaction, rejected)
    with ledger.read() as transaction:
        return senders.rejected(transaction, NOW - timedelta(days=9))


def test_rejections_of_an_hour_have_one_row(ledger: Ledger) -> None:
    """The row has the reason of the last rejection. `since` is the time of the first rejection.

    A row of the next hour has the same `since`, except after a pause of more than an hour.
    """
    [first] = reject(ledger, a_rejection(), a_rejection(NOW + MINUTE, reason="another", count=3))
    assert (4, NOW, NOW + MINUTE, "another", NOW) == (
        first.count,
        first.first_at,
        first.last_at,
        first.reason,
        first.since,
    )
    [next_hour, _first] = reject(ledger, a_rejection(NOW + HOUR))
    assert (1, NOW) == (next_hour.count, next_hour.since)
    [later, *_others] = reject(ledger, a_rejection(NOW + 3 * HOUR))
    assert NOW + 3 * HOUR == later.since  # after a pause of two hours
    [tls, *_others] = reject(ledger, a_rejection(NOW + 3 * HOUR, cause="tls"))
    assert NOW + 3 * HOUR == tls.since


def test_an_accepted_association_ends_the_rejections_of_its_sender(ledger: Ledger) -> None:
    """The association clears `since` of this sender's earlier rejections, also of those without AE titles (TLS).

    Rejections with another called AE title, and later rejections, keep `since`.
    """
    reject(
        ledger,
        a_rejection(),
        a_rejection(ae_title="HEAD"),
        a_rejection(calling_ae_title="", ae_title="", cause="tls"),
        a_rejection(NOW + 5 * MINUTE, calling_ae_title="MR1"),
    )
    with ledger.write() as transaction:
        senders.add_associations(transaction, [a_sender(NOW + MINUTE), a_sender(NOW + MINUTE, calling_ae_title="MR1")])
        senders.add_associations(transaction, [a_sender(NOW + 2 * MINUTE, instances=5, refused=1)])
        rows = {(row.calling_ae_title, row.ae_title): row.since for row in senders.rejected(transaction, NOW)}
        [known] = senders.load(transaction, "CT1")
    assert {("CT1", "LUNGG"): None, ("CT1", "HEAD"): NOW, ("", ""): None, ("MR1", "LUNGG"): NOW + 5 * MINUTE} == rows
    assert a_sender(NOW + MINUTE, last_at=NOW + 2 * MINUTE, associations=2, instances=7, refused=1) == known
    again = next(
        row for row in reject(ledger, a_rejection(NOW + 9 * MINUTE)) if row.ae_title == "LUNGG" and row.count == 2
    )
    assert NOW + 9 * MINUTE == again.since


def test_a_port_scanner_does_not_fill_the_ledger(ledger: Ledger) -> None:
    """The number of rows is limited, but no rejection is lost: those above the limits are counted without names.

    Verified to fail when `_is_full` returns False.
    """
    names = [a_rejection(calling_ae_title=f"SCAN{number}") for number in range(3 * MOST_ROWS_OF_PEER)]
    rows = reject(ledger, *names)
    assert MOST_ROWS_OF_PEER + 1 == len(rows)
    assert len(names) == sum(row.count for row in rows)
    peers = [
        a_rejection(peer_address=f"10.0.{number // 250}.{number % 250}") for number in range(2 * MOST_ROWS_OF_HOUR)
    ]
    rows = reject(ledger, *peers)
    assert MOST_ROWS_OF_HOUR + 1 == len(rows)
    assert len(names) + len(peers) == sum(row.count for row in rows)
    assert 1 == len([row for row in rows if row.peer_address == ""])


def test_old_rows_are_deleted(ledger: Ledger) -> None:
    """Rejections are kept like the history, senders for a year."""
    reject(ledger, a_rejection(), a_rejection(NOW - 3 * HOUR, ae_title="OLD"))
    with ledger.write() as transaction:
        senders.add_associations(transaction, [a_sender(), a_sender(NOW - timedelta(days=367), calling_ae_title="OLD")])
        assert senders.has_old(transaction, NOW - HOUR, NOW)
        assert 2 == senders.delete_old(transaction, NOW - HOUR, NOW)
        assert not senders.has_old(transaction, NOW - HOUR, NOW)
        assert ["LUNGG"] == [row.ae_title for row in senders.rejected(transaction, NOW - 9 * HOUR)]
        assert ["CT1"] == [row.calling_ae_title for row in senders.load(transaction)]
