"""The channel between the supervisor and its child processes: lines of JSON.

The supervisor writes to the standard input of a child: first a `Start`, another `Start` for each changed
configuration, and at last a stop. The end of the input means that the supervisor has ended. The child writes reports
to its standard output, and its log to a descriptor that it shares with the supervisor. The supervisor also logs each
line that the child, or a plugin or library in it, writes to standard error, even if it is the last one before a crash.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from attrs import asdict, evolve, frozen
from setproctitle import setproctitle

log = structlog.get_logger("dicom_adapter.channel")

Report = Mapping[str, Any]
# glibc has up to eight heaps for each core, and returns little of their memory. With two heaps, an upload of 1 GB over
# gRPC occupies a third of the memory afterwards, and takes the same time.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
ENDED = "ended"  # report: the child has ended; added by `Child`
APPLIED, NOT_APPLIED = "applied", "not-applied"  # reports: the result of applying another configuration
FAILED = "failed"  # report: the child cannot start or continue; with `reason`, and `transient` if a retry may succeed
ALIVE = "alive"  # report: the threads of the child run
ALIVE_EVERY = 5.0  # minimum number of seconds between two of these reports
STOP = "stop"  # the line that requests a stop
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # signals that only the supervisor handles
MAX_OUTPUT_LINE = 4096  # bytes; a longer line is logged in pieces
OUTPUT_SECONDS = 1.0  # time limit for logging the last output of a child that has ended


@frozen(kw_only=True)
class Start:
    """The first message to a child. It contains the text of the configuration, so that all processes parse the same."""

    configuration: str
    folder: str  # base of relative paths in the configuration
    log_style: str
    port: int | None  # port that replaces the configured port; None: the configured port
    is_first: bool  # this is the first host or receiver since the start of the service
    number: int = 1  # number of a receiver, counted from 1
    trace_hooks: bool = False  # log every call of a plugin
    wake_fd: int  # descriptor of a pipe: receivers write to it when they have stored instances, the host reads from it
    counts_fd: int | None = None  # descriptor of the memory of `create_shared_counts`; None: counts are not shared
    plugins: Sequence[str] | None  # entry points to load; None: all
    clock: Sequence[int]  # a reading of the clock of the service; see `SystemClock`
    log_fd: int = 2  # the log; set by `Child`
    path: str = ""  # path of the configuration file; "": unknown
    title: str = ""  # title of the process, which `ps` shows; "": the title does not change


# --- in the child ---------------------------------------------------------------------------------------------------


class Channel:
    """The end of the channel in the child."""

    def __init__(self) -> None:
        # Only reports are written to the pipe; output of plugins to standard output is redirected to standard error.
        self._reports = os.dup(1)
        self._alive_at = 0.0  # monotonic time of the next report ALIVE
        os.dup2(2, 1)
        os.umask(0o077)  # every file of this process may hold patient data
        # Only the supervisor stops its processes: terminals and service managers send signals to all at the same time.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # `Child` has blocked them until now

    def start(self) -> Start:
        """Wait for the first message. Exit if the supervisor ends before it sends one."""
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        start = Start(**json.loads(line))
        if start.title:
            setproctitle(start.title)
        return start

    def report(self, event: str, **fields: Any) -> None:
        """Send a report to the supervisor."""
        try:
            os.write(self._reports, json.dumps({"event": event, **fields}).encode() + b"\n")
        except BrokenPipeError:
            pass  # the supervisor has ended; `wait_for_stop` will return False

    def report_alive(self) -> None:
        """Report that the threads of this process run, unless that was reported within the last seconds."""
        if time.monotonic() >= self._alive_at:
            self._alive_at = time.monotonic() + ALIVE_EVERY
            self.report(ALIVE)

    def wait_for_stop(self, configure: Callable[[Start], None]) -> bool:
        """Wait for messages. Return True when a stop is requested, False when the supervisor has ended.

        `configure` is called with each other message, the `Start` with a changed configuration.
        """
        while line := sys.stdin.readline().strip():
            if line == STOP:
                return True
            configure(Start(**json.loads(line)))
        return False


# --- in the supervisor ----------------------------------------------------------------------------------------------


class Child:
    """A child process. Its reports are put to a queue as (child, report).

    The process loads its modules and then waits for `configure`.
    """

    def __init__(
        self, name: str, module: str, descriptors: Sequence[int], reports: queue.SimpleQueue[tuple[Any, Report]]
    ) -> None:
        """Start the process. `descriptors` are those that its `Start` will name."""
        self.name = name
        self._reports = reports
        self._log_fd = os.dup(2)
        # A signal to the whole process group must not end a child that does not ignore it yet.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[*descriptors, self._log_fd],
                env={**ENVIRONMENT, **os.environ},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            os.close(self._log_fd)
        self._output = threading.Thread(target=self._log_output, name=f"{name} output", daemon=True)
        self._output.start()
        threading.Thread(target=self._read_reports, name=f"{name} reports", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def configure(self, start: Start) -> None:
        """Send a configuration. The child starts with the first, and reports APPLIED or NOT_APPLIED for later ones."""
        self._send(json.dumps(asdict(evolve(start, log_fd=self._log_fd))))

    def stop(self) -> None:
        """Request the child to stop. It ends after it has finished its open work."""
        self._send(STOP)

    def kill(self) -> None:
        """Kill the child. No acknowledged instance is lost."""
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end of the child; return whether it has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._output.join(OUTPUT_SECONDS)
        return True

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None  # it is a pipe
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the child has ended; `_read_reports` reports that

    def _read_reports(self) -> None:
        assert self._process.stdout is not None  # it is a pipe
        for line in self._process.stdout:
            self._reports.put((self, json.loads(line)))
        status = self._process.wait()
        self._output.join(OUTPUT_SECONDS)  # not longer: processes that a plugin has started may still write
        self._reports.put((self, {"event": ENDED, "status": status}))

    def _log_output(self) -> None:
        """Log the lines that the child writes to standard error or standard output, until it has ended."""
        assert self._process.stderr is not None  # it is a pipe
        with self._process.stderr as lines:
            while line := lines.readline(MAX_OUTPUT_LINE):
                log.warning("process_output", name=self.name, text=line.decode("utf-8", "replace").rstrip())
