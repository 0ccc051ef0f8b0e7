"""Delete the rows of finished work, and count deleted instances.

A job is deleted when it finished long ago and all its instances are reclaimed. An instance is deleted when it was
reclaimed long ago and no job contains it. An event is deleted together with its instance or job, or because of its
age. A series is deleted after the last instance of its study. Rows are read in pages, each from a `Place` on, so that
old rows that cannot be deleted are not read repeatedly.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Column, ColumnElement, and_, delete, exists, func, literal, literal_column, or_, select, tuple_

from dicom_adapter.api.values import JobState
from dicom_adapter.ledger import clean_ups, counters
from dicom_adapter.ledger.column_types import UtcDateTime
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.microseconds import EPOCH
from dicom_adapter.ledger.schema import (
    IS_FINISHED,
    IS_RECLAIMED,
    IS_RESULT,
    InstanceState,
    events,
    instances,
    job_instances,
    jobs,
    series,
)


class Place(NamedTuple):
    """The position of a row in an order by time."""

    at: datetime
    key: int  # primary key


BEGINNING = Place(EPOCH, 0)


class Page(NamedTuple):
    """A page of consecutive rows."""

    keys: Sequence[int]  # candidates for deletion: primary keys
    end: Place  # position of the last row


def finished_jobs(transaction: Transaction, before: datetime, after: Place, jobs_at_most: int, rows: int) -> Page:
    """Return jobs that finished before a time, in the order of finishing, with about `rows` instances in total."""
    query = select(jobs.c.changed_at, jobs.c.job_number, jobs.c.instance_count).where(
        IS_FINISHED, jobs.c.changed_at < before, _is_after(jobs.c.changed_at, jobs.c.job_number, after)
    )
    numbers, end = [], after
    for at, number, count in transaction.execute(
        query.order_by(jobs.c.changed_at, jobs.c.job_number).limit(jobs_at_most)
    ):
        numbers.append(number)
        end = Place(at, number)
        rows -= count
        if rows <= 0:
            break
    return Page(numbers, end)


def delete_jobs(
    transaction: Transaction,
    numbers: Sequence[int],
    polled: Collection[str],
    before: datetime,
    submitters: Collection[str] = (),
) -> int:
    """Delete the jobs in `numbers` that are no longer needed, with their events; return the number of deleted jobs.

    A job is needed until all its instances are reclaimed, until no result of it is quarantined, and until its runs are
    cleaned up by one of the configured `submitters`. `polled` names the submitters whose platforms are polled for the
    status of jobs. A submitted job of such a submitter is needed until the platform reports its end, unless its
    submission is older than `before`.
    """
    needed = exists().where(
        job_instances.c.job_number == jobs.c.job_number,
        job_instances.c.instance_id == instances.c.instance_id,
        instances.c.state != InstanceState.RECLAIMED.value,
    )
    result = instances.alias("result")
    # A requeue compares the result with the instances of the job, and delivers the attachments that wait for it.
    held = exists().where(result.c.source_job == jobs.c.job_number, result.c.state == InstanceState.QUARANTINED.value)
    awaited = and_(
        jobs.c.state == JobState.SUBMITTED.value,
        jobs.c.submitter.in_(polled),
        ~jobs.c.platform_finished,
        jobs.c.changed_at >= before,
    )
    are_these = jobs.c.job_number.in_(numbers) & IS_FINISHED
    query = select(jobs.c.job_number, jobs.c.job_id).where(
        are_these, ~needed, ~held, ~awaited, ~clean_ups.is_awaited(submitters)
    )
    unneeded = transaction.execute(query).all()
    if not unneeded:
        return 0
    transaction.execute(delete(events).where(events.c.job_id.in_([job_id for _number, job_id in unneeded])))
    transaction.execute(delete(jobs).where(jobs.c.job_number.in_([number for number, _job_id in unneeded])))
    return len(unneeded)


def reclaimed_instances(transaction: Transaction, before: datetime, after: Place, limit: int) -> Page:
    """Return instances that were reclaimed before a time, in the order of reclaiming."""
    query = select(instances.c.changed_at, instances.c.instance_id).where(
        IS_RECLAIMED, instances.c.changed_at < before, _is_after(instances.c.changed_at, instances.c.instance_id, after)
    )
    rows = transaction.execute(query.order_by(instances.c.changed_at, instances.c.instance_id).limit(limit)).all()
    return Page([instance_id for _at, instance_id in rows], Place(*rows[-1]) if rows else after)


def delete_instances(transaction: Transaction, instance_ids: Sequence[int]) -> int:
    """Delete the reclaimed instances in `instance_ids` that no job contains, with their events; return how many.

    The deleted instances are added to the counters.

    A replaced instance is kept while the same SOP instance is pending: a processor may still use the id of the older
    instance to refer to the newer one. A replacement is kept as long as the instance that it replaces. A received
    instance is kept as long as a result with its UID that failed the check: the row shows that an arrival with this UID
    may be the received instance, sent again (see `results.returned`).
    """
    pending, failed = instances.alias(), instances.alias("failed")
    is_copied = exists().where(
        instances.c.source_job.is_(None),
        failed.c.sop_instance_uid == instances.c.sop_instance_uid,
        failed.c.source_job.is_not(None),
        failed.c.reason != "",
        failed.c.instance_id > instances.c.instance_id,
    )
    is_referenced = exists().where(
        instances.c.replaced_by.is_not(None),
        pending.c.ae_title == instances.c.ae_title,
        pending.c.sop_instance_uid == instances.c.sop_instance_uid,
        pending.c.state == literal_column("'pending'"),  # a literal, as in the condition of the index
    )
    in_a_job = exists().where(job_instances.c.instance_id == instances.c.instance_id)
    are_these = instances.c.instance_id.in_(instance_ids) & IS_RECLAIMED
    query = select(instances.c.instance_id).where(are_these, ~in_a_job, ~is_referenced, ~is_copied)
    unneeded = _without_replacements(transaction, set(transaction.execute(query).scalars()))
    if not unneeded:
        return 0
    is_unneeded = instances.c.instance_id.in_(unneeded)
    columns = (instances.c.ae_title, IS_RESULT, instances.c.outcome)
    counts = select(*columns, func.count()).where(is_unneeded).group_by(*columns)
    for ae_title, is_result, outcome, count in transaction.execute(counts):
        counters.add(transaction, ae_title, f"{counters.RESULT_PREFIX if is_result else ''}{outcome}", count)
    transaction.execute(delete(events).where(events.c.instance_id.in_(unneeded)))
    transaction.execute(delete(instances).where(is_unneeded))
    return len(unneeded)


def _without_replacements(transaction: Transaction, unneeded: set[int]) -> list[int]:
    """Return `unneeded` without the replacements of instances that are kept."""
    query = select(instances.c.instance_id, instances.c.replaced_by).where(instances.c.replaced_by.in_(unneeded))
    query = query.order_by(instances.c.instance_id)  # the beginning of a chain first
    for older, newer in transaction.execute(query):
        if older not in unneeded:
            unneeded.discard(newer)
    return sorted(unneeded)


def old_events(transaction: Transaction, before: datetime, after: Place, limit: int) -> Page:
    """Return events before a time, oldest first. `Page.keys` has the events without an existing instance or job."""
    has_subject = or_(
        exists().where(instances.c.instance_id == events.c.instance_id),
        exists().where(jobs.c.job_id == events.c.job_id),
    )
    query = select(events.c.at, events.c.event_id, has_subject.label("has_subject")).where(
        events.c.at < before, _is_after(events.c.at, events.c.event_id, after)
    )
    rows = transaction.execute(query.order_by(events.c.at, events.c.event_id).limit(limit)).all()
    unneeded = [row.event_id for row in rows if not row.has_subject]
    return Page(unneeded, Place(rows[-1].at, rows[-1].event_id) if rows else after)


def delete_events(transaction: Transaction, event_ids: Sequence[int]) -> int:
    """Delete these events; return the number of deleted events."""
    return transaction.execute(delete(events).where(events.c.event_id.in_(event_ids))).rowcount


def old_series(transaction: Transaction, before: datetime, after: Place, limit: int) -> Page:
    """Return series that were seen before a time, oldest first. `Page.keys` has those without an instance."""
    has_study = exists().where(instances.c.study_instance_uid == series.c.study_instance_uid)
    query = select(series.c.seen_at, series.c.series_number, has_study.label("has_study")).where(
        series.c.seen_at < before, _is_after(series.c.seen_at, series.c.series_number, after)
    )
    rows = transaction.execute(query.order_by(series.c.seen_at, series.c.series_number).limit(limit)).all()
    unneeded = [row.series_number for row in rows if not row.has_study]
    return Page(unneeded, Place(rows[-1].seen_at, rows[-1].series_number) if rows else after)


def delete_series(transaction: Transaction, numbers: Sequence[int]) -> int:
    """Delete these series, unless an instance of their study has arrived since; return the number of deleted rows."""
    has_study = exists().where(instances.c.study_instance_uid == series.c.study_instance_uid)
    return transaction.execute(delete(series).where(series.c.series_number.in_(numbers), ~has_study)).rowcount


def _is_after(at: Column[datetime], key: Column[int], place: Place) -> ColumnElement[bool]:
    return tuple_(at, key) > tuple_(literal(place.at, UtcDateTime()), literal(place.key))
