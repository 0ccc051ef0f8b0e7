"""Step 2 (`store`) of the flow: an instance whose data set is still arriving."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from attrs import define, field

from dicom_adapter.api.errors import (
    NO_RESOURCES_TEXT,
    StorageUnavailable,
    reports_busy_ledger,
    reports_no_free_space,
    reports_no_resources,
)
from dicom_adapter.api.receiving import StoreOutcome, StoreRequest, StoreResult
from dicom_adapter.api.storage import InstanceWriter
from dicom_adapter.dicom.checksum import crc32
from dicom_adapter.dicom.identity import Identity, IdentityReader, Mismatch, UnreadableDataSet
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.recovery_records import RecoveryRecords

log = structlog.get_logger("dicom_adapter.store")


@define
class IncomingInstance:
    """Writes the data set of one instance while it arrives. Not thread-safe. Its methods do not raise."""

    request: StoreRequest
    refusal: StoreResult | None = None  # result if the instance is not stored; set as soon as that is certain
    _limit: int = 0  # maximum size of the data set in bytes
    _writer: InstanceWriter | None = None
    _recovery_records: RecoveryRecords | None = None
    _accepts_any_encoding: bool = False  # an instance that is not encoded as negotiated is quarantined, not refused
    _keeps_descriptions: bool = False  # the descriptions of study and series are read, for the look-up
    _header_size: int = field(default=0, init=False)
    _size: int = field(default=0, init=False)  # bytes of the data set that have arrived
    _checksum: int = field(default=0, init=False)
    _reader: IdentityReader = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = IdentityReader(
            self.request.transfer_syntax_uid,
            accepts_any_encoding=self._accepts_any_encoding,
            reads_descriptions=self._keeps_descriptions,
        )

    @property
    def size(self) -> int:
        """Bytes of the data set that have arrived."""
        return self._size

    def write_header(self, header: bytes) -> None:
        """Write the beginning of the Part 10 file."""
        self._header_size = len(header)
        self._write_pieces([header])

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Write the next pieces of the data set. The caller may reuse their memory afterwards."""
        if not self._write_pieces(pieces):
            self._read_identity(pieces)
            return
        for piece in pieces:
            self._size += len(piece)
            self._checksum = crc32(piece, self._checksum)
            if self._reader.needs_more:
                self._reader.feed(piece)
        if self._size > self._limit:
            reason = f"its data set has more than max-data-set = {self._limit} bytes"
            self._refuse(StoreResult(outcome=StoreOutcome.CANNOT_UNDERSTAND, reason=reason))

    @property
    def study_instance_uid(self) -> str:
        """The Study Instance UID if it has arrived, otherwise ""."""
        return self._reader.study_instance_uid

    def end(self) -> ReceivedInstance | StoreResult:
        """Complete the data set. Return the received instance, or the result if it is not stored."""
        if self.refusal is None:
            try:
                return self._finish(self._check_identity())
            except Mismatch as refusal:
                self._refuse(StoreResult(outcome=StoreOutcome.DOES_NOT_MATCH, reason=str(refusal)))
            except UnreadableDataSet as refusal:
                self._refuse(StoreResult(outcome=StoreOutcome.CANNOT_UNDERSTAND, reason=str(refusal)))
            except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
                self._refuse(failed(failure))
        assert self.refusal is not None  # otherwise the instance was returned above
        return self.refusal

    def discard(self) -> None:
        """Delete everything that was written."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.discard()
            except Exception as failure:  # noqa: BLE001 - as above; an audit finds what was not deleted
                log.warning("incoming_instance_deletion_failed", error=type(failure).__name__)

    @property
    def is_kept(self) -> bool:
        """True unless the instance is acknowledged without being stored, because its SOP class is ignored."""
        return self.refusal is None or not self.refusal.outcome.is_acknowledged

    def _read_identity(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Read the identity of a refused instance, to find out which study is incomplete."""
        if not self.is_kept:
            return
        for piece in pieces:
            if not self._reader.needs_more:
                return
            self._reader.feed(piece)

    def _write_pieces(self, pieces: Sequence[bytes | memoryview]) -> bool:
        if self.refusal is not None or self._writer is None:
            return False
        try:
            self._writer.write_pieces(pieces)
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            self._refuse(failed(failure))
            return False
        return True

    def _refuse(self, refusal: StoreResult) -> None:
        self.refusal = refusal
        self.discard()

    def _check_identity(self) -> Identity:
        identity = self._reader.identity()
        if identity.sop_instance_uid != self.request.sop_instance_uid:
            raise Mismatch("the data set's SOP Instance UID is not the request's Affected SOP Instance UID")
        if identity.sop_class_uid != self.request.sop_class_uid:
            raise Mismatch("the data set's SOP Class UID is not the request's Affected SOP Class UID")
        return identity

    def _finish(self, identity: Identity) -> ReceivedInstance:
        assert self._writer is not None  # because the instance is not refused
        request = self.request
        columns = {
            "ae_title": request.ae_title,
            "calling_ae_title": request.calling_ae_title,
            "peer_address": request.peer_address,
            "association_id": request.association_id,
            "sop_class_uid": identity.sop_class_uid,
            "sop_instance_uid": identity.sop_instance_uid,
            "study_instance_uid": identity.study_instance_uid,
            "series_instance_uid": identity.series_instance_uid,
            "transfer_syntax_uid": request.transfer_syntax_uid,
            "patient_id": identity.patient_id,
            "issuer_of_patient_id": identity.issuer_of_patient_id,
            "size_bytes": self._header_size + self._size,
            "checksum": self._checksum,
        }
        received = ReceivedInstance(
            columns=columns, look_up=identity.look_up, quarantine_reason=self._reader.encoding_mismatch
        )
        if self._recovery_records is not None:
            self._recovery_records.write(received, self._writer)
        columns["storage_key"] = self._writer.finish()
        return received


def failed(failure: Exception) -> StoreResult:
    """Return the result after a failure of storage or ledger.

    The outcome is OUT_OF_SPACE, so that senders retry, in these cases: there is no free space, file descriptor or
    memory; the ledger is locked; the storage or the ledger was replaced. Otherwise it is FAILED.
    """
    if isinstance(failure, StorageUnavailable):
        return StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason=str(failure))
    if reports_no_free_space(failure):
        return StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason="there is no free space left")
    if reports_busy_ledger(failure):
        return StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason="the ledger is locked by another transaction")
    log.error("store_failed", error=type(failure).__name__, errno=getattr(failure, "errno", None))
    if reports_no_resources(failure):
        return StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason=NO_RESOURCES_TEXT)
    return StoreResult(outcome=StoreOutcome.FAILED, reason=f"it could not be stored ({type(failure).__name__})")
