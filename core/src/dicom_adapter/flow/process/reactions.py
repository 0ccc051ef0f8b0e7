"""How a lane reacts to the outcome of a turn: one table, and the values in it. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any

from attrs import frozen

from dicom_adapter.api.errors import Retriable, Unprocessable
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.flow.process.requests import ProcessorRequest, RequestFailed
from dicom_adapter.flow.process.turn import Superseded, Unavailable, Unreadable

# Rows: how a turn ended. Columns: why the processor was called. Cells: what the lane does next; "-" cannot happen.
TABLE = """
outcome            build   instance          timer             notice    request
committed          none    progress          progress          progress  none
unprocessable      -       quarantine        -                 -         -
unreadable         fail    wait-for-object   wait-for-object   wait      wait
unavailable        wait    wait              wait              wait      wait
superseded         -       rebuild           rebuild           rebuild   rebuild
superseded-again   -       fail              fail              fail      fail
request-waits      -       -                 -                 wait      none
request-failed     -       -                 -                 fail      none
crashed            fail    fail              fail              rebuild   rebuild
"""


class TurnKind(Enum):
    """Why the processor is called."""

    BUILD = "build"  # it is constructed and opened; this is not committed
    INSTANCE = "instance"  # an instance has arrived
    TIMER = "timer"  # a timer that it has set is due
    NOTICE = "notice"  # the host notifies it; nobody waits for the answer
    REQUEST = "request"  # a plugin's thread waits for the answer


class TurnOutcome(Enum):
    """How the turn ended."""

    COMMITTED = "committed"
    UNPROCESSABLE = "unprocessable"  # the processor can never handle this instance
    UNREADABLE = "unreadable"  # the storage backend failed to read a stored object
    UNAVAILABLE = "unavailable"  # ledger or storage backend failed, or the processor lacks something that it needs
    SUPERSEDED = "superseded"  # the turn decided without a newer arrival that changes the decision
    SUPERSEDED_AGAIN = "superseded-again"  # the same arrival superseded a turn before: the processor ignores it
    REQUEST_WAITS = "request-waits"  # the requested function raised Retriable
    REQUEST_FAILED = "request-failed"  # the requested function raised something else
    CRASHED = "crashed"  # the processor raised, or asked for something that cannot be committed


class Reaction(Enum):
    """What the lane does next. All but the first three discard the processor and build a new one."""

    NONE = "none"
    PROGRESS = "progress"  # failures of this turn, or of earlier ones, are over
    QUARANTINE = "quarantine"  # the instance; the processor stays
    REBUILD = "rebuild"  # at once; it does not count as a failure
    WAIT = "wait"  # and try again, for as long as the outage lasts; it does not count as a failure
    WAIT_FOR_OBJECT = "wait-for-object"  # as above; quarantine the instance if other stored objects can be read
    FAIL = "fail"  # count the failure; after too many, quarantine the instance or stop the lane


def _parse(table: str) -> dict[tuple[TurnOutcome, TurnKind], Reaction]:
    heading, *rows = (line.split() for line in table.strip().splitlines())
    kinds = [TurnKind(name) for name in heading[1:]]
    return {
        (TurnOutcome(row[0]), kind): Reaction(cell)
        for row in rows
        for kind, cell in zip(kinds, row[1:], strict=True)
        if cell != "-"
    }


REACTIONS = _parse(TABLE)


@frozen(kw_only=True, eq=False)
class DueTurn:
    """One turn whose time has come."""

    kind: TurnKind
    when: datetime  # UTC; the time that the processor sees
    call: Callable[[], Any]
    instance: InstanceStorageInfo | None = None  # that is delivered
    request: ProcessorRequest | None = None  # that is answered
    read: int | None = None  # of a timer's turn: the last instance that the lane knows (see `Turn.commit`)

    @property
    def instance_id(self) -> int | None:
        """The id of the delivered instance; None for any other kind of turn."""
        return None if self.instance is None else self.instance.instance_id


@frozen(eq=False)
class TurnResult:
    """How a turn ended, with what it returned or raised."""

    outcome: TurnOutcome
    answer: Any = None
    error: BaseException | None = None


def classify(kind: TurnKind, error: BaseException, superseded_by: int) -> TurnOutcome:
    """Return the outcome of a turn that raised; `superseded_by`: the arrival that superseded an earlier turn last."""
    if isinstance(error, RequestFailed):
        return TurnOutcome.REQUEST_WAITS if isinstance(error.reason, Retriable) else TurnOutcome.REQUEST_FAILED
    if isinstance(error, Superseded):
        return TurnOutcome.SUPERSEDED_AGAIN if error.by == superseded_by else TurnOutcome.SUPERSEDED
    if isinstance(error, Unprocessable) and kind is TurnKind.INSTANCE:
        return TurnOutcome.UNPROCESSABLE
    if isinstance(error, Unreadable):
        return TurnOutcome.UNREADABLE
    if isinstance(error, (Unavailable, Retriable)):
        return TurnOutcome.UNAVAILABLE
    return TurnOutcome.CRASHED
