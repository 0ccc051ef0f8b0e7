"""Retry and cancellation of jobs by operators, and states from the platform, on a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import structlog

from dicom_adapter import (
    Job,
    JobState,
    Permanent,
    PlatformStatus,
    Refused,
    Retriable,
    hookimpl,
)
from dicom_adapter.flow.submit import operators
from dicom_adapter.flow.submit.scheduling import FAILURES_TO_OPEN
from dicom_adapter.flow.submit.status_watch import MAX_LOGGED
from dicom_adapter.runtime.peer_health import PROBE_EVERY
from dicom_adapter.testing import Adapter, Plugin, make_instance
from support.scripted_platform import ScriptedPlatform

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[storage]
path = "data"
backend = "files"
[submitters.platform]
type = "scripted"
retry-first = 2
retry-most = 64  # longest pause in seconds
status-every = 60
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-one = "p1" }
[ae-titles.HEAD]
processor = "by-study"
settings = { priority = "higher", pipeline-one = "p2" }
"""


class Platform(ScriptedPlatform):
    """A platform that records its calls. Tests can make each call fail."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str, bool]] = []  # call, pipeline, whether the job was marked as a repetition
        self.failing: dict[str, Exception] = {}
        self.states: list[PlatformStatus] = []
        self.observed: list[Job] = []

    @hookimpl
    def dicom_adapter_job_changed(self, job: Job) -> None:
        self.observed.append(job)

    def handle(self, call: str, job: Job, position: int | None = None) -> None:
        self.calls.append((call, job.pipeline_id, job.repeated))
        if call in self.failing:
            raise self.failing[call]

    def names(self) -> list[str]:
        return [name for name, _pipeline, _repeated in self.calls]

    def status(self, job: Job) -> PlatformStatus:
        return self.states.pop(0) if self.states else super().status(job)


@pytest.fixture
def platform() -> Platform:
    return Platform()


@pytest.fixture
def adapter(make_adapter: MakeAdapter, platform: Platform) -> Adapter:
    return make_adapter(CONFIGURATION, Plugin(platform))


def send_one(adapter: Adapter, ae_title: str = "LUNG", **options: Any) -> None:
    adapter.receive(make_instance(**options), ae_title=ae_title)
    adapter.advance(5)


def only_job(adapter: Adapter) -> Job:
    [job] = adapter.jobs
    return job


@pytest.mark.parametrize("call", ["create", "metadata", "upload", "start"])
def test_a_retried_job_continues_with_the_failed_step(adapter: Adapter, platform: Platform, call: str) -> None:
    """Earlier steps are not repeated."""
    platform.failing[call] = Permanent("no such thing")
    send_one(adapter)
    assert (JobState.FAULTED, "no such thing") == (only_job(adapter).state, only_job(adapter).last_error)
    del platform.failing[call]
    platform.calls.clear()
    operators.retry(adapter.ledger, adapter.clock, only_job(adapter).job_id)
    adapter.advance(5)
    assert JobState.SUBMITTED is only_job(adapter).state
    steps = ["create", "metadata", "upload", "start"]
    assert [*steps[steps.index(call) :], "status"] == platform.names()
    assert ("", None) == (only_job(adapter).last_error, only_job(adapter).faulted_in)
    assert {"reclaimed": 1} == adapter.states


@pytest.mark.parametrize("call", ["create", "metadata", "upload", "start"])
def test_a_repeated_step_is_marked_as_a_repetition(adapter: Adapter, platform: Platform, call: str) -> None:
    """The first call of each step is not marked."""
    platform.failing[call] = Retriable("away")
    send_one(adapter)
    del platform.failing[call]
    adapter.advance(10)
    assert JobState.SUBMITTED is only_job(adapter).state
    assert [False, True] == [repeated for name, _pipeline, repeated in platform.calls if name == call]
    assert not any(repeated for name, _pipeline, repeated in platform.calls if name != call)


def test_a_step_interrupted_by_a_crash_is_marked_as_a_repetition(adapter: Adapter, platform: Platform) -> None:
    """The start of the step is recorded before the call, so that the host knows of the call after a restart."""
    platform.failing["start"] = KeyboardInterrupt()  # type: ignore[assignment] # as if the process ended during the call
    adapter.receive(make_instance(), ae_title="LUNG")
    with pytest.raises(KeyboardInterrupt):
        adapter.advance(5)
    del platform.failing["start"]
    adapter.restart()
    assert JobState.SUBMITTED is only_job(adapter).state
    assert [False, True] == [repeated for name, _pipeline, repeated in platform.calls if name == "start"]


def test_a_cancelled_job_is_cancelled_on_the_platform_and_its_instances_are_reclaimed(
    adapter: Adapter, platform: Platform
) -> None:
    """If the job exists on the platform, it is cancelled there first."""
    platform.failing["upload"] = Permanent("refused")
    send_one(adapter)
    operators.cancel(adapter.ledger, adapter.clock, only_job(adapter).job_id)
    adapter.advance(5)
    assert JobState.CANCELLED is only_job(adapter).state
    assert "cancel" == platform.names()[-1]
    assert {"reclaimed": 1} == adapter.states


def test_a_job_whose_create_may_have_reached_the_platform_is_created_again_and_cancelled(
    adapter: Adapter, platform: Platform
) -> None:
    """The repeated create returns the platform's id of the job. The job is cancelled and never starts."""
    platform.failing["create"] = Retriable("the answer was lost")
    send_one(adapter)
    operators.cancel(adapter.ledger, adapter.clock, only_job(adapter).job_id)
    del platform.failing["create"]
    adapter.advance(5)
    assert JobState.CANCELLED is only_job(adapter).state
    assert ["create", "create", "cancel"] == platform.names()


