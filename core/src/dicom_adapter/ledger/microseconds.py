"""Times as the columns of the ledger store them: whole microseconds since 1970-01-01 UTC."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)


def to_microseconds(when: datetime) -> int:
    """Return a time in the form that columns store: microseconds since 1970-01-01 UTC."""
    return (when - EPOCH) // _MICROSECOND


def to_datetime(microseconds: int) -> datetime:
    """Return the time that a column stores as microseconds since 1970-01-01 UTC."""
    return EPOCH + microseconds * _MICROSECOND
