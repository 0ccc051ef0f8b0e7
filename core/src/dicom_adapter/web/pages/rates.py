"""Instances and jobs per minute, from the numbers of their rows.

Rows are numbered in the order of their insertion. So the number of rows of a minute is the difference between the first
numbers of two minutes, which a binary search finds without an index of the times.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Lock

from dicom_adapter.ledger import Transaction
from dicom_adapter.ledger.numbering import Numbered

MINUTE = timedelta(minutes=1)
SHOWN_MINUTES = 60

Probe = Callable[[int], "tuple[int, datetime] | None"]  # the first row with at least this number: its number and time


def first_since(probe: Probe, low: int, high: int, since: datetime) -> int:
    """Return the number of the first row, from `low` to below `high`, whose time is `since` or later; else `high`."""
    while low < high:
        middle = (low + high) // 2
        row = probe(middle)
        if row is None or row[0] >= high or row[1] >= since:
            high = middle
        else:
            low = row[0] + 1
    return low


class RowsPerMinute:
    """The number of rows of a table in each of the last minutes. Past minutes are computed once. Thread-safe."""

    def __init__(self, table: Numbered) -> None:
        self._table = table
        self._starts: dict[datetime, int] = {}  # number of the first row of a minute
        self._lock = Lock()

    def count(self, transaction: Transaction, now: datetime) -> list[int]:
        """Return the numbers of rows of the last hour, by minute; the last is the current minute."""
        this = now.replace(second=0, microsecond=0)
        minutes = [this - MINUTE * back for back in range(SHOWN_MINUTES - 1, -1, -1)]
        end = self._table.last(transaction) + 1
        with self._lock:
            self._starts = {minute: start for minute, start in self._starts.items() if minute >= minutes[0]}
            low = 1
            for minute in minutes:
                if minute not in self._starts:
                    self._starts[minute] = first_since(
                        lambda number: self._table.at_least(transaction, number), low, end, minute
                    )
                low = self._starts[minute]
            starts = [self._starts[minute] for minute in minutes]
        return [max(0, after - start) for start, after in zip(starts, [*starts[1:], end], strict=True)]
