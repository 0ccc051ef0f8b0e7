"""Queries and changes of jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import cache
from typing import Any

from attrs import asdict, evolve, fields, frozen
from sqlalchemy import ColumnElement, Row, Select, bindparam, func, literal_column, or_, select, update

from dicom_adapter.api.errors import IllegalTransition
from dicom_adapter.api.values import Job, JobPriority, JobState
from dicom_adapter.ledger.attachment_schema import job_attachments
from dicom_adapter.ledger.begun_jobs import HeldBack
from dicom_adapter.ledger.connection import Transaction, inserted_id
from dicom_adapter.ledger.filters import NO_FILTERS, Filters
from dicom_adapter.ledger.schema import (
    FINISHED_JOB_STATES,
    HELD_JOB_STATES,
    IS_COUNTED,
    IS_RUNNING,
    IS_STARTED,
    IS_UNFINISHED,
    UNFINISHED_JOB_STATES,
    instances,
    job_instances,
    jobs,
)

UNFINISHED = tuple(JobState(state) for state in UNFINISHED_JOB_STATES)
HELD = tuple(JobState(state) for state in HELD_JOB_STATES)
FINISHED = tuple(JobState(state) for state in FINISHED_JOB_STATES)  # these jobs no longer need their instances
RANKS = {JobPriority.IMMEDIATE: 0, JobPriority.HIGHER: 1, JobPriority.NORMAL: 2, JobPriority.LOWER: 3}
PRIORITIES = {rank: priority for priority, rank in RANKS.items()}

LATEST = datetime.max.replace(tzinfo=timezone.utc)

_COLUMNS = [jobs.c[attribute.name] for attribute in fields(Job)]
# A running job has a step when the platform has ended it with success, or when it was cancelled.
_HAS_STEP = IS_UNFINISHED & (~IS_RUNNING | jobs.c.platform_finished | jobs.c.cancel_requested)

# Queries that the host repeats are built once: to build a query takes three times as long as to run it.
_IS_OF_SUBMITTER = jobs.c.submitter == bindparam("submitter")
_NEXT_ATTEMPT = (
    select(jobs.c.next_attempt_at)
    .where(_IS_OF_SUBMITTER, IS_UNFINISHED, jobs.c.next_attempt_at > bindparam("now"))
    .order_by(jobs.c.next_attempt_at)
    .limit(1)
)
_DUE_FOR_POLLING = (
    select(jobs.c.job_number, jobs.c.failing_since, *_COLUMNS)
    .where(
        _IS_OF_SUBMITTER,
        IS_STARTED,
        ~jobs.c.cancel_requested,
        or_(
            jobs.c.platform_asked_at.is_(None),
            jobs.c.platform_asked_at <= bindparam("before"),
            jobs.c.platform_asked_at > bindparam("now"),
        ),
    )
    .order_by(jobs.c.platform_asked_at)
    .limit(bindparam("limit"))
)


@frozen(kw_only=True)
class JobRow:
    """A job with the values that only the ledger and the job engine use."""

    number: int  # ascending in the order of submission
    job: Job
    failing_since: datetime | None  # UTC; time of the first of the failed `job.attempts`


def is_on_platform(job: Job) -> bool:
    """Return whether the adapter waits for the end of a running job on the platform, and has no step to run for it."""
    return job.state is JobState.RUNNING and not job.platform_finished and not job.cancel_requested


def insert(transaction: Transaction, job: Job, instance_ids: Sequence[int]) -> int:
    """Insert a job with its instances in this order; return its number."""
    number = inserted_id(transaction.execute(jobs.insert().values(**_to_columns(asdict(job)))))
    rows = [
        {"job_number": number, "position": position, "instance_id": instance_id, "uploaded": False}
        for position, instance_id in enumerate(instance_ids)
    ]
    if rows:  # a job that delivers only attachments has no instances
        transaction.execute(job_instances.insert(), rows)
    return number


def get(transaction: Transaction, job_id: str) -> JobRow | None:
    """Return the job with this id, or None."""
    row = transaction.execute(_select().where(jobs.c.job_id == job_id)).one_or_none()
    return None if row is None else _row(row)


def with_prefix(transaction: Transaction, prefix: str, limit: int) -> list[JobRow]:
    """Return up to `limit` jobs whose id begins with `prefix` (hexadecimal digits)."""
    # A range, because LIKE reads the whole index; every hexadecimal digit sorts before "g".
    has_prefix = (jobs.c.job_id >= prefix) & (jobs.c.job_id < prefix + "g")
    return [_row(row) for row in transaction.execute(_select().where(has_prefix).order_by(jobs.c.job_id).limit(limit))]


def newest(
    transaction: Transaction,
    limit: int | None,
    *,
    states: Collection[JobState] = (),
    filters: Filters = NO_FILTERS,
    submitter: str | None = None,
    error: str = "",
    before: int | None = None,
) -> list[JobRow]:
    """Return the selected jobs in these states (all if empty) and of this submitter (all if None), newest first.

    `error`: only jobs whose last error contains this text; case is ignored. `before`: only jobs with a smaller number.
    """
    query = _select().where(filters.of_jobs()).limit(limit)
    if states:
        query = query.where(jobs.c.state.in_([literal_column(f"'{state.value}'") for state in states]))
    if submitter is not None:
        query = query.where(jobs.c.submitter == submitter)
    if before is not None:
        query = query.where(jobs.c.job_number < before)
    if error:
        query = query.where(jobs.c.last_error.icontains(error, autoescape=True))
    return [_row(row) for row in transaction.execute(query.order_by(jobs.c.job_number.desc()))]


@frozen(kw_only=True)
class JobStudies:
    """The studies of a job's instances."""

    count: int
    first: str  # the Study Instance UID that is first in alphabetical order


