"""Received instances, before and after they have a ledger row.

A recovery record is stored and synced with the instance, so the ledger needs no sync before the answer: rows that a
power loss takes are entered again at the next start. The records of a receiver run (from its start to its end) are
numbered in the order in which their rows are entered; the run's high-water mark is in the ledger.
"""

from __future__ import annotations

from datetime import datetime

from attrs import define

from dicom_adapter.api.receiving import StoreRequest
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.dicom.identity import Identity
from dicom_adapter.ledger.instances import UNNUMBERED


@define(kw_only=True)
class Arrival:
    """An instance whose data set is complete, and which is not durable yet."""

    request: StoreRequest
    identity: Identity
    size_bytes: int  # of the stored Part 10 file
    checksum: int  # CRC-32 of the encoded data set
    storage_key: str = ""  # when it is stored
    run: str = ""
    number: int = 0  # of its recovery record in the run; 0: it has none
    came_at: datetime | None = None  # from its recovery record, if it was read from one

    def row(self, received_at: int) -> tuple[object, ...]:
        """Its row, in the order of `arrivals.COLUMNS`."""
        request, identity = self.request, self.identity
        return (
            request.ae_title,
            request.calling_ae_title,
            request.peer_address,
            request.association_id,
            identity.sop_class_uid,
            identity.sop_instance_uid,
            identity.study_instance_uid,
            identity.series_instance_uid,
            request.transfer_syntax_uid,
            identity.patient_id,
            identity.issuer_of_patient_id,
            received_at,
            self.storage_key,
            self.size_bytes,
            self.checksum,
        )

    def at(self, when: datetime, instance_id: int = UNNUMBERED) -> InstanceStorageInfo:
        """The instance that it becomes."""
        request, identity = self.request, self.identity
        return InstanceStorageInfo(
            instance_id=instance_id,
            ae_title=request.ae_title,
            calling_ae_title=request.calling_ae_title,
            peer_address=request.peer_address,
            association_id=request.association_id,
            sop_class_uid=identity.sop_class_uid,
            sop_instance_uid=identity.sop_instance_uid,
            study_instance_uid=identity.study_instance_uid,
            series_instance_uid=identity.series_instance_uid,
            transfer_syntax_uid=request.transfer_syntax_uid,
            patient_id=identity.patient_id,
            issuer_of_patient_id=identity.issuer_of_patient_id,
            received_at=when,
            storage_key=self.storage_key,
            size_bytes=self.size_bytes,
            checksum=self.checksum,
        )
