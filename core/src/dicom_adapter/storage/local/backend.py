"""The `local` storage backend: Part 10 files one behind the other in segments, so that one sync serves all that wait.

    <path>/instances/<32 digits>.segment

A key is the number of a segment and that of a block in it. A file is held in memory until it is complete, gets its
place, and is written together with what else waits for the same sync. One that gets too large for that is written as
it comes: it takes a segment for itself and gives it back at its end.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO, cast
from uuid import uuid4

import structlog

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import StoredObjectMissing
from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.api.local_disk import no_space_is_storage_full, sync_folder
from dicom_adapter.api.storage import StorageBackend, StorageContext
from dicom_adapter.api.values import Capacity
from dicom_adapter.dicom.checksum import crc32
from dicom_adapter.storage.local.segment import BLOCK, MOST_PIECES, RECORD, Record, Segment
from dicom_adapter.storage.local.writer import SUBJECT, SUFFIX, Buffer, Buffers, LocalWriter, Written

log = structlog.get_logger("dicom_adapter.storage")

NAME = re.compile(r"[0-9a-f]{32}")
BLOCK_NUMBER = re.compile(r"[0-9a-f]{1,10}")
SEGMENT_BYTES = 128 << 20  # from there on a segment is full; what was begun below is finished in it
FOLDER_MODE = 0o700  # patient data: the service's own user and nobody else


class LocalStorage(StorageBackend[NoSettings]):
    """Keeps instances in segments below `<path>/instances`."""

    name = "local"
    keeps_recovery_records = True

    def __init__(self, settings: NoSettings, context: StorageContext, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        super().__init__(settings, context)
        self._segment_bytes = segment_bytes
        self.buffers = Buffers()
        self._root = context.path / "instances"
        self._written: dict[str, Written] = {}
        self._idle: list[Written] = []  # used again from the end: few segments instead of many half full ones
        self._placed_bytes = 0  # of records that are yet to be written
        self._lock = threading.Lock()  # guards these three and all that a `Written` says

    def open(self) -> None:
        with no_space_is_storage_full(SUBJECT):
            self.context.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._root.mkdir(mode=FOLDER_MODE, exist_ok=True)
            if self.context.durable:
                for folder in (self.context.path, self.context.path.parent):
                    with suppress(PermissionError):  # somebody else's folder, which we may pass through but not read
                        sync_folder(folder)

    def recover(self) -> None:
        for path in sorted(self._root.glob(f"*{SUFFIX}")):
            try:
                segment = Segment.open(path, to_change=True)
            except ValueError:  # its header never got to the disk, so nothing in it was ever synced
                path.unlink()
                continue
            try:
                if not segment.is_written():  # by a process of an earlier start that has yet to end
                    if not segment.is_sealed:
                        _mend(segment)
                        if not any(record.recovery_bytes for record in segment.records()):
                            segment.mark_sealed()
                    _drop_if_empty(segment)
            finally:
                segment.close()

    # --- writing ----------------------------------------------------------------------------------------------------

    def writer(self) -> LocalWriter:
        return LocalWriter(self)

    def take(self) -> Written:
        """A segment for a writer, until it is given back. Raises OSError or StorageFull when there is none."""
        with self._lock:
            while self._idle:
                written = self._idle.pop()
                if not written.is_full:
                    written.in_use = True
                    return written
        with no_space_is_storage_full(SUBJECT):
            written = Written(Segment.create(self._root / f"{uuid4().hex}{SUFFIX}"), in_use=True)
        with self._lock:
            self._written[written.name] = written
        return written

    def place(self, buffer: Buffer, used: int, recovery_record: bytes) -> str:
        """A writer has put a record together, but for its header and its recovery record."""
        written = self.take()
        record = Record(
            start=written.segment.end,
            length=used - RECORD.size,
            checksum=crc32(buffer[RECORD.size : used]),
            is_alive=True,
            recovery_bytes=len(recovery_record),
        )
        size = record.end - record.start
        buffer[: RECORD.size] = written.segment.header(record)
        buffer[used:size] = recovery_record.ljust(size - used, b"\0")
        with self._lock:
            written.placed[record.start] = size, buffer
            self._placed_bytes += size
        return self.finished(written, record)

    def finished(self, written: Written, record: Record) -> str:
        """A writer has completed a record."""
        with self._lock:
            written.segment.end = record.end
            written.unsynced.add(record.start)
            written.is_unconfirmed = written.is_unconfirmed or record.recovery_bytes > 0
            written.is_full = written.is_full or record.end >= self._segment_bytes
        self.given_back(written)
        return _key(written.name, record.start)

    def given_back(self, written: Written) -> None:
        """A writer needs its segment no longer."""
        with self._lock:
            written.in_use = False
            if not written.is_full:
                self._idle.append(written)
        self._close_if_done(written)

    def _close_if_done(self, written: Written) -> None:
        with self._lock:
            if not written.is_done or self._written.pop(written.name, None) is None:
                return
        _retire(written)

    def _write(self, written: Written) -> None:
        """Write what has its place there."""
        with written.writing:
            with self._lock:
                placed = sorted(written.placed.items())
            for start, pieces in _runs(placed):
                written.segment.write_blocks(pieces, start)
            self._let_go(written, [start for start, _placed in placed])

    def _write_held(self, name: str) -> None:
        """Let what this process holds of a segment be seen."""
        with self._lock:
            written = self._written.get(name)
        if written is not None and written.placed:
            with self._whole(written):
                self._write(written)

    def _let_go(self, written: Written, starts: Iterable[int]) -> None:
        """What is written, or not wanted any more."""
        with self._lock:
            for start in starts:
                if start in written.placed:
                    size, buffer = written.placed.pop(start)
                    self._placed_bytes -= size
                    self.buffers.take_back(buffer)

    @contextmanager
    def _whole(self, written: Written) -> Iterator[None]:
        """What fails in here leaves behind nobody knows what: a later success may not say that it is there."""
        with no_space_is_storage_full(SUBJECT):
            if written.error:
                raise OSError(written.error, os.strerror(written.error))
            try:
                yield
            except OSError as failure:
                with self._lock:
                    written.is_full, written.error = True, failure.errno or errno.EIO
                raise

    # --- durable ----------------------------------------------------------------------------------------------------

    def sync(self, keys: Sequence[str]) -> None:
        by_segment = _by_segment(keys)
        try:
            for name, starts in by_segment.items():
                self._sync(name, starts)
        except BaseException:
            with suppress(OSError):  # the failure itself is what counts; the ledger knows none of these
                self.delete(keys)
            raise

    def _sync(self, name: str, starts: Sequence[int]) -> None:
        with self._lock:
            written = self._written.get(name)
            if written is not None:
                written.syncs += 1
        if written is None:
            self._sync_again(name, starts)
            return
        try:
            for start in starts:
                if start not in written.unsynced:  # it was synced before, or deleted
                    _require(written.segment, name, start)
            with self._whole(written):
                self._write(written)
                if self.context.durable:
                    self._make_durable(written)
            with self._lock:
                written.unsynced.difference_update(starts)
        finally:
            with self._lock:
                written.syncs -= 1
            self._close_if_done(written)

    def _make_durable(self, written: Written) -> None:
        os.fdatasync(written.segment.descriptor)
        if not written.is_named:
            sync_folder(self._root)
            written.is_named = True

    def _sync_again(self, name: str, starts: Sequence[int]) -> None:
        """What was written by somebody else, or before."""
        segment = self._open(name)
        try:
            for start in starts:
                _require(segment, name, start)
            if self.context.durable:
                with no_space_is_storage_full(SUBJECT):
                    os.fdatasync(segment.descriptor)
                    sync_folder(self._root)
        finally:
            segment.close()

    # --- recovery records -------------------------------------------------------------------------------------------

    def checkpoint(self) -> None:
        with self._lock:
            confirmed = [written for written in self._written.values() if not written.unsynced]
            for written in confirmed:
                written.is_unconfirmed = False
        for written in confirmed:
            self._close_if_done(written)

    @contextmanager
    def unconfirmed_records(self) -> Iterator[Sequence[tuple[str, bytes]]]:
        with ExitStack() as opened:
            left: list[Segment] = []
            for path in sorted(self._root.glob(f"*{SUFFIX}")):
                with suppress(FileNotFoundError, ValueError):  # it has gone meanwhile, or is just being made
                    segment = Segment.open(path, to_change=True)
                    if segment.is_sealed or segment.is_written() or segment.is_sealed:  # or sealed in between
                        segment.close()
                    else:
                        opened.callback(segment.close)
                        left.append(segment)
            for segment in left:
                _mend(segment)
            yield [pair for segment in left for pair in _recovery_records(segment)]
            for segment in left:
                segment.mark_sealed()
                _drop_if_empty(segment)

    # --- the rest ---------------------------------------------------------------------------------------------------

    def read(self, key: str) -> BinaryIO:
        name, start = _parse(key)
        self._write_held(name)
        segment = self._open(name)
        try:
            return cast(BinaryIO, segment.reader(_require(segment, name, start)))
        except BaseException:
            segment.close()
            raise

    def delete(self, keys: Iterable[str]) -> None:
        # No sync: what a power loss brings back is a record that the ledger does not know, and is found by `keys`.
        for name, starts in _by_segment(keys).items():
            self._take_back(name, starts)
            try:
                segment = self._open(name, to_change=True)
            except StoredObjectMissing:
                continue
            try:
                for start in starts:
                    record = segment.record_at(start)
                    if record is not None and record.is_alive:
                        segment.give_back(record)
                # The others go with their writer, or with the next start, which is not to find them locked.
                if segment.is_sealed and not segment.is_written():
                    _drop_if_empty(segment)
            finally:
                segment.close()
                self._forget(name, starts)

    def _take_back(self, name: str, starts: Sequence[int]) -> None:
        with self._lock:
            written = self._written.get(name)
        if written is not None:
            with written.writing:
                self._let_go(written, starts)

    def _forget(self, name: str, starts: Sequence[int]) -> None:
        with self._lock:
            written = self._written.get(name)
            if written is not None:
                written.unsynced.difference_update(starts)
        if written is not None:
            self._close_if_done(written)

    def keys(self) -> Iterator[str]:
        for path in self._root.glob(f"*{SUFFIX}"):
            name = path.name[: -len(SUFFIX)]
            self._write_held(name)
            with suppress(StoredObjectMissing):  # it has gone meanwhile
                segment = self._open(name)
                try:
                    yield from (_key(name, record.start) for record in segment.records())
                finally:
                    segment.close()

    def capacity(self) -> Capacity:
        found = os.statvfs(self._root)
        free = found.f_bavail * found.f_frsize - self._placed_bytes
        return Capacity(total_bytes=found.f_blocks * found.f_frsize, free_bytes=max(0, free))

    def close(self) -> None:
        with self._lock:
            left = list(self._written.values())
            self._written.clear()
            self._idle.clear()
        for written in left:
            _retire(written)

    def _open(self, name: str, *, to_change: bool = False) -> Segment:
        try:
            return Segment.open(self._root / f"{name}{SUFFIX}", to_change=to_change)
        except (FileNotFoundError, ValueError) as failure:
            raise _missing(f"{name}-…") from failure


# --- segments as a whole ----------------------------------------------------------------------------------------------


def _mend(segment: Segment) -> None:
    """Take away what a killed process left half written, and what a power loss left half durable."""
    end, torn = BLOCK, 0
    for found in segment.walk():
        if isinstance(found, Record) and (not found.is_alive or segment.is_whole(found)):
            end = found.end
            continue
        torn += 1
        if isinstance(found, Record):
            segment.give_back(found)
        else:
            segment.punch(found, found + BLOCK)
    segment.truncate(end)
    if torn:
        log.warning("segment_mended", segment=segment.path.name, records_or_blocks=torn)
    os.fdatasync(segment.descriptor)  # it must not be known as whole before it is


def _recovery_records(segment: Segment) -> Iterator[tuple[str, bytes]]:
    """Iterate over (key, recovery record) of the records that have one."""
    name = segment.path.name[: -len(SUFFIX)]
    for record in segment.records():
        recovery_record = segment.recovery_record_of(record)
        if recovery_record:
            yield _key(name, record.start), recovery_record


def _retire(written: Written) -> None:
    """Write it no more. Unless all that it holds is whole and covered by a checkpoint, the next start reads it."""
    segment = written.segment
    try:
        if not (written.unsynced or written.in_use or written.is_unconfirmed or written.error):
            with suppress(OSError):  # on a disk that is broken now: as above
                segment.mark_sealed()
            _drop_if_empty(segment)
    finally:
        segment.close()


def _drop_if_empty(segment: Segment) -> None:
    if segment.is_empty():
        segment.path.unlink(missing_ok=True)


def _runs(placed: Iterable[tuple[int, tuple[int, Buffer]]]) -> Iterator[tuple[int, list[memoryview]]]:
    """Records, in their order, as pieces that can be written with one call each, and where."""
    begin, end, pieces = 0, 0, list[memoryview]()
    for start, (size, buffer) in placed:
        if pieces and (start != end or len(pieces) == MOST_PIECES):
            yield begin, pieces
            pieces = []
        if not pieces:
            begin = start
        pieces.append(buffer[:size])
        end = start + size
    if pieces:
        yield begin, pieces


# --- keys -------------------------------------------------------------------------------------------------------------


def _key(name: str, start: int) -> str:
    return f"{name}-{start // BLOCK:x}"


def _parse(key: str) -> tuple[str, int]:
    """Segment and offset; nothing but a key that this backend could have made becomes a path."""
    name, _dash, block = key.partition("-")
    if NAME.fullmatch(name) is None or BLOCK_NUMBER.fullmatch(block) is None:
        raise _missing(key)
    return name, int(block, 16) * BLOCK


def _by_segment(keys: Iterable[str]) -> Mapping[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for name, start in map(_parse, keys):
        found[name].append(start)
    return found


def _require(segment: Segment, name: str, start: int) -> Record:
    record = segment.record_at(start)
    if record is None or not record.is_alive:
        raise _missing(_key(name, start))
    return record


def _missing(key: str) -> StoredObjectMissing:
    return StoredObjectMissing(
        f"storage key {key[:44]!r}: the local storage has no such object; it was deleted or lost"
    )


@hookimpl
def dicom_adapter_storage_backends() -> Iterable[type[StorageBackend[Any]]]:
    """The storage that the adapter uses unless told otherwise."""
    return [LocalStorage]
