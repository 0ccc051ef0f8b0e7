"""Results: instances and attachments that jobs have produced. Queries and changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import asdict, evolve, field, frozen
from sqlalchemy import (
    ColumnElement,
    FromClause,
    and_,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import counters
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.filters import NO_FILTERS, Filters
from dicom_adapter.ledger.instance_values import COLUMNS, chunks, to_instances
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.schema import (
    IS_IN,
    IS_QUARANTINED,
    IS_RESULT,
    InstanceOutcome,
    InstanceState,
    instances,
    job_instances,
    jobs,
)

LONGEST_NAME = 1024  # characters of the name of an output that are kept


@frozen(kw_only=True)
class NewResult:
    """A DICOM output to insert."""

    instance: InstanceStorageInfo  # its `instance_id` is ignored
    name: str = field(repr=False)  # of the output
    reason: str = ""  # why it is quarantined; "" if it is not


def insert(
    transaction: Transaction, job_number: int, new: Sequence[NewResult], keep_until: datetime | None
) -> list[InstanceStorageInfo]:
    """Insert results of a job, released or quarantined, and count them; return them with their ids."""
    rows = [
        asdict(result.instance, filter=lambda attribute, _value: attribute.name != "instance_id")
        | {
            "state": (InstanceState.QUARANTINED if result.reason else InstanceState.RELEASED).value,
            "reason": result.reason,
            "changed_at": result.instance.received_at,
            "source_job": job_number,
            "output_name": storable(result.name),
            "keep_until": keep_until,
        }
        for result in new
    ]
    if not rows:
        return []
    last = transaction.execute(select(func.max(instances.c.instance_id))).scalar() or 0
    transaction.execute(instances.insert(), rows)
    counters.add(transaction, new[0].instance.ae_title, counters.RESULTS, len(rows))
    query = select(instances.c.instance_id).where(instances.c.instance_id > last).order_by(instances.c.instance_id)
    ids = transaction.execute(query).scalars().all()
    return [evolve(result.instance, instance_id=new_id) for result, new_id in zip(new, ids, strict=True)]


def patients_of_job(transaction: Transaction, job_number: int) -> dict[str, set[str]]:
    """Return the Patient IDs of a job's instances, by Study Instance UID."""
    query = (
        select(instances.c.study_instance_uid, instances.c.patient_id)
        .join_from(job_instances, instances, job_instances.c.instance_id == instances.c.instance_id)
        .where(job_instances.c.job_number == job_number)
        .distinct()
    )
    found: dict[str, set[str]] = {}
    for study, patient in transaction.execute(query):
        found.setdefault(study, set()).add(patient)
    return found


def senders_of_job(transaction: Transaction, job_number: int) -> list[str]:
    """Return the calling AE titles that have sent the instances of a job, in alphabetical order."""
    query = (
        select(instances.c.calling_ae_title)
        .join_from(job_instances, instances, job_instances.c.instance_id == instances.c.instance_id)
        .where(job_instances.c.job_number == job_number)
        .distinct()
    )
    return sorted(transaction.execute(query).scalars())


@frozen(kw_only=True)
class SameUid:
    """An instance that has the SOP Instance UID of an output."""

    instance_id: int
    source_job: int | None
    is_input: bool  # the job of the output contains it


def is_forced(result: FromClause) -> ColumnElement[bool]:
    """Return the condition of a result that an operator has released for delivery although it fails the check."""
    return and_(
        result.c.reason != "",
        result.c.state != InstanceState.QUARANTINED.value,
        result.c.outcome != InstanceOutcome.DISCARDED.value,
    )


def is_copy(result: FromClause) -> ColumnElement[bool]:
    """Return the condition of a result with the SOP Instance UID of an instance that was received earlier."""
    received = instances.alias("received")
    return exists().where(
        received.c.sop_instance_uid == result.c.sop_instance_uid,
        received.c.source_job.is_(None),
        received.c.instance_id < result.c.instance_id,
    )


