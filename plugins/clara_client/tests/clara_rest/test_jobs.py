"""The `clara-rest` submitter against the emulator: a job from its creation to its end, lost answers included."""

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


def test_a_job_goes_all_the_way(site: Any, an_instance: MakeUpload) -> None:
    """Created, described, uploaded and started: the platform has all of it."""
    job = site.created()
    site.submitter.add_metadata(job, {**job.metadata, "00080060": "CT"})
    for position, data in enumerate((b"first", b"second")):
        site.submitter.upload(job, an_instance(position, data))
    site.submitter.start(job)
    found = site.platform.jobs.status(job.platform_job_id)
    assert ("lung-nodules-20260901120000", PIPELINE, JobPriority.HIGHER) == (
        found.name,
        found.pipeline_id,
        found.priority,
    )
    assert (ClaraJobState.RUNNING, job.platform_payload_id) == (found.state, found.payload_id)
    assert {"Source": "LUNG", "Instances": "2", "00080060": "CT", "dicom-adapter-job": job.job_id} == found.metadata
    assert {"input/dcm/000000-1.2.0.dcm": b"first", "input/dcm/000001-1.2.1.dcm": b"second"} == site.files(job)


def test_the_patient_id_is_in_no_name(site: Any, an_instance: MakeUpload) -> None:
    """Neither files nor addresses carry it."""
    job = site.created()
    site.submitter.upload(job, an_instance(0, b"x"))
    assert not [name for name in site.files(job) if PATIENT in name or "PATIENT" in name]


@pytest.mark.parametrize("kind", LOSSES)
def test_a_job_whose_creation_got_lost_is_made_once(site: Any, kind: CallFaultKind, job: Job) -> None:
    """Whether the platform made the job or not, the repetition gives the one job that there is."""
    site.fail("Jobs.Create", kind)
    with pytest.raises(Retriable):
        site.submitter.create_job(job)
    made = site.submitter.create_job(evolve(job, repeated=True))
    assert [(made.job_id, made.payload_id)] == [(job.job_id, job.payload_id) for job in site.platform.jobs.list()]


def test_a_creation_whose_answer_got_lost_is_known_to_a_platform_that_was_restarted(
    make_site: Callable[..., Any], tmp_path: Path, job: Job
) -> None:
    """The repetition gives the one job that there is. It fails when the emulator keeps its keys in memory only."""
    first = make_site(folder=tmp_path / "platform")
    first.fail("Jobs.Create", CallFaultKind.DROP)
    with pytest.raises(Retriable):
        first.submitter.create_job(job)
    first.server.stop()
    second = make_site(folder=tmp_path / "platform")
    made = second.submitter.create_job(evolve(job, repeated=True))
    assert [made.job_id] == [job.job_id for job in second.platform.jobs.list()]


@pytest.mark.parametrize("after", [timedelta(hours=30), timedelta(days=9)])
def test_a_job_is_found_again_when_the_platform_has_forgotten_its_key(site: Any, job: Job, after: timedelta) -> None:
    """After a day, a repeated creation looks for the job by its metadata before it makes another."""
    now = job.created_at
    job = evolve(job, created_at=now - after)
    site.now = now - after
    made = site.submitter.create_job(job)
    for number in range(25):
        site.platform.create_job(PIPELINE, f"other-{number}", metadata={"dicom-adapter-job": f"{number:032x}0"})
    site.now = now
    assert made == site.submitter.create_job(evolve(job, repeated=True))
    assert 26 == len(site.platform.jobs.list())


def test_a_job_that_is_not_found_after_a_day_is_made(site: Any, job: Job) -> None:
    """What never reached the platform is created late."""
    job = evolve(job, created_at=job.created_at - timedelta(days=2), repeated=True)
    assert site.submitter.create_job(job).job_id == site.platform.jobs.list()[0].job_id


def test_metadata_is_sent_in_one_call(site: Any) -> None:
    """As long as nothing goes wrong."""
    job = site.created()
    site.submitter.add_metadata(job, {"a": "1", "b": "2", "c": "3"})
    assert ["Jobs.Create", "Jobs.AddMetadata"] == site.calls()


def test_no_metadata_is_no_call(site: Any) -> None:
    """What went with the creation is not sent again."""
    site.submitter.add_metadata(site.created(), {"Source": "LUNG"})
    assert ["Jobs.Create"] == site.calls()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("repeated", [True, False])
def test_metadata_whose_answer_got_lost_is_there_once(site: Any, kind: CallFaultKind, repeated: bool) -> None:
    """The repetition neither meets its own first try nor loses anything."""
    job = site.created()
    wanted = {"Instances": "2", "00080060": "CT", "a key/with ? marks": "ä"}
    site.fail("Jobs.AddMetadata", kind)
    with pytest.raises(Retriable):
        site.submitter.add_metadata(job, wanted)
    site.submitter.add_metadata(evolve(job, repeated=repeated), wanted)
    found = site.platform.jobs.status(job.platform_job_id).metadata
    assert {"Source": "LUNG", "dicom-adapter-job": job.job_id, **wanted} == found


