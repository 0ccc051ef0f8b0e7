"""The marker of a storage: a file with the storage's identity, which shows that the storage is there.

    <storage.path>/instances/storage-id     a UUID in text form; the next line: see `storage_generation`

A folder without its disk looks like a new folder. Without the marker, a service that starts before the disk is mounted
would create a second storage on the mount point. The marker is in the folder with the instances, because the data
folder or this folder may be the mount point.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from uuid import UUID, uuid4

from attrs import frozen

from dicom_adapter.api.errors import StorageUnavailable
from dicom_adapter.api.local_disk import PlacedFile, sync_folder

FOLDER_MODE = 0o700  # patient data: only the service's user has access
FILE_MODE = 0o600
INSTANCES = "instances"  # the folder of the storage backend in the data folder
NAME = "storage-id"
NEW = "if it is new, start the service once with `dicom-adapter run --new`"


@frozen
class StorageMarker:
    """The marker of an open storage."""

    identity: str  # UUID of the storage; the ledger that belongs to the storage refers to it
    file: PlacedFile

    def problem(self) -> str:
        """Return why the storage is no longer the opened one; "" if it is. Needs one call of stat(2)."""
        problem = self.file.problem()
        return problem and f"the storage is not the one that the service has opened: {problem}"


def read_marker(path: Path) -> StorageMarker | None:
    """Return the marker in the data folder `path`; None if it does not exist. Creates nothing."""
    file = path / INSTANCES / NAME
    try:
        with file.open("rb") as opened:
            identity = _identity_in(opened.read(100))
            return StorageMarker(identity, PlacedFile.open_as(opened.fileno(), file)) if identity else None
    except (FileNotFoundError, NotADirectoryError):
        return None


def create_marker(path: Path, *, durable: bool) -> StorageMarker:
    """Return the marker in the data folder `path`. If it does not exist, create it, and the folder. Raises OSError."""
    folder = path / INSTANCES
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    file = folder / NAME
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "r+b") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)  # another process may create the marker at the same time
        identity = _identity_in(opened.read(100))
        if not identity:
            identity = str(uuid4())
            opened.seek(0)
            opened.write(f"{identity}\n".encode())
            opened.truncate()
            opened.flush()
            if durable:
                os.fsync(descriptor)
                sync_folder(folder)
        return StorageMarker(identity, PlacedFile.open_as(descriptor, file))


def require_there(path: Path, ledger: Path | None) -> None:
    """Raise StorageUnavailable if the storage may be missing. Creates nothing.

    `ledger`: the file of the ledger; None if the ledger is not a file. The storage is not missing if the marker exists,
    if an earlier version of the adapter has used the folder, or if the folder is certainly new: the folder does not
    exist and there is no ledger, or a disk without files of the adapter is mounted there.
    """
    if read_marker(path) is not None or _is_used_without_marker(path):
        return
    if ledger is not None and ledger.exists():
        raise StorageUnavailable(
            f"{path / INSTANCES} is missing or empty, but its ledger {ledger} exists: mount the disk with the "
            f"instances, or restore them; {NEW}"
        )
    storage_folders = (path / INSTANCES, path)
    existing = next(folder for folder in (*storage_folders, *path.absolute().parents) if folder.exists())
    if existing.is_mount() or (existing not in storage_folders and not _is_empty(existing)):
        return
    raise StorageUnavailable(
        f"{existing} has no storage of dicom-adapter: it is new, or its disk is not mounted. Mount the disk; {NEW}"
    )


def _is_used_without_marker(path: Path) -> bool:
    """Return whether an earlier version of the adapter, which wrote no marker, has stored instances in the folder.

    A ledger in the data folder is no evidence: the folder of the instances alone may be a mount point.
    """
    return not _is_empty(path / INSTANCES)


def _is_empty(folder: Path) -> bool:
    """Return whether a folder has no entries, or does not exist."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True
    except PermissionError:
        return False  # the folder belongs to another user, so it is not a mount point for this service


def _identity_in(content: bytes) -> str:
    try:
        return str(UUID(content.partition(b"\n")[0].decode("ascii").strip()))
    except ValueError:
        return ""
