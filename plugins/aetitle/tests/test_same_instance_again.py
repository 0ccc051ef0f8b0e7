"""Duplicates of a pending instance: the newer arrival replaces the older."""

from __future__ import annotations

from typing import Any


def test_the_newer_arrival_replaces_the_older_one(new_lane: Any, instance: Any) -> None:
    """The job has each SOP instance once, in the order of first arrival, and the wait restarts."""
    lane = new_lane()
    first = instance(0, sop_instance_uid="1.9.77")
    other = instance(1)
    newer = instance(2, sop_instance_uid="1.9.77")

    lane.arrive(first, other, newer)
    lane.run_all_timers()

    assert [(7.0, (newer, other))] == [(job.at, job.instances) for job in lane.jobs]
    assert [newer, other] == lane.removed


def test_a_duplicate_after_submission_starts_a_new_group(new_lane: Any, instance: Any) -> None:
    """The submitted job does not change."""
    lane = new_lane()
    first, again = instance(0, sop_instance_uid="1.9.77"), instance(6, sop_instance_uid="1.9.77")

    lane.arrive(first, again)
    lane.run_all_timers()

    assert [(first,), (again,)] == [job.instances for job in lane.jobs]


def test_a_duplicate_with_a_corrected_patient_moves_to_the_other_group(new_lane: Any, instance: Any) -> None:
    """The job of the wrong patient does not contain the corrected instance."""
    lane = new_lane(group_by="patient")
    wrong = instance(0, sop_instance_uid="1.9.77")
    other = instance(1)
    corrected = instance(2, sop_instance_uid="1.9.77", patient_id="PID-4712")

    lane.arrive(wrong, other, corrected)
    assert [1, 1] == [waiting.instance_count for waiting in lane.processor.waiting()]
    lane.run_all_timers()

    assert [(6.0, (other,)), (7.0, (corrected,))] == [(job.at, job.instances) for job in lane.jobs]


def test_a_quarantined_duplicate_withdraws_the_older_instance(new_lane: Any, instance: Any) -> None:
    """The sender replaced the older instance; the newer one waits for an operator. Other instances are unaffected."""
    lane = new_lane(group_by="patient")
    replaced = instance(0, sop_instance_uid="1.9.77")
    other = instance(1)

    lane.arrive(replaced, other, instance(2, sop_instance_uid="1.9.77", patient_id=""))
    lane.run_all_timers()

    assert 1 == len(lane.quarantined)
    assert [(6.0, (other,))] == [(job.at, job.instances) for job in lane.jobs]


def test_an_empty_group_submits_no_job(new_lane: Any, instance: Any) -> None:
    """When the only instance of a group moved to another group, the empty group submits nothing."""
    lane = new_lane(group_by="patient")

    lane.arrive(*(instance(0, sop_instance_uid="1.9.77", patient_id=patient_id) for patient_id in ("1", "2")))
    lane.run_all_timers()

    assert [1] == [len(job.instances) for job in lane.jobs]
    assert [] == lane.timers
