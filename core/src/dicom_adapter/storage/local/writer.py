"""`LocalWriter`: writes a file to a segment, when the file is complete or, if the file is large, while it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dicom_adapter.api.local_disk import raise_if_no_free_space
from dicom_adapter.api.storage import InstanceWriter
from dicom_adapter.dicom.checksum import crc32
from dicom_adapter.storage.local.active import SUBJECT, ActiveSegment, ActiveSegments
from dicom_adapter.storage.local.buffers import LARGE_BYTES, Buffer
from dicom_adapter.storage.local.segment import BLOCK, RECORD, Record, with_checksum, write_all

MAX_RECOVERY_RECORD_BYTES = 4000  # with its checksum, a recovery record fits into the last block of a buffer


class LocalWriter(InstanceWriter):
    """Writes one record. After an OSError or StorageFull, the record is deleted, and only `discard` may be called."""

    def __init__(self, segments: ActiveSegments, delete: Callable[[Sequence[str]], None]) -> None:
        """`delete`: the method of the backend, called when a finished file is discarded."""
        self._segments = segments
        self._delete = delete
        self._buffer: Buffer | None = segments.buffers.small()  # None after the end of writing
        self._used = RECORD.size  # number of used bytes of the buffer, which begins with space for the header
        self._place: _Place | None = None  # place in a segment, if the file is written while it arrives
        self._recovery_record = b""
        self._key = ""

    def write_recovery_record(self, record: bytes) -> None:
        if len(record) > MAX_RECOVERY_RECORD_BYTES:
            raise ValueError(
                f"the recovery record has {len(record)} bytes; the maximum is {MAX_RECOVERY_RECORD_BYTES} bytes"
            )
        self._recovery_record = with_checksum(record)

    def write(self, piece: bytes | memoryview) -> None:
        self.write_pieces((piece,))

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        buffer = self._require_buffer()
        size = self._used + sum(map(len, pieces))
        if size > len(buffer) - BLOCK:
            buffer = self._enlarge(buffer, size)
        if size > len(buffer) - BLOCK:
            with self._free_on_failure():
                self._acquire_place().write([buffer[RECORD.size : self._used], *pieces])
            self._used = RECORD.size
            return
        at = self._used
        for piece in pieces:
            end = at + len(piece)
            buffer[at:end] = piece
            at = end
        self._used = at

    def finish(self) -> str:
        buffer = self._require_buffer()
        with self._free_on_failure():
            if self._place is None:
                self._key = self._segments.place(buffer, self._used, self._recovery_record)
                self._buffer = None
            else:
                record = self._place.complete(buffer[RECORD.size : self._used], self._recovery_record)
                self._release_buffer()
                self._key = self._segments.complete(self._place.active, record)
        return self._key

    def discard(self) -> None:
        if self._key:
            self._delete([self._key])
        elif self._buffer is not None:
            self._free()

    def _enlarge(self, buffer: Buffer, size: int) -> Buffer:
        """Replace `buffer` by a free large buffer if `size` bytes fit into a large one; return the buffer to use."""
        if len(buffer) > LARGE_BYTES or size > LARGE_BYTES + RECORD.size or self._place is not None:
            return buffer
        large = self._segments.buffers.large()
        if large is None:
            return buffer
        large[: self._used] = buffer[: self._used]
        self._segments.buffers.release(buffer)
        self._buffer = large
        return large

    def _acquire_place(self) -> _Place:
        if self._place is None:
            self._place = _Place(self._segments.acquire())
        return self._place

    def _require_buffer(self) -> Buffer:
        if self._buffer is None:
            raise ValueError("the writer is already finished or discarded; get a new one from the storage backend")
        return self._buffer

    @contextmanager
    def _free_on_failure(self) -> Iterator[None]:
        """Context manager: free the buffer and the space of the record if the `with` block raises."""
        try:
            yield
        except BaseException as error:
            self._free()
            raise_if_no_free_space(error, SUBJECT)
            raise

    def _free(self) -> None:
        self._release_buffer()
        if self._place is not None:
            self._place.clear()
            self._segments.release(self._place.active)

    def _release_buffer(self) -> None:
        if self._buffer is not None:
            self._segments.buffers.release(self._buffer)
            self._buffer = None


class _Place:
    """The end of a segment where one record is written while it arrives. No other writer uses the segment."""

    def __init__(self, active: ActiveSegment) -> None:
        self.active = active
        self._segment = active.segment
        self._start = self._segment.end
        self._position = self._start + RECORD.size
        self._checksum = 0

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._position = write_all(self._segment.descriptor, pieces, self._position)
        for piece in pieces:
            self._checksum = crc32(piece, self._checksum)

    def complete(self, rest: memoryview, recovery_record: bytes) -> Record:
        """Write the rest of the content, the recovery record, and finally the header, which makes the record valid."""
        self.write([rest])
        length = self._position - self._start - RECORD.size
        write_all(self._segment.descriptor, [recovery_record], self._position)
        record = Record(
            start=self._start,
            length=length,
            checksum=self._checksum,
            is_alive=True,
            recovery_bytes=len(recovery_record),
        )
        self._segment.write_header(record)
        return record

    def clear(self) -> None:
        """Delete all written bytes of the record."""
        try:
            self._segment.truncate(self._start)
        except OSError:
            self.active.is_full = True  # the next start removes the incomplete record at the end of the segment
