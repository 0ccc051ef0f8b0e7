"""Run commands of `dicom-adapter` in processes of their own, and return the JSON that they print.

A comparison with the file needs the plugins that are installed now, but this process has loaded the plugins that were
installed when it started. An audit takes long. Both are done as an operator would do them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import IO, Any

from attrs import define, field, frozen

from dicom_adapter.api.errors import Refused

NO_PATH = "The path of the configuration file is not known."


@frozen
class Finished:
    """The end of a command."""

    document: Any  # what it has printed as JSON; None if it has ended early
    problem: str  # why it has ended early


class CommandProcess:
    """A running command. It continues if this process ends."""

    def __init__(self, *arguments: str) -> None:
        """Start the command."""
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `wait` closes it
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - `wait` closes it
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "dicom_adapter", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )

    def wait(self, seconds: float | None) -> Finished | None:
        """Return the end of the command; None if it does not end within this time."""
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        with self._output, self._errors:
            self._output.seek(0)
            self._errors.seek(0)
            try:
                return Finished(json.loads(self._output.read()), "")
            except ValueError:
                lines = self._errors.read().decode("utf-8", "replace").split("\n")
        text = " ".join(line.strip() for line in lines if line.strip())
        return Finished(None, text or f"the command ended with status {status}")

    def kill(self) -> None:
        """End the command now."""
        self._process.kill()


class RunState(str, Enum):
    """The state of the last audit."""

    NEVER = "never"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@define(slots=False)
class Audits:
    """The audits that were started here; one at a time, and the result of the last one. Thread-safe."""

    path: str
    now: Callable[[], datetime]
    state: RunState = RunState.NEVER
    started_at: datetime | None = None
    finished_at: datetime | None = None
    by: str = ""
    report: Any = None
    problem: str = ""
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _command: CommandProcess | None = field(default=None, init=False)

    def begin(self, by: str, *, verify: bool) -> None:
        """Start an audit. Raises Refused if one is running."""
        if not self.path:
            raise Refused(NO_PATH)
        with self._lock:
            if self.state is RunState.RUNNING:
                raise Refused("An audit is running already: wait for its end.")
            self._command = CommandProcess("audit", self.path, "--json", *(["--verify"] if verify else []))
            self.state, self.by, self.started_at, self.finished_at = RunState.RUNNING, by, self.now(), None
        threading.Thread(target=self._follow, args=[self._command], name="audit", daemon=True).start()

    def _follow(self, command: CommandProcess) -> None:
        finished = command.wait(None)
        assert finished is not None  # it waits without a limit
        with self._lock:
            is_report = finished.document is not None
            self.state = RunState.FINISHED if is_report else RunState.FAILED
            self.report, self.problem, self.finished_at = finished.document, finished.problem, self.now()
            self._command = None

    # --- as a companion of the server ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Do nothing: an audit is started by a request."""

    def stop(self) -> None:
        """End the running audit."""
        with self._lock:
            command = self._command
        if command is not None:
            command.kill()