@pytest.fixture
def queued_job(adapter: Adapter, platform: Platform) -> Job:
    """Return a queued job without a first step: the platform is down, and other jobs are first."""
    platform.failing["create"] = Retriable("down")
    for number in range(2 + FAILURES_TO_OPEN):
        send_one(adapter, seed=f"lung-{number}", patient_id=f"P{number}")
    job = adapter.jobs[-1]
    assert (JobState.QUEUED, False) == (job.state, job.repeated)
    return job


def test_a_job_without_a_first_step_is_cancelled_at_once(adapter: Adapter, platform: Platform, queued_job: Job) -> None:
    """The platform is not called, so its outage does not matter. Observers are notified, and instances are reclaimed.

    Verified to fail when the cancellation waits for the turn of the job, or the host does not look for cancelled jobs.
    """
    before = adapter.states["released"]
    platform.observed.clear()
    cancelled = operators.cancel(adapter.ledger, adapter.clock, queued_job.job_id)
    assert [JobState.CANCELLED] * 2 == [cancelled.state, adapter.jobs[-1].state]
    happened = [event.event for event in adapter.events if event.job_id == queued_job.job_id]
    assert ["job_queued", "job_cancel_requested", "job_cancelled"] == happened
    adapter.advance(2)
    assert [cancelled] == [job for job in platform.observed if job.state is JobState.CANCELLED]
    assert (before - 1, 1) == (adapter.states["released"], adapter.states["reclaimed"])
    with pytest.raises(Refused, match="is cancelled"):
        operators.cancel(adapter.ledger, adapter.clock, queued_job.job_id)
    del platform.failing["create"]
    adapter.advance(200)
    assert [cancelled] == [job for job in platform.observed if job.state is JobState.CANCELLED]
    assert [JobState.CANCELLED] == [job.state for job in adapter.jobs if job.state is not JobState.SUBMITTED]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ('[submitters.renamed]\ntype = "scripted"', "it is not configured"),
        (
            '[submitters.renamed]\ntype = "scripted"\n[submitters.platform]\ntype = "gone"',
            "needs submitter 'gone', which is not installed",
        ),
    ],
    ids=["renamed", "unavailable"],
)
def test_jobs_without_their_submitter_are_logged_at_the_start(
    adapter: Adapter, queued_job: Job, capsys: Any, table: str, reason: str
) -> None:
    """The event has the number of these jobs. A job without a first step can be cancelled.

    Verified to fail when no event is added.
    """
    capsys.readouterr()
    lung = '\n[ae-titles.LUNG]\nsubmitter = "renamed"\nprocessor = "by-study"\nsettings = { pipeline-one = "p1" }\n'
    adapter.restart(table + lung)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "jobs_stranded" in line]
    assert f"jobs={len(adapter.jobs)}" in line
    assert "submitter=platform" in line
    assert reason in line
    assert JobState.CANCELLED is operators.cancel(adapter.ledger, adapter.clock, queued_job.job_id).state


