"""The folder of a backup: its files, its manifest with their checksums, and how it becomes complete in one step.

    <backup>/manifest.json          written last: a folder without it is not a complete backup
    <backup>/ledger.sqlite          the copy of the ledger; its storage keys are those of the objects in the backup
    <backup>/objects/instances/     the stored objects, in segments of the storage backend `local`
    <backup>/plugins/               the files of processors and submitters
    <backup>/configuration.toml     the configuration file

A backup is not a data folder: `dicom-adapter restore` creates a data folder from it, with an identity of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from attrs import evolve, frozen

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import Refused
from dicom_adapter.api.local_disk import sync_folder
from dicom_adapter.api.storage import StorageContext
from dicom_adapter.ledger.balance import ObjectRow
from dicom_adapter.operations.object_copier import ObjectNotCopied
from dicom_adapter.storage.local.backend import LocalStorage

FORMAT = 1  # version of the format; increased by changes that this version cannot restore
MANIFEST, LEDGER, OBJECTS, PLUGINS, CONFIGURATION = (
    "manifest.json",
    "ledger.sqlite",
    "objects",
    "plugins",
    "configuration.toml",
)
PLUGIN_FOLDERS = ("processors", "submitters")  # folders of plugins in the data folder
INCOMPLETE = ".incomplete"  # suffix of the folder until the backup is complete
FOLDER_MODE, FILE_MODE = 0o700, 0o600  # patient data: only the user who made the backup has access
PIECE_BYTES = 1 << 20  # number of bytes that are read together


@frozen(kw_only=True)
class NotCopied:
    """An instance whose stored object could not be copied."""

    instance_id: int
    ae_title: str
    reason: str  # without patient data

    @classmethod
    def of(cls, row: ObjectRow, failure: ObjectNotCopied) -> NotCopied:
        return cls(instance_id=row.instance_id, ae_title=row.ae_title, reason=str(failure))


@frozen(kw_only=True)
class BackupFile:
    """A file of a backup."""

    path: str  # relative to the folder of the backup
    size_bytes: int
    sha256: str  # 64 hexadecimal digits


@frozen(kw_only=True)
class Manifest:
    """The description of a complete backup."""

    version: str  # version of dicom-adapter
    as_of: datetime  # UTC; the ledger and the objects are those of this moment
    storage_id: str  # identity of the original storage; "" if it has none
    instances: int  # number of instances with a stored object in the backup
    size_bytes: int  # total size of the objects that the ledger needs
    not_copied: tuple[NotCopied, ...]
    not_entered: int = 0  # number of acknowledged instances without a row, which the backup does not have
    files: tuple[BackupFile, ...] = ()


def open_objects(folder: Path) -> LocalStorage:
    """Return the storage of the objects in a backup, opened."""
    storage = LocalStorage(NoSettings(), StorageContext(path=folder / OBJECTS, durable=True))
    storage.open()
    return storage


@contextmanager
def new_backup(destination: Path) -> Iterator[Path]:
    """Create a folder for a backup, which gets its final name when the block ends, and is deleted if the block raises.

    Raises Refused if there is anything at the destination.
    """
    destination = destination.resolve()
    _require_new(destination)
    folder = destination.with_name(destination.name + INCOMPLETE)
    try:
        folder.mkdir(mode=FOLDER_MODE)
    except FileExistsError:
        raise Refused(
            f"{folder} exists: another backup to {destination} is running, or was killed; if none is running, delete it"
        ) from None
    except FileNotFoundError:
        raise Refused(f"{destination.parent} does not exist; create it, or mount its disk") from None
    try:
        yield folder
        folder.replace(destination)  # also replaces an empty folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sync_folder(destination.parent)


def _require_new(destination: Path) -> None:
    if not destination.exists():
        return
    if destination.is_mount():
        raise Refused(f"{destination} is a mount point; name a new folder in it")
    if not destination.is_dir() or next(destination.iterdir(), None) is not None:
        raise Refused(f"{destination} is not an empty folder; a backup needs a new folder")


def seal(folder: Path, manifest: Manifest, on_progress: Callable[[int, int], None]) -> Manifest:
    """Make all files durable. Write the manifest with their checksums, and return the manifest."""
    sync_tree(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = []
    for count, path in enumerate(paths, start=1):
        path.chmod(FILE_MODE)
        files.append(_describe(path, folder))
        on_progress(count, len(paths))
    complete = evolve(manifest, files=tuple(files))
    file = folder / MANIFEST
    with file.open("x", encoding="utf-8") as opened:
        json.dump(_as_json(complete), opened, indent=2)
        opened.write("\n")
        opened.flush()
        os.fchmod(opened.fileno(), FILE_MODE)
        os.fsync(opened.fileno())
    sync_folder(folder)
    return complete


def sync_tree(folder: Path) -> None:
    """Make all files and folders below a folder durable."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            sync_file(path)


def sync_file(path: Path) -> None:
    """Make the contents of a file durable."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a backup. Raises Refused if the folder is not a backup that this version can restore."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        known = found["format"] == FORMAT
        manifest = _from_json(found) if known else None
    except FileNotFoundError:
        raise Refused(f"{folder} is not a complete backup: it has no {MANIFEST}") from None
    except (ValueError, KeyError, TypeError):
        raise Refused(f"{folder / MANIFEST} is not the manifest of a backup, or is damaged") from None
    if manifest is None:
        raise Refused(
            f"{folder} has format {found['format']}, and this version of dicom-adapter restores format {FORMAT}; "
            f"install version {found.get('version', '?')}"
        )
    return manifest


def require_intact(folder: Path, manifest: Manifest) -> None:
    """Raise Refused if a file is missing or has changed. Objects are compared by size, and verified when restored."""
    for file in manifest.files:
        path = folder / file.path
        if not path.is_file():
            raise Refused(f"the backup is damaged: {path} is missing")
        is_intact = path.stat().st_size == file.size_bytes
        if is_intact and not file.path.startswith(f"{OBJECTS}/"):
            is_intact = _describe(path, folder) == file
        if not is_intact:
            raise Refused(f"the backup is damaged: {path} has changed since the backup was made")


def _describe(path: Path, folder: Path) -> BackupFile:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
    return BackupFile(path=path.relative_to(folder).as_posix(), size_bytes=size, sha256=digest.hexdigest())


def _as_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": manifest.version,
        "asOf": manifest.as_of.isoformat(),
        "storageId": manifest.storage_id,
        "instances": manifest.instances,
        "bytes": manifest.size_bytes,
        "notCopied": [
            {"instanceId": each.instance_id, "aeTitle": each.ae_title, "reason": each.reason}
            for each in manifest.not_copied
        ],
        "notEntered": manifest.not_entered,
        "files": [{"path": file.path, "bytes": file.size_bytes, "sha256": file.sha256} for file in manifest.files],
    }


def _from_json(found: dict[str, Any]) -> Manifest:
    return Manifest(
        version=found["version"],
        as_of=datetime.fromisoformat(found["asOf"]),
        storage_id=found["storageId"],
        instances=found["instances"],
        size_bytes=found["bytes"],
        not_copied=tuple(
            NotCopied(instance_id=each["instanceId"], ae_title=each["aeTitle"], reason=each["reason"])
            for each in found["notCopied"]
        ),
        not_entered=found.get("notEntered", 0),  # backups of earlier versions have no number
        files=tuple(
            BackupFile(path=each["path"], size_bytes=each["bytes"], sha256=each["sha256"]) for each in found["files"]
        ),
    )
