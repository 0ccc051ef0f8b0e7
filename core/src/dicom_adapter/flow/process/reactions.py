"""Step 4 (`process`) of the flow: the table of the reactions of a lane to the outcomes of turns, and its values."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import Any

from attrs import frozen

from dicom_adapter.api.errors import Retriable, Unprocessable, reports_no_resources
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.flow.process.requests import ProcessorRequest, RequestFailed
from dicom_adapter.flow.process.turn import Required, Superseded, Unavailable, Unreadable

# A report that succeeds clears no failure: the turn that failed may be a later timer.
# Rows: `TurnOutcome`. Columns: `TurnKind`. Cells: `Reaction`; "-" marks a combination that cannot happen.
TABLE = """
outcome            build   instance          report            timer             notice    request
committed          none    progress          none              progress          progress  none
unprocessable      -       quarantine        -                 -                 -         -
unreadable         fail    wait-for-object   wait-for-object   wait-for-object   wait      wait
unavailable        wait    wait              wait              wait              wait      wait
superseded         -       rebuild           rebuild           rebuild           rebuild   rebuild
superseded-again   -       fail              fail              fail              fail      fail
request-retriable  -       -                 -                 -                 wait      none
request-failed     -       -                 -                 -                 fail      none
crashed            fail    fail              fail              fail              rebuild   rebuild
"""


class TurnKind(Enum):
    """The reason why the processor is called."""

    BUILD = "build"  # the processor is constructed and opened; nothing is committed
    INSTANCE = "instance"  # an instance has arrived
    REPORT = "report"  # an association has ended or failed, or an operator expects no more instances
    TIMER = "timer"  # a timer of the processor is due
    NOTICE = "notice"  # the host notifies the processor; no caller waits for the result
    REQUEST = "request"  # a thread of a plugin waits for the result


class TurnOutcome(Enum):
    """The outcome of a turn."""

    COMMITTED = "committed"
    UNPROCESSABLE = "unprocessable"  # the processor can never handle this instance
    UNREADABLE = "unreadable"  # the storage backend failed to read a stored object
    UNAVAILABLE = "unavailable"  # the ledger or the storage backend failed, or the processor raised Retriable
    SUPERSEDED = "superseded"  # a newer arrival, which the processor has not seen, may change its decision
    # The arrival has superseded an earlier turn, too: the processor has received the arrival, and does not use it.
    SUPERSEDED_AGAIN = "superseded-again"
    REQUEST_RETRIABLE = "request-retriable"  # the requested function raised Retriable
    REQUEST_FAILED = "request-failed"  # the requested function raised another error
    CRASHED = "crashed"  # the processor raised an error, or its requests cannot be committed


class Reaction(Enum):
    """The next action of the lane. All reactions but the first three discard the processor and build a new one."""

    NONE = "none"
    PROGRESS = "progress"  # clear earlier failures of this turn
    QUARANTINE = "quarantine"  # quarantine the instance, and keep the processor
    REBUILD = "rebuild"  # build the new processor immediately; this does not count as a failure
    WAIT = "wait"  # pause, then retry without a limit; this does not count as a failure
    WAIT_FOR_OBJECT = "wait-for-object"  # like WAIT, but quarantine the instance if other stored objects can be read
    FAIL = "fail"  # count the failure; after too many failures, quarantine the instance or stop the lane


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
    """A turn that is due."""

    kind: TurnKind
    when: datetime  # time of the turn in UTC, as the processor's `now` returns it
    call: Callable[[], Any]  # the call of the processor
    instance: InstanceStorageInfo | None = None  # the delivered instance
    request: ProcessorRequest | None = None  # the request or notice
    required: Required | None = None  # for a timer: the instances that the processor must have seen

    @property
    def instance_id(self) -> int | None:
        """The id of the delivered instance; None for any other kind of turn."""
        return None if self.instance is None else self.instance.instance_id


@frozen(eq=False)
class TurnResult:
    """The outcome of a turn, with its result or error."""

    outcome: TurnOutcome
    answer: Any = None  # result of the call, for the caller of a request
    error: BaseException | None = None  # None if the turn was committed


def classify(kind: TurnKind, error: BaseException, superseded_by: int) -> TurnOutcome:
    """Return the outcome of a turn that raised `error`.

    `superseded_by` is the id of the arrival that last superseded a turn of this lane.
    """
    if isinstance(error, RequestFailed):
        is_retriable = isinstance(error.reason, Retriable) or reports_no_resources(error.reason)
        return TurnOutcome.REQUEST_RETRIABLE if is_retriable else TurnOutcome.REQUEST_FAILED
    if isinstance(error, Superseded):
        return TurnOutcome.SUPERSEDED_AGAIN if error.by == superseded_by else TurnOutcome.SUPERSEDED
    if isinstance(error, Unprocessable) and kind is TurnKind.INSTANCE:
        return TurnOutcome.UNPROCESSABLE
    if isinstance(error, Unreadable):
        return TurnOutcome.UNREADABLE
    if isinstance(error, (Unavailable, Retriable)) or reports_no_resources(error):
        return TurnOutcome.UNAVAILABLE
    return TurnOutcome.CRASHED
