"""Logs: complete lines from several processes, and no process that stops because its log cannot be written."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
import structlog

from dicom_adapter.runtime import logs

LINES = 1000
WRITER = f"""
import sys
from dicom_adapter.runtime import logs
import structlog
logs.configure(style="json", level="info", process=sys.argv[1])
log = structlog.get_logger("test")
print("ready", flush=True)
sys.stdin.readline()
for number in range({LINES}):
    log.info("line_written", number=number, padding="x" * 200)
logs.close()
"""


class Log:
    """A log whose reader is the test. Each write arrives as one datagram."""

    def __init__(self, style: str = "json") -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._reader.setblocking(False)
        logs.configure(style=style, level="info", process="host", descriptor=self._writer.fileno())
        self.logger: Any = structlog.get_logger("test")

    def writes(self) -> list[str]:
        """Return the writes since the last call."""
        texts = []
        while True:
            try:
                texts.append(self._reader.recv(1 << 16).decode())
            except BlockingIOError:
                return texts

    def close(self) -> None:
        logs.current_output().close()
        self._reader.close()
        self._writer.close()


@pytest.fixture
def open_log() -> Iterator[Callable[..., Log]]:
    """Return a function that configures the log of this process, until the end of the test."""
    before = structlog.get_config()
    with ExitStack() as opened:

        def configure(style: str = "json") -> Log:
            return opened.enter_context(closing(Log(style)))

        yield configure
    structlog.configure(**before)


@pytest.mark.parametrize("style", ["json", "console"])
def test_an_event_is_one_write_of_one_line(open_log: Callable[..., Log], style: str) -> None:
    """Verified to fail when the end of the line is written separately."""
    log = open_log(style)
    log.logger.info("job_queued", job_id="a1")
    [written] = log.writes()
    assert written.endswith("\n")
    assert 1 == written.count("\n")
    assert "job_queued" in written


def test_a_line_begins_with_event_level_and_time_and_has_no_empty_fields(open_log: Callable[..., Log]) -> None:
    """Zero and False are not empty.

    Verified to fail when the fields are written in the order of the call, and when empty fields are written, too.
    """
    log = open_log()
    log.logger.warning("job_faulted", job_id="a1", error="", peer=None, statuses={}, attempts=0, drained=False)
    [entry] = map(json.loads, log.writes())
    assert ["event", "level", "timestamp", "process", "job_id", "attempts", "drained"] == list(entry)
    assert ("job_faulted", "warning", "host", 0, False) == tuple(
        entry[name] for name in ("event", "level", "process", "attempts", "drained")
    )


def test_processes_that_share_a_stream_write_complete_lines() -> None:
    """Two processes write to one pipe. Verified to fail when a line is written in two parts."""
    reading, writing = os.pipe()
    command = [sys.executable, "-c", WRITER]
    started = [
        subprocess.Popen([*command, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=writing)
        for name in ("host", "receiver")
    ]
    for process in started:
        assert process.stdout is not None
        assert b"ready\n" == process.stdout.readline()
    os.close(writing)
    for process in started:  # both write at the same time from now on
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    with os.fdopen(reading, "rb") as lines:
        entries = [json.loads(line) for line in lines]
    for process in started:
        process.communicate(timeout=60)
    assert [0, 0] == [process.returncode for process in started]
    for name in ("host", "receiver"):
        assert list(range(LINES)) == [entry["number"] for entry in entries if entry["process"] == name]


@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(), OSError(errno.EBADF, "closed")]
)
def test_a_full_or_closed_stream_raises_no_error(
    open_log: Callable[..., Log], monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """The process continues, logs again when the stream accepts data, and reports how many lines are missing.

    Verified to fail when the error is not caught.
    """
    log = open_log()
    output = logs.current_output()

    def fail(_data: bytes) -> int:
        raise failure

    with monkeypatch.context() as broken:
        broken.setattr(output, "_write", fail)
        log.logger.info("instance_stored")
        with logs.batch():
            log.logger.info("instance_stored")
            log.logger.info("instance_stored")
        logs.report_missing()
    log.logger.info("job_queued")
    logs.report_missing()
    queued, dropped = map(json.loads, log.writes())
    assert "job_queued" == queued["event"]
    assert ("log_lines_dropped", 3) == (dropped["event"], dropped["count"])


def test_a_value_that_is_not_unicode_can_be_logged(open_log: Callable[..., Log]) -> None:
    """A path may have bytes that are not UTF-8; orjson raises TypeError for them.

    Verified to fail when there is no fallback for orjson.
    """
    log = open_log()
    path = os.fsdecode(b"/data/\xff")
    log.logger.info("stored_objects_deleted", path=path, count=1)
    [entry] = map(json.loads, log.writes())
    assert (path, 1, "host") == (entry["path"], entry["count"], entry["process"])


def test_the_lines_of_a_block_are_written_at_its_end(open_log: Callable[..., Log]) -> None:
    """The lines are one write, even if the block raises.

    Verified to fail when they are written only if the block does not raise.
    """
    log = open_log()
    with pytest.raises(RuntimeError), logs.batch():
        log.logger.info("instance_stored")
        log.logger.info("instance_stored")
        assert [] == log.writes()
        raise RuntimeError
    [written] = log.writes()
    assert 2 == len(written.splitlines())


@pytest.mark.parametrize("value", ["A\r\n2026 [error] forged", "A\x1b[2J", "A\u2028B"])
def test_a_value_cannot_forge_a_line_or_change_the_terminal(open_log: Callable[..., Log], value: str) -> None:
    """Verified to fail when control characters are written as they are."""
    log = open_log("console")
    log.logger.info("association_rejected", calling_ae_title=value)
    [written] = log.writes()
    assert [written.removesuffix("\n")] == written.splitlines()
    assert "\x1b[2J" not in written
