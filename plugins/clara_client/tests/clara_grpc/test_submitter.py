"""The `clara-grpc` submitter against the emulator: every step, also with repeated, lost and refused calls."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter import Job, JobPriority, Permanent, PlatformStatus, Retriable
from dicom_adapter_clara_client.emulator.faults import CallFaultKind
from dicom_adapter_clara_client.emulator.values import ClaraJobState, ClaraJobStatus
from dicom_adapter_clara_client.grpc_submitter import ClaraGrpcSubmitter
from dicom_adapter_clara_client.platform_metadata import IDEMPOTENCY_KEY

Make = Callable[..., Any]
LOSSES = [CallFaultKind.RESET, CallFaultKind.DROP, CallFaultKind.TRUNCATE, CallFaultKind.GARBAGE]
STEPS = ["Jobs.Create", "Jobs.AddMetadata", "Payloads.Upload", "Payloads.Upload", "Jobs.Start"]


def known(site: Any, job: Job) -> Job:
    """Return the job with the ids of the platform's only job."""
    (platform_job,) = site.platform.jobs.list()
    return evolve(job, platform_job_id=platform_job.job_id, platform_payload_id=platform_job.payload_id)


def test_a_job_is_created_filled_and_started(
    site: Any, submitter: ClaraGrpcSubmitter, job: Job, submit: Make, make_upload: Make
) -> None:
    """Each step is one call; the platform has the job with all its values, metadata and files."""
    submit(submitter, job, [make_upload(b"first", 0), make_upload(b"second", 1)])
    assert STEPS == site.calls()
    (platform_job,) = site.platform.jobs.list()
    assert ("lung-segment-it-20240501120000", job.pipeline_id) == (platform_job.name, platform_job.pipeline_id)
    assert (ClaraJobState.RUNNING, JobPriority.HIGHER) == (platform_job.state, platform_job.priority)
    assert {**job.metadata, IDEMPOTENCY_KEY: job.job_id} == platform_job.metadata
    files = site.platform.payloads.details(platform_job.payload_id).files
    assert [("input/dcm/000000-1.2.3.0.dcm", 5), ("input/dcm/000001-1.2.3.1.dcm", 6)] == [
        (file.name, file.size_bytes) for file in files
    ]
    with site.platform.payloads.download(platform_job.payload_id, files[1].name)[1] as stored:
        assert b"second" == stored.read()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("call", sorted(set(STEPS)))
def test_no_step_takes_effect_twice_after_a_lost_response(
    call: str,
    loss: CallFaultKind,
    site: Any,
    submitter: ClaraGrpcSubmitter,
    job: Job,
    submit: Make,
    make_upload: Make,
) -> None:
    """The platform has one job with one start, and each key and file once, whether the lost call took effect or not."""
    site.fail(call, loss)
    submit(submitter, job, [make_upload(b"first", 0), make_upload(b"second", 1)])
    (platform_job,) = site.platform.jobs.list()
    assert {**job.metadata, IDEMPOTENCY_KEY: job.job_id} == platform_job.metadata
    sizes = [file.size_bytes for file in site.platform.payloads.details(platform_job.payload_id).files]
    assert [5, 6] == sizes
    worked = [record for record in site.log.calls("Jobs.Start") if record.worked and record.code == 0]
    assert 1 == len(worked)
    assert ClaraJobState.RUNNING is platform_job.state


# Without TRUNCATE: a truncated list with status OK looks like a shorter list, and networks do not cause it.
@pytest.mark.parametrize("loss", [CallFaultKind.RESET, CallFaultKind.DROP, CallFaultKind.GARBAGE])
def test_a_failed_check_for_earlier_effects_is_retried(
    loss: CallFaultKind, site: Any, submitter: ClaraGrpcSubmitter, job: Job, submit: Make
) -> None:
    """A step that cannot check whether it was done before is retried, but does not take effect twice."""
    for call in ("Jobs.Create", "Jobs.AddMetadata", "Jobs.Start"):
        site.fail(call, CallFaultKind.DROP)
    for call in ("Jobs.List", "Jobs.Status"):
        site.fail(call, loss)
    submit(submitter, job)
    (platform_job,) = site.platform.jobs.list()
    assert {**job.metadata, IDEMPOTENCY_KEY: job.job_id} == platform_job.metadata
    assert 1 == len(site.calls("Jobs.Start"))


def test_a_repeated_creation_first_searches_for_the_job(site: Any, submitter: ClaraGrpcSubmitter, job: Job) -> None:
    """Jobs of the same pipeline and name with another key are ignored; if no job has the key, one is created."""
    first = submitter.create_job(job)
    other = submitter.create_job(evolve(job, job_id=32 * "2"))
    assert first != other
    assert first == submitter.create_job(evolve(job, repeated=True))
    third = submitter.create_job(evolve(job, job_id=32 * "3", repeated=True))
    assert 3 == len({first, other, third})
    assert 3 == len(site.platform.jobs.list())


