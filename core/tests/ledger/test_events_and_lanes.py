"""Events and reports of lanes in the ledger."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from attrs import evolve

from dicom_adapter import Waiting
from dicom_adapter.ledger import Ledger, events, lanes, recorded_events
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.lanes import LaneReport
from dicom_adapter.ledger.schema import LaneState

NOW = datetime(2026, 1, 5, 8, 0, 0, 123_456, tzinfo=timezone.utc)
RUNNING = LaneReport(
    ae_title="LUNG",
    state=LaneState.RUNNING,
    reason="",
    since=NOW,
    waiting=(
        Waiting(label="study 2.25.1", instance_count=3, until=NOW + timedelta(microseconds=1)),
        Waiting(label="patient #5f3a", instance_count=1, until=None),
    ),
    groups=7,
)
STOPPED = LaneReport(ae_title="LIVER", state=LaneState.STOPPED, reason="it failed 5 times", since=NOW)


def an_event(**values: object) -> Event:
    return Event(**{"at": NOW, "event": "job_queued", "ae_title": "LUNG", **values})  # type: ignore[arg-type] # a mix


def test_events_round_trip(ledger: Ledger) -> None:
    """Every event is read as it was written, oldest first: by job, by instance, and by number."""
    recorded = [
        an_event(job_id="a" * 32, detail={"name": "Größe", "instances": 3, "parts": ["x", None]}),
        an_event(event="instance_quarantined", instance_id=2**40, association_id="b" * 32),
        an_event(event="job_submitted", job_id="a" * 32, at=NOW - timedelta(days=1)),
    ]
    with ledger.write() as transaction:
        events.record(transaction, [])
        events.record(transaction, recorded[:2])
        events.record(transaction, iter(recorded[2:]))
    with ledger.read() as transaction:
        assert [recorded[0], recorded[2]] == recorded_events.of_job(transaction, "a" * 32)
        assert [recorded[1]] == recorded_events.of_instance(transaction, 2**40)
        assert [(1, recorded[0]), (2, recorded[1])] == recorded_events.after(transaction, 0, 2)
        assert [(3, recorded[2])] == recorded_events.after(transaction, 2, 10)


def test_lanes_round_trip(ledger: Ledger) -> None:
    """A report keeps the groups that are due first, with their times, and the number of all groups."""
    with ledger.write() as transaction:
        lanes.save(transaction, RUNNING)
        lanes.save(transaction, STOPPED)
    with ledger.read() as transaction:
        assert {"LUNG": RUNNING, "LIVER": STOPPED} == lanes.load(transaction)
        assert {"LIVER": "it failed 5 times"} == lanes.stopped(transaction)


def test_saving_a_lane_replaces_its_report(ledger: Ledger) -> None:
    """A lane has only its last report."""
    again = evolve(STOPPED, ae_title="LUNG")
    with ledger.write() as transaction:
        lanes.save(transaction, RUNNING)
        lanes.save(transaction, again)
        assert {"LUNG": again} == lanes.load(transaction)


def test_other_lanes_are_deleted(ledger: Ledger) -> None:
    """An AE title that was removed from the configuration is no longer reported to operators."""
    with ledger.write() as transaction:
        lanes.save(transaction, RUNNING)
        lanes.save(transaction, STOPPED)
        lanes.delete_others(transaction, ["LUNG", "BRAIN"])
        assert ["LUNG"] == list(lanes.load(transaction))
        lanes.delete_others(transaction, [])
        assert {} == lanes.load(transaction)


def test_saving_a_lane_keeps_its_restart_requests(ledger: Ledger) -> None:
    with ledger.write() as transaction:
        lanes.save(transaction, RUNNING)
        lanes.request_restart(transaction, RUNNING.ae_title)
        lanes.request_restart(transaction, RUNNING.ae_title)
        lanes.save(transaction, RUNNING)
    with ledger.read() as transaction:
        assert {RUNNING.ae_title: 2} == lanes.restarts(transaction)


def test_saving_a_lane_keeps_the_reason_why_it_is_full(ledger: Ledger) -> None:
    with ledger.write() as transaction:
        lanes.save(transaction, RUNNING)
        lanes.save(transaction, STOPPED)
        lanes.set_full(transaction, "LIVER", "quarantine-quota is used up")
        lanes.save(transaction, STOPPED)
        assert {"LIVER": "quarantine-quota is used up"} == lanes.full(transaction)
        lanes.set_full(transaction, "LIVER", "")
        assert {} == lanes.full(transaction)
