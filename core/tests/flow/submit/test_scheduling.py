"""Scheduling of jobs as a pure function, and the circuit breaker of a platform."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from dicom_adapter import Job, JobPriority
from dicom_adapter.flow.submit.scheduling import FAILURES_TO_OPEN, OLDEST_EVERY, Breaker, choose
from dicom_adapter.ledger.jobs import JobRow

NOW = datetime(2026, 1, 5, 8, tzinfo=timezone.utc)
PAUSE = timedelta(seconds=8)


def row(number: int, priority: str = "normal", ae_title: str = "LUNG") -> JobRow:
    job = Job(
        job_id=f"{number:032x}",
        name=f"job-{number}",
        ae_title=ae_title,
        pipeline_id="p",
        priority=JobPriority(priority),
        submitter="platform",
        instance_count=1,
        created_at=NOW,
        changed_at=NOW,
    )
    return JobRow(number=number, job=job, failing_since=None)


def chosen(*candidates: JobRow, served: dict[str, int] | None = None, number: int = 0) -> int | None:
    chosen = choose(candidates, served or {}, number)
    return None if chosen is None else chosen.number


def test_no_job_is_chosen_without_candidates() -> None:
    assert chosen() is None


def test_the_most_urgent_job_is_first_and_of_equally_urgent_jobs_the_oldest() -> None:
    assert 3 == chosen(row(1), row(2, "lower"), row(3, "immediate"), row(4, "immediate"))
    assert 1 == chosen(row(2), row(1))


def test_every_nth_choice_is_the_oldest_job() -> None:
    """A job of low priority is submitted although more urgent jobs keep arriving."""
    choices = [chosen(row(1, "lower"), row(9, "immediate"), number=number) for number in range(2 * OLDEST_EVERY)]
    assert 2 == choices.count(1)
    assert 9 == choices[0]


def test_ae_titles_take_turns() -> None:
    """The AE title that was served longest ago is first. An AE title that was never served is before all others."""
    candidates = [row(1, ae_title="LUNG"), row(2, ae_title="HEAD"), row(3, ae_title="KNEE")]
    assert 3 == chosen(*candidates, served={"LUNG": 7, "HEAD": 5})
    assert 2 == chosen(*candidates, served={"LUNG": 7, "HEAD": 5, "KNEE": 6})


def test_a_platform_is_down_after_consecutive_failures() -> None:
    """During the outage, one job at a time calls the platform, after a pause."""
    breaker = Breaker()
    for number in range(FAILURES_TO_OPEN - 1):
        breaker.step_failed(number, NOW, PAUSE, "away")
    assert not breaker.is_open
    breaker.step_failed(FAILURES_TO_OPEN, NOW, PAUSE, "away")
    assert breaker.is_open
    assert not breaker.may_try(NOW, trying=0)
    assert breaker.may_try(NOW + PAUSE, trying=0)
    assert not breaker.may_try(NOW + PAUSE, trying=1)


def test_one_success_ends_an_outage() -> None:
    """The end of the outage is reported once."""
    breaker = Breaker()
    for number in range(FAILURES_TO_OPEN):
        breaker.step_failed(number, NOW, PAUSE, "away")
    assert breaker.succeeded()
    assert not breaker.is_open
    assert not breaker.succeeded()


def test_failures_of_one_job_do_not_mark_the_platform_as_down() -> None:
    """The cause may be the job, which is retried after pauses."""
    breaker = Breaker()
    for _attempt in range(FAILURES_TO_OPEN + 1):
        breaker.step_failed(7, NOW, PAUSE, "away")
    assert not breaker.is_open
