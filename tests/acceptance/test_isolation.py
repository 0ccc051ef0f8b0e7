"""A crashing, a hanging, a leaking and an outdated plugin beside a healthy one, in the real service."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from isolation_plugins import AE_TITLES, BAD, HEALTHY, place

from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, send, write_study

pytestmark = pytest.mark.slow

CONFIGURATION = STORAGE + '[ae-titles.GOOD]\nprocessor = "healthy"\n' + AE_TITLES
# The healthy plugin shortens the deadlines of the host that loads it, so that no test has to wait for half a minute.
IMPATIENT = """
from dicom_adapter.runtime.parts import PartKind

PartKind.LANE.deadline_seconds = PartKind.OBSERVER.deadline_seconds = 0.5
"""
SECONDS = 60  # that anything may take before a test fails
INSTANCES = 10  # to each AE title


@pytest.fixture
def _beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All five are installed."""
    (tmp_path / "site").mkdir()
    place(tmp_path / "site", {**BAD, "healthy": IMPATIENT + HEALTHY})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)


def problems(service: LaunchedService) -> dict[str, tuple[str, str]]:
    """What `status` says is not green: level and reason by part."""
    command = [sys.executable, "-m", "dicom_adapter", "status", "--config", str(service.configuration), "--json"]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=False).stdout)
    return {each["part"]: (each["level"], each["reason"]) for each in told["problems"]}


def wait_for_problems(service: LaunchedService, *parts: str) -> dict[str, tuple[str, str]]:
    """The ledger hears of them a little later than the log."""
    deadline = time.monotonic() + SECONDS
    while not set(parts) <= (found := problems(service)).keys():
        assert time.monotonic() < deadline, found
    return found


@pytest.mark.usefixtures("_beside_each_other")
def test_the_healthy_ae_title_goes_on_receiving_and_submitting(launch_service: LaunchService, tmp_path: Path) -> None:
    """Before, while and after the others crash, hang and leak; each of them is named.

    Tried: no check of what `dicom_adapter_servers` gives, and the host died; observers on the thread of the lanes.
    """
    service = launch_service(CONFIGURATION)
    study = write_study(tmp_path / "study", instances=INSTANCES)

    def good_ones_are_submitted(times: int) -> None:
        assert [True] * INSTANCES == [result.ok for result in send(study, service, "GOOD")]
        service.wait_for("job_submitted", ae_title="GOOD", times=times * INSTANCES)

    good_ones_are_submitted(1)
    for ae_title in ("CRASHES", "HANGS", "LEAKS"):
        assert [True] * INSTANCES == [result.ok for result in send(study, service, ae_title)]
    good_ones_are_submitted(2)
    service.wait_for("processor_failed", ae_title="CRASHES")
    service.wait_for("part_hangs", part="AE title HANGS")
    service.wait_for("part_hangs", part="observer hanging")
    service.wait_for("part_degraded", part="threads")
    good_ones_are_submitted(3)
    assert 3 * INSTANCES == len(PlatformFolder(service.configuration.parent / "platform").jobs)
    _are_named(service)
    assert 0 == service.stop()


def _are_named(service: LaunchedService) -> None:
    found = wait_for_problems(service, "AE title HANGS", "observer hanging", "threads", "AE title OUTDATED")
    assert ("red", "red", "yellow") == tuple(
        found[part][0] for part in ("AE title HANGS", "observer hanging", "threads")
    )
    assert " began in calls of plugin 'leaking' of isolation-leaking 1.0" in found["threads"][1]
    assert (
        "plugin 'outdated' of isolation-outdated 1.0: built for version 0 of the hooks" in found["AE title OUTDATED"][1]
    )
    assert "upgrade the plugin" in found["AE title OUTDATED"][1]
    assert "plugin 'crashing' of isolation-crashing 1.0" == service.wait_for("hook_failed")["plugin"]
    assert not {"AE title GOOD", "host", "receiver", "service"} & found.keys()


@pytest.mark.usefixtures("_beside_each_other")
def test_every_call_of_a_plugin_is_logged_when_that_is_asked_for(launch_service: LaunchService, tmp_path: Path) -> None:
    """`run --trace-hooks`: with plugin, hook, time and outcome, from host and receiver, and no patient."""
    service = launch_service(CONFIGURATION, "--trace-hooks")
    send(write_study(tmp_path / "study", instances=1, patient_id="NOBODY-4711"), service, "GOOD")
    service.wait_for("job_submitted", ae_title="GOOD")
    call = service.wait_for("hook_called", hook="handle_instance", part="AE title GOOD")
    assert ("plugin 'healthy' of isolation-healthy 1.0", "returned") == (call["plugin"], call["outcome"])
    assert isinstance(call["seconds"], float)
    service.wait_for("hook_called", hook="load", plugin="plugin 'healthy' of isolation-healthy 1.0")
    service.wait_for("hook_called", hook="create_job", part="submitter platform")
    assert "receiver" == service.wait_for("hook_called", hook="sync", part="storage")["process"]
    told = service.wait_for("hook_called", hook="dicom_adapter_instance_stored", part="observer crashing")
    assert told["outcome"].startswith("MemoryError at ")
    assert "isolation_crashing.py" in told["outcome"]
    assert "NOBODY-4711" not in service.log_file.read_text(encoding="utf-8")
