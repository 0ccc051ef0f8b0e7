"""Queries with which the audit finds inconsistent rows and missing instances; an insertion of `audit --repair`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import asdict, evolve, field, fields, frozen
from sqlalchemy import ColumnElement, Row, Select, case, exists, func, select

from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import counters
from dicom_adapter.ledger.connection import Transaction, inserted_id
from dicom_adapter.ledger.instances import is_kept
from dicom_adapter.ledger.schema import (
    HELD_JOB_STATES,
    IS_RELEASED,
    IS_RESULT,
    UNFINISHED_JOB_STATES,
    InstanceOutcome,
    InstanceState,
    instances,
    job_instances,
    jobs,
)

_IS_IN_JOB = (job_instances.c.instance_id == instances.c.instance_id) & (
    job_instances.c.job_number == jobs.c.job_number
)
_IN_UNFINISHED_JOB = exists().where(_IS_IN_JOB, jobs.c.state.in_(UNFINISHED_JOB_STATES))
_IN_HELD_JOB = exists().where(_IS_IN_JOB, jobs.c.state.in_(HELD_JOB_STATES))


@frozen(kw_only=True)
class Account:
    """The numbers of instances that an AE title has received, or of its results, by their current state."""

    ae_title: str
    received: int  # value of the counter of received instances, or of results
    pending: int = 0
    quarantined: int = 0
    unfinished: int = 0  # released instances that unfinished jobs need
    held: int = 0  # released instances that faulted and failed jobs need
    free: int = 0  # released instances that can be reclaimed
    reclaimed: Mapping[InstanceOutcome, int] = field(factory=dict)  # by outcome; including instances with deleted rows

    @property
    def difference(self) -> int:
        """Return the number of received instances minus the sum of all states; 0 if every instance is accounted for."""
        stored = self.pending + self.quarantined + self.unfinished + self.held + self.free
        return self.received - stored - sum(self.reclaimed.values())


def load_accounts(transaction: Transaction, *, of_results: bool = False) -> list[Account]:
    """Return the account of each AE title that has ever received an instance, or had a result, by AE title."""
    total = counters.RESULTS if of_results else counters.RECEIVED
    counted: dict[tuple[str, str], int] = {}
    for (ae_title, counter), count in counters.load(transaction).items():
        if counters.is_of_results(counter) is of_results and counter not in counters.OF_DUPLICATES:
            counted[ae_title, counter.removeprefix(counters.RESULT_PREFIX)] = count
    accounts = {
        ae_title: Account(ae_title=ae_title, received=counted.get((ae_title, total), 0)) for ae_title, _ in counted
    }
    # Deleted rows; the rows that still exist are added below.
    reclaimed = [(ae_title, outcome, count) for (ae_title, outcome), count in counted.items() if outcome != total]
    for ae_title, account_field, outcome, count in transaction.execute(
        _count_rows(IS_RESULT if of_results else ~IS_RESULT)
    ):
        accounts.setdefault(ae_title, Account(ae_title=ae_title, received=0))
        if account_field == InstanceState.RECLAIMED.value:
            reclaimed.append((ae_title, outcome, count))
        else:
            accounts[ae_title] = evolve(accounts[ae_title], **{account_field: count})
    for ae_title, outcome, count in reclaimed:
        sums = accounts[ae_title].reclaimed
        of_outcome = sums.get(InstanceOutcome(outcome), 0) + count
        accounts[ae_title] = evolve(accounts[ae_title], reclaimed={**sums, InstanceOutcome(outcome): of_outcome})
    return [accounts[ae_title] for ae_title in sorted(accounts)]


def _count_rows(condition: ColumnElement[bool]) -> Select[Any]:
    """Return a query that counts rows of each AE title by the field of Account, and by outcome if reclaimed."""
    account_field = case(
        (instances.c.state != InstanceState.RELEASED.value, instances.c.state),
        (_IN_UNFINISHED_JOB, "unfinished"),
        (_IN_HELD_JOB, "held"),
        else_="free",
    )
    outcome = case((instances.c.state == InstanceState.RECLAIMED.value, instances.c.outcome), else_="")
    columns = (instances.c.ae_title, account_field, outcome)
    return select(*columns, func.count()).where(condition).group_by(*columns)


@frozen(kw_only=True)
class ObjectRow:
    """The values in the row of an instance that describe its stored object."""

    instance_id: int
    ae_title: str
    state: InstanceState
    storage_key: str
    size_bytes: int  # size of the stored Part 10 file
    checksum: int  # CRC-32 of the encoded data set


_OBJECT_COLUMNS = [instances.c[attribute.name] for attribute in fields(ObjectRow)]
_INSTANCE_COLUMNS = [instances.c[attribute.name] for attribute in fields(InstanceStorageInfo)]


def object_rows_after(transaction: Transaction, instance_id: int, limit: int) -> list[ObjectRow]:
    """Return the rows of up to `limit` instances with ids above `instance_id`, in order."""
    query = select(*_OBJECT_COLUMNS).where(instances.c.instance_id > instance_id).order_by(instances.c.instance_id)
    return [_object_row(row) for row in transaction.execute(query.limit(limit))]


def object_rows(transaction: Transaction, instance_ids: Sequence[int]) -> list[ObjectRow]:
    """Return the rows of these instances in order. Ids without a row are omitted."""
    query = select(*_OBJECT_COLUMNS).where(instances.c.instance_id.in_(instance_ids)).order_by(instances.c.instance_id)
    return [_object_row(row) for row in transaction.execute(query)]


def is_needed(transaction: Transaction, instance_id: int) -> bool:
    """Return whether an unfinished, faulted or failed job contains this instance."""
    query = select(
        exists(
            select(instances.c.instance_id).where(
                instances.c.instance_id == instance_id, _IN_UNFINISHED_JOB | _IN_HELD_JOB
            )
        )
    )
    return bool(transaction.execute(query).scalar())


def overdue(transaction: Transaction, before: datetime) -> list[int]:
    """Return the ids of released instances that no job has needed since `before`, but that are not reclaimed."""
    in_recent_job = exists().where(_IS_IN_JOB, jobs.c.changed_at >= before)
    query = select(instances.c.instance_id).where(
        IS_RELEASED,
        instances.c.changed_at < before,
        ~_IN_UNFINISHED_JOB,
        ~_IN_HELD_JOB,
        ~in_recent_job,
        ~is_kept(before),
    )
    return list(transaction.execute(query.order_by(instances.c.instance_id)).scalars())


def incomplete_jobs(transaction: Transaction) -> list[tuple[str, str]]:
    """Return ids and AE titles of jobs whose number of instances is not the same as at their submission."""
    count = select(func.count()).where(job_instances.c.job_number == jobs.c.job_number).scalar_subquery()
    query = select(jobs.c.job_id, jobs.c.ae_title).where(jobs.c.instance_count != count).order_by(jobs.c.job_number)
    return [(job_id, ae_title) for job_id, ae_title in transaction.execute(query)]


def reclaimed_but_needed(transaction: Transaction) -> list[tuple[str, str, int]]:
    """Return the reclaimed instances of jobs that need them: job id, AE title and instance id."""
    query = (
        select(jobs.c.job_id, jobs.c.ae_title, instances.c.instance_id)
        .join(job_instances, job_instances.c.job_number == jobs.c.job_number)
        .join(instances, instances.c.instance_id == job_instances.c.instance_id)
        .where(jobs.c.state.in_([*UNFINISHED_JOB_STATES, *HELD_JOB_STATES]))
        .where(instances.c.state == InstanceState.RECLAIMED.value)
    )
    rows = transaction.execute(query.order_by(jobs.c.job_number, job_instances.c.position))
    return [(job_id, ae_title, instance_id) for job_id, ae_title, instance_id in rows]


def with_missing_replacement(transaction: Transaction) -> list[tuple[int, str]]:
    """Return ids and AE titles of instances whose replacement has no row."""
    newer = instances.alias()
    query = select(instances.c.instance_id, instances.c.ae_title).where(
        instances.c.replaced_by.is_not(None), ~exists().where(newer.c.instance_id == instances.c.replaced_by)
    )
    rows = transaction.execute(query.order_by(instances.c.instance_id))
    return [(instance_id, ae_title) for instance_id, ae_title in rows]


def arrivals(
    transaction: Transaction, ae_title: str, sop_instance_uid: str
) -> list[tuple[InstanceStorageInfo, ObjectRow]]:
    """Return every instance with this SOP Instance UID that the AE title received, oldest first."""
    query: Select[Any] = select(*_INSTANCE_COLUMNS, instances.c.state).where(
        instances.c.sop_instance_uid == sop_instance_uid, instances.c.ae_title == ae_title
    )
    names = [column.name for column in _INSTANCE_COLUMNS]
    return [
        (InstanceStorageInfo(**{name: row._mapping[name] for name in names}), _object_row(row))
        for row in transaction.execute(query.order_by(instances.c.instance_id))
    ]


def insert_quarantined(transaction: Transaction, instance: InstanceStorageInfo, reason: str) -> int:
    """Insert a quarantined instance, count it as received, and return its id."""
    values = asdict(instance) | {"state": InstanceState.QUARANTINED.value, "reason": reason}
    values["changed_at"] = instance.received_at
    del values["instance_id"]
    counters.add(transaction, instance.ae_title, counters.RECEIVED)
    return inserted_id(transaction.execute(instances.insert().values(**values)))


def _object_row(row: Row[Any]) -> ObjectRow:
    return ObjectRow(
        instance_id=row.instance_id,
        ae_title=row.ae_title,
        state=InstanceState(row.state),
        storage_key=row.storage_key,
        size_bytes=row.size_bytes,
        checksum=row.checksum,
    )
