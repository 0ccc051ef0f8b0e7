"""How a file gets into a segment of the `local` storage backend: held until it is complete, or written as it comes."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeAlias

from attrs import define, field

from dicom_adapter.api.local_disk import raise_if_no_space
from dicom_adapter.api.storage import InstanceWriter
from dicom_adapter.dicom.checksum import crc32
from dicom_adapter.storage.local.segment import BLOCK, RECORD, Record, Segment, with_checksum, write_all

SUFFIX = ".segment"
HELD_BYTES = 1 << 20  # of a file that are held to be written in one step
HELD_AT_LEAST = 1 << 16  # however many are written at the same time
HELD_TOGETHER = 32 << 20  # of all files that have more than that
RECOVERY_RECORD_BYTES = 4000  # at most
SPARE = 64  # buffers of each size that are kept for who comes next
SUBJECT = "local storage"  # of error messages

Buffer: TypeAlias = memoryview  # of whole blocks, which lie in memory where blocks begin


class Buffers:
    """What records are put together in. Used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._small: list[Buffer] = []
        self._large: list[Buffer] = []
        self._large_left = HELD_TOGETHER // HELD_BYTES

    def small(self) -> Buffer:
        """For a record with HELD_AT_LEAST bytes of content."""
        with self._lock:
            return self._small.pop() if self._small else _buffer(HELD_AT_LEAST)

    def large(self) -> Buffer | None:
        """For one with HELD_BYTES; None: there are too many already."""
        with self._lock:
            if not self._large_left:
                return None
            large = self._large.pop() if self._large else _buffer(HELD_BYTES)
            self._large_left -= 1
            return large

    def take_back(self, buffer: Buffer) -> None:
        """Nobody needs it any more."""
        is_large = len(buffer) > HELD_BYTES
        with self._lock:
            self._large_left += is_large
            spare = self._large if is_large else self._small
            if len(spare) < SPARE:
                spare.append(buffer)


def _buffer(content: int) -> Buffer:
    return memoryview(mmap.mmap(-1, content + 2 * BLOCK))  # the header goes before it, a recovery record behind


@define(eq=False)
class Written:
    """A segment that this process writes."""

    segment: Segment
    placed: dict[int, tuple[int, Buffer]] = field(factory=dict)  # start of each record that is yet to be written
    unsynced: set[int] = field(factory=set)  # starts of complete records that no sync has covered
    in_use: bool = False
    syncs: int = 0  # under way
    is_named: bool = False  # its name is durable
    is_full: bool = False  # nothing more is put into it
    is_unconfirmed: bool = False  # no checkpoint has covered all recovery records in it
    error: int = 0  # why something of it could not be written or synced: a later success may not say that it is there
    writing: threading.Lock = field(factory=threading.Lock)  # held by who writes, or takes back, what is placed

    @property
    def name(self) -> str:
        return self.segment.path.name[: -len(SUFFIX)]

    @property
    def is_done(self) -> bool:
        return self.is_full and not (self.unsynced or self.in_use or self.syncs or self.is_unconfirmed)


class Segments(Protocol):
    """What the backend does for its writers."""

    buffers: Buffers

    def take(self) -> Written:
        """A segment for a writer, until it is given back. Raises OSError or StorageFull when there is none."""

    def place(self, buffer: Buffer, used: int, recovery_record: bytes) -> str:
        """Give a record its place, complete but for header and recovery record; returns its key.

        The buffer is given away. Raises as `take` does; the buffer is then still the caller's.
        """

    def finished(self, written: Written, record: Record) -> str:
        """A record is complete, and its segment given back; returns its key."""

    def given_back(self, written: Written) -> None:
        """A writer needs its segment no longer."""

    def delete(self, keys: Sequence[str]) -> None:
        """As `StorageBackend.delete`."""


class LocalWriter(InstanceWriter):
    """Writes one record. An OSError or StorageFull gives back its room at once; it may then only be discarded."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._buffer: Buffer | None = segments.buffers.small()  # None: it has ended
        self._used = RECORD.size  # bytes of the buffer, with room for the header
        self._place: _Place | None = None  # where it is written as it comes; None: it is held
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
            with self._giving_up():
                self._taken().write([buffer[RECORD.size : self._used], *pieces])
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
        with self._giving_up():
            if self._place is None:
                self._key = self._segments.place(buffer, self._used, self._recovery_record)
                self._buffer = None
            else:
                record = self._place.complete(buffer[RECORD.size : self._used], self._recovery_record)
                self._end()
                self._key = self._segments.finished(self._place.written, record)
        return self._key

    def discard(self) -> None:
        if self._key:
            self._segments.delete([self._key])
        elif self._buffer is not None:
            self._give_back()

    def _larger(self, buffer: Buffer, size: int) -> Buffer:
        """A buffer with room for so much, if there is one; else the one that it has."""
        if len(buffer) > HELD_BYTES or size > HELD_BYTES + RECORD.size or self._place is not None:
            return buffer
        large = self._segments.buffers.large()
        if large is None:
            return buffer
        large[: self._used] = buffer[: self._used]
        self._segments.buffers.take_back(buffer)
        self._buffer = large
        return large

    def _taken(self) -> _Place:
        if self._place is None:
            self._place = _Place(self._segments.take())
        return self._place

    def _require_buffer(self) -> Buffer:
        if self._buffer is None:
            raise ValueError("the writer was finished or discarded before; ask the storage backend for a new one")
        return self._buffer

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Whatever fails in here, its room is given back."""
        try:
            yield
        except BaseException as error:
            self._give_back()
            raise_if_no_space(error, SUBJECT)
            raise

    def _give_back(self) -> None:
        self._end()
        if self._place is not None:
            self._place.clear()
            self._segments.given_back(self._place.written)

    def _end(self) -> None:
        if self._buffer is not None:
            self._segments.buffers.take_back(self._buffer)
            self._buffer = None


class _Place:
    """Where a record is written as it comes: the end of a segment that its writer has for itself."""

    def __init__(self, written: Written) -> None:
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
        """Write what is left, the recovery record, and the header, which says that it is all there."""
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
        self._segment.seal(record)
        return record

    def clear(self) -> None:
        """Let there be nothing."""
        try:
            self._segment.truncate(self._start)
        except OSError:
            self.written.is_full = True  # with rubbish at its end, which the next start takes away
