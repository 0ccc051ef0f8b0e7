"""Entry of rows: enter the rows of received instances, and decide about duplicates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from attrs import frozen

from dicom_adapter.api.receiving import StoreOutcome, StoreResult
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.config.model import Config
from dicom_adapter.dicom.part10 import BEFORE_META, data_set_offset
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger import Transaction, arrivals, events, instances, receiver_runs


@frozen
class RowWriter:
    """Writes the rows of one transaction."""

    config: Config
    storage: StorageBackend[Any]
    transaction: Transaction
    receiver: str  # name of the receiver

    def enter(self, received: Sequence[ReceivedInstance], now: datetime) -> list[StoreResult]:
        """Enter the rows in their order, and set the high-water marks of their receiver runs. Return the results."""
        moment = arrivals.to_microseconds(now)
        for instance in received:
            if not instance.is_recovered:
                instance.columns["received_at"] = moment
        ids = arrivals.enter(self.transaction, [instance.row() for instance in received], moment)
        results = [
            self._enter_duplicate(instance)
            if instance_id is None
            else StoreResult(
                outcome=StoreOutcome.STORED, instance=instance.info(instance_id), reason=instance.quarantine_reason
            )
            for instance, instance_id in zip(received, ids, strict=True)
        ]
        for instance, result in zip(received, results, strict=True):
            if instance.quarantine_reason and result.instance is not None:
                self._quarantine(result.instance, instance.quarantine_reason, now)
        for run in {instance.receiver_run for instance in received if instance.number}:
            number = max(instance.number for instance in received if instance.receiver_run == run)
            receiver_runs.set_high_water_mark(self.transaction, run, self.receiver, number)
        return results

    def _quarantine(self, instance: InstanceStorageInfo, reason: str, now: datetime) -> None:
        instances.quarantine(self.transaction, instance.instance_id, reason, now)
        events.record(self.transaction, [events.quarantined(instance, reason, now)])

    def _enter_duplicate(self, received: ReceivedInstance) -> StoreResult:
        """Decide about a duplicate of a pending instance: replace the pending instance, acknowledge or refuse."""
        instance = received.info()
        pending = instances.find_pending(self.transaction, instance.ae_title, instance.sop_instance_uid)
        assert pending is not None  # the insert found it, in this transaction
        if received.quarantine_reason:
            return _not_stored(StoreOutcome.CANNOT_UNDERSTAND, received.quarantine_reason, pending)
        if self._replaces_pending(received):
            if received.is_recovered and instance.received_at < pending.received_at:
                return _not_stored(StoreOutcome.SUPERSEDED, "a newer arrival is pending", pending)
            replaced = instances.replace(self.transaction, pending, instance)
            return StoreResult(outcome=StoreOutcome.STORED, instance=replaced)
        if self._is_same(pending, instance):
            return _not_stored(StoreOutcome.ALREADY_STORED, "the same data set is pending already", pending)
        reason = "another data set with this SOP Instance UID is pending; overwrite-same-instance = false keeps it"
        return _not_stored(StoreOutcome.DUPLICATE_REFUSED, reason, pending)

    def _replaces_pending(self, received: ReceivedInstance) -> bool:
        table = self.config.ae_titles.get(received.ae_title)  # None if the AE title is no longer configured
        return table is not None and table.overwrite_same_instance

    def _is_same(self, pending: InstanceStorageInfo, received: InstanceStorageInfo) -> bool:
        """Return whether both instances have the same data set, even if they come from different senders."""
        if (pending.checksum, pending.transfer_syntax_uid) != (received.checksum, received.transfer_syntax_uid):
            return False
        return self._data_set_bytes(pending) == self._data_set_bytes(received)

    def _data_set_bytes(self, instance: InstanceStorageInfo) -> int:
        # The size of the header differs between senders and versions of the adapter. Reading it also proves that the
        # object exists: an instance must not be acknowledged because of an object that is lost.
        with self.storage.read(instance.storage_key) as file:
            return instance.size_bytes - data_set_offset(file.read(BEFORE_META))


def _not_stored(outcome: StoreOutcome, reason: str, pending: InstanceStorageInfo) -> StoreResult:
    return StoreResult(outcome=outcome, reason=reason, duplicate_of=pending.instance_id)
