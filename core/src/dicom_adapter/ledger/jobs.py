"""What the ledger knows of jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import asdict, evolve, fields, frozen
from sqlalchemy import ColumnElement, Row, func, or_, select, update

from dicom_adapter.api.errors import IllegalTransition
from dicom_adapter.api.values import Job, JobPriority, JobState
from dicom_adapter.ledger.connection import Transaction, inserted_id
from dicom_adapter.ledger.schema import IS_STARTED, IS_UNFINISHED, UNFINISHED_JOB_STATES, job_instances, jobs

UNFINISHED = tuple(JobState(state) for state in UNFINISHED_JOB_STATES)
FINISHED = (JobState.SUBMITTED, JobState.CANCELLED)  # these need their instances no longer; a faulted job does
RANKS = {JobPriority.IMMEDIATE: 0, JobPriority.HIGHER: 1, JobPriority.NORMAL: 2, JobPriority.LOWER: 3}
PRIORITIES = {rank: priority for priority, rank in RANKS.items()}

_COLUMNS = [jobs.c[attribute.name] for attribute in fields(Job)]


@frozen(kw_only=True)
class JobRow:
    """A job, and what only the ledger and the job engine know of it."""

    number: int  # its place in the order of submission
    job: Job
    failing_since: datetime | None  # the first of `job.attempts`


def insert(transaction: Transaction, job: Job, instance_ids: Sequence[int]) -> int:
    """Add a job with its instances, in their order, and return its number."""
    number = inserted_id(transaction.execute(jobs.insert().values(**_written(asdict(job)))))
    rows = [
        {"job_number": number, "position": position, "instance_id": instance_id, "uploaded": False}
        for position, instance_id in enumerate(instance_ids)
    ]
    transaction.execute(job_instances.insert(), rows)
    return number


def get(transaction: Transaction, job_id: str) -> JobRow | None:
    """The job with this id."""
    row = transaction.execute(_select().where(jobs.c.job_id == job_id)).one_or_none()
    return None if row is None else _row(row)


def with_prefix(transaction: Transaction, prefix: str, limit: int) -> list[JobRow]:
    """Jobs whose id begins with `prefix` (hexadecimal digits), for people who type the first few."""
    # A range, because LIKE reads the whole index; what follows the prefix is below "g".
    is_such = (jobs.c.job_id >= prefix) & (jobs.c.job_id < prefix + "g")
    return [_row(row) for row in transaction.execute(_select().where(is_such).order_by(jobs.c.job_id).limit(limit))]


def newest(
    transaction: Transaction,
    limit: int,
    *,
    states: Collection[JobState] = (),
    ae_title: str | None = None,
) -> list[JobRow]:
    """The newest jobs first, of these states (all when empty) and this AE title (all when None)."""
    query = _select().order_by(jobs.c.job_number.desc()).limit(limit)
    if states:
        query = query.where(jobs.c.state.in_([state.value for state in states]))
    if ae_title is not None:
        query = query.where(jobs.c.ae_title == ae_title)
    return [_row(row) for row in transaction.execute(query)]


def heads(
    transaction: Transaction, submitter: str, now: datetime | None, excluding: Collection[int] = ()
) -> list[JobRow]:
    """Of the unfinished jobs of a submitter that may take a step now, the oldest of each AE title and priority.

    `now` None: those that are to wait for another attempt, too.
    """
    oldest = select(func.min(jobs.c.job_number)).where(
        jobs.c.submitter == submitter, IS_UNFINISHED, jobs.c.job_number.not_in(excluding)
    )
    if now is not None:
        oldest = oldest.where(or_(jobs.c.next_attempt_at.is_(None), jobs.c.next_attempt_at <= now))
    oldest = oldest.group_by(jobs.c.ae_title, jobs.c.priority)
    return [_row(row) for row in transaction.execute(_select().where(jobs.c.job_number.in_(oldest)))]


def next_attempt(transaction: Transaction, submitter: str, now: datetime) -> datetime | None:
    """When the next postponed job of a submitter may be tried again."""
    query = select(jobs.c.next_attempt_at).where(
        jobs.c.submitter == submitter,
        IS_UNFINISHED,
        jobs.c.next_attempt_at > now,
    )
    found: datetime | None = transaction.execute(query.order_by(jobs.c.next_attempt_at).limit(1)).scalar()
    return found


def change(transaction: Transaction, row: JobRow, **values: Any) -> JobRow:
    """Write `values` (fields of Job, and `failing_since`) to a job that still stands as in `row`.

    Raises IllegalTransition when somebody else changed its state, or asked to cancel it: nothing is written then.
    """
    is_same = (
        (jobs.c.job_number == row.number)
        & (jobs.c.state == row.job.state.value)
        & (jobs.c.cancel_requested.is_(row.job.cancel_requested))
    )
    result = transaction.execute(update(jobs).where(is_same).values(**_written(values)))
    if result.rowcount != 1:
        raise IllegalTransition(f"job {row.job.job_id} is no longer {row.job.state.value}, or is to be cancelled")
    failing_since = values.pop("failing_since", row.failing_since)
    return evolve(row, job=evolve(row.job, **values), failing_since=failing_since)


def hurry(transaction: Transaction, submitter: str) -> None:
    """Let all postponed jobs of a submitter be tried at once, in their order: the platform is back."""
    waiting = jobs.c.next_attempt_at.is_not(None) & (jobs.c.submitter == submitter) & IS_UNFINISHED
    transaction.execute(update(jobs).where(waiting).values(next_attempt_at=None))


def started(transaction: Transaction, submitter: str, before: datetime, limit: int) -> list[JobRow]:
    """Submitted jobs of whose end the platform has not told, and that were not asked after since `before`."""
    query = _select().where(
        jobs.c.submitter == submitter,
        IS_STARTED,
        or_(jobs.c.platform_asked_at.is_(None), jobs.c.platform_asked_at <= before),
    )
    return [_row(row) for row in transaction.execute(query.order_by(jobs.c.platform_asked_at).limit(limit))]


def mark_asked(transaction: Transaction, number: int, now: datetime) -> None:
    """Remember when the platform was asked after the job."""
    transaction.execute(update(jobs).where(jobs.c.job_number == number).values(platform_asked_at=now))


def mark_uploaded(transaction: Transaction, number: int, positions: Iterable[int]) -> None:
    """Remember that the platform has these instances of the job."""
    transaction.execute(
        update(job_instances)
        .where(job_instances.c.job_number == number, job_instances.c.position.in_(list(positions)))
        .values(uploaded=True)
    )


def instance_ids(transaction: Transaction, number: int) -> list[int]:
    """The ids of a job's instances."""
    query = select(job_instances.c.instance_id).where(job_instances.c.job_number == number)
    return list(transaction.execute(query).scalars())


