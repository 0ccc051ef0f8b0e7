"""The end of the demo does not depend on the speed of the machine."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from dicom_adapter import Job, JobState
from dicom_adapter.cli.demo_view import RESULTS, DemoState, View
from dicom_adapter.testing.submitter_jobs import make_job

SENT = 8  # instances


def pipeline_job(number: int, instances: int, **changes: Any) -> Job:
    return make_job(number, "example", **{"instance_count": instances, "state": JobState.SUCCEEDED, **changes})


def delivery(number: int, **changes: Any) -> Job:
    return make_job(number, RESULTS, state=JobState.SUBMITTED, instance_count=2, **changes)


def view(*jobs: Job, archived: int) -> View:
    return View(lanes={}, counts={}, jobs=list(jobs), received=archived, archived=archived)


def test_demo_is_complete_with_any_number_of_jobs() -> None:
    """A group of eight instances becomes one job; on a busy machine, it may become several jobs."""
    one = view(pipeline_job(1, SENT), delivery(2), archived=2)
    two = view(pipeline_job(1, 3), delivery(2), pipeline_job(3, 5), delivery(4), archived=4)
    assert [True, True] == [one.is_complete(SENT), two.is_complete(SENT)]


def test_demo_waits_for_each_instance_and_each_result() -> None:
    complete = view(pipeline_job(1, SENT), delivery(2), archived=2)
    assert complete.is_complete(SENT)
    assert not evolve(complete, archived=1).is_complete(SENT)
    assert not evolve(complete, counts={("LUNG", "pending"): 1}).is_complete(SENT)
    assert not evolve(complete, jobs=[pipeline_job(1, SENT - 1), delivery(2)]).is_complete(SENT)
    assert not evolve(complete, jobs=[pipeline_job(1, SENT, state=JobState.RUNNING)]).is_complete(SENT)


def test_demo_is_complete_if_an_instance_was_sent_again() -> None:
    again = view(pipeline_job(1, SENT), delivery(2), pipeline_job(3, 1), delivery(4), archived=4)
    assert again.is_complete(SENT)
    assert not evolve(again, jobs=[*again.jobs[:2], pipeline_job(3, 1, state=JobState.RUNNING)]).is_complete(SENT)


def test_demo_ends_when_a_job_needs_an_operator() -> None:
    assert view(pipeline_job(1, SENT, state=JobState.FAILED), archived=0).needs_operator
    assert not view(pipeline_job(1, SENT, state=JobState.RUNNING), archived=0).needs_operator


def test_only_progress_restarts_the_time_limit_of_the_demo() -> None:
    demo = DemoState(adapter=None, pacs=None)  # type: ignore[arg-type] # no ledger is read
    nothing, something = view(archived=0), view(archived=1)
    demo.note_progress(nothing)
    began = demo.idle_seconds
    demo.note_progress(nothing)
    assert demo.idle_seconds >= began
    idle = demo.idle_seconds
    demo.note_progress(something)
    assert demo.idle_seconds < idle
