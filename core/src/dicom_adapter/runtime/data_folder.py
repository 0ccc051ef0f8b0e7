"""Opening what receiver and host share: the storage backend and the ledger."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from dicom_adapter.api.errors import StorageFull, is_lack_of_room
from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.api.storage import StorageBackend, StorageContext
from dicom_adapter.config.model import Config, Durability
from dicom_adapter.ledger import Ledger
from dicom_adapter.runtime.channel import Channel

UNUSABLE = (OSError, StorageFull, SQLAlchemyError)  # what a process may meet in the data folder when it begins
HOST_LOCK = "host.lock"  # in the data folder; held by the host for as long as it runs


def host_runs(config: Config) -> bool:
    """Whether there is a host at work in the data folder."""
    try:
        with (config.storage.path / HOST_LOCK).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def report_unusable(channel: Channel, what: str, failure: Exception) -> None:
    """Say why a process cannot begin, and whether that may pass; not a statement's values, which are a patient's."""
    said = failure.orig if isinstance(failure, DBAPIError) else failure
    channel.report("failed", reason=f"{what}: {said}", may_pass=is_lack_of_room(failure))


def open_storage(
    config: Config, catalogue: Catalogue, measure: Callable[[StorageBackend[Any]], None] = lambda _backend: None
) -> StorageBackend[Any]:
    """The configured storage backend, ready for use in this process. `measure` is given it before it is opened."""
    _make_folder(config)
    context = StorageContext(path=config.storage.path, durable=is_durable(config))
    backend = catalogue.storage_backends[config.storage.backend](config.storage.settings, context)
    measure(backend)
    backend.open()
    return backend


def open_ledger(config: Config) -> Ledger:
    """The configured ledger; its schema is brought up to date by the host alone."""
    _make_folder(config)
    return Ledger(config.ledger_url, durable=is_durable(config))


def _make_folder(config: Config) -> None:
    config.storage.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if is_durable(config):
        _sync_name(config.storage.path.resolve())


def _sync_name(folder: Path) -> None:
    """Make durable that there is this folder, and those that it is in, whoever made them: up to a mount point."""
    while not folder.is_mount():
        folder = folder.parent
        with suppress(PermissionError):  # somebody else's folder, which we may pass through but not read
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def is_durable(config: Config) -> bool:
    """Whether what was acknowledged survives a power loss, not just the end of a process."""
    return config.storage.durability is Durability.FSYNC


LOCK_TRIES, LOCK_PAUSE_SECONDS = 5, 0.1


@contextmanager
def only_host(folder: Path) -> Iterator[bool]:
    """Whether this is the only host of that folder: two would deliver every instance twice."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / HOST_LOCK).open("w") as file:
        yield _lock_soon(file)


def _lock_soon(file: IO[str]) -> bool:
    for _try in range(LOCK_TRIES):
        if _lock(file, fcntl.LOCK_EX):
            return True
        time.sleep(LOCK_PAUSE_SECONDS)  # who only looks whether there is a host holds it for a moment
    return False


LOCK = "in-use.lock"  # in the data folder
TRIES, PAUSE_S = 10, 0.1  # who only looks whether the folder is in use holds the lock for a moment


def share(folder: Path) -> IO[str] | None:
    """Say that this process works in the folder, for as long as the result is not closed; None while a repair does."""
    file = _open(folder)
    for _try in range(TRIES):
        if _lock(file, fcntl.LOCK_SH):
            return file
        time.sleep(PAUSE_S)
    file.close()
    return None


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether no other process works in the folder; if so, none begins before the block ends."""
    with _open(folder) as file:
        yield _lock(file, fcntl.LOCK_EX)


def is_used(folder: Path) -> bool:
    """Whether any process works in the folder. Makes no file: it might belong to another user than the service's."""
    try:
        with (folder / LOCK).open() as file:
            return not _lock(file, fcntl.LOCK_EX)
    except FileNotFoundError:
        return False


def _open(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return (folder / LOCK).open("w")


def _lock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
