"""Jobs of the emulated platform that succeed have outputs in their payloads."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread, dcmwrite

from dicom_adapter.testing import make_instance
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraJobStatus, RunPlan

LUNG, HEAD = 32 * "a", 32 * "b"
NOON = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)


def start(platform: EmulatedPlatform, *datasets: Dataset, pipeline: str = LUNG) -> ClaraJob:
    job = platform.create_job(pipeline, "name")
    for number, dataset in enumerate(datasets):
        file = BytesIO()
        dcmwrite(file, dataset, enforce_file_format=True)
        platform.payloads.upload(job.payload_id, f"dcm/{number}.dcm", [file.getvalue()])
    return platform.jobs.start(job.job_id)


def outputs(platform: EmulatedPlatform, job: ClaraJob) -> Mapping[str, bytes]:
    platform.jobs.status(job.job_id)
    names = [file.name for file in platform.payloads.details(job.payload_id).files]
    return {name: content(platform, job, name) for name in names if not name.startswith("input/")}


def content(platform: EmulatedPlatform, job: ClaraJob, name: str) -> bytes:
    with platform.payloads.download(job.payload_id, name)[1] as file:
        return file.read()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    (tmp_path / "made" / "series").mkdir(parents=True)
    (tmp_path / "made" / "report.json").write_bytes(b"{}")
    (tmp_path / "made" / "series" / "1.dcm").write_bytes(b"mask")
    return tmp_path / "made"


def test_a_job_that_succeeds_has_the_files_of_the_folder(made: Path) -> None:
    platform = EmulatedPlatform(pipelines="any", run=RunPlan(output_folder=made))
    expected = {"operators/emulator/report.json": b"{}", "operators/emulator/series/1.dcm": b"mask"}
    assert expected == outputs(platform, start(platform))


@pytest.mark.parametrize("status", [status for status in ClaraJobStatus if status is not ClaraJobStatus.HEALTHY])
def test_a_job_that_does_not_succeed_has_no_outputs(made: Path, status: ClaraJobStatus) -> None:
    platform = EmulatedPlatform(pipelines="any", run=RunPlan(status=status, output_folder=made))
    assert {} == outputs(platform, start(platform))


def test_outputs_appear_at_the_end_of_the_job(made: Path) -> None:
    """The plan is saved with the job: the job has its outputs even if the emulator is restarted with another plan."""
    times = [NOON]
    before = EmulatedPlatform(
        folder=made.parent / "platform",
        pipelines="any",
        run=RunPlan(seconds=60, output_folder=made),
        clock=lambda: times[-1],
    )
    job = start(before)
    assert {} == outputs(before, job)
    times.append(NOON + timedelta(seconds=60))
    after = EmulatedPlatform(folder=made.parent / "platform", pipelines="any", clock=lambda: times[-1])
    assert 2 == len(outputs(after, job))
    again = EmulatedPlatform(folder=made.parent / "platform", pipelines="any")
    assert 2 == len(outputs(again, job))


def test_a_pipeline_can_have_its_own_outputs() -> None:
    """The secondary capture belongs to the study of the first instance."""
    platform = EmulatedPlatform(pipelines="any", run=RunPlan())
    platform.jobs.set_run(RunPlan(secondary_capture=True), LUNG)
    first = make_instance(patient_id="P-7")
    assert {} == outputs(platform, start(platform, first, pipeline=HEAD))
    job = start(platform, first, make_instance(patient_id="OTHER"))
    ((name, data),) = outputs(platform, job).items()
    capture = dcmread(BytesIO(data))
    assert "operators/emulator/secondary-capture.dcm" == name
    assert (first.PatientID, first.StudyInstanceUID) == (capture.PatientID, capture.StudyInstanceUID)
    assert first.SOPInstanceUID != capture.SOPInstanceUID


def test_a_job_without_instances_has_no_capture() -> None:
    platform = EmulatedPlatform(pipelines="any", run=RunPlan(secondary_capture=True))
    assert {} == outputs(platform, start(platform))


def test_a_job_that_is_finished_by_a_test_has_outputs(made: Path) -> None:
    platform = EmulatedPlatform(pipelines="any", run=RunPlan(seconds=None, output_folder=made))
    job = start(platform)
    platform.jobs.finish(job.job_id)
    assert 2 == len(outputs(platform, job))