def test_a_submitted_job_can_be_neither_retried_nor_cancelled(adapter: Adapter) -> None:
    """The error names the job and its state."""
    send_one(adapter)
    job = only_job(adapter)
    for action in (operators.retry, operators.cancel):
        with pytest.raises(Refused, match=f"job {job.job_id} is submitted"):
            action(adapter.ledger, adapter.clock, job.job_id)
    with pytest.raises(Refused, match="there is no job ffff"):
        operators.retry(adapter.ledger, adapter.clock, "ffff")


def test_jobs_are_submitted_in_order_and_without_a_burst_of_calls_after_an_outage(
    adapter: Adapter, platform: Platform
) -> None:
    """During the outage, one job at a time calls the platform, at growing intervals.

    After the outage, each job is submitted once, and the most urgent job is among the first two.
    """
    platform.failing["create"] = Retriable("down")
    for number in range(4):
        send_one(adapter, ae_title="LUNG", seed=f"lung-{number}", patient_id=f"P{number}")
    send_one(adapter, ae_title="HEAD", seed="head")
    adapter.advance(3600)
    assert len(platform.calls) < 5 * FAILURES_TO_OPEN + 3600 / PROBE_EVERY.total_seconds()
    platform.calls.clear()
    del platform.failing["create"]
    adapter.advance(64)
    assert [JobState.SUBMITTED] * 5 == [job.state for job in adapter.jobs]
    created = [pipeline for name, pipeline, _repeated in platform.calls if name == "create"]
    assert ["p1", "p1", "p1", "p1", "p2"] == sorted(created)
    assert "p2" in created[:2]  # p2 has the highest priority, but every eighth choice is the oldest job


class Forgetful(Platform):
    """A platform on which every call for the most urgent job fails with a transient error."""

    def handle(self, call: str, job: Job, position: int | None = None) -> None:
        super().handle(call, job)
        if job.pipeline_id == "p2" and call != "create":
            raise Retriable("what job is that?")


def test_a_job_that_keeps_failing_does_not_delay_others(make_adapter: MakeAdapter) -> None:
    """The job is retried after pauses. Other jobs are submitted at once.

    Verified to fail when failures of one job count as failures of the platform.
    """
    adapter = make_adapter(CONFIGURATION, Plugin(Forgetful()))
    send_one(adapter, ae_title="HEAD", seed="head")
    adapter.advance(600)
    for number in range(4):
        send_one(adapter, ae_title="LUNG", seed=f"lung-{number}", patient_id=f"P{number}")
    assert ["created"] + ["submitted"] * 4 == [job.state.value for job in adapter.jobs]


def test_the_end_of_an_outage_is_detected_although_one_job_still_fails(make_adapter: MakeAdapter) -> None:
    """The failing job is the first in the queue during the outage. Other jobs call the platform, too.

    Verified to fail when only the first job in the queue is attempted.
    """
    platform = Forgetful()
    adapter = make_adapter(CONFIGURATION, Plugin(platform))
    send_one(adapter, ae_title="HEAD", seed="head")
    platform.failing["create"] = Retriable("down")
    for number in range(4):
        send_one(adapter, ae_title="LUNG", seed=f"lung-{number}", patient_id=f"P{number}")
    adapter.advance(600)
    del platform.failing["create"]
    adapter.advance(200)
    assert ["created"] + ["submitted"] * 4 == [job.state.value for job in adapter.jobs]


