"""What the ledger knows of the service's health: how its processes and the parts of its host were when last looked at.

Each process writes its own rows: one under the name of the process, with which it also says that it is alive, and the
host one for each of its parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum

from attrs import asdict, field, frozen
from sqlalchemy import delete, select, update

from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import health

SERVICE, HOST, RECEIVER = "service", "host", "receiver"
STALE_AFTER = timedelta(seconds=30)  # without a new look: processes write every five, and a ledger may be busy


def receiver_names(count: int) -> tuple[str, ...]:
    """What the receivers are called, in the order of their numbers."""
    return tuple(f"{RECEIVER} {number}" for number in range(1, count + 1)) if count > 1 else (RECEIVER,)


def processes(receivers: int) -> tuple[str, ...]:
    """All processes of a service with so many receivers."""
    return (SERVICE, HOST, *receiver_names(receivers))


class PartState(str, Enum):
    """How a part is."""

    OK = "ok"
    DEGRADED = "degraded"  # it works, and somebody should look at it
    FAILING = "failing"  # what it does fails again and again
    HANGS = "hangs"  # what it does has not come to an end in time
    STOPPED = "stopped"  # in order, with the service


@frozen(kw_only=True)
class PartHealth:
    """A process, or a part of the host."""

    part: str
    state: PartState
    reason: str = field(default="", repr=False)  # of a state that is not ok; without patient data
    since: datetime  # of this state, UTC
    seen_at: datetime  # when it was last looked at, UTC


def save(transaction: Transaction, parts: Iterable[PartHealth]) -> None:
    """Write how these parts are."""
    for part in parts:
        values = asdict(part) | {"state": part.state.value}
        result = transaction.execute(update(health).where(health.c.part == part.part).values(**values))
        if result.rowcount == 0:
            transaction.execute(health.insert().values(**values))


def load(transaction: Transaction) -> dict[str, PartHealth]:
    """Everything that was written, by name."""
    rows = transaction.execute(select(health).order_by(health.c.part))
    return {row.part: PartHealth(**{**row._mapping, "state": PartState(row.state)}) for row in rows}


def forget_parts(transaction: Transaction, receivers: int) -> None:
    """Forget the parts of an earlier host, which the next one may not have, and receivers beyond so many."""
    transaction.execute(delete(health).where(health.c.part.not_in(processes(receivers))))
