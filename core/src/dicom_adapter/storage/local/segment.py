"""Segments: files of the `local` storage backend, each with many Part 10 files one after the other.

    block 0           header of the segment
    block 1, …        records: each begins at a block, with its header; then its content, and zeros up to the next block

The header of a record is written when its content is complete. It contains the length and the checksum of the content,
so a segment can be read without other data. It begins with the secret nonce of the segment, so no content that a sender
chooses can be mistaken for a record. A recovery record may follow the content; it begins with its own checksum. A
deleted record becomes a hole, so that its space is free at once. On a file system without holes, the record is marked
as dead, and its space is freed when the whole segment is deleted.

The process that writes a segment holds a lock on it (flock(2)). All offsets are passed explicitly, so that a writer and
syncs can share one open file.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from dicom_adapter.api.local_disk import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, NO_HOLES
from dicom_adapter.api.local_disk import allocate as _allocate
from dicom_adapter.dicom.checksum import crc32

BLOCK = 4096  # bytes; records begin at multiples, so that a hole frees all space of a record
FILE_MODE = 0o600  # patient data: only the service's user has access
MAGIC = b"dicom-adapter 1\n"
SEGMENT = struct.Struct("<16s16sB")  # magic, nonce, 1 if it is sealed
SEALED = SEGMENT.size - 1  # offset of the byte that is 1 if the segment is sealed
RECORD = struct.Struct("<16sQIBxHI")  # nonce, length, CRC-32, ALIVE or DEAD, recovery bytes, CRC-32 of the header
CHECKSUM = struct.Struct("<I")  # the end of a record's header, and the beginning of a recovery record
ALIVE, DEAD = 1, 2
PIECE = 1 << 20  # bytes read at a time
PREALLOCATED_BYTES = 16 << 20  # blocks are allocated for this many bytes together; a disk has this much less free space
# Blocks are allocated ahead only while the disk has this much free space: other files need the rest, like the ledger
PREALLOCATION_NEEDS_BYTES = 1 << 30
MAX_PIECES = 1024  # maximum number of pieces that Linux writes in one call (IOV_MAX)


@frozen(kw_only=True)
class Record:
    """Position and length of a record."""

    start: int  # offset of the header, a multiple of BLOCK
    length: int  # bytes of the content
    checksum: int  # CRC-32 of the content
    is_alive: bool  # False: the record was deleted
    recovery_bytes: int = 0  # length of the recovery record with its checksum; 0 if there is none

    @property
    def content(self) -> int:
        """Offset of the content."""
        return self.start + RECORD.size

    @property
    def end(self) -> int:
        """Offset of the first block after the record."""
        return aligned(self.content + self.length + self.recovery_bytes)


@define(eq=False)
class Segment:
    """An open segment."""

    path: Path
    descriptor: int
    nonce: bytes = field(repr=False)  # secret random bytes, with which each record begins
    end: int = BLOCK  # offset of the next record; only the writer maintains it
    reserved: int = 0  # offset up to which blocks were allocated ahead; only the writer maintains it
    _tried: int = 0  # offset up to which `reserve` has tried to allocate blocks
    _direct: int | None = None  # the writer's descriptor that bypasses the page cache; -1 if that is not supported

    @classmethod
    def create(cls, path: Path) -> Segment:
        """Create a segment and lock it. The name of the file is not durable yet."""
        nonce = secrets.token_bytes(16)
        segment = cls(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE), nonce)
        try:
            fcntl.flock(segment.descriptor, fcntl.LOCK_EX)
            write_all(segment.descriptor, [SEGMENT.pack(MAGIC, nonce, 0)], 0)
        except BaseException:
            segment.close()
            path.unlink(missing_ok=True)
            raise
        return segment

    @classmethod
    def open(cls, path: Path, *, to_change: bool = False) -> Segment:
        """Open an existing segment. Raises FileNotFoundError, and ValueError for a file that is not a segment."""
        descriptor = os.open(path, (os.O_RDWR if to_change else os.O_RDONLY) | os.O_CLOEXEC)
        header = os.pread(descriptor, SEGMENT.size, 0)
        if len(header) < SEGMENT.size or not header.startswith(MAGIC):
            os.close(descriptor)
            raise ValueError(f"{path.name} is not a segment")
        return cls(path, descriptor, SEGMENT.unpack(header)[1])

    def close(self) -> None:
        """Close the segment and release its lock."""
        descriptors = self.descriptor, self._direct
        self.descriptor, self._direct = -1, None
        for descriptor in descriptors:
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)

    # --- records ----------------------------------------------------------------------------------------------------

    def write_header(self, record: Record) -> None:
        """Write the header of a record after its content."""
        write_all(self.descriptor, [self.header(record)], record.start)

    def header(self, record: Record) -> bytes:
        """Return the header of a record, alive or dead."""
        state = ALIVE if record.is_alive else DEAD
        header = RECORD.pack(self.nonce, record.length, record.checksum, state, record.recovery_bytes, 0)[
            : -CHECKSUM.size
        ]
        return header + CHECKSUM.pack(zlib.crc32(header))

    def reserve(self, end: int) -> None:
        """Allocate the blocks up to `end` and some more, without a change of the file's size. May do nothing.

        A write to allocated blocks is faster, because the file system does not have to search for free blocks and to
        sync what it has found. If no blocks can be allocated, the write allocates them, or fails.
        """
        if end <= self._tried:
            return
        self._tried = -(-end // PREALLOCATED_BYTES) * PREALLOCATED_BYTES
        disk = os.fstatvfs(self.descriptor)
        if disk.f_bavail * disk.f_frsize < PREALLOCATION_NEEDS_BYTES:
            return
        with suppress(OSError):
            _allocate(self.descriptor, FALLOC_FL_KEEP_SIZE, self.reserved, self._tried - self.reserved)
            self.reserved = self._tried

    def write_blocks(self, pieces: Sequence[memoryview], start: int) -> None:
        """Write whole blocks, which are aligned in memory, directly to the disk if that is possible.

        These blocks are read only once and much later, so the page cache has no use: the copy to it would take longer
        than the write to the disk.
        """
        if self._direct is None:
            self._direct = _open_direct(self.path)
        if self._direct >= 0:
            try:
                if os.pwritev(self._direct, pieces, start) == sum(map(len, pieces)):
                    return
            except OSError as failure:
                if failure.errno != errno.EINVAL:
                    raise
        write_all(self.descriptor, pieces, start)

    def record_at(self, start: int) -> Record | None:
        """Return the record that begins at this offset, alive or dead, or None."""
        header = os.pread(self.descriptor, RECORD.size, start)
        if len(header) < RECORD.size or not header.startswith(self.nonce):
            return None
        _nonce, length, checksum, state, recovery_bytes, header_checksum = RECORD.unpack(header)
        if header_checksum != zlib.crc32(header[: -CHECKSUM.size]):
            return None
        is_alive = state == ALIVE
        return Record(start=start, length=length, checksum=checksum, is_alive=is_alive, recovery_bytes=recovery_bytes)

    def recovery_record_of(self, record: Record) -> bytes | None:
        """Return the recovery record of a record; b"" if it has none, None if it is incomplete."""
        stored = os.pread(self.descriptor, record.recovery_bytes, record.content + record.length)
        if not record.recovery_bytes:
            return stored
        recovery_record = stored[CHECKSUM.size :]
        return recovery_record if stored == with_checksum(recovery_record) else None

    def records(self) -> Iterator[Record]:
        """Iterate over the records that are alive, in order of offset."""
        return (record for record in self.walk() if isinstance(record, Record) and record.is_alive)

    def walk(self) -> Iterator[Record | int]:
        """Iterate over all records, and the offsets of other data blocks, which are being written or are incomplete."""
        start = BLOCK
        while (start := self._next_data(start)) >= 0:
            record = self.record_at(start)
            yield start if record is None else record
            start = start + BLOCK if record is None else record.end

    def is_whole(self, record: Record) -> bool:
        """Return whether the content and the recovery record match their checksums."""
        position, left, checksum = record.content, record.length, 0
        while left:
            piece = os.pread(self.descriptor, min(left, PIECE), position)
            if not piece:
                return False
            checksum = crc32(piece, checksum)
            position += len(piece)
            left -= len(piece)
        return checksum == record.checksum and self.recovery_record_of(record) is not None

    def free(self, record: Record) -> None:
        """Delete a record and free its space."""
        if not self.punch(record.start, record.end):
            self.write_header(evolve(record, is_alive=False))

    def punch(self, start: int, end: int) -> bool:
        """Replace these blocks by a hole; return False if the file system does not support holes."""
        try:
            _punch_hole(self.descriptor, start, end - start)
        except OSError as failure:
            if failure.errno in NO_HOLES:
                return False
            raise
        return True

    def truncate(self, start: int) -> None:
        """Delete everything from this offset on, and free blocks that were allocated ahead. Only for the writer."""
        os.ftruncate(self.descriptor, start)
        self.reserved = self._tried = min(self.reserved, start)

    # --- the whole segment --------------------------------------------------------------------------------------------

    @property
    def is_sealed(self) -> bool:
        return os.pread(self.descriptor, 1, SEALED) == b"\1"

    def mark_sealed(self) -> None:
        """Mark the segment as sealed: all its records are complete, so later starts do not check them."""
        write_all(self.descriptor, [b"\1"], SEALED)

    def try_lock(self) -> bool:
        """Lock the segment until `close`; return False if another process writes it."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def is_empty(self) -> bool:
        """Return whether no record is alive."""
        return next(self.records(), None) is None

    def reader(self, record: Record) -> io.BufferedReader:
        """Return the content of a record as a file. Closing the file closes the segment."""
        return io.BufferedReader(_Extent(self, record))

    def _next_data(self, start: int) -> int:
        """Return the offset of the first block from `start` on that is not a hole, or -1."""
        try:
            return os.lseek(self.descriptor, start, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError as failure:
            if failure.errno == errno.ENXIO:
                return -1
            raise


class _Extent(io.RawIOBase):
    """The content of one record, as a readable file."""

    def __init__(self, segment: Segment, record: Record) -> None:
        super().__init__()
        self._segment = segment
        self._record = record
        self._position = 0

    @property
    def name(self) -> str:
        """The storage key. pydicom reads the name of every file."""
        return f"{self._segment.path.stem}-{self._record.start // BLOCK:x}"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._record.length - self._position)]
        count = os.preadv(self._segment.descriptor, [view], self._record.content + self._position) if view else 0
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._record.length}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        self._segment.close()
        super().close()


