"""Jobs of the `clara-rest` submitter against the emulator, from creation to end, with lost responses."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter import (
    Job,
    JobPriority,
    Permanent,
    PlatformStatus,
    Retriable,
    Upload,
)
from dicom_adapter_clara_client.emulator.faults import CallFaultKind
from dicom_adapter_clara_client.emulator.values import ClaraJobState, ClaraJobStatus

PIPELINE = 32 * "a"
PATIENT = "SECRET^PATIENT"
LOSSES = [CallFaultKind.RESET, CallFaultKind.DROP, CallFaultKind.TRUNCATE, CallFaultKind.GARBAGE]
MakeUpload = Callable[..., Upload]


def test_a_job_is_created_filled_and_started(site: Any, make_upload: MakeUpload) -> None:
    """The platform has the job with all its values, metadata and files."""
    job = site.created()
    site.submitter.add_metadata(job, {**job.metadata, "00080060": "CT"})
    for position, data in enumerate((b"first", b"second")):
        site.submitter.upload(job, make_upload(position, data))
    site.submitter.start(job)
    platform_job = site.platform.jobs.status(job.platform_job_id)
    assert ("lung-nodules-20260901120000", PIPELINE, JobPriority.HIGHER) == (
        platform_job.name,
        platform_job.pipeline_id,
        platform_job.priority,
    )
    assert (ClaraJobState.RUNNING, job.platform_payload_id) == (platform_job.state, platform_job.payload_id)
    assert {
        "Source": "LUNG",
        "Instances": "2",
        "00080060": "CT",
        "dicom-adapter-job": job.job_id,
    } == platform_job.metadata
    assert {"input/dcm/000000-1.2.0.dcm": b"first", "input/dcm/000001-1.2.1.dcm": b"second"} == site.files(job)


def test_no_file_name_contains_the_patient_id(site: Any, make_upload: MakeUpload) -> None:
    """File names are part of paths and logs of the platform."""
    job = site.created()
    site.submitter.upload(job, make_upload(0, b"x"))
    (name,) = site.files(job)
    assert "PATIENT" not in name


@pytest.mark.parametrize("kind", LOSSES)
def test_a_job_with_a_lost_creation_is_created_once(site: Any, kind: CallFaultKind, job: Job) -> None:
    """The repeated call returns the only job, whether the first call created it or not."""
    site.fail("Jobs.Create", kind)
    with pytest.raises(Retriable):
        site.submitter.create_job(job)
    created = site.submitter.create_job(evolve(job, repeated=True))
    assert [(created.job_id, created.payload_id)] == [(job.job_id, job.payload_id) for job in site.platform.jobs.list()]


def test_a_restarted_platform_still_knows_idempotency_keys(
    make_site: Callable[..., Any], tmp_path: Path, job: Job
) -> None:
    """The repeated call returns the only job. Verified to fail when the emulator keeps its keys only in memory."""
    first = make_site(folder=tmp_path / "platform")
    first.fail("Jobs.Create", CallFaultKind.DROP)
    with pytest.raises(Retriable):
        first.submitter.create_job(job)
    first.server.stop()
    second = make_site(folder=tmp_path / "platform")
    created = second.submitter.create_job(evolve(job, repeated=True))
    assert [created.job_id] == [job.job_id for job in second.platform.jobs.list()]


@pytest.mark.parametrize("after", [timedelta(hours=30), timedelta(days=9)])
def test_a_job_whose_key_has_expired_is_found_by_its_metadata(site: Any, job: Job, after: timedelta) -> None:
    """After a day, a repeated creation first searches for the job."""
    now = job.created_at
    job = evolve(job, created_at=now - after)
    site.now = now - after
    created = site.submitter.create_job(job)
    for number in range(25):
        site.platform.create_job(PIPELINE, f"other-{number}", metadata={"dicom-adapter-job": f"{number:032x}0"})
    site.now = now
    assert created == site.submitter.create_job(evolve(job, repeated=True))
    assert 26 == len(site.platform.jobs.list())


def test_a_job_that_is_not_found_after_a_day_is_created(site: Any, job: Job) -> None:
    """The first call may not have reached the platform."""
    job = evolve(job, created_at=job.created_at - timedelta(days=2), repeated=True)
    assert site.submitter.create_job(job).job_id == site.platform.jobs.list()[0].job_id


def test_metadata_is_sent_in_one_call(site: Any) -> None:
    """All entries are sent together."""
    job = site.created()
    site.submitter.add_metadata(job, {"a": "1", "b": "2", "c": "3"})
    assert ["Jobs.Create", "Jobs.AddMetadata"] == site.calls()


def test_a_job_without_further_metadata_needs_no_call(site: Any) -> None:
    """Metadata that was sent with the creation is not sent again."""
    site.submitter.add_metadata(site.created(), {"Source": "LUNG"})
    assert ["Jobs.Create"] == site.calls()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("repeated", [True, False])
def test_metadata_with_a_lost_response_is_added_once(site: Any, kind: CallFaultKind, repeated: bool) -> None:
    """The repeated call neither conflicts with the first nor loses an entry."""
    job = site.created()
    wanted = {"Instances": "2", "00080060": "CT", "a key/with ? marks": "ä"}
    site.fail("Jobs.AddMetadata", kind)
    with pytest.raises(Retriable):
        site.submitter.add_metadata(job, wanted)
    site.submitter.add_metadata(evolve(job, repeated=repeated), wanted)
    metadata = site.platform.jobs.status(job.platform_job_id).metadata
    assert {"Source": "LUNG", "dicom-adapter-job": job.job_id, **wanted} == metadata


def test_metadata_that_is_present_already_is_replaced(site: Any) -> None:
    """A key that the platform has set does not fault the job."""
    job = site.created()
    site.platform.jobs.add_metadata(job.platform_job_id, {"INSTANCES": "?"})
    site.submitter.add_metadata(job, {"Instances": "2"})
    assert "2" == site.platform.jobs.status(job.platform_job_id).metadata["Instances"]


def test_an_error_of_metadata_quotes_no_value(site: Any) -> None:
    """The platform's detail may contain patient data, so it is omitted."""
    job = site.created()
    site.fail(
        "Jobs.*Metadata", CallFaultKind.CODE, code=-0x2901, messages=(f"the value {PATIENT} is refused",), times=2
    )
    for repeated in (False, True):
        with pytest.raises(Permanent) as raised:
            site.submitter.add_metadata(evolve(job, repeated=repeated), {"00100010": PATIENT})
        assert PATIENT not in str(raised.value)
        assert "422 Unprocessable" in str(raised.value)
        assert "(code -10497)" in str(raised.value)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("pause", [timedelta(0), timedelta(hours=25)])
