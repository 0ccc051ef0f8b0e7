"""Workers: threads that run a step repeatedly, and sleep until the next one is due or they are woken.

Their condition is visible from outside: a step that raises repeatedly, one that does not return, a thread that ended.
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

Step = Callable[[], "datetime | None"]  # does what there is to do; returns when to be called again, None: when woken
SLICE_SECONDS = 0.5  # of real time: a step that finds more to do ends then, so that one that hangs can be told from it
FIRST_PAUSE = 1.0  # seconds after a step that raised; doubles up to the longest
LONGEST_PAUSE = 30.0
LONGEST_WAIT = 3600.0  # for the next step: a thread cannot wait for a hundred years

T = TypeVar("T")


@frozen(kw_only=True)
class Condition:
    """The present condition of a worker."""

    busy_since: datetime | None = None  # UTC; when the step that it is in began; None: it waits
    busy_seconds: float = 0.0  # that this step has taken so far
    failures: int = 0  # steps in a row that raised
    error: str = field(default="", repr=False)  # the last of them


class Worker:
    """Runs `step` until it is stopped. The step returns when it wants to be called again; None: when woken.

    A step that raises is reported and tried again after a pause: no worker dies silently.
    """

    def __init__(self, name: str, step: Step, clock: Clock, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`monotonic`: seconds that no change of the wall clock moves, for how long a step takes."""
        self.name = name
        self._step = step
        self._clock = clock
        self._monotonic = monotonic
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._began: tuple[datetime, float] | None = None  # the step that it is in, by both clocks
        self._failures = 0
        self._error = ""
        self._thread: threading.Thread | None = None  # it was started

    def start(self) -> None:
        """Start the thread. May be called once."""
        thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        thread.start()
        self._thread = thread  # not before: who looks whether it has ended must not find one that has yet to begin

    def revive(self) -> bool:
        """Restart the thread if it ended without `stop`; return whether it had. For one thread at a time."""
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
        """Return whether the thread ends within that time."""
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def condition(self) -> Condition:
        """Return the present condition. Thread-safe."""
        began = self._began
        return Condition(
            busy_since=None if began is None else began[0],
            busy_seconds=0.0 if began is None else self._monotonic() - began[1],
            failures=self._failures,
            error=self._error,
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            pause = self._take_step()
            if pause is None or pause > 0:
                self._woken.wait(None if pause is None else min(pause, LONGEST_WAIT))

    def _take_step(self) -> float | None:
        """Seconds until the next step; None: until woken."""
        self._began = self._clock.now(), self._monotonic()
        try:
            when = self._step()
        except BaseException as failure:  # noqa: BLE001 - whatever it is, even sys.exit(), the worker lives on and tells
            self._error = describe_failure(failure)
            self._failures += 1
            log.error("worker_failed", worker=self.name, failures=self._failures, error=self._error)
            return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        finally:
            self._began = None
        self._failures, self._error = 0, ""
        return None if when is None else max(0.0, (when - self._clock.now()).total_seconds())


class BoundedExecutor(Executor):
    """A thread pool with a short queue: `submit` blocks until there is a place, in order of arrival (FIFO).

    So callers with many calls share the threads fairly.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._places = 2 * threads  # that are free: as many calls wait as are at work, so that no thread has to
        self._waiting: deque[tuple[Callable[[], Any], Future[Future[Any]]]] = deque()  # only while no place is free
        self._lock = threading.Lock()  # guards both

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        call, entered = partial(fn, *args, **kwargs), Future[Future[T]]()
        with self._lock:
            has_place = self._places > 0
            if has_place:
                self._places -= 1
            else:
                self._waiting.append((call, entered))
        if has_place:
            self._enter(call, entered)
        return entered.result()

    def _enter(self, call: Callable[[], T], entered: Future[Future[T]]) -> None:
        try:
            future = self._threads.submit(call)
        except RuntimeError as failure:  # it is shut down
            entered.set_exception(failure)
            self._leave()
        else:
            entered.set_result(future)
            future.add_done_callback(lambda _done: self._leave())

    def _leave(self) -> None:
        """Pass the place to the next waiting call itself: its thread may wake slowly, and others would overtake it."""
        with self._lock:
            if not self._waiting:
                self._places += 1
                return
            call, entered = self._waiting.popleft()
        self._enter(call, entered)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
