"""Try what a start of the service needs: the data folder, the ledger and the ports. Nothing is changed."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from attrs import field, frozen

from dicom_adapter.api.errors import DicomAdapterError
from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import Config
from dicom_adapter.flow.acceptance import Space, association_refusal
from dicom_adapter.ledger.ledger_file import database_file
from dicom_adapter.ledger.trial import require_usable
from dicom_adapter.net.address import cannot_listen
from dicom_adapter.runtime.data_folder import DataFolder, with_pids
from dicom_adapter.runtime.ledger_lock import LedgerLock
from dicom_adapter.runtime.parts import PartKind
from dicom_adapter.runtime.storage_marker import INSTANCES

LOCAL_BACKENDS = frozenset({"local", "files"})  # they store instances in the data folder


@frozen(kw_only=True)
class Preflight:
    """The result of the trials."""

    problems: list[str] = field(factory=list)  # reasons why the service would not start
    warnings: list[str] = field(factory=list)  # what operators should know before they start the service


@frozen
class Listener:
    """An address on which the service will listen."""

    subject: str  # table or AE title that it belongs to, for messages
    bind: str  # IP address
    port: int


def try_start(config: Config, of_plugins: Sequence[Listener] = ()) -> Preflight:
    """Try everything that a start needs, and the addresses of servers of plugins.

    While the service runs, nothing is tried, because the service itself uses the folder, the ledger and the ports.
    """
    folder = DataFolder.of(config)
    try:
        if folder.has_service:
            service = with_pids("the service", folder.service_pids)
            return Preflight(warnings=[f"{service} runs with {folder.path}: data folder, ledger and ports not tried"])
    except OSError as failure:
        return Preflight(problems=[f"the data folder {folder.path} cannot be read: {failure.strerror}"])
    problems = [*_try_folder(config), *_try_ledger(config), *_try_to_listen([*_own_listeners(config), *of_plugins])]
    return Preflight(problems=problems, warnings=list(_free_space(config)))


def _try_folder(config: Config) -> Iterator[str]:
    folder = DataFolder.of(config)
    try:
        folder.require_there()
    except DicomAdapterError as failure:
        yield str(failure)
        return
    except OSError as failure:
        yield f"the data folder {folder.path} cannot be read: {failure.strerror}"
        return
    if folder.is_used:
        yield f"{with_pids('`audit --repair`', folder.user_pids)} is using {folder.path}; wait until it has ended"
    for path in dict.fromkeys(map(_nearest_existing, (folder.path, folder.path / INSTANCES))):
        yield from _try_to_write(path)


def _try_ledger(config: Config) -> Iterator[str]:
    file = database_file(config.ledger_url)
    if file.parent != config.storage.path:
        if not file.parent.is_dir():
            yield f"the folder {file.parent} of the ledger does not exist; create it"
            return
        yield from _try_to_write(file.parent)
    try:
        require_usable(config.ledger_url)
        refusal = LedgerLock(file, config.storage.path).refusal()
    except DicomAdapterError as failure:
        yield str(failure)
    except OSError as failure:
        yield f"the lock of the ledger {file} cannot be read: {failure.strerror}"
    else:
        if refusal:
            yield f"{refusal}; give each service a ledger of its own with `[ledger] url`"


def _own_listeners(config: Config) -> Iterator[Listener]:
    yield Listener("[dicom]", config.dicom.bind, config.dicom.port)
    if config.http is not None:
        yield Listener("[http]", config.http.bind, config.http.port)


def _try_to_listen(listeners: Iterable[Listener]) -> Iterator[str]:
    """Listen on all addresses at the same time, so that equal ports in one configuration are found, too."""
    with ExitStack() as listening:
        for listener in listeners:
            family = socket.AF_INET6 if ":" in listener.bind else socket.AF_INET
            opened = listening.enter_context(socket.socket(family))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                opened.bind((listener.bind, listener.port))
                opened.listen(1)
            except OSError as failure:
                yield f"{listener.subject}: {cannot_listen(listener.bind, listener.port, failure)}"


def _free_space(config: Config) -> Iterator[str]:
    """Yield a warning if associations would be rejected. The free space of other backends is not known here."""
    is_local = config.storage.backend in LOCAL_BACKENDS
    try:
        space = Space(
            capacity=_capacity(config.storage.path / INSTANCES) if is_local else None,
            ledger_free=_capacity(database_file(config.ledger_url)).free_bytes,
        )
    except OSError:
        return  # `_try_folder` or `_try_ledger` reports the reason
    refusal = association_refusal("", {}, space, config.storage)
    if refusal is not None:
        limits = ", or change the limits in [storage]" if refusal.part == PartKind.STORAGE.title else ""
        yield f"associations would be rejected: {refusal.reason}; free some space{limits}"


def _capacity(path: Path) -> Capacity:
    disk = os.statvfs(_nearest_existing(path))
    return Capacity(total_bytes=disk.f_blocks * disk.f_frsize, free_bytes=disk.f_bavail * disk.f_frsize)


def _try_to_write(folder: Path) -> Iterator[str]:
    """Write to a file that has no name (O_TMPFILE), where the file system supports that."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
    except OSError as failure:
        yield f"the folder {folder} cannot be written: {failure.strerror}; give the service's user access to it"


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
