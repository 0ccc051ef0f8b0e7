"""Child processes: they end without a traceback when the service is killed, limit their heaps, and ignore signals."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict, evolve

from dicom_adapter.runtime.channel import Child, Report, Start

START = Start(
    configuration="",
    folder="",
    log_style="json",
    port=None,
    is_first=True,
    wake_fd=0,
    plugins=None,
    clock=[1_767_600_000_000_000_000, 7],
)
# A child that exits with status 7 after a stop, and with 5 when the service has ended.
CHILD = """
import sys
from dicom_adapter.runtime.channel import Channel
channel = Channel()
channel.start()
channel.report("ready")
sys.exit(7 if channel.wait_for_stop(print) else 5)
"""


def run_without_a_service(to_child: bytes) -> tuple[int, bytes]:
    """Return the exit status and stderr of a child that receives these bytes and whose reports cannot be delivered."""
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", CHILD], input=to_child, stdout=write, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(write)
    return ended.returncode, ended.stderr


def test_a_process_ends_when_the_service_dies_before_the_first_message() -> None:
    """Verified to fail when an empty line is parsed."""
    assert (0, b"") == run_without_a_service(b"")


def test_a_process_continues_when_its_reports_cannot_be_delivered() -> None:
    """Verified to fail when a broken pipe is raised."""
    assert (5, b"") == run_without_a_service(json.dumps(asdict(START)).encode() + b"\n")


REPORTING = """
import os
from dicom_adapter.runtime.channel import Channel
channel = Channel()
channel.start()
channel.report("started", heaps=os.environ["MALLOC_ARENA_MAX"])
"""


@pytest.mark.parametrize(("configured", "expected"), [(None, "2"), ("5", "5")])
def test_a_process_limits_its_heaps_unless_its_environment_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str | None, expected: str
) -> None:
    """`MALLOC_ARENA_MAX` is the number of heaps.

    Verified to fail when the service's environment is passed on unchanged.
    """
    (tmp_path / "reporting.py").write_text(REPORTING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if configured is not None:
        monkeypatch.setenv("MALLOC_ARENA_MAX", configured)
    reports: queue.SimpleQueue[tuple[Any, Report]] = queue.SimpleQueue()
    read, write = os.pipe()
    try:
        child = Child("reporting", "reporting", [write], reports)
        child.configure(evolve(START, wake_fd=write))
        with child._process:
            assert (child, {"event": "started", "heaps": expected}) == reports.get(timeout=60)
            assert (child, {"event": "ended", "status": 0}) == reports.get(timeout=60)
    finally:
        os.close(read)
        os.close(write)


SIGNALLED = """
import os, signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    os.kill(os.getpid(), number)
from dicom_adapter.runtime.channel import Channel
channel = Channel()
channel.start()
channel.report("started")
"""


def test_a_signal_to_the_group_does_not_end_a_process_that_has_just_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Service managers and terminals send signals to all processes. The supervisor decides when a child ends.

    Verified to fail when `Child` does not block the signals.
    """
    (tmp_path / "signalled.py").write_text(SIGNALLED, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    reports: queue.SimpleQueue[tuple[Any, Report]] = queue.SimpleQueue()
    with Path("/dev/null").open("wb") as wake:
        child = Child("signalled", "signalled", [wake.fileno()], reports)
        child.configure(evolve(START, wake_fd=wake.fileno()))
        with child._process:
            assert (child, {"event": "started"}) == reports.get(timeout=60)
            assert (child, {"event": "ended", "status": 0}) == reports.get(timeout=60)
