"""Queries and state changes of instances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from attrs import asdict, evolve
from sqlalchemy import ColumnElement, bindparam, case, exists, func, or_, select, text, update

from dicom_adapter.api.values import InstanceStorageInfo, JobState
from dicom_adapter.ledger import counters
from dicom_adapter.ledger.column_types import UtcDateTime
from dicom_adapter.ledger.connection import Transaction, inserted_id
from dicom_adapter.ledger.instance_values import (
    CHUNK,
    COLUMNS,
    as_json_array,
    chunks,
    read_at_once,
    select_instances,
    to_instance,
    to_instances,
)
from dicom_adapter.ledger.jobs import FINISHED
from dicom_adapter.ledger.schema import (
    IS_PENDING,
    IS_RELEASED,
    InstanceOutcome,
    InstanceState,
    instances,
    job_instances,
    jobs,
)

UNNUMBERED = 0  # the `instance_id` of an instance without a row in the ledger


# Frequent queries are built once: building them takes longer than running them.
_AFTER = instances.c.instance_id > bindparam("after")
_IS_RECEIVED = instances.c.source_job.is_(None)
_ARRIVED_AFTER = as_json_array(select(*COLUMNS).where(_AFTER, _IS_RECEIVED))
_PENDING_AFTER = as_json_array(
    select(*COLUMNS).where(_AFTER, IS_PENDING, instances.c.ae_title == bindparam("ae_title"))
)
_following = (
    select(instances.c.ae_title, instances.c.instance_id)
    .where(_AFTER, _IS_RECEIVED)
    .order_by(instances.c.instance_id)
    .limit(bindparam("limit"))
    .subquery()
)
_NEWEST_AFTER = select(_following.c.ae_title, func.max(_following.c.instance_id)).group_by(_following.c.ae_title)
_REPLACED_BY = select(instances.c.instance_id).where(
    instances.c.replaced_by.between(bindparam("first"), bindparam("last"))
)


def insert(transaction: Transaction, instance: InstanceStorageInfo) -> InstanceStorageInfo:
    """Insert a pending instance and return it with its id."""
    values = asdict(instance) | {"state": InstanceState.PENDING.value, "changed_at": instance.received_at}
    del values["instance_id"]
    counters.add(transaction, instance.ae_title, counters.RECEIVED)
    return evolve(instance, instance_id=inserted_id(transaction.execute(instances.insert().values(**values))))


def find_pending(transaction: Transaction, ae_title: str, sop_instance_uid: str) -> InstanceStorageInfo | None:
    """Return the pending instance of this AE title and SOP Instance UID, or None. At most one exists."""
    row = transaction.execute(
        select_instances().where(
            instances.c.ae_title == ae_title,
            instances.c.sop_instance_uid == sop_instance_uid,
            IS_PENDING,
        )
    ).one_or_none()
    return None if row is None else to_instance(row)


def find_quarantined(
    transaction: Transaction, ae_title: str, sop_instance_uid: str, checksum: int
) -> list[InstanceStorageInfo]:
    """Return the quarantined arrivals of this AE title, SOP Instance UID and checksum, oldest first."""
    # A bound parameter: with a literal, SQLite might read all quarantined instances of the AE title (see `schema`).
    query = select_instances().where(
        instances.c.sop_instance_uid == sop_instance_uid,
        instances.c.ae_title == ae_title,
        instances.c.checksum == checksum,
        instances.c.state == bindparam("state", InstanceState.QUARANTINED.value),
        _IS_RECEIVED,
    )
    return to_instances(transaction.execute(query.order_by(instances.c.instance_id)))


def skip_numbers(transaction: Transaction, count: int) -> None:
    """Skip the next `count` ids: they may have been assigned to rows that a power loss erased."""
    for statement in (
        "INSERT INTO sqlite_sequence (name, seq) SELECT 'instances', 0 "
        "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'instances')",
        "UPDATE sqlite_sequence SET seq = seq + :count WHERE name = 'instances'",
    ):
        transaction.execute(text(statement), {"count": count})


def keys_with_rows(transaction: Transaction, storage_keys: Iterable[str]) -> set[str]:
    """Return the storage keys that belong to a row. Reads every row."""
    return {
        key
        for chunk in chunks(storage_keys)
        for (key,) in transaction.execute(select(instances.c.storage_key).where(instances.c.storage_key.in_(chunk)))
    }


def replace(transaction: Transaction, old: InstanceStorageInfo, new: InstanceStorageInfo) -> InstanceStorageInfo:
    """Replace the pending `old` by `new`. The stored object of `old` may be reclaimed once no job needs it."""
    release(transaction, [old.instance_id], new.received_at)
    added = insert(transaction, new)
    transaction.execute(
        update(instances)
        .where(instances.c.instance_id == old.instance_id)
        .values(replaced_by=added.instance_id, outcome=InstanceOutcome.REPLACED.value)
    )
    return added


def pending_after(transaction: Transaction, instance_id: int, limit: int, ae_title: str) -> list[InstanceStorageInfo]:
    """Return pending instances of an AE title numbered above `instance_id`, in the order of arrival."""
    return read_at_once(transaction, _PENDING_AFTER, after=instance_id, ae_title=ae_title, limit=limit)


def arrived_late(transaction: Transaction, ae_title: str, instance_id: int, at: datetime) -> int | None:
    """Return the id of the newest pending instance of an AE title that was received at `at` or earlier, or None.

    Reads only the next few instances after `instance_id`: an instance gets its time shortly before its id, so late rows
    are among them.
    """
    following = (
        select(instances.c.instance_id, instances.c.received_at)
        .where(instances.c.instance_id > instance_id, IS_PENDING, instances.c.ae_title == ae_title)
        .order_by(instances.c.instance_id)
        .limit(CHUNK)
        .subquery()
    )
    query = select(func.max(following.c.instance_id)).where(following.c.received_at <= at)
    found: int | None = transaction.execute(query).scalar()
    return found


def arrived_after(transaction: Transaction, instance_id: int, limit: int) -> list[InstanceStorageInfo]:
    """Return received instances in any state numbered above `instance_id`, in the order of arrival."""
    return read_at_once(transaction, _ARRIVED_AFTER, after=instance_id, limit=limit)


def newest_after(transaction: Transaction, instance_id: int, limit: int) -> dict[str, int]:
    """Return the number of the newest among the `limit` received instances after `instance_id`, by AE title."""
    rows = transaction.execute(_NEWEST_AFTER, {"after": instance_id, "limit": limit})
    return {row[0]: row[1] for row in rows}


def last_number(transaction: Transaction) -> int:
    """Return the id of the newest instance in any state; 0 if there are none."""
    return transaction.execute(select(func.max(instances.c.instance_id))).scalar() or 0


def resolve_pending(transaction: Transaction, instance_ids: Sequence[int]) -> dict[int, int]:
    """Map each id to the id of a pending instance: the same id, or that of the instance that replaced it last.

    Ids that refer to no pending instance are omitted.
    """
    candidates = {instance_id: instance_id for instance_id in instance_ids}
    result: dict[int, int] = {}
    while candidates:
        states = _states(transaction, list(candidates.values()))
        newer: dict[int, int] = {}
        for instance_id, candidate in candidates.items():
            state, replaced_by = states.get(candidate, ("", None))
            if state == InstanceState.PENDING.value:
                result[instance_id] = candidate
            elif replaced_by is not None:
                newer[instance_id] = replaced_by
        candidates = newer
    return result


def release(transaction: Transaction, instance_ids: Iterable[int], at: datetime) -> None:
    """Change pending instances to released."""
    _set_state(transaction, instance_ids, at, InstanceState.PENDING, {"state": InstanceState.RELEASED.value})


def quarantine(transaction: Transaction, instance_id: int, reason: str, at: datetime) -> bool:
    """Change a pending instance to quarantined, with the reason (no patient data); return whether it was pending."""
    result = transaction.execute(
        update(instances)
        .where(instances.c.instance_id == instance_id, IS_PENDING)
        .values(state=InstanceState.QUARANTINED.value, reason=reason, changed_at=at)
    )
    return result.rowcount == 1


def reclaimable(transaction: Transaction, instance_ids: Sequence[int], now: datetime) -> list[InstanceStorageInfo]:
    """Return the instances among `instance_ids` that are released, that no job needs, and that are not kept."""
    needed = exists().where(
        job_instances.c.instance_id == instances.c.instance_id,
        job_instances.c.job_number == jobs.c.job_number,
        jobs.c.state.not_in([state.value for state in FINISHED]),
    )
    query = select_instances().where(IS_RELEASED, ~needed, ~is_kept(now))
    found: list[InstanceStorageInfo] = []
    for chunk in chunks(instance_ids):
        found += to_instances(transaction.execute(query.where(instances.c.instance_id.in_(chunk))))
    return found


def replaced_by(transaction: Transaction, first: int, last: int) -> list[int]:
    """Return the ids of the instances that were replaced by the instances numbered `first` to `last`."""
    return list(transaction.execute(_REPLACED_BY, {"first": first, "last": last}).scalars())


def released_after(transaction: Transaction, instance_id: int, limit: int, now: datetime) -> list[int]:
    """Return ids of released, not yet reclaimed instances above `instance_id`, in order; without results to keep."""
    query = select(instances.c.instance_id).where(instances.c.instance_id > instance_id, IS_RELEASED, ~is_kept(now))
    return list(transaction.execute(query.order_by(instances.c.instance_id).limit(limit)).scalars())


def mark_reclaimed(transaction: Transaction, instance_ids: Iterable[int], at: datetime) -> None:
    """Change released instances to reclaimed, each with its outcome."""
    used = exists().where(
        job_instances.c.instance_id == instances.c.instance_id, job_instances.c.job_number == jobs.c.job_number
    )
    is_done = or_(jobs.c.state == JobState.SUBMITTED.value, jobs.c.state == JobState.SUCCEEDED.value)
    outcome = case(
        (instances.c.outcome != "", instances.c.outcome),
        (used.where(is_done), InstanceOutcome.SUBMITTED.value),
        (used, InstanceOutcome.CANCELLED.value),
        else_=InstanceOutcome.UNUSED.value,
    )
    values = {"state": InstanceState.RECLAIMED.value, "outcome": outcome}
    _set_state(transaction, instance_ids, at, InstanceState.RELEASED, values)


def count_by_state(transaction: Transaction) -> dict[tuple[str, str], int]:
    """Count the instances of each AE title and state."""
    query = select(instances.c.ae_title, instances.c.state, func.count()).group_by(
        instances.c.ae_title, instances.c.state
    )
    return {(ae_title, state): count for ae_title, state, count in transaction.execute(query)}


def of_job(
    transaction: Transaction, job_number: int, *, missing_only: bool, limit: int | None = None, after: int = -1
) -> list[tuple[int, InstanceStorageInfo]]:
    """Return a job's instances behind position `after` with their positions: all, or only those not yet uploaded."""
    query = (
        select(*COLUMNS, job_instances.c.position)
        .join(instances, instances.c.instance_id == job_instances.c.instance_id)
        .where(job_instances.c.job_number == job_number, job_instances.c.position > after)
        .order_by(job_instances.c.position)
        .limit(limit)
    )
    if missing_only:
        query = query.where(job_instances.c.uploaded.is_(False))
    rows = transaction.execute(query).all()
    return [(row.position, instance) for row, instance in zip(rows, to_instances(rows), strict=True)]


