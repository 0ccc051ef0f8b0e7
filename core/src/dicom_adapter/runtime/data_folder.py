"""The data folder of a service: the locks of the processes that use it, the storage backend and the ledger."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import frozen

from dicom_adapter.api.errors import (
    LedgerError,
    StorageFull,
    StorageUnavailable,
    reports_busy_ledger,
    reports_no_free_space,
    reports_no_resources,
)
from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.api.local_disk import PlacedFile, sync_folder
from dicom_adapter.api.storage import StorageBackend, StorageContext
from dicom_adapter.config.model import Config, Durability, StorageConfig
from dicom_adapter.ledger import WAIT_SECONDS, Ledger
from dicom_adapter.ledger.ledger_file import database_file
from dicom_adapter.runtime.channel import FAILED, Channel
from dicom_adapter.runtime.folder_locks import SERVICE_LOCK, FolderLocks, lock_owners
from dicom_adapter.runtime.storage_marker import StorageMarker, create_marker, read_marker, require_there

UNUSABLE = (OSError, StorageFull, StorageUnavailable, LedgerError)  # errors of a data folder that a process cannot use

HOST_LOCK = "host.lock"  # locked by the host


@frozen
class _HostRecord:
    """The content of the file of the host's lock."""

    service_pid: int
    files: Sequence[PlacedFile]  # files that the host has open, the lock first; empty while the host starts


