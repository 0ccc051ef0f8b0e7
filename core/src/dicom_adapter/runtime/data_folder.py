"""The data folder of a service: the locks of the processes that use it, the storage backend and the ledger."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from attrs import frozen

from dicom_adapter.api.errors import LedgerError, StorageFull, reports_busy_ledger, reports_no_free_space
from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.api.local_disk import sync_folder
from dicom_adapter.api.storage import StorageBackend, StorageContext
from dicom_adapter.config.model import Config, Durability, StorageConfig
from dicom_adapter.ledger import WAIT_SECONDS, Ledger
from dicom_adapter.runtime.channel import Channel

UNUSABLE = (OSError, StorageFull, LedgerError)  # errors of a data folder that a process cannot use

HOST_LOCK = "host.lock"  # locked by the host
USE_LOCK = "in-use.lock"  # host and receivers lock it shared, a repair exclusively
LOCK_TRIES = 10  # several, because a process that only checks a lock holds it for a moment


@frozen
class DataFolder:
    """A data folder, with advisory locks (flock(2)), which the kernel releases when their process ends.

    There are two locks. One is for use of the folder: processes of the service lock it `shared`, a repair `exclusive`.
    The other one is for the host, `as_host`: two hosts would deliver every instance twice.
    """

    path: Path
    is_durable: bool = True  # acknowledged instances survive a power loss, not only the end of a process
    lock_pause_seconds: float = 0.1  # between two tries

    @classmethod
    def of(cls, config: Config) -> DataFolder:
        """Return the data folder of a configuration."""
        return cls(config.storage.path, config.storage.durability is Durability.FSYNC)

    # --- locks ------------------------------------------------------------------------------------------------------

    @contextmanager
    def as_host(self) -> Iterator[bool]:
        """Hold the lock of the host until the block ends. Yield False if another process holds it."""
        with self._open(HOST_LOCK) as file:
            yield self._lock_soon(file, fcntl.LOCK_EX)

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
        """True if any process uses the folder. Creates no file: it might belong to another user than the service."""
        return self._is_locked(USE_LOCK, fcntl.LOCK_EX)

    @property
    def has_host(self) -> bool:
        """True if a host uses the folder. Creates no file, like `is_used`."""
        return self._is_locked(HOST_LOCK, fcntl.LOCK_SH)

    @property
    def host_pids(self) -> list[int]:
        """PID of the process that holds the lock of the host; empty if there is none or it is unknown."""
        return _lock_owners(self.path / HOST_LOCK)

    @property
    def user_pids(self) -> list[int]:
        """PIDs of the processes that use the folder; empty if there are none or they are unknown."""
        return _lock_owners(self.path / USE_LOCK)

    def _open(self, name: str) -> IO[str]:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return (self.path / name).open("w")

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
        """Return the configured storage backend, opened in this process. `measure` may return a proxy."""
        self._create()
        context = StorageContext(path=self.path, durable=self.is_durable)
        backend = measure(catalogue.storage_backends[storage.backend](storage.settings, context))
        backend.open()
        return backend

    def open_ledger(self, url: str, wait_seconds: float = WAIT_SECONDS) -> Ledger:
        """Return the ledger. Only the host upgrades its schema. `wait_seconds`: see `Ledger`."""
        self._create()
        return Ledger(url, durable=self.is_durable, wait_seconds=wait_seconds)

    def _create(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.is_durable:
            _sync_names_up_to_mount_point(self.path.resolve())


def report_unusable(channel: Channel, subject: str, failure: Exception) -> None:
    """Report why a process cannot start, and whether that is transient."""
    is_transient = reports_no_free_space(failure) or reports_busy_ledger(failure)
    channel.report("failed", reason=f"{subject}: {failure}", transient=is_transient)


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


def _lock_owners(path: Path) -> list[int]:
    """Return the PIDs of the processes that hold flock(2) locks on a file, from /proc/locks (proc(5)).

    Only for messages: the list is empty where /proc/locks does not exist or names the file system differently.
    """
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    locks = (line.split() for line in lines)  # such as "1: FLOCK ADVISORY WRITE 27195 fe:00:2179566 0 EOF"
    return sorted({int(lock[4]) for lock in locks if lock[1] == "FLOCK" and lock[5] == file})
