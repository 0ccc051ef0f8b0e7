"""Health of the real service: hanging plugins, plugins that cannot be created and dying processes are red by name."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from dicom_adapter_clara_client.emulator import CallLog, EmulatedPlatform, Faults, rest_server
from support import STORAGE, send, write_study
from support.health import SECONDS, status, wait_until_red
from support.third_party import install

pytestmark = pytest.mark.slow

# The plugin shortens the time limits of the host that loads it, so that no test has to wait for half a minute.
HANGING = '''
import time
from pathlib import Path

from dicom_adapter import JobProcessorBase, Submitter, hookimpl
from dicom_adapter.runtime.parts import PartKind
from dicom_adapter_clara_client.fake import FakeSubmitter

for kind in (PartKind.LANE, PartKind.SUBMITTER, PartKind.OBSERVER):
    kind.deadline_seconds = 0.5


def hang(name, folder):
    """Block until the test allows it to continue."""
    while not (folder / f"{name}-goes-on").exists():
        time.sleep(0.05)


class Hanging(JobProcessorBase):
    name = "hanging"

    def handle_instance(self, instance):
        hang("processor", self.context.data_folder.parents[1])
        self.remove_instances([instance])


class HangingSubmitter(FakeSubmitter):
    name = "hanging"

    def open(self):
        hang("submitter", self.context.data_folder.parents[1])
        super().open()


class Broken(FakeSubmitter):
    name = "broken"

    def __init__(self, settings, context):
        raise SystemExit("no licence")


@hookimpl
def dicom_adapter_processors():
    return [Hanging]


@hookimpl
def dicom_adapter_submitters():
    return [HangingSubmitter, Broken]


@hookimpl
def dicom_adapter_job_changed(job):
    hang("observer", Path("FOLDER"))
'''
CONFIGURATION = (
    STORAGE
    + """
[submitters.hanging]
type = "hanging"

[submitters.broken]
type = "broken"

[ae-titles.HANGS]
processor = "hanging"
submitter = "platform"

[ae-titles.WAITS]
submitter = "hanging"
settings = { pipeline-a = "1" }

[ae-titles.REFUSED]
submitter = "broken"
settings = { pipeline-a = "1" }

[ae-titles.LUNG]
submitter = "platform"
settings = { pipeline-a = "1" }
"""
)

HANGS = {"AE title HANGS", "submitter hanging", "observer hanging"}


def test_hanging_plugins_are_reported_by_name_and_affect_no_other_part(
    launch_service: LaunchService, tmp_path: Path
) -> None:
    """A processor, a submitter and an observer hang. When they continue, the blocked parts continue, too.

    Verified to fail when the supervisor looks only for failures.
    """
    data = tmp_path / "service" / "data"
    python = install(tmp_path / "plugins", hanging=HANGING.replace("FOLDER", str(data)))
    service = launch_service(CONFIGURATION, python=python)
    for ae_title in ("HANGS", "WAITS", "LUNG"):
        assert all(result.ok for result in send(write_study(tmp_path / ae_title), service, ae_title))
    service.wait_for("job_submitted", ae_title="LUNG")
    for part in HANGS:
        service.wait_for("part_hangs", part=part)
    reasons = wait_until_red({*HANGS, "AE title REFUSED"}, service, python)
    assert reasons["AE title HANGS"].endswith(" UTC has not returned within 0.5 s")
    assert reasons["AE title REFUSED"].startswith("submitter 'broken' cannot be created: SystemExit at ")
    for name in ("processor", "submitter", "observer"):
        (data / f"{name}-goes-on").touch()
    for part in HANGS:
        service.wait_for("part_recovered", part=part)
    service.wait_for("job_submitted", ae_title="WAITS")
    wait_until_red({"AE title REFUSED"}, service, python)
    assert 0 == service.stop()


def test_a_host_that_keeps_dying_is_red(launch_service: LaunchService) -> None:
    """The host is red after the third death, although it is restarted each time. The receiver is not red."""
    service = launch_service(STORAGE + '[ae-titles.LUNG.settings]\npipeline-a = "1"\n')
    service.port()
    for times in range(1, 4):
        service.wait_for("host_started", times=times)
        os.kill(service.pids()[1], signal.SIGKILL)
        service.wait_for("process_died", times=times)
    service.wait_for("host_started", times=4)
    reason = "the host died 3 times in a row, the last time with status -9"
    assert {"service": reason} == wait_until_red({"service"}, service)


def test_a_service_whose_supervisor_was_killed_does_not_run(launch_service: LaunchService) -> None:
    """The host and the receiver stop; then `status` ends with 3 at once. The health of the service is never green.

    Verified to fail when a recent report of the supervisor means that the service runs.
    """
    service = launch_service(STORAGE + '[ae-titles.LUNG.settings]\npipeline-a = "1"\n')
    service.port()
    wait_until_red(set(), service)  # all processes have reported
    os.kill(service.pids()[0], signal.SIGKILL)
    service.wait()
    seen = []
    deadline = time.monotonic() + SECONDS
    while not seen or seen[-1] != (3, "red", "not running"):
        assert time.monotonic() < deadline, seen
        exit_status, result = status(service)
        seen.append((exit_status, result["health"], result["service"]))
    assert {(0, "yellow", "starting or stopping"), (3, "red", "not running")} >= set(seen)


PLATFORM = """
[http]
port = 0
[storage]
path = "data"
watermark-percent = 100
reserve = 0
[submitters.clara]
type = "clara-rest"
endpoint = "http://{address}"
[ae-titles.LUNG.settings]
pipeline-lung = "8abf244aff7647989d4f6b3987a85759"
"""


def test_a_platform_that_is_down_is_red_until_it_is_back(launch_service: LaunchService, tmp_path: Path) -> None:
    """One study waits for a platform whose port is closed. No operator is needed after the platform has started.

    Verified to fail when the failures of one job do not count.
    """
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        service = launch_service(PLATFORM.format(address=address))
        assert all(result.ok for result in send(write_study(tmp_path / "study"), service, "LUNG"))
        assert "platform clara" == service.wait_for("platform_down", level="error")["part"]
        reasons = wait_until_red({"platform clara"}, service)
        assert " calls in a row have failed since " in reasons["platform clara"]
        assert 503 == health_status(service)
    platform = EmulatedPlatform(folder=tmp_path / "emulator", pipelines="any")
    with rest_server.serve(platform, address, faults=Faults(), log=CallLog()):
        service.wait_for("platform_up", part="platform clara")
        service.wait_for("job_submitted")
        wait_until_red(set(), service)
        assert 200 == health_status(service)


def health_status(service: LaunchedService) -> int:
    """Return the status of `GET /health`."""
    port = service.wait_for("http_listening")["port"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as response:
            return int(response.status)
    except urllib.error.HTTPError as failure:
        return failure.code
