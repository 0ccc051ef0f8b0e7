"""Property: under any schedule, a group waits if there is evidence that instances are missing.

The group is submitted when `interrupted-wait` is over or the sender has returned. Its job has the metadata
`Interrupted`, unless the sender has completed the group.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import define, field, frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicom_adapter import AssociationStatus, InstanceStorageInfo, Job
from dicom_adapter.testing import Adapter, make_instance

WAIT = 90.0  # seconds; `interrupted-wait`
SETTINGS = f'[ae-titles.LUNG.settings]\npipeline-lung = "p"\ninterrupted-wait = {WAIT}\n'
ENDS = [AssociationStatus.RELEASED, AssociationStatus.ABORTED, AssociationStatus.LOST]


@frozen(kw_only=True)
class Step:
    """One visit of a sender, or a disturbance of the adapter."""

    pause: float  # seconds before the step
    association: int | None  # number of an association that several steps share; None: an association of its own
    study: int
    instances: int
    failed: int  # number of C-STOREs that fail
    ends: bool  # a shared association ends with this step; others always do
    end: AssociationStatus  # how the association ends
    cut_off: bool  # the end cuts off a data set
    disturbance: str  # "", "restart", "down" (the host, during the step) or "crash" (of the receiver, after it)


steps = st.builds(
    Step,
    pause=st.sampled_from([0.0, 1.0, 4.0, 5.0, 6.0, 30.0, 59.0, 85.0, 95.0]),
    association=st.sampled_from([None, None, 1, 2]),
    study=st.integers(1, 2),
    instances=st.integers(0, 2),
    failed=st.sampled_from([0, 0, 0, 2]),
    ends=st.booleans(),
    end=st.sampled_from(ENDS),
    cut_off=st.booleans(),
    disturbance=st.sampled_from(["", "", "", "restart", "down", "crash"]),
)


@define
class Association:
    """What happened in one association."""

    began_at: datetime
    studies: set[str] = field(factory=set)  # studies with stored instances
    evidence_at: datetime | None = None
    ended_at: datetime | None = None
    is_clean: bool = False


@define
class History:
    """Everything that the sender did, by association id."""

    associations: dict[str, Association] = field(factory=dict)
    evidence: list[tuple[datetime, str, str]] = field(factory=list)  # time, association id, study

    def record(self, name: str, study: str, now: datetime, step: Step, *, ends: bool) -> None:
        one = self.associations.setdefault(name, Association(now))
        if step.instances:
            one.studies.add(study)
        if step.failed or (ends and step.cut_off):
            one.evidence_at = now
            self.evidence.append((now, name, study))
        if ends:
            one.ended_at = now
            one.is_clean = step.end is AssociationStatus.RELEASED and one.evidence_at is None

    def crash(self, open_names: dict[int, str], now: datetime) -> None:
        for name in open_names.values():
            one = self.associations[name]
            one.ended_at = one.evidence_at = now
            self.evidence += [(now, name, study) for study in one.studies]
        open_names.clear()

    def check(self, job: Job, instances: list[InstanceStorageInfo]) -> None:
        """Check that the job came late enough, and that it is marked."""
        study = instances[0].study_instance_uid
        for at, name, concerned in self.evidence:
            had_arrived = any(one.received_at <= at for one in instances)
            if concerned != study or not had_arrived or at >= job.created_at:
                continue
            returned = any(one.received_at >= at and one.association_id != name for one in instances)
            completed = any(
                other.is_clean
                and study in other.studies
                and other.ended_at is not None
                and at <= other.began_at
                and other.ended_at <= job.created_at
                for other in self.associations.values()
            )
            assert returned or completed or job.created_at >= at + timedelta(seconds=WAIT), "submitted too early"
            assert completed or "Interrupted" in job.metadata, "submitted unmarked"


def play(adapter: Adapter, schedule: list[Step], history: History) -> None:
    opened: dict[int, str] = {}
    names, numbers = (f"{number:032x}" for number in count(1)), count(1)
    for step in schedule:
        if step.disturbance == "restart":
            adapter.restart()
        with adapter.down() if step.disturbance == "down" else nullcontext():
            adapter.advance(step.pause)
            visit(adapter, step, opened, names, numbers, history)
        if step.disturbance == "crash":
            adapter.crash_receiver()
            history.crash(opened, adapter.clock.now())


def visit(
    adapter: Adapter,
    step: Step,
    opened: dict[int, str],
    names: Iterator[str],
    numbers: Iterator[int],
    history: History,
) -> None:
    name = next(names) if step.association is None else opened.pop(step.association, None) or next(names)
    ends = step.ends or step.association is None
    if not ends and step.association is not None:
        opened[step.association] = name
    study = f"1.2.{step.study}"
    history.record(name, study, adapter.clock.now(), step, ends=ends)
    adapter.receive(
        *[
            make_instance(study_uid=study, series_uid=f"{study}.1", sop_uid=f"{study}.1.{next(numbers)}")
            for _ in range(step.instances)
        ],
        association_id=name,
        status=step.end if ends else AssociationStatus.OPEN,
        failed={"OUT_OF_RESOURCES": step.failed} if step.failed else {},
        cut_off=int(ends and step.cut_off),
        studies=[study] if step.failed or step.cut_off else [],
    )


def stored(association: int | None, *, pause: float, study: int = 1, disturbance: str = "") -> Step:
    """Return a step that stores one instance, without failures."""
    return Step(
        pause=pause,
        association=association,
        study=study,
        instances=1,
        failed=0,
        ends=association is None,
        end=AssociationStatus.RELEASED,
        cut_off=False,
        disturbance=disturbance,
    )


@settings(max_examples=25, deadline=None)
# A crash in an association whose study has a job already, while a group of another association waits.
@example(schedule=[stored(1, pause=0), stored(None, pause=59), stored(None, pause=1, study=2, disturbance="crash")])
@given(schedule=st.lists(steps, min_size=1, max_size=8))
def test_no_group_with_evidence_is_early_unmarked_or_waits_for_ever(schedule: list[Any]) -> None:
    """Arrivals, refusals, aborts, returns of the sender, restarts and crashes, in any order.

    Verified to fail when reports do not interrupt groups.
    """
    with TemporaryDirectory() as folder:
        adapter, history = Adapter(Path(folder), SETTINGS), History()
        try:
            play(adapter, schedule, history)
            adapter.advance(3 * WAIT)
            assert 0 == adapter.states.get("pending", 0), adapter.describe()
            for job in adapter.jobs:
                history.check(job, adapter.instances_of(job))
        finally:
            adapter.close()
