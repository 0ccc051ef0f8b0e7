"""Counters by AE title: received instances, results, deleted rows and duplicates.

The audit compares all except those of duplicates with the rows.
"""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import select, update

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import tallies

# Names of the counters. Those of deleted rows are the values of `schema.InstanceOutcome`, such as "submitted".
RECEIVED = "received"  # received instances
RESULTS = "results"  # results of jobs
RESULT_PREFIX = "result-"  # for deleted rows of results, this comes before the outcome: "result-submitted"
DUPLICATES_DROPPED = "dup-dropped"  # duplicates with the same data set; they have no row
DUPLICATES_HELD = "dup-quarantined"  # duplicates with another data set that were quarantined; also counted as received
OF_DUPLICATES = (DUPLICATES_DROPPED, DUPLICATES_HELD)


@frozen(kw_only=True)
class Duplicates:
    """The duplicates of pending instances that an AE title has received, except those that replaced an instance."""

    dropped: int = 0  # with the same data set as the pending or a quarantined instance
    quarantined: int = 0  # with another data set; some may be requeued or discarded by now


def add(transaction: Transaction, ae_title: str, counter: str, count: int = 1) -> None:
    """Add `count` to a counter: a constant of this module, or the name of a counter of deleted rows."""
    is_same = (tallies.c.ae_title == ae_title) & (tallies.c.what == counter)
    result = transaction.execute(update(tallies).where(is_same).values(count=tallies.c.count + count))
    if result.rowcount == 0:
        transaction.execute(tallies.insert().values(ae_title=ae_title, what=counter, count=count))


def is_of_results(counter: str) -> bool:
    """Return whether a counter counts results, or deleted rows of results."""
    return counter == RESULTS or counter.startswith(RESULT_PREFIX)


def load(transaction: Transaction) -> dict[tuple[str, str], int]:
    """Return every counter, by AE title and name."""
    return {(ae_title, counter): count for ae_title, counter, count in transaction.execute(select(tallies))}


def count_duplicates(transaction: Transaction) -> dict[str, Duplicates]:
    """Return the duplicates of each AE title that has any."""
    query = select(tallies).where(tallies.c.what.in_(OF_DUPLICATES))
    counts = {(ae_title, counter): count for ae_title, counter, count in transaction.execute(query)}
    return {
        ae_title: Duplicates(
            dropped=counts.get((ae_title, DUPLICATES_DROPPED), 0),
            quarantined=counts.get((ae_title, DUPLICATES_HELD), 0),
        )
        for ae_title, _counter in counts
    }
