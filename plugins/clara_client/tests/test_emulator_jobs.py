"""Jobs of the emulated platform: creation, states and metadata."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter import JobPriority
from dicom_adapter_clara_client.emulator.rules import Conflict, InvalidValue, MalformedId, NotFound
from dicom_adapter_clara_client.emulator.state import EmulatedPlatform
from dicom_adapter_clara_client.emulator.values import ClaraJob, ClaraJobState, ClaraJobStatus, JobFilter, RunPlan
from dicom_adapter_clara_client.wire.codes import ClaraCode

LUNG = 32 * "a"
HEART = 32 * "b"
NOON = datetime(2026, 9, 1, 12, tzinfo=timezone.utc)


class Clock:
    """A clock that advances only on request."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def platform(clock: Clock) -> EmulatedPlatform:
    return EmulatedPlatform(pipelines=[LUNG, HEART], run=RunPlan(seconds=60), clock=clock)


@pytest.fixture
def job(platform: EmulatedPlatform) -> ClaraJob:
    return platform.create_job(LUNG, "ae-lung-1", priority=JobPriority.HIGHER, metadata={"Source": "AE"})


def test_a_new_job_is_pending_and_healthy(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A new job has the values of its creation, and no time of start or stop."""
    expected = ClaraJob(
        job_id=job.job_id,
        payload_id=job.payload_id,
        pipeline_id=LUNG,
        name="ae-lung-1",
        priority=JobPriority.HIGHER,
        metadata={"Source": "AE"},
        state=ClaraJobState.PENDING,
        status=ClaraJobStatus.HEALTHY,
        created=NOON,
    )
    assert expected == platform.jobs.status(job.job_id)


def test_ids_are_compared_without_case(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """An id in upper case names the same job."""
    assert job == platform.jobs.status(job.job_id.upper())


@pytest.mark.parametrize(
    "bad", ["", "abc", 31 * "a", 33 * "a", 32 * "g", "a" * 31 + "\n", "01234567-89ab-cdef-0123-456789abcdef"]
)
def test_an_invalid_id_is_malformed(platform: EmulatedPlatform, bad: str) -> None:
    """Ids are 32 hexadecimal digits without dashes. The error differs from that of unknown ids."""
    with pytest.raises(MalformedId) as job_error:
        platform.jobs.status(bad)
    with pytest.raises(MalformedId) as pipeline_error:
        platform.create_job(bad, "name")
    assert (ClaraCode.JOB_ID_MALFORMED, ClaraCode.PIPELINE_ID_MALFORMED) == (
        job_error.value.code,
        pipeline_error.value.code,
    )


def test_an_unknown_job_is_not_found(platform: EmulatedPlatform) -> None:
    """The error of a well-formed but unknown id differs from that of a malformed id."""
    with pytest.raises(NotFound) as error:
        platform.jobs.status(32 * "0")
    assert ClaraCode.NO_SUCH_JOB == error.value.code


def test_a_job_for_an_unknown_pipeline_is_refused(platform: EmulatedPlatform) -> None:
    """The pipeline must be registered; no job is created."""
    with pytest.raises(NotFound) as error:
        platform.create_job(32 * "0", "name")
    assert (ClaraCode.NO_SUCH_PIPELINE, ()) == (error.value.code, platform.jobs.list())


def test_every_pipeline_is_accepted_with_any() -> None:
    """With pipelines="any" every well-formed pipeline id is accepted."""
    assert 32 * "0" == EmulatedPlatform(pipelines="any").create_job(32 * "0", "name").pipeline_id


@pytest.mark.parametrize("name", ["a", "0", "ae-lung-20260901120000", 63 * "x", "a-b-c"])
def test_valid_names_are_accepted(platform: EmulatedPlatform, name: str) -> None:
    """A job's name has lower-case letters, digits, and single dashes between them."""
    assert name == platform.create_job(LUNG, name).name


@pytest.mark.parametrize("name", ["", "-a", "a-", "a--b", "A", "a_b", "a b", "ä", 64 * "x", "a\n", "a.b"])
def test_invalid_names_are_refused(platform: EmulatedPlatform, name: str) -> None:
    """The error has the published code, and its message states the rule."""
    with pytest.raises(InvalidValue, match="1 to 63 of a-z, 0-9 and single dashes") as error:
        platform.create_job(LUNG, name)
    assert ClaraCode.JOB_NAME_INVALID == error.value.code


def test_a_started_job_runs_and_stops_automatically(platform: EmulatedPlatform, job: ClaraJob, clock: Clock) -> None:
    """The job is running after its start and stopped after the planned time; both times are recorded."""
    started = platform.jobs.start(job.job_id, {"threshold": "3"})
    clock.advance(59.9)
    running = platform.jobs.status(job.job_id)
    clock.advance(100)
    stopped = platform.jobs.status(job.job_id)
    assert (ClaraJobState.RUNNING, NOON, None, {"threshold": "3"}) == (
        started.state,
        started.started,
        started.stopped,
        started.variables,
    )
    assert started == running
    assert (ClaraJobState.STOPPED, ClaraJobStatus.HEALTHY, NOON + timedelta(seconds=60)) == (
        stopped.state,
        stopped.status,
        stopped.stopped,
    )


def test_only_a_pending_job_can_be_started(platform: EmulatedPlatform, job: ClaraJob, clock: Clock) -> None:
    """A second start is refused while the job runs and after it has stopped."""
    platform.jobs.start(job.job_id)
    for seconds in (1, 100):
        clock.advance(seconds)
        with pytest.raises(Conflict) as error:
            platform.jobs.start(job.job_id)
        assert ClaraCode.JOB_NOT_PENDING == error.value.code


def test_a_run_plan_can_be_set_for_one_pipeline(platform: EmulatedPlatform, clock: Clock) -> None:
    """Jobs of other pipelines keep the default plan."""
    platform.jobs.set_run(RunPlan(seconds=1, status=ClaraJobStatus.FAULTED, messages=("out of memory",)), HEART.upper())
    lung, heart = (platform.create_job(pipeline, "name") for pipeline in (LUNG, HEART))
    for job in (lung, heart):
        platform.jobs.start(job.job_id)
    clock.advance(60)
    ends = [(job.status, job.messages) for job in platform.jobs.list()]
    assert [(ClaraJobStatus.HEALTHY, ()), (ClaraJobStatus.FAULTED, ("out of memory",))] == ends


def test_a_job_can_run_until_it_is_finished(platform: EmulatedPlatform, job: ClaraJob, clock: Clock) -> None:
    """A plan without a duration lets a job run until `finish` is called."""
    platform.jobs.set_run(RunPlan(seconds=None))
    platform.jobs.start(job.job_id)
    clock.advance(1e9)
    assert ClaraJobState.RUNNING == platform.jobs.status(job.job_id).state
    finished = platform.jobs.finish(job.job_id, ClaraJobStatus.EVICTED, ("moved",))
    assert (ClaraJobState.STOPPED, ClaraJobStatus.EVICTED, ("moved",)) == (
        finished.state,
        finished.status,
        finished.messages,
    )


def test_only_a_running_job_can_be_finished(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """`finish` refuses a pending job."""
    with pytest.raises(Conflict):
        platform.jobs.finish(job.job_id)


@pytest.mark.parametrize("start", [False, True])
def test_pending_and_running_jobs_can_be_canceled(platform: EmulatedPlatform, job: ClaraJob, start: bool) -> None:
    """A canceled job is stopped immediately and has the reason as a message."""
    if start:
        platform.jobs.start(job.job_id)
    canceled = platform.jobs.cancel(job.job_id, "not needed")
    assert (ClaraJobState.STOPPED, ClaraJobStatus.CANCELED, NOON, ("not needed",)) == (
        canceled.state,
        canceled.status,
        canceled.stopped,
        canceled.messages,
    )


def test_canceling_a_stopped_job_changes_nothing(platform: EmulatedPlatform, job: ClaraJob, clock: Clock) -> None:
    """The result of a stopped job does not change."""
    platform.jobs.start(job.job_id)
    clock.advance(60)
    ended = platform.jobs.status(job.job_id)
    assert ended == platform.jobs.cancel(job.job_id)


def test_metadata_is_added_to_present_metadata(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """An addition returns all metadata."""
    assert {"Source": "AE", "Instances": "3"} == platform.jobs.add_metadata(job.job_id, {"Instances": "3"}).metadata


@pytest.mark.parametrize("added", [{"new": "1", "SOURCE": "x"}, {"twice": "1", "Twice": "2"}])
def test_a_repeated_key_refuses_the_whole_request(
    platform: EmulatedPlatform, job: ClaraJob, added: dict[str, str]
) -> None:
    """New keys are compared without case, with present keys and with each other; no entry is added."""
    with pytest.raises(Conflict):
        platform.jobs.add_metadata(job.job_id, added)
    assert job == platform.jobs.status(job.job_id)


def test_metadata_is_measured_in_bytes(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """The limits are 128 bytes for a key and 256 for a value; an umlaut has two bytes."""
    platform.jobs.add_metadata(job.job_id, {64 * "ä": 128 * "ä"})
    for metadata in ({64 * "ö" + "x": ""}, {"key": 128 * "ä" + "x"}):
        with pytest.raises(InvalidValue):
            platform.jobs.add_metadata(job.job_id, metadata)
        with pytest.raises(InvalidValue):
            platform.create_job(LUNG, "name", metadata=metadata)


def test_the_total_metadata_of_a_job_is_limited(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A job's metadata can have at most 4 MB, over all requests."""
    for thousand in range(16):
        platform.jobs.add_metadata(job.job_id, {f"{thousand:02}{index:03}": 249 * "x" for index in range(1000)})
    with pytest.raises(InvalidValue):
        platform.jobs.add_metadata(job.job_id, {f"more{index:03}": 249 * "x" for index in range(1000)})


def test_removing_metadata_ignores_case_and_unknown_keys(platform: EmulatedPlatform, job: ClaraJob) -> None:
    """A removal returns the remaining metadata."""
    platform.jobs.add_metadata(job.job_id, {"Instances": "3"})
    assert {"Instances": "3"} == platform.jobs.remove_metadata(job.job_id, ["source", "unknown"]).metadata


def test_filters_combine(platform: EmulatedPlatform, clock: Clock) -> None:
    """All conditions of a filter must hold; each condition lists alternatives."""
    early = platform.create_job(LUNG, "early")
    clock.advance(10)
    platform.create_job(LUNG, "late")
    other = platform.create_job(HEART, "other")
    platform.jobs.start(early.job_id)
    platform.jobs.cancel(other.job_id)
    clock.advance(1)

    def names(**wanted: Any) -> list[str]:
        return [job.name for job in platform.jobs.list(evolve(JobFilter(), **wanted))]

    assert ["early", "late", "other"] == names()
    assert ["late", "other"] == names(created_after=NOON)
    assert ["other"] == names(completed_before=clock.now)
    assert [] == names(completed_before=clock.now - timedelta(seconds=1))
    assert ["early", "late"] == names(states=frozenset({ClaraJobState.PENDING, ClaraJobState.RUNNING}))
    assert ["other"] == names(statuses=frozenset({ClaraJobStatus.CANCELED}))
    assert ["late"] == names(pipeline_ids=frozenset({LUNG}), created_after=NOON)
