"""Step 4: the lane of an AE title gives its instances and timers to its processor, turn by turn.

One lane has one processor and one thread at a time. What a turn asked for is committed when it returns. When it raises,
the processor is thrown away, another is built, and everything that is still pending is delivered again: a processor's
memory is a cache of the ledger.

A turn happens at a time of its own: an instance's `received_at`, a timer's `when`. Turns that have to be made up for,
after a restart, are taken in the order of those times, so that they decide as they would have decided then.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import structlog
from attrs import field, frozen

from dicom_adapter.api.errors import LedgerError, Refused, Retriable, Unprocessable
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.flow.process.failures import (
    BEFORE_ALL_INSTANCES,
    Failure,
    Stuck,
    can_read_another,
    failed_build,
    failed_turn,
    is_past,
)
from dicom_adapter.flow.process.inbox import Inbox
from dicom_adapter.flow.process.quarantine import hold
from dicom_adapter.flow.process.requests import Request, RequestFailed, Requests
from dicom_adapter.flow.process.running_processor import PLUGIN_FAILURES, Incumbent
from dicom_adapter.flow.process.settings import LaneSettings
from dicom_adapter.flow.process.timers import Alarm
from dicom_adapter.flow.process.turn import Committed, Superseded, Unavailable, Unreadable
from dicom_adapter.ledger import Ledger, events
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.process")

TRIES_FOR_ONE_INSTANCE = 3  # turns in a row that one instance may spoil before it is quarantined
FAILURES_TO_STOP = 5  # failed turns without progress before the lane is stopped
FIRST_PAUSE = timedelta(seconds=1)  # before a processor is built anew; doubles with every failure
SHOWN_GROUPS = 50  # of what a processor holds back, for operators

T = TypeVar("T")


@frozen(eq=False)
class _Exchange:
    """The wish to go on with other settings."""

    settings: LaneSettings
    done: Future[None] = field(factory=Future)


class Lane:
    """Passive: `step` takes one turn if there is one. A thread, or a test, calls it."""

    def __init__(
        self,
        settings: LaneSettings,
        ledger: Ledger,
        storage: StorageBackend[Any],
        clock: Clock,
        on_commit: Callable[[Committed], None],
    ) -> None:
        self.ae_title = settings.ae_title
        self.state = LaneState.RUNNING
        self.reason = ""
        self.since = clock.now()
        self.turns = 0  # taken so far
        self.restarts_wanted = 0  # by operators so far; counted up from any one thread
        self._settings = settings
        self._exchange: _Exchange | None = None  # the last one
        self._wanted: _Exchange | None = None  # another one than the last: what is yet to be done
        self._ledger = ledger
        self._storage = storage
        self._clock = clock
        self._on_commit = on_commit
        self._failure: Failure | None = None
        self._stuck: Stuck | None = None
        self._paused_until: datetime | None = None
        self._restarts = 0
        self._superseded_by = BEFORE_ALL_INSTANCES
        self.requests = Requests(settings.ae_title, clock)
        self._forget()

    def _forget(self) -> None:
        """Back to the beginning: no processor, nothing seen."""
        self._incumbent: Incumbent | None = None
        self._inbox = Inbox(self.ae_title, self._ledger, self._clock)

    def expect_news(self) -> None:
        """Something has arrived. From any thread."""
        self._inbox.has_news = True  # one that takes its place meanwhile reads all that is there

    # --- what to do next --------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Take the next turn if it is time for one; tell whether there was one."""
        if self._wanted is not self._exchange:
            self._take_exchange()
        if self._restarts != self.restarts_wanted:
            self._restart()
        if self.state is LaneState.STOPPED:
            self.requests.refuse_all(Refused(f"AE title '{self.ae_title}' is stopped: {self.reason}"))
        if self.state is LaneState.STOPPED or self._is_paused():
            return False
        incumbent = self._incumbent or self._build()
        if incumbent is None:
            return True
        due = self._first_due(incumbent)  # what comes to be due after this has to wait for another look at arrivals
        self._inbox.refill(None if due is None else due.when)
        self._tell_caught_up()
        arrived = self._inbox.first()
        if arrived is not None and not (due is not None and due.when < arrived.received_at):
            self._deliver(incumbent, self._inbox.pop())
        elif isinstance(due, Request):
            self._answer(incumbent)
        elif due is not None:
            self._ring(incumbent, incumbent.timers.pop())
        else:
            return False
        return True

    def _first_due(self, incumbent: Incumbent) -> Alarm | Request | None:
        """The timer or request whose time has come, the earlier of the two."""
        first = self._first(incumbent)
        return first if first is not None and first.when <= self._clock.now() else None

    def _first(self, incumbent: Incumbent) -> Alarm | Request | None:
        """The timer or request whose time comes first."""
        timer, request = incumbent.timers.first(), self.requests.first()
        if timer is None or request is None:
            return timer or request
        return timer if timer.when <= request.when else request

    def next_turn_at(self) -> datetime | None:
        """When `step` should be called again if nothing arrives; None: only then."""
        if self._restarts != self.restarts_wanted or self._wanted is not self._exchange:
            return self._clock.now()
        if self.state is LaneState.STOPPED:
            return None if self.requests.first() is None else self._clock.now()
        if self._paused_until is not None:
            return self._paused_until
        if self._incumbent is None or self._inbox.has_news or self._inbox.first() is not None:
            return self._clock.now()
        first = self._first(self._incumbent)
        return None if first is None else first.when

    def _is_paused(self) -> bool:
        if self._paused_until is not None and self._paused_until <= self._clock.now():
            self._paused_until = None
        return self._paused_until is not None

    def _tell_caught_up(self) -> None:
        seconds = self._inbox.caught_up()
        if seconds is not None:
            log.info("lane_caught_up", ae_title=self.ae_title, turns=self.turns, seconds=round(seconds, 3))

    # --- turns ------------------------------------------------------------------------------------------------------

    def _build(self) -> Incumbent | None:
        try:
            self._incumbent = Incumbent(self._settings, self._storage, self._ledger)
            self._incumbent.open(self._clock.now())
        except Retriable as failure:
            self._wait(failure)
        except PLUGIN_FAILURES as error:
            self._failed(failed_build(self._failure, error), None)
        return self._incumbent  # None: it was thrown away again

    def _deliver(self, incumbent: Incumbent, instance: InstanceStorageInfo) -> None:
        handle = incumbent.processor.handle_instance
        incumbent.delivered = instance.instance_id
        try:
            self._take_turn(incumbent, instance.received_at, lambda: handle(instance))
        except Unprocessable as refusal:
            self._quarantine(instance, str(refusal))
        except Superseded as superseded:
            self._supersede(superseded, instance)
        except Unreadable as failure:
            self._wait_for_instance(failure, instance.instance_id)
        except (Unavailable, Retriable) as failure:
            self._wait(failure)
        except PLUGIN_FAILURES as error:
            self._failed(failed_turn(self._failure, error, instance.instance_id), instance)
        else:
            self._progressed(instance.instance_id)

    def _ring(self, incumbent: Incumbent, alarm: Alarm) -> None:
        assert alarm.callback is not None  # `first` skips cancelled ones
        try:
            # An arrival that superseded a turn does so once: whatever comes of it, the lane gets on.
            self._take_turn(incumbent, alarm.when, alarm.callback, read=max(self._inbox.seen, self._superseded_by))
        except Superseded as superseded:
            self._supersede(superseded, None)
        except Unreadable as failure:
            self._wait_for_instance(failure, None)
        except (Unavailable, Retriable) as failure:
            self._wait(failure)
        except PLUGIN_FAILURES as error:
            self._failed(failed_turn(self._failure, error, None), None)
        else:
            self._progressed(None)

    def _answer(self, incumbent: Incumbent) -> None:
        """Take a turn that somebody asked for. What goes wrong in it is for whoever asked."""
        request = self.requests.pop()
        if request is None:
            return
        try:
            answer = self._take_turn(incumbent, request.when, partial(request.call, incumbent.processor))
        except RequestFailed as failure:
            request.fail(failure.reason)
            if request.is_notice:
                self._notice_failed(failure.reason)
        except Superseded as superseded:
            if superseded.by == self._superseded_by:
                request.fail(superseded)
            else:
                self.requests.put_back(request)
            self._supersede(superseded, None)
        except Unavailable as failure:
            request.fail(Retriable("the ledger cannot be written at present; nothing has happened, ask again"))
            self._wait(failure)
        except PLUGIN_FAILURES as failure:  # the ledger knows better than the processor what there is
            request.fail(failure)
            self._begin_again()
        else:
            if request.is_notice:
                self._progressed(None)
            request.resolve(answer)

    def _notice_failed(self, reason: BaseException) -> None:
        if isinstance(reason, Retriable):
            self._wait(reason)
        else:
            self._failed(failed_turn(self._failure, reason, None), None)

    def _take_turn(self, incumbent: Incumbent, now: datetime, call: Callable[[], T], *, read: int | None = None) -> T:
        """Call the processor, and tell what was committed; `read` as in `Turn.commit`."""
        self.turns += 1
        answer, committed = incumbent.take_turn(now, call, read)
        if committed is not None:
            self._on_commit(committed)
        return answer

    # --- what goes wrong --------------------------------------------------------------------------------------------

    def _progressed(self, instance_id: int | None) -> None:
        """A failure is past when the turn that it happened in has succeeded."""
        failure = self._failure
        if failure is not None and is_past(failure.instance_id, instance_id):
            self._failure = None
        if self._stuck is not None and is_past(self._stuck.handled, instance_id):
            self._stuck = None

    def _supersede(self, superseded: Superseded, instance: InstanceStorageInfo | None) -> None:
        """Begin again: a new processor is given the newer arrival alone. One that still knows the older has failed."""
        if superseded.by == self._superseded_by:
            number = None if instance is None else instance.instance_id
            self._failed(failed_turn(self._failure, superseded, number), instance)
        else:
            self._superseded_by = superseded.by
            self._begin_again()

    def _wait(self, failure: Exception) -> None:
        """Begin again when ledger and storage may be back, however long that takes."""
        self._begin_again()
        self._pause(FIRST_PAUSE)
        log.error("turn_not_committed", ae_title=self.ae_title, error=type(failure.__cause__ or failure).__name__)

    def _wait_for_instance(self, failure: Unreadable, handled: int | None) -> None:
        """Wait as for any outage; but quarantine an instance that again and again cannot be read while others can."""
        self._wait(failure)
        instance, last = failure.instance, self._stuck
        before = last.tries if last is not None and last.instance_id == instance.instance_id else 0
        tries = before + 1 if can_read_another(self._storage, instance.storage_key) else 0
        reason = f"waits for the storage backend: {failure}"
        self._stuck = Stuck(instance_id=instance.instance_id, handled=handled, tries=tries, reason=reason)
        if tries >= TRIES_FOR_ONE_INSTANCE:
            self._quarantine(instance, f"{failure}: {tries} tries, while other stored objects can be read")

    def _failed(self, failure: Failure, instance: InstanceStorageInfo | None) -> None:
        """Throw the processor away and begin again after a pause; give up on the instance, or on the lane, in time."""
        self._begin_again()
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
            self._pause(FIRST_PAUSE * 2 ** (failure.count - 1))

    def _begin_again(self) -> None:
        """Throw the processor away; another is built and given everything that is pending."""
        if self._incumbent is not None:
            self._incumbent.close()
        self._forget()

    def _pause(self, pause: timedelta) -> None:
        self._paused_until = self._clock.now() + pause

    def _stop(self, reason: str) -> None:
        try:
            now = self._record("lane_stopped", reason=reason)
        except LedgerError as failure:
            self._wait(failure)
            return
        self.state = LaneState.STOPPED
        self.reason = reason
        self.since = now
        log.error("lane_stopped", ae_title=self.ae_title, reason=reason)

    def exchange(self, settings: LaneSettings) -> Future[None]:
        """Have it go on with another processor, as after a restart; done when it does. From any one thread."""
        wanted = _Exchange(settings)
        self._wanted = wanted
        return wanted.done

    def _take_exchange(self) -> None:
        wanted = self._wanted
        assert wanted is not None  # there was none before the first
        now = self._record("lane_changed")
        if wanted.settings.processor != self._settings.processor:
            self.requests.refuse_all(Retriable("the AE title has another processor now; nothing has happened"))
        self._settings = wanted.settings
        self._renew(now)
        self._exchange = wanted
        log.info("lane_changed", ae_title=self.ae_title)
        wanted.done.set_result(None)

    def _restart(self) -> None:
        """Begin again as if nothing had ever failed: an operator has mended it, or has put an instance back."""
        wanted = self.restarts_wanted
        now = self._record("lane_restarted")
        self._restarts = wanted
        self._renew(now)
        log.info("lane_restarted", ae_title=self.ae_title)

    def _renew(self, now: datetime) -> None:
        self._begin_again()
        self._failure = self._stuck = self._paused_until = None
        if self.state is LaneState.STOPPED:
            self.state = LaneState.RUNNING
            self.reason = ""
            self.since = now

    def _record(self, event: str, **detail: object) -> datetime:
        """Write down what happens to the lane, and return when."""
        now = self._clock.now()
        with self._ledger.write() as transaction:
            events.record(transaction, [Event(at=now, event=event, ae_title=self.ae_title, detail=detail)])
        return now

    def _quarantine(self, instance: InstanceStorageInfo, reason: str) -> None:
        try:
            if not hold(self._ledger, instance, reason, self._clock.now()):
                return  # a newer arrival stands for it, and gets a turn of its own
        except LedgerError as failure:
            self._wait(failure)
            return
        self._stuck = None
        log.warning("instance_quarantined", ae_title=self.ae_title, instance_id=instance.instance_id, reason=reason)

    # --- for operators ----------------------------------------------------------------------------------------------

    def describe(self) -> LaneReport:
        """The lane as receivers and operators see it."""
        waiting = [] if self._incumbent is None else self._incumbent.waiting()
        return LaneReport(
            ae_title=self.ae_title,
            state=self.state,
            reason=self.reason or (self._stuck.reason if self._stuck else ""),
            since=self.since,
            waiting=tuple(waiting[:SHOWN_GROUPS]),
            groups=len(waiting),
        )

    def close(self) -> None:
        """Close the processor; nothing is lost, the ledger has it all."""
        self.requests.close()
        self._begin_again()