def test_metadata_that_is_there_already_is_replaced(site: Any) -> None:
    """A key that the platform set itself does not fault the job."""
    job = site.created()
    site.platform.jobs.add_metadata(job.platform_job_id, {"INSTANCES": "?"})
    site.submitter.add_metadata(job, {"Instances": "2"})
    assert "2" == site.platform.jobs.status(job.platform_job_id).metadata["Instances"]


def test_an_error_about_metadata_quotes_no_value(site: Any) -> None:
    """The platform's detail may repeat a patient's data: it is left out."""
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
def test_a_start_whose_answer_got_lost_starts_once(site: Any, kind: CallFaultKind, pause: timedelta) -> None:
    """Even when the platform has forgotten the key: a job that is not pending was started."""
    job = site.created()
    site.fail("Jobs.Start", kind)
    with pytest.raises(Retriable):
        site.submitter.start(job)
    site.now += pause
    site.submitter.start(evolve(job, repeated=True))
    assert ClaraJobState.RUNNING is site.platform.jobs.status(job.platform_job_id).state


def test_a_job_that_ran_to_its_end_counts_as_started(site: Any) -> None:
    """A repeated start may come late."""
    job = site.created()
    site.platform.jobs.start(job.platform_job_id)
    site.platform.jobs.finish(job.platform_job_id, ClaraJobStatus.FAULTED)
    site.submitter.start(evolve(job, repeated=True))
    assert ClaraJobState.STOPPED is site.platform.jobs.status(job.platform_job_id).state


def test_a_job_that_was_cancelled_before_it_ran_cannot_start(site: Any) -> None:
    """An operator of the platform stopped it, and an operator of the adapter is told."""
    job = site.created()
    site.platform.jobs.cancel(job.platform_job_id)
    with pytest.raises(Permanent, match=r"stopped on the platform \(canceled\) before it was started"):
        site.submitter.start(job)


def test_the_status_is_the_platforms(site: Any) -> None:
    """Its words for state and status, and what it says."""
    job = site.created()
    seen = [site.submitter.status(job)]
    site.submitter.start(job)
    seen.append(site.submitter.status(job))
    site.platform.jobs.finish(job.platform_job_id, ClaraJobStatus.FAULTED, ("out of\x1b[31m memory",))
    seen.append(site.submitter.status(job))
    expected = [
        PlatformStatus(state="pending", finished=False, detail="healthy"),
        PlatformStatus(state="running", finished=False, detail="healthy"),
        PlatformStatus(state="stopped", finished=True, detail="faulted; out of [31m memory"),
    ]
    assert expected == seen


@pytest.mark.parametrize("status", [302, 401, 403, 404, 410, 501])
def test_a_platform_that_does_not_tell_is_asked_again(site: Any, status: int) -> None:
    """A token that has expired, or a proxy in the way, says nothing of the job: it is not given up."""
    job = site.created()
    site.fail("Jobs.Status", CallFaultKind.STATUS, status=status)
    with pytest.raises(Retriable, match=f"status: .*{status}"):
        site.submitter.status(job)
    assert "pending" == site.submitter.status(job).state


def test_a_job_that_the_platform_does_not_know_is_asked_after_no_more(site: Any, known: Job) -> None:
    """What is gone does not come back."""
    with pytest.raises(Permanent, match=r"status: .*No such job"):
        site.submitter.status(known)


def test_a_payload_that_the_platform_does_not_know_is_permanent(site: Any, an_instance: MakeUpload, known: Job) -> None:
    """The job's files are forgotten: no repetition brings them back."""
    with pytest.raises(Permanent, match=r"upload .*No such payload"):
        site.submitter.upload(known, an_instance(0, b"x"))


def test_a_job_is_cancelled_in_any_state(site: Any, job: Job) -> None:
    """Pending, running, stopped: afterwards it is stopped, and nothing is an error."""
    jobs = [site.created(evolve(job, job_id=f"{number:032x}")) for number in range(2)]
    site.submitter.start(jobs[1])
    for job in [*jobs, *jobs]:
        site.submitter.cancel(job)
    expected = [(ClaraJobState.STOPPED, ClaraJobStatus.CANCELED)] * 2
    assert expected == [(job.state, job.status) for job in site.platform.jobs.list()]


def test_a_job_that_the_platform_does_not_know_is_cancelled(site: Any, job: Job) -> None:
    """It was never created there, or is forgotten: there is nothing to stop."""
    site.submitter.cancel(job)
    site.submitter.cancel(evolve(job, platform_job_id=32 * "0"))
    assert ["Jobs.Cancel"] == site.calls()


def test_a_job_whose_creation_got_lost_is_cancelled(site: Any, job: Job) -> None:
    """It is looked for, so that it does not stay pending for ever."""
    site.fail("Jobs.Create", CallFaultKind.DROP)
    with pytest.raises(Retriable):
        site.submitter.create_job(job)
    site.submitter.cancel(evolve(job, repeated=True))
    assert [ClaraJobStatus.CANCELED] == [job.status for job in site.platform.jobs.list()]
