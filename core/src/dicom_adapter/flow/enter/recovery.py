"""Entry of rows: at a start, enter the rows that are missing after a power loss or a crash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from attrs import frozen

from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.recovery_records import read_recovery_record
from dicom_adapter.flow.enter.stored_objects import delete_stored_objects
from dicom_adapter.ledger import Ledger, instances, receiver_runs

log = structlog.get_logger("dicom_adapter.store")


@frozen
class Recovery:
    """Enters the rows of recovery records that are above the high-water marks of their receiver runs."""

    entry: RowEntry
    storage: StorageBackend[Any]
    ledger: Ledger

    def run(self) -> int:
        """Enter the missing rows. Return their number. Call this before an instance is received.

        Raises the errors of ledger and storage: nothing may be acknowledged before these rows are entered.
        """
        with self.storage.unconfirmed_records() as records:
            read = (read_recovery_record(record, key) for key, record in records)
            recorded = [instance for instance in read if instance is not None]
            above, missing = self._without_row(recorded) if recorded else (0, [])
            if not missing:
                return 0
            entered = self._enter_missing(missing, above)
        log.warning("instances_recovered", count=entered)
        return entered

    def _without_row(self, recorded: Sequence[ReceivedInstance]) -> tuple[int, list[ReceivedInstance]]:
        """Return the number of instances above the high-water marks, and those without a row, in order of arrival."""
        with self.ledger.read() as transaction:
            reached = receiver_runs.high_water_marks(transaction)
            above = [instance for instance in recorded if instance.number > reached.get(instance.receiver_run, 0)]
            known = instances.keys_with_rows(transaction, [instance.storage_key for instance in above])
        missing = [instance for instance in above if instance.storage_key not in known]
        return len(above), sorted(missing, key=lambda instance: (instance.columns["received_at"], instance.number))

    def _enter_missing(self, missing: Sequence[ReceivedInstance], above: int) -> int:
        with self.ledger.write() as transaction:
            # Lost ids are not reused, because other components may have stored them. A replacement uses two ids.
            instances.skip_numbers(transaction, 2 * above)
        return self._enter(missing)

    def _enter(self, missing: Sequence[ReceivedInstance]) -> int:
        results = self.entry.enter_each(missing, synced=True)
        entered = [result.instance for result in results if result is not None and result.instance is not None]
        duplicates = [
            one for one, result in zip(missing, results, strict=True) if result is not None and result.instance is None
        ]
        delete_stored_objects(self.storage, duplicates)
        for instance in entered:
            log.debug(
                "instance_recovered",
                ae_title=instance.ae_title,
                association_id=instance.association_id,
                sop_instance_uid=instance.sop_instance_uid,
                instance_id=instance.instance_id,
            )
        return len(entered)