def test_a_start_with_a_lost_response_starts_the_job_once(site: Any, kind: CallFaultKind, pause: timedelta) -> None:
    """The job is not started again even after the key has expired: a job that is not pending was started."""
    job = site.created()
    site.fail("Jobs.Start", kind)
    with pytest.raises(Retriable):
        site.submitter.start(job)
    site.now += pause
    site.submitter.start(evolve(job, repeated=True))
    assert ClaraJobState.RUNNING is site.platform.jobs.status(job.platform_job_id).state


def test_a_repeated_start_of_a_finished_job_succeeds(site: Any) -> None:
    """The job may finish before the start is repeated."""
    job = site.created()
    site.platform.jobs.start(job.platform_job_id)
    site.platform.jobs.finish(job.platform_job_id, ClaraJobStatus.FAULTED)
    site.submitter.start(evolve(job, repeated=True))
    assert ClaraJobState.STOPPED is site.platform.jobs.status(job.platform_job_id).state


def test_a_job_cancelled_before_its_start_cannot_be_started(site: Any) -> None:
    """The permanent error informs the adapter's operator that the job was stopped on the platform."""
    job = site.created()
    site.platform.jobs.cancel(job.platform_job_id)
    with pytest.raises(Permanent, match=r"stopped on the platform \(canceled\) before it was started"):
        site.submitter.start(job)


def test_the_status_is_that_of_the_platform(site: Any) -> None:
    """The status has the platform's state, status and messages."""
    job = site.created()
    seen = [site.submitter.status(job)]
    site.submitter.start(job)
    seen.append(site.submitter.status(job))
    site.platform.jobs.finish(job.platform_job_id, ClaraJobStatus.FAULTED, ("out of\x1b[31m memory",))
    seen.append(site.submitter.status(job))
    expected = [
        PlatformStatus(state="pending", finished=False, detail="healthy"),
        PlatformStatus(state="running", finished=False, detail="healthy"),
        PlatformStatus(state="stopped", finished=True, detail="faulted; out of [31m memory", succeeded=False),
    ]
    assert expected == seen


@pytest.mark.parametrize("status", [302, 401, 403, 404, 410, 501])
def test_a_refused_status_is_retriable(site: Any, status: int) -> None:
    """An expired token or a proxy error does not mean that the job has ended, so polling continues."""
    job = site.created()
    site.fail("Jobs.Status", CallFaultKind.STATUS, status=status)
    with pytest.raises(Retriable, match=f"status: .*{status}"):
        site.submitter.status(job)
    assert "pending" == site.submitter.status(job).state


def test_the_status_of_an_unknown_job_is_permanent(site: Any, known: Job) -> None:
    """A retry cannot succeed."""
    with pytest.raises(Permanent, match=r"status: .*No such job"):
        site.submitter.status(known)


def test_an_upload_to_an_unknown_payload_is_permanent(site: Any, make_upload: MakeUpload, known: Job) -> None:
    """The job's files are lost; a retry cannot succeed."""
    with pytest.raises(Permanent, match=r"upload .*No such payload"):
        site.submitter.upload(known, make_upload(0, b"x"))


def test_a_job_can_be_cancelled_in_any_state(site: Any, job: Job) -> None:
    """A pending, running or stopped job is stopped afterwards."""
    jobs = [site.created(evolve(job, job_id=f"{number:032x}")) for number in range(2)]
    site.submitter.start(jobs[1])
    for job in [*jobs, *jobs]:
        site.submitter.cancel(job)
    expected = [(ClaraJobState.STOPPED, ClaraJobStatus.CANCELED)] * 2
    assert expected == [(job.state, job.status) for job in site.platform.jobs.list()]


def test_cancelling_an_unknown_job_succeeds(site: Any, job: Job) -> None:
    """The job was never created or does not exist any more, so there is nothing to stop."""
    site.submitter.cancel(job)
    site.submitter.cancel(evolve(job, platform_job_id=32 * "0"))
    assert ["Jobs.Cancel"] == site.calls()


def test_a_job_with_a_lost_creation_is_cancelled(site: Any, job: Job) -> None:
    """The submitter searches for the job, so that it does not stay pending."""
    site.fail("Jobs.Create", CallFaultKind.DROP)
    with pytest.raises(Retriable):
        site.submitter.create_job(job)
    site.submitter.cancel(evolve(job, repeated=True))
    assert [ClaraJobStatus.CANCELED] == [job.status for job in site.platform.jobs.list()]
