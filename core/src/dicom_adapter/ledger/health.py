"""The health of the service's processes and of the parts of its host at the last check.

Each process writes a row with its name, which also serves as a heartbeat. The host writes another row for each of
its parts.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import Enum

from attrs import field, frozen

from dicom_adapter.ledger.driver import AnyTransaction, execute, execute_many
from dicom_adapter.ledger.microseconds import to_datetime, to_microseconds

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
    # Why the state is not ok, or why a working platform starts no job; without patient data
    reason: str = field(default="", repr=False)
    since: datetime  # UTC; time of the last change of `state`
    seen_at: datetime  # UTC; time of the last check
    pid: int | None = None  # PID of a process; None for a part of the host


_SAVE = (
    "INSERT INTO health (part, state, reason, since, seen_at, pid) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (part) DO UPDATE SET state = excluded.state, reason = excluded.reason, since = excluded.since, "
    "seen_at = excluded.seen_at, pid = excluded.pid"
)
_LOAD = "SELECT part, state, reason, since, seen_at, pid FROM health ORDER BY part"
_DELETE = "DELETE FROM health WHERE part = ?"


def save(transaction: AnyTransaction, parts: Iterable[PartHealth]) -> None:
    """Insert or update the health of these parts."""
    execute_many(transaction, _SAVE, map(_row, parts))


def load(transaction: AnyTransaction) -> dict[str, PartHealth]:
    """Return the health of every part, by name."""
    return {
        part: PartHealth(
            part=part,
            state=PartState(state),
            reason=reason,
            since=to_datetime(since),
            seen_at=to_datetime(seen_at),
            pid=pid,
        )
        for part, state, reason, since, seen_at, pid in execute(transaction, _LOAD)
    }


def delete_old_parts(transaction: AnyTransaction, receivers: int) -> None:
    """Delete the rows of an earlier host's parts, and of receivers that no longer exist."""
    execute_many(transaction, _DELETE, [(part,) for part in load(transaction) if part not in processes(receivers)])


def _row(part: PartHealth) -> tuple[object, ...]:
    times = (to_microseconds(part.since), to_microseconds(part.seen_at))
    return (part.part, part.state.value, part.reason, *times, part.pid)