def test_a_job_is_found_if_the_platforms_clock_is_a_day_behind(
    site: Any, submitter: ClaraGrpcSubmitter, job: Job
) -> None:
    """The search begins a day earlier, so that a wrong time zone does not hide the job."""
    ahead = evolve(job, created_at=job.created_at + timedelta(hours=25))
    assert submitter.create_job(ahead) == submitter.create_job(evolve(ahead, repeated=True))


@pytest.mark.parametrize("present", [{}, {"INSTANCES": "2"}, {"INSTANCES": "2", "Age": "40"}])
def test_metadata_that_is_present_already_is_not_sent_again(
    present: dict[str, str], site: Any, submitter: ClaraGrpcSubmitter, job: Job
) -> None:
    """The platform refuses a whole request because of one present key; then only the missing entries are sent."""
    submitter.create_job(job)
    job = known(site, job)
    site.platform.jobs.add_metadata(job.platform_job_id, present)
    submitter.add_metadata(job, {**job.metadata, "age": "40"})
    (platform_job,) = site.platform.jobs.list()
    wanted = {"source", "instances", "age", IDEMPOTENCY_KEY}
    assert wanted == {key.lower() for key in platform_job.metadata}


@pytest.mark.parametrize("repeated", [False, True])
def test_metadata_can_be_added_repeatedly(repeated: bool, site: Any, submitter: ClaraGrpcSubmitter, job: Job) -> None:
    """The second call finds all entries present."""
    submitter.create_job(job)
    job = known(site, job)
    submitter.add_metadata(job, job.metadata)
    submitter.add_metadata(evolve(job, repeated=repeated), job.metadata)
    assert {**job.metadata, IDEMPOTENCY_KEY: job.job_id} == site.platform.jobs.list()[0].metadata


def test_a_job_without_further_metadata_needs_no_call(site: Any, submitter: ClaraGrpcSubmitter, job: Job) -> None:
    """The source was sent with the creation."""
    submitter.create_job(job)
    submitter.add_metadata(known(site, job), {"Source": job.metadata["Source"]})
    assert ["Jobs.Create"] == site.calls()


def test_large_metadata_is_added_completely(site: Any, submitter: ClaraGrpcSubmitter, job: Job) -> None:
    """The metadata is split into several messages, because of gRPC's limit, and can be read back."""
    submitter.create_job(job)
    job = known(site, job)
    metadata = {f"{number:0128}": 256 * "v" for number in range(10_000)}
    submitter.add_metadata(job, metadata)
    submitter.add_metadata(evolve(job, repeated=True), metadata)
    assert 10_002 == len(site.platform.jobs.list()[0].metadata)
    assert 4 == len(site.calls("Jobs.AddMetadata"))


@pytest.mark.parametrize("repeated", [False, True])
def test_a_job_is_started_once(repeated: bool, site: Any, submitter: ClaraGrpcSubmitter, job: Job) -> None:
    """A start of a running or finished job changes nothing."""
    submitter.create_job(job)
    job = known(site, job)
    submitter.start(job)
    submitter.start(evolve(job, repeated=repeated))
    site.platform.jobs.finish(job.platform_job_id)
    submitter.start(evolve(job, repeated=repeated))
    assert ClaraJobState.STOPPED is site.platform.jobs.list()[0].state


@pytest.mark.parametrize("repeated", [False, True])
def test_a_job_stopped_before_its_start_is_an_error(
    repeated: bool, site: Any, submitter: ClaraGrpcSubmitter, job: Job
) -> None:
    """The job will never run, so an operator must be informed."""
    submitter.create_job(job)
    job = known(site, job)
    site.platform.jobs.cancel(job.platform_job_id)
    with pytest.raises(Permanent, match=r"start: the job was stopped on the platform \(canceled\) before it was"):
        submitter.start(evolve(job, repeated=repeated))


@pytest.mark.parametrize("status", list(ClaraJobStatus))
def test_the_status_is_that_of_the_platform(
    status: ClaraJobStatus, site: Any, submitter: ClaraGrpcSubmitter, job: Job
) -> None:
    """The job is pending, then running, then stopped with its result and messages."""
    submitter.create_job(job)
    job = known(site, job)
    assert PlatformStatus(state="pending", finished=False, detail="healthy") == submitter.status(job)
    submitter.start(job)
    assert PlatformStatus(state="running", finished=False, detail="healthy") == submitter.status(job)
    site.platform.jobs.finish(job.platform_job_id, status, ("because\nof\x1b this",))
    expected = PlatformStatus(
        state="stopped",
        finished=True,
        detail=f"{status.value}; because of this",
        succeeded=status is ClaraJobStatus.HEALTHY,
    )
    assert expected == submitter.status(job)


