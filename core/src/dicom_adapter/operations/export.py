"""Export stored instances for operators, exactly as they were received."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, BinaryIO, cast

from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.flow.verified_reader import ExpectedObject, VerifiedReader
from dicom_adapter.ledger.attachments import Attachment

# File name extension of an output. The rest of its name is not used in paths.
ENDING = re.compile(r"\.[A-Za-z0-9]{1,8}\Z")
PIECE_BYTES = 1 << 20  # number of bytes that are copied together


def export(storage: StorageBackend[Any], instance: InstanceStorageInfo, folder: Path) -> Path:
    """Copy the Part 10 file to `<instance id>.dcm` in `folder`, readable by this user only; return its path.

    Raises FileExistsError if the file exists, StoredObjectMissing if the stored object is missing, StoredObjectChanged
    if the object differs from the received data set, and OSError if a file cannot be read or written. An incomplete
    file is deleted.
    """
    return _copy(storage, instance.storage_key, instance, folder / f"{instance.instance_id}.dcm")


def export_attachment(storage: StorageBackend[Any], attachment: Attachment, folder: Path) -> Path:
    """Copy an attachment to `attachment-<number>` in `folder`, with the file name extension of the output.

    Raises the same errors as `export`.
    """
    ending = ENDING.search(attachment.name)
    name = f"attachment-{attachment.instance_id}{ending[0].lower() if ending else ''}"
    return _copy(storage, attachment.storage_key, attachment, folder / name)


def _copy(storage: StorageBackend[Any], key: str, expected: ExpectedObject, path: Path) -> Path:
    with storage.read(key) as stored:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as copy:
                shutil.copyfileobj(cast(BinaryIO, VerifiedReader(stored, expected)), copy, PIECE_BYTES)
        except BaseException:
            path.unlink()
            raise
    return path
