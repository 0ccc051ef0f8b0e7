"""Operators find the processes of a service: `ps` shows what each process is, and `status` shows the PIDs."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE
from support.listening import wait_until

CONFIGURATION = f'{STORAGE}[dicom]\nreceivers = 2\n[ae-titles.LUNG.settings]\npipeline-a = "a"\n'


def test_each_process_has_a_title_and_status_shows_its_pid(launch_service: LaunchService) -> None:
    """A title names the configuration file, because several services may run on one machine."""
    service = launch_service(CONFIGURATION)
    service.port()
    pids = service.pids()
    names = ["service", "host", "receiver 1 of 2", "receiver 2 of 2"]
    assert [f"dicom-adapter: {name} ({service.configuration})" for name in names] == [title_of(pid) for pid in pids]

    expected = dict(zip(["service", "host", "receiver 1", "receiver 2"], pids, strict=True))
    wait_until(lambda: expected == pids_in_status(service.configuration))  # they are written after the start
    assert 0 == service.stop()
    stopped = CliRunner().invoke(app, ["status", str(service.configuration)]).stdout
    assert "PID" not in stopped


def pids_in_status(configuration: Path) -> dict[str, int]:
    status = json.loads(CliRunner().invoke(app, ["status", str(configuration), "--json"]).stdout)
    return {part["part"]: part["pid"] for part in status["parts"] if part["pid"] is not None}


def title_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
