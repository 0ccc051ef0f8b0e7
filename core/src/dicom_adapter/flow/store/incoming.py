"""One C-STORE, from its request to the end of its data set."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import structlog
from attrs import define, field, frozen

from dicom_adapter.api.errors import is_lack_of_room
from dicom_adapter.api.storage import InstanceWriter
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.dicom.checksum import crc32
from dicom_adapter.dicom.identity import Identity, IdentityReader, Mismatch, Unreadable
from dicom_adapter.flow.store.arrival import Arrival, StoreRequest
from dicom_adapter.flow.store.recovery_records import RecoveryRecords

log = structlog.get_logger("dicom_adapter.store")


class Status(IntEnum):
    """C-STORE response statuses (PS3.4 table B.2-1, PS3.7 annex C)."""

    SUCCESS = 0x0000
    PROCESSING_FAILURE = 0x0110
    DUPLICATE_SOP_INSTANCE = 0x0111
    SOP_CLASS_NOT_SUPPORTED = 0x0122
    OUT_OF_RESOURCES = 0xA700
    DATA_SET_DOES_NOT_MATCH = 0xA900
    CANNOT_UNDERSTAND = 0xC000


@frozen(kw_only=True)
class Answer:
    """What C-STORE answers, and why."""

    status: Status
    why: str = ""
    instance: InstanceStorageInfo | None = None  # when it was kept
    repeats: int | None = None  # the pending instance that it is again, because of which it was not kept


@define
class Incoming:
    """One C-STORE, from its request to the end of its data set. Used by one thread; raises nothing."""

    request: StoreRequest
    refusal: Answer | None = None  # it is refused, or not to be kept, whatever else comes
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
            why = f"its data set has more than max-data-set = {self._limit} bytes"
            self._refuse(Answer(status=Status.CANNOT_UNDERSTAND, why=why))

    def end(self) -> Arrival | Answer:
        """The data set is complete."""
        if self.refusal is None:
            try:
                return self._arrival(self._checked_identity())
            except Mismatch as refusal:
                self._refuse(Answer(status=Status.DATA_SET_DOES_NOT_MATCH, why=str(refusal)))
            except Unreadable as refusal:
                self._refuse(Answer(status=Status.CANNOT_UNDERSTAND, why=str(refusal)))
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

    def _refuse(self, answer: Answer) -> None:
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


def _failure(failure: Exception) -> Answer:
    """Out of resources when that is the cause, so that the peer tries again later; else a processing failure."""
    if is_lack_of_room(failure):
        return Answer(status=Status.OUT_OF_RESOURCES, why="there is no room left")
    log.error("store_failed", error=type(failure).__name__, errno=getattr(failure, "errno", None))
    return Answer(status=Status.PROCESSING_FAILURE, why=f"it could not be kept ({type(failure).__name__})")