def aligned(offset: int) -> int:
    """Return the smallest multiple of BLOCK that is not less than this offset."""
    return -(-offset // BLOCK) * BLOCK


def with_checksum(recovery_record: bytes) -> bytes:
    """Return a recovery record in its stored form, which begins with the checksum; b"" if the record is empty."""
    return CHECKSUM.pack(crc32(recovery_record)) + recovery_record if recovery_record else b""


def _open_direct(path: Path) -> int:
    """Return a descriptor that bypasses the page cache (O_DIRECT), or -1 if the file system does not support it."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as failure:
        if failure.errno == errno.EINVAL:
            return -1
        raise


def write_all(descriptor: int, pieces: Sequence[bytes | bytearray | memoryview], offset: int) -> int:
    """Write all pieces at `offset`; return the offset after them. One call to the kernel may write only a part."""
    total = sum(map(len, pieces))
    if len(pieces) > MAX_PIECES:
        pieces = [b"".join(pieces)]
    written = os.pwritev(descriptor, pieces, offset) if pieces else 0
    if written < total:
        rest = memoryview(b"".join(pieces))
        while written < total:
            written += os.pwrite(descriptor, rest[written:], offset + written)
    return offset + total


def _punch_hole(descriptor: int, offset: int, length: int) -> None:
    _allocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
