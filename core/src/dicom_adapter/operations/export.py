"""Export stored instances for operators, exactly as they were received."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, BinaryIO, cast

from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.flow.verified_reader import VerifiedReader

PIECE_BYTES = 1 << 20  # number of bytes that are copied together


def export(storage: StorageBackend[Any], instance: InstanceStorageInfo, folder: Path) -> Path:
    """Copy the Part 10 file to `<instance id>.dcm` in `folder`, readable by this user only; return its path.

    Raises FileExistsError if the file exists, StoredObjectMissing if the stored object is missing, StoredObjectChanged
    if the object differs from the received data set, and OSError if a file cannot be read or written. An incomplete
    file is deleted.
    """
    path = folder / f"{instance.instance_id}.dcm"
    with storage.read(instance.storage_key) as stored:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as copy:
                shutil.copyfileobj(cast(BinaryIO, VerifiedReader(stored, instance)), copy, PIECE_BYTES)
        except BaseException:
            path.unlink()
            raise
    return path
