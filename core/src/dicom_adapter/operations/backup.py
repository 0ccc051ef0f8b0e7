"""Back up the ledger and the stored objects while the service runs.

The backup holds the ledger of one moment, and every object that the ledger of this moment needs. An instance that was
acknowledged before the backup began is in it: the backup first waits until the row of the instance is entered. If the
host does not enter the rows, the manifest has their number. Attachments are not in the backup.

The backup does not block the service, which continues to receive, and to delete the objects of finished jobs. So the
objects are copied first, in rounds, until a round finds few new objects. Then the last round begins: a reading
transaction sees a snapshot of the ledger, and all objects that this snapshot needs and the backup lacks are copied. If
one of them was deleted meanwhile, the last round is repeated with a new transaction; otherwise the snapshot is copied.
Objects that the copied ledger does not need are deleted from the backup at the end.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path

from dicom_adapter import __version__
from dicom_adapter.api.errors import Refused, StorageFull
from dicom_adapter.ledger import Ledger, Transaction, backups, balance
from dicom_adapter.ledger.balance import ObjectRow
from dicom_adapter.operations.backup_folder import (
    CONFIGURATION,
    LEDGER,
    PLUGIN_FOLDERS,
    PLUGINS,
    Manifest,
    NotCopied,
    new_backup,
    open_objects,
    seal,
)
from dicom_adapter.operations.not_entered import logged, without_row
from dicom_adapter.operations.object_copier import ObjectCopier, ObjectNotCopied
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.storage_marker import read_marker

BATCH = 1000  # number of rows that are read together
FEW = 200  # after a round that copied fewer objects than this, the last round begins
MAX_ROUNDS = 20  # rounds before the last one
MAX_TRIES = 50  # tries of the last round
LONGEST_WAIT_SECONDS = 30.0  # for the host to enter the rows of acknowledged instances, usually milliseconds
POLL_SECONDS = 0.05
SPARE_BYTES = 64 << 20  # free space that the destination needs beyond the objects and the ledger

# Arguments: step, number of done items, number of all items (None: unknown)
BackupProgress = Callable[[str, int, "int | None"], None]


class Backup:
    """One backup. Not thread-safe: create a new object for each backup."""

    def __init__(
        self,
        resources: Resources,
        data_folder: Path,
        configuration: str,
        *,
        on_progress: BackupProgress = lambda _step, _done, _total: None,
        longest_wait_seconds: float = LONGEST_WAIT_SECONDS,
    ) -> None:
        """`data_folder`: the folder with the files of plugins. `configuration`: the text of the configuration file.

        `longest_wait_seconds`: time for the host to enter the rows of the instances that were acknowledged before.
        """
        self._ledger, self._storage, self._clock = resources.ledger, resources.storage, resources.clock
        self._data_folder = data_folder
        self._configuration = configuration
        self._on_progress = on_progress
        self._longest_wait_seconds = longest_wait_seconds
        self._not_copied: dict[int, NotCopied] = {}

    def run(self, destination: Path) -> Manifest:
        """Make the backup, and return its manifest.

        Raises Refused, OSError or the errors of the ledger; then there is no backup.
        """
        if self._data_folder.resolve() in destination.resolve().parents:
            raise Refused(f"{destination} is in the data folder; name a folder on another disk")
        with new_backup(destination) as folder:
            self._require_space(folder)
            not_entered = self._wait_for_rows()
            try:
                with closing(open_objects(folder)) as objects:
                    copier = ObjectCopier(self._storage, objects)
                    as_of = self._copy(copier, folder)
                    self._copy_files(folder)
                    manifest = self._complete(copier, folder, as_of, not_entered)
            except StorageFull:
                raise Refused(f"the disk of {folder.parent} is full; use a larger disk") from None
            return seal(folder, manifest, partial(self._on_progress, "checksums computed"))

    def _require_space(self, folder: Path) -> None:
        with self._ledger.read() as transaction:
            needed = backups.needed_bytes(transaction) + backups.file_bytes(transaction) + SPARE_BYTES
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise Refused(
                f"the backup needs up to {needed:,} bytes, and the disk of {folder.parent} has {free:,} bytes free; "
                "use a larger disk"
            )

    def _wait_for_rows(self) -> int:
        """Wait until all instances that were acknowledged before have rows. Return the number of those without."""
        acknowledged = waiting = logged(self._data_folder, None)
        end = time.monotonic() + self._longest_wait_seconds
        while True:
            with self._ledger.read() as transaction:
                waiting = without_row(transaction, waiting)
            if not waiting or time.monotonic() >= end:
                return len(waiting)
            self._on_progress("rows entered", len(acknowledged) - len(waiting), len(acknowledged))
            time.sleep(POLL_SECONDS)

    # --- objects and ledger -----------------------------------------------------------------------------------------

    def _copy(self, copier: ObjectCopier, folder: Path) -> datetime:
        """Copy the objects, then the ledger. Return the time of the ledger's snapshot."""
        for _round in range(MAX_ROUNDS):
            before = len(copier.keys)
            self._copy_new(copier)
            if len(copier.keys) - before < FEW:
                break
        for _try in range(MAX_TRIES):
            with self._ledger.read() as snapshot:
                as_of = self._clock.now()
                if self._copy_new(copier, snapshot):
                    backups.copy_snapshot(snapshot, folder / LEDGER, partial(self._on_progress, "ledger pages copied"))
                    copier.sync()
                    return as_of
        raise Refused(
            f"instances were received and reclaimed faster than they could be copied to {folder.parent}; "
            "use a faster disk, or repeat the backup at a quieter time"
        )

    def _copy_new(self, copier: ObjectCopier, snapshot: Transaction | None = None) -> bool:
        """Copy all needed objects that are not copied yet, as of now or as of a snapshot.

        Return False if the service has deleted an object before it was copied.
        """
        with self._reading(snapshot) as transaction:
            needed = backups.needed_instance_ids(transaction)
        new = sorted(needed.difference(copier.keys, self._not_copied))
        known = len(copier.keys) + len(new)
        is_complete = True
        for start in range(0, len(new), BATCH):
            with self._reading(snapshot) as transaction:
                rows = balance.object_rows(transaction, new[start : start + BATCH])
            for row in rows:
                is_complete = self._copy_object(copier, row) and is_complete
            self._on_progress("instances copied", len(copier.keys), known)
        return is_complete

    @contextmanager
    def _reading(self, snapshot: Transaction | None) -> Iterator[Transaction]:
        """Yield the snapshot, or a new transaction: a long transaction would prevent SQLite from resetting its WAL."""
        if snapshot is not None:
            yield snapshot
            return
        with self._ledger.read() as transaction:
            yield transaction

    def _copy_object(self, copier: ObjectCopier, row: ObjectRow) -> bool:
        """Copy an object. Return False if the service has deleted it, because it is not needed any more."""
        try:
            copier.copy(row)
        except ObjectNotCopied as failure:
            with self._ledger.read() as transaction:
                if not backups.is_needed(transaction, row.instance_id):
                    return False
            self._not_copied[row.instance_id] = NotCopied.of(row, failure)
        return True

    def _complete(self, copier: ObjectCopier, folder: Path, as_of: datetime, not_entered: int) -> Manifest:
        """Make the copied ledger and the copied objects consistent, and return the manifest.

        Both then have the same instances, and the rows have the storage keys of the copied objects.
        """
        with closing(Ledger(f"sqlite:///{folder / LEDGER}")) as copy, copy.write() as transaction:
            needed = backups.needed_instance_ids(transaction)
            backups.mark_unneeded_reclaimed(transaction, needed, as_of)
            copier.delete(copier.keys.keys() - needed)
            backups.set_storage_keys(transaction, copier.keys)
            backups.delete_attachments(transaction)
            size = backups.needed_bytes(transaction)
        marker = read_marker(self._data_folder)
        return Manifest(
            version=__version__,
            as_of=as_of,
            storage_id="" if marker is None else marker.identity,
            instances=len(copier.keys),
            size_bytes=size,
            not_copied=tuple(self._not_copied[each] for each in sorted(needed & self._not_copied.keys())),
            not_entered=not_entered,
        )

    # --- other files ------------------------------------------------------------------------------------------------

    def _copy_files(self, folder: Path) -> None:
        (folder / CONFIGURATION).write_text(self._configuration, encoding="utf-8")
        for name in PLUGIN_FOLDERS:
            copy_files(self._data_folder / name, folder / PLUGINS / name)


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of plugins, which may be in use: databases of SQLite as of one moment, other files as they are.

    Links and special files are omitted. Files may be deleted meanwhile.
    """
    for path in sorted(source.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        copied = target / path.relative_to(source)
        with suppress(FileNotFoundError):
            with path.open("rb") as file:
                is_database = backups.is_database(file.read(100))
            if is_database:
                copied.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                backups.copy_database(path, copied)
            elif not _belongs_to_database(path):
                copied.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                shutil.copyfile(path, copied)


def _belongs_to_database(path: Path) -> bool:
    """Return whether a file is the log of a database of SQLite, whose contents are in the copy of the database."""
    name, hyphen, suffix = path.name.rpartition("-")
    return bool(hyphen) and suffix in ("wal", "shm", "journal") and path.with_name(name).is_file()
