"""Standard streams that are closed, full or encoded differently: one clear line instead of a traceback."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dicom_adapter.api.errors import DicomAdapterError

STDIN, STDOUT, STDERR = 0, 1, 2


class OutputFailed(SystemExit):
    """Standard output cannot be written. This ends the command: code that handles every OSError does not catch it."""

    def __init__(self, reason: str) -> None:
        super().__init__(1)
        self.reason = reason  # "" if the reader has closed the pipe: it needs no more output


class _Output(io.FileIO):
    """Standard output. After the first error it discards everything, so that the end of the process does not fail."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as failure:
            discard = os.open(os.devnull, os.O_WRONLY)
            os.dup2(discard, STDOUT)
            os.close(discard)
            raise OutputFailed("" if failure.errno == errno.EPIPE else _reason(failure)) from None


class _Errors(io.FileIO):
    """Standard error. Errors are ignored, because there is no other place to report them."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def _reason(failure: OSError) -> str:
    return "it is closed" if failure.errno == errno.EBADF else str(failure.strerror)


def open_streams() -> bool:
    """Make the standard streams safe to write to. Return whether standard error was open.

    Closed streams are opened on /dev/null: otherwise the next file that is opened, such as the ledger, would get the
    number of the stream, and receive the output.
    """
    was_open = {number: _is_open(number) for number in (STDIN, STDOUT, STDERR)}
    for number, is_open in was_open.items():
        if not is_open:  # a write to standard output must fail, therefore it is opened for reading
            os.open(os.devnull, os.O_WRONLY if number == STDERR else os.O_RDONLY)  # uses the lowest free number
            os.set_inheritable(number, True)
    sys.stdout = _text(_Output(STDOUT, "w", closefd=False), sys.stdout)
    sys.stderr = _text(_Errors(STDERR, "w", closefd=False), sys.stderr)
    return was_open[STDERR]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _text(raw: io.FileIO, replaced: Any) -> io.TextIOWrapper:
    encoding = getattr(replaced, "encoding", None) or "utf-8"
    is_line_buffered = raw.fileno() == STDERR or raw.isatty()
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=encoding, errors="backslashreplace", line_buffering=is_line_buffered
    )


@contextmanager
def failures_on_one_line(failed_status: int) -> Iterator[None]:
    """End the process with one line and this exit status if a file, the ledger or the output of the block fails."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputFailed as failure:
        if failure.reason:
            sys.stderr.write(f"error: standard output cannot be written: {failure.reason}\n")
        sys.exit(failed_status)
    except OSError as failure:
        where = "" if failure.filename is None else f"{failure.filename}: "
        sys.stderr.write(f"error: {where}{failure.strerror or failure}\n")
        sys.exit(failed_status)
    except DicomAdapterError as failure:
        sys.stderr.write(f"error: {failure}\n")
        sys.exit(failed_status)