@pytest.mark.parametrize("started", [False, True])
def test_a_job_can_be_cancelled_in_any_state(started: bool, site: Any, submitter: ClaraGrpcSubmitter, job: Job) -> None:
    """A pending or running job is stopped; a second cancellation changes nothing."""
    submitter.create_job(job)
    job = known(site, job)
    if started:
        submitter.start(job)
    submitter.cancel(job)
    submitter.cancel(job)
    (platform_job,) = site.platform.jobs.list()
    assert (ClaraJobState.STOPPED, ClaraJobStatus.CANCELED) == (platform_job.state, platform_job.status)


def test_cancelling_a_missing_or_stopped_job_succeeds(
    site: Any, submitter: ClaraGrpcSubmitter, job: Job, created: Job
) -> None:
    """The job was never created, or does not exist any more, or is stopped."""
    submitter.cancel(job)
    submitter.cancel(created)
    submitter.create_job(job)
    job = known(site, job)
    site.platform.jobs.cancel(job.platform_job_id)
    site.fail("Jobs.Cancel", CallFaultKind.CODE, code=-0x2999)
    submitter.cancel(job)
    site.fail("Jobs.Cancel", CallFaultKind.STATUS, status="UNAVAILABLE")
    with pytest.raises(Retriable, match="cancel: the call ended with UNAVAILABLE: injected fault"):
        submitter.cancel(job)


def test_a_refused_cancellation_of_a_running_job_is_raised(site: Any, submitter: ClaraGrpcSubmitter, job: Job) -> None:
    """The job continues to run, so the operator must be informed."""
    submitter.create_job(job)
    job = known(site, job)
    submitter.start(job)
    site.fail("Jobs.Cancel", CallFaultKind.CODE, code=-0x2999, messages=("too late",))
    with pytest.raises(Retriable, match="cancel: the platform answered -0x2999: too late"):
        submitter.cancel(job)


def test_an_unknown_pipeline_is_a_permanent_error(submitter: ClaraGrpcSubmitter, job: Job) -> None:
    """A retry cannot succeed, because the configuration is wrong."""
    with pytest.raises(Permanent, match=r"create: the platform answered -0x1001 \(no such pipeline\): .*f{32}"):
        submitter.create_job(evolve(job, pipeline_id=32 * "f"))
    with pytest.raises(Permanent, match=r"-0x1000 \(pipeline id malformed\)"):
        submitter.create_job(evolve(job, pipeline_id="lung"))


def test_every_step_of_a_missing_job_is_permanent(
    submitter: ClaraGrpcSubmitter, created: Job, make_upload: Make
) -> None:
    """The platform does not have the job any more, so no step can succeed."""
    for step in (
        lambda: submitter.add_metadata(created, created.metadata),
        lambda: submitter.start(created),
        lambda: submitter.status(created),
    ):
        with pytest.raises(Permanent, match=r"-0x2001 \(no such job\)"):
            step()
    with pytest.raises(Permanent, match=r"upload of instance 41: the platform answered -0x3001 \(no such payload\)"):
        submitter.upload(created, make_upload())


@pytest.mark.parametrize("status", ["UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "INVALID_ARGUMENT"])
def test_a_refused_status_is_retriable(status: str, site: Any, submitter: ClaraGrpcSubmitter, job: Job) -> None:
    """Expired credentials or a proxy error do not mean that the job has ended, so polling continues."""
    submitter.create_job(job)
    job = known(site, job)
    site.fail("Jobs.Status", CallFaultKind.STATUS, status=status)
    with pytest.raises(Retriable, match=f"status: the call ended with {status}"):
        submitter.status(job)
    assert "pending" == submitter.status(job).state


@pytest.mark.parametrize("call", sorted(set(STEPS)))
def test_errors_quote_the_platforms_text(
    call: str, site: Any, submitter: ClaraGrpcSubmitter, job: Job, make_upload: Make
) -> None:
    """Only errors of metadata do not quote the text, because it may contain patient data."""
    submitter.create_job(job)
    known_job = known(site, job)
    steps: dict[str, Callable[[], object]] = {
        "Jobs.Create": lambda: submitter.create_job(job),
        "Jobs.AddMetadata": lambda: submitter.add_metadata(known_job, job.metadata),
        "Payloads.Upload": lambda: submitter.upload(known_job, make_upload()),
        "Jobs.Start": lambda: submitter.start(known_job),
    }
    site.fail(call, CallFaultKind.CODE, code=-0x2999, messages=("DOE^JANE",))
    with pytest.raises(Retriable, match="the platform answered -0x2999") as raised:
        steps[call]()
    assert (call != "Jobs.AddMetadata") is ("DOE^JANE" in str(raised.value))
    steps[call]()
