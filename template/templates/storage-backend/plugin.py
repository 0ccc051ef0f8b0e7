"""A storage backend: it keeps instances until they are reclaimed. This one stores each as a file in one folder."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from attrs import frozen
from dicom_adapter import (
    Capacity,
    InstanceWriter,
    StorageBackend,
    StorageFull,
    StoredObjectMissing,
    hookimpl,
    setting,
)

KEY = re.compile(r"[0-9a-f]{32}")  # the form that `writer` generates; other keys are never used in a path


@frozen(kw_only=True)
class {{ cookiecutter.__class }}Settings:
    """The plugin's keys in [storage]."""

    folder: str = setting(default="instances", help="Name of the folder in the adapter's data folder.")


@contextmanager
def _full_disk_reported() -> Iterator[None]:
    """Raise `StorageFull` if there is no free space: then the C-STORE is refused with 0xA700, and senders retry."""
    try:
        yield
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull("the folder has no free space left") from failure
        raise


class {{ cookiecutter.__class }}(StorageBackend[{{ cookiecutter.__class }}Settings]):
    """Stores each object as a file. The name of a file that is not synced yet ends with `.part`."""

    name = "{{ cookiecutter.__plugin }}"

    def open(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def recover(self) -> None:
        for part in self._folder.glob("*.part"):
            part.unlink(missing_ok=True)

    def writer(self) -> InstanceWriter:
        with _full_disk_reported():
            return Writer(self._folder, uuid4().hex)

    def sync(self, keys: Sequence[str]) -> None:
        """Make objects durable, first their data, then their names. A C-STORE succeeds only after this."""
        with _full_disk_reported():
            for key in keys:
                self._sync_data(key)
            if self.context.durable:
                _fsync(self._folder)

    def _sync_data(self, key: str) -> None:
        part, whole = self._path(key, "part"), self._path(key, "dcm")
        if whole.exists():
            return  # already synced
        if self.context.durable:
            _fsync(part)
        part.replace(whole)

    def read(self, key: str) -> BinaryIO:
        try:
            return self._path(key, "dcm").open("rb")
        except FileNotFoundError as failure:
            raise StoredObjectMissing(f"storage key {key!r}: there is no such object") from failure

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            for suffix in ("dcm", "part"):
                self._path(key, suffix).unlink(missing_ok=True)

    def keys(self) -> Iterator[str]:
        return (path.stem for path in self._folder.glob("*.dcm"))

    def capacity(self) -> Capacity:
        usage = shutil.disk_usage(self._folder)
        return Capacity(total_bytes=usage.total, free_bytes=usage.free)

    @property
    def _folder(self) -> Path:
        return self.context.path / self.settings.folder

    def _path(self, key: str, suffix: str) -> Path:
        if KEY.fullmatch(key) is None:
            raise StoredObjectMissing("a storage key must be 32 lower-case hexadecimal digits")
        return self._folder / f"{key}.{suffix}"


class Writer(InstanceWriter):
    """A writer of one file, without a buffer. After a crash, `recover` deletes the incomplete file."""

    def __init__(self, folder: Path, key: str) -> None:
        self._key = key
        self._part = folder / f"{key}.part"
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)

    def write(self, piece: bytes | memoryview) -> None:
        rest = memoryview(piece)
        with _full_disk_reported():
            while rest:
                rest = rest[self._file.write(rest) :]

    def finish(self) -> str:
        self._file.close()
        return self._key

    def discard(self) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@hookimpl
def dicom_adapter_storage_backends() -> Iterable[type[StorageBackend[Any]]]:
    return [{{ cookiecutter.__class }}]
