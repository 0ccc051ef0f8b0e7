"""Results of the platform emulator come back over gRPC and REST, and are delivered once, despite faults and kills."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_adapter.api.values import JobState
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.testing.fixtures import LaunchService
from dicom_adapter_clara_client.emulator import CallFault, CallFaultKind, ClaraJobStatus, NotFound, RunPlan
from dicom_adapter_clara_client.testing import PlatformEmulator
from support import jobs_in_ledger, send, write_study

PIPELINE = "8abf244aff7647989d4f6b3987a85759"
PROTOCOLS = ("grpc", "rest")
CALL_BEFORE = {
    "Jobs.Status": "Jobs.Start",
    "Payloads.Details": "Jobs.Status",
    "Payloads.Download": "Payloads.Details",
    "Payloads.Delete": "Payloads.Download",
}
PATIENCE_S = 60.0  # on a busy machine


def configuration(emulator: PlatformEmulator, protocol: str, delivered: Path) -> str:
    """Return a configuration whose results are delivered to a folder."""
    delivered.mkdir(exist_ok=True)
    endpoint = emulator.grpc if protocol == "grpc" else emulator.rest
    return f"""
[storage]
path = "data"
watermark-percent = 100
reserve = 0

[submitters.platform]
type = "clara-{protocol}"
endpoint = "{endpoint}"
status-every = 0.2
retry-first = 0.1
retry-most = 0.5
delete-payloads = true

[submitters.drop]
type = "folder"
path = "{delivered}"

[ae-titles.LUNG]
submitter = "platform"

[ae-titles.LUNG.settings]
pipeline-lung = "{PIPELINE}"

[ae-titles.LUNG.results]
to = ["drop"]
expect-results = true
"""


def check_delivered(service: LaunchedService, tmp_path: Path) -> None:
    """Wait until all jobs are done, and check that the only result was delivered once, in the study of the input."""
    expected = [JobState.SUCCEEDED, JobState.SUBMITTED]  # of the pipeline's job, and of the delivery
    end = time.monotonic() + PATIENCE_S
    while expected != (states := [job.state for job in jobs_in_ledger(service)]):
        assert time.monotonic() < end, states
        time.sleep(0.1)
    first = dcmread(next((tmp_path / "study").rglob("*.dcm")))
    (path,) = (tmp_path / "delivered").rglob("*.dcm")
    result = dcmread(path)
    assert (first.PatientID, first.StudyInstanceUID) == (result.PatientID, result.StudyInstanceUID)
    assert "Emulated result" == result.SeriesDescription
    assert len(bytes(result.PixelData)) == result.Rows * result.Columns


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_result_comes_back_and_is_delivered(
    launch_service: LaunchService, platform_emulator: PlatformEmulator, tmp_path: Path, protocol: str
) -> None:
    """The payload on the platform is deleted."""
    platform_emulator.platform.jobs.set_run(RunPlan(seconds=1, secondary_capture=True))
    service = launch_service(configuration(platform_emulator, protocol, tmp_path / "delivered"))
    send(write_study(tmp_path / "study", instances=3), service, "LUNG")
    platform_emulator.log.wait_for("Payloads.Delete", timeout_seconds=PATIENCE_S)
    check_delivered(service, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_result_is_delivered_once_despite_faults(
    launch_service: LaunchService, platform_emulator: PlatformEmulator, tmp_path: Path, protocol: str
) -> None:
    """The first response to each call about the end of the job is lost or cut."""
    platform_emulator.platform.jobs.set_run(RunPlan(seconds=1, secondary_capture=True))
    platform_emulator.faults.add(
        *(CallFault(call=call, kind=CallFaultKind.DROP) for call in ("Jobs.Status", "Payloads.D*")),
        CallFault(call="Payloads.Download", kind=CallFaultKind.TRUNCATE),
        CallFault(call="Payloads.Delete", kind=CallFaultKind.DROP),
    )
    service = launch_service(configuration(platform_emulator, protocol, tmp_path / "delivered"))
    send(write_study(tmp_path / "study", instances=3), service, "LUNG")
    check_delivered(service, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("protocol", "call"),
    [
        ("grpc", "Jobs.Status"),
        ("rest", "Payloads.Details"),
        ("grpc", "Payloads.Download"),
        ("rest", "Payloads.Download"),
        ("grpc", "Payloads.Delete"),
    ],
)
def test_a_kill_after_the_end_of_a_job_loses_and_repeats_no_result(
    launch_service: LaunchService, platform_emulator: PlatformEmulator, tmp_path: Path, protocol: str, call: str
) -> None:
    """The adapter is killed during one of the calls. After a restart, the result is delivered once."""
    platform_emulator.platform.jobs.set_run(RunPlan(seconds=0, secondary_capture=True))
    platform_emulator.faults.add(CallFault(call=call, kind=CallFaultKind.DELAY, seconds=2))
    first = launch_service(configuration(platform_emulator, protocol, tmp_path / "delivered"))
    send(write_study(tmp_path / "study", instances=3), first, "LUNG")
    platform_emulator.log.wait_for(CALL_BEFORE[call], timeout_seconds=PATIENCE_S)
    first.kill()
    second = launch_service(configuration(platform_emulator, protocol, tmp_path / "delivered"))
    check_delivered(second, tmp_path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_failed_job_is_run_again_as_another_job(
    launch_service: LaunchService, platform_emulator: PlatformEmulator, tmp_path: Path, protocol: str
) -> None:
    """`jobs retry` creates another job on the platform, with the same files. The payloads of both are deleted.

    Verified to fail when the retry does not record the clean-up of the first run.
    """
    platform_emulator.platform.jobs.set_run(RunPlan(seconds=0, status=ClaraJobStatus.FAULTED, messages=("no GPU",)))
    service = launch_service(configuration(platform_emulator, protocol, tmp_path / "delivered"))
    send(write_study(tmp_path / "study", instances=3), service, "LUNG")
    failed = service.wait_for("job_failed", level="warning")
    assert "faulted; no GPU" in failed["error"]
    platform_emulator.platform.jobs.set_run(RunPlan(seconds=0, secondary_capture=True))
    command = [sys.executable, "-m", "dicom_adapter", "jobs", "retry", failed["job_id"]]
    subprocess.run([*command, "-c", str(service.configuration)], check=True, capture_output=True, timeout=60)
    check_delivered(service, tmp_path)
    one, two = platform_emulator.platform.jobs.list()
    assert f"{one.metadata['dicom-adapter-job']}-2" == two.metadata["dicom-adapter-job"]
    platform_emulator.log.wait_for("Payloads.Delete", 2, timeout_seconds=PATIENCE_S)
    for payload_id in (one.payload_id, two.payload_id):
        with pytest.raises(NotFound):
            platform_emulator.platform.payloads.details(payload_id)
