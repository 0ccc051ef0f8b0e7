"""The scenarios that specify the AE Title Job Processor."""

from __future__ import annotations

from typing import Any

from dicom_adapter import JobPriority

PIPELINES = {"lung": "p1", "liver": "p2", "brain": "p3"}


def test_five_studies_of_one_patient_within_the_timeout_become_one_job_for_each_pipeline(
    new_lane: Any, instance: Any
) -> None:
    """Five studies in separate associations within 60 s become three jobs, each with all five studies."""
    lane = new_lane(priority=JobPriority.NORMAL, timeout=60.0, pipelines=PIPELINES)
    studies = [f"1.2.{number}" for number in range(5)]

    for number, study in enumerate(studies):
        lane.arrive(*(instance(number * 12 + k, study, association_id=f"a{number}") for k in (0, 1)))
    lane.run_all_timers()

    assert ["p1", "p2", "p3"] == [job.pipeline_id for job in lane.jobs]
    assert [studies] * 3 == [job.studies for job in lane.jobs]
    assert [10] * 3 == [len(job.instances) for job in lane.jobs]
    assert {JobPriority.NORMAL} == {job.priority for job in lane.jobs}
    assert {} == lane.pending


def test_three_studies_in_one_association_become_three_jobs_after_five_seconds(new_lane: Any, instance: Any) -> None:
    """Studies A, B and C in one association, without a timeout, become one job each after five seconds."""
    lane = new_lane(priority=JobPriority.HIGHER, pipelines={"lung": "p1"})

    lane.arrive(*(instance(0.1 * number, study) for number, study in enumerate(["1.1", "1.2", "1.3"] * 4)))
    lane.run_until(1.1 + 5)

    assert [["1.1"], ["1.2"], ["1.3"]] == [job.studies for job in lane.jobs]
    assert [4, 4, 4] == [len(job.instances) for job in lane.jobs]
    assert [5.9, 6.0, 6.1] == [job.at for job in lane.jobs]
    assert {JobPriority.HIGHER} == {job.priority for job in lane.jobs}


def test_four_instances_within_the_wait_become_one_job(new_lane: Any, instance: Any) -> None:
    """Four instances of one study, 4 s, 3 s and 1 s apart, in separate associations, become one job."""
    lane = new_lane(priority=JobPriority.HIGHER, pipelines={"lung": "p1"})
    instances = [instance(seconds, association_id=f"a{seconds}") for seconds in (0, 4, 7, 8)]

    lane.arrive(*instances)
    lane.run_until(12.9)
    assert [] == lane.jobs
    lane.run_until(13)

    assert [tuple(instances)] == [job.instances for job in lane.jobs]
    assert instances == lane.removed
