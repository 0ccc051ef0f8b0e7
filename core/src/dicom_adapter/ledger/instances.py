"""What the ledger knows of instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import TypeVar

from attrs import asdict, evolve, fields
from sqlalchemy import Row, Select, bindparam, case, exists, func, select, update

from dicom_adapter.ledger import tallies
from dicom_adapter.ledger.connection import Transaction, inserted_id
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.schema import (
    IS_PENDING,
    IS_RELEASED,
    InstanceState,
    Outcome,
    UtcDateTime,
    instances,
    job_instances,
    jobs,
)
from dicom_adapter.model import InstanceStorageInfo, JobState

UNNUMBERED = 0  # the `instance_id` of an instance that the ledger has not seen yet
CHUNK = 500  # ids in one IN (…): below every database's limit of parameters

_COLUMNS = [instances.c[attribute.name] for attribute in fields(InstanceStorageInfo)]

T = TypeVar("T")


def insert(transaction: Transaction, instance: InstanceStorageInfo) -> InstanceStorageInfo:
    """Add a pending instance and return it with its number."""
    values = asdict(instance) | {"state": InstanceState.PENDING.value, "changed_at": instance.received_at}
    del values["instance_id"]
    tallies.add(transaction, instance.ae_title, tallies.RECEIVED)
    return evolve(instance, instance_id=inserted_id(transaction.execute(instances.insert().values(**values))))


def find_pending(transaction: Transaction, ae_title: str, sop_instance_uid: str) -> InstanceStorageInfo | None:
    """The pending instance of this AE title and SOP Instance UID; there is one at the most."""
    row = transaction.execute(
        _select_instances().where(
            instances.c.ae_title == ae_title,
            instances.c.sop_instance_uid == sop_instance_uid,
            IS_PENDING,
        )
    ).one_or_none()
    return None if row is None else _instance(row)


def replace(transaction: Transaction, old: InstanceStorageInfo, new: InstanceStorageInfo) -> InstanceStorageInfo:
    """Let `new` stand for the pending `old`, whose room may be reclaimed once no job needs it."""
    release(transaction, [old.instance_id], new.received_at)
    added = insert(transaction, new)
    transaction.execute(
        update(instances)
        .where(instances.c.instance_id == old.instance_id)
        .values(replaced_by=added.instance_id, outcome=Outcome.REPLACED.value)
    )
    return added


def pending_after(transaction: Transaction, instance_id: int, limit: int, ae_title: str) -> list[InstanceStorageInfo]:
    """Pending instances of an AE title numbered above `instance_id`, in the order of arrival."""
    query = _select_instances().where(
        instances.c.instance_id > instance_id, IS_PENDING, instances.c.ae_title == ae_title
    )
    rows = transaction.execute(query.order_by(instances.c.instance_id).limit(limit))
    return [_instance(row) for row in rows]


def arrived_after(transaction: Transaction, instance_id: int, limit: int) -> list[InstanceStorageInfo]:
    """Instances numbered above `instance_id`, whatever has become of them already, in the order of arrival."""
    query = _select_instances().where(instances.c.instance_id > instance_id)
    return [_instance(row) for row in transaction.execute(query.order_by(instances.c.instance_id).limit(limit))]


def last_number(transaction: Transaction) -> int:
    """The number of the newest instance, whatever became of it; 0 when there is none."""
    return transaction.execute(select(func.max(instances.c.instance_id))).scalar() or 0


def resolve_pending(transaction: Transaction, instance_ids: Sequence[int]) -> dict[int, int]:
    """Map each id to the pending instance that it means: itself, or the newer arrival that stands for it.

    Ids that mean nothing pending are left out.
    """
    meaning = {instance_id: instance_id for instance_id in instance_ids}
    result: dict[int, int] = {}
    while meaning:
        found = _states(transaction, list(meaning.values()))
        newer: dict[int, int] = {}
        for asked, current in meaning.items():
            state, replaced_by = found.get(current, ("", None))
            if state == InstanceState.PENDING.value:
                result[asked] = current
            elif replaced_by is not None:
                newer[asked] = replaced_by
        meaning = newer
    return result


def release(transaction: Transaction, instance_ids: Iterable[int], at: datetime) -> None:
    """Pending → released."""
    _set_state(transaction, instance_ids, at, InstanceState.PENDING, {"state": InstanceState.RELEASED.value})


def quarantine(transaction: Transaction, instance_id: int, reason: str, at: datetime) -> bool:
    """Pending → quarantined, with the reason (no patient data). Returns whether it was pending."""
    result = transaction.execute(
        update(instances)
        .where(instances.c.instance_id == instance_id, IS_PENDING)
        .values(state=InstanceState.QUARANTINED.value, reason=reason, changed_at=at)
    )
    return result.rowcount == 1


def reclaimable(transaction: Transaction, instance_ids: Sequence[int]) -> list[InstanceStorageInfo]:
    """Those of `instance_ids` that are released and that no unfinished job needs."""
    needed = exists().where(
        job_instances.c.instance_id == instances.c.instance_id,
        job_instances.c.job_number == jobs.c.job_number,
        jobs.c.state.not_in([state.value for state in FINISHED]),
    )
    query = _select_instances().where(IS_RELEASED, ~needed)
    found: list[InstanceStorageInfo] = []
    for chunk in _chunks(instance_ids):
        found += [_instance(row) for row in transaction.execute(query.where(instances.c.instance_id.in_(chunk)))]
    return found


def replaced_by(transaction: Transaction, instance_ids: Sequence[int]) -> list[int]:
    """Ids of the instances that these newer arrivals stand for."""
    query = select(instances.c.instance_id).where(instances.c.replaced_by.is_not(None))
    return [
        number
        for chunk in _chunks(instance_ids)
        for number in transaction.execute(query.where(instances.c.replaced_by.in_(chunk))).scalars()
    ]


def released_after(transaction: Transaction, instance_id: int, limit: int) -> list[int]:
    """Ids of released, not yet reclaimed instances above `instance_id`, in order."""
    query = select(instances.c.instance_id).where(instances.c.instance_id > instance_id, IS_RELEASED)
    return list(transaction.execute(query.order_by(instances.c.instance_id).limit(limit)).scalars())


def mark_reclaimed(transaction: Transaction, instance_ids: Iterable[int], at: datetime) -> None:
    """Released → reclaimed, with what each had been good for."""
    used = exists().where(
        job_instances.c.instance_id == instances.c.instance_id, job_instances.c.job_number == jobs.c.job_number
    )
    outcome = case(
        (instances.c.outcome != "", instances.c.outcome),
        (used.where(jobs.c.state == JobState.SUBMITTED.value), Outcome.SUBMITTED.value),
        (used, Outcome.CANCELLED.value),
        else_=Outcome.UNUSED.value,
    )
    values = {"state": InstanceState.RECLAIMED.value, "outcome": outcome}
    _set_state(transaction, instance_ids, at, InstanceState.RELEASED, values)


def count_by_state(transaction: Transaction) -> dict[tuple[str, str], int]:
    """How many instances there are of each AE title and state."""
    query = select(instances.c.ae_title, instances.c.state, func.count()).group_by(
        instances.c.ae_title, instances.c.state
    )
    return {(ae_title, state): count for ae_title, state, count in transaction.execute(query)}


def of_job(
    transaction: Transaction, job_number: int, *, missing_only: bool, limit: int | None = None
) -> list[tuple[int, InstanceStorageInfo]]:
    """A job's instances with their positions, all or only those not yet uploaded."""
    query = (
        select(job_instances.c.position, *_COLUMNS)
        .join(instances, instances.c.instance_id == job_instances.c.instance_id)
        .where(job_instances.c.job_number == job_number)
        .order_by(job_instances.c.position)
        .limit(limit)
    )
    if missing_only:
        query = query.where(job_instances.c.uploaded.is_(False))
    return [(row.position, _instance(row)) for row in transaction.execute(query)]


