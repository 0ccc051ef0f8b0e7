"""Entry of rows: recovery records, copies of ledger rows that are stored with the instances.

After a power loss, a lost row is entered again from its record. A record is synced together with its instance, so the
ledger needs no sync before the C-STORE is answered. The records of a receiver run (the time from the start of a
receiver process to its end) are numbered in the order in which their rows are entered. The ledger has the high-water
mark of each run: only records above the mark are used at the next start.

A record is a JSON object: the version of its format, the receiver run, the number, the columns of the row by name, the
attributes for look-up by name (records of earlier versions have none), and, for an instance that must be quarantined,
the reason.
"""

from __future__ import annotations

from uuid import uuid4

import orjson
from attrs import define, field

from dicom_adapter.api.storage import InstanceWriter
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.ledger.microseconds import to_microseconds
from dicom_adapter.runtime.clock import Clock

VERSION = 2  # version of the format; records of other versions are not read: an audit finds their instances


@define
class RecoveryRecords:
    """Writes the recovery records of one receiver run. Not thread-safe."""

    clock: Clock
    receiver_run: str = field(factory=lambda: uuid4().hex)
    assigned: int = 0  # number of the last record
    _last_received_at: int = field(default=0, init=False)  # microseconds

    def write(self, received: ReceivedInstance, writer: InstanceWriter) -> None:
        """Write the record of an instance, unless it is too long for the storage backend."""
        number = self.assigned + 1
        # The time is never earlier than the previous time, even if the clock was put back: instances keep their order.
        received_at = max(self._last_received_at, to_microseconds(self.clock.now()))
        received.columns["received_at"] = received_at
        record = {
            "version": VERSION,
            "receiver_run": self.receiver_run,
            "number": number,
            "columns": received.columns,
            "look_up": received.look_up,
        }
        if received.quarantine_reason:
            record["quarantine_reason"] = received.quarantine_reason
        data = orjson.dumps(record)
        try:
            writer.write_recovery_record(data)
        except ValueError:
            return
        self.assigned, self._last_received_at = number, received_at
        received.receiver_run, received.number, received.record = self.receiver_run, number, data


def read_recovery_record(record: bytes, storage_key: str) -> ReceivedInstance | None:
    """Return the instance of a record; None if the record has another version of the format."""
    values = orjson.loads(record)
    if not isinstance(values, dict) or values.get("version") != VERSION:
        return None
    columns = {**values["columns"], "storage_key": storage_key}
    return ReceivedInstance(
        columns=columns,
        look_up=values.get("look_up", {}),
        quarantine_reason=values.get("quarantine_reason", ""),
        receiver_run=values["receiver_run"],
        number=values["number"],
        is_recovered=True,
    )
