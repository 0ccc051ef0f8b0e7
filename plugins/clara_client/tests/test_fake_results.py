"""The `fake` submitter with `outcome`: jobs end, and have results."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_adapter import Job, Permanent, PlatformStatus, Retriable, SubmitterContext
from dicom_adapter.testing import make_instance
from dicom_adapter.testing.submitter_jobs import make_job, make_upload
from dicom_adapter_clara_client import FakeEnd, FakeFault, FakeSettings, FakeSubmitter, SubmitterCall

Make = Callable[..., FakeSubmitter]


@pytest.fixture(params=["memory", "folder"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Return a factory of open submitters."""
    folder = tmp_path / "platform" if request.param == "folder" else None

    def make_submitter(outcome: FakeEnd | None = FakeEnd.SUCCEEDS, **settings: Any) -> FakeSubmitter:
        context = SubmitterContext(name="fake", data_folder=tmp_path / "own")
        submitter = FakeSubmitter(FakeSettings(folder=folder, outcome=outcome, **settings), context)
        submitter.open()
        return submitter

    return make_submitter


def part10(dataset: Dataset) -> bytes:
    file = BytesIO()
    dcmwrite(file, dataset, enforce_file_format=True)
    return file.getvalue()


def submit(submitter: FakeSubmitter, *datasets: Dataset, job: Job | None = None) -> Job:
    job = job or make_job(1, "lung")
    submitter.create_job(job)
    for position, dataset in enumerate(datasets):
        submitter.upload(job, make_upload(position, part10(dataset)))
    submitter.start(job)
    return job


def results(submitter: FakeSubmitter, job: Job) -> dict[str, bytes]:
    found = {}
    for result in submitter.results(job):
        with result.open() as source:
            found[result.name] = source.read()
    return found


def test_without_outcome_jobs_are_not_followed(make: Make) -> None:
    """A started job never ends on the fake platform."""
    submitter = make(outcome=None)
    assert not submitter.follows_jobs
    job = submit(submitter)
    assert PlatformStatus(state="running", finished=False) == submitter.status(job)


@pytest.mark.parametrize(("outcome", "succeeded"), [(FakeEnd.SUCCEEDS, True), (FakeEnd.FAILS, False)])
def test_jobs_end_as_configured(make: Make, outcome: FakeEnd, succeeded: bool) -> None:
    submitter = make(outcome)
    status = submitter.status(submit(submitter))
    assert (True, succeeded) == (status.finished, status.succeeded)
    assert bool(status.detail) is not succeeded


def test_a_job_runs_for_the_configured_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no timer: the end is noticed when the status is requested."""
    submitter = make(run_seconds=30)
    job = submit(submitter)
    assert not submitter.status(job).finished

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
            return datetime.fromtimestamp(datetime.now(timezone.utc).timestamp() + 31, tz)

    monkeypatch.setattr("dicom_adapter_clara_client.fake.datetime", Later)
    assert submitter.status(job).succeeded


def test_the_files_of_a_folder_are_results(make: Make, tmp_path: Path) -> None:
    """Names are relative to the folder. A file that is changed after the end of a job does not change its results."""
    (tmp_path / "outputs" / "series").mkdir(parents=True)
    (tmp_path / "outputs" / "report.json").write_bytes(b"{}")
    (tmp_path / "outputs" / "series" / "half.part").write_bytes(b"mask")
    submitter = make(output_folder=tmp_path / "outputs")
    job = submit(submitter)
    submitter.status(job)
    (tmp_path / "outputs" / "report.json").write_bytes(b"changed")
    submitter.open()
    assert {"report.json": b"{}", "series/half.part": b"mask"} == results(submitter, job)
    submitter.clean_up(job)
    assert {} == results(submitter, job)


def test_a_failed_job_has_no_results(make: Make, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(b"{}")
    submitter = make(FakeEnd.FAILS, output_folder=tmp_path, secondary_capture=True)
    job = submit(submitter, make_instance())
    submitter.status(job)
    assert {} == results(submitter, job)


def test_a_secondary_capture_belongs_to_the_study_of_the_first_instance(make: Make) -> None:
    """Patient and study are copied; series and instance are new, and differ between runs."""
    submitter = make(secondary_capture=True)
    source = make_instance(patient_id="P-7", patient_name="Müller^Änne", issuer="CLINIC", AccessionNumber="A1")
    job = submit(submitter, source, make_instance(patient_id="OTHER"))
    again = submit(submitter, source, job=evolve(make_job(1, "lung"), run=2))
    uids = set()
    for run in (job, again):
        submitter.status(run)
        ((name, data),) = results(submitter, run).items()
        capture = dcmread(BytesIO(data))
        assert "secondary-capture.dcm" == name
        assert SecondaryCaptureImageStorage == capture.SOPClassUID
        for keyword in ("PatientID", "PatientName", "IssuerOfPatientID", "StudyInstanceUID", "AccessionNumber"):
            assert source[keyword].value == capture[keyword].value
        assert source.SOPInstanceUID == capture.SourceImageSequence[0].ReferencedSOPInstanceUID
        assert capture.SeriesInstanceUID != source.SeriesInstanceUID
        uids.add(capture.SOPInstanceUID)
    assert 2 == len(uids - {source.SOPInstanceUID})


def test_an_instance_that_is_not_dicom_has_no_capture(make: Make) -> None:
    submitter, job = make(secondary_capture=True), make_job(1, "lung")
    submitter.create_job(job)
    submitter.upload(job, make_upload(0, b"not DICOM"))
    submitter.start(job)
    assert submitter.status(job).succeeded
    assert {} == results(submitter, job)


def test_faults_apply_to_results_and_clean_up(make: Make) -> None:
    submitter = make(fail=(FakeFault(call=SubmitterCall.RESULTS), FakeFault(call=SubmitterCall.CLEAN_UP)))
    job = submit(submitter)
    for call in (submitter.results, submitter.clean_up):
        with pytest.raises(Retriable, match="configured to fail"):
            call(job)
        call(job)


def test_results_of_an_unknown_job_are_a_permanent_error(make: Make) -> None:
    with pytest.raises(Permanent, match="does not exist"):
        make().results(make_job(1, "lung"))


def test_a_missing_output_folder_is_reported_on_open(make: Make, tmp_path: Path) -> None:
    with pytest.raises(Retriable, match="output-folder must be an existing folder"):
        make(output_folder=tmp_path / "nowhere")


def test_settings_for_the_end_of_jobs_need_an_outcome() -> None:
    with pytest.raises(ValueError, match="need outcome"):
        FakeSettings(run_seconds=2)
