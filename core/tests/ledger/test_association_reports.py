"""Reports about associations: their order, how senders end associations, and when a report is no longer needed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from attrs import evolve

from dicom_adapter import AssociationReport, AssociationStatus
from dicom_adapter.ledger import Ledger, association_reports, instances
from dicom_adapter.ledger.association_reports import OpenAssociation
from dicom_adapter.ledger.microseconds import to_microseconds
from dicom_adapter.testing import Adapter, make_instance

NOW = datetime(2026, 1, 5, 8, 0, 0, 123_456, tzinfo=timezone.utc)
REPORT = AssociationReport(
    association_id="a" * 32,
    ae_title="LUNG",
    calling_ae_title="CT1",
    peer_address="192.0.2.7",
    status=AssociationStatus.RELEASED,
    began_at=NOW - timedelta(seconds=7),
    at=NOW,
    acknowledged=3,
    failed={"OUT_OF_RESOURCES": 60},
    cut_off=1,
    studies=("1.2.3", "1.2.4"),
    all_studies_known=False,
)
CONFIGURATION = '[ae-titles.LUNG]\nprocessor = "by-study"\n[ae-titles.LUNG.settings]\npipeline-a = "p"\n'


def record(ledger: Ledger, *reports: AssociationReport) -> None:
    with ledger.write() as transaction:
        association_reports.record(transaction, reports)


def read(ledger: Ledger) -> list[Any]:
    with ledger.read() as transaction:
        return association_reports.after(transaction, 0, 100, "LUNG")


def test_reports_round_trip(ledger: Ledger) -> None:
    """A report of one AE title is read as it was written, in order, and found by its number."""
    other = evolve(REPORT, ae_title="LIVER", failed={}, cut_off=0, studies=(), all_studies_known=True)
    record(ledger, REPORT, other)
    [row] = read(ledger)
    assert REPORT == row.report
    with ledger.read() as transaction:
        assert {"LUNG": 1, "LIVER": 2} == association_reports.newest_after(transaction, 0)
        assert {"LIVER": 2} == association_reports.newest_after(transaction, 1)
        assert 2 == association_reports.last_number(transaction)


def test_consecutive_ends_without_a_release_are_counted_for_each_sender(ledger: Ledger) -> None:
    """A release or a failure begins the count again; a report about an open association does not change it."""
    lost = evolve(REPORT, status=AssociationStatus.LOST, failed={}, cut_off=0)
    reports = [
        lost,
        evolve(lost, status=AssociationStatus.ABORTED),
        evolve(lost, status=AssociationStatus.OPEN),
        evolve(lost, calling_ae_title="CT2"),
        lost,
        evolve(lost, failed={"OUT_OF_RESOURCES": 1}),
        lost,
        evolve(lost, status=AssociationStatus.RELEASED),
        lost,
    ]
    record(ledger, *reports)
    assert [1, 2, 0, 1, 3, 0, 1, 0, 1] == [row.report.unreleased_in_a_row for row in read(ledger)]


def test_open_associations_of_a_crashed_receiver_are_lost_once(ledger: Ledger) -> None:
    """Those of receivers that no longer exist are lost, too. Those of other receivers, and ended ones, are not."""
    names = {"a" * 32: "receiver 1", "b" * 32: "receiver 2", "c" * 32: "receiver 9", "d" * 32: "receiver 1"}
    opened = [
        OpenAssociation(
            association_id=association_id,
            receiver=receiver,
            ae_title="LUNG",
            calling_ae_title="CT1",
            peer_address="192.0.2.7",
            began_at=to_microseconds(NOW),
            first_instance_id=1,
        )
        for association_id, receiver in names.items()
    ]
    with ledger.write() as transaction:
        association_reports.open_all(transaction, opened)
        association_reports.open_all(transaction, opened)
    record(ledger, evolve(REPORT, association_id="d" * 32))
    with ledger.write() as transaction:
        association_reports.lose_open(transaction, "receiver 1", ("receiver 1", "receiver 2"), NOW)
        assert [] == association_reports.lose_open(transaction, "receiver 1", ("receiver 1", "receiver 2"), NOW)
    lost = [row.report for row in read(ledger)][1:]
    assert ["a" * 32, "c" * 32] == [report.association_id for report in lost]
    assert {(AssociationStatus.LOST, False, True)} == {
        (report.status, report.all_counted, report.is_incomplete) for report in lost
    }


def test_report_is_needed_while_it_concerns_a_pending_instance(make_adapter: Any) -> None:
    """A clean report concerns its own instances; a report of failures concerns all earlier ones, too.

    Verified to fail when reports are deleted as soon as they are delivered.
    """
    adapter: Adapter = make_adapter(CONFIGURATION)
    adapter.receive(make_instance())
    adapter.receive(make_instance())
    adapter.receive(failed={"OUT_OF_RESOURCES": 1})
    clean, other, failed = (row.number for row in read(adapter.ledger))

    def unneeded() -> list[int]:
        with adapter.ledger.read() as transaction:
            return association_reports.unneeded(transaction, "LUNG", failed, 10)

    assert [] == unneeded()
    with adapter.ledger.write() as transaction:
        instances.release(transaction, [1], NOW)
    assert [clean] == unneeded()
    with adapter.ledger.write() as transaction:
        instances.release(transaction, [2], NOW)
    assert [clean, other, failed] == unneeded()
    with adapter.ledger.write() as transaction:
        association_reports.delete_reports(transaction, unneeded())
    assert [] == read(adapter.ledger)
