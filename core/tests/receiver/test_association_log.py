"""The receiver records ends and failures of associations for processors, after the instances of the associations."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from dicom_adapter import AssociationReport, AssociationStatus
from dicom_adapter.api.errors import LedgerUnavailable
from dicom_adapter.api.receiving import AssociationRequest
from dicom_adapter.flow.store.incoming import IncomingInstance
from dicom_adapter.flow.store.limits import StoreLimits
from dicom_adapter.ledger import Ledger, association_reports
from dicom_adapter.net.storage_scp import ClosedAssociation
from dicom_adapter.receiver import association_log
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.testing import Adapter, make_instance, make_study

CONFIGURATION = """
[dicom]
max-data-set = "20 KB"
[ae-titles.LUNG]
processor = "by-study"
[ae-titles.LUNG.settings]
pipeline-a = "p"
"""
ASSOCIATION = "a" * 32
REQUEST = AssociationRequest(called_ae_title="LUNG", calling_ae_title="CT1", peer_address="127.0.0.1")
SECONDS = 30  # limit of each wait


@pytest.fixture
def adapter(make_adapter: Callable[[str], Adapter]) -> Adapter:
    return make_adapter(CONFIGURATION)


@pytest.fixture
def receiver(adapter: Adapter) -> Iterator[Receiver]:
    made = Receiver(adapter.config, adapter.resources, None)
    yield made
    made.close()


def begin(receiver: Receiver, data_set: Any) -> IncomingInstance:
    incoming = receiver.begin_store(make_request(data_set, "LUNG", "CT1", ASSOCIATION))
    incoming.write([encode(data_set)])
    return incoming


def close(receiver: Receiver, how: str, **statuses: int) -> None:
    receiver.association_closed(
        ClosedAssociation(association_id=ASSOCIATION, request=REQUEST, how=how, statuses=statuses, seconds=3)
    )
    receiver.close()


def reports(adapter: Adapter) -> list[AssociationReport]:
    with adapter.ledger.read() as transaction:
        rows = association_reports.after(transaction, 0, 100, "LUNG")
    return [row.report for row in rows if row.report is not None]


def test_failures_are_reported_at_the_first_one_of_each_study_and_at_the_end(
    adapter: Adapter, receiver: Receiver
) -> None:
    """Here the data sets are too long. Their studies are read although they are refused.

    Verified to fail when only the end is reported.
    """
    first, second = make_study(instances=2, rows=200), make_study(instances=1, rows=200)
    for data_set in [*first, *second]:
        receiver.complete_store(begin(receiver, data_set), None)
    close(receiver, "released", CANNOT_UNDERSTAND=3)
    studies = [str(study[0].StudyInstanceUID) for study in (first, second)]
    assert [
        (AssociationStatus.OPEN, {"CANNOT_UNDERSTAND": 1}, (studies[0],)),
        (AssociationStatus.OPEN, {"CANNOT_UNDERSTAND": 3}, tuple(studies)),
        (AssociationStatus.RELEASED, {"CANNOT_UNDERSTAND": 3}, tuple(studies)),
    ] == [(report.status, report.failed, report.studies) for report in reports(adapter)]
    assert all(report.all_studies_known and report.is_incomplete for report in reports(adapter))


def test_study_of_an_instance_that_is_refused_before_its_data_set_is_reported(
    adapter: Adapter, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified to fail when the identity of a refused instance is not read."""
    monkeypatch.setattr(StoreLimits, "refusal_before", lambda *_request: "there is no free space left")
    data_set = make_instance()
    receiver.complete_store(begin(receiver, data_set), None)
    close(receiver, "released", OUT_OF_RESOURCES=1)
    studies = (str(data_set.StudyInstanceUID),)
    assert [(studies, True)] * 2 == [(report.studies, report.all_studies_known) for report in reports(adapter)]


def test_instance_that_is_cut_off_is_reported_with_its_study(adapter: Adapter, receiver: Receiver) -> None:
    data_set = make_instance()
    receiver.abort_store(begin(receiver, data_set))
    close(receiver, "lost")
    [report] = reports(adapter)
    assert (AssociationStatus.LOST, 1, True) == (report.status, report.cut_off, report.is_incomplete)
    assert (str(data_set.StudyInstanceUID),) == report.studies
    assert 3 == (report.at - report.began_at).total_seconds()


