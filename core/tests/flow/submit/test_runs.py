"""Jobs that are followed until their end on the platform."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from attrs import evolve

from dicom_adapter import Job, JobState, Permanent, PlatformStatus, Retriable
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.submit import operators
from dicom_adapter.flow.submit.scheduling import hold_back
from dicom_adapter.ledger.begun_jobs import BegunJob, HeldBack
from dicom_adapter.ledger.health import PartState
from dicom_adapter.runtime.parts import Part, PartKind
from dicom_adapter.simulation.platform import FollowedMemorySubmitter, ReceivedJob
from dicom_adapter.testing import Adapter

MakeAdapter = Callable[..., Adapter]

FOLLOWED = """
[submitters.platform]
type = "memory-followed"
retry-first = 2
[ae-titles.LUNG]
processor = "by-study"
[ae-titles.LUNG.settings]
pipeline-one = "p1"
"""
WAIT_S = 5  # from the last instance of a study to its job
PATIENCE_S = 20  # for other threads
STATUS_EVERY_S = 10  # the default of `status-every`
AT_LIMIT = HeldBack(may_start=frozenset({1, 2}), first_rank=2)  # two jobs run, and two jobs of rank 2 are prepared


@pytest.fixture
def adapter(make_adapter: MakeAdapter) -> Adapter:
    """Return an adapter with one running job."""
    return with_running_job(make_adapter)


def with_running_job(make_adapter: MakeAdapter, configuration: str = FOLLOWED, instances: int = 2) -> Adapter:
    adapter = make_adapter(configuration)
    adapter.receive(*(make_instance(seed="study", instance_number=number + 1) for number in range(instances)))
    adapter.advance(WAIT_S)
    assert [JobState.RUNNING] == [job.state for job in adapter.jobs]
    return adapter


def the_job(adapter: Adapter) -> Job:
    (job,) = adapter.jobs
    return job


def on_platform(adapter: Adapter) -> ReceivedJob:
    return adapter.platform.jobs[the_job(adapter).run_id]


def end(adapter: Adapter, **how: Any) -> Job:
    """End the job on the platform, and wait for the next poll."""
    adapter.platform.end(the_job(adapter), **how)
    adapter.advance(STATUS_EVERY_S)
    return the_job(adapter)


def stored(adapter: Adapter) -> int:
    return len(list(adapter.storage.keys()))


def names(adapter: Adapter) -> list[str]:
    job = the_job(adapter)
    return [event.event for event in adapter.events if event.job_id == job.job_id]


def test_a_started_job_is_running(adapter: Adapter) -> None:
    """Its instances are kept, and it has a time of its start."""
    job = the_job(adapter)
    assert ["job_queued", "job_created", "job_metadata_sent", "job_uploaded", "job_submitted"] == names(adapter)[:5]
    assert (1, job.job_id, adapter.clock.now()) == (job.run, job.run_id, job.started_at)
    assert 2 == stored(adapter)


def test_a_job_succeeds_when_the_platform_reports_its_success(adapter: Adapter) -> None:
    """Then the platform is cleaned up, and the instances are reclaimed."""
    adapter.advance(STATUS_EVERY_S)
    assert (JobState.RUNNING, "running") == (the_job(adapter).state, the_job(adapter).platform_state)
    job = end(adapter, detail="two findings")
    assert (JobState.SUCCEEDED, "succeeded", "two findings", "") == (
        job.state,
        job.platform_state,
        job.platform_detail,
        job.last_error,
    )
    assert ["job_submitted", "job_platform_state", "job_platform_state", "job_succeeded"] == names(adapter)[-4:]
    assert on_platform(adapter).cleaned_up
    assert 0 == stored(adapter)


def test_a_job_fails_when_the_platform_reports_its_failure(adapter: Adapter) -> None:
    """The words of the platform are the job's error. Its instances are kept, and nothing is deleted there."""
    job = end(adapter, succeeded=False, detail="exit status 3")
    assert (JobState.FAILED, "it ended in state 'failed': exit status 3") == (job.state, job.last_error)
    assert ["job_platform_state", "job_failed"] == names(adapter)[-2:]
    assert job.last_error == adapter.events[-1].detail["error"]
    adapter.advance(3600)
    assert (JobState.FAILED, 2) == (the_job(adapter).state, stored(adapter))
    assert not on_platform(adapter).cleaned_up