def _select_instances() -> Select[tuple[object, ...]]:
    return select(*_COLUMNS)


def _instance(row: Row[tuple[object, ...]]) -> InstanceStorageInfo:
    mapping = row._mapping
    return InstanceStorageInfo(**{column.name: mapping[column] for column in _COLUMNS})


def _states(transaction: Transaction, instance_ids: list[int]) -> dict[int, tuple[str, int | None]]:
    columns = (instances.c.instance_id, instances.c.state, instances.c.replaced_by)
    found: dict[int, tuple[str, int | None]] = {}
    for chunk in _chunks(instance_ids):
        for number, state, replaced_by in transaction.execute(
            select(*columns).where(instances.c.instance_id.in_(chunk))
        ):
            found[number] = (state, replaced_by)
    return found


def _set_state(
    transaction: Transaction,
    instance_ids: Iterable[int],
    at: datetime,
    expected: InstanceState,
    values: Mapping[str, object],
) -> None:
    rows = [{"number": instance_id, "at": at} for instance_id in instance_ids]
    if rows:
        transaction.execute(
            update(instances)
            .where(instances.c.instance_id == bindparam("number"), instances.c.state == expected.value)
            .values(changed_at=bindparam("at", type_=UtcDateTime), **values),
            rows,
        )


def _chunks(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk
