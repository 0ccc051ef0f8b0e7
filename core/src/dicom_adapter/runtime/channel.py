"""The channel between the service and its processes: lines of JSON.

To the standard input of the child: first a `Start`, later perhaps further ones with other configurations, and a stop.
End of input means that the service has ended. From the standard output of the child: reports. Standard error is for
logs; the child shares it with the service.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import asdict, frozen

Report = Mapping[str, Any]
# glibc keeps a heap for each thread, up to eight for each core, and returns little of them: a job of 1 GB, uploaded
# over gRPC, occupies three times as much memory afterwards as with two heaps, and is not faster.
ENVIRONMENT = {"MALLOC_ARENA_MAX": "2"}
ENDED = "ended"  # the report that the parent side adds when a child has ended
APPLIED, NOT_APPLIED = "applied", "not-applied"  # the answers of a child to another configuration
FAILED = "failed"  # the child cannot start or continue; with the reason, and `transient` if a retry may succeed
STOP = "stop"


@frozen(kw_only=True)
class Start:
    """The message that a child starts with: the text of the configuration, so that all processes parse the same one."""

    configuration: str
    folder: str  # that relative paths in the configuration start from
    log_style: str
    port: int | None  # to listen on instead of the configured one
    first: bool  # no other process of this service runs yet
    number: int = 1  # of a receiver
    trace_hooks: bool = False  # log every call of a plugin
    wake_fd: int  # the receivers write to it, the host reads from it
    plugins: Sequence[str] | None  # entry points to load; None: all


# --- in the child ---------------------------------------------------------------------------------------------------


class Channel:
    """The end of the child."""

    def __init__(self) -> None:
        # Only reports may be written to the pipe: the output of plugins goes to the log instead.
        self._reports = os.dup(1)
        os.dup2(2, 1)
        os.umask(0o077)  # every file of this process may hold patient data
        # The service decides when its processes end; a terminal or a service manager signals all of them at once.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def start(self) -> Start:
        """Wait for the first message. Exit when the service has ended before it wrote one."""
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        return Start(**json.loads(line))

    def report(self, event: str, **fields: Any) -> None:
        """Send a report to the service."""
        try:
            os.write(self._reports, json.dumps({"event": event, **fields}).encode() + b"\n")
        except BrokenPipeError:
            pass  # the service has ended; `wait_for_stop` is about to return False

    def wait_for_stop(self, configure: Callable[[Start], None]) -> bool:
        """Return True when the service asks to stop, False when it has ended. `configure` receives other messages."""
        while line := sys.stdin.readline().strip():
            if line == STOP:
                return True
            configure(Start(**json.loads(line)))
        return False


# --- in the service -------------------------------------------------------------------------------------------------


class Child:
    """One process of the service. Its reports are put to a queue as (child, report).

    The process loads its modules at once, and waits for `configure` before it does anything else.
    """

    def __init__(self, name: str, module: str, wake_fd: int, reports: queue.SimpleQueue[tuple[Any, Report]]) -> None:
        """`wake_fd`: the descriptor that its `Start` is going to name."""
        self.name = name
        self._reports = reports
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[wake_fd],
            env={**ENVIRONMENT, **os.environ},
            text=True,
        )
        threading.Thread(target=self._read_reports, name=f"{name} reports", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def configure(self, start: Start) -> None:
        """Send a configuration. The child starts with the first one, and answers the others APPLIED or NOT_APPLIED."""
        self._send(json.dumps(asdict(start)))

    def stop(self) -> None:
        """Ask the child to stop; it ends after it has finished its open work."""
        self._send(STOP)

    def kill(self) -> None:
        """End the child at once. No acknowledged instance is lost."""
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Return whether the child ends within that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None  # it is a pipe
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the child has ended; `_read_reports` reports that

    def _read_reports(self) -> None:
        assert self._process.stdout is not None  # it is a pipe
        for line in self._process.stdout:
            self._reports.put((self, json.loads(line)))
        self._reports.put((self, {"event": ENDED, "status": self._process.wait()}))