def test_study_of_an_instance_that_is_cut_off_early_is_unknown(adapter: Adapter, receiver: Receiver) -> None:
    receiver.abort_store(receiver.begin_store(make_request(make_instance(), "LUNG", "CT1", ASSOCIATION)))
    close(receiver, "aborted")
    [report] = reports(adapter)
    assert ((), False) == (report.studies, report.all_studies_known)


def test_association_without_a_store_is_not_reported(adapter: Adapter, receiver: Receiver) -> None:
    """An association for C-ECHO has no store."""
    close(receiver, "aborted")
    assert [] == reports(adapter)


def test_report_is_written_when_the_ledger_is_available_again(
    adapter: Adapter, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failures of a full ledger are not lost, and its log line is written once.

    Verified to fail when a failed batch is dropped.
    """
    attempts = threading.Semaphore(0)
    write = Ledger.write

    def fail(*_arguments: Any, **_options: Any) -> Any:
        attempts.release()
        raise LedgerUnavailable("database or disk is full", is_full=True)

    with capture_logs() as logged:
        monkeypatch.setattr(Ledger, "write", fail)
        receiver.abort_store(begin(receiver, make_instance()))
        receiver.association_closed(
            ClosedAssociation(association_id=ASSOCIATION, request=REQUEST, how="lost", statuses={})
        )
        for _attempt in range(2):
            assert attempts.acquire(timeout=SECONDS)
        monkeypatch.setattr(Ledger, "write", write)
        receiver.close()
    assert ["association_records_delayed"] == [entry["event"] for entry in logged if "records" in entry["event"]]
    assert [1] == [report.cut_off for report in reports(adapter)]


def test_end_of_an_association_is_one_event(adapter: Adapter, receiver: Receiver) -> None:
    """Commands show the statuses of these events, so a second event would count each refused instance twice.

    Verified to fail when the receiver records the end, too.
    """
    receiver.complete_store(begin(receiver, make_study(instances=1, rows=200)[0]), None)
    close(receiver, "released", CANNOT_UNDERSTAND=1)
    [event] = [event for event in adapter.events if event.event == "association_closed"]
    assert {"CANNOT_UNDERSTAND": 1} == event.detail["statuses"]


def test_connection_that_is_lost_during_the_commit_is_reported(adapter: Adapter, receiver: Receiver) -> None:
    """No status was counted, but the instance is stored. The next start does not take the end for a crash.

    Verified to fail when only the counted statuses decide whether the end is recorded.
    """
    loop = asyncio.new_event_loop()
    receiver.start(loop, lambda _results: loop.stop(), lambda: False)
    assert receiver.complete_store(begin(receiver, make_instance()), None) is None
    receiver.association_closed(ClosedAssociation(association_id=ASSOCIATION, request=REQUEST, how="lost", statuses={}))
    loop.run_forever()  # until the result of the commit is delivered
    loop.close()
    receiver.close()
    receiver.recover()
    [report] = reports(adapter)
    assert (AssociationStatus.LOST, True) == (report.status, report.all_counted)


def test_crash_of_a_receiver_is_recorded_at_its_next_start(adapter: Adapter, receiver: Receiver) -> None:
    """The association of a stored instance is open until its end is recorded."""
    adapter.receive(make_instance(), association_id=ASSOCIATION, status=AssociationStatus.OPEN)
    receiver.recover()
    receiver.recover()
    [report] = reports(adapter)
    assert (ASSOCIATION, AssociationStatus.LOST, False) == (
        report.association_id,
        report.status,
        report.all_counted,
    )
    assert ["lost"] == [event.detail["how"] for event in adapter.events if event.event == "association_closed"]


def test_association_over_the_network_is_reported(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean association, and one with a refused instance."""
    recorded = threading.Semaphore(0)
    record = association_reports.record

    def record_and_signal(transaction: Any, new: Any) -> None:
        record(transaction, new)
        for _report in new:
            recorded.release()

    monkeypatch.setattr(association_log.association_reports, "record", record_and_signal)
    adapter.send(make_instance(), calling_ae_title="CT1")
    assert recorded.acquire(timeout=SECONDS)
    adapter.send(make_instance(), make_instance(rows=200), calling_ae_title="CT2")
    for _report in range(2):
        assert recorded.acquire(timeout=SECONDS)
    adapter.close()
    adapter.restart()
    found = [(report.calling_ae_title, report.status.value, report.is_clean) for report in reports(adapter)]
    assert [("CT1", "released", True), ("CT2", "open", False), ("CT2", "released", False)] == found
