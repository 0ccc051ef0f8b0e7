"""Helpers for tests of the storage backend `local`: open it, inspect its files, simulate a kill of the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dicom_adapter import NoSettings, StorageContext
from dicom_adapter.storage.local.backend import SEGMENT_BYTES, LocalStorage
from dicom_adapter.storage.local.segment import BLOCK, Segment


def opened(path: Path, *, durable: bool, segment_blocks: int = SEGMENT_BYTES // BLOCK) -> Iterator[LocalStorage]:
    """Yield an open storage: the body of a fixture."""
    context = StorageContext(path=path, durable=durable)
    storage = LocalStorage(NoSettings(), context, segment_bytes=segment_blocks * BLOCK)
    storage.open()
    yield storage
    storage.close()


def finished(storage: LocalStorage, *pieces: bytes | memoryview) -> str:
    """Write an object without a sync. Return its key."""
    writer = storage.writer()
    for piece in pieces:
        writer.write(piece)
    return writer.finish()


def stored(storage: LocalStorage, *pieces: bytes) -> str:
    """Write and sync an object. Return its key."""
    key = finished(storage, *pieces)
    storage.sync([key])
    return key


def content(storage: LocalStorage, key: str) -> bytes:
    with storage.read(key) as reader:
        return reader.read()


def contents(storage: LocalStorage) -> dict[str, bytes]:
    keys = list(storage.keys())
    assert len(keys) == len(set(keys))
    return {key: content(storage, key) for key in keys}


def segments(storage: LocalStorage) -> list[Path]:
    return sorted((storage.context.path / "instances").iterdir())


def segment_of(storage: LocalStorage, key: str) -> Path:
    return storage.context.path / "instances" / f"{key[:32]}.segment"


def restarted(storage: LocalStorage) -> LocalStorage:
    """Open another storage on the same folder, as a restarted process does."""
    new = LocalStorage(NoSettings(), storage.context)
    new.open()
    new.recover()
    return new


def open_descriptors(storage: LocalStorage) -> int:
    """Count the open descriptors of the segments, including deleted segments.

    Other threads of this process open and close descriptors at the same time.
    """
    opened = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread closed the descriptor
            opened.append(str(link.readlink()))
    return sum(target.startswith(f"{storage.context.path}/") for target in opened)


def is_sealed(path: Path) -> bool:
    segment = Segment.open(path)
    try:
        return segment.is_sealed
    finally:
        segment.close()


def kill_local_storage(storage: LocalStorage) -> None:
    """Close descriptors and release locks without an orderly close, as the kernel does for a killed process.

    No public method has this effect: a process that stops seals its segments.
    """
    segments = storage._segments
    for active in segments._active.values():
        active.segment.close()
    segments._active.clear()
    segments._idle.clear()


def failing(error: int, after: int = 0) -> Callable[..., Any]:
    """Return a system call that succeeds `after` times and then fails with `error`."""
    calls = iter(range(after))

    def call(*_arguments: Any, **_options: Any) -> None:
        if next(calls, None) is None:
            raise OSError(error, os.strerror(error))

    return call