@frozen
class DataFolder(FolderLocks):
    """A data folder. It has the locks of `FolderLocks` and one of the host: two hosts would process instances twice."""

    ledger: Path | None = None  # the file of the ledger; None if the ledger is not a file
    is_durable: bool = True  # acknowledged instances survive a power loss, not only the end of a process

    @classmethod
    def of(cls, config: Config) -> DataFolder:
        """Return the data folder of a configuration."""
        is_durable = config.storage.durability is Durability.FSYNC
        return cls(config.storage.path, database_file(config.ledger_url), is_durable)

    # --- marker -----------------------------------------------------------------------------------------------------

    def prepare(self, *, is_new: bool = False) -> StorageMarker:
        """Return the marker of the storage. Create it, and the folder, if the storage is new.

        With `is_new`, an operator has confirmed that the storage is new. Otherwise raises StorageUnavailable, and
        creates nothing, if the storage may be missing.
        """
        if not is_new:
            require_there(self.path, self.ledger)
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.is_durable:
            _sync_names_up_to_mount_point(self.path.resolve())
        return create_marker(self.path, durable=self.is_durable)

    def require_there(self) -> None:
        """Raise StorageUnavailable if the storage may be missing. Creates nothing."""
        require_there(self.path, self.ledger)

    def require_marker(self) -> StorageMarker:
        """Return the marker of the storage. Raises StorageUnavailable if it is missing. Creates nothing."""
        marker = read_marker(self.path)
        if marker is None:
            raise StorageUnavailable(
                f"{self.path} has no storage of dicom-adapter: its disk is not mounted, or the folder was deleted or "
                "replaced; mount the disk, or restore the folder"
            )
        return marker

    # --- locks ------------------------------------------------------------------------------------------------------

    @contextmanager
    def as_host(self, service_pid: int | None = None) -> Iterator[bool]:
        """Hold the lock of the host until the block ends. Yield False if another process holds it.

        `service_pid`: PID of the service, for messages of other processes; None: this process.
        """
        with self._open(HOST_LOCK) as file:
            got_lock = self._lock_soon(file, fcntl.LOCK_EX)
            if got_lock:
                self._record(os.getpid() if service_pid is None else service_pid, [])
            yield got_lock

    @property
    def is_missing(self) -> bool:
        """True if the storage is missing, for example because its disk is not mounted. Its locks are missing, too."""
        try:
            self.require_there()
        except (StorageUnavailable, OSError):
            return True
        return False

    @property
    def has_host(self) -> bool:
        """True if a host uses the folder. Creates no file, like `is_used`."""
        return self._is_locked(HOST_LOCK, fcntl.LOCK_SH)

    @property
    def has_service(self) -> bool:
        """True if a supervisor uses the folder; if there is no file of its lock, True if a host uses the folder."""
        exists = (self.path / SERVICE_LOCK).exists()
        return self._is_locked(SERVICE_LOCK, fcntl.LOCK_SH) if exists else self.has_host

    @property
    def service_pids(self) -> list[int]:
        """PID of the service that uses the folder; empty if there is no such service or its PID is unknown."""
        recorded = self._recorded() if self.has_host else None
        return [] if recorded is None else [recorded.service_pid]

    def record_open_files(self, marker: StorageMarker) -> None:
        """Record which files the host has open, in the file of its lock, for `displaced`."""
        files = [PlacedFile.at(self.path / HOST_LOCK), marker.file]
        if self.ledger is not None:
            files.append(PlacedFile.at(self.ledger))
        recorded = self._recorded()
        self._record(os.getpid() if recorded is None else recorded.service_pid, files)

    def _record(self, service_pid: int, files: Sequence[PlacedFile]) -> None:
        values = {"service": service_pid, "files": [[str(file.path), file.device, file.inode] for file in files]}
        try:
            (self.path / HOST_LOCK).write_text(json.dumps(values), encoding="utf-8")
        except OSError as failure:
            if not reports_no_free_space(failure):  # on a full disk, the host must run: it frees space
                raise

    def _recorded(self) -> _HostRecord | None:
        """Return the record of the last host; None if it does not exist, or has the format of another version."""
        try:
            values = json.loads((self.path / HOST_LOCK).read_text(encoding="utf-8"))
            files = [PlacedFile(Path(path), device, inode) for path, device, inode in values["files"]]
            return _HostRecord(int(values["service"]), files)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def displaced(self) -> str:
        """Return a message if a running host uses other files than those that are in the folder now; otherwise "".

        If the folder was replaced by a copy, the copy of the lock is not locked. So the host is found by the recorded
        inode of the original lock.
        """
        recorded = self._recorded()
        if recorded is None or not recorded.files:
            return ""
        lock = recorded.files[0]
        problem = next((problem for file in recorded.files if (problem := file.problem())), "")
        if not problem or not (lock_owners(lock.device, lock.inode) or self.has_host):
            return ""
        service = with_pids("the running service", [recorded.service_pid])
        return f"{service} uses other files: {problem}; stop the service"

    # --- storage and ledger -----------------------------------------------------------------------------------------

    def open_storage(
        self,
        storage: StorageConfig,
        catalogue: Catalogue,
        measure: Callable[[StorageBackend[Any]], StorageBackend[Any]] = lambda backend: backend,
    ) -> StorageBackend[Any]:
        """Return the configured storage backend, opened in this process. `measure` may return a proxy.

        Call `prepare` or `require_marker` before: a backend creates its folders when it is opened.
        """
        context = StorageContext(path=self.path, durable=self.is_durable)
        backend = measure(catalogue.storage_backends[storage.backend](storage.settings, context))
        backend.open()
        return backend

    def open_ledger(self, url: str, wait_seconds: float = WAIT_SECONDS) -> Ledger:
        """Return the ledger. Only the host upgrades its schema. `Ledger` explains `wait_seconds`."""
        return Ledger(url, durable=self.is_durable, wait_seconds=wait_seconds)


def report_unusable(channel: Channel, subject: str, failure: Exception) -> None:
    """Report why a process cannot start, and whether that is transient."""
    is_transient = reports_no_free_space(failure) or reports_busy_ledger(failure) or reports_no_resources(failure)
    channel.report(FAILED, reason=f"{subject}: {failure}", transient=is_transient)


def with_pids(subject: str, pids: Sequence[int]) -> str:
    """Return for example `the service (PID 12)`."""
    numbers = ", ".join(map(str, pids))
    return f"{subject} (PID{'s' if len(pids) > 1 else ''} {numbers})" if pids else subject


def _sync_names_up_to_mount_point(folder: Path) -> None:
    """Make the names of this folder and its parent folders durable: any process may have created them."""
    while not folder.is_mount():
        folder = folder.parent
        with suppress(PermissionError):  # the folder of another user, which this process may not read
            sync_folder(folder)
