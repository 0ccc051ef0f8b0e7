"""The `files` storage backend: a file for each instance in the adapter's data folder.

    <path>/instances/incoming/<key>.part                   a file that is being written or is not synced yet
    <path>/instances/<first 2 digits of key>/<key>.dcm     a stored object: complete and synced

A file gets its final name with one rename(2), and only when it is complete. Therefore every file with a final name is
complete. Files in `incoming` after a crash were never acknowledged.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import StoredObjectMissing
from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.api.local_disk import (
    PlacedFile,
    no_free_space_is_storage_full,
    raise_if_no_free_space,
    sync_folder,
)
from dicom_adapter.api.storage import InstanceWriter, StorageBackend, StorageContext
from dicom_adapter.api.values import Capacity

KEY = re.compile(r"[0-9a-f]{32}")
SHARDS = 256  # folders, named by the first two digits of their keys, so that no folder gets too large
FOLDER_MODE = 0o700  # patient data: only the service's user has access
FILE_MODE = 0o600
OPEN_LIMIT = 64  # number of unsynced files that stay open until their fsync; others are closed, and opened again then
SUBJECT = "file storage"  # first words of error messages


class FileStorage(StorageBackend[NoSettings]):
    """Keeps instances as files below `<path>/instances`."""

    name = "files"

    def __init__(self, settings: NoSettings, context: StorageContext) -> None:
        super().__init__(settings, context)
        self._root = context.path / "instances"
        self._incoming = self._root / "incoming"
        self._unsynced: dict[str, _PartFile] = {}  # finished files that are not synced, by key
        self._lock = threading.Lock()  # guards `_unsynced`
        self._shard = secrets.randbelow(SHARDS)

    def open(self) -> None:
        shards = [self._root / f"{number:02x}" for number in range(SHARDS)]
        with no_free_space_is_storage_full(SUBJECT):
            self.context.path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            for folder in (self._root, self._incoming, *shards):
                folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            if self.context.durable:
                # After this, `sync` need not sync the names of the shards, even if another process created them.
                for folder in (self._root, self.context.path):
                    sync_folder(folder)
                with suppress(PermissionError):  # the folder belongs to another user and cannot be read
                    sync_folder(self.context.path.parent)

    def recover(self) -> None:
        if not self._incoming.is_dir():
            return
        with os.scandir(self._incoming) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    Path(entry.path).unlink(missing_ok=True)

    def writer(self) -> FileWriter:
        # Keys made between two syncs share a shard, so that one fsync of a folder serves a whole batch. Measured on
        # ext4: a batch of 16 files of 4 KiB takes 4.1 ms, or 7.6 ms if every key has a separate shard.
        key = f"{self._shard:02x}{uuid4().hex[2:]}"
        with no_free_space_is_storage_full(SUBJECT):
            return FileWriter(self, _PartFile(key, self._incoming / f"{key}.part"))

    def sync(self, keys: Sequence[str]) -> None:
        final_paths = {key: self._final_path(key) for key in keys}
        self._shard = (self._shard + 1) % SHARDS
        parts = self._claim(final_paths)
        try:
            with no_free_space_is_storage_full(SUBJECT):
                self._publish(parts, final_paths)
        except BaseException:
            for key, part in parts.items():
                with suppress(OSError):  # the first failure is raised; the ledger has none of these keys
                    part.remove()
                    final_paths[key].unlink(missing_ok=True)
            raise

    def read(self, key: str) -> BinaryIO:
        try:
            return self._final_path(key).open("rb")
        except FileNotFoundError as error:
            raise _missing(key) from error

    def delete(self, keys: Iterable[str]) -> None:
        # No fsync: after a power loss, a deleted file may exist without a row in the ledger; an audit finds it.
        for key, final_path in [(key, self._final_path(key)) for key in keys]:
            self._remove_unsynced(key)
            final_path.unlink(missing_ok=True)

    def keys(self) -> Iterator[str]:
        for number in range(SHARDS):
            yield from _keys_in(self._root / f"{number:02x}")

    def capacity(self) -> Capacity:
        usage = shutil.disk_usage(self._root)  # its `free` excludes blocks that are reserved for root
        return Capacity(total_bytes=usage.total, free_bytes=usage.free)

    def close(self) -> None:
        with self._lock:
            keys = list(self._unsynced)
        for key in keys:
            self._remove_unsynced(key)

    def _add_unsynced(self, part: _PartFile) -> None:
        """Add a finished file to the files that wait for `sync`."""
        with self._lock:
            too_many_open = len(self._unsynced) >= OPEN_LIMIT
        if too_many_open or not self.context.durable:
            part.close()
        with self._lock:
            self._unsynced[part.key] = part

    def _remove_unsynced(self, key: str) -> None:
        """Delete a finished file, unless a `sync` has claimed it or it does not exist."""
        with self._lock:
            part = self._unsynced.pop(key, None)
        if part is not None:
            part.remove()

    def _claim(self, keys: Iterable[str]) -> dict[str, _PartFile]:
        """Remove the files with these keys from the waiting files, and return them, for use by one `sync` only."""
        with self._lock:
            return {key: self._unsynced.pop(key) for key in keys if key in self._unsynced}

    def _publish(self, parts: dict[str, _PartFile], final_paths: dict[str, Path]) -> None:
        for key in final_paths.keys() - parts.keys():
            # An existing file was published earlier. Its folder is synced again below.
            if not final_paths[key].exists():
                raise _missing(key)
        for part in parts.values():
            if self.context.durable:
                part.sync()
            part.close()
        for key, part in parts.items():
            part.place.require()  # otherwise another file could get the final name
            part.path.replace(final_paths[key])
        if self.context.durable:
            for folder in {final_path.parent for final_path in final_paths.values()}:
                sync_folder(folder)

    def _final_path(self, key: str) -> Path:
        """Return the final path for `key`. Raises StoredObjectMissing for another text: it must not become a path."""
        if KEY.fullmatch(key) is None:
            raise _missing(key)
        return self._root / key[:2] / f"{key}.dcm"


class FileWriter(InstanceWriter):
    """Writes one file. After an OSError or StorageFull, the file is deleted, and only `discard` may be called."""

    def __init__(self, storage: FileStorage, part: _PartFile) -> None:
        self._storage = storage
        self._part = part
        self._ended = False

    def write(self, piece: bytes | memoryview) -> None:
        self._check_not_ended()
        try:  # no context manager, because this runs for every fragment of every data set
            self._part.write(piece)
        except BaseException as error:
            self._remove_after(error)
            raise

    def finish(self) -> str:
        self._check_not_ended()
        self._ended = True
        try:
            self._storage._add_unsynced(self._part)
        except BaseException as error:
            self._remove_after(error)
            raise
        return self._part.key

    def discard(self) -> None:
        """Delete the file if it is not synced. Use `StorageBackend.delete` for a synced file."""
        if self._ended:
            self._storage._remove_unsynced(self._part.key)
            return
        self._ended = True
        self._part.remove()

    def _check_not_ended(self) -> None:
        if self._ended:
            raise ValueError("the writer is already finished or discarded; get a new one from the storage backend")

    def _remove_after(self, error: BaseException) -> None:
        self._ended = True
        self._part.remove()
        raise_if_no_free_space(error, SUBJECT)


class _PartFile:
    """A file in `incoming`, from its creation until it gets its final name or is removed."""

    def __init__(self, key: str, path: Path) -> None:
        self.key = key
        self.path = path
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE)
        self.place = PlacedFile.open_as(self._descriptor, path)

    def write(self, piece: bytes | memoryview) -> None:
        assert self._descriptor is not None
        written = os.write(self._descriptor, piece)
        while written < len(piece):  # the kernel may write less, as on a disk that is almost full
            written += os.write(self._descriptor, memoryview(piece)[written:])

    def sync(self) -> None:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_WRONLY)
        os.fsync(self._descriptor)

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None  # the descriptor is closed even if close(2) fails
        if descriptor is not None:
            os.close(descriptor)

    def remove(self) -> None:
        with suppress(OSError):  # a late write error does not matter for a file that is deleted
            self.close()
        self.path.unlink(missing_ok=True)


def _keys_in(shard: Path) -> Iterator[str]:
    with suppress(FileNotFoundError), os.scandir(shard) as entries:  # the storage was never opened
        for entry in entries:
            key, suffix = entry.name[:32], entry.name[32:]
            if suffix == ".dcm" and KEY.fullmatch(key) and key.startswith(shard.name):
                yield key


def _missing(key: str) -> StoredObjectMissing:
    return StoredObjectMissing(f"storage key {key[:40]!r}: the file storage has no such object; it was deleted or lost")


@hookimpl
def dicom_adapter_storage_backends() -> Iterable[type[StorageBackend[Any]]]:
    """Return the storage backend `files`."""
    return [FileStorage]
