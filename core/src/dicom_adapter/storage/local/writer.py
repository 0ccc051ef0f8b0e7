"""`LocalWriter`: how a file gets into a segment, held in memory until it is complete, or written while it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from dicom_adapter.api.local_disk import raise_if_no_free_space
from dicom_adapter.api.storage import InstanceWriter
from dicom_adapter.dicom.checksum import crc32
from dicom_adapter.storage.local.buffers import LARGE_BYTES, Buffer
from dicom_adapter.storage.local.segment import BLOCK, RECORD, Record, with_checksum, write_all
from dicom_adapter.storage.local.written import SUBJECT, WrittenSegment, WrittenSegments

RECOVERY_RECORD_BYTES = 4000  # at most


class LocalWriter(InstanceWriter):
    """Writes one record. After an OSError or StorageFull, its space is free and it may only be discarded."""

    def __init__(self, segments: WrittenSegments, delete: Callable[[Sequence[str]], None]) -> None:
        """`delete`: of the backend, for a finished file that is discarded."""
        self._segments = segments
        self._delete = delete
        self._buffer: Buffer | None = segments.buffers.small()  # None: it has ended
        self._used = RECORD.size  # bytes of the buffer, beginning with space for the header
        self._place: _Place | None = None  # where it is written while it arrives; None: it is held in the buffer
        self._recovery_record = b""
        self._key = ""

    def write_recovery_record(self, record: bytes) -> None:
        if len(record) > RECOVERY_RECORD_BYTES:
            raise ValueError(f"a recovery record of {len(record)} bytes is longer than {RECOVERY_RECORD_BYTES}")
        self._recovery_record = with_checksum(record)

    def write(self, piece: bytes | memoryview) -> None:
        self.write_pieces((piece,))

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        buffer = self._require_buffer()
        size = self._used + sum(map(len, pieces))
        if size > len(buffer) - BLOCK:
            buffer = self._larger(buffer, size)
        if size > len(buffer) - BLOCK:
            with self._freeing_on_failure():
                self._acquired_place().write([buffer[RECORD.size : self._used], *pieces])
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
        with self._freeing_on_failure():
            if self._place is None:
                self._key = self._segments.place(buffer, self._used, self._recovery_record)
                self._buffer = None
            else:
                record = self._place.complete(buffer[RECORD.size : self._used], self._recovery_record)
                self._end()
                self._key = self._segments.complete(self._place.written, record)
        return self._key

    def discard(self) -> None:
        if self._key:
            self._delete([self._key])
        elif self._buffer is not None:
            self._free()

    def _larger(self, buffer: Buffer, size: int) -> Buffer:
        """Return a buffer for `size` bytes if there is one, else the present one."""
        if len(buffer) > LARGE_BYTES or size > LARGE_BYTES + RECORD.size or self._place is not None:
            return buffer
        large = self._segments.buffers.large()
        if large is None:
            return buffer
        large[: self._used] = buffer[: self._used]
        self._segments.buffers.release(buffer)
        self._buffer = large
        return large

    def _acquired_place(self) -> _Place:
        if self._place is None:
            self._place = _Place(self._segments.acquire())
        return self._place

    def _require_buffer(self) -> Buffer:
        if self._buffer is None:
            raise ValueError("the writer was finished or discarded before; ask the storage backend for a new one")
        return self._buffer

    @contextmanager
    def _freeing_on_failure(self) -> Iterator[None]:
        """Context manager: free the space of the file if the block raises."""
        try:
            yield
        except BaseException as error:
            self._free()
            raise_if_no_free_space(error, SUBJECT)
            raise

    def _free(self) -> None:
        self._end()
        if self._place is not None:
            self._place.clear()
            self._segments.release(self._place.written)

    def _end(self) -> None:
        if self._buffer is not None:
            self._segments.buffers.release(self._buffer)
            self._buffer = None


class _Place:
    """Where a record is written while it arrives: the end of a segment that no other writer uses."""

    def __init__(self, written: WrittenSegment) -> None:
        self.written = written
        self._segment = written.segment
        self._start = self._segment.end
        self._position = self._start + RECORD.size
        self._checksum = 0

    def write(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._position = write_all(self._segment.descriptor, pieces, self._position)
        for piece in pieces:
            self._checksum = crc32(piece, self._checksum)

    def complete(self, rest: memoryview, recovery_record: bytes) -> Record:
        """Write the rest of the content, the recovery record, and last the header, which makes the record valid."""
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
        """Delete everything that was written."""
        try:
            self._segment.truncate(self._start)
        except OSError:
            self.written.is_full = True  # the next start removes the incomplete record at its end