def studies(transaction: Transaction, numbers: Collection[int]) -> dict[int, JobStudies]:
    """Return the studies of each of these jobs. Reads every instance of the jobs."""
    study = instances.c.study_instance_uid
    query = (
        select(job_instances.c.job_number, func.count(study.distinct()), func.min(study))
        .join_from(job_instances, instances, job_instances.c.instance_id == instances.c.instance_id)
        .where(job_instances.c.job_number.in_(numbers))
        .group_by(job_instances.c.job_number)
    )
    return {row[0]: JobStudies(count=row[1], first=row[2]) for row in transaction.execute(query)}


def first_studies(transaction: Transaction, numbers: Collection[int]) -> dict[int, str]:
    """Return the Study Instance UID of the first instance of each of these jobs. Reads one instance of each job."""
    query = (
        select(job_instances.c.job_number, instances.c.study_instance_uid)
        .join_from(job_instances, instances, job_instances.c.instance_id == instances.c.instance_id)
        .where(job_instances.c.job_number.in_(numbers), job_instances.c.position == 0)
    )
    return {row[0]: row[1] for row in transaction.execute(query)}


def instances_by_study(transaction: Transaction, number: int) -> dict[str, int]:
    """Count the instances of each study of a job."""
    study = instances.c.study_instance_uid
    query = (
        select(study, func.count())
        .join_from(job_instances, instances, job_instances.c.instance_id == instances.c.instance_id)
        .where(job_instances.c.job_number == number)
        .group_by(study)
        .order_by(study)
    )
    return {row[0]: row[1] for row in transaction.execute(query)}


def of_studies(transaction: Transaction, study_instance_uids: Collection[str]) -> list[JobRow]:
    """Return the jobs with instances of these studies, in the order of submission."""
    members = (
        select(job_instances.c.job_number)
        .join_from(instances, job_instances, job_instances.c.instance_id == instances.c.instance_id)
        .where(instances.c.study_instance_uid.in_(study_instance_uids))
    )
    return find_where(transaction, jobs.c.job_number.in_(members))


