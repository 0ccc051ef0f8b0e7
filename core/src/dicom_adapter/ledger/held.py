"""Count the instances that wait for a processor or for an operator, and the space that they use."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import frozen
from sqlalchemy import ColumnElement, exists, func, select

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import (
    IS_HELD,
    IS_PENDING,
    IS_QUARANTINED,
    IS_RELEASED,
    IS_UNFINISHED,
    instances,
    job_instances,
    jobs,
)

Sizes = Callable[[Transaction, str], "HeldBytes"]  # from an AE title
KEPT_FACTOR = 100.0  # a result is used for this multiple of the time that its query took
QUICK_SECONDS = 0.01  # a result whose query takes less time is not kept

# "+ 0": SQLite uses the index of quarantined instances, not that of all results
_IS_HELD_RESULT = (instances.c.source_job + 0).is_not(None)


@frozen(kw_only=True)
class Held:
    """Numbers of instances of an AE title that wait for its processor or for an operator."""

    pending: int = 0
    quarantined: int = 0  # without results
    results: int = 0  # quarantined results


@frozen(kw_only=True)
class HeldBytes:
    """Space that instances of an AE title use until an operator decides about them, in bytes."""

    quarantined: int  # including results
    in_jobs: int  # space of released instances that only faulted and failed jobs need

    @property
    def total(self) -> int:
        return self.quarantined + self.in_jobs


def count_held(transaction: Transaction) -> dict[str, Held]:
    """Count the pending and quarantined instances of each AE title that has any."""
    pending, quarantined = (_count(transaction, state) for state in (IS_PENDING, IS_QUARANTINED))
    results = _count(transaction, IS_QUARANTINED & _IS_HELD_RESULT) if quarantined else {}
    return {
        ae_title: Held(
            pending=pending.get(ae_title, 0),
            quarantined=quarantined.get(ae_title, 0) - results.get(ae_title, 0),
            results=results.get(ae_title, 0),
        )
        for ae_title in sorted(pending.keys() | quarantined.keys())
    }


def count_held_bytes(transaction: Transaction, ae_title: str) -> HeldBytes:
    """Return the space that instances of this AE title use until an operator decides about them."""
    members = select(job_instances.c.instance_id).join(jobs, jobs.c.job_number == job_instances.c.job_number)
    in_held = members.where(IS_HELD, jobs.c.ae_title == ae_title)
    in_unfinished = exists().where(
        job_instances.c.instance_id == instances.c.instance_id,
        job_instances.c.job_number == jobs.c.job_number,
        IS_UNFINISHED,
    )
    total = select(func.coalesce(func.sum(instances.c.size_bytes), 0))
    quarantined = total.where(IS_QUARANTINED, instances.c.ae_title == ae_title)
    of_jobs = total.where(IS_RELEASED, instances.c.instance_id.in_(in_held), ~in_unfinished)
    return HeldBytes(
        quarantined=transaction.execute(quarantined).scalar_one(), in_jobs=transaction.execute(of_jobs).scalar_one()
    )


class HeldSizes:
    """Caches the results of `count_held_bytes`, for frequent readers. Thread-safe.

    The query takes long if many large jobs are held. So its result is used for a hundred times as long as it took.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, HeldBytes]] = {}  # by AE title: end of use (monotonic), result

    def count(self, transaction: Transaction, ae_title: str) -> HeldBytes:
        """Return the space that instances of this AE title use, now or a short time ago."""
        began = time.monotonic()
        until, held = self._known.get(ae_title, (0.0, None))
        if held is None or began >= until:
            held = count_held_bytes(transaction, ae_title)
            ended = time.monotonic()
            self._known[ae_title] = ended + _kept_seconds(ended - began), held
        return held


def _kept_seconds(took: float) -> float:
    return KEPT_FACTOR * took if took >= QUICK_SECONDS else 0.0


def count_held_results(transaction: Transaction, ae_title: str) -> int:
    """Return the part of `HeldBytes.quarantined` that quarantined results use, in bytes. Reads these rows."""
    query = select(func.coalesce(func.sum(instances.c.size_bytes), 0))
    query = query.where(IS_QUARANTINED, instances.c.ae_title == ae_title, _IS_HELD_RESULT)
    return int(transaction.execute(query).scalar_one())


def _count(transaction: Transaction, condition: ColumnElement[bool]) -> dict[str, int]:
    query = select(instances.c.ae_title, func.count().label("number")).where(condition)
    return {row.ae_title: row.number for row in transaction.execute(query.group_by(instances.c.ae_title))}