def pending_arrivals(transaction: Transaction, sop_instance_uids: Iterable[str]) -> dict[tuple[str, str], int]:
    """Return the ids of the pending instances with these SOP Instance UIDs, by AE title and UID."""
    query = select(instances.c.ae_title, instances.c.sop_instance_uid, instances.c.instance_id).where(IS_PENDING)
    return {
        (ae_title, uid): instance_id
        for chunk in chunks(sop_instance_uids)
        for ae_title, uid, instance_id in transaction.execute(query.where(instances.c.sop_instance_uid.in_(chunk)))
    }


def requeue(transaction: Transaction, instance_ids: Iterable[int], at: datetime) -> None:
    """Change quarantined instances to pending."""
    values = {"state": InstanceState.PENDING.value, "reason": ""}
    _set_state(transaction, instance_ids, at, InstanceState.QUARANTINED, values)


def discard(transaction: Transaction, instance_ids: Sequence[int], at: datetime) -> None:
    """Change quarantined or pending instances to released, with the outcome `discarded`."""
    values = {"state": InstanceState.RELEASED.value, "outcome": InstanceOutcome.DISCARDED.value}
    for expected in (InstanceState.QUARANTINED, InstanceState.PENDING):
        _set_state(transaction, instance_ids, at, expected, values)


def is_kept(now: datetime) -> ColumnElement[bool]:
    """Return the condition of a result that is kept for operators although no job needs it."""
    return instances.c.keep_until.is_not(None) & (instances.c.keep_until > now)


def _states(transaction: Transaction, instance_ids: list[int]) -> dict[int, tuple[str, int | None]]:
    columns = (instances.c.instance_id, instances.c.state, instances.c.replaced_by)
    found: dict[int, tuple[str, int | None]] = {}
    for chunk in chunks(instance_ids):
        for instance_id, state, replaced_by in transaction.execute(
            select(*columns).where(instances.c.instance_id.in_(chunk))
        ):
            found[instance_id] = (state, replaced_by)
    return found


def _set_state(
    transaction: Transaction,
    instance_ids: Iterable[int],
    at: datetime,
    expected: InstanceState,
    values: Mapping[str, object],
) -> None:
    rows = [{"id": instance_id, "at": at} for instance_id in instance_ids]
    if rows:
        transaction.execute(
            update(instances)
            .where(instances.c.instance_id == bindparam("id"), instances.c.state == expected.value)
            .values(changed_at=bindparam("at", type_=UtcDateTime), **values),
            rows,
        )
