"""Jobs reach the platform emulator over gRPC and REST exactly once, even if responses are lost."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_adapter.api.values import JobState as State
from dicom_adapter.testing.fixtures import LaunchService
from dicom_adapter_clara_client.emulator import CallFault, CallFaultKind, ClaraJobState
from dicom_adapter_clara_client.testing import PlatformEmulator
from support import jobs_in_ledger, send, write_study

PIPELINE = "8abf244aff7647989d4f6b3987a85759"
PROTOCOLS = ("grpc", "rest")
STARTED = (State.SUBMITTED, State.RUNNING, State.SUCCEEDED)
CALLS = ("Jobs.Create", "Jobs.AddMetadata", "Payloads.Upload", "Jobs.Start")


def configuration(protocol: str, endpoint: str) -> str:
    """Return a configuration with one AE title whose jobs go to the emulator."""
    return f"""
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.platform]
type = "clara-{protocol}"
endpoint = "{endpoint}"
retry-first = 0.1
retry-most = 0.5  # longest pause in seconds

[ae-titles.LUNG.settings]
pipeline-lung = "{PIPELINE}"
"""


@contextmanager
def emulate_platform(folder: Path) -> Iterator[dict[str, str]]:
    """Run `dicom-adapter emulate-platform` as a process, and yield the address of each protocol."""
    command = [sys.executable, "-m", "dicom_adapter", "emulate-platform", "--folder", str(folder)]
    command += ["--grpc", "127.0.0.1:0", "--rest", "127.0.0.1:0", "--run-seconds", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _protocol in PROTOCOLS]
        yield {protocol.lower(): address for protocol, address in re.findall(r"(gRPC|REST) on (\S+)", "".join(lines))}
        process.terminate()
        process.stdout.read()
    assert 0 == process.returncode


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_study_runs_end_to_end_against_the_emulator(
    launch_service: LaunchService, tmp_path: Path, protocol: str
) -> None:
    """Emulator, service and sender are processes. The platform has all instances, with identical pixels."""
    with emulate_platform(tmp_path / "emulator") as addresses:
        service = launch_service(configuration(protocol, addresses[protocol]))
        paths = write_study(tmp_path / "study", instances=4)
        command = [sys.executable, "-m", "dicom_adapter", "send", str(tmp_path / "study")]
        command += ["--to", f"LUNG@127.0.0.1:{service.port()}"]
        assert 0 == subprocess.run(command, capture_output=True, check=False, timeout=60).returncode
        service.wait_for("job_submitted")
    received = sorted((tmp_path / "emulator" / "payloads").rglob("*.dcm"))
    assert [_pixels(path) for path in paths] == [_pixels(path) for path in received]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_lost_response_creates_no_second_job(
    launch_service: LaunchService, platform_emulator: PlatformEmulator, tmp_path: Path, protocol: str
) -> None:
    """The first response to each call is lost.

    The platform has one job, started once, with its metadata and all instances.

    Verified to fail when a repeated create over gRPC does not search first, or a repeated create over REST has a new
    key.
    """
    platform_emulator.faults.add(*(CallFault(call=call, kind=CallFaultKind.DROP) for call in CALLS))
    service = launch_service(configuration(protocol, _endpoint(platform_emulator, protocol)))
    send(write_study(tmp_path / "study", instances=3), service, "LUNG")
    service.wait_for("job_submitted")
    check_one_job(platform_emulator, instances=3)
    assert 4 == len(service.logged("job_attempt_failed"))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("reached", ["job_queued", "job_created", "job_metadata_sent", "job_uploaded"])
def test_a_kill_in_any_job_state_leads_to_exactly_one_job(
    launch_service: LaunchService,
    platform_emulator: PlatformEmulator,
    tmp_path: Path,
    protocol: str,
    reached: str,
) -> None:
    """The adapter is killed during the next call. After a restart it completes the same job."""
    platform_emulator.faults.add(CallFault(call="*", kind=CallFaultKind.DELAY, seconds=0.3, times=None))
    first = launch_service(configuration(protocol, _endpoint(platform_emulator, protocol)))
    send(write_study(tmp_path / "study", instances=3), first, "LUNG")
    first.wait_for(reached)
    first.kill()
    platform_emulator.faults.clear()
    second = launch_service(configuration(protocol, _endpoint(platform_emulator, protocol)))
    if any(job.state not in STARTED for job in jobs_in_ledger(second)):
        second.wait_for("job_submitted")
    check_one_job(platform_emulator, instances=3)


def check_one_job(emulator: PlatformEmulator, instances: int) -> None:
    """Check that the platform has exactly one job, complete and started."""
    [job] = emulator.platform.jobs.list()
    assert job.state is not ClaraJobState.PENDING
    assert str(instances) == job.metadata["Instances"]
    assert instances == len(emulator.platform.payloads.details(job.payload_id).files)


def _endpoint(emulator: PlatformEmulator, protocol: str) -> str:
    return emulator.grpc if protocol == "grpc" else emulator.rest


def _pixels(path: Path) -> bytes:
    from pydicom import dcmread

    return bytes(dcmread(path).PixelData)
