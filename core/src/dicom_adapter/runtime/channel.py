"""How the service talks with its processes: lines of JSON.

To the child's standard input: first `Start`, later perhaps another one with another configuration, and a stop. Its
end means that the service is gone. From the child's standard output: reports. Standard error is for logs, which the
child shares with the service.
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
# glibc keeps a heap for each thread, up to eight for each core, and gives little of them back: a job of 1 GB, uploaded
# over gRPC, leaves three times as much behind as with two heaps, and is not faster.
SPARING = {"MALLOC_ARENA_MAX": "2"}
GONE = "gone"  # the report that the parent side adds when a child has ended
TAKEN, NOT_TAKEN = "taken", "not-taken"  # what a child says to another configuration
STOP = "stop"


@frozen(kw_only=True)
class Start:
    """What a child needs to begin. The configuration's text, so that all processes work with the same one."""

    configuration: str
    folder: str  # that relative paths in the configuration start from
    log_style: str
    port: int | None  # to listen on instead of the configured one
    first: bool  # nothing else of this service runs yet
    number: int = 1  # of a receiver
    trace_hooks: bool = False  # log every call of a plugin
    wake_fd: int  # the receivers write to it, the host reads from it
    plugins: Sequence[str] | None  # entry points to load; None: all


# --- in the child ---------------------------------------------------------------------------------------------------


class Channel:
    """The child's end."""

    def __init__(self) -> None:
        # Nothing but reports may go to the pipe: what a plugin prints goes to the log instead.
        self._reports = os.dup(1)
        os.dup2(2, 1)
        os.umask(0o077)  # whatever this process makes may hold patients' data
        # The service decides when its processes end; a terminal or a service manager signals all of them at once.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def start(self) -> Start:
        """Wait for the first line. Ends the process when the service is gone before it wrote one."""
        line = sys.stdin.readline()
        if not line:
            sys.exit()
        return Start(**json.loads(line))

    def report(self, event: str, **fields: Any) -> None:
        """Tell the service something."""
        try:
            os.write(self._reports, json.dumps({"event": event, **fields}).encode() + b"\n")
        except BrokenPipeError:
            pass  # the service is gone, as `wait_for_stop` is about to tell

    def wait_for_stop(self, take: Callable[[Start], None]) -> bool:
        """Return True when the service asks to stop, False when it is gone; `take` another start that it gives."""
        while line := sys.stdin.readline().strip():
            if line == STOP:
                return True
            take(Start(**json.loads(line)))
        return False


# --- in the service -------------------------------------------------------------------------------------------------


class Child:
    """One process of the service; what it reports is put to a queue as (child, report).

    It loads what it needs, and waits until it is given what to work with.
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
            env={**SPARING, **os.environ},
            text=True,
        )
        threading.Thread(target=self._listen, name=f"{name} reports", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def give(self, start: Start) -> None:
        """Have it work with this; it answers with TAKEN or NOT_TAKEN when it is not the first."""
        self._send(json.dumps(asdict(start)))

    def stop(self) -> None:
        """Ask it to stop; it goes when it has finished what it must."""
        self._send(STOP)

    def kill(self) -> None:
        """End it at once. Nothing that was acknowledged is lost by that."""
        self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within that time."""
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
            pass  # it has ended; `_listen` reports that

    def _listen(self) -> None:
        assert self._process.stdout is not None  # it is a pipe
        for line in self._process.stdout:
            self._reports.put((self, json.loads(line)))
        self._reports.put((self, {"event": GONE, "status": self._process.wait()}))
