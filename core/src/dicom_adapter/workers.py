"""Threads that do one thing again and again: take a step, then sleep until it is time or somebody wakes them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime

import structlog

from dicom_adapter.clock import Clock
from dicom_adapter.errors import describe_failure

log = structlog.get_logger("dicom_adapter.workers")

Step = Callable[[], "datetime | None"]
FIRST_PAUSE = 1.0  # seconds after a step that raised; doubles up to the longest
LONGEST_PAUSE = 30.0


class Worker:
    """Runs `step` until it is stopped. The step returns when it wants to be called again; None: when woken.

    A step that raises is reported and tried again after a pause: no worker dies silently.
    """

    def __init__(self, name: str, step: Step, clock: Clock) -> None:
        self.name = name
        self._step = step
        self._clock = clock
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Let the step be taken now."""
        self._woken.set()

    def stop(self) -> None:
        """Let it end after the step that it is in."""
        self._stopping.set()
        self._woken.set()

    def join(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            pause = self._take_step()
            if pause is None or pause > 0:
                self._woken.wait(pause)

    def _take_step(self) -> float | None:
        """Seconds until the next step; None: until woken."""
        try:
            when = self._step()
        except BaseException as failure:  # noqa: BLE001 - whatever it is, even sys.exit(), the worker lives on and tells
            self._failures += 1
            log.error("worker_failed", worker=self.name, failures=self._failures, error=describe_failure(failure))
            return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures - 1, 10))
        self._failures = 0
        return None if when is None else max(0.0, (when - self._clock.now()).total_seconds())
