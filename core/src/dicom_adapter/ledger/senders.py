"""Statistics of senders: the associations that were accepted, and those that were rejected.

There is a row for each sender and AE title, and for each kind of rejection and hour. The number of rows has a limit,
because a port scanner may use any number of AE titles: above the limit, rejections are counted without names.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from attrs import asdict, evolve, fields, frozen
from sqlalchemy import ColumnElement, Row, delete, func, select, update
from sqlalchemy.dialects import sqlite

from dicom_adapter.ledger.association_schema import unreleased_associations
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.microseconds import EPOCH
from dicom_adapter.ledger.schema import rejections, senders

MOST_ROWS_OF_PEER = 20  # rows of the rejections of one address in an hour
MOST_ROWS_OF_HOUR = 500  # rows of all rejections in an hour
MOST_SENDERS = 10_000  # rows of senders; above it, those with the oldest last association are deleted
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
KEY_OF_SENDER = ("calling_ae_title", "ae_title", "peer_address")
KEY_OF_REJECTED = ("peer_address", "calling_ae_title", "ae_title", "cause")
SENDERS_KEPT = timedelta(days=366)  # since their last association
# The columns with the time of a sender's last association, in tables with a row for each sender
_SEEN_AT = (senders.c.last_at, unreleased_associations.c.changed_at)


@frozen(kw_only=True)
class Sender:
    """The associations of a sender with an AE title that were accepted and have ended."""

    calling_ae_title: str
    ae_title: str
    peer_address: str
    first_at: datetime  # UTC; end of the first association
    last_at: datetime  # UTC; end of the last association
    associations: int
    instances: int  # acknowledged C-STOREs
    refused: int  # other C-STOREs


@frozen(kw_only=True)
class Rejected:
    """Rejections of one sender for one kind of reason in one hour."""

    peer_address: str  # "" for the rejections above the limits
    calling_ae_title: str  # "" if no association was requested, or above the limits
    ae_title: str  # called AE title; "" if no association was requested, or above the limits
    cause: str  # a value of RejectionCause
    reason: str  # of the last rejection
    count: int
    first_at: datetime  # UTC
    last_at: datetime  # UTC
    # UTC; time from which on the sender was rejected without interruption: it had no accepted association, and the
    # pauses were shorter than an hour. None: an association was accepted after the last rejection.
    since: datetime | None = None


def add_associations(transaction: Transaction, ended: Iterable[Sender]) -> None:
    """Add ended associations, and clear `since` in the earlier rejections of their senders."""
    for one in ended:
        insert = sqlite.insert(senders).values(**asdict(one))
        new = insert.excluded
        changes = {name: senders.c[name] + new[name] for name in ("associations", "instances", "refused")}
        transaction.execute(
            insert.on_conflict_do_update(index_elements=KEY_OF_SENDER, set_={**changes, "last_at": new.last_at})
        )
        is_same_name = (rejections.c.calling_ae_title == one.calling_ae_title) & (rejections.c.ae_title == one.ae_title)
        is_same_peer = (rejections.c.calling_ae_title == "") & (rejections.c.peer_address == one.peer_address)
        is_recent = rejections.c.hour >= _hour(one.last_at) - DAY
        is_earlier = rejections.c.last_at <= one.last_at
        transaction.execute(
            update(rejections).where(is_recent, is_earlier, is_same_name | is_same_peer).values(since=None)
        )


def add_rejections(transaction: Transaction, new: Iterable[Rejected]) -> None:
    """Add rejections to the rows of the same sender, kind and hour."""
    for one in new:
        if not (_add(transaction, one) or _add(transaction, evolve(one, calling_ae_title="", ae_title=""))):
            _add(transaction, without_names(one), is_limited=False)


def without_names(rejected: Rejected) -> Rejected:
    """Return a rejection as it is counted above the limits."""
    return evolve(rejected, peer_address="", calling_ae_title="", ae_title="")


def _add(transaction: Transaction, one: Rejected, *, is_limited: bool = True) -> bool:
    """Add a rejection. Return False, and add nothing, if that needs a row above a limit."""
    hour = _hour(one.first_at)
    before = _last_row(transaction, one, hour)
    since = one.first_at if before is None or before.since is None else before.since
    if before is not None and one.first_at - before.last_at > HOUR:
        since = one.first_at
    if before is not None and before.hour == hour:
        values = {"count": rejections.c.count + one.count, "reason": one.reason, "since": since}
        last_at = max(before.last_at, one.last_at)  # the clock may have been put back
        is_row = rejections.c.rejection_number == before.rejection_number
        transaction.execute(update(rejections).where(is_row).values(last_at=last_at, **values))
        return True
    if is_limited and _is_full(transaction, one, hour):
        return False
    transaction.execute(rejections.insert().values(**asdict(evolve(one, since=since)), hour=hour))
    return True


def _last_row(transaction: Transaction, one: Rejected, hour: datetime) -> Row[Any] | None:
    """Return the newest row of the same sender and kind, up to a day old."""
    is_same = [rejections.c[name] == getattr(one, name) for name in KEY_OF_REJECTED]
    query = select(rejections).where(*is_same, rejections.c.hour.between(hour - DAY, hour))
    return transaction.execute(query.order_by(rejections.c.hour.desc()).limit(1)).one_or_none()


def _is_full(transaction: Transaction, one: Rejected, hour: datetime) -> bool:
    """Return whether the hour has no more space for this row. Only MOST_ROWS_OF_HOUR limits rows without names."""

    def count(*conditions: ColumnElement[bool]) -> int:
        query = select(func.count()).select_from(rejections).where(rejections.c.hour == hour, *conditions)
        return int(transaction.execute(query).scalar_one())

    is_named = bool(one.calling_ae_title or one.ae_title)
    of_peer = count(rejections.c.peer_address == one.peer_address) if is_named else 0
    return of_peer >= MOST_ROWS_OF_PEER or count() >= MOST_ROWS_OF_HOUR


def load(transaction: Transaction, calling_ae_title: str | None = None) -> list[Sender]:
    """Return the senders (one if not None) with ended associations, in the order of their names."""
    query = select(senders).order_by(senders.c.calling_ae_title, senders.c.ae_title, senders.c.peer_address)
    if calling_ae_title is not None:
        query = query.where(senders.c.calling_ae_title == calling_ae_title)
    return [Sender(**row._mapping) for row in transaction.execute(query)]


def rejected(transaction: Transaction, since: datetime, until: datetime | None = None) -> list[Rejected]:
    """Return rejections from a time on, by sender, kind and hour, the newest hour first."""
    names = [field.name for field in fields(Rejected)]
    query = select(*(rejections.c[name] for name in names)).where(
        rejections.c.hour >= _hour(since), rejections.c.last_at >= since
    )
    if until is not None:
        query = query.where(rejections.c.first_at < until)
    query = query.order_by(rejections.c.hour.desc(), rejections.c.rejection_number.desc())
    return [Rejected(**row._mapping) for row in transaction.execute(query)]


def delete_old(transaction: Transaction, before: datetime, now: datetime) -> int:
    """Delete rejections before a time, senders not seen for a year, and senders above the limit; return the number."""
    count = transaction.execute(delete(rejections).where(rejections.c.hour < _hour(before))).rowcount
    for seen_at in _SEEN_AT:
        count += transaction.execute(delete(seen_at.table).where(seen_at < now - SENDERS_KEPT)).rowcount
        newest = select(seen_at).order_by(seen_at.desc()).offset(MOST_SENDERS).limit(1)
        limit: datetime | None = transaction.execute(newest).scalar()
        if limit is not None:
            count += transaction.execute(delete(seen_at.table).where(seen_at <= limit)).rowcount
    return count


def has_old(transaction: Transaction, before: datetime, now: datetime) -> bool:
    """Return whether `delete_old` would delete a row."""
    oldest: datetime | None = transaction.execute(select(func.min(rejections.c.hour))).scalar()
    if oldest is not None and oldest < _hour(before):
        return True
    for seen_at in _SEEN_AT:
        first, count = transaction.execute(select(func.min(seen_at), func.count())).one()
        if count > MOST_SENDERS or (first is not None and first < now - SENDERS_KEPT):
            return True
    return False


def _hour(moment: datetime) -> datetime:
    return EPOCH + (moment - EPOCH) // HOUR * HOUR
