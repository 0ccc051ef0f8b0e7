"""Times at which a group becomes jobs."""

from __future__ import annotations

from typing import Any

import pytest


def test_a_group_that_keeps_growing_becomes_jobs_at_max_wait(new_lane: Any, instance: Any) -> None:
    """With an instance every 4 s, there are never 5 s without one; max-wait ends the group 10 s after the first."""
    lane = new_lane(max_wait=10.0)

    lane.arrive(*(instance(seconds) for seconds in (0, 4, 8, 12, 16)))
    lane.run_all_timers()

    assert [(10.0, 3), (21.0, 2)] == [(job.at, len(job.instances)) for job in lane.jobs]


def test_an_instance_that_arrives_after_submission_starts_a_new_group(new_lane: Any, instance: Any) -> None:
    """A late instance of the same study is not lost: it waits in a new group and becomes separate jobs."""
    lane = new_lane()
    first, late = instance(0), instance(6)

    lane.arrive(first, late)
    lane.run_all_timers()

    assert [(5.0, (first,)), (11.0, (late,))] == [(job.at, job.instances) for job in lane.jobs]


def test_an_instance_at_the_due_time_still_belongs_to_the_group(new_lane: Any, instance: Any) -> None:
    """If instance and timer have the same time, the instance is delivered first, and the group continues to wait."""
    lane = new_lane()
    instances = (instance(0), instance(5))

    lane.arrive(*instances)
    lane.run_all_timers()

    assert [(10.0, instances)] == [(job.at, job.instances) for job in lane.jobs]


def test_an_instance_at_max_wait_still_belongs_to_the_group(new_lane: Any, instance: Any) -> None:
    """The last instance of a group may arrive exactly at max-wait; it does not move the due time."""
    lane = new_lane(max_wait=8.0)

    lane.arrive(instance(0), instance(4), instance(8))
    lane.run_all_timers()

    assert [(8.0, 3)] == [(job.at, len(job.instances)) for job in lane.jobs]


def test_an_instance_delivered_before_a_late_timer_starts_a_new_group(new_lane: Any, instance: Any) -> None:
    """The host delivers the instance of 6 s before it runs the timer of 5 s: there are still two groups."""
    lane = new_lane()
    first, late = instance(0), instance(6)

    lane.deliver(first)
    lane.deliver(late)
    [job] = lane.jobs
    assert ("LUNG-lung-20240301080005", (first,)) == (job.name.rpartition("-")[0], job.instances)
    lane.run_all_timers()

    assert [(late,)] == [job.instances for job in lane.jobs[1:]]
    assert [first, late] == lane.removed


def test_a_clock_that_was_set_back_does_not_end_a_group_early(new_lane: Any, instance: Any) -> None:
    """An instance with an earlier time than the previous one does not change the group's due time."""
    lane = new_lane()

    for seconds in (10, 2, 12):
        lane.deliver(instance(seconds))
    lane.run_all_timers()

    assert [(17.0, 3)] == [(job.at, len(job.instances)) for job in lane.jobs]


def test_a_group_has_one_timer_for_any_number_of_instances(new_lane: Any, instance: Any) -> None:
    """Arrivals change the due time, not the timer: 2,000 instances in 4 s use two timers, one at a time."""
    lane = new_lane()

    for number in range(2000):
        lane.arrive(instance(number * 0.002))
        assert 1 == len(lane.timers)
    lane.run_all_timers()

    assert [2000] == [len(job.instances) for job in lane.jobs]
    assert 2 == lane.timers_made
    assert [] == lane.timers


def test_a_closed_processor_has_no_timer(new_lane: Any, instance: Any) -> None:
    """Closing the processor cancels the timers of open groups."""
    lane = new_lane()

    lane.arrive(instance(0, "1.1"), instance(0, "1.2"))
    lane.processor.close()

    assert [False, False] == [timer.live for timer in lane.timers]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_every_pipeline_gets_its_job_once_after_a_failed_turn(new_lane: Any, instance: Any, failing: int) -> None:
    """The failed turn submits no job; the new processor submits all jobs from the same instances."""
    pipelines = {"a": "p1", "b": "p2", "c": "p3"}
    lane = new_lane(pipelines=pipelines, failing_submissions=[failing])
    lane.arrive(instance(0), instance(3))
    with pytest.raises(RuntimeError):
        lane.run_all_timers()
    assert ([], []) == (lane.jobs, lane.removed)

    again = lane.restarted()
    again.arrive(*lane.pending.values())
    again.run_all_timers()

    assert ["p1", "p2", "p3"] == [job.pipeline_id for job in again.jobs]
    assert list(lane.pending.values()) == again.removed


def test_redelivery_after_a_restart_submits_the_same_jobs(new_lane: Any, instance: Any) -> None:
    """A restart in the middle of several groups changes neither their instances nor their due times and names."""
    arrivals = [instance(s, f"1.{study}") for s, study in [(0, 1), (2, 2), (4, 1), (6, 2), (8, 3)]]
    undisturbed = new_lane(timeout=5.0, group_by="study")
    undisturbed.arrive(*arrivals)
    undisturbed.run_all_timers()

    stopped = new_lane(timeout=5.0, group_by="study")
    stopped.arrive(*arrivals)
    again = stopped.restarted()
    again.arrive(*stopped.pending.values())
    again.run_all_timers()

    assert undisturbed.jobs == again.jobs
    assert undisturbed.removed == again.removed