def test_the_retry_of_a_failed_job_is_another_run(adapter: Adapter) -> None:
    """It is the same job with another key for the platform, where nothing of the first run counts."""
    failed = end(adapter, succeeded=False, detail="exit status 3")
    operators.retry(adapter.ledger, adapter.clock, failed.job_id)
    queued = the_job(adapter)
    assert (JobState.QUEUED, 2, f"{failed.job_id}-2") == (queued.state, queued.run, queued.run_id)
    assert (None, "", "", "", False, "") == (
        queued.started_at,
        queued.platform_job_id,
        queued.platform_state,
        queued.platform_detail,
        queued.platform_finished,
        queued.last_error,
    )
    adapter.advance(0)
    assert JobState.RUNNING is the_job(adapter).state
    assert adapter.platform.jobs[failed.run_id].files == on_platform(adapter).files
    assert JobState.SUCCEEDED is end(adapter).state
    assert {"run": 2} == next(event.detail for event in adapter.events if event.event == "job_retried")
    assert 0 == stored(adapter)


def test_a_cancelled_running_job_ends_on_the_platform(adapter: Adapter) -> None:
    operators.cancel(adapter.ledger, adapter.clock, the_job(adapter).job_id)
    adapter.advance(STATUS_EVERY_S)
    assert JobState.CANCELLED is the_job(adapter).state
    assert (True, True) == (on_platform(adapter).cancelled, on_platform(adapter).cleaned_up)
    assert "job_failed" not in names(adapter)
    assert 0 == stored(adapter)


def test_a_failed_job_can_be_cancelled(adapter: Adapter) -> None:
    """The platform then deletes what it has kept for the operator."""
    operators.cancel(adapter.ledger, adapter.clock, end(adapter, succeeded=False).job_id)
    adapter.advance(STATUS_EVERY_S)
    assert JobState.CANCELLED is the_job(adapter).state
    assert on_platform(adapter).cleaned_up
    assert 0 == stored(adapter)


def test_a_job_that_the_platform_does_not_know_has_failed(adapter: Adapter) -> None:
    adapter.platform.fail("status", Permanent("there is no such job"))
    adapter.advance(STATUS_EVERY_S)
    assert (JobState.FAILED, "it ended in state 'unknown': there is no such job") == (
        the_job(adapter).state,
        the_job(adapter).last_error,
    )


