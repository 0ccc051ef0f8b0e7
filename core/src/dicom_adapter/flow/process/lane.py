"""Step 4 (`process`) of the flow: the lane of an AE title runs the turns of its processor one at a time.

A lane has one processor, and only one thread at a time runs its turns. A turn is committed when it returns. When a turn
raises, the table in `reactions` determines what happens next. Usually the processor is discarded, a new one is built,
and all pending instances are delivered again: a processor's memory is a cache of the ledger.

A turn has its own time: the `received_at` of an instance, the `when` of a timer or request. After a restart, missed
turns run in the order of these times, so that the processor makes the same decisions as without the restart. Times in
the future, after the clock was put back, delay no turn: see `inbox.LaneStart` and `timers.Alarm`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import structlog
from attrs import field, frozen

from dicom_adapter.api.errors import LedgerError, Refused, Retriable
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.flow.process.deliveries import take_delivery
from dicom_adapter.flow.process.failures import (
    BEFORE_ALL_INSTANCES,
    Failure,
    Outage,
    Stuck,
    can_read_another,
    failed_build,
    failed_turn,
    is_past,
)
from dicom_adapter.flow.process.inbox import Inbox, LaneStart
from dicom_adapter.flow.process.lane_reports import LaneReporter
from dicom_adapter.flow.process.quarantine import hold
from dicom_adapter.flow.process.reactions import (
    REACTIONS,
    DueTurn,
    Reaction,
    TurnKind,
    TurnOutcome,
    TurnResult,
    classify,
)
from dicom_adapter.flow.process.requests import ProcessorRequest, RequestFailed, Requests
from dicom_adapter.flow.process.running_processor import PLUGIN_FAILURES, RunningProcessor
from dicom_adapter.flow.process.settings import LaneSettings
from dicom_adapter.flow.process.timers import Alarm
from dicom_adapter.flow.process.turn import Committed, Required, Superseded, Unreadable
from dicom_adapter.ledger import events
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.workers import SLICE_SECONDS

log = structlog.get_logger("dicom_adapter.process")

TRIES_FOR_ONE_INSTANCE = 3  # number of consecutive failures of one instance after which it is quarantined
FAILURES_TO_STOP = 5  # number of failed turns without progress after which the lane is stopped
FIRST_PAUSE = timedelta(seconds=1)  # pause before a processor is rebuilt; doubles with every failure
SHOWN_GROUPS = 50  # number of waiting groups that operators see

T = TypeVar("T")


@frozen(eq=False)
class _Renewal:
    """A request to build a new processor."""

    settings: LaneSettings | None = None  # other settings; None: the same settings as before
    done: Future[None] = field(factory=Future)


class Lane:
    """The queue of one AE title. A worker thread, or a test, calls `step`.

    `notify_arrival`, `ask`, `restart`, `exchange` and `refuse_requests` are thread-safe. Only one thread at a time may
    use all other methods.
    """

    def __init__(self, settings: LaneSettings, resources: Resources, on_commit: Callable[[Committed], None]) -> None:
        self.ae_title = settings.ae_title
        self.state = LaneState.RUNNING
        self.reason = ""  # reason why the lane is stopped
        self.since = resources.clock.now()  # time of the last change of `state`
        self.turns = 0  # number of turns so far
        self._settings = settings
        self._resources, self._clock = resources, resources.clock
        self._on_commit = on_commit
        self._requests = Requests(settings.ae_title, resources.clock)
        self._renewals: deque[_Renewal] = deque()
        self._failure: Failure | None = None
        self._stuck: Stuck | None = None
        self._outage: Outage | None = None
        self._paused_until: datetime | None = None
        self._superseded_by = BEFORE_ALL_INSTANCES  # id of the arrival that last superseded a turn
        self._start = LaneStart(self.since)
        self._forget()
        self._reporter = LaneReporter(self.describe(), resources)

    def _forget(self) -> None:
        """Return to the initial state: no processor, nothing delivered."""
        self._running: RunningProcessor | None = None
        self._inbox = Inbox(self.ae_title, self._resources, self._start)

    # --- called by other threads ------------------------------------------------------------------------------------

    def notify_arrival(self) -> None:
        """Record that instances or reports have arrived."""
        self._inbox.has_new = True  # if the inbox was just replaced, the new inbox reads everything anyway

    def ask(self, function: Callable[[Any], T], *, is_notice: bool = False) -> Future[T]:
        """Call `function` with the processor, as a turn. With `is_notice`, no caller waits; an error fails the turn."""
        return self._requests.add(function, is_notice=is_notice)

    def restart(self) -> None:
        """Request a new processor, and clear all failures."""
        self._renewals.append(_Renewal())

    def exchange(self, settings: LaneSettings) -> Future[None]:
        """Request a new processor with other settings. Return a future that is done when the settings are in use."""
        renewal = _Renewal(settings)
        self._renewals.append(renewal)
        return renewal.done

    def refuse_requests(self) -> None:
        """Refuse all requests that have not begun, and all later requests."""
        self._requests.close()

    # --- what to do next --------------------------------------------------------------------------------------------

    def step(self) -> datetime | None:
        """Run the turns that are due, for `SLICE_SECONDS` at most. Return the time of the next call."""
        end = time.monotonic() + SLICE_SECONDS
        while self._run_next():
            self._reporter.report(self.state, self.since, self.turns, self.describe)
            if time.monotonic() >= end:
                return self._clock.now()
        self._reporter.report(self.state, self.since, self.turns, self.describe)
        times = [self._next_turn_at(), self._reporter.next_report_at(self.turns)]
        return min((when for when in times if when is not None), default=None)

    def _run_next(self) -> bool:
        """Run the next turn if one is due. Return whether one was due."""
        while self._renewals:
            self._renew(self._renewals[0])
            self._renewals.popleft()
        if self.state is LaneState.STOPPED:
            self._requests.refuse_all(Refused(f"AE title '{self.ae_title}' is stopped: {self.reason}"))
        if self.state is LaneState.STOPPED or self._is_paused():
            return False
        turn = self._next_turn(self._running)
        if turn is None:
            self._outage = None  # no turn is retried any more
            return False
        self._react(turn, self._attempt(turn))
        return True

    def _next_turn(self, running: RunningProcessor | None) -> DueTurn | None:
        if running is None:
            return DueTurn(kind=TurnKind.BUILD, when=self._clock.now(), call=self._build)
        due = self._first_due(running)  # before arrivals are read: timers that become due later must wait
        self._inbox.refill(None if due is None else due.due)
        self._log_caught_up()
        arrived_at = self._inbox.first_place()
        if arrived_at is not None and (due is None or arrived_at <= due.due):
            return take_delivery(self._inbox, running)
        if isinstance(due, ProcessorRequest):
            return self._request_turn(running)
        return None if due is None else self._timer_turn(running.timers.pop())

    def _first_due(self, running: RunningProcessor) -> Alarm | ProcessorRequest | None:
        """Return the earliest timer or request that is due; None if none is due."""
        first = self._first(running)
        return first if first is not None and first.due <= self._clock.now() else None

    def _first(self, running: RunningProcessor) -> Alarm | ProcessorRequest | None:
        timer, request = running.timers.first(), self._requests.first()
        if timer is None or request is None:
            return timer or request
        return timer if timer.due <= request.due else request

    def _next_turn_at(self) -> datetime | None:
        """Return when the next turn is due if no instance arrives; None if no turn is planned."""
        if self._renewals:
            return self._clock.now()
        if self.state is LaneState.STOPPED:
            return None if self._requests.first() is None else self._clock.now()
        if self._paused_until is not None:
            return self._paused_until
        if self._running is None or self._inbox.has_new or self._inbox.first() is not None:
            return self._clock.now()
        first = self._first(self._running)
        return None if first is None else first.due

    def _is_paused(self) -> bool:
        if self._paused_until is not None and self._paused_until <= self._clock.now():
            self._paused_until = None
        return self._paused_until is not None

    def _log_caught_up(self) -> None:
        if (seconds := self._inbox.caught_up()) is not None:
            log.info("lane_caught_up", ae_title=self.ae_title, turns=self.turns, seconds=round(seconds, 3))

    # --- turns ------------------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self._running = RunningProcessor(self._settings, self._resources)
        self._running.open(self._clock.now())

    def _timer_turn(self, alarm: Alarm) -> DueTurn:
        assert alarm.callback is not None  # `first` skips cancelled alarms
        # An arrival supersedes a timer's turn only once: after that, the lane must make progress in any case.
        required = Required(max(self._inbox.seen, self._superseded_by), alarm.due)
        return DueTurn(kind=TurnKind.TIMER, when=alarm.when, call=alarm.callback, required=required)

    def _request_turn(self, running: RunningProcessor) -> DueTurn | None:
        request = self._requests.pop()
        if request is None:  # it was cancelled
            return None
        kind = TurnKind.NOTICE if request.is_notice else TurnKind.REQUEST
        return DueTurn(kind=kind, when=request.when, call=partial(request.call, running.processor), request=request)

    def _attempt(self, turn: DueTurn) -> TurnResult:
        """Run the turn and commit its result. Errors of the plugin and the ledger are returned, not raised."""
        try:
            if turn.kind is TurnKind.BUILD:
                return TurnResult(TurnOutcome.COMMITTED, turn.call())
            assert self._running is not None  # because an earlier turn has built it
            self.turns += 1
            answer, committed = self._running.run_turn(turn.when, turn.call, turn.required)
        except PLUGIN_FAILURES as error:
            return TurnResult(classify(turn.kind, error, self._superseded_by), error=error)
        if committed is not None:
            self._on_commit(committed)
        return TurnResult(TurnOutcome.COMMITTED, answer)

    def _react(self, turn: DueTurn, result: TurnResult) -> None:
        """Do what the table of reactions defines, then return the result of a request to its caller."""
        reaction = REACTIONS[result.outcome, turn.kind]
        if turn.request is not None and result.error is not None:
            self._fail_request(turn.request, result.outcome, result.error)
        error = result.error.reason if isinstance(result.error, RequestFailed) else result.error
        if reaction is Reaction.PROGRESS:
            self._note_progress(turn.instance_id)
        elif reaction is Reaction.QUARANTINE:
            assert turn.instance is not None  # only the turn of an instance has this outcome
            self._quarantine(turn.instance, str(error))
        elif error is not None and reaction is not Reaction.NONE:
            self._recover(turn, reaction, error)
        if turn.request is not None and result.error is None:
            turn.request.resolve(result.answer)

    def _recover(self, turn: DueTurn, reaction: Reaction, error: BaseException) -> None:
        """Discard the processor, then continue as the table of reactions defines."""
        self._discard_processor()
        if reaction is Reaction.REBUILD:
            self._superseded_by = error.by if isinstance(error, Superseded) else self._superseded_by
        elif reaction is Reaction.WAIT:
            self._wait(error, BEFORE_ALL_INSTANCES if turn.kind is TurnKind.BUILD else turn.instance_id)
        elif reaction is Reaction.WAIT_FOR_OBJECT:
            assert isinstance(error, Unreadable)  # only turns with this error have this reaction
            self._wait_for_object(error, turn.instance_id)
        elif turn.kind is TurnKind.BUILD:
            self._fail(failed_build(self._failure, error), None)
        else:
            self._fail(failed_turn(self._failure, error, turn.instance_id), turn.instance)

    def _fail_request(self, request: ProcessorRequest, outcome: TurnOutcome, error: BaseException) -> None:
        if isinstance(error, RequestFailed):
            request.fail(error.reason)
        elif outcome is TurnOutcome.SUPERSEDED:
            self._requests.put_back(request)
        elif outcome in (TurnOutcome.UNAVAILABLE, TurnOutcome.UNREADABLE):
            request.fail(Retriable("the ledger cannot be written now; nothing was changed, retry later"))
        else:
            request.fail(error)

    # --- failures ---------------------------------------------------------------------------------------------------

    def _note_progress(self, instance_id: int | None) -> None:
        """Clear a failure if the turn that failed, or a later turn, has succeeded."""
        if self._outage is not None and is_past(self._outage.instance_id, instance_id):
            self._outage = None
        if self._failure is not None and is_past(self._failure.instance_id, instance_id):
            self._failure = None
        if self._stuck is not None and is_past(self._stuck.handled, instance_id):
            self._stuck = None

    def _wait(self, failure: BaseException, instance_id: int | None = None) -> None:
        """Pause, then retry without a limit, because the ledger or the storage backend is unavailable."""
        self._paused_until = self._clock.now() + FIRST_PAUSE
        self._outage = Outage.after(self._outage, failure, instance_id)
        error = type(failure.__cause__ or failure).__name__
        log.error("turn_not_committed", ae_title=self.ae_title, error=error, reason=self._outage.error)

    def _wait_for_object(self, failure: Unreadable, handled: int | None) -> None:
        """Wait as `_wait` does, but quarantine an instance that fails repeatedly while others can be read."""
        self._wait(failure, handled)
        instance, last = failure.instance, self._stuck
        before = last.tries if last is not None and last.instance_id == instance.instance_id else 0
        tries = before + 1 if can_read_another(self._resources.storage, instance.storage_key) else 0
        reason = f"waits for the storage backend: {failure}"
        self._stuck = Stuck(instance_id=instance.instance_id, handled=handled, tries=tries, reason=reason)
        if tries >= TRIES_FOR_ONE_INSTANCE:
            self._quarantine(instance, f"{failure}: {tries} tries, while other stored objects can be read")

    def _fail(self, failure: Failure, instance: InstanceStorageInfo | None) -> None:
        """Count the failure. Quarantine the instance, stop the lane, or pause before the next attempt."""
        self._failure = failure
        log.error("processor_failed", ae_title=self.ae_title, failures=failure.count, error=failure.reason)
        try:
            self._record("processor_failed", error=failure.reason)
        except LedgerError as outage:
            self._wait(outage)
            return
        if instance is not None and failure.same_instance >= TRIES_FOR_ONE_INSTANCE:
            self._failure = None
            self._quarantine(instance, f"the processor failed on it {failure.same_instance} times: {failure.reason}")
        elif failure.count >= FAILURES_TO_STOP:
            self._stop(f"its processor failed {failure.count} times in a row: {failure.reason}")
        else:
            self._paused_until = self._clock.now() + FIRST_PAUSE * 2 ** (failure.count - 1)

    def _discard_processor(self) -> None:
        """Close the processor. The next processor receives all pending instances."""
        if self._running is not None:
            self._running.close()
        self._forget()

    def _stop(self, reason: str) -> None:
        try:
            now = self._record("lane_stopped", reason=reason)
        except LedgerError as failure:
            self._wait(failure)
            return
        self.state, self.reason, self.since = LaneState.STOPPED, reason, now
        log.error("lane_stopped", ae_title=self.ae_title, reason=reason)

    def _renew(self, renewal: _Renewal) -> None:
        """Discard the processor and clear all failures: an operator requested a restart, or changed the settings."""
        event = "lane_restarted" if renewal.settings is None else "lane_changed"
        now = self._record(event)
        if renewal.settings is not None:
            if renewal.settings.processor != self._settings.processor:
                self._requests.refuse_all(Retriable("the AE title has another processor now; nothing was changed"))
            self._settings = renewal.settings
        self._discard_processor()
        self._failure = self._stuck = self._outage = self._paused_until = None
        if self.state is LaneState.STOPPED:
            self.state, self.reason, self.since = LaneState.RUNNING, "", now
        if renewal.settings is None:
            log.info("lane_restarted", ae_title=self.ae_title)
        else:
            log.info("lane_changed", ae_title=self.ae_title)
        renewal.done.set_result(None)

    def _record(self, event: str, **detail: object) -> datetime:
        """Write an event of the lane; return its time."""
        now = self._clock.now()
        with self._resources.ledger.write() as transaction:
            events.record(transaction, [Event(at=now, event=event, ae_title=self.ae_title, detail=detail)])
        return now

    def _quarantine(self, instance: InstanceStorageInfo, reason: str) -> None:
        try:
            if not hold(self._resources.ledger, instance, reason, self._clock.now()):
                return  # a newer arrival has replaced the instance, and gets its own turn
        except LedgerError as failure:
            self._discard_processor()
            self._wait(failure)
            return
        self._stuck = None
        log.warning("instance_quarantined", ae_title=self.ae_title, instance_id=instance.instance_id, reason=reason)

    # --- for operators ----------------------------------------------------------------------------------------------

    def describe(self) -> LaneReport:
        """Return the report of the lane for receivers and operators."""
        count, shown = (0, ()) if self._running is None else self._running.waiting(SHOWN_GROUPS)
        return LaneReport(
            ae_title=self.ae_title,
            state=self.state,
            reason=self.reason or next((one.reason for one in (self._stuck, self._outage) if one), ""),
            since=self.since,
            waiting=shown,
            groups=count,
        )

    def close(self) -> None:
        """Refuse all requests and close the processor, whose state is in the ledger."""
        self._requests.close()
        self._discard_processor()
