"""`dicom-adapter audit` while a real service runs, and `audit --repair` after it has stopped."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.service.launch import LaunchedService, ServiceEnded
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, send, wait_until_reclaimed, write_study

CONFIGURATION = (
    STORAGE.replace("reserve = 0", 'reserve = 0\nbackend = "files"')
    + """
[ae-titles.LUNG.settings]
pipeline-a = "pipeline-1"

[ae-titles.WAIT.settings]
timeout = 3600
pipeline-a = "pipeline-1"
"""
)


def audit(service: LaunchedService, *arguments: str, status: int) -> Result:
    """Run the command in this process and check its exit status."""
    command = ["audit", "--config", str(service.configuration), *arguments]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "80"})
    assert status == result.exit_code, result.output
    return result


def audit_as_json(service: LaunchedService, *arguments: str, status: int) -> Any:
    return json.loads(audit(service, *arguments, "--json", status=status).stdout)


def objects(service: LaunchedService) -> list[Path]:
    return list((service.configuration.parent / "data" / "instances").glob("??/*.dcm"))


@pytest.fixture
def service(launch_service: LaunchService, tmp_path: Path) -> Iterator[LaunchedService]:
    """A service with three submitted and two pending instances."""
    launched = launch_service(CONFIGURATION)
    assert all(result.ok for result in send(write_study(tmp_path / "lung", instances=3), launched, "LUNG"))
    wait_until_reclaimed(launched, 3)
    assert all(result.ok for result in send(write_study(tmp_path / "wait", instances=2), launched, "WAIT"))
    yield launched


def test_a_running_service_is_audited_but_not_repaired(service: LaunchedService) -> None:
    """A repair is refused, also while only a receiver runs."""
    assert (
        "LUNG: 3 received = 3 reclaimed (submitted)\nWAIT: 2 received = 2 pending\n\nNo problems found.\n"
        == audit(service, "--verify", status=0).stdout
    )
    refused = audit(service, "--repair", status=2).stderr
    service_pid, host, receiver = service.pids()
    first, second = sorted((host, receiver))
    assert f"(PIDs {first}, {second}) is using" in refused
    os.kill(service_pid, signal.SIGSTOP)  # so that the supervisor does not restart the host
    os.kill(host, signal.SIGKILL)
    try:
        audit(service, "--repair", status=2)
    finally:
        os.kill(service_pid, signal.SIGCONT)


def test_a_repair_fixes_and_reports_the_findings_of_a_stopped_service(
    service: LaunchedService, launch_service: LaunchService
) -> None:
    """After the repair, the service can start again."""
    service.stop()
    lost, kept = objects(service)
    content = kept.read_bytes()
    lost.unlink()
    report = audit_as_json(service, status=1)
    assert ({"object-missing": 1}, False, False) == (report["counts"], report["running"], report["ok"])
    assert audit_as_json(service, "--repair", status=0)["repair"][0]["repaired"]

    shard = kept.parent
    copy_key, garbage_key = (f"{shard.name}{digit * 30}" for digit in "01")
    (shard / f"{copy_key}.dcm").write_bytes(content)
    (shard / f"{garbage_key}.dcm").write_bytes(b"garbage")
    output = audit(service, "--repair", status=1).stdout
    assert "WAIT: 2 received = 1 pending + 1 quarantined\n" in output
    assert f"repaired: object {copy_key}: deleted, because it has the same data set as instance" in output
    assert f"not repaired: object {garbage_key} is kept: " in output
    restarted = launch_service(CONFIGURATION)
    assert restarted.port()
    restarted.stop()
    assert kept in objects(restarted)


def test_the_service_does_not_start_during_a_repair(service: LaunchedService, launch_service: LaunchService) -> None:
    """The error names the reason."""
    service.stop()
    with DataFolder(service.configuration.parent / "data").exclusive() as is_exclusive:
        assert is_exclusive
        refused = launch_service(CONFIGURATION)
        with pytest.raises(ServiceEnded, match=f"`audit --repair` .PID {os.getpid()}. is using"):
            refused.port()
        assert 1 == refused.wait()


def test_a_missing_ledger_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "adapter.toml"
    path.write_text(CONFIGURATION, encoding="utf-8")
    result = CliRunner().invoke(app, ["audit", "--config", str(path)])
    assert (2, True) == (result.exit_code, "there is no ledger" in result.stderr)
    assert [path] == list(tmp_path.iterdir())
