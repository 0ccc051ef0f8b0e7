"""`clean_up` of a job that has ended is called until it has succeeded, across errors, crashes and restarts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve
from structlog.testing import capture_logs

from dicom_adapter import Job, JobState, Permanent, Retriable
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.submit import operators
from dicom_adapter.ledger import clean_ups
from dicom_adapter.ledger.clean_ups import CleanUp
from dicom_adapter.simulation.platform import FollowedMemorySubmitter
from dicom_adapter.testing import Adapter

MakeAdapter = Callable[..., Adapter]

FOLLOWED = """
[submitters.platform]
type = "memory-followed"
retry-first = 2
retry-most = 60
retry-for = 10
[ae-titles.LUNG]
processor = "by-study"
[ae-titles.LUNG.settings]
pipeline-one = "p1"
"""
WAIT_S = 5  # from the last instance of a study to its job
STATUS_EVERY_S = 10  # the default of `status-every`
HOUR_S = 3600


@pytest.fixture
def adapter(make_adapter: MakeAdapter) -> Adapter:
    """Return an adapter with one running job."""
    adapter = make_adapter(FOLLOWED)
    add_job(adapter, "first")
    return adapter


def add_job(adapter: Adapter, seed: str) -> Job:
    adapter.receive(make_instance(seed=seed), ae_title="LUNG")
    adapter.advance(WAIT_S)
    assert JobState.RUNNING is adapter.jobs[-1].state
    return adapter.jobs[-1]


def end(adapter: Adapter, **how: Any) -> Job:
    """End the newest job on the platform, and wait for the next poll."""
    adapter.platform.end(adapter.jobs[-1], **how)
    adapter.advance(STATUS_EVERY_S)
    return adapter.jobs[-1]


def cleaned_up(adapter: Adapter) -> dict[str, bool]:
    return {run_id: job.cleaned_up for run_id, job in adapter.platform.jobs.items()}


def waiting(adapter: Adapter) -> list[CleanUp]:
    with adapter.ledger.read() as transaction:
        return [one for job in adapter.jobs for one in clean_ups.of_job(transaction, job.job_id)]


def test_the_platform_is_cleaned_up_after_a_success(adapter: Adapter) -> None:
    job = end(adapter)
    assert {job.run_id: True} == cleaned_up(adapter)
    assert [] == waiting(adapter)


def test_a_crash_before_the_clean_up_only_delays_it(adapter: Adapter) -> None:
    """The process is killed after the commit of the success, in the call of `clean_up`."""
    end_of_process: Any = KeyboardInterrupt()
    adapter.platform.fail("clean_up", end_of_process)
    with pytest.raises(KeyboardInterrupt):
        end(adapter)
    (job,) = adapter.jobs
    assert (JobState.SUCCEEDED, {job.run_id: False}) == (job.state, cleaned_up(adapter))
    adapter.restart()
    assert {job.run_id: True} == cleaned_up(adapter)
    assert [] == waiting(adapter)


def test_a_clean_up_that_fails_is_repeated_with_pauses(adapter: Adapter) -> None:
    """The pauses are those of the submitter; there is no limit for all attempts together, such as `retry-for`."""
    adapter.platform.fail("clean_up", Retriable("busy"), times=9)
    with capture_logs() as logged:
        job = end(adapter)
        (clean_up,) = waiting(adapter)
        assert (1, "busy", job.job_id, 1) == (
            clean_up.attempts,
            clean_up.last_error,
            clean_up.job.job_id,
            clean_up.job.run,
        )
        assert clean_up.next_attempt_at is not None
        assert timedelta() < clean_up.next_attempt_at - adapter.clock.now() <= timedelta(seconds=2)
        adapter.advance(120)
        assert 4 < waiting(adapter)[0].attempts < 9
        adapter.advance(HOUR_S)
    assert JobState.SUCCEEDED is adapter.jobs[0].state
    assert ([], {job.run_id: True}) == (waiting(adapter), cleaned_up(adapter))
    assert ["job_clean_up_postponed"] == [line["event"] for line in logged if "clean_up" in line["event"]]


def test_a_clean_up_is_due_after_the_clock_was_put_back(adapter: Adapter) -> None:
    """Verified to fail when its next attempt in the far future counts."""
    adapter.platform.fail("clean_up", Retriable("busy"))
    end(adapter)
    [one] = waiting(adapter)
    with adapter.ledger.write() as transaction:
        clean_ups.postpone(transaction, one.number, 1, adapter.clock.now() + timedelta(days=365), "busy")
    adapter.advance(120)
    assert [] == waiting(adapter)


def test_a_bug_of_the_submitter_is_no_reason_to_give_up(adapter: Adapter) -> None:
    """A later version of the submitter may delete the files."""
    adapter.platform.fail("clean_up", ZeroDivisionError("secret"), times=3)
    end(adapter)
    assert waiting(adapter)[0].last_error.startswith("bug in submitter 'platform': ZeroDivisionError")
    assert "secret" not in waiting(adapter)[0].last_error
    adapter.advance(HOUR_S)
    assert all(cleaned_up(adapter).values())


def test_a_clean_up_that_the_platform_refuses_is_given_up(adapter: Adapter) -> None:
    """The reason is logged and part of the story of the job."""
    adapter.platform.fail("clean_up", Permanent("the payload is locked"))
    with capture_logs() as logged:
        job = end(adapter)
    assert [("warning", "the payload is locked", job.job_id)] == [
        (line["log_level"], line["reason"], line["job_id"]) for line in logged if line["event"] == "job_clean_up_failed"
    ]
    assert ("job_clean_up_failed", {"of_run": 1, "reason": "the payload is locked"}) == (
        adapter.events[-1].event,
        adapter.events[-1].detail,
    )
    assert ([], {job.run_id: False}) == (waiting(adapter), cleaned_up(adapter))


def test_a_failing_clean_up_delays_no_job_and_few_other_clean_ups(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next job starts, ends and is cleaned up while the clean-up of the first one waits."""
    first, clean_up = adapter.jobs[0], FollowedMemorySubmitter.clean_up

    def fail_for_the_first(submitter: FollowedMemorySubmitter, job: Job) -> None:
        if job.job_id == first.job_id:
            raise Retriable("busy")
        clean_up(submitter, job)

    monkeypatch.setattr(FollowedMemorySubmitter, "clean_up", fail_for_the_first)
    end(adapter)
    adapter.advance(60)
    second = add_job(adapter, "second")
    assert JobState.SUCCEEDED is end(adapter).state
    adapter.advance(2)
    assert {first.run_id: False, second.run_id: True} == cleaned_up(adapter)