def test_an_end_without_an_outcome_is_a_bug_of_the_submitter(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could be a failure, so the job is not reported as a success."""
    ended = PlatformStatus(state="gone", finished=True)
    monkeypatch.setattr("dicom_adapter.simulation.platform.FollowedMemorySubmitter.status", lambda *_: ended)
    adapter.advance(STATUS_EVERY_S)
    assert JobState.FAILED is the_job(adapter).state
    assert the_job(adapter).last_error.startswith("bug in submitter 'platform': `status` does not report")


def test_an_outage_of_the_platform_ends_no_job(adapter: Adapter) -> None:
    adapter.platform.fail("status", Retriable("connection refused"), times=5)
    adapter.advance(20)
    assert JobState.RUNNING is the_job(adapter).state
    adapter.platform.end(the_job(adapter))
    adapter.advance(60)
    assert JobState.SUCCEEDED is the_job(adapter).state


def test_a_job_that_is_cancelled_during_a_poll_is_not_changed_by_it(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's decision counts, whatever the platform reports. Verified to fail when the poll writes anyway."""
    job = the_job(adapter)

    def status(_submitter: object, _job: Job) -> PlatformStatus:
        operators.cancel(adapter.ledger, adapter.clock, job.job_id)
        return PlatformStatus(state="failed", finished=True, succeeded=False)

    monkeypatch.setattr("dicom_adapter.simulation.platform.FollowedMemorySubmitter.status", status)
    adapter.advance(STATUS_EVERY_S + 2)
    assert JobState.CANCELLED is the_job(adapter).state
    assert "job_failed" not in names(adapter)


def test_a_running_job_is_followed_although_its_submitter_follows_no_new_jobs(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator may change `follow` or `storage-commitment` while jobs run.

    Verified to fail when only a submitter that follows jobs is polled: the job is running forever.
    """
    adapter.platform.end(the_job(adapter))
    monkeypatch.setattr(FollowedMemorySubmitter, "follows_jobs", False)
    adapter.restart()
    adapter.advance(STATUS_EVERY_S)
    assert JobState.SUCCEEDED is the_job(adapter).state


# --- limits -----------------------------------------------------------------------------------------------------------


def at_the_limit(make_adapter: MakeAdapter, jobs: int) -> Adapter:
    """Return an adapter that may run two jobs, and prepare two more, with this number of jobs."""
    adapter = make_adapter(FOLLOWED.replace("retry-first = 2", "running = 2\nparallel = 2"))
    for number in range(jobs):
        adapter.receive(make_instance(seed=f"study {number}"), ae_title="LUNG")
    adapter.advance(WAIT_S)
    return adapter


def count_states(adapter: Adapter) -> dict[str, int]:
    return dict(Counter(job.state.value for job in adapter.jobs))


def test_no_more_jobs_run_than_allowed(make_adapter: MakeAdapter) -> None:
    """As many jobs as `parallel` are prepared meanwhile. When a job ends, the next one is started.

    Verified to fail when `start` or `create_job` is called at the limit.
    """
    adapter = at_the_limit(make_adapter, 7)
    assert {"running": 2, "uploaded": 2, "queued": 3} == count_states(adapter)
    seen = []
    while running := [job for job in adapter.jobs if job.state is JobState.RUNNING]:
        adapter.platform.end(running[0], succeeded=len(seen) % 2 == 0)
        adapter.advance(STATUS_EVERY_S)
        seen.append(count_states(adapter).get("running", 0))
    assert [2, 2, 2, 2, 2, 1, 0] == seen
    assert {"succeeded": 4, "failed": 3} == count_states(adapter)


def test_a_cancelled_job_makes_way_for_the_next_one(make_adapter: MakeAdapter) -> None:
    """Cancelling a job that waits for its start is possible at the limit, too."""
    adapter = at_the_limit(make_adapter, 5)
    by_state = {job.state: job for job in adapter.jobs}
    for state in (JobState.UPLOADED, JobState.RUNNING):
        operators.cancel(adapter.ledger, adapter.clock, by_state[state].job_id)
    adapter.advance(STATUS_EVERY_S)
    assert {"running": 2, "uploaded": 1, "cancelled": 2} == count_states(adapter)


def test_jobs_that_are_held_back_are_no_sign_of_an_available_platform(make_adapter: MakeAdapter) -> None:
    """The platform is down until a call has succeeded, although no other job may be attempted at the limit.

    Verified to fail when a queue whose jobs are all held back closes the circuit breaker.
    """
    limits = "running = 1\nparallel = 4\nretry-first = 1\nretry-most = 1\nretry-for = 20"
    adapter = make_adapter(FOLLOWED.replace("retry-first = 2", limits))
    for number in range(2):
        adapter.receive(make_instance(seed=f"study {number}"), ae_title="LUNG")
        adapter.advance(WAIT_S)
    adapter.platform.fail("create_job", Retriable("connection refused"), times=1000)
    for number in range(2, 5):
        adapter.receive(make_instance(seed=f"study {number}"), ae_title="LUNG")
    platform = Part(PartKind.PLATFORM, "platform")
    adapter.advance(300)
    assert {"running": 1, "uploaded": 1, "faulted": 3} == count_states(adapter)
    assert PartState.FAILING is adapter.host.findings()[platform].state
    adapter.platform.end(adapter.jobs[0])
    adapter.advance(STATUS_EVERY_S)
    assert {"succeeded": 1, "running": 1, "faulted": 3} == count_states(adapter)
    assert PartState.OK is adapter.host.findings()[platform].state


def test_an_interrupted_start_counts_as_running(make_adapter: MakeAdapter) -> None:
    """After a crash in `start`, the job may run on the platform: the step is repeated, and no other job is started.

    Verified to fail when only the state running counts.
    """
    configuration = FOLLOWED.replace("retry-first = 2", "running = 1") + 'pipeline-two = "p2"\n'
    adapter = make_adapter(configuration)
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.platform.fail("start", Retriable("busy"), pipeline_id="p1")  # this older job is not the first one to start
    end_of_process: Any = KeyboardInterrupt()
    adapter.platform.fail("start", end_of_process, pipeline_id="p2")
    with pytest.raises(KeyboardInterrupt):
        adapter.advance(WAIT_S)
    adapter.clock.advance(60)
    adapter.restart()
    assert {"p1": "uploaded", "p2": "running"} == {job.pipeline_id: job.state.value for job in adapter.jobs}


@pytest.mark.parametrize(
    ("begun", "starting", "creating", "expected"),
    [
        ([], [], [], None),
        ([(1, 2, True)], [], [], None),
        ([(1, 2, True), (2, 2, False)], [], [], None),
        ([(1, 2, True), (2, 2, True)], [], [], HeldBack(may_start=frozenset({1, 2}))),
        ([(1, 2, True), (2, 2, False)], [2], [], HeldBack(may_start=frozenset({1, 2}))),
        ([(1, 2, True), (2, 2, True)], [2], [], HeldBack(may_start=frozenset({1, 2}))),
        ([(1, 2, True), (2, 2, True), (3, 2, False), (4, 2, False)], [], [], AT_LIMIT),
        ([(1, 2, True), (2, 2, True), (3, 2, False)], [], [2], AT_LIMIT),
        ([(1, 2, True), (2, 2, True), (3, 2, False), (4, 0, False)], [], [], AT_LIMIT),
        ([(1, 2, True), (2, 2, True), (3, 3, False), (4, 3, False)], [], [], evolve(AT_LIMIT, first_rank=3)),
    ],
)
def test_jobs_are_held_back_at_the_limit(
    begun: list[tuple[int, int, bool]], starting: list[int], creating: list[int], expected: HeldBack | None
) -> None:
    """Two jobs may run, and two more may be prepared; more urgent jobs are prepared although less urgent ones wait.

    `begun`: number, rank (0 is the most urgent) and whether the job runs; `starting`: numbers; `creating`: ranks.
    """
    jobs = [BegunJob(number=number, rank=rank, is_running=is_running) for number, rank, is_running in begun]
    assert expected == hold_back(jobs, starting, creating, max_running=2, parallel=2)


def test_a_job_that_exceeds_its_time_is_cancelled_and_failed(make_adapter: MakeAdapter) -> None:
    """A cancellation that fails is repeated with the next poll."""
    adapter = with_running_job(make_adapter, FOLLOWED.replace("retry-first = 2", "time-limit = 60"))
    adapter.advance(59)
    assert JobState.RUNNING is the_job(adapter).state
    adapter.platform.fail("cancel", Retriable("connection refused"))
    adapter.advance(5 * STATUS_EVERY_S)
    job = the_job(adapter)
    assert (JobState.FAILED, True) == (job.state, on_platform(adapter).cancelled)
    assert "it had not ended 60 seconds after its start (time-limit), and was cancelled" == job.last_error


def test_a_cancellation_that_hangs_delays_no_other_job(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform does not answer the cancellation of a job at its time limit. Another job ends meanwhile.

    The job at its limit is not polled, so the cancellation decides how it ends. Verified to fail when the thread that
    polls calls `cancel`, or polls the job.
    """
    adapter = with_running_job(make_adapter, FOLLOWED.replace("retry-first = 2", "time-limit = 60"))
    overdue = the_job(adapter)
    adapter.advance(50)
    adapter.receive(make_instance(seed="another study"), ae_title="LUNG")
    adapter.advance(WAIT_S)
    parts = adapter.host.parts()
    poll = parts[Part(PartKind.STATUS_WATCH, "platform")].step
    limit = parts[Part(PartKind.TIME_LIMIT, "platform")].step
    hangs, answered, cancel = threading.Event(), threading.Event(), FollowedMemorySubmitter.cancel

    def hang(submitter: FollowedMemorySubmitter, job: Job) -> None:
        cancel(submitter, job)
        hangs.set()
        assert answered.wait(PATIENCE_S)

    monkeypatch.setattr(FollowedMemorySubmitter, "cancel", hang)
    adapter.clock.advance(10)
    with ThreadPoolExecutor(2) as threads:
        threads.submit(poll).result(PATIENCE_S)
        ending = threads.submit(limit)
        assert hangs.wait(PATIENCE_S)
        adapter.platform.end(adapter.jobs[1])
        adapter.clock.advance(STATUS_EVERY_S)
        threads.submit(poll).result(PATIENCE_S)
        assert [(JobState.RUNNING, "running"), (JobState.RUNNING, "succeeded")] == [
            (job.state, job.platform_state) for job in adapter.jobs
        ]
        answered.set()
        ending.result(PATIENCE_S)
    job = next(job for job in adapter.jobs if job.job_id == overdue.job_id)
    assert (JobState.FAILED, True) == (job.state, "time-limit" in job.last_error)


def test_a_job_that_has_succeeded_in_time_is_not_cancelled_later(make_adapter: MakeAdapter) -> None:
    """The adapter was down when the job ended, and until after the limit."""
    adapter = with_running_job(make_adapter, FOLLOWED.replace("retry-first = 2", "time-limit = 60"))
    adapter.platform.end(the_job(adapter))
    adapter.close()
    adapter.clock.advance(3600)
    adapter.restart_with(adapter.config)
    assert JobState.SUCCEEDED is the_job(adapter).state