def test_a_cancellation_that_faulted_is_repeated_by_a_retry(adapter: Adapter, platform: Platform) -> None:
    """After the retry, the job is cancelled and never starts.

    Verified to fail when a fault deletes the request to cancel.
    """
    platform.failing["upload"] = Permanent("refused")
    send_one(adapter)
    operators.cancel(adapter.ledger, adapter.clock, only_job(adapter).job_id)
    platform.failing["cancel"] = ZeroDivisionError("a bug in the submitter")
    adapter.advance(5)
    assert JobState.FAULTED is only_job(adapter).state
    platform.failing.clear()
    operators.retry(adapter.ledger, adapter.clock, only_job(adapter).job_id)
    adapter.advance(5)
    assert JobState.CANCELLED is only_job(adapter).state
    assert "start" not in platform.names()


def test_a_changed_file_faults_only_its_job(adapter: Adapter) -> None:
    """The platform does not receive the changed content."""
    adapter.receive(make_instance(seed="a", patient_id="A"), ae_title="LUNG")
    adapter.receive(make_instance(seed="b", patient_id="B"), ae_title="LUNG")
    [first, *_others] = sorted((adapter.config.storage.path / "instances").rglob("*.dcm"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    adapter.advance(5)
    assert ["faulted", "submitted"] == sorted(job.state.value for job in adapter.jobs)
    [error] = [job.last_error for job in adapter.jobs if job.last_error]
    assert "has changed" in error


def test_the_platform_is_polled_until_a_job_has_finished(adapter: Adapter, platform: Platform) -> None:
    """Every change of state is an event."""
    running = PlatformStatus(state="running", finished=False)
    platform.states = [running, running, PlatformStatus(state="stopped", finished=True, detail="healthy")]
    send_one(adapter)
    adapter.advance(600)
    job = only_job(adapter)
    assert ("stopped", "healthy", True) == (job.platform_state, job.platform_detail, job.platform_finished)
    assert 3 == platform.names().count("status")
    states = [event.detail["state"] for event in adapter.events if event.event == "job_platform_state"]
    assert ["running", "stopped"] == states


@pytest.mark.parametrize("number_of_jobs", [1, 5])
def test_failing_requests_for_the_status_are_logged_when_they_begin_and_when_they_end(
    adapter: Adapter, platform: Platform, number_of_jobs: int
) -> None:
    """Many requests while the platform does not answer: a line for each of three jobs, then one when it answers again.

    Verified to fail when each failed request of a job is logged, and when the failures of all jobs are logged.
    """
    platform.failing["status"] = Retriable("no answer")
    for number in range(number_of_jobs):
        adapter.receive(make_instance(seed=number, patient_id=str(number)), ae_title="LUNG")
    with structlog.testing.capture_logs() as logged:
        adapter.advance(3600)
        requests = platform.names().count("status")
        platform.failing.clear()
        adapter.advance(3600)
    assert requests > 20
    names = [entry["event"] for entry in logged if entry["event"].startswith("platform_status_")]
    assert [*["platform_status_failed"] * min(number_of_jobs, MAX_LOGGED), "platform_status_recovered"] == names


def test_a_job_that_is_cancelled_during_its_start_is_cancelled_on_the_platform(
    adapter: Adapter, platform: Platform
) -> None:
    """The outcome of the running step is ignored."""
    started = platform.handle

    def cancel_meanwhile(call: str, job: Job, position: int | None = None) -> None:
        started(call, job, position)
        if call == "start":
            operators.cancel(adapter.ledger, adapter.clock, job.job_id)

    platform.handle = cancel_meanwhile  # type: ignore[method-assign] # an operator cancels during the step
    send_one(adapter)
    assert JobState.CANCELLED is only_job(adapter).state
    assert ["start", "cancel"] == platform.names()[-2:]


def test_a_job_that_the_platform_refuses_to_create_can_be_cancelled(adapter: Adapter, platform: Platform) -> None:
    """The repeated create is refused again, which does not prevent the cancellation."""
    platform.failing["create"] = Permanent("unknown pipeline")
    send_one(adapter)
    operators.cancel(adapter.ledger, adapter.clock, only_job(adapter).job_id)
    adapter.advance(5)
    assert JobState.CANCELLED is only_job(adapter).state
