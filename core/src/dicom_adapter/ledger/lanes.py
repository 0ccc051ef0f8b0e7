"""The states of lanes: the host reports to receivers and operators whether an AE title accepts instances."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from attrs import frozen
from sqlalchemy import Row, delete, select, update

from dicom_adapter.api.values import Waiting
from dicom_adapter.ledger.column_types import UtcDateTime
from dicom_adapter.ledger.connection import Transaction
from dicom_adapter.ledger.schema import LaneState, lanes


@frozen(kw_only=True)
class LaneReport:
    """The last report of the host about the lane of one AE title."""

    ae_title: str
    state: LaneState
    reason: str  # why the lane is stopped, or why it runs without progress; else ""
    since: datetime  # UTC; time of the last change of `state`
    waiting: tuple[Waiting, ...] = ()  # the groups that will be due next, not all
    groups: int = 0  # total number of waiting groups
    # `save` does not write the next two fields:
    full_reason: str = ""  # why the AE title accepts no instances although its lane runs; else ""
    restarts: int = 0  # number of restarts that operators requested


def save(transaction: Transaction, lane: LaneReport) -> None:
    """Insert or update the report of a lane."""
    values = {
        "state": lane.state.value,
        "reason": lane.reason,
        "since": lane.since,
        "waiting": {"groups": lane.groups, "first": [_to_json(waiting) for waiting in lane.waiting]},
    }
    result = transaction.execute(update(lanes).where(lanes.c.ae_title == lane.ae_title).values(**values))
    if result.rowcount == 0:
        transaction.execute(lanes.insert().values(ae_title=lane.ae_title, **values))


def load(transaction: Transaction) -> dict[str, LaneReport]:
    """Return the report of every lane, by AE title."""
    return {row.ae_title: _lane(row) for row in transaction.execute(select(lanes))}


def stopped_and_full(transaction: Transaction) -> tuple[dict[str, str], dict[str, str]]:
    """Return two mappings of AE titles to reasons: stopped lanes, and AE titles that are full.

    A full AE title accepts no instances until an operator frees space.
    """
    rows = transaction.execute(_STOPPED_OR_FULL).all()
    stopped = {ae_title: reason for ae_title, state, reason, _full in rows if state == LaneState.STOPPED.value}
    return stopped, {ae_title: full for ae_title, _state, _reason, full in rows if full}


def stopped(transaction: Transaction) -> dict[str, str]:
    """Return the AE titles whose lanes are stopped, with the reasons."""
    return stopped_and_full(transaction)[0]


def full(transaction: Transaction) -> dict[str, str]:
    """Return the AE titles that are full until an operator frees space, with the reasons."""
    return stopped_and_full(transaction)[1]


def set_full(transaction: Transaction, ae_title: str, reason: str) -> None:
    """Record why an AE title is full until an operator frees space; "" if it is not full."""
    transaction.execute(update(lanes).where(lanes.c.ae_title == ae_title).values(full=reason))


def request_restart(transaction: Transaction, ae_title: str) -> None:
    """Request that the host restarts a lane: a new processor receives every pending instance of the AE title."""
    transaction.execute(update(lanes).where(lanes.c.ae_title == ae_title).values(restarts=lanes.c.restarts + 1))


def restarts(transaction: Transaction) -> dict[str, int]:
    """Return how often the restart of each lane was requested."""
    return {row.ae_title: row.restarts for row in transaction.execute(select(lanes.c.ae_title, lanes.c.restarts))}


def delete_others(transaction: Transaction, ae_titles: Sequence[str]) -> None:
    """Delete the lanes of all other AE titles."""
    transaction.execute(delete(lanes).where(lanes.c.ae_title.not_in(ae_titles)))


def _lane(row: Row[Any]) -> LaneReport:
    return LaneReport(
        ae_title=row.ae_title,
        state=LaneState(row.state),
        reason=row.reason,
        since=row.since,
        waiting=tuple(_from_json(entry) for entry in row.waiting["first"]),
        groups=row.waiting["groups"],
        full_reason=row.full,
        restarts=row.restarts,
    )


_TIME = UtcDateTime()
_STOPPED_OR_FULL = select(lanes.c.ae_title, lanes.c.state, lanes.c.reason, lanes.c.full).where(
    (lanes.c.state == LaneState.STOPPED.value) | (lanes.c.full != "")
)


def _to_json(waiting: Waiting) -> list[object]:
    entry = [waiting.label, waiting.instance_count, _TIME.process_bind_param(waiting.until, None)]
    return [*entry, waiting.problem] if waiting.problem else entry


def _from_json(entry: list[object]) -> Waiting:
    label, count, until, *problem = entry
    assert isinstance(count, int)
    assert until is None or isinstance(until, int)
    return Waiting(
        label=str(label),
        instance_count=count,
        until=_TIME.process_result_value(until, None),
        problem="".join(map(str, problem)),
    )
