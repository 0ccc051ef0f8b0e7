"""Counters of received instances, results and deleted rows, by AE title. The audit compares them with the rows."""

from __future__ import annotations

from sqlalchemy import select, update

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import tallies

# Names of the counters. Those of deleted rows are the values of `schema.InstanceOutcome`, such as "submitted".
RECEIVED = "received"  # received instances
RESULTS = "results"  # results of jobs
RESULT_PREFIX = "result-"  # for deleted rows of results, this comes before the outcome: "result-submitted"


def add(transaction: Transaction, ae_title: str, counter: str, count: int = 1) -> None:
    """Add `count` to `counter`: `RECEIVED`, `RESULTS`, or the name of a counter of deleted rows."""
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
