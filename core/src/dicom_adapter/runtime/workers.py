"""Workers: threads that call a step function repeatedly. They sleep until the next call is due, or until woken.

Other threads can query the condition of a worker: repeated failures of its step, or a step that does not return.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

import structlog
from attrs import field, frozen

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.workers")

Step = Callable[[], "datetime | None"]  # does pending work; returns the time of the next call, or None: when woken
SLICE_SECONDS = 0.5  # real time after which a step with more work returns: a step that takes longer may hang
FIRST_PAUSE = 1.0  # pause in seconds after a failed step; doubles up to LONGEST_PAUSE
LONGEST_PAUSE = 30.0  # seconds
LONGEST_WAIT = 3600.0  # seconds until the next step: the wait of a thread has an upper limit

T = TypeVar("T")


@frozen(kw_only=True)
class Condition:
    """The current condition of a worker."""

    busy_since: datetime | None = None  # start of the current step in UTC; None: the worker sleeps
    busy_seconds: float = 0.0  # duration of the current step so far
    failures: int = 0  # number of consecutive failed steps
    error: str = field(default="", repr=False)  # error of the last failed step


class Worker:
    """A thread that calls a step function repeatedly, until `stop`.

    If a step raises, the failure is logged, and the step is called again after a pause.
    """

    def __init__(self, name: str, step: Step, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Create a worker. `monotonic` is a clock for durations, which does not change with the wall clock."""
        self.name = name
        self._step = step
        self._clock = clock
        self._monotonic = monotonic
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._step_started: tuple[datetime, float] | None = None  # time of both clocks at the start of the current step
        self._failures = 0
        self._error = ""
        self._thread: threading.Thread | None = None  # None: not started

    def start(self) -> None:
        """Start the thread. This method may be called only once."""
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        thread.start()
        self._thread = thread  # only now: `revive` must not find a thread that has not begun yet

    def revive(self) -> bool:
        """Restart the thread if it ended without `stop`. Return whether it was restarted. Not thread-safe."""
        if self._thread is None or self._thread.is_alive() or self._stopping.is_set():
            return False
        self.start()
        return True

    def wake(self) -> None:
        """Run the step now. Thread-safe."""
        self._woken.set()

    def stop(self) -> None:
        """End after the current step. Thread-safe."""
        self._stopping.set()
        self._woken.set()

    def join(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of the thread; return whether it has ended."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def condition(self) -> Condition:
        """Return the current condition. Thread-safe."""
        started = self._step_started
        return Condition(
            busy_since=None if started is None else started[0],
            busy_seconds=0.0 if started is None else self._monotonic() - started[1],
            failures=self._failures,
            error=self._error,
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            pause = self._run_step()
            if pause is None or pause > 0:
                self._woken.wait(None if pause is None else min(pause, LONGEST_WAIT))

    def _run_step(self) -> float | None:
        """Call the step. Return the seconds until the next call; None: until woken."""
        self._step_started = self._clock.now(), self._monotonic()
        try:
            when = self._step()
        except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even SystemExit; log it
            self._error = describe_failure(failure)
            self._failures += 1
            log.error("worker_failed", worker=self.name, failures=self._failures, error=self._error)
            return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        finally:
            self._step_started = None
        self._failures, self._error = 0, ""
        return None if when is None else max(0.0, (when - self._clock.now()).total_seconds())


class BoundedExecutor(Executor):
    """A thread pool with a bounded queue. `submit` blocks until the queue has a place, in order of arrival (FIFO).

    Therefore several callers with many calls share the threads fairly.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._free_places = 2 * threads  # for running and queued calls: each thread finds a queued call when it is free
        self._waiting: deque[tuple[Callable[[], Any], Future[Future[Any]]]] = deque()  # calls without a place
        self._lock = threading.Lock()  # guards `_free_places` and `_waiting`

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        call, entered = partial(fn, *args, **kwargs), Future[Future[T]]()
        with self._lock:
            has_place = self._free_places > 0
            if has_place:
                self._free_places -= 1
            else:
                self._waiting.append((call, entered))
        if has_place:
            self._enter(call, entered)
        return entered.result()

    def _enter(self, call: Callable[[], T], entered: Future[Future[T]]) -> None:
        try:
            future = self._threads.submit(call)
        except RuntimeError as failure:  # the thread pool is shut down
            entered.set_exception(failure)
            self._free_place()
        else:
            entered.set_result(future)
            future.add_done_callback(lambda _done: self._free_place())

    def _free_place(self) -> None:
        """Give the place to the next waiting call.

        This is not left to the thread of that call: it may wake slowly, and other calls would overtake it.
        """
        with self._lock:
            if not self._waiting:
                self._free_places += 1
                return
            call, entered = self._waiting.popleft()
        self._enter(call, entered)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
