"""The data folder of a service: the locks of the processes that use it, the storage backend and the ledger."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

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
from dicom_adapter.ledger.connection import database_file
from dicom_adapter.runtime.channel import FAILED, Channel
from dicom_adapter.runtime.storage_marker import StorageMarker, create_marker, read_marker, require_there

UNUSABLE = (OSError, StorageFull, StorageUnavailable, LedgerError)  # errors of a data folder that a process cannot use

HOST_LOCK = "host.lock"  # locked by the host
SERVICE_LOCK = "service.lock"  # locked by the supervisor
USE_LOCK = "in-use.lock"  # host and receivers lock it shared, a repair exclusively
LOCK_TRIES = 10  # number of tries: a process that only checks a lock holds it for a moment


@frozen
class _HostRecord:
    """The content of the file of the host's lock."""

    service_pid: int
    files: Sequence[PlacedFile]  # files that the host has open, the lock first; empty while the host starts


@frozen
class DataFolder:
    """A data folder, with advisory locks (flock(2)), which the kernel releases when their process ends.

    There are three locks. The first lock is for use of the folder: processes of the service lock it `shared`, a repair
    `exclusive`. The second lock is for the host, `as_host`: two hosts would deliver every instance twice. The third
    lock, `as_service`, excludes nothing: it shows that the supervisor runs.
    """

    path: Path
    ledger: Path | None = None  # the file of the ledger; None if the ledger is not a file
    is_durable: bool = True  # acknowledged instances survive a power loss, not only the end of a process
    lock_pause_seconds: float = 0.1  # pause between two tries

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

    @contextmanager
    def as_service(self) -> Iterator[None]:
        """Hold the lock of the supervisor until the block ends. The block also runs if the lock cannot be acquired.

        This lock need not exclude a second supervisor: its host cannot start, because of the lock of the host.
        """
        try:
            file = self._open(SERVICE_LOCK)
        except OSError:  # for example on a full disk
            yield
            return
        with file:
            self._lock_soon(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def shared(self) -> Iterator[bool]:
        """Use the folder together with other processes until the block ends. Yield False while a repair uses it."""
        with self._open(USE_LOCK) as file:
            yield self._lock_soon(file, fcntl.LOCK_SH)

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Use the folder exclusively until the block ends. Yield False if another process uses it."""
        with self._open(USE_LOCK) as file:
            yield _lock(file, fcntl.LOCK_EX)

    @property
    def is_used(self) -> bool:
        """True if any process uses the folder. Creates no file, which might belong to another user than the service."""
        return self._is_locked(USE_LOCK, fcntl.LOCK_EX)

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

    @property
    def user_pids(self) -> list[int]:
        """PIDs of the processes that use the folder; empty if there are no such processes or they are unknown."""
        return _lock_owners_of(self.path / USE_LOCK)

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
        """Return why a running host uses other files than the files in the folder now; "" if it uses these files.

        If the folder was replaced by a copy, the copy of the lock is not locked. So the host is found by the recorded
        inode of the original lock.
        """
        recorded = self._recorded()
        if recorded is None or not recorded.files:
            return ""
        lock = recorded.files[0]
        problem = next((problem for file in recorded.files if (problem := file.problem())), "")
        if not problem or not (_lock_owners(lock.device, lock.inode) or self.has_host):
            return ""
        service = with_pids("the running service", [recorded.service_pid])
        return f"{service} uses other files: {problem}; stop the service"

    def _open(self, name: str) -> IO[str]:
        return (self.path / name).open("a")

    def _lock_soon(self, file: IO[str], kind: int) -> bool:
        for _try in range(LOCK_TRIES):
            if _lock(file, kind):
                return True
            time.sleep(self.lock_pause_seconds)
        return False

    def _is_locked(self, name: str, kind: int) -> bool:
        try:
            with (self.path / name).open() as file:
                return not _lock(file, kind)
        except FileNotFoundError:
            return False

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


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_owners_of(path: Path) -> list[int]:
    try:
        status = path.stat()
    except OSError:
        return []
    return _lock_owners(status.st_dev, status.st_ino)


def _lock_owners(device: int, inode: int) -> list[int]:
    """Return the PIDs of the processes that hold flock(2) locks on a file, from /proc/locks (proc(5)).

    Only for messages: the list is empty where /proc/locks does not exist or names the file system differently.
    """
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    file = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    locks = (line.split() for line in lines)  # such as "1: FLOCK ADVISORY WRITE 27195 fe:00:2179566 0 EOF"
    return sorted({int(lock[4]) for lock in locks if lock[1] == "FLOCK" and lock[5] == file})
