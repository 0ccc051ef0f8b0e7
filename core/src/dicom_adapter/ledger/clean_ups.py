"""Clean-ups: the runs that have ended and that the platform has not cleaned up yet. Queries and changes.

A row is inserted in the transaction that ends the need for the run: its job has succeeded or is cancelled, or an
operator has retried it. The row is deleted after `Submitter.clean_up` has succeeded.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from attrs import evolve, frozen
from sqlalchemy import ColumnElement, delete, exists, select, update

from dicom_adapter.api.values import Job
from dicom_adapter.ledger import jobs
from dicom_adapter.ledger.clean_up_schema import clean_ups
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.ledger.schema import jobs as jobs_table


@frozen(kw_only=True)
class CleanUp:
    """A run that the platform has to clean up."""

    number: int
    job: Job  # with the number of the run, and the ids that the platform assigned to the run
    attempts: int  # number of failed attempts
    next_attempt_at: datetime | None  # UTC; None: as soon as possible
    last_error: str  # without patient data; "" before the first failed attempt


def insert(transaction: Transaction, row: JobRow) -> None:
    """Record that the last run of a job has to be cleaned up."""
    transaction.execute(
        clean_ups.insert().values(
            job_number=row.number,
            submitter=row.job.submitter,
            run=row.job.run,
            platform_job_id=row.job.platform_job_id,
            platform_payload_id=row.job.platform_payload_id,
        )
    )


def due(transaction: Transaction, submitter: str, now: datetime, limit: int, latest: datetime) -> list[CleanUp]:
    """Return up to `limit` clean-ups of a submitter that may be attempted now, those without an attempt first.

    A clean-up whose next attempt is later than `latest` is due, too: the clock was put back.
    """
    when = clean_ups.c.next_attempt_at
    is_due = (clean_ups.c.submitter == submitter) & (when.is_(None) | (when <= now) | (when > latest))
    return _find(transaction, is_due, limit)


def of_job(transaction: Transaction, job_id: str) -> list[CleanUp]:
    """Return the clean-ups of a job."""
    number = select(jobs_table.c.job_number).where(jobs_table.c.job_id == job_id).scalar_subquery()
    return _find(transaction, clean_ups.c.job_number == number)


def next_attempt(transaction: Transaction, submitter: str) -> datetime | None:
    """Return the time of the next attempt of a postponed clean-up of a submitter; None if none is postponed."""
    when = clean_ups.c.next_attempt_at
    query = select(when).where(clean_ups.c.submitter == submitter, when.is_not(None)).order_by(when).limit(1)
    found: datetime | None = transaction.execute(query).scalar()
    return found


def submitters(transaction: Transaction) -> set[str]:
    """Return the names of the submitters with clean-ups."""
    return set(transaction.execute(select(clean_ups.c.submitter).distinct()).scalars())


def postpone(transaction: Transaction, number: int, attempts: int, until: datetime, error: str) -> None:
    """Record a failed attempt."""
    values = {"attempts": attempts, "next_attempt_at": until, "last_error": error}
    transaction.execute(update(clean_ups).where(clean_ups.c.clean_up_number == number).values(values))


def remove(transaction: Transaction, number: int) -> None:
    """Delete a clean-up: it has succeeded, or was given up."""
    transaction.execute(delete(clean_ups).where(clean_ups.c.clean_up_number == number))


def is_awaited(of_submitters: Collection[str]) -> ColumnElement[bool]:
    """Return the condition on the table of jobs that one of these submitters has to clean up a run of the job."""
    return exists().where(
        clean_ups.c.job_number == jobs_table.c.job_number, clean_ups.c.submitter.in_(list(of_submitters))
    )


def _find(transaction: Transaction, condition: ColumnElement[bool], limit: int | None = None) -> list[CleanUp]:
    query = select(clean_ups).where(condition).order_by(clean_ups.c.next_attempt_at, clean_ups.c.clean_up_number)
    rows = transaction.execute(query.limit(limit)).all()
    if not rows:
        return []
    numbers = {row.job_number for row in rows}
    found = {row.number: row.job for row in jobs.find_where(transaction, jobs_table.c.job_number.in_(numbers))}
    return [
        CleanUp(
            number=row.clean_up_number,
            job=evolve(
                found[row.job_number],
                run=row.run,
                platform_job_id=row.platform_job_id,
                platform_payload_id=row.platform_payload_id,
            ),
            attempts=row.attempts,
            next_attempt_at=row.next_attempt_at,
            last_error=row.last_error,
        )
        for row in rows
    ]
