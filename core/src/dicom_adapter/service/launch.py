"""Start the service as a child process and read its log: for the demo, and for tests of the real service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dicom_adapter.api.errors import Refused

LogEntry = Mapping[str, Any]
PATIENCE_S = 60.0  # time limit for operations that take a few seconds, for a busy machine


class ServiceEnded(Refused):
    """The service ended, or did not log the expected event."""


class LaunchedService:
    """`dicom-adapter run` in a separate process group, with its log in a file and in memory."""

    def __init__(self, configuration: Path, *arguments: str, python: str = sys.executable) -> None:
        """Start the service; `port` waits until it listens. `python` is the interpreter that runs the service."""
        self.configuration = configuration
        self.log_file = configuration.parent / "service.log"
        self._entries: list[LogEntry] = []
        self._changed = threading.Condition()  # notified when entries are added and when the service ends
        self._ended = False
        self._is_read = True  # lines of the log are parsed
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [python, "-m", "dicom_adapter", "run", str(configuration), "--stop-with-stdin", *arguments],
            stdin=subprocess.PIPE,  # closed when this process is killed, which also stops the service
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        assert self._process.stderr is not None  # it is a pipe
        with self.log_file.open("a", encoding="utf-8") as log, self._process.stderr as lines:
            for line in lines:
                log.write(line)
                log.flush()
                if self._is_read:
                    self._add(line)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _add(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except ValueError:
            entry = {"event": "text", "text": line.rstrip()}
        with self._changed:
            self._entries.append(entry)
            self._changed.notify_all()

    def stop_reading(self) -> None:
        """Stop parsing the log, which takes noticeable time under load. The log is still written to the file."""
        self._is_read = False

    def port(self, seconds: float = PATIENCE_S) -> int:
        """Wait until the service listens, and return its port."""
        port: int = self.wait_for("service_listening", seconds=seconds)["port"]
        return port

    def wait_for(self, event: str, seconds: float = PATIENCE_S, times: int = 1, **fields: object) -> LogEntry:
        """Wait until the log has `times` events of this name with these fields. Return the last of these entries.

        Raises ServiceEnded with the end of the log if the service ends first, or after `seconds`.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while len(entries := self.logged(event, **fields)) < times:
                if self._ended or not self._changed.wait(deadline - time.monotonic()):
                    raise ServiceEnded(f"no {event} {fields} x{times}; the log ends with:\n{self._tail()}")
        return entries[times - 1]

    def logged(self, event: str, **fields: object) -> list[LogEntry]:
        """Return the entries of this event with these fields so far."""
        return [
            entry
            for entry in list(self._entries)
            if entry["event"] == event and all(entry.get(name) == value for name, value in fields.items())
        ]

    def _tail(self) -> str:
        return "\n".join(json.dumps(entry) for entry in self._entries[-20:])

    def stop(self, seconds: float = PATIENCE_S) -> int:
        """Stop the service with SIGTERM, and return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = PATIENCE_S) -> int:
        """Wait until the service ends, and return its exit status."""
        status = self._process.wait(seconds)
        self._close_stdin()
        return status

    def kill(self) -> None:
        """Kill all processes of the service, like a crash of the machine. Idempotent."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._process.wait()
        self._close_stdin()

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None  # it is a pipe
        self._process.stdin.close()

    def pids(self) -> Sequence[int]:
        """Return the process ids of the supervisor, and of the latest host and receivers."""
        started = {entry["name"]: entry["child"] for entry in self.logged("process_started")}
        return [self._process.pid, *started.values()]
