"""The jobs of a submitter that exist on the platform and have not ended, for the limit of running jobs."""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import ColumnElement, and_, or_, select

from dicom_adapter.api.values import JobState
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import IS_BEGUN, IS_QUEUED, IS_UPLOADED, jobs


@frozen(kw_only=True)
class BegunJob:
    """A job that exists on the platform and has not ended."""

    number: int
    rank: int  # of its priority; 0 is the highest priority
    is_running: bool  # running, or perhaps running: its start was interrupted


@frozen(kw_only=True)
class HeldBack:
    """The jobs whose next step is delayed because too many jobs run."""

    may_start: frozenset[int] = frozenset()  # numbers of uploaded jobs that may be started nevertheless
    first_rank: int | None = None  # queued jobs of this rank, and of less urgent ranks, are not created; None: no limit

    def condition(self) -> ColumnElement[bool]:
        """Return the condition on the table of jobs."""
        is_held: ColumnElement[bool] = IS_UPLOADED & jobs.c.job_number.not_in(self.may_start)
        if self.first_rank is not None:
            is_held = or_(is_held, IS_QUEUED & (jobs.c.priority >= self.first_rank))
        return and_(is_held, ~jobs.c.cancel_requested)


def begun(transaction: Transaction, submitter: str) -> list[BegunJob]:
    """Return the begun jobs of a submitter, without those that an operator has cancelled."""
    columns = (jobs.c.job_number, jobs.c.priority, jobs.c.state, jobs.c.repeated, jobs.c.attempts)
    query = select(*columns).where(jobs.c.submitter == submitter, IS_BEGUN, ~jobs.c.cancel_requested)
    return [
        BegunJob(
            number=row.job_number,
            rank=row.priority,
            is_running=row.state == JobState.RUNNING.value
            # The adapter began to start the job, then crashed. It does not know whether the platform runs the job.
            or (row.state == JobState.UPLOADED.value and row.repeated and not row.attempts),
        )
        for row in transaction.execute(query)
    ]
