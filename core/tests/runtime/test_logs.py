"""Logs: complete lines from several processes, and no process that stops because its log cannot be written."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
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
"""


class Stream(StringIO):
    """A stream that records each write, or raises."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.failure = failure
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        if self.failure is not None:
            raise self.failure
        self.writes.append(text)
        return len(text)

    def flush(self) -> None:
        if self.failure is not None:
            raise self.failure


@pytest.fixture(autouse=True)
def _restore_configuration() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def log_to(stream: Stream, monkeypatch: pytest.MonkeyPatch, style: str = "json") -> Any:
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(style=style, level="info", process="host")
    return structlog.get_logger("test")


@pytest.mark.parametrize("style", ["json", "console"])
def test_an_event_is_one_write_of_one_line(monkeypatch: pytest.MonkeyPatch, style: str) -> None:
    """Verified to fail when PrintLoggerFactory is used, which writes the end of the line separately."""
    stream = Stream()
    log_to(stream, monkeypatch, style).info("job_queued", job_id="a1")
    [written] = stream.writes
    assert written.endswith("\n")
    assert 1 == written.count("\n")
    assert "job_queued" in written


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
    "failure",
    [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(), ValueError("I/O operation on closed file")],
)
def test_a_full_or_closed_stream_raises_no_error(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    """The process continues, and logs again when the stream accepts data.

    Verified to fail when `suppress` is removed.
    """
    stream = Stream(failure)
    log = log_to(stream, monkeypatch)
    log.info("instance_stored")
    with logs.batch():
        log.info("instance_stored")
    stream.failure = None
    log.info("job_queued")
    assert ["job_queued"] == [json.loads(line)["event"] for line in stream.writes]


def test_a_value_that_is_not_unicode_can_be_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path may have bytes that are not UTF-8; orjson raises TypeError for them.

    Verified to fail when there is no fallback for orjson.
    """
    stream = Stream()
    path = os.fsdecode(b"/data/\xff")
    log_to(stream, monkeypatch).info("stored_objects_deleted", path=path, count=1)
    [entry] = map(json.loads, stream.writes)
    assert (path, 1, "host") == (entry["path"], entry["count"], entry["process"])


def test_the_lines_of_a_block_are_written_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines are one write, even if the block raises.

    Verified to fail when they are written only if the block does not raise.
    """
    stream = Stream()
    log = log_to(stream, monkeypatch)
    with pytest.raises(RuntimeError), logs.batch():
        log.info("instance_stored")
        log.info("instance_stored")
        assert [] == stream.writes
        raise RuntimeError
    [written] = stream.writes
    assert 2 == len(written.splitlines())
