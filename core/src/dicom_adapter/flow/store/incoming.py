"""One C-STORE, from its request to the end of its data set."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from attrs import define, field

from dicom_adapter.api.errors import is_lack_of_room
from dicom_adapter.api.receiving import StoreOutcome, StoreRequest, StoreResult
from dicom_adapter.api.storage import InstanceWriter
from dicom_adapter.dicom.checksum import crc32
from dicom_adapter.dicom.identity import Identity, IdentityReader, Mismatch, Unreadable
from dicom_adapter.flow.store.arrival import Arrival
from dicom_adapter.flow.store.recovery_records import RecoveryRecords

log = structlog.get_logger("dicom_adapter.store")


@define
class Incoming:
    """One C-STORE, from its request to the end of its data set. Used by one thread; raises nothing."""

    request: StoreRequest
    refusal: StoreResult | None = None  # it is refused, or not to be kept, whatever else comes
    _limit: int = 0  # bytes that a data set may have
    _writer: InstanceWriter | None = None
    _recovery_records: RecoveryRecords | None = None
    _header_size: int = field(default=0, init=False)
    _size: int = field(default=0, init=False)  # of the data set so far
    _checksum: int = field(default=0, init=False)
    _reader: IdentityReader = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = IdentityReader(self.request.transfer_syntax_uid)

    def write_header(self, header: bytes) -> None:
        """What the stored file begins with."""
        self._header_size = len(header)
        self._put([header])

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Take pieces of the data set; they may be reused afterwards."""
        if not self._put(pieces):
            return
        for piece in pieces:
            self._size += len(piece)
            self._checksum = crc32(piece, self._checksum)
            if self._reader.needs_more:
                self._reader.feed(piece)
        if self._size > self._limit:
            reason = f"its data set has more than max-data-set = {self._limit} bytes"
            self._refuse(StoreResult(outcome=StoreOutcome.CANNOT_UNDERSTAND, reason=reason))

    def end(self) -> Arrival | StoreResult:
        """The data set is complete."""
        if self.refusal is None:
            try:
                return self._arrival(self._checked_identity())
            except Mismatch as refusal:
                self._refuse(StoreResult(outcome=StoreOutcome.DOES_NOT_MATCH, reason=str(refusal)))
            except Unreadable as refusal:
                self._refuse(StoreResult(outcome=StoreOutcome.CANNOT_UNDERSTAND, reason=str(refusal)))
            except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
                self._refuse(_failure(failure))
        assert self.refusal is not None  # or it has arrived
        return self.refusal

    def discard(self) -> None:
        """Nothing more comes: let it never have been."""
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                writer.discard()
            except Exception as failure:  # noqa: BLE001 - as above; what is left, an audit finds
                log.warning("incoming_left", error=type(failure).__name__)

    def _put(self, pieces: Sequence[bytes | memoryview]) -> bool:
        if self.refusal is not None or self._writer is None:
            return False
        try:
            self._writer.write_pieces(pieces)
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            self._refuse(_failure(failure))
            return False
        return True

    def _refuse(self, answer: StoreResult) -> None:
        self.refusal = answer
        self.discard()

    def _checked_identity(self) -> Identity:
        identity = self._reader.identity()
        if identity.sop_instance_uid != self.request.sop_instance_uid:
            raise Mismatch("the data set's SOP Instance UID is not the request's Affected SOP Instance UID")
        if identity.sop_class_uid != self.request.sop_class_uid:
            raise Mismatch("the data set's SOP Class UID is not the request's Affected SOP Class UID")
        return identity

    def _arrival(self, identity: Identity) -> Arrival:
        assert self._writer is not None  # it is not refused
        arrival = Arrival(
            request=self.request,
            identity=identity,
            size_bytes=self._header_size + self._size,
            checksum=self._checksum,
        )
        if self._recovery_records is not None:
            self._recovery_records.write(arrival, self._writer)
        arrival.storage_key = self._writer.finish()
        return arrival


def _failure(failure: Exception) -> StoreResult:
    """Out of resources when that is the cause, so that the peer tries again later; else a processing failure."""
    if is_lack_of_room(failure):
        return StoreResult(outcome=StoreOutcome.OUT_OF_SPACE, reason="there is no room left")
    log.error("store_failed", error=type(failure).__name__, errno=getattr(failure, "errno", None))
    return StoreResult(outcome=StoreOutcome.FAILED, reason=f"it could not be kept ({type(failure).__name__})")
