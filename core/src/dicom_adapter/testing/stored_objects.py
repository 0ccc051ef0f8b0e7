"""Objects that the storage suite writes and reads."""

from __future__ import annotations

from typing import Any

from dicom_adapter.api.storage import StorageBackend

# Texts that are not keys of any backend
HOSTILE_KEYS = [
    "",
    ".",
    "..",
    "../outside",
    "../../outside",
    "/etc/hostname",
    "a/../../outside",
    "a\0b",
    "a\nb",
    "ключ",
    "k" * 5000,
]


def finished(storage: StorageBackend[Any], *pieces: bytes | memoryview) -> str:
    """Finish an object, without a sync, and return its key."""
    writer = storage.writer()
    for piece in pieces:
        writer.write(piece)
    return writer.finish()


def recoverable(storage: StorageBackend[Any], size: int, record: bytes) -> str:
    """Finish an object of `size` zeros with a recovery record, without a sync, and return its key."""
    writer = storage.writer()
    writer.write(bytes(size))
    writer.write_recovery_record(record)
    return writer.finish()


def unconfirmed(storage: StorageBackend[Any]) -> list[tuple[str, bytes]]:
    """Return the unconfirmed records, and confirm them."""
    with storage.unconfirmed_records() as records:
        return list(records)


def stored(storage: StorageBackend[Any], *pieces: bytes | memoryview) -> str:
    """Store an object durably and return its key."""
    key = finished(storage, *pieces)
    storage.sync([key])
    return key


def content(storage: StorageBackend[Any], key: str) -> bytes:
    """Return the content of an object."""
    with storage.read(key) as reader:
        return reader.read()
