"""Pages of jobs, instances and events: each row is on one page."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from dicom_adapter import InstanceStorageInfo, Job
from dicom_adapter.ledger import Ledger, events, instance_rows, instances, jobs, recorded_events, senders
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.last_arrivals import last_arrivals
from dicom_adapter.ledger.numbering import INSTANCES
from dicom_adapter.ledger.schema import InstanceState
from dicom_adapter.ledger.senders import Sender

NOW = datetime(2026, 1, 5, 8, 0, 0, tzinfo=timezone.utc)


def test_pages_of_jobs_and_instances_contain_each_row_once(
    ledger: Ledger, an_instance: Callable[..., InstanceStorageInfo], a_job: Callable[..., Job]
) -> None:
    """The next page begins after the last number of the page before."""
    with ledger.write() as transaction:
        numbers = [instances.insert(transaction, an_instance()).instance_id for _ in range(7)]
        job_numbers = [jobs.insert(transaction, a_job(), [number]) for number in numbers]
    with ledger.read() as transaction:
        pages, before = [], None
        while rows := jobs.newest(transaction, 3, before=before):
            pages.append([row.number for row in rows])
            before = rows[-1].number
        held = instance_rows.newest(transaction, 50, state=InstanceState.PENDING, before=numbers[2])
    assert job_numbers[::-1] == [number for page in pages for number in page]
    assert [3, 3, 1] == [len(page) for page in pages]
    assert [numbers[1], numbers[0]] == [row.instance.instance_id for row in held]


def test_the_newest_events_are_selected_by_name_and_ae_title(ledger: Ledger) -> None:
    """The search ends after a number of events, however few are selected. An underscore is no wildcard."""
    names = ["job_queued", "jobless", "job_faulted", "instance_quarantined"]
    with ledger.write() as transaction:
        events.record(transaction, [Event(at=NOW, event=name, ae_title="LUNG") for name in names])
        events.record(transaction, [Event(at=NOW, event="job_queued", ae_title="BONE")])
    with ledger.read() as transaction:
        found = recorded_events.newest(transaction, 10, searched=100, ae_title="LUNG", prefix="job_")
        near = recorded_events.newest(transaction, 10, searched=2, ae_title="LUNG")
    assert [(3, "job_faulted"), (1, "job_queued")] == [(number, event.event) for number, event in found]
    assert ["instance_quarantined"] == [event.event for _number, event in near]


def test_the_first_study_of_a_job_is_that_of_its_first_instance(
    ledger: Ledger, an_instance: Callable[..., InstanceStorageInfo], a_job: Callable[..., Job]
) -> None:
    with ledger.write() as transaction:
        first = instances.insert(transaction, an_instance(study_instance_uid="2.25.9"))
        second = instances.insert(transaction, an_instance(study_instance_uid="2.25.1"))
        number = jobs.insert(transaction, a_job(), [first.instance_id, second.instance_id])
    with ledger.read() as transaction:
        assert {number: "2.25.9"} == jobs.first_studies(transaction, [number])


def test_the_last_arrival_is_that_of_an_association_or_of_a_pending_instance(
    ledger: Ledger, an_instance: Callable[..., InstanceStorageInfo]
) -> None:
    later = NOW + timedelta(minutes=5)
    sender = Sender(
        calling_ae_title="CT1", ae_title="BONE", peer_address="10.0.0.7", first_at=NOW, last_at=NOW,
        associations=1, instances=2, refused=0,
    )  # fmt: skip
    with ledger.write() as transaction:
        senders.add_associations(transaction, [sender])
        number = instances.insert(transaction, an_instance(ae_title="LUNG", received_at=later)).instance_id
    with ledger.read() as transaction:
        assert {"BONE": NOW, "LUNG": later} == last_arrivals(transaction)
        assert (number, later) == INSTANCES.at_least(transaction, 0)
        assert INSTANCES.at_least(transaction, number + 1) is None