def queue_heads(
    transaction: Transaction,
    submitter: str,
    now: datetime | None,
    excluding: Collection[int] = (),
    latest: datetime = LATEST,
    unless: HeldBack | None = None,
) -> list[JobRow]:
    """Return the oldest job with a step of each AE title and priority that the submitter may process at `now`.

    If `now` is None, jobs that wait for their next attempt are included. A time of the next attempt after `latest` is
    ignored: no retry waits that long, so the clock was put back, or the settings for retries have changed. The jobs in
    `excluding` (by number) and in `unless` are excluded.
    """
    query = _heads(only_due=now is not None) if unless is None else _make_heads(only_due=now is not None, unless=unless)
    values = {"submitter": submitter, "excluding": list(excluding), "now": now, "latest": latest}
    return [_row(row) for row in transaction.execute(query, values)]


def _make_heads(*, only_due: bool, unless: HeldBack | None = None) -> Select[Any]:
    next_attempt, number = jobs.c.next_attempt_at, jobs.c.job_number
    conditions = [_IS_OF_SUBMITTER, _HAS_STEP, number.not_in(bindparam("excluding", expanding=True))]
    if unless is not None:
        conditions.append(~unless.condition())
    if only_due:
        is_due = (next_attempt <= bindparam("now")) | (next_attempt > bindparam("latest"))
        conditions.append(next_attempt.is_(None) | is_due)
    oldest = select(func.min(number)).where(*conditions).group_by(jobs.c.ae_title, jobs.c.priority)
    return _select().where(number.in_(oldest))


_heads = cache(_make_heads)


def next_attempt(transaction: Transaction, submitter: str, now: datetime) -> datetime | None:
    """Return the time at which the next postponed job of a submitter may be retried; None if no job is postponed."""
    values = {"submitter": submitter, "now": now}
    found: datetime | None = transaction.execute(_NEXT_ATTEMPT, values).scalar()
    return found


def change(transaction: Transaction, row: JobRow, **values: Any) -> JobRow:
    """Write `values` (fields of Job, and `failing_since`) to a job that is unchanged since `row` was read.

    Raises IllegalTransition, and writes nothing, if the state or the run has changed or the cancellation was requested.
    """
    is_unchanged = (
        (jobs.c.job_number == row.number)
        & (jobs.c.state == row.job.state.value)
        & (jobs.c.run == row.job.run)
        & (jobs.c.cancel_requested.is_(row.job.cancel_requested))
    )
    result = transaction.execute(update(jobs).where(is_unchanged).values(**_to_columns(values)))
    if result.rowcount != 1:
        raise IllegalTransition(
            f"job {row.job.job_id} is no longer {row.job.state.value}, or its cancellation was requested"
        )
    failing_since = values.pop("failing_since", row.failing_since)
    return evolve(row, job=evolve(row.job, **values), failing_since=failing_since)


def begin_next_run(transaction: Transaction, row: JobRow, changed_at: datetime) -> JobRow:
    """Queue a failed job again, as another run: nothing of the earlier run counts, not even an upload."""
    members = update(job_instances).where(job_instances.c.job_number == row.number)
    transaction.execute(members.values(uploaded=False))
    attachments = update(job_attachments).where(job_attachments.c.job_number == row.number)
    transaction.execute(attachments.values(uploaded=False))
    transaction.execute(update(jobs).where(jobs.c.job_number == row.number).values(platform_asked_at=None))
    return change(
        transaction,
        row,
        state=JobState.QUEUED,
        run=row.job.run + 1,
        changed_at=changed_at,
        started_at=None,
        last_error="",
        platform_job_id="",
        platform_payload_id="",
        platform_state="",
        platform_detail="",
        platform_finished=False,
    )


def clear_backoff(transaction: Transaction, submitter: str) -> None:
    """Make all postponed jobs of a submitter ready for their next attempt: the platform is available again."""
    waiting = jobs.c.next_attempt_at.is_not(None) & (jobs.c.submitter == submitter) & IS_UNFINISHED
    transaction.execute(update(jobs).where(waiting).values(next_attempt_at=None))


def due_for_polling(
    transaction: Transaction, submitter: str, before: datetime, now: datetime, limit: int
) -> list[JobRow]:
    """Return started jobs that the platform has not reported as finished, last polled at `before` or earlier.

    A time of the last poll after `now` is ignored: the clock was put back since then.
    """
    values = {"submitter": submitter, "before": before, "now": now, "limit": limit}
    return [_row(row) for row in transaction.execute(_DUE_FOR_POLLING, values)]


