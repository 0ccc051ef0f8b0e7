"""Segments: files of the `local` storage backend, in which Part 10 files lie one behind the other.

    offset 0              the segment's own header, one block
    every record          begins with a block: its header, and behind that the content; zeros up to the next block

A record's header is written when its content is complete, and says how long that is and what its checksum is: a segment
can be read without anything else. The nonce, which no sender knows, keeps content from being taken for a record. Behind
the content there may be a recovery record, which begins with its own checksum.
What is deleted becomes a hole, so that its room goes back to the file system at once; where there are no holes, the
record is marked as dead, and its room goes back with the whole segment.

Whoever writes a segment holds a lock on it (flock(2)). All offsets are given explicitly, so that one open file serves
a writer and those who sync it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import os
import secrets
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import define, evolve, field, frozen

from dicom_adapter.dicom.checksum import crc32

BLOCK = 4096  # bytes; records begin at multiples, so that a hole gives back all that a record took
FILE_MODE = 0o600  # patient data: the service's own user and nobody else
MAGIC = b"dicom-adapter 1\n"
SEGMENT = struct.Struct("<16s16sB")  # magic, nonce, whether it is sealed: nothing in it is torn
SEALED = SEGMENT.size - 1  # offset of that byte
RECORD = struct.Struct(
    "<16sQIBxHI"
)  # nonce, length and CRC-32 of the content, life, length of the recovery record, own CRC-32
CHECKSUM = struct.Struct("<I")  # the last part of it, and the first one of a recovery record
ALIVE, DEAD = 1, 2
PIECE = 1 << 20  # bytes read at a time
MOST_PIECES = 1024  # that Linux writes with one call (IOV_MAX)
NO_HOLES = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})


@frozen(kw_only=True)
class Record:
    """Where a record lies."""

    start: int  # offset of its header, a multiple of BLOCK
    length: int  # bytes of the content
    checksum: int  # CRC-32 of the content
    is_alive: bool
    recovery_bytes: int = 0  # of the recovery record and its checksum; 0: there is none

    @property
    def content(self) -> int:
        """Offset of the content."""
        return self.start + RECORD.size

    @property
    def end(self) -> int:
        """Offset of the block after it."""
        return aligned(self.content + self.length + self.recovery_bytes)


@define(eq=False)
class Segment:
    """An open segment."""

    path: Path
    descriptor: int
    nonce: bytes = field(repr=False)
    end: int = BLOCK  # offset at which the next record begins; only whoever writes it knows
    _direct: int | None = None  # a descriptor of who writes it, past the page cache; -1: there is no such way

    @classmethod
    def create(cls, path: Path) -> Segment:
        """A new and locked one. Its name is not durable yet."""
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
        """One that is there. Raises FileNotFoundError, and ValueError for what is no segment."""
        descriptor = os.open(path, (os.O_RDWR if to_change else os.O_RDONLY) | os.O_CLOEXEC)
        header = os.pread(descriptor, SEGMENT.size, 0)
        if len(header) < SEGMENT.size or not header.startswith(MAGIC):
            os.close(descriptor)
            raise ValueError(f"{path.name} is no segment")
        return cls(path, descriptor, SEGMENT.unpack(header)[1])

    def close(self) -> None:
        """Let go of it, and of its lock."""
        descriptors = self.descriptor, self._direct
        self.descriptor, self._direct = -1, None
        for descriptor in descriptors:
            if descriptor is not None and descriptor >= 0:
                os.close(descriptor)

    # --- records ----------------------------------------------------------------------------------------------------

    def seal(self, record: Record) -> None:
        """Write the header of a record whose content is there."""
        write_all(self.descriptor, [self.header(record)], record.start)

    def header(self, record: Record) -> bytes:
        """What is to be written at its start when its content is there, or is deleted."""
        life = ALIVE if record.is_alive else DEAD
        header = RECORD.pack(self.nonce, record.length, record.checksum, life, record.recovery_bytes, 0)[
            : -CHECKSUM.size
        ]
        return header + CHECKSUM.pack(zlib.crc32(header))

    def write_blocks(self, pieces: Sequence[memoryview], start: int) -> None:
        """Write whole blocks that lie in memory as they do in a file: to the disk from there, if that is possible.

        They are read once, and much later: to copy them to the page cache costs more than the disk does.
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
        """The record that begins there, dead or alive; None when there is none."""
        header = os.pread(self.descriptor, RECORD.size, start)
        if len(header) < RECORD.size or not header.startswith(self.nonce):
            return None
        _nonce, length, checksum, life, recovery_bytes, own = RECORD.unpack(header)
        if own != zlib.crc32(header[: -CHECKSUM.size]):
            return None
        is_alive = life == ALIVE
        return Record(start=start, length=length, checksum=checksum, is_alive=is_alive, recovery_bytes=recovery_bytes)

    def recovery_record_of(self, record: Record) -> bytes | None:
        """Return its recovery record; b"" if it has none, None if it is torn."""
        found = os.pread(self.descriptor, record.recovery_bytes, record.content + record.length)
        if not record.recovery_bytes:
            return found
        recovery_record = found[CHECKSUM.size :]
        return recovery_record if found == with_checksum(recovery_record) else None

    def records(self) -> Iterator[Record]:
        """Those that are alive, in their order."""
        return (record for record in self.walk() if isinstance(record, Record) and record.is_alive)

    def walk(self) -> Iterator[Record | int]:
        """Records dead and alive; and offsets of blocks with data of none, which is under way, or torn."""
        start = BLOCK
        while (start := self._next_data(start)) >= 0:
            record = self.record_at(start)
            yield start if record is None else record
            start = start + BLOCK if record is None else record.end

    def is_whole(self, record: Record) -> bool:
        """Return whether content and recovery record match their checksums."""
        position, left, checksum = record.content, record.length, 0
        while left:
            piece = os.pread(self.descriptor, min(left, PIECE), position)
            if not piece:
                return False
            checksum = crc32(piece, checksum)
            position += len(piece)
            left -= len(piece)
        return checksum == record.checksum and self.recovery_record_of(record) is not None

    def give_back(self, record: Record) -> None:
        """Let it be no record any more; its room goes to the file system."""
        if not self.punch(record.start, record.end):
            self.seal(evolve(record, is_alive=False))

    def punch(self, start: int, end: int) -> bool:
        """Make a hole of these blocks; False where the file system has no holes."""
        try:
            _punch_hole(self.descriptor, start, end - start)
        except OSError as failure:
            if failure.errno in NO_HOLES:
                return False
            raise
        return True

    def truncate(self, start: int) -> None:
        """Give back everything from there on. Only for whoever writes it."""
        os.ftruncate(self.descriptor, start)

    # --- the whole of it --------------------------------------------------------------------------------------------

    @property
    def is_sealed(self) -> bool:
        return os.pread(self.descriptor, 1, SEALED) == b"\1"

    def mark_sealed(self) -> None:
        """Say that all its records are whole, so that no start has to look."""
        write_all(self.descriptor, [b"\1"], SEALED)

    def is_written(self) -> bool:
        """Whether somebody else writes it; if not, nobody will until it is closed here."""
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def is_empty(self) -> bool:
        """Whether no record is alive."""
        return next(self.records(), None) is None

    def reader(self, record: Record) -> io.BufferedReader:
        """The content as a file of its own, which closes the segment when it is closed."""
        return io.BufferedReader(_Extent(self, record))

    def _next_data(self, start: int) -> int:
        """The first block from `start` on that is no hole; -1 when there is none."""
        try:
            return os.lseek(self.descriptor, start, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError as failure:
            if failure.errno == errno.ENXIO:
                return -1
            raise


class _Extent(io.RawIOBase):
    """A part of a file, to be read."""

    def __init__(self, segment: Segment, record: Record) -> None:
        super().__init__()
        self._segment = segment
        self._record = record
        self._position = 0

    @property
    def name(self) -> str:
        """pydicom asks every file for it."""
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
    """The first multiple of BLOCK from there on."""
    return -(-offset // BLOCK) * BLOCK


def with_checksum(recovery_record: bytes) -> bytes:
    """Encode a recovery record as it is written."""
    return CHECKSUM.pack(crc32(recovery_record)) + recovery_record if recovery_record else b""


def _open_direct(path: Path) -> int:
    """A descriptor to write past the page cache (open(2), O_DIRECT), or -1 where the file system has no such way."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError as failure:
        if failure.errno == errno.EINVAL:
            return -1
        raise


def write_all(descriptor: int, pieces: Sequence[bytes | bytearray | memoryview], offset: int) -> int:
    """Write all of it there; returns the offset behind it. The kernel may take less at a time, as on a full disk."""
    wanted = sum(map(len, pieces))
    if len(pieces) > MOST_PIECES:
        pieces = [b"".join(pieces)]
    written = os.pwritev(descriptor, pieces, offset) if pieces else 0
    if written < wanted:
        rest = memoryview(b"".join(pieces))
        while written < wanted:
            written += os.pwrite(descriptor, rest[written:], offset + written)
    return offset + wanted


FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 0x01, 0x02  # fallocate(2)

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = getattr(_libc, "fallocate64", None) or getattr(_libc, "fallocate", None)  # Python has none of its own


def _punch_hole(descriptor: int, offset: int, length: int) -> None:
    if _fallocate is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    if _fallocate(descriptor, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
