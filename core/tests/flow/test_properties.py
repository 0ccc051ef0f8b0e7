"""Received = pending + quarantined + released + reclaimed, for any arrivals in any order, and with any failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from dicom_adapter import Job, JobProcessorBase, hookimpl
from dicom_adapter.api.receiving import StoreOutcome
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.ledger.schema import InstanceState, LaneState
from dicom_adapter.ledger.schema import instances as table
from dicom_adapter.testing import Adapter, Plugin
from support.grouping import StudyProcessor

CONFIGURATION = """
[ae-titles.KEEP]
processor = "flaky"
[ae-titles.KEEP.settings]
pipeline-one = "k1"
pipeline-two = "k2"
[ae-titles.OVER]
processor = "flaky"
overwrite-same-instance = true
[ae-titles.OVER.settings]
timeout = 6
pipeline-one = "o1"
"""
PIPELINES = {"KEEP": {"k1": 1, "k2": 1}, "OVER": {"o1": 1}}
LONGEST_WAIT = 6 + 1 + 2 + 4 + 8  # seconds: the wait of a group, and the pauses after failures


@frozen
class Arrive:
    """The arrival of an instance of one of a few studies. Other arrivals may have the same SOP Instance UID."""

    ae_title: str
    study: int
    sop_instance: int
    content: int
    noticed: bool  # whether the host notices the arrival at once; otherwise with the next step


@frozen
class Wait:
    seconds: float


@frozen
class Restart:
    pass


Step = Arrive | Wait | Restart
arrivals = st.builds(
    Arrive,
    ae_title=st.sampled_from(["KEEP", "OVER"]),
    study=st.integers(1, 2),
    sop_instance=st.integers(1, 3),
    content=st.integers(1, 2),
    noticed=st.booleans(),
)
# Times at which groups are due, and other times.
waits = st.builds(Wait, st.sampled_from([0.5, 2.0, 4.0, 5.0, 6.0, 9.0]))
schedules = st.lists(st.one_of(arrivals, arrivals, waits, st.builds(Restart)), min_size=1, max_size=14)
troubles = st.lists(st.sampled_from([False, False, True]), max_size=14)  # whether the next call of a processor raises


def flaky(trouble: Iterator[bool]) -> Plugin:
    """A `StudyProcessor` that sometimes raises: after an instance, or between the jobs of a group."""

    class Flaky(StudyProcessor):
        name = "flaky"

        def handle_instance(self, instance: Any) -> None:
            super().handle_instance(instance)
            maybe_raise()

        def submit_pipeline_job(self, *arguments: Any, **keywords: Any) -> Job:
            job = super().submit_pipeline_job(*arguments, **keywords)
            maybe_raise()
            return job

    def maybe_raise() -> None:
        if next(trouble, False):
            raise RuntimeError

    class FlakyPlugin:
        @hookimpl
        def dicom_adapter_processors(self) -> list[type[JobProcessorBase[Any]]]:
            return [Flaky]

    return Plugin(FlakyPlugin())


def take(adapter: Adapter, step: Step) -> list[int]:
    """Perform a step, and return the ids of the instances that were acknowledged and stored."""
    if isinstance(step, Wait):
        adapter.advance(step.seconds)
    elif isinstance(step, Restart):
        adapter.restart()
    else:
        return arrive(adapter, step)
    return []


def arrive(adapter: Adapter, step: Arrive) -> list[int]:
    instance = make_instance(
        rows=2,
        columns=2,
        study_uid=f"1.2.{step.study}",
        series_uid=f"1.2.{step.study}.1",
        sop_uid=f"1.2.{step.study}.1.{step.sop_instance}",
        accession_number=str(step.content),
    )
    with pytest.MonkeyPatch.context() as patch:
        if not step.noticed:
            patch.setattr(adapter.host, "run_until_idle", lambda: None)
        (answer,) = adapter.receive(instance, ae_title=step.ae_title)
    assert answer.outcome in (StoreOutcome.STORED, StoreOutcome.ALREADY_STORED)
    return [] if answer.instance is None else [answer.instance.instance_id]


def check(adapter: Adapter, acknowledged: list[int]) -> None:
    """Check each acknowledged instance: in one job of each pipeline, or in no job and counted by its state."""
    jobs: dict[int, Counter[str]] = {number: Counter() for number in acknowledged}
    for job in adapter.jobs:
        for instance in adapter.instances_of(job):
            assert job.ae_title == instance.ae_title
            jobs[instance.instance_id][job.pipeline_id] += 1
    with adapter.ledger.read() as transaction:
        rows = transaction.execute(select(table).order_by(table.c.instance_id)).all()
    assert acknowledged == [row.instance_id for row in rows]
    for row in rows:
        released = row.state in (InstanceState.RELEASED.value, InstanceState.RECLAIMED.value)
        submitted = released and row.replaced_by is None
        assert (PIPELINES[row.ae_title] if submitted else {}) == jobs[row.instance_id], row.state
    needed = {row.storage_key for row in rows if row.state != InstanceState.RECLAIMED.value}
    assert needed == set(adapter.storage.keys())


@settings(max_examples=20, deadline=None)
@given(schedule=schedules, trouble=troubles)
def test_every_acknowledged_instance_is_submitted_once_or_held_or_quarantined(
    tmp_path_factory: pytest.TempPathFactory, schedule: list[Step], trouble: list[bool]
) -> None:
    """The check follows every step, over two AE titles. At the end, no instance is pending.

    Verified to fail when releases are not committed, a failure counts as success, a processor is kept after it raised,
    or a new processor does not get all pending instances.
    """
    adapter = Adapter(tmp_path_factory.mktemp("adapter"), CONFIGURATION, [flaky(iter(trouble))])
    try:
        acknowledged: list[int] = []
        for step in schedule:
            acknowledged += take(adapter, step)
            check(adapter, acknowledged)
        for _failure in range(len(trouble) + 1):  # each failure may restart the lane
            adapter.advance(LONGEST_WAIT)
            check(adapter, acknowledged)
            if any(lane.state is LaneState.STOPPED for lane in adapter.lanes.values()):
                adapter.restart()
        assert {"reclaimed", "quarantined"} >= adapter.states.keys()
    finally:
        adapter.close()
