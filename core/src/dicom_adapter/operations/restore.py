"""Restore a backup into the empty data folder and ledger of a configuration.

The result is a storage with an identity of its own: neither its ledger nor its instances can be mixed with those of the
original, or of another restore, because the service compares the identities when it starts. The ledger gets its
final name last. Until then the storage has a generation and no ledger, and the service refuses to start.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from dicom_adapter.api.errors import Refused
from dicom_adapter.api.local_disk import sync_folder
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.ledger import Ledger, backups, balance
from dicom_adapter.operations.backup import BATCH, BackupProgress
from dicom_adapter.operations.backup_folder import (
    LEDGER,
    PLUGIN_FOLDERS,
    PLUGINS,
    Manifest,
    NotCopied,
    open_objects,
    read_manifest,
    require_intact,
    sync_file,
    sync_tree,
)
from dicom_adapter.operations.object_copier import ObjectCopier, ObjectNotCopied
from dicom_adapter.runtime.clock import Clock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.folder_locks import USE_LOCK
from dicom_adapter.runtime.storage_generation import StorageGeneration, write_generation
from dicom_adapter.runtime.storage_marker import create_marker

UNFINISHED = ".restoring"  # suffix of the ledger until the restore is complete


@frozen(kw_only=True)
class RestoreResult:
    """The result of a restore."""

    manifest: Manifest
    instances: int  # number of restored instances
    not_restored: tuple[NotCopied, ...]  # instances whose objects are missing or damaged in the backup


@frozen
class Restore:
    """One restore, into a data folder and a ledger that do not exist yet."""

    folder: DataFolder
    open_storage: Callable[[], StorageBackend[Any]]
    clock: Clock
    on_progress: BackupProgress = lambda _step, _done, _total: None

    def run(self, backup: Path) -> RestoreResult:
        """Restore a backup. If this fails, delete everything that was restored.

        Raises Refused, OSError, StorageFull or the errors of the ledger.
        """
        manifest = read_manifest(backup)
        require_intact(backup, manifest)
        self._require_new()
        with self._locked_folder() as ledger, self._delete_created_on_failure(ledger):
            marker = create_marker(self.folder.path, durable=True)
            write_generation(marker.file.path, 1)  # a start is refused until the ledger has this generation, too
            unfinished = ledger.with_name(ledger.name + UNFINISHED)
            shutil.copyfile(backup / LEDGER, unfinished)
            with closing(Ledger(f"sqlite:///{unfinished}")) as copy:
                copy.migrate()
                copier, not_restored = self._copy_objects(backup, manifest, copy)
                with copy.write() as transaction:
                    backups.set_storage_keys(transaction, copier.keys)
                    backups.mark_steps_attempted(transaction)
                    backups.delete_health(transaction)
                StorageGeneration(marker, copy, self.clock, is_durable=True).advance()
            for name in PLUGIN_FOLDERS:
                if (backup / PLUGINS / name).is_dir():
                    shutil.copytree(backup / PLUGINS / name, self.folder.path / name)
            sync_tree(self.folder.path)
            sync_file(unfinished)
            unfinished.replace(ledger)
            sync_folder(ledger.parent)
        return RestoreResult(manifest=manifest, instances=len(copier.keys), not_restored=tuple(not_restored))

    def _require_new(self) -> Path:
        """Return the path of the ledger. Raises Refused if there is a ledger, or anything in the data folder."""
        path, ledger = self.folder.path, self.folder.ledger
        if ledger is None:
            raise Refused("only a ledger that is a file can be restored")
        if path.exists() and _contents(path):
            raise Refused(f"{path} is not empty; a restore needs a new data folder: move the old one away")
        if ledger.exists():
            raise Refused(f"the ledger {ledger} exists; a restore needs a new ledger: move the old one away")
        if ledger.parent != path and not ledger.parent.is_dir():  # the data folder is created later
            raise Refused(f"{ledger.parent}, the folder of the ledger, does not exist; create it, or mount its disk")
        return ledger

    @contextmanager
    def _locked_folder(self) -> Iterator[Path]:
        """Lock the data folder, and yield the path of the new ledger. Raises Refused if the folder is in use."""
        self.folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.folder.exclusive() as got_lock:
            if not got_lock:
                raise Refused(f"another process uses {self.folder.path}")
            yield self._require_new()

    @contextmanager
    def _delete_created_on_failure(self, ledger: Path) -> Iterator[None]:
        """Delete everything that the block has created if it raises."""
        try:
            yield
        except BaseException:
            files = [ledger.with_name(f"{ledger.name}{UNFINISHED}{log}") for log in ("", "-wal", "-shm")]
            for path in [*_contents(self.folder.path), self.folder.path / USE_LOCK, *files]:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            raise

    def _copy_objects(self, backup: Path, manifest: Manifest, ledger: Ledger) -> tuple[ObjectCopier, list[NotCopied]]:
        not_restored = []
        with ledger.read() as transaction:
            needed = sorted(backups.needed_instance_ids(transaction))
        with closing(open_objects(backup)) as objects, closing(self.open_storage()) as storage:
            _require_space(storage, manifest)
            copier = ObjectCopier(objects, storage)
            try:
                for start in range(0, len(needed), BATCH):
                    with ledger.read() as transaction:
                        rows = balance.object_rows(transaction, needed[start : start + BATCH])
                    for row in rows:
                        try:
                            copier.copy(row)
                        except ObjectNotCopied as failure:
                            not_restored.append(NotCopied.of(row, failure))
                    self.on_progress("instances restored", len(copier.keys), len(needed))
                copier.sync()
            except BaseException:
                with suppress(Exception):  # the first failure is raised
                    storage.delete(list(copier.keys.values()))
                raise
        return copier, not_restored


def _contents(folder: Path) -> list[Path]:
    """Return the entries of a folder without the lock, and without `lost+found`, which a new file system has."""
    return [path for path in folder.iterdir() if path.name not in ("lost+found", USE_LOCK)]


def _require_space(storage: StorageBackend[Any], manifest: Manifest) -> None:
    capacity = storage.capacity()
    if capacity is not None and capacity.free_bytes < manifest.size_bytes:
        raise Refused(
            f"the backup has {manifest.size_bytes:,} bytes of instances, and the storage has {capacity.free_bytes:,} "
            "bytes free"
        )
