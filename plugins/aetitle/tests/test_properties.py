"""Properties for any schedule of arrivals: groups match the specification, and no instance is lost."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dicom_adapter import JobProcessorBase
from dicom_adapter_aetitle.grouping import FinishedGroup, OpenGroups, group_all

# Whole and half seconds often coincide with due times (quiet time 5 s).
gaps = st.sampled_from([0.0, 0.5, 1.0, 2.0, 4.5, 5.0, 5.5, 9.0])
arrivals = st.lists(st.tuples(gaps, st.integers(1, 4), st.integers(1, 6)), max_size=40)
longest = st.sampled_from([None, 5.0, 5.5, 8.0, 10.0])

QUIET = timedelta(seconds=5)


def schedule(instance: Any, steps: list[tuple[float, int, int]], *, repeat: bool) -> list[Any]:
    """Return instances from (seconds since the previous, study, SOP instance); UIDs are unique unless `repeat`."""
    now, arrivals = 0.0, []
    for gap, study, sop_instance in steps:
        now += gap
        changes = {"sop_instance_uid": f"1.9.{sop_instance}"} if repeat else {}
        arrivals.append(instance(now, f"1.{study}", **changes))
    return arrivals


def expected_groups(instances: list[Any], max_wait: float | None) -> Counter[Any]:
    """Return (job name, instance ids) of every group that becomes a job, by the specification."""
    limit = None if max_wait is None else timedelta(seconds=max_wait)
    groups = group_all([((i.study_instance_uid,), i) for i in instances], QUIET, limit)
    return Counter((job_name(group), ids_in(group)) for group in groups if group.instances)


def job_name(group: FinishedGroup) -> str:
    return f"{group.due:LUNG-lung-%Y%m%d%H%M%S}-{group.digest('lung')}"


def ids_in(holder: Any) -> tuple[int, ...]:
    return tuple(instance.instance_id for instance in holder.instances)


def submitted_groups(lane: Any) -> Counter[Any]:
    return Counter((job.name, ids_in(job)) for job in lane.jobs)


@given(steps=arrivals, max_wait=longest, repeat=st.booleans())
def test_the_processor_groups_as_specified(
    new_lane: Any, new_modality: Any, steps: list[tuple[float, int, int]], max_wait: float | None, repeat: bool
) -> None:
    """Processing one arrival at a time gives the same groups and due times as `group_all`.

    Operators see the groups that they would see if every waiting group were described.
    """
    instances = schedule(new_modality(), steps, repeat=repeat)
    lane = new_lane(max_wait=max_wait)

    for instance in instances:
        lane.arrive(instance)
        assert len(lane.timers) == len(list(lane.processor.waiting()))
        assert JobProcessorBase.waiting_soonest(lane.processor, 2) == lane.processor.waiting_soonest(2)
    lane.run_all_timers()

    assert expected_groups(instances, max_wait) == submitted_groups(lane)


@given(steps=arrivals, max_wait=longest)
def test_late_timers_change_nothing(
    new_lane: Any, new_modality: Any, steps: list[tuple[float, int, int]], max_wait: float | None
) -> None:
    """A host that delivers all instances before it runs the timers gets the same groups."""
    instances = schedule(new_modality(), steps, repeat=False)
    lane = new_lane(max_wait=max_wait)

    for instance in instances:
        lane.deliver(instance)
    lane.run_all_timers()

    assert expected_groups(instances, max_wait) == submitted_groups(lane)


@given(steps=arrivals, max_wait=longest)
def test_groups_that_are_closed_late_match_the_specification(
    new_modality: Any, steps: list[tuple[float, int, int]], max_wait: float | None
) -> None:
    """Without timers, and with duplicates under any key, `OpenGroups` returns the same groups."""
    arrived = [((i.study_instance_uid,), i) for i in schedule(new_modality(), steps, repeat=True)]
    limit = None if max_wait is None else timedelta(seconds=max_wait)
    groups = OpenGroups(QUIET, limit)
    finished: list[FinishedGroup] = []

    for key, instance in arrived:
        overdue = groups.overdue(key, instance.received_at)
        if overdue is not None:
            finished.append(groups.close(overdue))
        groups.add(key, instance)
    finished += [groups.close(group) for group in reversed(list(groups))]

    assert group_all(arrived, QUIET, limit) == sorted(
        finished, key=lambda group: (group.due, first_seen(arrived, group))
    )


@given(steps=arrivals, repeat=st.booleans(), moment=st.integers(0, 40))
def test_every_instance_is_submitted_or_pending_at_any_moment(
    new_lane: Any, new_modality: Any, steps: list[tuple[float, int, int]], repeat: bool, moment: int
) -> None:
    """Each instance that no duplicate replaced is submitted and removed, or it is pending and in an open group."""
    instances = schedule(new_modality(), steps, repeat=repeat)[:moment]
    lane = new_lane()

    lane.arrive(*instances)

    submitted = [instance for job in lane.jobs for instance in job.instances]
    assert submitted == lane.removed
    assert len(lane.pending) == sum(waiting.instance_count for waiting in lane.processor.waiting())
    if not repeat:
        assert Counter(ids_of(instances)) == Counter(ids_of(lane.removed)) + Counter(ids_of(lane.pending.values()))


@given(steps=arrivals, max_wait=longest, moment=st.integers(0, 40))
def test_a_restart_at_any_moment_changes_nothing(
    new_lane: Any, new_modality: Any, steps: list[tuple[float, int, int]], max_wait: float | None, moment: int
) -> None:
    """After the pending instances are redelivered and the schedule continues, the jobs are those without a restart."""
    instances = schedule(new_modality(), steps, repeat=False)
    stopped = new_lane(max_wait=max_wait)
    stopped.arrive(*instances[:moment])

    again = stopped.restarted()
    again.arrive(*stopped.pending.values(), *instances[moment:])
    again.run_all_timers()

    assert expected_groups(instances, max_wait) == submitted_groups(stopped) + submitted_groups(again)


def first_seen(arrived: list[Any], group: FinishedGroup) -> int:
    """Return the position of the first arrival of the key; groups with the same due time are in this order."""
    return [key for key, _ in arrived].index(group.key)


def ids_of(instances: Any) -> list[int]:
    return [instance.instance_id for instance in instances]
