"""Test a storage backend with one object in a temporary folder."""

from __future__ import annotations

from typing import Any

from dicom_adapter.api.errors import Refused, StoredObjectMissing
from dicom_adapter.api.storage import StorageBackend, StorageContext
from dicom_adapter.config import Config

PIECES = (b"the first piece, ", b"the second")


def keep_and_read(cls: type[StorageBackend[Any]], config: Config) -> str:
    """Write, sync, read, list and delete an object. Raises Refused if the result of a step is wrong."""
    storage = cls(config.storage.settings, StorageContext(path=config.storage.path, durable=True))
    storage.open()
    try:
        storage.recover()
        writer = storage.writer()
        writer.write_pieces(PIECES)
        key = writer.finish()
        storage.sync([key])
        with storage.read(key) as file:
            _require(file.read() == b"".join(PIECES), "read() does not return the bytes that were written")
        _require(list(storage.keys()) == [key], "keys() does not list the stored object")
        storage.delete([key])
        _require(_is_gone(storage, key), "read() of a deleted object does not raise StoredObjectMissing")
    finally:
        storage.close()
    return "stored, read and deleted an object"


def _is_gone(storage: StorageBackend[Any], key: str) -> bool:
    try:
        storage.read(key).close()
    except StoredObjectMissing:
        return True
    return False


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Refused(f"{otherwise}; run the conformance suite BaseStorageBackendTests for details")
