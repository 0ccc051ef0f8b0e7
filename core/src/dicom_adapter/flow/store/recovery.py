"""Step 2 (`store`) of the flow: at a start, enter the rows that are missing after a power loss or a crash."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import structlog
from attrs import frozen

from dicom_adapter.api.errors import LedgerUnavailable, describe_failure, reports_no_resources
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.config.model import Config
from dicom_adapter.flow.store.associations import record_open
from dicom_adapter.flow.store.received_instance import ReceivedInstance
from dicom_adapter.flow.store.recovery_records import read_recovery_record
from dicom_adapter.flow.store.rows import RowWriter
from dicom_adapter.flow.store.stored_objects import delete_stored_objects
from dicom_adapter.ledger import Ledger, events, instances, receiver_runs, series
from dicom_adapter.ledger.events import Event
from dicom_adapter.runtime.clock import Clock

log = structlog.get_logger("dicom_adapter.store")


@frozen
class Recovery:
    """Enters the rows of recovery records that are above the high-water marks of their receiver runs."""

    config: Config
    storage: StorageBackend[Any]
    ledger: Ledger
    clock: Clock
    receiver: str

    def run(self) -> int:
        """Enter the missing rows. Return their number. Call this before an instance is received.

        Raises the errors of ledger and storage: nothing may be acknowledged before these rows are entered.
        """
        with self.storage.unconfirmed_records() as records:
            read = (read_recovery_record(record, key) for key, record in records)
            recorded = [instance for instance in read if instance is not None]
            above, missing = self._without_row(recorded) if recorded else (0, [])
            return self._enter_missing(missing, above) if missing else 0

    def _without_row(self, recorded: Sequence[ReceivedInstance]) -> tuple[int, list[ReceivedInstance]]:
        """Return the number of instances above the high-water marks, and those of them that have no row, in order."""
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
        try:
            return self._enter(missing)
        except LedgerUnavailable:
            raise
        except Exception:  # noqa: BLE001 - a storage backend may raise anything; one instance must not fail the others
            return sum(map(self._enter_separately, missing))

    def _enter_separately(self, instance: ReceivedInstance) -> int:
        try:
            return self._enter([instance])
        except LedgerUnavailable:
            raise
        except Exception as failure:
            if reports_no_resources(failure):
                raise  # it is recovered at the next start
            log.error("instance_recovery_failed", ae_title=instance.ae_title, error=describe_failure(failure))
            return 0

    def _enter(self, missing: Sequence[ReceivedInstance]) -> int:
        now = self.clock.now()
        with self.ledger.write() as transaction:
            results = RowWriter(self.config, self.storage, transaction, self.receiver).enter(missing, now)
            series.enter(transaction, {one.series() for one in missing}, now)
            record_open(transaction, self.receiver, results, ())
            entered = [result.instance for result in results if result.instance is not None]
            events.record(transaction, [_recovered(instance, now) for instance in entered])
        # A duplicate that is refused now was acknowledged under an earlier configuration: keep it, an audit finds it.
        is_duplicate = [result.instance is None and result.outcome.is_acknowledged for result in results]
        delete_stored_objects(self.storage, [one for one, is_one in zip(missing, is_duplicate, strict=True) if is_one])
        for instance in entered:
            log.warning(
                "instance_recovered",
                ae_title=instance.ae_title,
                association_id=instance.association_id,
                sop_instance_uid=instance.sop_instance_uid,
                instance_id=instance.instance_id,
            )
        return len(entered)


def _recovered(instance: InstanceStorageInfo, now: datetime) -> Event:
    return Event(
        at=now,
        event="instance_recovered",
        ae_title=instance.ae_title,
        association_id=instance.association_id,
        instance_id=instance.instance_id,
        detail={"reason": "a process or the power failed before the row was written to the disk"},
    )
