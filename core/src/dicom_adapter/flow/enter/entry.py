"""Entry of rows: the one way by which rows of received instances are entered in the ledger.

Three callers use `RowEntry`: the follower in the host; a receiver at its start, for rows that are missing after a crash
or power loss; and a receiver before it answers the C-STORE, if the storage backend keeps no recovery records.

The recovery record of an instance may be offered several times. The high-water mark of its receiver run is read and
written in the transaction of the rows, so the instance gets one row at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog

from dicom_adapter.api.errors import LedgerUnavailable, describe_failure, reports_no_resources
from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.config.model import Config
from dicom_adapter.flow.enter import entry_spans
from dicom_adapter.flow.enter.associations import record_open
from dicom_adapter.flow.enter.known_series import KnownSeries
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.rows import RowWriter
from dicom_adapter.ledger import Transaction, events, receiver_runs, series
from dicom_adapter.ledger.events import Event
from dicom_adapter.ledger.microseconds import to_microseconds
from dicom_adapter.runtime.resources import Resources

log = structlog.get_logger("dicom_adapter.enter")

MAX_ASSOCIATIONS = 10_000  # remembered associations; when this number is reached, all are forgotten, and recorded again


class RowEntry:
    """Enters rows. Not thread-safe, except `forget_association`."""

    def __init__(self, config: Config, resources: Resources, receiver: str) -> None:
        """`receiver`: name of the receiver of all instances that do not name their receiver."""
        self._config = config
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._traces = resources.traces
        self._receiver = receiver
        self._known_series = KnownSeries()
        self._associations: set[str] = set()  # ids of associations that are recorded in the ledger
        self._last_received_at = 0  # of the instances of journals, in microseconds

    def configure(self, config: Config) -> None:
        """Apply another configuration."""
        self._config = config

    def enter(self, received: Sequence[ReceivedInstance], *, synced: bool) -> list[StoreResult | None]:
        """Enter the rows in one transaction, in their order, and set the high-water marks of their receiver runs.

        Returns the result of each instance; None for an instance of a log that was entered or decided before.
        Raises LedgerUnavailable, or any error of the storage backend. After an error, nothing has changed.
        """
        of_new_series = self._known_series.unknown(received)
        with self._ledger.write(synced=synced) as transaction:
            new = _above_high_water_marks(transaction, received)
            # The time is read inside of the transaction, so that rows and times have the same order.
            now = self._clock.now()
            last_received_at = self._set_times(new, now)
            writer = RowWriter(self._config, self._storage, transaction, self._receiver)
            results = writer.enter(new, now) if new else []
            if of_new_series:
                series.enter(transaction, {instance.series() for instance in of_new_series}, now)
            receivers = [instance.receiver or self._receiver for instance in new]
            opened = record_open(transaction, receivers, results, self._associations)
            spans = entry_spans.start(self._traces, transaction, results, opened, now)
            recoveries = _recoveries(new, results, now)
            if recoveries:
                events.record(transaction, recoveries)
        for span in spans:
            span.end(self._clock.now())
        if of_new_series:
            self._known_series.add(of_new_series)
        if len(self._associations) >= MAX_ASSOCIATIONS:
            self._associations.clear()
        self._associations.update(opened)
        self._last_received_at = last_received_at
        by_instance = {id(instance): result for instance, result in zip(new, results, strict=True)}
        return [by_instance.get(id(instance)) for instance in received]

    def enter_each(self, received: Sequence[ReceivedInstance], *, synced: bool) -> list[StoreResult | None]:
        """Enter rows as `enter`. An instance that cannot be entered for a reason of its own does not stop the others.

        Such an instance is quarantined with the reason, because it was acknowledged. If the quarantine fails,
        too, the error is raised: an instance is never skipped.
        """
        try:
            return self.enter(received, synced=synced)
        except LedgerUnavailable:
            raise
        except Exception as failure:
            if reports_no_resources(failure):
                raise
            if len(received) > 1:
                return [result for instance in received for result in self.enter_each([instance], synced=synced)]
            [instance] = received
            if instance.quarantine_reason:
                raise
            error = describe_failure(failure)
            log.error("row_not_entered", ae_title=instance.ae_title, error=error)
            instance.quarantine_reason = f"its row could not be entered as it is: {error}"
            return self.enter_each([instance], synced=synced)

    def _set_times(self, new: Sequence[ReceivedInstance], now: datetime) -> int:
        """Set the times of arrival; return the last time of an instance of a journal.

        An instance of a journal keeps the time in its recovery record, unless this time is before the time of an
        earlier row, or is in the future because the clock was put back.
        """
        moment, last = to_microseconds(now), self._last_received_at
        for instance in new:
            if instance.is_followed:
                last = min(moment, max(last, instance.columns["received_at"]))
                instance.columns["received_at"] = last
            elif not instance.is_recovered:
                instance.columns["received_at"] = moment
        return last

    def enter_new(self, received: Sequence[ReceivedInstance], *, synced: bool) -> list[StoreResult]:
        """Enter the rows of instances that this process has received. As `enter`, but each instance has a result."""
        return [result for result in self.enter(received, synced=synced) if result is not None]

    def forget_association(self, association_id: str) -> bool:
        """Forget an association that has ended. Return whether an instance of it was entered. Thread-safe."""
        has_instances = association_id in self._associations
        self._associations.discard(association_id)
        return has_instances


def _above_high_water_marks(
    transaction: Transaction, received: Sequence[ReceivedInstance]
) -> Sequence[ReceivedInstance]:
    """Return the instances that were not entered or decided before; only those of a log are offered repeatedly."""
    if not any(instance.was_offered for instance in received):
        return received
    reached = receiver_runs.high_water_marks(transaction)
    return [
        instance
        for instance in received
        if not instance.was_offered or instance.number > reached.get(instance.receiver_run, 0)
    ]


def _recoveries(new: Sequence[ReceivedInstance], results: Sequence[StoreResult], now: datetime) -> list[Event]:
    """Return an event for each row that is entered by a start after a crash or power loss."""
    return [
        Event(
            at=now,
            event="instance_recovered",
            ae_title=result.instance.ae_title,
            association_id=result.instance.association_id,
            instance_id=result.instance.instance_id,
            detail={"reason": "a process or the power failed before the row was written to the disk"},
        )
        for instance, result in zip(new, results, strict=True)
        if instance.is_recovered and result.instance is not None
    ]
