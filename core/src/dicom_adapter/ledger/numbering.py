"""Tables whose rows are numbered in the order of their insertion: find a row near a number, with its time."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen
from sqlalchemy import Column, func, select

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import instances, jobs


@frozen
class Numbered:
    """A table with ascending numbers and the times at which its rows were inserted."""

    number: Column[int]
    at: Column[datetime]

    def last(self, transaction: Transaction) -> int:
        """Return the number of the last row; 0 if the table is empty."""
        return transaction.execute(select(func.max(self.number))).scalar() or 0

    def at_least(self, transaction: Transaction, number: int) -> tuple[int, datetime] | None:
        """Return the number and the time of the first row with at least this number; None if there is none."""
        query = select(self.number, self.at).where(self.number >= number).order_by(self.number).limit(1)
        row = transaction.execute(query).one_or_none()
        return None if row is None else (row[0], row[1])


INSTANCES = Numbered(instances.c.instance_id, instances.c.received_at)  # instances and results
JOBS = Numbered(jobs.c.job_number, jobs.c.created_at)
