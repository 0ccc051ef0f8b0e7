"""Nothing that was acknowledged is lost when every process is killed, and nothing is submitted twice."""

from __future__ import annotations

from pathlib import Path

from dicom_adapter.launch import LaunchedService
from dicom_adapter.model import JobState
from dicom_adapter.testing.fixtures import LaunchService
from support import STORAGE, PlatformFolder, jobs_in_ledger, send, write_study

CONFIGURATION = (
    STORAGE
    + """
retry-first = 0.1
retry-most = 0.5

[ae-titles.LUNG.settings]
timeout = 10
pipeline-a = "pipeline-1"
pipeline-b = "pipeline-2"
"""
)


def send_patient(service: LaunchedService, folder: Path, patient_id: str) -> None:
    """Send one study of three instances to LUNG and see every instance acknowledged."""
    paths = write_study(folder, instances=3, patient_id=patient_id)
    assert [True] * 3 == [result.ok for result in send(paths, service, "LUNG")]


def test_killed_before_the_deadline_it_submits_the_same_jobs_once(
    launch_service: LaunchService, platform: PlatformFolder, tmp_path: Path
) -> None:
    """Killed while a group waits, and again right after jobs were queued: each pipeline gets one job for each group."""
    first = launch_service(CONFIGURATION)
    send_patient(first, tmp_path / "one", "P-1")
    first.kill()
    assert [] == jobs_in_ledger(first)

    second = launch_service(CONFIGURATION)
    send_patient(second, tmp_path / "two", "P-2")
    second.wait_for("job_queued", times=2)
    second.kill()

    submitted = [job for job in jobs_in_ledger(second) if job.state is JobState.SUBMITTED]
    third = launch_service(CONFIGURATION)
    third.wait_for("job_submitted", times=4 - len(submitted))
    assert [("pipeline-1", 3)] * 2 + [("pipeline-2", 3)] * 2 == sorted(
        (job["pipelineId"], len(job["instances"])) for job in platform.jobs
    )
    assert 4 == len(platform.calls("create"))
    assert 4 == len(platform.calls("start"))
