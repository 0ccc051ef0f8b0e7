"""Recovery records: stored with each instance, so that its ledger row can be entered again after a power loss."""

from __future__ import annotations

from uuid import uuid4

import orjson
from attrs import define, field

from dicom_adapter.api.receiving import StoreRequest
from dicom_adapter.api.storage import InstanceWriter
from dicom_adapter.dicom.identity import Identity
from dicom_adapter.flow.store.arrival import Arrival
from dicom_adapter.ledger import arrivals
from dicom_adapter.runtime.clock import Clock

VERSION = 1  # of the format


@define
class RecoveryRecords:
    """Assign a recovery record (receiver run, sequence number) to each arrival. Not thread-safe."""

    clock: Clock
    run: str = field(factory=lambda: uuid4().hex)
    assigned: int = 0  # the number of the last one
    _last: int = field(default=0, init=False)  # the moment that the last one has

    def write(self, arrival: Arrival, writer: InstanceWriter) -> None:
        """Write the arrival's record, unless it is too long for the storage backend."""
        number = self.assigned + 1
        came_at = max(self._last, arrivals.moment(self.clock.now()))  # the clock may be put back; the order may not
        try:
            writer.write_recovery_record(orjson.dumps((VERSION, self.run, number, *arrival.row(came_at))))
        except ValueError:
            return
        self.assigned, self._last = number, came_at
        arrival.number = number
        arrival.run = self.run


def read_recovery_record(record: bytes, storage_key: str) -> Arrival | None:
    """Return the arrival that is stored under this key; None if another version has written the record."""
    found = orjson.loads(record)
    if found[:1] != [VERSION]:
        return None
    run, number, *row = found[1:]
    ae_title, calling_ae_title, peer_address, association_id, sop_class_uid, sop_instance_uid = row[:6]
    study_instance_uid, series_instance_uid, transfer_syntax_uid, patient_id, issuer_of_patient_id = row[6:11]
    came_at, _storage_key, size_bytes, checksum = row[11:]
    return Arrival(
        request=StoreRequest(
            ae_title=ae_title,
            calling_ae_title=calling_ae_title,
            peer_address=peer_address,
            association_id=association_id,
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            transfer_syntax_uid=transfer_syntax_uid,
        ),
        identity=Identity(
            sop_class_uid=sop_class_uid,
            sop_instance_uid=sop_instance_uid,
            study_instance_uid=study_instance_uid,
            series_instance_uid=series_instance_uid,
            patient_id=patient_id,
            issuer_of_patient_id=issuer_of_patient_id,
        ),
        size_bytes=size_bytes,
        checksum=checksum,
        storage_key=storage_key,
        run=run,
        number=number,
        came_at=arrivals.time(came_at),
    )
