"""Stored objects for the storage suite."""

from __future__ import annotations

from typing import Any

from dicom_adapter.api.storage import StorageBackend

# Strings that are not keys of any backend; some are paths outside of the backend's folder.
INVALID_KEYS = [
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


def finish_object(storage: StorageBackend[Any], *pieces: bytes | memoryview, record: bytes | None = None) -> str:
    """Write and finish an object, perhaps with a recovery record, without a sync. Return its key."""
    writer = storage.writer()
    for piece in pieces:
        writer.write(piece)
    if record is not None:
        writer.write_recovery_record(record)
    return writer.finish()


def confirm_records(storage: StorageBackend[Any]) -> list[tuple[str, bytes]]:
    """Confirm the unconfirmed records, and return them."""
    with storage.unconfirmed_records() as records:
        return list(records)


def store(storage: StorageBackend[Any], *pieces: bytes | memoryview) -> str:
    """Write, finish and sync an object. Return its key."""
    key = finish_object(storage, *pieces)
    storage.sync([key])
    return key


def read_content(storage: StorageBackend[Any], key: str) -> bytes:
    """Return the content of an object."""
    with storage.read(key) as reader:
        return reader.read()
