"""Entry of rows: journals, which pass the recovery records of stored instances from the receivers to the follower.

    <data>/journals/<receiver run>-<receiver>.journal

A journal is a hand-over, not the log: instances and their recovery records are durable in the storage backend before
their lines are appended. So a journal is not synced. It survives the end of processes. A power loss may destroy it, and
then the next start enters the rows from the storage backend.

A line consists of a checksum, the storage key and the recovery record, which contains no line feed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import define, field

from dicom_adapter.api.local_disk import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, NO_HOLES, allocate
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.recovery_records import read_recovery_record

FOLDER = "journals"
SUFFIX = ".journal"
NEW_SUFFIX = ".new"  # of a file that is not locked yet
MODE = 0o600  # patient data: only the service's user has access
FOLDER_MODE = 0o700
PIECE = 1 << 20  # bytes that are read together
CHECKSUM_DIGITS = 8
RESERVED_BYTES = 1 << 16  # blocks are allocated ahead in pieces of at least this size


def journal_path(folder: Path, receiver_run: str, receiver: str) -> Path:
    """Return the path of a journal. Both names are names of the adapter; none came from the network."""
    return folder / f"{receiver_run}-{receiver}{SUFFIX}"


def create_locked(path: Path, flags: int = 0) -> int:
    """Create a file for writing, and its folder. Return its descriptor, which holds a lock while this process lives.

    Raises OSError.
    """
    path.parent.mkdir(mode=FOLDER_MODE, exist_ok=True)  # without parents: their disk may not be mounted
    new = path.with_suffix(NEW_SUFFIX)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | flags, MODE)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    new.rename(path)  # only now: without a lock, another process would take it for the file of an ended process
    return descriptor


def reserve(descriptor: int, offset: int, size: int) -> None:
    """Allocate blocks, so that a later write does not fail if the disk is full then. Raises OSError.

    Does nothing if the file system does not support it.
    """
    try:
        allocate(descriptor, FALLOC_FL_KEEP_SIZE, offset, size)
    except OSError as failure:
        if failure.errno not in NO_HOLES:
            raise


class JournalWriter:
    """Appends lines to the journal of one receiver run. Not thread-safe."""

    def __init__(self, folder: Path, receiver_run: str, receiver: str) -> None:
        """Create the journal, which is locked while its receiver run lives. Raises OSError."""
        self.path = journal_path(folder, receiver_run, receiver)
        self._descriptor = create_locked(self.path, os.O_APPEND)
        self._size = 0
        self._reserved = 0  # offset up to which blocks are allocated

    def append(self, stored: Sequence[tuple[str, bytes]]) -> None:
        """Append the (key, record) pairs of stored instances, in the order of their numbers.

        Raises OSError. After the error, the journal contains none of them: a later line never follows half a line.
        """
        data = b"".join([_line(key, record) for key, record in stored])
        if self._size + len(data) > self._reserved:
            self._reserve(max(len(data), RESERVED_BYTES))
        try:
            written = os.write(self._descriptor, data)
        except OSError:
            self._truncate()
            raise
        if written != len(data):
            self._truncate()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._size += len(data)

    def _reserve(self, size: int) -> None:
        """Allocate blocks for this many bytes. If the disk is full, this fails before the follower can read a line."""
        reserve(self._descriptor, self._size, size)
        self._reserved = self._size + size

    def _truncate(self) -> None:
        os.ftruncate(self._descriptor, self._size)
        self._reserved = self._size

    def close(self) -> None:
        """Release the lock: no line will follow."""
        os.close(self._descriptor)


@define(eq=False)
class JournalReader:
    """Reads the lines of one journal in their order. Not thread-safe."""

    path: Path
    position: int = 0  # offset after the last line whose instance was entered; set by the follower
    is_follower: bool = True  # False: the file is opened for reading only, and `free` is not called
    _descriptor: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._descriptor = os.open(self.path, (os.O_RDWR if self.is_follower else os.O_RDONLY) | os.O_CLOEXEC)

    @property
    def run(self) -> str:
        """The receiver run."""
        return self.path.name.partition("-")[0]

    @property
    def receiver(self) -> str:
        """The name of the receiver."""
        return self.path.name[: -len(SUFFIX)].partition("-")[2]

    @property
    def is_open(self) -> bool:
        """True if the receiver run has not ended: more lines may follow."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        return False

    def read(self) -> Iterator[tuple[int, ReceivedInstance]]:
        """Return the instances of the lines after `position`, each with the offset after its line. Raises OSError.

        Lines that are appended after this call are returned by the next call.
        """
        return self._read(self._pieces())

    def _read(self, pieces: Iterator[tuple[int, list[bytes]]]) -> Iterator[tuple[int, ReceivedInstance]]:
        for position, lines in pieces:
            end = position
            for line in lines:
                end += len(line) + 1
                instance = self._instance(line)
                if instance is not None:
                    yield end, instance

    def count_after(self, number: int) -> tuple[int, ReceivedInstance | None]:
        """Return how many lines have higher numbers, and the instance of the first of them. Raises OSError.

        The numbers of a journal increase, so few lines are decoded. Lines are searched after `position`.
        """
        count, first = 0, None
        for _position, lines in self._pieces():
            if first is None:
                start = bisect_right(lines, number, key=self._number)
                first = self._instance(lines[start]) if start < len(lines) else None
                count = -start
            count += len(lines)
        return (0, None) if first is None else (count, first)

    def _pieces(self) -> Iterator[tuple[int, list[bytes]]]:
        """Return the lines after `position` up to the current end, in pieces, each with its offset."""
        return self._pieces_between(self.position, os.fstat(self._descriptor).st_size)

    def _pieces_between(self, position: int, end: int) -> Iterator[tuple[int, list[bytes]]]:
        while lines := _complete_lines(os.pread(self._descriptor, min(PIECE, max(0, end - position)), position)):
            yield position, lines
            position += sum(len(line) + 1 for line in lines)

    def free(self, start: int, end: int) -> None:
        """Free the space of these lines, which no process reads any more, if the file system supports this."""
        try:
            allocate(self._descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, end - start)
        except OSError as failure:
            if failure.errno not in NO_HOLES:
                raise

    def close(self) -> None:
        os.close(self._descriptor)

    def _number(self, line: bytes) -> int:
        instance = self._instance(line)
        return 0 if instance is None else instance.number

    def _instance(self, line: bytes) -> ReceivedInstance | None:
        """Return the instance of a line; None if its record has another version of the format."""
        key, _space, record = line[CHECKSUM_DIGITS + 1 :].partition(b" ")
        instance = read_recovery_record(record, key.decode())
        if instance is not None:
            instance.receiver = self.receiver
            instance.is_recovered, instance.is_followed = False, True
        return instance


def journals(folder: Path) -> list[Path]:
    """Return the journals of all receiver runs."""
    return sorted(folder.glob(f"*{SUFFIX}"))


def _complete_lines(data: bytes) -> list[bytes]:
    """Return the complete lines up to the first damaged one: after a power loss, no line after it is reliable."""
    lines = []
    for line in data.split(b"\n")[:-1]:
        if line[:CHECKSUM_DIGITS] != _checksum(line[CHECKSUM_DIGITS:]):
            break
        lines.append(line)
    return lines


def _line(key: str, record: bytes) -> bytes:
    rest = b" %s %s" % (key.encode(), record)
    return _checksum(rest) + rest + b"\n"


def _checksum(rest: bytes) -> bytes:
    return b"%08x" % zlib.crc32(rest)
