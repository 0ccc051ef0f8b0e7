"""Entry of rows: the one way by which rows of received instances are entered in the ledger.

A receiver enters a row before it answers the C-STORE, and at its start those that are missing after a crash or power
loss. Both call `RowEntry.enter`.

The recovery record of an instance may be offered several times. The high-water mark of its receiver run is read and
written in the transaction of the rows, so the instance gets one row at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dicom_adapter.api.receiving import StoreResult
from dicom_adapter.config.model import Config
from dicom_adapter.flow.enter.associations import record_open
from dicom_adapter.flow.enter.known_series import KnownSeries
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.rows import RowWriter
from dicom_adapter.ledger import Transaction, events, receiver_runs, series
from dicom_adapter.ledger.events import Event
from dicom_adapter.runtime.resources import Resources


class RowEntry:
    """Enters rows. Not thread-safe, except `forget_association`."""

    def __init__(self, config: Config, resources: Resources, receiver: str) -> None:
        """`receiver`: name of the receiver that received the instances."""
        self._config = config
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._receiver = receiver
        self._known_series = KnownSeries()
        self._associations: set[str] = set()  # open associations with instances, whose rows are in the ledger

    def configure(self, config: Config) -> None:
        """Apply another configuration."""
        self._config = config

    def enter(
        self, received: Sequence[ReceivedInstance], *, synced: bool, waits: bool = True
    ) -> list[StoreResult | None]:
        """Enter the rows in one transaction, in their order, and set the high-water marks of their receiver runs.

        Returns the result of each instance; None for a recovered instance that was entered or decided before.
        Raises LedgerUnavailable, or any error of the storage backend. Then nothing has changed. If not `waits`, raises
        LedgerUnavailable instead of waiting for another transaction.
        """
        of_new_series = self._known_series.unknown(received)
        with self._ledger.write(synced=synced, waits=waits) as transaction:
            new = _above_high_water_marks(transaction, received)
            # The time is read inside of the transaction, so that rows and times have the same order.
            now = self._clock.now()
            writer = RowWriter(self._config, self._storage, transaction, self._receiver)
            results = writer.enter(new, now) if new else []
            if of_new_series:
                series.enter(transaction, {instance.series() for instance in of_new_series}, now)
            opened = record_open(transaction, self._receiver, results, self._associations)
            recoveries = _recoveries(new, results, now)
            if recoveries:
                events.record(transaction, recoveries)
        if of_new_series:
            self._known_series.add(of_new_series)
        self._associations.update(opened)
        by_instance = {id(instance): result for instance, result in zip(new, results, strict=True)}
        return [by_instance.get(id(instance)) for instance in received]

    def enter_new(self, received: Sequence[ReceivedInstance], *, synced: bool, waits: bool = True) -> list[StoreResult]:
        """Enter the rows of instances that this process has received. As `enter`, but each instance has a result."""
        results = self.enter(received, synced=synced, waits=waits)
        return [result for result in results if result is not None]

    def forget_association(self, association_id: str) -> bool:
        """Forget an association that has ended. Return whether an instance of it was entered. Thread-safe."""
        has_instances = association_id in self._associations
        self._associations.discard(association_id)
        return has_instances


def _above_high_water_marks(
    transaction: Transaction, received: Sequence[ReceivedInstance]
) -> Sequence[ReceivedInstance]:
    """Return the instances that were not offered before. Only recovered instances are offered several times."""
    if not any(instance.is_recovered for instance in received):
        return received
    reached = receiver_runs.high_water_marks(transaction)
    return [
        instance
        for instance in received
        if not instance.is_recovered or instance.number > reached.get(instance.receiver_run, 0)
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
