"""Part of step 4: whether it is one stored object that cannot be read, or the storage backend that is away."""

from __future__ import annotations

from itertools import islice
from typing import Any

from dicom_adapter.errors import StoredObjectMissing
from dicom_adapter.storage import StorageBackend

OTHERS_TO_READ = 3  # stored objects that are tried


def can_read_another(storage: StorageBackend[Any], storage_key: str) -> bool:
    """Whether any of the other stored objects can be read."""
    try:
        keys = storage.keys()
        others = islice((key for key in keys if key != storage_key), OTHERS_TO_READ)
        return any(_can_read(storage, key) for key in others)
    except OSError:
        return False


def _can_read(storage: StorageBackend[Any], storage_key: str) -> bool:
    try:
        with storage.read(storage_key) as file:
            return bool(file.read(1))
    except (OSError, StoredObjectMissing):  # missing: reclaimed meanwhile
        return False
