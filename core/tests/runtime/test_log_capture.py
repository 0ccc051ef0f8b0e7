"""Every line of a process is an event, also those of libraries, and none quotes the values of an exception."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from structlog.testing import capture_logs

from dicom_adapter.runtime.channel import Child, Report, Start

PATIENT = "DOE^JANE"
PROCESS = """
import asyncio, gc, logging, os, sys, threading, warnings
from dicom_adapter.runtime import logs
from dicom_adapter.runtime.logs.capture import capture
logs.configure(style="json", level="info", process="host")
capture()
PATIENT = sys.argv[1]
"""
START = Start(
    configuration="", folder="", log_style="json", port=None, is_first=True, wake_fd=0, plugins=None, clock=()
)


def events(code: str) -> list[Any]:
    """Run code in a process and return its log. Each line must be an event, and must not contain the patient."""
    ended = subprocess.run(
        [sys.executable, "-c", PROCESS + code, PATIENT], stderr=subprocess.PIPE, check=False, timeout=60
    )
    assert PATIENT.encode() not in ended.stderr
    return [json.loads(line) for line in ended.stderr.splitlines()]


@pytest.mark.parametrize("name", ["uvicorn.error", "asyncio", "grpc", "alembic", "urllib3.connectionpool"])
def test_the_messages_of_libraries_are_events(name: str) -> None:
    """A warning, with its arguments.

    Verified to fail when the root logger has no handler: Python then prints the message as it is.
    """
    [event] = events(f"logging.getLogger({name!r}).warning('%d connections of %s are open', 3, 'a peer')")
    assert ("library_message", "warning", name) == (event["event"], event["level"], event["logger"])
    assert "3 connections of a peer are open" == event["text"]


def test_the_upgrade_of_a_ledger_is_an_event_and_other_information_of_libraries_is_not() -> None:
    """Verified to fail when the level of Alembic is not set."""
    code = """
logging.getLogger("alembic.runtime.migration").info("Running upgrade 0001 -> 0002")
logging.getLogger("httpx").info("HTTP Request")
"""
    assert ["Running upgrade 0001 -> 0002"] == [event["text"] for event in events(code)]


@pytest.mark.parametrize(
    ("code", "event", "field"),
    [
        ("raise ValueError(PATIENT)", "exception_uncaught", "error"),
        (
            "thread = threading.Thread(target=int, args=[PATIENT]); thread.start(); thread.join()",
            "exception_uncaught",
            "error",
        ),
        (
            "class Closed:\n    def __del__(self): raise ValueError(PATIENT)\nmade = Closed(); del made",
            "exception_ignored",
            "error",
        ),
        ("warnings.warn(PATIENT, UserWarning)", "library_warning", "kind"),
        (
            "try: int(PATIENT)\nexcept ValueError as e: logging.getLogger('grpc').exception('Failed: %s', e)",
            "library_message",
            "error",
        ),
        (
            "async def fail(): raise ValueError(PATIENT)\n"
            "async def main():\n    task = asyncio.ensure_future(fail())\n    await asyncio.sleep(0)\n"
            "    del task\n    gc.collect()\nasyncio.run(main())",
            "library_message",
            "error",
        ),
        ("logging.getLogger('grpc').warning('%d', PATIENT)", "library_message", "text"),
        ("logging.getLogger('pydicom').error(PATIENT); logging.getLogger('x').error('end')", "library_message", "text"),
    ],
    ids=["main", "thread", "destructor", "warning", "logged exception", "task", "wrong arguments", "pydicom"],
)
def test_exceptions_and_warnings_are_one_event_without_patient_data(code: str, event: str, field: str) -> None:
    """An exception is logged with its kind and place. The messages of pydicom are not logged.

    Verified to fail when a hook is not set, and when the text of an exception is inserted into a message.
    """
    [entry] = events(code)
    assert event == entry["event"]
    assert entry[field]


CRASHING = """
import os, sys
from dicom_adapter.runtime.channel import Channel
channel = Channel()
channel.start()
print("from a plugin", flush=True)
os.write(2, b"from a library in C\\nlast words without a line feed")
os.abort()
"""


def test_the_last_output_of_a_process_that_crashes_is_logged_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor reads it, line by line, so that a crash of the process does not lose it.

    Verified to fail when the child shares the supervisor's stderr, and when the end is reported first.
    """
    (tmp_path / "crashing.py").write_text(CRASHING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    reports: queue.SimpleQueue[tuple[Any, Report]] = queue.SimpleQueue()
    with Path("/dev/null").open("wb") as wake, capture_logs() as logged, ExitStack() as stack:
        child = Child("host", "crashing", [wake.fileno()], reports)
        stack.enter_context(child._process)
        child.configure(evolve(START, wake_fd=wake.fileno()))
        assert (child, {"event": "ended", "status": -signal.SIGABRT}) == reports.get(timeout=60)
        assert child.wait(60)
    assert [
        {"event": "process_output", "log_level": "warning", "name": "host", "text": text}
        for text in ("from a plugin", "from a library in C", "last words without a line feed")
    ] == logged


UPGRADE = """
from alembic import command
from alembic.config import Config
from dicom_adapter.ledger import Ledger
from dicom_adapter.ledger.migration import MIGRATIONS
ledger = Ledger(f"sqlite:///{sys.argv[2]}")
with ledger._engine.connect() as connection:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    command.upgrade(config, "0001")
    connection.commit()
ledger.migrate()
"""


def test_the_real_upgrade_of_a_ledger_is_logged_as_events(tmp_path: Path) -> None:
    """Each migration is an event. Verified to fail when Alembic configures its own log."""
    program = [sys.executable, "-c", PROCESS + UPGRADE, PATIENT, str(tmp_path / "ledger.sqlite")]
    ended = subprocess.run(program, stderr=subprocess.PIPE, check=True, timeout=60)
    logged = [json.loads(line) for line in ended.stderr.splitlines()]
    assert {"library_message"} == {event["event"] for event in logged}
    assert any(event["text"].startswith("Running upgrade 0001 -> 0002") for event in logged)
