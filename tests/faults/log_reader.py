"""The reader of the service's log, which may stop: for a while, or until the service ends."""

from __future__ import annotations

import fcntl
import struct
import termios
import threading

from dicom_adapter.service.launch import LaunchedService

PIPE_BYTES = 4096  # the smallest pipe, so that it is full within seconds


class ServiceWithLogReader(LaunchedService):
    """A service whose stderr is a pipe. While nothing is read, the pipe is full after some dozens of lines."""

    def __init__(self, *arguments: object, **more: object) -> None:
        self._may_read = threading.Event()
        self._may_read.set()
        super().__init__(*arguments, **more)  # type: ignore[arg-type] # those of the base class
        assert self._process.stderr is not None  # it is a pipe
        fcntl.fcntl(self._process.stderr, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def _add(self, line: str) -> None:
        self._may_read.wait()
        super()._add(line)

    def stop_log_reader(self) -> None:
        """Read no more lines of the log."""
        self._may_read.clear()

    def continue_log_reader(self) -> bool:
        """Read the log again. Return whether the pipe was full."""
        was_full = not self._may_read.is_set() and self._waiting_bytes() > PIPE_BYTES // 2
        self._may_read.set()
        return was_full

    def _waiting_bytes(self) -> int:
        assert self._process.stderr is not None  # it is a pipe
        try:
            waiting: int = struct.unpack("i", fcntl.ioctl(self._process.stderr, termios.FIONREAD, bytes(4)))[0]
        except ValueError:  # closed: the service has ended, and everything was read
            return 0
        return waiting
