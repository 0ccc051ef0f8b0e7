"""A process of the service whose service is killed: it ends, and nothing about it looks like a defect."""

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

START = Start(configuration="", folder="", log_style="json", port=None, first=True, wake_fd=0, plugins=None)
CHILD = """
import sys
from dicom_adapter.runtime.channel import Channel
channel = Channel()
channel.start()
channel.report("ready")
sys.exit(7 if channel.wait_for_stop(print) else 5)
"""


def run_without_a_service(to_child: bytes) -> tuple[int, bytes]:
    """The exit status and the words of a child whose reports nobody reads, and who is told this and no more."""
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-c", CHILD], input=to_child, stdout=write, stderr=subprocess.PIPE, check=False, timeout=60
        )
    finally:
        os.close(write)
    return ended.returncode, ended.stderr


def test_it_ends_when_the_service_is_gone_before_it_said_what_to_do() -> None:
    """No first line: it ends in order. Fails when an empty line is parsed."""
    assert (0, b"") == run_without_a_service(b"")


def test_it_goes_on_to_its_end_when_nobody_reads_its_reports() -> None:
    """A report that cannot be delivered is not its concern. Fails when a broken pipe is raised."""
    assert (5, b"") == run_without_a_service(json.dumps(asdict(START)).encode() + b"\n")


TELLING = """
import os
from dicom_adapter.runtime.channel import Channel
channel = Channel()
channel.start()
channel.report("told", heaps=os.environ["MALLOC_ARENA_MAX"])
"""


@pytest.mark.parametrize(("configured", "expected"), [(None, "2"), ("5", "5")])
def test_it_spares_memory_unless_its_environment_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str | None, expected: str
) -> None:
    """Few heaps, as many as `MALLOC_ARENA_MAX` says. Fails when the service's environment is passed on as it is."""
    (tmp_path / "telling.py").write_text(TELLING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    if configured is not None:
        monkeypatch.setenv("MALLOC_ARENA_MAX", configured)
    reports: queue.SimpleQueue[tuple[Any, Report]] = queue.SimpleQueue()
    read, write = os.pipe()
    try:
        child = Child("telling", "telling", write, reports)
        child.configure(evolve(START, wake_fd=write))
        with child._process:
            assert (child, {"event": "told", "heaps": expected}) == reports.get(timeout=60)
            assert (child, {"event": "ended", "status": 0}) == reports.get(timeout=60)
    finally:
        os.close(read)
        os.close(write)
