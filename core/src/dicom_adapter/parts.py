"""Parts of the host that have something of their own to remember between two steps."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import structlog

from dicom_adapter.calls import Called
from dicom_adapter.clock import Clock
from dicom_adapter.deadline import call_within
from dicom_adapter.errors import IllegalTransition, Refused, describe_failure
from dicom_adapter.flow.choice import Breaker, Retries, choose
from dicom_adapter.flow.process import Lane
from dicom_adapter.flow.submit import Interrupted, Platform, Submission, Taken
from dicom_adapter.flow.turn import LaneSettings, find_job
from dicom_adapter.ledger import Ledger, jobs, lanes
from dicom_adapter.ledger.jobs import JobRow
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.model import InstanceStorageInfo, Job
from dicom_adapter.plugins import PluginInfo, Plugins
from dicom_adapter.server import Server
from dicom_adapter.storage import StorageBackend

log = structlog.get_logger("dicom_adapter.host")

T = TypeVar("T")

Step = Callable[[], "datetime | None"]  # does what there is to do; returns when to be called again, None: when woken

AFTER_INTERRUPTION = timedelta(seconds=1)  # the step is repeated, unless the service has stopped by then
LOOK_EVERY = timedelta(seconds=2)  # for jobs that an operator retries or cancels
ASKED_AT_ONCE = 50  # started jobs that are asked after in one step
SERVER_LOOK_EVERY = timedelta(seconds=1)
SERVER_STOP_SECONDS = 15.0  # after which a server is left to itself; the adapter's own needs up to 13
REPORT_EVERY = timedelta(seconds=0.5)  # at the most, a lane writes down what it holds back
SLICE_SECONDS = 0.5  # of real time: a step that finds more to do ends then, so that one that hangs can be told from it
NEWS_KEPT = 10_000  # notifications that wait for one observer, some 20 MB: beyond them, news is dropped


class ServedLane:
    """A lane, and what receivers and operators are told of it through the ledger."""

    def __init__(self, lane: Lane, ledger: Ledger, clock: Clock) -> None:
        self._lane = lane
        self._ledger = ledger
        self._clock = clock
        self._told = lane.describe()
        self._told_at = clock.now()
        self._told_turns = 0

    def expect_news(self) -> None:
        """Something arrived for this lane. From any thread."""
        self._lane.expect_news()

    def describe(self) -> LaneReport:
        """The lane as it is now. From the thread that takes its steps."""
        return self._lane.describe()

    def ask(self, function: Callable[[Any], T], *, is_notice: bool = False) -> Future[T]:
        """Ask the processor as a turn; a notice must not fail. From any thread."""
        return self._lane.requests.add(function, is_notice=is_notice)

    def restart(self) -> None:
        """Have the lane begin again. From one thread."""
        self._lane.restarts_wanted += 1

    def exchange(self, settings: LaneSettings) -> Future[None]:
        """Have the lane go on with another processor; done when it does. From any thread."""
        return self._lane.exchange(settings)

    def step(self) -> datetime | None:
        """Take the turns that are due; what a step has no time for follows in the next one."""
        end = time.monotonic() + SLICE_SECONDS
        while self._lane.step():
            self._report()
            if time.monotonic() >= end:
                return self._clock.now()
        self._report()
        unreported = self._lane.turns != self._told_turns
        wanted = [self._lane.next_turn_at(), self._told_at + REPORT_EVERY if unreported else None]
        return min((when for when in wanted if when is not None), default=None)

    def _report(self) -> None:
        """Write down what the lane holds back, not too often; another state at once."""
        now = self._clock.now()
        changed = (self._lane.state, self._lane.since) != (self._told.state, self._told.since)
        if not changed and self._told_at <= now < self._told_at + REPORT_EVERY:
            return
        report = self._lane.describe()
        if report != self._told:
            with self._ledger.write() as transaction:
                lanes.save(transaction, report)
        self._told, self._told_at, self._told_turns = report, now, self._lane.turns

    def refuse_requests(self) -> None:
        """Answer whatever the processor is asked and has not begun, now and from now on. From any thread."""
        self._lane.requests.close()

    def close(self) -> None:
        """Close the processor."""
        self._lane.close()


class Handle:
    """What a plugin is given of a lane (see `lane.LaneHandle`)."""

    def __init__(
        self,
        settings: LaneSettings,
        lane: ServedLane,
        ledger: Ledger,
        storage: StorageBackend[Any],
        clock: Clock,
        called: Called,
        wake: Callable[[], None],
    ) -> None:
        self.ae_title = settings.ae_title
        self.settings = settings.settings
        self.now = clock.now
        self._lane_settings = settings
        self._lane = lane
        self._ledger = ledger
        self._storage = storage
        self._called = called
        self._wake = wake

    @property
    def data_folder(self) -> Path:
        return self._lane_settings.made_folder()

    def ask(self, request: Callable[[Any], T]) -> Future[T]:
        future = self._lane.ask(partial(self._called, "request", request))
        self._wake()
        return future

    def find_job(self, job_id: str) -> Job | None:
        return find_job(self._ledger, self.ae_title, job_id)

    def open_stored(self, instance: InstanceStorageInfo) -> BinaryIO:
        return self._storage.read(instance.storage_key)


class ServerPart:
    """A server: started, looked at every second, and started again when it does not serve."""

    def __init__(self, name: str, server: Server, clock: Clock, called: Called) -> None:
        self._name = name
        self._called = called
        self._server = server
        self._clock = clock
        self._is_started = False

    def start(self) -> None:
        """Start it; what it raises goes to the caller."""
        self._called("start", self._server.start)
        self._is_started = True

    def step(self) -> datetime:
        """See that it serves."""
        if self._is_started and not self._called("is_alive", self._server.is_alive):
            log.error("server_ended", server=self._name)
            self.close()
        if not self._is_started:
            try:
                self.start()
            except (OSError, Refused) as failure:
                log.error("server_not_started", server=self._name, reason=str(failure))
                raise
        return self._clock.now() + SERVER_LOOK_EVERY

    def close(self) -> None:
        """Stop it, if it was started. Whatever it does then, others are closed after it."""
        if not self._is_started:
            return
        self._is_started = False
        try:
            call_within(SERVER_STOP_SECONDS, partial(self._called, "stop", self._server.stop))
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even leave
            log.error("server_not_stopped", server=self._name, error=describe_failure(failure))


class JobQueue:
    """The jobs of one submitter. Who takes one takes one step with it; then whose turn it is is decided anew."""

    def __init__(
        self,
        name: str,
        submission: Submission,
        retries: Retries,
        ledger: Ledger,
        clock: Clock,
        look_every: timedelta = LOOK_EVERY,
        predecessor: JobQueue | None = None,
    ) -> None:
        """`predecessor`: the queue that this one takes the place of; what is under way there is left to it."""
        self._name = name
        self._submission = submission
        self._retries = retries
        self._look_every = look_every
        self._ledger = ledger
        self._clock = clock
        self._taken: set[int] = set() if predecessor is None else predecessor._taken
        self._served: dict[str, int] = {}  # by AE title, the number of the turn in which it was served last
        self._turn = 0
        self._breaker = Breaker()
        self._lock: threading.Lock = threading.Lock() if predecessor is None else predecessor._lock

    def step(self) -> datetime | None:
        """Take one step with one job; returns when to come again. Raises what opening the submitter does."""
        self._submission.open()
        row = self._take()
        if row is None:
            return self._next_look()
        try:
            self._note(row, self._submission.take_step(row))
        except IllegalTransition as refusal:
            log.info("job_changed_meanwhile", job_id=row.job.job_id, reason=str(refusal))
        except Interrupted:
            log.info("job_interrupted", job_id=row.job.job_id)
            return self._clock.now() + AFTER_INTERRUPTION
        finally:
            with self._lock:
                self._taken.discard(row.number)
        return self._clock.now()

    def _take(self) -> JobRow | None:
        now = self._clock.now()
        with self._lock:
            if self._breaker.is_down and not self._breaker.may_try(now, trying=len(self._taken)):
                return None
            row = self._choose(now)
            if row is not None:
                self._taken.add(row.number)
                self._served[row.job.ae_title] = self._turn
                self._turn += 1
        return row

    def _choose(self, now: datetime) -> JobRow | None:
        with self._ledger.read() as transaction:
            if not self._breaker.is_down:
                return choose(jobs.heads(transaction, self._name, now, self._taken), self._served, self._turn)
            # While the platform is down its own pause counts, not the jobs': they try in turn, the first in line first.
            tried = self._breaker.tried
            row = choose(jobs.heads(transaction, self._name, None, tried), self._served, self._turn)
            if row is None:
                tried.clear()
                row = choose(jobs.heads(transaction, self._name, None), self._served, self._turn)
            if row is not None:
                tried.add(row.number)
            return row

    def _note(self, row: JobRow, taken: Taken) -> None:
        """Learn from a step whether the platform is there."""
        if taken.platform is Platform.ANSWERED:
            self._note_success()
            return
        with self._lock:
            pause = self._retries.pause(self._breaker.failures + 1, random.random())  # noqa: S311 - spreads load
            if taken.platform is Platform.FAILED:
                self._breaker.step_failed(row.number, self._clock.now(), pause)
            else:
                self._breaker.told_nothing(self._clock.now(), pause)
        self._note_pause(taken.row)

    def _note_success(self) -> None:
        with self._lock:
            came_back = self._breaker.succeeded()
        if came_back:
            log.info("platform_back", submitter=self._name)
            with self._ledger.write() as transaction:
                jobs.hurry(transaction, self._name)

    def _note_pause(self, row: JobRow) -> None:
        closed_until = self._breaker.closed_until
        if closed_until is not None and row.job.next_attempt_at is not None and row.job.next_attempt_at < closed_until:
            # What operators see, and what a restart goes by, is when it will be tried indeed.
            with self._ledger.write() as transaction:
                jobs.change(transaction, row, next_attempt_at=closed_until)

    def _next_look(self) -> datetime:
        """When there may be something to do: what an operator asks for comes through the ledger, unannounced."""
        now = self._clock.now()
        with self._ledger.read() as transaction:
            postponed = jobs.next_attempt(transaction, self._name, now)
        wanted = [when for when in (postponed, self._breaker.closed_until) if when is not None and when > now]
        return min([*wanted, now + self._look_every])


class PlatformWatch:
    """Asks the platform from time to time what became of the jobs that it started."""

    def __init__(self, name: str, submission: Submission, every: timedelta, ledger: Ledger, clock: Clock) -> None:
        self._name = name
        self._submission = submission
        self._every = every
        self._ledger = ledger
        self._clock = clock

    def step(self) -> datetime:
        """Ask after the jobs that were not asked after for long enough, some at a time."""
        self._submission.open()
        now = self._clock.now()
        with self._ledger.read() as transaction:
            found = jobs.started(transaction, self._name, now - self._every, ASKED_AT_ONCE)
        end = time.monotonic() + SLICE_SECONDS
        for row in found:
            self._submission.ask(row)
            if time.monotonic() >= end:
                return now
        return now if len(found) == ASKED_AT_ONCE else now + self._every


class Observer:
    """One plugin that observes, and what it is yet to be told. It may hang, and holds up nobody else."""

    def __init__(self, plugin: PluginInfo, plugins: Plugins, clock: Clock) -> None:
        self._plugin = plugin
        self._plugins = plugins
        self._clock = clock
        self._news: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue(NEWS_KEPT)
        self._dropped = 0  # since it had heard all there was
        self._lock = threading.Lock()  # guards `_dropped`

    def tell(self, hook: str, arguments: dict[str, Any]) -> bool:
        """Have it told of something, if it wants to hear of that; returns whether it does. From any thread."""
        if hook not in self._plugin.observes:
            return False
        try:
            self._news.put_nowait((hook, arguments))
        except queue.Full:
            with self._lock:
                self._dropped += 1
                first = self._dropped == 1
            if first:
                log.error("observer_lags", plugin=str(self._plugin), waiting=NEWS_KEPT)
        return True

    def has_news(self) -> bool:
        """Whether there is something that it was not told yet."""
        return not self._news.empty()

    def step(self) -> datetime | None:
        """Tell it what there is; what a step has no time for follows in the next one."""
        end = time.monotonic() + SLICE_SECONDS
        while self.has_news():
            hook, arguments = self._news.get()
            self._plugins.notify(self._plugin, hook, _observer_failed, **arguments)
            if time.monotonic() >= end:
                return self._clock.now()
        with self._lock:
            dropped, self._dropped = self._dropped, 0
        if dropped:
            log.error("notifications_dropped", plugin=str(self._plugin), dropped=dropped)
        return None


def _observer_failed(plugin: PluginInfo, hook: str, failure: BaseException) -> None:
    log.error("observer_failed", plugin=str(plugin), hook=hook, error=describe_failure(failure))
