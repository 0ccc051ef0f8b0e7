"""Step 4: the lane of an AE title gives its instances and timers to its processor, turn by turn.

One lane has one processor and one thread at a time. What a turn asked for is committed when it returns. When it raises,
the processor is thrown away, another is built, and everything that is still pending is delivered again: a processor's
memory is a cache of the ledger.

A turn happens at a time of its own: an instance's `received_at`, a timer's `when`. Turns that have to be made up for,
after a restart, are taken in the order of those times, so that they decide as they would have decided then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import structlog
from attrs import field, frozen
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from dicom_adapter.clock import Clock
from dicom_adapter.errors import Refused, Retriable, StoredObjectMissing, Unprocessable, describe_failure
from dicom_adapter.flow.failure import BEFORE_ALL_INSTANCES, Failure, Stuck, failed_build, failed_turn, is_past
from dicom_adapter.flow.request import Request, RequestFailed, Requests
from dicom_adapter.flow.turn import (
    Alarm,
    Committed,
    Context,
    LaneSettings,
    Superseded,
    Turn,
    Unavailable,
    Unreadable,
)
from dicom_adapter.ledger import Ledger, events, instances
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.model import InstanceStorageInfo, Waiting
from dicom_adapter.processor import JobProcessorBase
from dicom_adapter.storage import StorageBackend

log = structlog.get_logger("dicom_adapter.process")

BATCH = 1000  # instances that a lane reads ahead: bounds its memory, whatever is pending
TRIES_FOR_ONE_INSTANCE = 3  # turns in a row that one instance may spoil before it is quarantined
FAILURES_TO_STOP = 5  # failed turns without progress before the lane is stopped
FIRST_PAUSE = timedelta(seconds=1)  # before a processor is built anew; doubles with every failure
SHOWN_GROUPS = 50  # of what a processor holds back, for operators
OTHERS_TO_READ = 3  # stored objects that are tried, to tell one that cannot be read from storage that is away
# A plugin may raise anything: SystemExit, asyncio's CancelledError, a panic of a library written in Rust. What comes
# from outside, KeyboardInterrupt, never comes to a lane's thread.
PLUGIN_FAILURES = BaseException

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
        self._processor: JobProcessorBase[Any] | None = None
        self._context: Context | None = None
        self._inbox: deque[InstanceStorageInfo] = deque()
        self._seen = 0  # the last instance that was read
        self._delivered = 0  # the last instance that the processor was given
        self._read_at: datetime | None = None
        self._delivering_since: datetime | None = self._clock.now()  # what was pending; None: all of that is delivered
        self.has_news = True

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
        context = self._context or self._build()
        if context is None:
            return True
        self._refill(context)
        if self._delivering_since is not None and not self._inbox:
            self._caught_up(self._delivering_since)
        due = self._first_due(context)
        if self._inbox and not (due is not None and due.when < self._inbox[0].received_at):
            self._deliver(context, self._inbox.popleft())
        elif isinstance(due, Request):
            self._answer(context)
        elif due is not None:
            self._ring(context, context.timers.pop())
        else:
            return False
        return True

    def _first_due(self, context: Context) -> Alarm | Request | None:
        """The timer or request whose time has come, the earlier of the two."""
        now = self._clock.now()
        waiting = (context.timers.first(), self.requests.first())
        return min((one for one in waiting if one is not None and one.when <= now), key=_when, default=None)

    def next_turn_at(self) -> datetime | None:
        """When `step` should be called again if nothing arrives; None: only then."""
        if self._restarts != self.restarts_wanted or self._wanted is not self._exchange:
            return self._clock.now()
        if self.state is LaneState.STOPPED:
            return None if self.requests.first() is None else self._clock.now()
        if self._paused_until is not None:
            return self._paused_until
        if self._context is None or self._inbox or self.has_news:
            return self._clock.now()
        waiting = (self._context.timers.first(), self.requests.first())
        return min((one.when for one in waiting if one is not None), default=None)

    def _is_paused(self) -> bool:
        if self._paused_until is not None and self._paused_until <= self._clock.now():
            self._paused_until = None
        return self._paused_until is not None

    def _refill(self, context: Context) -> None:
        """Read what has arrived. Before a timer rings too: what came before its time has to be delivered first."""
        due = self._first_due(context)
        must_look = due is not None and (self._read_at is None or self._read_at < due.when)
        if self._inbox or not (self.has_news or must_look):
            return
        self.has_news = False  # before reading: what arrives meanwhile is news again
        now = self._clock.now()
        try:
            with self._ledger.read() as transaction:
                self._inbox.extend(instances.pending_after(transaction, self._seen, BATCH, self.ae_title))
        except SQLAlchemyError:
            self.has_news = True
            raise
        self._read_at = now
        if self._inbox:
            self._seen = self._inbox[-1].instance_id
        self.has_news = self.has_news or len(self._inbox) == BATCH

    def _caught_up(self, since: datetime) -> None:
        self._delivering_since = None
        seconds = (self._clock.now() - since).total_seconds()
        log.info("lane_caught_up", ae_title=self.ae_title, turns=self.turns, seconds=round(seconds, 3))

    # --- turns ------------------------------------------------------------------------------------------------------

    def _build(self) -> Context | None:
        settings = self._settings
        context = Context(settings, self._storage, self._ledger)
        try:
            processor = settings.processor(settings.settings, context)
            self._processor = processor
            context.opening_at = self._clock.now()
            processor.open()
            context.opening_at = None
        except Retriable as failure:
            self._wait(failure)
            return None
        except PLUGIN_FAILURES as error:
            self._failed(failed_build(self._failure, error), None)
            return None
        self._context = context
        return context

    def _deliver(self, context: Context, instance: InstanceStorageInfo) -> None:
        assert self._processor is not None  # built together with the context
        handle = self._processor.handle_instance
        self._delivered = instance.instance_id
        try:
            self._take_turn(context, instance.received_at, lambda: handle(instance))
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

    def _ring(self, context: Context, alarm: Alarm) -> None:
        assert alarm.callback is not None  # `first` skips cancelled ones
        try:
            # An arrival that superseded a turn does so once: whatever comes of it, the lane gets on.
            self._take_turn(context, alarm.when, alarm.callback, read=max(self._seen, self._superseded_by))
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

    def _answer(self, context: Context) -> None:
        """Take a turn that somebody asked for. What goes wrong in it is for whoever asked."""
        assert self._processor is not None  # built together with the context
        request = self.requests.pop()
        if request is None:
            return
        try:
            answer = self._take_turn(context, request.when, partial(request.call, self._processor))
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

    def _take_turn(self, context: Context, now: datetime, call: Callable[[], T], *, read: int | None = None) -> T:
        """Call the processor, then commit what it asked for; `read` as in `Turn.commit`."""
        self.turns += 1
        turn = context.begin(now)
        try:
            answer = call()
        finally:
            context.end()
        if not turn.is_empty:
            self._on_commit(self._commit(turn, read))
        return answer

    def _commit(self, turn: Turn, read: int | None) -> Committed:
        try:
            with self._ledger.write() as transaction:
                return turn.commit(transaction, self._delivered, read)
        except (OperationalError, NoConnection) as failure:  # others come from values that cannot be written
            raise Unavailable from failure

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
        tries = before + 1 if self._can_read_another(instance.storage_key) else 0
        reason = f"waits for the storage backend: {failure}"
        self._stuck = Stuck(instance_id=instance.instance_id, handled=handled, tries=tries, reason=reason)
        if tries >= TRIES_FOR_ONE_INSTANCE:
            self._quarantine(instance, f"{failure}: {tries} tries, while other stored objects can be read")

    def _can_read_another(self, storage_key: str) -> bool:
        try:
            keys = self._storage.keys()
            others = islice((key for key in keys if key != storage_key), OTHERS_TO_READ)
            return any(self._can_read(key) for key in others)
        except OSError:
            return False

    def _can_read(self, storage_key: str) -> bool:
        try:
            with self._storage.read(storage_key) as file:
                return bool(file.read(1))
        except (OSError, StoredObjectMissing):  # missing: reclaimed meanwhile
            return False

    def _failed(self, failure: Failure, instance: InstanceStorageInfo | None) -> None:
        """Throw the processor away and begin again after a pause; give up on the instance, or on the lane, in time."""
        self._begin_again()
        self._failure = failure
        log.error("processor_failed", ae_title=self.ae_title, failures=failure.count, error=failure.reason)
        try:
            self._record("processor_failed", error=failure.reason)
        except SQLAlchemyError as outage:
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
        self._close_processor()
        self._forget()

    def _pause(self, pause: timedelta) -> None:
        self._paused_until = self._clock.now() + pause

    def _stop(self, reason: str) -> None:
        try:
            now = self._record("lane_stopped", reason=reason)
        except SQLAlchemyError as failure:
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
        if wanted.settings.processor is not self._settings.processor:
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
        now = self._clock.now()
        event = Event(
            at=now,
            event="instance_quarantined",
            ae_title=self.ae_title,
            association_id=instance.association_id,
            instance_id=instance.instance_id,
            detail={"reason": reason},
        )
        try:
            with self._ledger.write() as transaction:
                if not instances.quarantine(transaction, instance.instance_id, reason, now):
                    return  # a newer arrival stands for it, and gets a turn of its own
                events.record(transaction, [event])
        except SQLAlchemyError as failure:
            self._wait(failure)
            return
        self._stuck = None
        log.warning("instance_quarantined", ae_title=self.ae_title, instance_id=instance.instance_id, reason=reason)

    # --- for operators ----------------------------------------------------------------------------------------------

    def describe(self) -> LaneReport:
        """The lane as receivers and operators see it."""
        waiting = self._waiting()
        return LaneReport(
            ae_title=self.ae_title,
            state=self.state,
            reason=self.reason or (self._stuck.reason if self._stuck else ""),
            since=self.since,
            waiting=tuple(waiting[:SHOWN_GROUPS]),
            groups=len(waiting),
        )

    def _waiting(self) -> list[Waiting]:
        """What the processor holds back; what is due first stands first."""
        try:
            waiting = self._processor.waiting() if self._context and self._processor else ()
            shown = [_checked(group) for group in waiting]
            return sorted(shown, key=lambda group: timedelta.max if group.until is None else group.until - self.since)
        except PLUGIN_FAILURES as failure:  # this is for show only
            log.warning("processor_waiting_failed", ae_title=self.ae_title, error=describe_failure(failure))
            return []

    def close(self) -> None:
        """Close the processor; nothing is lost, the ledger has it all."""
        self.requests.close()
        self._begin_again()

    def _close_processor(self) -> None:
        if self._processor is None:
            return
        try:
            self._processor.close()
        except PLUGIN_FAILURES as failure:
            log.warning("processor_close_failed", ae_title=self.ae_title, error=describe_failure(failure))


def _checked(group: Waiting) -> Waiting:
    """Raises what is wrong with it: others write and read it later, outside of any boundary around the plugin."""
    if not isinstance(group, Waiting) or not isinstance(group.label, str) or not isinstance(group.instance_count, int):
        raise TypeError(
            "waiting() must give Waiting(label=<text>, instance_count=<whole number>, until=<time or None>)"
        )
    if group.until is not None:
        group.until.astimezone(timezone.utc)  # OverflowError for what is no time there
    return group


def _when(one: Alarm | Request) -> datetime:
    return one.when
