"""Queries of the audit: is every received instance accounted for, and are the rows consistent?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from attrs import asdict, evolve, field, fields, frozen
from sqlalchemy import Row, Select, case, exists, func, select

from dicom_adapter.api.values import InstanceStorageInfo, JobState
from dicom_adapter.ledger import counters
from dicom_adapter.ledger.connection import Transaction, inserted_id
from dicom_adapter.ledger.schema import (
    IS_RELEASED,
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
_BY_UNFINISHED = exists().where(_IS_IN_JOB, jobs.c.state.in_(UNFINISHED_JOB_STATES))
_BY_FAULTED = exists().where(_IS_IN_JOB, jobs.c.state == JobState.FAULTED.value)


@frozen(kw_only=True)
class Account:
    """Count the instances that an AE title has received, by where they are now."""

    ae_title: str
    received: int  # counted at reception
    pending: int = 0
    quarantined: int = 0
    unfinished: int = 0  # released, and needed by unfinished jobs
    faulted: int = 0  # released, and needed by faulted jobs
    free: int = 0  # released, and ready to be reclaimed
    reclaimed: Mapping[InstanceOutcome, int] = field(factory=dict)  # including those whose rows were deleted

    @property
    def difference(self) -> int:
        """Return how many more instances were received than are accounted for; 0 if the account balances."""
        standing = self.pending + self.quarantined + self.unfinished + self.faulted + self.free
        return self.received - standing - sum(self.reclaimed.values())


def balance(transaction: Transaction) -> list[Account]:
    """Return the account of each AE title that has ever received an instance, sorted by AE title."""
    counted = counters.load(transaction)
    accounts = {name: Account(ae_title=name, received=counted.get((name, counters.RECEIVED), 0)) for name, _ in counted}
    of_reclaimed = [(name, what, count) for (name, what), count in counted.items() if what != counters.RECEIVED]
    for name, place, outcome, count in transaction.execute(_standing()):
        accounts.setdefault(name, Account(ae_title=name, received=0))
        if place == InstanceState.RECLAIMED.value:
            of_reclaimed.append((name, outcome, count))
        else:
            accounts[name] = evolve(accounts[name], **{place: count})
    for name, what, count in of_reclaimed:
        sums = accounts[name].reclaimed
        total = sums.get(InstanceOutcome(what), 0) + count
        accounts[name] = evolve(accounts[name], reclaimed={**sums, InstanceOutcome(what): total})
    return [accounts[name] for name in sorted(accounts)]


def _standing() -> Select[Any]:
    """Count the rows of each AE title by the field of Account that counts them, and by outcome if reclaimed."""
    place = case(
        (instances.c.state != InstanceState.RELEASED.value, instances.c.state),
        (_BY_UNFINISHED, "unfinished"),
        (_BY_FAULTED, "faulted"),
        else_="free",
    )
    outcome = case((instances.c.state == InstanceState.RECLAIMED.value, instances.c.outcome), else_="")
    return select(instances.c.ae_title, place, outcome, func.count()).group_by(instances.c.ae_title, place, outcome)


@frozen(kw_only=True)
class Kept:
    """The facts that the ledger records about a stored object."""

    instance_id: int
    ae_title: str
    state: InstanceState
    storage_key: str
    size_bytes: int  # of the stored Part 10 file
    checksum: int  # CRC-32 of the encoded data set


_KEPT = [instances.c[attribute.name] for attribute in fields(Kept)]
_INSTANCE = [instances.c[attribute.name] for attribute in fields(InstanceStorageInfo)]


def kept_after(transaction: Transaction, instance_id: int, limit: int) -> list[Kept]:
    """Return the records of up to `limit` instances numbered above `instance_id`, in order."""
    query = select(*_KEPT).where(instances.c.instance_id > instance_id).order_by(instances.c.instance_id)
    return [_kept(row) for row in transaction.execute(query.limit(limit))]


def kept(transaction: Transaction, numbers: Sequence[int]) -> list[Kept]:
    """Return the records of these instances in order, without those that have no row."""
    query = select(*_KEPT).where(instances.c.instance_id.in_(numbers)).order_by(instances.c.instance_id)
    return [_kept(row) for row in transaction.execute(query)]


def is_needed(transaction: Transaction, instance_id: int) -> bool:
    """Return whether an unfinished or faulted job contains this instance."""
    query = select(
        exists(
            select(instances.c.instance_id).where(instances.c.instance_id == instance_id, _BY_UNFINISHED | _BY_FAULTED)
        )
    )
    return bool(transaction.execute(query).scalar())


def overdue(transaction: Transaction, before: datetime) -> list[int]:
    """Return released instances that no job has needed since `before` and that are still not reclaimed."""
    lately = exists().where(_IS_IN_JOB, jobs.c.changed_at >= before)
    query = select(instances.c.instance_id).where(
        IS_RELEASED, instances.c.changed_at < before, ~_BY_UNFINISHED, ~_BY_FAULTED, ~lately
    )
    return list(transaction.execute(query.order_by(instances.c.instance_id)).scalars())


def jobs_not_whole(transaction: Transaction) -> list[tuple[str, str]]:
    """Return ids and AE titles of jobs with another number of instances than at their submission."""
    count = select(func.count()).where(job_instances.c.job_number == jobs.c.job_number).scalar_subquery()
    query = select(jobs.c.job_id, jobs.c.ae_title).where(jobs.c.instance_count != count).order_by(jobs.c.job_number)
    return [(job_id, ae_title) for job_id, ae_title in transaction.execute(query)]


def jobs_without_data(transaction: Transaction) -> list[tuple[str, str, int]]:
    """Return ids and AE titles of unfinished and faulted jobs with each of their reclaimed instances."""
    query = (
        select(jobs.c.job_id, jobs.c.ae_title, instances.c.instance_id)
        .join(job_instances, job_instances.c.job_number == jobs.c.job_number)
        .join(instances, instances.c.instance_id == job_instances.c.instance_id)
        .where(jobs.c.state.in_([*UNFINISHED_JOB_STATES, JobState.FAULTED.value]))
        .where(instances.c.state == InstanceState.RECLAIMED.value)
    )
    rows = transaction.execute(query.order_by(jobs.c.job_number, job_instances.c.position))
    return [(job_id, ae_title, number) for job_id, ae_title, number in rows]


def replaced_by_nothing(transaction: Transaction) -> list[tuple[int, str]]:
    """Return numbers and AE titles of instances whose replacement has no row."""
    newer = instances.alias()
    query = select(instances.c.instance_id, instances.c.ae_title).where(
        instances.c.replaced_by.is_not(None), ~exists().where(newer.c.instance_id == instances.c.replaced_by)
    )
    rows = transaction.execute(query.order_by(instances.c.instance_id))
    return [(number, ae_title) for number, ae_title in rows]


def arrivals(transaction: Transaction, ae_title: str, sop_instance_uid: str) -> list[tuple[InstanceStorageInfo, Kept]]:
    """Return every instance with this SOP Instance UID that the AE title received, with its record."""
    query: Select[Any] = select(*_INSTANCE, instances.c.state).where(
        instances.c.sop_instance_uid == sop_instance_uid, instances.c.ae_title == ae_title
    )
    names = [column.name for column in _INSTANCE]
    return [
        (InstanceStorageInfo(**{name: row._mapping[name] for name in names}), _kept(row))
        for row in transaction.execute(query.order_by(instances.c.instance_id))
    ]


def adopt(transaction: Transaction, instance: InstanceStorageInfo, reason: str) -> int:
    """Insert a quarantined instance, count it as received, and return its number."""
    values = asdict(instance) | {"state": InstanceState.QUARANTINED.value, "reason": reason}
    values["changed_at"] = instance.received_at
    del values["instance_id"]
    counters.add(transaction, instance.ae_title, counters.RECEIVED)
    return inserted_id(transaction.execute(instances.insert().values(**values)))


def _kept(row: Row[Any]) -> Kept:
    return Kept(
        instance_id=row.instance_id,
        ae_title=row.ae_title,
        state=InstanceState(row.state),
        storage_key=row.storage_key,
        size_bytes=row.size_bytes,
        checksum=row.checksum,
    )
