"""Lets a storage backend keep an object in a temporary folder."""

from __future__ import annotations

from typing import Any

from dicom_adapter.api.errors import Refused, StoredObjectMissing
from dicom_adapter.api.storage import StorageBackend, StorageContext
from dicom_adapter.config import Config

PIECES = (b"the first piece, ", b"the second")


def keep_and_read(cls: type[StorageBackend[Any]], config: Config) -> str:
    """Write, sync, read, list, delete. Raises Refused with what is not as it should be."""
    storage = cls(config.storage.settings, StorageContext(path=config.storage.path, durable=True))
    storage.open()
    try:
        storage.recover()
        writer = storage.writer()
        writer.write_pieces(PIECES)
        key = writer.finish()
        storage.sync([key])
        with storage.read(key) as file:
            _require(file.read() == b"".join(PIECES), "what was read is not what was written")
        _require(list(storage.keys()) == [key], "keys() does not list what is stored")
        storage.delete([key])
        _require(_is_gone(storage, key), "read() of a deleted object does not raise StoredObjectMissing")
    finally:
        storage.close()
    return "kept, read and deleted an object"


def _is_gone(storage: StorageBackend[Any], key: str) -> bool:
    try:
        storage.read(key).close()
    except StoredObjectMissing:
        return True
    return False


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Refused(f"{otherwise}; its conformance suite, BaseStorageBackendTests, tells more")