def with_uids(
    transaction: Transaction, job_number: int, uids: Iterable[str], *, excluding: int = 0
) -> dict[str, SameUid]:
    """Return an instance with each of these SOP Instance UIDs, if there is one; an input of the job is preferred.

    Results that are quarantined, or were discarded, count only if they are inputs. The instance with the id `excluding`
    does not count.
    """
    is_input = exists().where(
        job_instances.c.job_number == job_number, job_instances.c.instance_id == instances.c.instance_id
    )
    columns = (
        instances.c.sop_instance_uid,
        instances.c.instance_id,
        instances.c.source_job,
        is_input.label("is_input"),
    )
    found: dict[str, SameUid] = {}
    for chunk in chunks(uids):
        query = select(*columns).where(instances.c.sop_instance_uid.in_(chunk), instances.c.instance_id != excluding)
        query = query.where(
            or_(instances.c.source_job.is_(None), instances.c.reason == "", is_forced(instances), is_input)
        )
        query = query.order_by(instances.c.instance_id)
        for uid, instance_id, source_job, of_job in transaction.execute(query):
            if uid not in found or (of_job and not found[uid].is_input):
                found[uid] = SameUid(instance_id=instance_id, source_job=source_job, is_input=bool(of_job))
    return found


# --- loop protection --------------------------------------------------------------------------------------------------

_result = instances.alias("result")
_RETURNED = (
    select(instances.c.instance_id, _result.c.instance_id)
    .join_from(
        instances,
        _result,
        and_(_result.c.sop_instance_uid == instances.c.sop_instance_uid, _result.c.source_job.is_not(None)),
    )
    .where(
        instances.c.instance_id.between(bindparam("first"), bindparam("last")),
        instances.c.ae_title == bindparam("ae_title"),
        instances.c.state == literal_column("'pending'"),
        # A result that was delivered by force may be a copy of a received instance with the same UID. Then an arrival
        # with this UID may be the received instance, sent again, and must be processed.
        or_(_result.c.reason == "", is_forced(_result) & ~is_copy(_result)),
    )
)


def returned(transaction: Transaction, ae_title: str, first: int, last: int) -> dict[int, int]:
    """Return the pending instances numbered `first` to `last` that are results, with the ids of these results."""
    rows = transaction.execute(_RETURNED, {"ae_title": ae_title, "first": first, "last": last})
    return {row[0]: row[1] for row in rows}


# --- for operators ----------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class ResultRow:
    """A result with its state in the ledger."""

    instance: InstanceStorageInfo
    state: InstanceState
    changed_at: datetime  # UTC; time of the last change of `state`
    reason: str  # why it is, or was, quarantined; without patient data
    outcome: str  # a value of InstanceOutcome once it is known, else ""
    job_number: int  # of the job that has produced it
    job_id: str  # "" if that job was deleted
    name: str = field(repr=False)  # of the output; may contain patient data
    keep_until: datetime | None  # UTC; it is not reclaimed before


_ROW = [
    *COLUMNS,
    *(
        instances.c[name]
        for name in ("state", "changed_at", "reason", "outcome", "source_job", "output_name", "keep_until")
    ),
    jobs.c.job_id.label("source_job_id"),
]


def newest(
    transaction: Transaction,
    limit: int | None,
    *,
    state: InstanceState | None = None,
    job_number: int | None = None,
    filters: Filters = NO_FILTERS,
    reason: str = "",
    before: int | None = None,
) -> list[ResultRow]:
    """Return results in this state (all if None), of this job (all if None), newest first.

    `reason`: only results whose reason for the quarantine contains this text; case is ignored.
    `before`: only results with a smaller id.
    """
    # For the few instances in these states, SQLite has to use the index of the state and sort its rows, instead of
    # reading all results: "+ 0" has this effect.
    is_rare = state in (InstanceState.PENDING, InstanceState.QUARANTINED)
    is_result = (instances.c.source_job + 0).is_not(None) if is_rare else IS_RESULT
    order = instances.c.instance_id + 0 if is_rare else instances.c.instance_id
    conditions = [is_result, filters.of_instances()]
    if state is not None:
        conditions.append(IS_IN[state])
    if job_number is not None:
        conditions.append(instances.c.source_job == job_number)
    if before is not None:
        conditions.append(order < before)
    if reason:
        conditions.append(instances.c.reason.icontains(reason, autoescape=True))
    return _rows(transaction, and_(true(), *conditions), limit, order)


