"""Jobs that are followed until their end on the platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dicom_adapter import Job, JobState, Permanent, Retriable
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.submit import operators
from dicom_adapter.simulation.platform import ReceivedJob
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
STATUS_EVERY_S = 10  # the default of `status-every`


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


def names(adapter: Adapter, *ignored: str) -> list[str]:
    job = the_job(adapter)
    return [event.event for event in adapter.events if event.job_id == job.job_id and event.event not in ignored]


def test_a_started_job_is_running(adapter: Adapter) -> None:
    """Its instances are kept, and it has a time of its start."""
    job = the_job(adapter)
    assert ["job_queued", "job_created", "job_metadata_sent", "job_uploaded", "job_submitted"] == names(adapter)
    assert (1, job.job_id, adapter.clock.now()) == (job.run, job.run_id, job.started_at)
    assert 2 == len(adapter.stored_instances)


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
    assert [] == adapter.stored_instances


def test_a_job_fails_when_the_platform_reports_its_failure(adapter: Adapter) -> None:
    """The words of the platform are the job's error. Its instances are kept, and nothing is deleted there."""
    job = end(adapter, succeeded=False, detail="exit status 3")
    assert (JobState.FAILED, "it ended in state 'failed': exit status 3") == (job.state, job.last_error)
    assert ["job_platform_state", "job_failed"] == names(adapter)[-2:]
    assert job.last_error == adapter.events[-1].detail["error"]
    adapter.advance(days=40)
    assert (JobState.FAILED, 2) == (the_job(adapter).state, len(adapter.stored_instances))
    assert not on_platform(adapter).cleaned_up