def that(transaction: Transaction, condition: ColumnElement[bool]) -> list[JobRow]:
    """Jobs that meet a condition on the table, in the order of submission."""
    return [_row(row) for row in transaction.execute(_select().where(condition).order_by(jobs.c.job_number))]


@frozen(kw_only=True)
class JobCount:
    """How many jobs are alike in these."""

    ae_title: str
    submitter: str
    state: JobState
    count: int


def count(transaction: Transaction) -> list[JobCount]:
    """How many jobs there are of each AE title, submitter and state. Reads all of them."""
    alike = (jobs.c.ae_title, jobs.c.submitter, jobs.c.state)
    rows = transaction.execute(select(*alike, func.count()).group_by(*alike))
    return [JobCount(ae_title=row[0], submitter=row[1], state=JobState(row[2]), count=row[3]) for row in rows]


def count_unfinished(transaction: Transaction) -> dict[str, int]:
    """How many unfinished jobs each submitter that has any is to take."""
    query = select(jobs.c.submitter, func.count()).where(IS_UNFINISHED).group_by(jobs.c.submitter)
    return {row[0]: row[1] for row in transaction.execute(query)}


def oldest_unfinished(transaction: Transaction) -> dict[str, Job]:
    """The unfinished job that was submitted first, for each AE title that has one."""
    oldest = select(func.min(jobs.c.job_number)).where(IS_UNFINISHED).group_by(jobs.c.ae_title)
    found = [_row(row).job for row in transaction.execute(_select().where(jobs.c.job_number.in_(oldest)))]
    return {job.ae_title: job for job in found}


def _select() -> Any:
    return select(jobs.c.job_number, jobs.c.failing_since, *_COLUMNS)


def _written(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of Job as the columns hold them."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, JobPriority):
        return RANKS[value]
    if isinstance(value, JobState):
        return value.value
    return dict(value) if isinstance(value, Mapping) else value


def _row(row: Row[Any]) -> JobRow:
    values = {column.name: row._mapping[column] for column in _COLUMNS}
    values["priority"] = PRIORITIES[values["priority"]]
    values["state"] = JobState(values["state"])
    values["faulted_in"] = JobState(values["faulted_in"]) if values["faulted_in"] else None
    return JobRow(number=row.job_number, job=Job(**values), failing_since=row.failing_since)
