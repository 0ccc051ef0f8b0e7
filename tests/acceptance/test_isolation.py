"""A crashing, a hanging, a leaking and an outdated plugin next to a healthy one, in the real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from isolation_plugins import AE_TITLES, BAD, HEALTHY, write_plugins

from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, send, write_study

pytestmark = pytest.mark.slow

CONFIGURATION = STORAGE + '[ae-titles.GOOD]\nprocessor = "healthy"\n' + AE_TITLES
# The healthy plugin shortens the time limits of the host that loads it, so that no test waits for half a minute.
IMPATIENT = """
from dicom_adapter.runtime.parts import PartKind

PartKind.LANE.deadline_seconds = PartKind.OBSERVER.deadline_seconds = 0.5
"""
SECONDS = 60  # time limit of each wait
INSTANCES = 10  # number sent to each AE title


@pytest.fixture
def _five_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install all five plugins."""
    (tmp_path / "site").mkdir()
    write_plugins(tmp_path / "site", {**BAD, "healthy": IMPATIENT + HEALTHY})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)


def problems(service: LaunchedService) -> dict[str, tuple[str, str]]:
    """Run `status`, and return level and reason of each part that is not green."""
    command = [sys.executable, "-m", "dicom_adapter", "status", "--config", str(service.configuration), "--json"]
    status = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    return {each["part"]: (each["level"], each["reason"]) for each in status["problems"]}


def wait_for_problems(service: LaunchedService, *parts: str) -> dict[str, tuple[str, str]]:
    """Wait until these parts have problems. The ledger is updated a little later than the log."""
    deadline = time.monotonic() + SECONDS
    while not set(parts) <= (reported := problems(service)).keys():
        assert time.monotonic() < deadline, reported
    return reported


@pytest.mark.usefixtures("_five_plugins")
def test_the_healthy_ae_title_keeps_receiving_and_submitting(launch_service: LaunchService, tmp_path: Path) -> None:
    """The other plugins crash, hang and leak, and each of them is reported by name.

    Verified to fail when the values that `dicom_adapter_servers` returns are not checked (then the host dies), or
    observers run on the thread of the lanes.
    """
    service = launch_service(CONFIGURATION)
    study = write_study(tmp_path / "study", instances=INSTANCES)

    def submit_to_healthy(times: int) -> None:
        assert [True] * INSTANCES == [result.ok for result in send(study, service, "GOOD")]
        service.wait_for("job_submitted", ae_title="GOOD", times=times * INSTANCES)

    submit_to_healthy(1)
    for ae_title in ("CRASHES", "HANGS", "LEAKS"):
        assert [True] * INSTANCES == [result.ok for result in send(study, service, ae_title)]
    submit_to_healthy(2)
    service.wait_for("processor_failed", ae_title="CRASHES")
    service.wait_for("part_hangs", part="AE title HANGS")
    service.wait_for("part_hangs", part="observer hanging")
    service.wait_for("part_degraded", part="threads")
    submit_to_healthy(3)
    assert 3 * INSTANCES == len(PlatformFolder(service.configuration.parent / "platform").jobs)
    _assert_reported_by_name(service)
    assert 0 == service.stop()


def _assert_reported_by_name(service: LaunchedService) -> None:
    reported = wait_for_problems(service, "AE title HANGS", "observer hanging", "threads", "AE title OUTDATED")
    assert ("red", "red", "yellow") == tuple(
        reported[part][0] for part in ("AE title HANGS", "observer hanging", "threads")
    )
    assert " started in calls of plugin 'leaking' of isolation-leaking 1.0" in reported["threads"][1]
    outdated = reported["AE title OUTDATED"][1]
    assert "plugin 'outdated' of isolation-outdated 1.0: built for version 0 of the hooks" in outdated
    assert "upgrade the plugin" in outdated
    assert "plugin 'crashing' of isolation-crashing 1.0" == service.wait_for("hook_failed")["plugin"]
    assert not {"AE title GOOD", "host", "receiver", "service"} & reported.keys()


@pytest.mark.usefixtures("_five_plugins")
def test_trace_hooks_logs_every_call_of_a_plugin(launch_service: LaunchService, tmp_path: Path) -> None:
    """Entries of host and receiver have plugin, hook, duration and outcome, and no patient data."""
    service = launch_service(CONFIGURATION, "--trace-hooks")
    send(write_study(tmp_path / "study", instances=1, patient_id="NOBODY-4711"), service, "GOOD")
    service.wait_for("job_submitted", ae_title="GOOD")
    call = service.wait_for("hook_called", hook="handle_instance", part="AE title GOOD")
    assert ("plugin 'healthy' of isolation-healthy 1.0", "returned") == (call["plugin"], call["outcome"])
    assert isinstance(call["seconds"], float)
    service.wait_for("hook_called", hook="load", plugin="plugin 'healthy' of isolation-healthy 1.0")
    service.wait_for("hook_called", hook="create_job", part="submitter platform")
    assert "receiver" == service.wait_for("hook_called", hook="sync", part="storage")["process"]
    failed = service.wait_for("hook_called", hook="dicom_adapter_instance_stored", part="observer crashing")
    assert failed["outcome"].startswith("MemoryError at ")
    assert "isolation_crashing.py" in failed["outcome"]
    assert "NOBODY-4711" not in service.log_file.read_text(encoding="utf-8")
