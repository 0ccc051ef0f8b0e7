"""Step 4 (`process`) of the flow: the next instances and reports of a lane, read from the ledger in batches.

Each new processor gets a new inbox, which begins at the first pending instance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

import structlog
from attrs import define

from dicom_adapter.api.errors import LedgerError
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.ledger import Transaction, association_reports, events, instances, results
from dicom_adapter.ledger.association_reports import ReportRow
from dicom_adapter.ledger.events import Event
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.process")

BATCH = 1000  # number of instances, and of reports, that are read together: limits the memory
DELETE_EVERY = timedelta(seconds=10)  # time between two deletions of reports that are not needed any longer
DELETED_TOGETHER = 10_000  # maximum number of reports that are deleted together


@define
class LaneStart:
    """The start of a lane. If the clock was put back before the start, some instances have times in the future.

    Such an instance arrived before all requests and timers of the lane: in the order of turns, it has the time of the
    start.
    """

    at: datetime
    last_number: int = 0  # id of the newest instance when the lane read the ledger for the first time
    last_report: int = 0  # number of the newest report at this read
    read_at: datetime | None = None  # time at which this read ended

    def place_of(self, arrived: InstanceStorageInfo | ReportRow) -> datetime:
        """Return the time of arrival that determines the order of turns."""
        if isinstance(arrived, ReportRow):
            at, is_old = arrived.at, arrived.number <= self.last_report
        else:
            at, is_old = arrived.received_at, arrived.instance_id <= self.last_number
        return self.at if is_old and self.read_at is not None and at > self.read_at else at


class Inbox:
    """The undelivered instances and reports of a lane. Not thread-safe except `has_new`: used by the lane thread only.

    A report is delivered after the instances that were stored before it.
    """

    def __init__(self, ae_title: str, resources: Resources, start: LaneStart) -> None:
        """Create an empty inbox. `start` is updated by the first read of the lane."""
        self.has_new = True  # instances or reports may have arrived; set by any thread
        self.seen = 0  # id of the last instance that was read
        self._ae_title = ae_title
        self._ledger, self._clock, self._enter_until = resources.ledger, resources.clock, resources.enter_until
        self._start = start
        self._waiting: deque[InstanceStorageInfo] = deque()
        self._reports: deque[ReportRow] = deque()
        self._seen_report = 0  # number of the last report that was read
        self._delivered_report = 0  # number of the last report that was delivered
        self._has_read_all = False  # the last read returned all instances that were in the ledger then
        self._delete_at = self._clock.now() + DELETE_EVERY
        self._read_at: datetime | None = None
        # Start of the delivery of all pending instances; None: it is complete
        self._delivering_since: datetime | None = self._clock.now()

    def first(self) -> InstanceStorageInfo | ReportRow | None:
        """Return the next instance or report to deliver, without removing it."""
        instance = self._waiting[0] if self._waiting else None
        if self._reports:
            after = self._reports[0].after
            is_next = (self._has_read_all or after <= self.seen) if instance is None else after < instance.instance_id
            if is_next:
                return self._reports[0]
        return instance

    def first_place(self) -> datetime | None:
        """Return the time that determines when `first` is delivered; None if there is nothing to deliver."""
        first = self.first()
        return None if first is None else self._start.place_of(first)

    def pop_instance(self) -> InstanceStorageInfo:
        """Remove and return the instance that `first` returned."""
        return self._waiting.popleft()

    def pop_report(self) -> ReportRow:
        """Remove and return the report that `first` returned."""
        report = self._reports.popleft()
        self._delivered_report = report.number
        return report

    def refill(self, due: datetime | None) -> None:
        """Read new instances and reports if the inbox is empty and there may be new ones.

        `due` is the time at which a timer or request was due. Instances that arrived before this time must be delivered
        first.
        """
        must_read = due is not None and (self._read_at is None or self._read_at < due)
        if self.first() is not None or not (self.has_new or must_read):
            return
        now = self._clock.now()
        if due is not None:
            self._enter_until(now)
        self.has_new = False  # before the read: an instance that arrives during the read sets the flag again
        try:
            self._read()
        except LedgerError:
            self.has_new = True
            raise
        if due is not None:  # otherwise, instances that were stored before `now` may have no row yet
            self._read_at = now
        if now >= self._delete_at:
            self._delete_at = now + DELETE_EVERY
            self._delete_unneeded_reports()

    def _read(self) -> None:
        with self._ledger.read() as transaction:
            found = instances.pending_after(transaction, self.seen, BATCH, self._ae_title)
            reports = association_reports.after(transaction, self._seen_report, BATCH, self._ae_title)
            if self._start.read_at is None:
                self._start.last_number = instances.last_number(transaction)
                self._start.last_report = association_reports.last_number(transaction)
                self._start.read_at = self._clock.now()
            returned = self._returned_results(transaction, found)
        self._has_read_all = len(found) < BATCH
        if len(reports) == BATCH:  # later instances must not be delivered before the reports that were not read
            self.has_new = True
            last = reports[-1].after
            if found and found[-1].instance_id > last:
                found = [instance for instance in found if instance.instance_id <= last]
                self._has_read_all = True  # up to the last of these reports
        if returned:
            self._release(returned)
        self._waiting.extend(instance for instance in found if instance.instance_id not in returned)
        self._reports.extend(reports)
        if found:
            self.seen = found[-1].instance_id
        if reports:
            self._seen_report = reports[-1].number
        self.has_new = self.has_new or not self._has_read_all

    def _returned_results(self, transaction: Transaction, found: Sequence[InstanceStorageInfo]) -> dict[int, int]:
        """Return the ids of the instances that are results of this adapter, each with the id of the result."""
        if not found:
            return {}
        return results.returned(transaction, self._ae_title, found[0].instance_id, found[-1].instance_id)

    def _release(self, returned: Mapping[int, int]) -> None:
        """Release results that a destination has sent back: they must not start their pipeline again."""
        now = self._clock.now()
        with self._ledger.write() as transaction:
            instances.release(transaction, returned, now)
            changes = [
                Event(
                    at=now,
                    event="result_returned",
                    ae_title=self._ae_title,
                    instance_id=number,
                    detail={"result": result},
                )
                for number, result in returned.items()
            ]
            events.record(transaction, changes)
        log.info("results_returned", ae_title=self._ae_title, count=len(returned))

    def _delete_unneeded_reports(self) -> None:
        """Delete delivered reports that concern no pending instance: they are never delivered again."""
        delivered = self._delivered_report
        if not delivered:
            return
        with suppress(LedgerError):  # the next call deletes them
            with self._ledger.read() as transaction:
                numbers = association_reports.unneeded(transaction, self._ae_title, delivered, DELETED_TOGETHER)
            if numbers:
                with self._ledger.write(synced=False) as transaction:
                    association_reports.delete_reports(transaction, numbers)

    def caught_up(self) -> float | None:
        """Return, only once, the seconds that the delivery of all pending instances took; otherwise None."""
        since = self._delivering_since
        if since is None or self._waiting:
            return None
        self._delivering_since = None
        return (self._clock.now() - since).total_seconds()
