"""Entry of rows: enter the rows of received instances, and decide about duplicates.

A duplicate of a pending instance is always acknowledged. This module decides what happens to it:

data set    overwrite-same-instance   decision
the same    true or false             dropped and counted
different   true                      it replaces the pending instance
different   false                     the pending instance stays; the duplicate is quarantined and counted

If the stored object of the pending instance cannot be read, a duplicate with the same data set replaces it: the
duplicate may be the only complete copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from attrs import frozen

from dicom_adapter.api.errors import describe_failure
from dicom_adapter.api.receiving import StoreOutcome, StoreResult
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.config.model import Config
from dicom_adapter.dicom.part10 import BEFORE_META, data_set_offset
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger import Transaction, arrivals, counters, events, instances, receiver_runs
from dicom_adapter.ledger.microseconds import to_microseconds

log = structlog.get_logger("dicom_adapter.store")

DIFFERENT = "another data set with this SOP Instance UID is pending; overwrite-same-instance = false keeps it"


@frozen
class RowWriter:
    """Writes the rows of one transaction."""

    config: Config
    storage: StorageBackend[Any]
    transaction: Transaction
    receiver: str  # name of the receiver of instances that do not name theirs

    def enter(self, received: Sequence[ReceivedInstance], now: datetime) -> list[StoreResult]:
        """Enter the rows in their order, and set the high-water marks of their receiver runs. Return the results."""
        moment = to_microseconds(now)
        reasons = [instance.quarantine_reason for instance in received]
        ids = arrivals.enter(self.transaction, [instance.row() for instance in received], reasons, moment)
        results = [
            self._resolve_duplicate(instance, now)
            if instance_id is None
            else StoreResult(outcome=StoreOutcome.STORED, instance=instance.info(instance_id), reason=reason)
            for instance, instance_id, reason in zip(received, ids, reasons, strict=True)
        ]
        quarantined = [result for result in results if result.reason and result.instance is not None]
        events.record(
            self.transaction,
            [events.quarantined(result.instance, result.reason, now) for result in quarantined if result.instance],
        )
        for run in {instance.receiver_run for instance in received if instance.number}:
            last = max((one for one in received if one.receiver_run == run), key=lambda one: one.number)
            receiver_runs.set_high_water_mark(self.transaction, run, last.receiver or self.receiver, last.number)
        return results

    def _resolve_duplicate(self, received: ReceivedInstance, now: datetime) -> StoreResult:
        """Drop the duplicate of a pending instance, replace the pending instance by it, or quarantine it."""
        instance = received.info()
        pending = instances.find_pending(self.transaction, instance.ae_title, instance.sop_instance_uid)
        assert pending is not None  # the insert found it, in this transaction
        replaces = self._replaces_pending(received)
        if replaces and received.is_recovered and instance.received_at < pending.received_at:
            return self._drop(StoreOutcome.SUPERSEDED, "a newer arrival is pending", instance, pending, now)
        is_same = self._is_same(pending, instance)
        if is_same:
            reason = "the same data set is pending already"
            return self._drop(StoreOutcome.ALREADY_STORED, reason, instance, pending, now)
        if replaces or is_same is None:
            replaced = instances.replace(self.transaction, pending, instance)
            return StoreResult(outcome=StoreOutcome.STORED, instance=replaced)
        return self._quarantine(received, instance, now)

    def _quarantine(self, received: ReceivedInstance, instance: InstanceStorageInfo, now: datetime) -> StoreResult:
        """Quarantine a duplicate with another data set, unless it is quarantined already."""
        name = instance.ae_title, instance.sop_instance_uid
        for held in instances.find_quarantined(self.transaction, *name, instance.checksum):
            if self._is_same(held, instance):
                reason = "the same data set is quarantined already"
                return self._drop(StoreOutcome.ALREADY_STORED, reason, instance, held, now)
        moment = to_microseconds(now)
        [instance_id] = arrivals.enter(self.transaction, [received.row()], [DIFFERENT], moment)
        assert instance_id is not None  # a quarantined instance is no duplicate
        counters.add(self.transaction, instance.ae_title, counters.DUPLICATES_HELD)
        return StoreResult(outcome=StoreOutcome.STORED, instance=received.info(instance_id), reason=DIFFERENT)

    def _drop(
        self,
        outcome: StoreOutcome,
        reason: str,
        duplicate: InstanceStorageInfo,
        kept: InstanceStorageInfo,
        now: datetime,
    ) -> StoreResult:
        counters.add(self.transaction, duplicate.ae_title, counters.DUPLICATES_DROPPED)
        events.record(self.transaction, [events.dropped(duplicate, kept.instance_id, reason, now)])
        return StoreResult(outcome=outcome, reason=reason, duplicate_of=kept.instance_id)

    def _replaces_pending(self, received: ReceivedInstance) -> bool:
        table = self.config.ae_titles.get(received.ae_title)  # None if the AE title is no longer configured
        return table is not None and table.overwrite_same_instance

    def _is_same(self, kept: InstanceStorageInfo, duplicate: InstanceStorageInfo) -> bool | None:
        """Return whether both instances have the same data set, even if they come from different senders.

        None: their checksums are the same, but the object of the kept instance cannot be read.
        """
        if (kept.checksum, kept.transfer_syntax_uid) != (duplicate.checksum, duplicate.transfer_syntax_uid):
            return False
        expected = self._data_set_bytes(duplicate)
        try:
            return self._data_set_bytes(kept) == expected
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            log.warning(
                "stored_object_unreadable",
                ae_title=kept.ae_title,
                instance_id=kept.instance_id,
                error=describe_failure(failure),
            )
            return None

    def _data_set_bytes(self, instance: InstanceStorageInfo) -> int:
        # The size of the header differs between senders and versions of the adapter. Reading it also proves that the
        # object exists: a duplicate must not be dropped because of an object that is lost.
        with self.storage.read(instance.storage_key) as file:
            return instance.size_bytes - data_set_offset(file.read(BEFORE_META))
