"""Reports about associations are delivered in the order of arrivals, again after a restart, and then deleted."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from dicom_adapter import (
    AssociationReport,
    AssociationStatus,
    InstanceStorageInfo,
    JobPriority,
    JobProcessorBase,
    NoSettings,
    hookimpl,
)
from dicom_adapter.flow.notify import Notify
from dicom_adapter.flow.process import inbox
from dicom_adapter.ledger import association_reports
from dicom_adapter.testing import Adapter, Plugin, make_instance

CONFIGURATION = '[ae-titles.LUNG]\nprocessor = "recording"\n'
REFUSED = {"OUT_OF_RESOURCES": 1}


class Recording(JobProcessorBase[NoSettings]):
    """Records its turns, and keeps all instances until `end_wait`."""

    name = "recording"
    turns: ClassVar[list[str]] = []  # of all objects: the lane builds new ones
    failures = 0  # number of reports whose turns raise
    timer_after: float | None = None  # seconds after each instance at which a timer is due

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        self._kept = [*getattr(self, "_kept", []), instance]
        self.turns.append(f"{instance.instance_id}")
        if self.timer_after is not None:
            self.call_later(self.timer_after, lambda: self.turns.append("timer"))

    def association_changed(self, association: AssociationReport) -> None:
        assert self.now() == association.at
        if Recording.failures:
            Recording.failures -= 1
            raise ValueError
        self.turns.append(f"{association.status.value} {association.calling_ae_title}")

    def end_wait(self, study_instance_uids: Collection[str]) -> None:
        self.turns.append(f"end {' '.join(study_instance_uids)}")
        self.submit_pipeline_job("all", "p", JobPriority.NORMAL, self._kept)
        self.remove_instances(self._kept)


@pytest.fixture
def adapter(make_adapter: Any, monkeypatch: pytest.MonkeyPatch) -> Adapter:
    @hookimpl
    def dicom_adapter_processors() -> list[type[JobProcessorBase[Any]]]:
        return [Recording]

    monkeypatch.setattr(Recording, "turns", [])
    plugin = Plugin(SimpleNamespace(dicom_adapter_processors=dicom_adapter_processors))
    made: Adapter = make_adapter(CONFIGURATION, plugin)
    return made


def take_turns() -> list[str]:
    """Return the turns since the last call."""
    taken = list(Recording.turns)
    Recording.turns.clear()
    return taken


@pytest.mark.parametrize("batch", [1, 2, 3, 1000])
def test_reports_are_delivered_between_the_instances_in_their_order(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    """A report follows the instances that were stored before it, also after a restart, and for each size of a batch.

    Verified to fail when reports are delivered as soon as they are read.
    """
    monkeypatch.setattr(inbox, "BATCH", batch)
    with adapter.down():
        for sender in ("A", "B", "C"):
            adapter.receive(make_instance(), make_instance(), calling_ae_title=sender)
            adapter.receive(calling_ae_title=f"{sender}2", failed=REFUSED)
            adapter.advance(1)
    expected = ["1", "2", "released A", "released A2", "3", "4", "released B", "released B2"]
    expected += ["5", "6", "released C", "released C2"]
    assert expected == take_turns()
    adapter.restart()
    assert expected == take_turns()
    adapter.receive(make_instance(), calling_ae_title="D")
    assert ["7", "released D"] == take_turns()


def test_failure_is_reported_while_the_association_is_open(adapter: Adapter) -> None:
    """The last report, about the end, contains everything."""
    adapter.receive(make_instance(), association_id="a" * 32, status=AssociationStatus.OPEN, failed=REFUSED)
    adapter.receive(make_instance(), association_id="a" * 32, status=AssociationStatus.ABORTED)
    assert ["1", "open TEST-SCU", "2", "aborted TEST-SCU"] == take_turns()


def test_turn_of_a_report_is_repeated_after_a_failure(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recording, "failures", 2)
    adapter.receive(make_instance())
    adapter.advance(10)
    assert ["1", "1", "1", "released TEST-SCU"] == take_turns()


def test_lane_of_a_processor_that_fails_on_a_report_is_stopped(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unlike an instance, a report cannot be quarantined, so the lane cannot continue without it."""
    monkeypatch.setattr(Recording, "failures", 100)
    adapter.receive(make_instance())
    adapter.advance(1000)
    assert "failed 5 times" in adapter.lanes["LUNG"].reason


@pytest.mark.parametrize(
    ("timer_after", "turns"),
    [(50, ["1", "released A", "released B", "timer"]), (20, ["1", "released A", "timer", "released B"])],
)
def test_reports_and_timers_are_delivered_in_the_order_of_their_times(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch, timer_after: float, turns: list[str]
) -> None:
    """The host was down, so that everything is due together.

    Verified to fail when reports come before all timers, and when they come after all timers.
    """
    monkeypatch.setattr(Recording, "timer_after", timer_after)
    with adapter.down():
        adapter.receive(make_instance(), calling_ae_title="A")
        adapter.advance(30)
        adapter.receive(calling_ae_title="B", failed=REFUSED)
        adapter.advance(100)
    assert turns == take_turns()


def test_reports_wake_their_lane_although_the_host_pauses_before_them(adapter: Adapter) -> None:
    """Many instances may arrive together: the host then stops after a batch and continues later.

    Verified to fail when reports count as seen as soon as they are read.
    """
    notify = Notify(adapter.ledger, each=False)
    adapter.receive(make_instance())
    adapter.end_wait("LUNG", "1.2")
    assert frozenset({"LUNG"}) == next(notify.arrived()).ae_titles  # only the instances
    assert [frozenset({"LUNG"})] == [arrived.ae_titles for arrived in notify.arrived()]
    assert [] == list(notify.arrived())


def test_operator_ends_a_wait(adapter: Adapter) -> None:
    """The request is a turn in the order of arrivals, which may submit jobs."""
    adapter.receive(make_instance())
    adapter.restart()
    take_turns()
    adapter.end_wait("LUNG", "1.2", "1.3")
    assert ["end 1.2 1.3"] == take_turns()
    assert ["all"] == [job.name for job in adapter.jobs]


def test_reports_are_deleted_when_they_concern_no_pending_instance(adapter: Adapter) -> None:
    """Thousands of associations leave no rows behind."""
    for _number in range(5):
        adapter.receive(make_instance(), failed=REFUSED)
    adapter.end_wait("LUNG", "1.2")
    adapter.clock.move_to(adapter.clock.now() + timedelta(seconds=11))
    adapter.receive(make_instance())
    with adapter.ledger.read() as transaction:
        left = association_reports.after(transaction, 0, 100, "LUNG")
    assert ["TEST-SCU"] == [row.report and row.report.calling_ae_title for row in left]
