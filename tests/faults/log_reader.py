"""The reader of the service's log, which may stop: for a while, or until the service ends."""

from __future__ import annotations

import threading

from dicom_adapter.service.launch import LaunchedService


class ServiceWithLogReader(LaunchedService):
    """A service whose stderr is a pipe. While nothing is read, the pipe is full after some hundred lines."""

    def __init__(self, *arguments: object, **more: object) -> None:
        self._may_read = threading.Event()
        self._may_read.set()
        super().__init__(*arguments, **more)  # type: ignore[arg-type] # those of the base class

    def _add(self, line: str) -> None:
        self._may_read.wait()
        super()._add(line)

    def stop_log_reader(self) -> None:
        """Read no more lines of the log."""
        self._may_read.clear()

    def continue_log_reader(self) -> None:
        """Read the log again."""
        self._may_read.set()