def test_a_job_is_cleaned_up_even_if_the_platform_refuses_its_cancellation(adapter: Adapter) -> None:
    """The clean-up is recorded like that of a success, so it is repeated until it succeeds."""
    (job,) = adapter.jobs
    adapter.platform.fail("cancel", Permanent("no such job"))
    adapter.platform.fail("clean_up", Retriable("busy"))
    operators.cancel(adapter.ledger, adapter.clock, job.job_id)
    adapter.advance(STATUS_EVERY_S)
    assert JobState.CANCELLED is adapter.jobs[-1].state
    adapter.advance(HOUR_S)
    assert ([], {job.run_id: True}) == (waiting(adapter), cleaned_up(adapter))


def test_many_clean_ups_of_a_platform_that_is_down_are_few_calls(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each failure, all clean-ups of the submitter pause. Verified to fail without this pause."""
    adapter = make_adapter(FOLLOWED)
    for number in range(12):
        add_job(adapter, f"study {number}")
    for job in adapter.jobs:
        adapter.platform.end(job)
    calls: list[str] = []

    def fail(_submitter: object, job: Job) -> None:
        calls.append(job.job_id)
        raise Retriable("connection refused")

    with monkeypatch.context() as patched:
        patched.setattr(FollowedMemorySubmitter, "clean_up", fail)
        adapter.advance(300)
    assert (12, 12) == (len(waiting(adapter)), sum(job.state is JobState.SUCCEEDED for job in adapter.jobs))
    assert len(calls) < 20
    adapter.advance(120)
    assert ([], True) == (waiting(adapter), all(cleaned_up(adapter).values()))


def test_a_retried_run_is_cleaned_up(adapter: Adapter) -> None:
    """The operator has seen the reason of the failure: what the platform keeps of the failed run is deleted.

    The submitter gets the ids of that run.
    """
    failed = end(adapter, succeeded=False)
    adapter.advance(HOUR_S)
    assert {failed.run_id: False} == cleaned_up(adapter)
    operators.retry(adapter.ledger, adapter.clock, failed.job_id)
    (clean_up,) = waiting(adapter)
    assert (failed.run_id, failed.platform_job_id) == (clean_up.job.run_id, clean_up.job.platform_job_id)
    adapter.advance(0)
    assert {failed.run_id: True, f"{failed.job_id}-2": False} == cleaned_up(adapter)
    assert JobState.SUCCEEDED is end(adapter).state
    assert ([], True) == (waiting(adapter), all(cleaned_up(adapter).values()))


def test_a_submitter_without_clean_up_costs_nothing(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is recorded for it. Verified to fail when every success records a clean-up."""
    monkeypatch.delattr(FollowedMemorySubmitter, "clean_up")
    recorded: list[object] = []
    monkeypatch.setattr(clean_ups, "insert", lambda *arguments: recorded.append(arguments))
    assert JobState.SUCCEEDED is end(adapter).state
    assert [] == recorded


def test_a_waiting_clean_up_ends_when_the_submitter_does_not_need_it_any_more(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter.platform.fail("clean_up", Retriable("busy"), times=99)
    end(adapter)
    assert 1 == len(waiting(adapter))
    monkeypatch.setattr(FollowedMemorySubmitter, "follows_jobs", False)
    monkeypatch.delattr(FollowedMemorySubmitter, "clean_up")
    adapter.restart()
    adapter.advance(60)
    assert [] == waiting(adapter)


@pytest.mark.parametrize("succeeds", [True, False])
def test_runs_that_a_reload_has_left_running_are_cleaned_up(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, succeeds: bool
) -> None:
    """The changed submitter follows no jobs, but its earlier jobs end.

    Verified to fail when only a submitter that follows jobs, or has clean-ups at the reload, has clean-ups later.
    """
    monkeypatch.setattr(FollowedMemorySubmitter, "follows_jobs", False)
    table = evolve(adapter.config.submitters["platform"], parallel=3)
    adapter.configure(evolve(adapter.config, submitters={"platform": table}))
    ended = end(adapter, succeeded=succeeds)
    if not succeeds:
        operators.retry(adapter.ledger, adapter.clock, ended.job_id)
        adapter.advance(10)
    assert [] == waiting(adapter)
    assert cleaned_up(adapter)[ended.run_id]