def find(transaction: Transaction, instance_ids: Iterable[int]) -> list[ResultRow]:
    """Return the results with these instance ids. Other ids are omitted."""
    return [
        row
        for chunk in chunks(instance_ids)
        for row in _rows(transaction, IS_RESULT & instances.c.instance_id.in_(chunk), None)
    ]


def with_content(transaction: Transaction, size_bytes: int, checksum: int) -> list[int]:
    """Return the ids of the results with this size and checksum."""
    has_content = (instances.c.size_bytes == size_bytes) & (instances.c.checksum == checksum)
    return list(transaction.execute(select(instances.c.instance_id).where(IS_RESULT, has_content)).scalars())


def deliveries(transaction: Transaction, instance_id: int) -> list[tuple[str, str, bool]]:
    """Return the delivery jobs of a result, oldest first: job id, submitter, and whether the result was uploaded."""
    query = (
        select(jobs.c.job_id, jobs.c.submitter, job_instances.c.uploaded)
        .join_from(job_instances, jobs, jobs.c.job_number == job_instances.c.job_number)
        .where(job_instances.c.instance_id == instance_id)
        .order_by(jobs.c.job_number)
    )
    return [(job_id, submitter, bool(uploaded)) for job_id, submitter, uploaded in transaction.execute(query)]


def release(transaction: Transaction, instance_ids: Iterable[int], at: datetime, reasons: Mapping[int, str]) -> None:
    """Change quarantined results to released. `reasons`: the reasons to keep, of results that failed the check."""
    # SQLAlchemy refuses parameters of an UPDATE that have the name of a column.
    rows = [{"id": instance_id, "at": at, "kept": reasons.get(instance_id, "")} for instance_id in instance_ids]
    if rows:
        change = update(instances).where(instances.c.instance_id == bindparam("id"), IS_QUARANTINED, IS_RESULT)
        transaction.execute(
            change.values(
                state=InstanceState.RELEASED.value,
                changed_at=bindparam("at", type_=instances.c.changed_at.type),
                reason=bindparam("kept"),
            ),
            rows,
        )


def needed(transaction: Transaction, instance_ids: Iterable[int]) -> dict[int, str]:
    """Return the results in `instance_ids` that an unfinished, faulted or failed job needs, with the id of one job."""
    found: dict[int, str] = {}
    for chunk in chunks(instance_ids):
        query = (
            select(job_instances.c.instance_id, jobs.c.job_id)
            .join_from(job_instances, jobs, jobs.c.job_number == job_instances.c.job_number)
            .where(job_instances.c.instance_id.in_(chunk), jobs.c.state.not_in([state.value for state in FINISHED]))
        )
        found.update({row[0]: row[1] for row in transaction.execute(query)})
    return found


def keep(transaction: Transaction, instance_ids: Iterable[int], until: datetime | None) -> None:
    """Set until when results are kept although no job needs them; None: they are reclaimed when no job needs them."""
    for chunk in chunks(instance_ids):
        transaction.execute(update(instances).where(instances.c.instance_id.in_(chunk)).values(keep_until=until))


def _rows(
    transaction: Transaction,
    condition: ColumnElement[bool],
    limit: int | None,
    order: ColumnElement[int] = instances.c.instance_id,
) -> list[ResultRow]:
    query = (
        select(*_ROW)
        .join_from(instances, jobs, jobs.c.job_number == instances.c.source_job, isouter=True)
        .where(condition)
        .order_by(order.desc())
        .limit(limit)
    )
    rows: Sequence[Any] = transaction.execute(query).all()
    return [
        ResultRow(
            instance=instance,
            state=InstanceState(row.state),
            changed_at=row.changed_at,
            reason=row.reason,
            outcome=row.outcome,
            job_number=row.source_job,
            job_id=row.source_job_id or "",
            name=row.output_name,
            keep_until=row.keep_until,
        )
        for row, instance in zip(rows, to_instances(rows), strict=True)
    ]


def storable(name: str) -> str:
    """Return a name in a form that every database can store."""
    return name.encode("utf-8", "replace").decode("utf-8").replace("\0", "?")[:LONGEST_NAME]
