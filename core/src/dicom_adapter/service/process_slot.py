"""One of the processes that the supervisor keeps running: its state, also while it does not run."""

from __future__ import annotations

import time

from attrs import define

from dicom_adapter.ledger.health import HOST
from dicom_adapter.runtime.channel import Child
from dicom_adapter.runtime.parts import PartKind

FIRST_PAUSE = 0.5  # seconds before the restart of a process that was healthy; each early death doubles the pause
LONGEST_PAUSE = 30.0  # seconds, of the host
LONGEST_PAUSE_OF_RECEIVER = 4.0  # seconds: meanwhile, no sender is served
HEALTHY_SECONDS = 60.0  # after this time, earlier deaths of a process do not count any more
DEATHS_TO_REPORT = 3  # number of consecutive deaths to report: fewer are usually over before an operator can react
SILENT_SECONDS = PartKind.PROCESS.deadline_seconds  # a process that reports nothing for so long is killed


@define
class ProcessSlot:
    """One of the processes that must run: its current child process, and the state that outlasts it."""

    name: str
    module: str
    number: int = 1  # number of a receiver, counted from 1
    child: Child | None = None  # the running process; None: it has died
    preloaded: Child | None = None  # the next child, which loads its modules until it may start
    is_ready: bool = False  # the process has reported the end of its start
    started_at: float = 0.0  # monotonic time of the last start
    pause: float = FIRST_PAUSE  # seconds between the last death and the restart
    start_at: float | None = None  # monotonic time of the next restart
    deaths: int = 0  # number of consecutive deaths before the process was healthy
    last_status: int = 0  # exit status of the last death
    is_restarting: bool = False  # a stop was requested; the process is started again as soon as it has ended
    silent_seconds: float = 0.0  # time since the last report of the process, as the supervisor has counted it

    def record_death(self, status: int) -> None:
        """Record that the process ended without a request, and when to restart it."""
        healthy = self.is_healthy()
        self.deaths = 1 if healthy else self.deaths + 1
        longest = LONGEST_PAUSE if self.name == HOST else LONGEST_PAUSE_OF_RECEIVER
        self.pause = FIRST_PAUSE if healthy else min(longest, self.pause * 2)
        self.last_status = status
        self.child = None
        self.is_ready = False
        self.start_at = time.monotonic() + self.pause

    def end_preloaded(self, seconds: float) -> None:
        """Kill the next child, which has no work to finish, and wait up to `seconds` for its end."""
        if self.preloaded is not None:
            self.preloaded.kill()
            self.preloaded.wait(seconds)

    def count_silence(self, seconds: float) -> None:
        """Add `seconds` to the time without a report of a started process.

        No clock measures this time: otherwise a supervisor that was stopped itself, for example with SIGSTOP, would
        see reports missing that it has not read yet.
        """
        self.silent_seconds = self.silent_seconds + seconds if self.child is not None and self.is_ready else 0.0

    @property
    def is_silent(self) -> bool:
        """Return whether the process has not reported for so long that it must be killed."""
        return self.silent_seconds > SILENT_SECONDS

    def is_healthy(self) -> bool:
        """Return whether the process has run long enough that earlier deaths do not count."""
        return self.child is not None and time.monotonic() - self.started_at > HEALTHY_SECONDS

    def problem(self) -> str:
        """Return the problem of the process for operators; "" if there is none."""
        if self.deaths < DEATHS_TO_REPORT or self.is_healthy():
            return ""
        return f"the {self.name} died {self.deaths} times in a row, the last time with status {self.last_status}"
