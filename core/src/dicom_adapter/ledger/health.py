"""The health of the service's processes and of the parts of its host at the last check.

Each process writes a row with its name, which also serves as a heartbeat. The host writes another row for each of
its parts.
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
# Age of `seen_at` above which a row is out of date: processes write every five seconds, but the ledger may be busy
STALE_AFTER = timedelta(seconds=30)


def receiver_names(count: int) -> tuple[str, ...]:
    """Return the names of the receivers, in the order of their numbers."""
    return tuple(f"{RECEIVER} {number}" for number in range(1, count + 1)) if count > 1 else (RECEIVER,)


def processes(receivers: int) -> tuple[str, ...]:
    """Return the names of all processes of a service with this number of receivers."""
    return (SERVICE, HOST, *receiver_names(receivers))


class PartState(str, Enum):
    """The state of a part."""

    OK = "ok"
    DEGRADED = "degraded"  # the part works, but an operator should check it
    FAILING = "failing"  # the work of the part fails repeatedly
    HANGS = "hangs"  # the work of the part has exceeded its time limit
    STOPPED = "stopped"  # the part was stopped in an orderly way, together with the service


@frozen(kw_only=True)
class PartHealth:
    """The health of a process or of a part of the host."""

    part: str
    state: PartState
    reason: str = field(
        default="", repr=False
    )  # why the state is not ok, or why a working platform starts no job; without patient data
    since: datetime  # UTC; time of the last change of `state`
    seen_at: datetime  # UTC; time of the last check
    pid: int | None = None  # PID of a process; None for a part of the host


def save(transaction: Transaction, parts: Iterable[PartHealth]) -> None:
    """Insert or update the health of these parts."""
    for part in parts:
        values = asdict(part) | {"state": part.state.value}
        result = transaction.execute(update(health).where(health.c.part == part.part).values(**values))
        if result.rowcount == 0:
            transaction.execute(health.insert().values(**values))


def load(transaction: Transaction) -> dict[str, PartHealth]:
    """Return the health of every part, by name."""
    rows = transaction.execute(select(health).order_by(health.c.part))
    return {row.part: PartHealth(**{**row._mapping, "state": PartState(row.state)}) for row in rows}


def delete_old_parts(transaction: Transaction, receivers: int) -> None:
    """Delete the rows of an earlier host's parts, and of receivers that no longer exist."""
    transaction.execute(delete(health).where(health.c.part.not_in(processes(receivers))))
