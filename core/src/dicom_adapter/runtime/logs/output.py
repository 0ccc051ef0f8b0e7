"""Write log lines without blocking: a bounded queue, and a count of the lines that were dropped.

A line is written by the thread that logs it, with a write that does not block. So in the usual case the line is
written when the call returns, and is not lost if the process is killed. While the reader of the log does not read,
lines wait in the queue. A thread writes them when the reader continues. If the queue is full, lines are dropped.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from dicom_adapter.api.counts import counted

MAX_WAITING = 10_000  # maximum number of lines in the queue, about 3 MB
MAX_PIPE_BYTES = select.PIPE_BUF  # a longer write to a pipe may be mixed with the lines of other processes
MAX_FILE_BYTES = 1 << 16  # maximum number of bytes of one write to a file
REPORT_SECONDS = 10.0  # time between two reports of lines that were not written
POLL_MS = 1000  # maximum time that the thread waits for the reader before it checks whether the log was closed

Write = Callable[[bytes], int]  # returns the number of bytes written; raises BlockingIOError if none can be written


class LogOutput:
    """The file, pipe or terminal that receives the log. Thread-safe and reentrant: a garbage collection may log."""

    def __init__(
        self, descriptor: int, *, max_waiting: int = MAX_WAITING, report: Callable[[], None] = lambda: None
    ) -> None:
        """`max_waiting`: maximum length of the queue. `report` is called regularly on a thread.

        `close` does not close `descriptor`.
        """
        self._max_waiting = max_waiting
        self._report = report
        self._descriptor = descriptor
        self._write, self._is_blocking, self._close = _open(descriptor)
        self._max_bytes = MAX_FILE_BYTES if stat.S_ISREG(os.fstat(descriptor).st_mode) else MAX_PIPE_BYTES
        self._waiting: deque[bytes] = deque()
        self._rest = b""  # the unwritten rest of the last write; used by the holder of `_writing`
        self._writing = threading.Lock()  # threads that log never wait for it: its holder writes their lines, too
        self._counting = threading.RLock()
        self._dropped = 0
        self._fails = False  # the last write raised an error
        self._is_stalled = threading.Event()  # set if the thread has to write the lines
        self._is_closed = False
        self._thread = threading.Thread(target=self._write_waiting, name="log", daemon=True)
        self._thread.start()

    def put(self, lines: Sequence[str]) -> None:
        """Write lines, each with its line feed. Lines that cannot be written now wait, or are dropped."""
        for line in lines:
            if len(self._waiting) < self._max_waiting:
                self._waiting.append(line.encode("utf-8", "backslashreplace"))
            else:
                self._count_dropped(1)
        if self._is_blocking:
            self._is_stalled.set()
        elif not self._is_stalled.is_set():
            self._drain()

    def take_dropped(self) -> int:
        """Return the number of lines dropped since the last call; 0 while its report would be dropped, too."""
        if self._fails or len(self._waiting) >= self._max_waiting:
            return 0
        with self._counting:
            dropped, self._dropped = self._dropped, 0
        return dropped

    @property
    def problem(self) -> str:
        """The reason why lines are missing from the log, until the log reports it; "" if no lines are missing."""
        if not self._dropped:
            return ""
        reason = "it cannot be written" if self._fails else "its reader is too slow, or has stopped reading"
        return f"{counted(self._dropped, 'line')} of the log {'is' if self._dropped == 1 else 'are'} missing: {reason}"

    def flush(self, seconds: float) -> None:
        """Wait up to `seconds` until no line waits."""
        deadline = time.monotonic() + seconds
        while (self._waiting or self._rest) and time.monotonic() < deadline:
            self._is_stalled.set()
            time.sleep(0.01)

    def close(self) -> None:
        """Stop the thread, and close the descriptor that this object has opened. Lines in the queue are lost."""
        self._is_closed = True
        self._is_stalled.set()
        self._thread.join()
        self._close()

    def _count_dropped(self, lines: int) -> None:
        with self._counting:
            self._dropped += lines

    def _drain(self) -> None:
        """Write the waiting lines, unless another thread is writing: it then writes these lines, too."""
        while self._waiting and self._writing.acquire(blocking=False):
            try:
                self._write_all()
            except BlockingIOError:
                self._is_stalled.set()
                return
            finally:
                self._writing.release()

    def _write_all(self) -> None:
        """Write the waiting lines. Raises BlockingIOError if the reader does not read."""
        while True:
            self._rest = self._rest or self._next_lines()
            if not self._rest:
                return
            try:
                written, self._fails = self._write(self._rest), False
            except BlockingIOError:
                raise
            except OSError:  # the disk is full, or the reader has closed the pipe
                written, self._fails = len(self._rest), True
                self._count_dropped(self._rest.count(b"\n"))
            self._rest = self._rest[written:]

    def _next_lines(self) -> bytes:
        """Remove as many complete lines from the queue as one write may have, but at least one, and return them."""
        lines: list[bytes] = []
        size = 0
        while self._waiting and (not lines or size + len(self._waiting[0]) <= self._max_bytes):
            lines.append(self._waiting.popleft())
            size += len(lines[-1])
        return b"".join(lines)

    def _write_waiting(self) -> None:
        """Run the thread: write the lines for which the reader was too slow, and call `report`."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        while not self._is_closed:
            if self._is_stalled.wait(REPORT_SECONDS):
                if not self._is_blocking:
                    poll.poll(POLL_MS)
                with self._writing:
                    try:
                        self._write_all()
                    except BlockingIOError:
                        continue
                    self._is_stalled.clear()
                self._drain()  # lines that were added while this thread held the lock
            self._report()


def _open(descriptor: int) -> tuple[Write, bool, Callable[[], None]]:
    """Return functions that write to a descriptor and close it, and whether a write may wait for the reader of the log.

    The descriptor is shared with other processes, so its flags are not changed: a pipe or a terminal is opened a second
    time. A write to a file may wait for the disk, but for nothing else.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        stream = socket.socket(fileno=os.dup(descriptor))
        return lambda data: stream.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL), False, stream.close
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        opened = os.dup(descriptor) if stat.S_ISREG(mode) else os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # the pipe belongs to another user, or there is no /proc
        return partial(os.write, descriptor), True, lambda: None
    return partial(os.write, opened), False, partial(os.close, opened)
