"""A log whose reader does not read blocks nobody: lines wait in a bounded queue, or are dropped and counted."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from attrs import frozen

from dicom_adapter.runtime.logs import output
from dicom_adapter.runtime.logs.output import LogOutput

WAITING = 100
LINE = "x" * 99 + "\n"
MORE_LINES_THAN_FIT = 20_000  # 2 MB; a pipe and a socket have less


@frozen
class Stalled:
    """A log whose reader has stopped reading."""

    output: LogOutput
    reading: int

    def read(self, size: int) -> bytes:
        received = b""
        while len(received) < size and (data := os.read(self.reading, 1 << 16)):
            received += data
        return received


def _pipe() -> tuple[int, int]:
    return os.pipe()


def _socket() -> tuple[int, int]:
    """Return a pair of sockets: under systemd, stderr is a socket."""
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def _terminal() -> tuple[int, int]:
    return os.openpty()


@pytest.fixture(params=[_pipe, _socket, _terminal])
def stalled(request: pytest.FixtureRequest) -> Iterator[Stalled]:
    reading, writing = request.param()
    with closing(LogOutput(writing, max_waiting=WAITING)) as log_output:
        yield Stalled(log_output, reading)
        os.set_blocking(reading, False)
        try:
            while os.read(reading, 1 << 16):
                pass
        except BlockingIOError:
            pass
    os.close(reading)
    os.close(writing)


def test_logging_does_not_wait_for_its_reader(stalled: Stalled) -> None:
    """Nobody reads, and every call returns. The lines beyond the queue are counted when there is space again.

    Verified to fail, by the time limit, when lines are written to the descriptor that blocks.
    """
    for _number in range(MORE_LINES_THAN_FIT):
        stalled.output.put([LINE])
    assert 0 == stalled.output.take_dropped()  # its report would be dropped as well
    assert re.fullmatch(
        r"\d+ lines? of the log (is|are) missing: its reader is too slow, or .*", stalled.output.problem
    )


def test_lines_that_wait_are_written_when_the_reader_continues() -> None:
    """All lines before the first dropped line arrive complete and in order, and the dropped lines are counted.

    Verified to fail when a line that was written in part is written again, and when the thread does not write.
    """
    reading, writing = os.pipe()
    log_output = LogOutput(writing, max_waiting=WAITING)
    lines = [f"{number:099d}\n".encode() for number in range(MORE_LINES_THAN_FIT)]
    for line in lines:
        log_output.put([line.decode()])
    received: list[bytes] = []
    with os.fdopen(reading, "rb") as reader:
        drained = threading.Thread(target=lambda: received.extend(reader))
        drained.start()
        log_output.flush(60)
        log_output.close()
        os.close(writing)
        drained.join()
    assert lines[: len(received)] == received
    assert MORE_LINES_THAN_FIT == len(received) + log_output.take_dropped()


def test_a_reader_that_stops_before_a_line_is_complete_gets_its_rest(stalled: Stalled) -> None:
    """A line that is longer than the pipe's buffer. Verified to fail when the remainder of a write is dropped."""
    line = "y" * 300_000 + "\n"
    stalled.output.put([line])
    assert line.encode() == stalled.read(len(line)).replace(b"\r\n", b"\n")[: len(line)]


def test_the_flags_of_the_shared_descriptor_do_not_change() -> None:
    """Other programs write to the same pipe, and do not expect EAGAIN. Verified to fail with O_NONBLOCK on it."""
    reading, writing = os.pipe()
    with closing(LogOutput(writing)) as log_output:
        log_output.put([LINE])
        assert not fcntl.fcntl(writing, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(reading)
    os.close(writing)


def test_a_pipe_that_cannot_be_opened_again_is_written_by_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose stderr belongs to another user.

    Verified to fail, by the time limit, when the caller writes.
    """
    reading, writing = os.pipe()

    def refuse(*_arguments: object) -> int:
        raise PermissionError

    with monkeypatch.context() as patched:
        patched.setattr(output.os, "open", refuse)
        log_output = LogOutput(writing, max_waiting=WAITING)
    for _number in range(MORE_LINES_THAN_FIT):
        log_output.put([LINE])
    with os.fdopen(reading, "rb") as reader:
        assert LINE.encode() == reader.readline()
        drained = threading.Thread(target=reader.read)
        drained.start()
        log_output.flush(60)
        log_output.close()
        os.close(writing)
        drained.join()
    assert log_output.take_dropped() > 0


def test_a_flush_waits_for_a_short_time_only(stalled: Stalled) -> None:
    """Verified to fail, by the time limit, when `flush` waits until the lines are written."""
    for _number in range(MORE_LINES_THAN_FIT):
        stalled.output.put([LINE])
    stalled.output.flush(0.01)
    assert stalled.output._waiting


def test_lines_in_a_file_are_complete(tmp_path: Path) -> None:
    """Verified to fail when a file is opened again, at its start."""
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    with path.open("ab") as file, closing(LogOutput(file.fileno())) as log_output:
        log_output.put([LINE])
        log_output.put([LINE, LINE])
    assert "before\n" + 3 * LINE == path.read_text(encoding="utf-8")


def test_a_line_that_is_logged_during_a_write_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A garbage collection during a write may log, on the same thread.

    Verified to fail, by the time limit, when `put` waits for the lock.
    """
    with (tmp_path / "log").open("ab") as file, closing(LogOutput(file.fileno())) as log_output:
        write = log_output._write

        def write_and_log(data: bytes) -> int:
            if data == b"first\n":
                log_output.put(["second\n"])
            return write(data)

        monkeypatch.setattr(log_output, "_write", write_and_log)
        log_output.put(["first\n"])
    assert "first\nsecond\n" == (tmp_path / "log").read_text(encoding="utf-8")
