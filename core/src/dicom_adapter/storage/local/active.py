"""The segments that this process writes: writers use them, `sync` syncs them, and full segments are closed."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from attrs import define, field, frozen

from dicom_adapter.api.errors import StorageUnavailable
from dicom_adapter.api.local_disk import (
    PlacedFile,
    no_free_space_is_storage_full,
    raise_if_no_free_space,
    sync_folder,
)
from dicom_adapter.api.storage import StorageMark
from dicom_adapter.dicom.checksum import crc32
from dicom_adapter.storage.local.buffers import Buffer, Buffers
from dicom_adapter.storage.local.keys import key_of, missing
from dicom_adapter.storage.local.segment import MAX_PIECES, RECORD, Record, Segment

SUFFIX = ".segment"
SUBJECT = "local storage"  # first words of error messages


@define(eq=False)
class ActiveSegment:
    """A segment that this process writes. Guarded by the lock of `ActiveSegments`."""

    segment: Segment
    file: PlacedFile  # the file of the segment, to notice that it was deleted or replaced
    placed: dict[int, tuple[int, Buffer]] = field(factory=dict)  # size and content of unwritten records, by offset
    unsynced: set[int] = field(factory=set)  # offsets of complete records that are not synced
    in_use: bool = False  # a writer uses it
    syncs: int = 0  # number of syncs and deletions in progress
    is_named: bool = False  # the name of the file is durable
    is_full: bool = False  # no further records are added
    recorded: int = 0  # number of its complete recovery records
    confirmed: int = 0  # number of the recovery records at the last mark that is confirmed
    error: int = 0  # errno of the first failed write or sync; all later writes and syncs fail with it
    writing: threading.Lock = field(factory=threading.Lock)  # held while placed records are written or dropped

    @property
    def name(self) -> str:
        return self.segment.path.name[: -len(SUFFIX)]

    @property
    def allocated_bytes(self) -> int:
        """The size of the blocks that are allocated, but not written yet."""
        written = min(self.placed, default=self.segment.end)
        return max(0, self.segment.reserved - written)

    @property
    def is_unconfirmed(self) -> bool:
        """True if the segment has recovery records that no confirmed mark covers."""
        return self.confirmed < self.recorded

    @property
    def is_done(self) -> bool:
        return self.is_full and not (self.unsynced or self.in_use or self.syncs or self.is_unconfirmed)


class ActiveSegments:
    """All segments that this process writes. Thread-safe."""

    def __init__(self, root: Path, *, durable: bool, segment_bytes: int) -> None:
        """`segment_bytes`: from this size on, a segment is full. Its last record may exceed this size."""
        self.buffers = Buffers()
        self._placed_bytes = 0  # total size of the records that are not written yet
        self._root = root
        self._durable = durable
        self._segment_bytes = segment_bytes
        self._active: dict[str, ActiveSegment] = {}
        self._idle: list[ActiveSegment] = []  # the last one is used first, so that few segments are partly full
        self._displaced: PlacedFile | None = None  # a segment that was deleted or replaced while it was open
        self._lock = threading.Lock()  # guards `_placed_bytes`, the two collections and every `ActiveSegment`

    # --- for writers ------------------------------------------------------------------------------------------------

    def acquire(self) -> ActiveSegment:
        """Reserve a segment for one writer until `release`. Raises OSError or StorageFull if none can be created."""
        with self._lock:
            while self._idle:
                active = self._idle.pop()
                if not active.is_full:
                    active.in_use = True
                    return active
        with no_free_space_is_storage_full(SUBJECT):
            segment = Segment.create(self._root / f"{uuid4().hex}{SUFFIX}")
            file = PlacedFile.open_as(segment.descriptor, segment.path)
            active = ActiveSegment(segment, file, in_use=True)
        with self._lock:
            self._active[active.name] = active
        return active

    def place(self, buffer: Buffer, used: int, recovery_record: bytes) -> str:
        """Assign a place in a segment to the record in `buffer`, add its header and recovery record, return its key.

        The segment releases the buffer later. If this method raises, the caller has to release the buffer.
        """
        active = self.acquire()
        record = Record(
            start=active.segment.end,
            length=used - RECORD.size,
            checksum=crc32(buffer[RECORD.size : used]),
            is_alive=True,
            recovery_bytes=len(recovery_record),
        )
        size = record.end - record.start
        buffer[: RECORD.size] = active.segment.header(record)
        buffer[used:size] = recovery_record.ljust(size - used, b"\0")
        with self._lock:
            active.placed[record.start] = size, buffer
            self._placed_bytes += size
        return self.complete(active, record)

    def complete(self, active: ActiveSegment, record: Record) -> str:
        """Register a complete record, release its segment, and return the key."""
        with self._lock:
            active.segment.end = record.end
            active.unsynced.add(record.start)
            active.recorded += 1 if record.recovery_bytes else 0
            active.is_full = active.is_full or record.end >= self._segment_bytes
        self.release(active)
        return key_of(active.name, record.start)

    def release(self, active: ActiveSegment) -> None:
        """Make a segment available to other writers: its writer does not need it any more."""
        with self._lock:
            active.in_use = False
            if not active.is_full:
                self._idle.append(active)
        self._close_if_done(active)

    @property
    def additional_bytes(self) -> int:
        """Return the bytes that the records of this process will need in addition to the space that the disk reports.

        It is negative if blocks are allocated for records that will arrive later: their space is not free for other
        files, but free for instances.
        """
        with self._lock:
            return self._placed_bytes - sum(active.allocated_bytes for active in self._active.values())

    # --- for the backend --------------------------------------------------------------------------------------------

    def sync(self, name: str, starts: Sequence[int]) -> bool:
        """Make the records at these offsets durable; return False if this process does not write the segment."""
        with self._lock:
            active = self._active.get(name)
            if active is not None:
                active.syncs += 1
        if active is None:
            return False
        try:
            for start in starts:
                if start not in active.unsynced:  # the record was synced before, or deleted
                    require_record(active.segment, name, start)
            self._write(active, synced=self._durable)
            self._require_segment_in_place(active)
            with self._lock:
                active.unsynced.difference_update(starts)
        finally:
            with self._lock:
                active.syncs -= 1
            self._close_if_done(active)
        return True

    def mark(self) -> SegmentsMark:
        """Mark the recovery records in segments without unsynced records. A later mark covers those in the others."""
        with self._lock:
            synced = [(active, active.recorded) for active in self._active.values() if not active.unsynced]
        return SegmentsMark(self, synced)

    def confirm(self, marked: Sequence[tuple[ActiveSegment, int]]) -> None:
        """Record that the first recovery records of these segments are not needed any longer.

        `marked` contains each segment with the number of these records.
        """
        with self._lock:
            for active, recorded in marked:
                active.confirmed = max(active.confirmed, recorded)
        for active, _recorded in marked:
            self._close_if_done(active)

    def write_placed(self, name: str) -> None:
        """Write the placed records of a segment, so that they can be read from its file."""
        with self._lock:
            active = self._active.get(name)
        if active is not None and active.placed:
            self._write(active)

    def delete(self, name: str, starts: Sequence[int]) -> bool:
        """Delete records, written or not; return False if this process does not write the segment.

        The open file is changed, not the file at its path: if the segment was moved away, its records must not be
        recovered when it is back.
        """
        with self._lock:
            active = self._active.get(name)
            if active is None:
                return False
            active.syncs += 1
        try:
            with active.writing:
                self._release_buffers(active, starts)
            free_records(active.segment, starts)
        finally:
            with self._lock:
                active.syncs -= 1
                active.unsynced.difference_update(starts)
            self._close_if_done(active)
        return True

    def close(self) -> None:
        """Close all segments."""
        with self._lock:
            remaining = list(self._active.values())
            self._active.clear()
            self._idle.clear()
        for active in remaining:
            _seal_and_close(active)

    def _close_if_done(self, active: ActiveSegment) -> None:
        with self._lock:
            if not active.is_done or self._active.pop(active.name, None) is None:
                return
        _seal_and_close(active)

    def _write(self, active: ActiveSegment, *, synced: bool = False) -> None:
        """Write the placed records and, if `synced`, make them durable. After an OSError, every later call fails, too.

        The kernel reports a failed sync only once and may drop the data. A later successful sync proves nothing.
        """
        try:
            self._write_placed(active)
            if synced:
                self._make_durable(active)
        except OSError as failure:
            with self._lock:
                active.is_full, active.error = True, failure.errno or errno.EIO
            raise_if_no_free_space(failure, SUBJECT)
            raise

    def _write_placed(self, active: ActiveSegment) -> None:
        if active.error:
            raise OSError(active.error, os.strerror(active.error))
        with active.writing:
            with self._lock:
                placed = sorted(active.placed.items())
            if placed:
                start, (size, _buffer) = placed[-1]
                active.segment.reserve(start + size)
            for start, pieces in _runs(placed):
                active.segment.write_blocks(pieces, start)
            self._release_buffers(active, [start for start, _placed in placed])

    def _release_buffers(self, active: ActiveSegment, starts: Iterable[int]) -> None:
        with self._lock:
            for start in starts:
                if start in active.placed:
                    size, buffer = active.placed.pop(start)
                    self._placed_bytes -= size
                    self.buffers.release(buffer)

    def _make_durable(self, active: ActiveSegment) -> None:
        os.fdatasync(active.segment.descriptor)
        if not active.is_named:
            sync_folder(self._root)
            active.is_named = True

    def require_in_place(self) -> None:
        """Raise StorageUnavailable if a displaced segment is not back at its path yet."""
        if self._displaced is not None:
            self._displaced.require()
            self._displaced = None

    def _require_segment_in_place(self, active: ActiveSegment) -> None:
        """Raise StorageUnavailable if the segment was deleted or replaced.

        In this case acknowledged instances are missing, so nothing is stored until the file is back or the service is
        restarted.
        """
        self.require_in_place()
        try:
            active.file.require()
        except StorageUnavailable:
            self._displaced = active.file
            raise


@frozen
class SegmentsMark(StorageMark):
    """The segments without unsynced records at one moment, each with the number of its recovery records."""

    _segments: ActiveSegments
    _marked: Sequence[tuple[ActiveSegment, int]]

    def confirm(self) -> None:
        self._segments.confirm(self._marked)


def require_record(segment: Segment, name: str, start: int) -> Record:
    """Return the record at this offset. Raises StoredObjectMissing if there is none."""
    record = segment.record_at(start)
    if record is None or not record.is_alive:
        raise missing(key_of(name, start))
    return record


def free_records(segment: Segment, starts: Iterable[int]) -> None:
    """Delete the records at these offsets. Others are not changed."""
    for start in starts:
        record = segment.record_at(start)
        if record is not None and record.is_alive:
            segment.free(record)


def delete_if_empty(segment: Segment) -> None:
    """Delete the segment if it has no records."""
    if segment.is_empty():
        segment.path.unlink(missing_ok=True)


def _seal_and_close(active: ActiveSegment) -> None:
    """Close a segment. Seal it if all its records are complete and confirmed; otherwise the next start checks it."""
    segment = active.segment
    try:
        if not (active.unsynced or active.in_use or active.is_unconfirmed or active.error):
            with suppress(OSError):  # after a failure of the disk, the next start checks the segment
                if segment.reserved > segment.end:
                    segment.truncate(segment.end)
                segment.mark_sealed()
            delete_if_empty(segment)
    finally:
        segment.close()


def _runs(placed: Iterable[tuple[int, tuple[int, Buffer]]]) -> Iterator[tuple[int, list[memoryview]]]:
    """Iterate over runs of adjacent records, each with its offset. A run is written with one call."""
    begin, end, pieces = 0, 0, list[memoryview]()
    for start, (size, buffer) in placed:
        if pieces and (start != end or len(pieces) == MAX_PIECES):
            yield begin, pieces
            pieces = []
        if not pieces:
            begin = start
        pieces.append(buffer[:size])
        end = start + size
    if pieces:
        yield begin, pieces
