"""Commands show instances that are stored, not yet entered in the ledger, while a real service runs."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, write_study
from support.listening import wait_until

CONFIGURATION = (
    STORAGE
    + """
[ae-titles.WAIT.settings]
timeout = 3600
pipeline-a = "pipeline-1"
"""
)


def call(service: LaunchedService, *arguments: str) -> Any:
    """Run a command in this process. Return its output, from JSON."""
    result = CliRunner().invoke(app, [*arguments, "--json", "--config", str(service.configuration)])
    assert 0 == result.exit_code, result.output
    return json.loads(result.stdout)


@contextmanager
def paused_host(service: LaunchedService) -> Iterator[None]:
    """Pause the host, and the supervisor, which would replace it."""
    pids = service.pids()[0], service.logged("process_started", name="host")[-1]["child"]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def service(launch_service: LaunchService) -> LaunchedService:
    launched = launch_service(CONFIGURATION)
    launched.port()
    return launched


def test_instances_are_shown_before_and_after_they_have_rows(service: LaunchedService, tmp_path: Path) -> None:
    """The host is paused: three instances are acknowledged without rows. No command calls them lost or orphaned."""
    files = write_study(tmp_path / "study", instances=5)
    study = str(dcmread(files[0]).StudyInstanceUID)
    assert all(result.ok for result in send(files[:2], service, "WAIT"))
    wait_until(lambda: 2 == len(call(service, "instances", "list", "--state", "pending")))
    with paused_host(service):
        assert all(result.ok for result in send(files[2:], service, "WAIT"))
        audit = call(service, "audit")
        assert (True, {"WAIT": 3}, []) == (audit["ok"], audit["notEntered"], audit["findings"])
        assert 3 == call(service, "status")["notEntered"]["instances"]
        states = [one["state"] for one in call(service, "instances", "list")]
        assert ["not-entered"] * 3 + ["pending"] * 2 == states
        [section] = call(service, "explain", study)["sections"]
        assert "not_entered" in [entry["kind"] for entry in section["entries"]]
    wait_until(lambda: 5 == len(call(service, "instances", "list", "--state", "pending")))
    audit = call(service, "audit", "--verify")
    assert (True, {}) == (audit["ok"], audit["notEntered"])
    assert 0 == call(service, "status")["notEntered"]["instances"]
    [section] = call(service, "explain", study)["sections"]
    assert "not_entered" not in [entry["kind"] for entry in section["entries"]]


def test_an_audit_in_the_middle_of_receiving_has_no_findings(service: LaunchedService, tmp_path: Path) -> None:
    """Each audit compares objects and rows while both are added."""
    files = write_study(tmp_path / "study", instances=60)
    audits = []
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(send, files, service, "WAIT")
        while not sending.done():
            audits.append(call(service, "audit"))
    assert all(result.ok for result in sending.result())
    assert audits
    assert [] == [audit["findings"] for audit in audits if not audit["ok"]]
