"""The records of associations: their ends and failures, for operators (events) and for job processors (reports).

Only associations with C-STOREs are recorded. Nothing is done for a stored instance: its row and its association are
entered together. Records are written in the background, and repeated until the ledger has them. A record waits
until all instances that were stored before it have rows, because a report is delivered after them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

import structlog
from attrs import define, evolve, field, frozen

from dicom_adapter.api.errors import LedgerUnavailable, describe_failure
from dicom_adapter.api.receiving import StoreRequest
from dicom_adapter.api.values import AssociationReport, AssociationStatus
from dicom_adapter.flow.enter.instance_log import InstanceLog
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger import Ledger, Transaction, association_reports, events, recorded_events
from dicom_adapter.ledger.events import Event
from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.net.storage_scp import ClosedAssociation
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.receiver")

BATCH_SECONDS = 0.2  # records of this period share one transaction, so that other writers can use the ledger
MOST_STUDIES = 100  # number of studies that the reports about one association name
MOST_RECORDS = 100_000  # number of records that wait for the ledger; further records are dropped


@define
class _Incomplete:
    """The failures of an open association: instances that were not stored."""

    failed: Counter[str] = field(factory=Counter)  # number of failed C-STOREs by name of the status
    cut_off: int = 0  # number of data sets that were incomplete at the end of the association
    studies: dict[str, None] = field(factory=dict)  # of these instances; an ordered set
    all_studies_known: bool = True  # False: further studies were unknown, or there were more than MOST_STUDIES
    reported: set[str] = field(factory=set)  # studies with a reported failure

    def add_study(self, study: str) -> None:
        """Add the study of an instance that was not stored. "": the study is unknown."""
        if study in self.studies:
            return
        if study and len(self.studies) < MOST_STUDIES:
            self.studies[study] = None
        else:
            self.all_studies_known = False

    def needs_report(self, study: str) -> bool:
        """Return whether this is the first failure of a study, which must be reported at once."""
        if study in self.reported or len(self.reported) > MOST_STUDIES:
            return False
        self.reported.add(study)
        return True


@frozen
class _Record:
    """A record that waits for the ledger."""

    report: AssociationReport
    event: Event | None  # None: the association is still open
    after: int  # number of the last instance that was handed over to the follower before this record


class AssociationLog:
    """Records the associations of one receiver. Thread-safe."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        """Start the thread that writes the records."""
        self.instance_log: InstanceLog | None = None  # None: each instance gets its row before the answer
        self._ledger = ledger
        self._clock = clock
        self._lock = threading.Lock()  # guards the next two attributes
        self._incomplete: dict[str, _Incomplete] = {}  # by association id
        self._waiting: list[_Record] = []
        self._is_delayed = False  # the ledger was unavailable at the last attempt
        self._has_records = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="association log", daemon=True)
        self._thread.start()

    def store_failed(self, request: StoreRequest | ReceivedInstance, status: CStoreStatus, study: str) -> None:
        """Record a C-STORE that was answered with a failure. `study` is "" if it is unknown."""
        with self._lock:
            incomplete = self._incomplete.setdefault(request.association_id, _Incomplete())
            incomplete.failed[status.name] += 1
            incomplete.add_study(study)
            if incomplete.needs_report(study):
                self._put(self._failure_report(request, incomplete), None)

    def store_cut_off(self, request: StoreRequest, study: str) -> None:
        """Record a data set that was incomplete when the association ended. `study` is "" if it is unknown."""
        with self._lock:
            incomplete = self._incomplete.setdefault(request.association_id, _Incomplete())
            incomplete.cut_off += 1
            incomplete.add_study(study)

    def closed(self, closed: ClosedAssociation, at: datetime, *, has_stored: bool) -> None:
        """Record the end of an association whose instances are committed or refused.

        `has_stored`: an instance was stored. If that was after the connection was lost, `closed` has no status of it.
        """
        with self._lock:
            incomplete = self._incomplete.pop(closed.association_id, _Incomplete())
            if has_stored or closed.statuses or incomplete.failed or incomplete.cut_off:
                report = _end_report(closed, incomplete, at)
                self._put(report, _end_event(closed, incomplete, at))

    def _failure_report(self, request: StoreRequest | ReceivedInstance, incomplete: _Incomplete) -> AssociationReport:
        now = self._clock.now()
        return AssociationReport(
            association_id=request.association_id,
            ae_title=request.ae_title,
            calling_ae_title=request.calling_ae_title,
            peer_address=request.peer_address,
            status=AssociationStatus.OPEN,
            began_at=now,
            at=now,
            acknowledged=0,
            failed=dict(incomplete.failed),
            studies=tuple(incomplete.studies),
            all_studies_known=incomplete.all_studies_known,
        )

    def _put(self, report: AssociationReport, event: Event | None) -> None:
        after = 0 if self.instance_log is None else self.instance_log.last
        if len(self._waiting) < MOST_RECORDS:
            self._waiting.append(_Record(report, event, after))
        else:
            log.warning("events_not_recorded", count=1, error="the ledger has accepted no records for too long")
        self._has_records.set()

    # --- writing ------------------------------------------------------------------------------------------------------

    def close(self, seconds: float = 5) -> None:
        """Write the waiting records and stop. Wait up to `seconds` for the thread to end."""
        self._closing.set()
        self._has_records.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._has_records.wait()
            self._closing.wait(BATCH_SECONDS)
            self._has_records.clear()
            self._write()
        self._write()

    def _write(self) -> None:
        """Write the records whose instances have rows. If the ledger is unavailable, they keep waiting."""
        entered = 0 if self.instance_log is None else self.instance_log.progress.entered
        with self._lock:
            count = next((i for i, record in enumerate(self._waiting) if record.after > entered), len(self._waiting))
            records, self._waiting = self._waiting[:count], self._waiting[count:]
        if records:
            self._write_now(records)
        if self._waiting:
            self._has_records.set()

    def _write_now(self, records: Sequence[_Record]) -> None:
        try:
            with self._ledger.write(synced=False) as transaction:
                association_reports.record(transaction, _with_duplicates(transaction, records))
                events.record(transaction, [record.event for record in records if record.event is not None])
            self._is_delayed = False
        except LedgerUnavailable as failure:
            if not self._is_delayed:
                log.warning("association_records_delayed", count=len(records), error=describe_failure(failure))
            self._is_delayed = True
            with self._lock:
                self._waiting[:0] = records
        except Exception as failure:  # noqa: BLE001 - the next records may be written again
            log.warning("events_not_recorded", count=len(records), error=describe_failure(failure))


def _with_duplicates(transaction: Transaction, records: Sequence[_Record]) -> list[AssociationReport]:
    """Return the reports. The report about an end also names the studies of duplicates, which have no row."""
    ended = [record.report.association_id for record in records if record.event is not None]
    duplicates = recorded_events.studies_of_ignored(transaction, ended)
    reports = []
    for record in records:
        report = record.report
        studies = tuple(dict.fromkeys([*report.studies, *duplicates.get(report.association_id, ())]))
        if studies != report.studies:
            all_known = report.all_studies_known and len(studies) <= MOST_STUDIES
            report = evolve(report, studies=studies[:MOST_STUDIES], all_studies_known=all_known)
        reports.append(report)
    return reports


def record_lost(ledger: Ledger, receiver: str, receivers: Collection[str], now: datetime) -> None:
    """Record the ends of associations that were open when the receiver, or the machine, crashed."""
    with ledger.write() as transaction:
        reports = association_reports.lose_open(transaction, receiver, receivers, now)
        events.record(transaction, [_lost_event(report) for report in reports])
    for report in reports:
        log.warning(
            "association_lost",
            association_id=report.association_id,
            ae_title=report.ae_title,
            calling_ae_title=report.calling_ae_title,
            peer=report.peer_address,
        )


def _end_report(closed: ClosedAssociation, incomplete: _Incomplete, at: datetime) -> AssociationReport:
    return AssociationReport(
        association_id=closed.association_id,
        ae_title=closed.request.called_ae_title,
        calling_ae_title=closed.request.calling_ae_title,
        peer_address=closed.request.peer_address,
        status=AssociationStatus(closed.how),
        began_at=at - timedelta(seconds=closed.seconds),
        at=at,
        acknowledged=closed.statuses.get(CStoreStatus.SUCCESS.name, 0),
        failed=dict(incomplete.failed),
        cut_off=incomplete.cut_off,
        studies=tuple(incomplete.studies),
        all_studies_known=incomplete.all_studies_known,
    )


def _end_event(closed: ClosedAssociation, incomplete: _Incomplete, at: datetime) -> Event:
    cut_off = {"cut_off": incomplete.cut_off} if incomplete.cut_off else {}
    peer = {"calling_ae_title": closed.request.calling_ae_title, "peer": closed.request.peer_address}
    return Event(
        at=at,
        event="association_closed",
        ae_title=closed.request.called_ae_title,
        association_id=closed.association_id,
        detail={"how": closed.how, "statuses": dict(closed.statuses), **cut_off, **peer},
    )


def _lost_event(report: AssociationReport) -> Event:
    peer = {"calling_ae_title": report.calling_ae_title, "peer": report.peer_address}
    return Event(
        at=report.at,
        event="association_closed",
        ae_title=report.ae_title,
        association_id=report.association_id,
        detail={"how": report.status.value, "statuses": {}, **peer},
    )
