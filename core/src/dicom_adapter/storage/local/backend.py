"""The `local` storage backend: many Part 10 files in one segment, so that one sync makes all of them durable.

    <path>/instances/<32 digits>.segment

A key consists of the name of a segment and the number of a block in it. A file is buffered in memory until it is
complete. Then a place in a segment is assigned to it, and it is written together with other files that wait for the
same sync. A file that is too large for a buffer is written while it arrives: until it is complete, no other writer uses
its segment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, BinaryIO, cast

import structlog

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import StoredObjectMissing
from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.api.local_disk import no_free_space_is_storage_full, sync_folder
from dicom_adapter.api.storage import StorageBackend, StorageContext, StorageMark
from dicom_adapter.api.values import Capacity
from dicom_adapter.storage.local.active import (
    SUBJECT,
    SUFFIX,
    ActiveSegments,
    delete_if_empty,
    free_records,
    require_record,
)
from dicom_adapter.storage.local.keys import group_by_segment, key_of, missing, parse
from dicom_adapter.storage.local.segment import BLOCK, Record, Segment
from dicom_adapter.storage.local.writer import LocalWriter

log = structlog.get_logger("dicom_adapter.storage")

SEGMENT_BYTES = 128 << 20  # from this size on, a segment is full; its last record may exceed this size
FOLDER_MODE = 0o700  # patient data: only the service's user has access


class LocalStorage(StorageBackend[NoSettings]):
    """Keeps instances in segments below `<path>/instances`."""

    name = "local"
    keeps_recovery_records = True

    def __init__(self, settings: NoSettings, context: StorageContext, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        super().__init__(settings, context)
        self._root = context.path / "instances"
        self._segments = ActiveSegments(self._root, durable=context.durable, segment_bytes=segment_bytes)

    def open(self) -> None:
        with no_free_space_is_storage_full(SUBJECT):
            self.context.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._root.mkdir(mode=FOLDER_MODE, exist_ok=True)
            if self.context.durable:
                for folder in (self.context.path, self.context.path.parent):
                    with suppress(PermissionError):  # the folder belongs to another user and cannot be read
                        sync_folder(folder)

    def recover(self) -> None:
        for path in sorted(self._root.glob(f"*{SUFFIX}")):
            try:
                segment = Segment.open(path, to_change=True)
            except ValueError:  # the header of the segment was never written, so no record in it was synced
                path.unlink()
                continue
            try:
                if segment.try_lock():  # else a process of an earlier start has not ended yet
                    if not segment.is_sealed:
                        _repair(segment)
                        if not any(record.recovery_bytes for record in segment.records()):
                            segment.mark_sealed()
                    delete_if_empty(segment)
            finally:
                segment.close()

    def writer(self) -> LocalWriter:
        return LocalWriter(self._segments, self.delete)

    def sync(self, keys: Sequence[str]) -> None:
        segments = group_by_segment(keys)
        try:
            self._segments.require_in_place()
            for name, starts in segments.items():
                if not self._segments.sync(name, starts):
                    self._sync_closed(name, starts)
        except BaseException:
            with suppress(OSError):  # the first failure is raised; the ledger has none of these keys
                self.delete(keys)
            raise

    def _sync_closed(self, name: str, starts: Sequence[int]) -> None:
        """Sync a segment that another process writes, or that is full."""
        segment = self._open(name)
        try:
            for start in starts:
                require_record(segment, name, start)
            if self.context.durable:
                with no_free_space_is_storage_full(SUBJECT):
                    os.fdatasync(segment.descriptor)
                    sync_folder(self._root)
        finally:
            segment.close()

    def mark(self) -> StorageMark:
        return self._segments.mark()

    @contextmanager
    def unconfirmed_records(self) -> Iterator[Sequence[tuple[str, bytes]]]:
        with ExitStack() as opened:
            unsealed: list[Segment] = []
            for path in sorted(self._root.glob(f"*{SUFFIX}")):
                with suppress(FileNotFoundError, ValueError):  # the segment was just deleted, or is being created
                    segment = Segment.open(path, to_change=True)
                    # The second check: another process may have sealed the segment before it was locked here.
                    if segment.is_sealed or not segment.try_lock() or segment.is_sealed:
                        segment.close()
                    else:
                        opened.callback(segment.close)
                        unsealed.append(segment)
            for segment in unsealed:
                _repair(segment)
            yield [pair for segment in unsealed for pair in _recovery_records(segment)]
            for segment in unsealed:
                segment.mark_sealed()
                delete_if_empty(segment)

    def kept_records(self) -> Iterator[tuple[str, bytes]]:
        for path in sorted(self._root.glob(f"*{SUFFIX}")):
            with suppress(FileNotFoundError, ValueError):  # the segment was just deleted, or is being created
                segment = Segment.open(path)
                try:
                    if not segment.is_sealed:
                        yield from _recovery_records(segment)
                finally:
                    segment.close()

    def read(self, key: str) -> BinaryIO:
        name, start = parse(key)
        self._segments.write_placed(name)
        segment = self._open(name)
        try:
            return cast(BinaryIO, segment.reader(require_record(segment, name, start)))
        except BaseException:
            segment.close()
            raise

    def delete(self, keys: Iterable[str]) -> None:
        # No sync: after a power loss, a deleted record may exist without a row in the ledger; an audit finds it.
        for name, starts in group_by_segment(keys).items():
            if not self._segments.delete(name, starts):
                with suppress(StoredObjectMissing):
                    self._delete_closed(name, starts)

    def _delete_closed(self, name: str, starts: Sequence[int]) -> None:
        """Delete records of a segment that another process writes, or that is full."""
        segment = self._open(name, to_change=True)
        try:
            free_records(segment, starts)
            # Unsealed segments are deleted by their writer or at the next start, which must not find them locked.
            if segment.is_sealed and segment.try_lock():
                delete_if_empty(segment)
        finally:
            segment.close()

    def keys(self) -> Iterator[str]:
        for path in self._root.glob(f"*{SUFFIX}"):
            name = path.name[: -len(SUFFIX)]
            self._segments.write_placed(name)
            with suppress(StoredObjectMissing):  # the segment was just deleted
                segment = self._open(name)
                try:
                    yield from (key_of(name, record.start) for record in segment.records())
                finally:
                    segment.close()

    def capacity(self) -> Capacity:
        disk = os.statvfs(self._root)
        free = disk.f_bavail * disk.f_frsize - self._segments.additional_bytes
        return Capacity(
            total_bytes=disk.f_blocks * disk.f_frsize, free_bytes=min(max(0, free), disk.f_blocks * disk.f_frsize)
        )

    def close(self) -> None:
        self._segments.close()

    def _open(self, name: str, *, to_change: bool = False) -> Segment:
        try:
            return Segment.open(self._root / f"{name}{SUFFIX}", to_change=to_change)
        except (FileNotFoundError, ValueError) as failure:
            raise missing(f"{name}-…") from failure


def _repair(segment: Segment) -> None:
    """Remove incomplete records. A process was killed while it wrote them, or a power loss erased parts of them."""
    end, removed = BLOCK, 0
    for entry in segment.walk():
        if isinstance(entry, Record) and (not entry.is_alive or segment.is_whole(entry)):
            end = entry.end
            continue
        removed += 1
        if isinstance(entry, Record):
            segment.free(entry)
        else:
            segment.punch(entry, entry + BLOCK)
    segment.truncate(end)
    if removed:
        log.warning("segment_repaired", segment=segment.path.name, records_or_blocks=removed)
    os.fdatasync(segment.descriptor)  # before the segment is marked as sealed


def _recovery_records(segment: Segment) -> Iterator[tuple[str, bytes]]:
    """Iterate over pairs of key and recovery record. Records without a recovery record are omitted."""
    name = segment.path.name[: -len(SUFFIX)]
    for record in segment.records():
        recovery_record = segment.recovery_record_of(record)
        if recovery_record:
            yield key_of(name, record.start), recovery_record


@hookimpl
def dicom_adapter_storage_backends() -> Iterable[type[StorageBackend[Any]]]:
    """Return the default storage backend."""
    return [LocalStorage]