def mark_polled(transaction: Transaction, number: int, now: datetime) -> None:
    """Record the time at which the platform was polled for the status of a job."""
    transaction.execute(update(jobs).where(jobs.c.job_number == number).values(platform_asked_at=now))


def mark_uploaded(transaction: Transaction, number: int, positions: Iterable[int]) -> None:
    """Record that these instances of a job are uploaded."""
    transaction.execute(
        update(job_instances)
        .where(job_instances.c.job_number == number, job_instances.c.position.in_(list(positions)))
        .values(uploaded=True)
    )


def instance_ids(transaction: Transaction, number: int) -> list[int]:
    """Return the ids of a job's instances."""
    query = select(job_instances.c.instance_id).where(job_instances.c.job_number == number)
    return list(transaction.execute(query).scalars())


def find_where(transaction: Transaction, condition: ColumnElement[bool]) -> list[JobRow]:
    """Return jobs that meet a condition on the table, in the order of submission."""
    return [_row(row) for row in transaction.execute(_select().where(condition).order_by(jobs.c.job_number))]


@frozen(kw_only=True)
class JobCount:
    """The number of jobs of one AE title, submitter and state."""

    ae_title: str
    submitter: str
    state: JobState
    count: int


def count(transaction: Transaction) -> list[JobCount]:
    """Count the jobs of each AE title, submitter and state. Reads an entry of an index for every job."""
    columns = (jobs.c.ae_title, jobs.c.submitter, jobs.c.state)
    query = select(*columns, func.count()).where(IS_COUNTED).group_by(*columns)
    rows = transaction.execute(query)
    return [JobCount(ae_title=row[0], submitter=row[1], state=JobState(row[2]), count=row[3]) for row in rows]


def count_unfinished(transaction: Transaction) -> dict[str, int]:
    """Count the unfinished jobs of each submitter that has any."""
    query = select(jobs.c.submitter, func.count()).where(IS_UNFINISHED).group_by(jobs.c.submitter)
    return {row[0]: row[1] for row in transaction.execute(query)}


@frozen(kw_only=True)
class FailingJobs:
    """The unfinished jobs of one submitter whose last attempt failed."""

    submitter: str
    count: int
    since: datetime  # UTC; the earliest `failing_since` of these jobs
    error: str  # last error of the job that has failed for the longest time


def failing(transaction: Transaction) -> list[FailingJobs]:
    """Return the jobs that fail, for each submitter that has any."""
    condition = IS_UNFINISHED & jobs.c.failing_since.is_not(None)
    columns = (jobs.c.submitter, func.count(), func.min(jobs.c.failing_since))
    found = transaction.execute(select(*columns).where(condition).group_by(jobs.c.submitter)).all()
    return [
        FailingJobs(submitter=submitter, count=count, since=since, error=_last_error(transaction, submitter, since))
        for submitter, count, since in found
    ]


def _last_error(transaction: Transaction, submitter: str, since: datetime) -> str:
    condition = IS_UNFINISHED & (jobs.c.submitter == submitter) & (jobs.c.failing_since == since)
    error: str = transaction.execute(select(jobs.c.last_error).where(condition).limit(1)).scalar_one()
    return error


def oldest_unfinished(transaction: Transaction) -> dict[str, Job]:
    """Return the oldest unfinished job of each AE title that has one."""
    by_ae_title = jobs.c.ae_title.concat("")  # an expression: SQLite reads the unfinished jobs, not all by AE title
    oldest = select(func.min(jobs.c.job_number)).where(IS_UNFINISHED).group_by(by_ae_title)
    oldest_jobs = [_row(row).job for row in transaction.execute(_select().where(jobs.c.job_number.in_(oldest)))]
    return {job.ae_title: job for job in oldest_jobs}


def _select() -> Select[Any]:
    return select(jobs.c.job_number, jobs.c.failing_since, *_COLUMNS)


def _to_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert fields of Job to values of the columns."""
    return {name: _to_column(value) for name, value in values.items()}


def _to_column(value: Any) -> Any:
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
