"""The two parts of the test: a service that is traced while it receives, and a start after a power loss."""

from __future__ import annotations

import os
import select
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import sqlalchemy
from attrs import field, frozen
from pydicom import Dataset

from dicom_adapter.api.errors import StoredObjectMissing
from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.config import Config, Durability, load
from dicom_adapter.dicom import synthetic
from dicom_adapter.flow.enter.entry import RowEntry
from dicom_adapter.flow.enter.follower import Follower
from dicom_adapter.flow.enter.journal import FOLDER
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.ledger.health import HOST
from dicom_adapter.ledger.schema import instances as table
from dicom_adapter.net import scu
from dicom_adapter.net.address import Address
from dicom_adapter.operations.not_entered import not_entered
from dicom_adapter.plugins.registry import discover
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.service.launch import LaunchedService
from power_loss import strace
from power_loss.disk import Tree

PATIENCE_SECONDS = 30.0  # limit of a wait for a response
DATA = "var/lib/data"  # three folders, none of which exists at the start
# No jobs are created: acknowledged instances stay pending. In WARD a newer arrival replaces an older one,
# whose stored object is then reclaimed.
CONFIGURATION = """
[dicom]
bind = "127.0.0.1"

[storage]
backend = "{backend}"
path = "{path}"
watermark-percent = 100
reserve = 0
durability = "{durability}"

[submitters.platform]
type = "fake"
folder = "platform"

[ae-titles.LUNG.settings]
timeout = 3600
pipeline-a = "pipeline-1"

[ae-titles.WARD]
overwrite-same-instance = true

[ae-titles.WARD.settings]
timeout = 3600
pipeline-a = "pipeline-1"
"""

Versions = Mapping[str, Sequence[bytes]]  # encoded data sets by SOP Instance UID, in the order of sending


@frozen(kw_only=True)
class Traced:
    """The trace of a service from its start to its stop."""

    root: PurePosixPath  # root of the disk that the service used
    calls: Sequence[strace.Call]
    sent: Versions
    backend: str  # name of the storage backend


TRIES = 3  # number of traces before the test fails


class SentAgain(Exception):
    """A sender missed a response and sent an instance twice, so that responses cannot be assigned to requests."""


def trace(folder: Path, durability: Durability, backend: str = "local") -> Traced:
    """Run a service under strace in `folder`, and send instances over three associations at once.

    Sometimes pynetdicom's reactor takes a response from the waiting thread, and the instance is sent twice. Then the
    trace is repeated, because each instance must be sent once.
    """
    for number in range(TRIES):
        with suppress(SentAgain):
            return _trace(folder / str(number), durability, backend)
    raise SentAgain(f"in each of {TRIES} runs; look in {folder}")


def _trace(folder: Path, durability: Durability, backend: str) -> Traced:
    root = folder / "disk"
    root.mkdir(parents=True)
    configuration = folder / "adapter.toml"
    text = CONFIGURATION.format(backend=backend, path=root / DATA, durability=durability.value)
    configuration.write_text(text, encoding="utf-8")
    log = folder / "strace.log"
    program = folder / "python"
    command = shlex.join([*strace.COMMAND, f"--output={log}", sys.executable])
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    program.chmod(0o700)

    service = LaunchedService(configuration, "--port", "0", "--new", python=str(program))
    try:
        service.port(seconds=60)  # tracing is slow
        tracer = os.pidfd_open(_tracer_of(service.pids()[0]))
        sent = _send_all(service, folder)
        assert 0 == service.stop()
        assert select.select([tracer], [], [], 30)[0], "strace did not end with the service"
        os.close(tracer)
    finally:
        service.kill()
    with log.open(encoding="ascii") as lines:
        calls = [call for call in strace.read(line.rstrip("\n") for line in lines) if not call.is_harmless]
    return Traced(root=PurePosixPath(root), calls=calls, sent=sent, backend=backend)


def _tracer_of(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("TracerPid:"))


def _send_all(service: LaunchedService, folder: Path) -> Versions:
    """Send two studies to LUNG, and one to WARD twice with different pixels. Every instance is acknowledged."""
    first, second, ward = (synthetic.make_study(instances=count, rows=16, columns=16) for count in (8, 8, 3))
    senders = [("LUNG", [first]), ("LUNG", [second]), ("WARD", [ward, [_changed(data_set) for data_set in ward]])]
    sent: dict[str, list[bytes]] = {}
    with ThreadPoolExecutor(len(senders)) as pool:
        for data_sets in pool.map(lambda sender: _send(service, folder, *sender), senders):
            for uid, data_set in data_sets:
                sent.setdefault(uid, []).append(data_set)
    return sent


def _changed(data_set: Dataset) -> Dataset:
    changed = Dataset(data_set)
    changed.file_meta = data_set.file_meta
    changed.PixelData = bytes(len(data_set.PixelData))
    return changed


def _send(
    service: LaunchedService, folder: Path, ae_title: str, studies: Sequence[Sequence[Dataset]]
) -> list[tuple[str, bytes]]:
    """Send each study over one association, one after the other. Returns encoded data sets by SOP Instance UID."""
    sent: list[tuple[str, bytes]] = []
    for study in studies:
        paths = []
        for data_set in study:
            paths.append(folder / f"{len(sent)}-{data_set.SOPInstanceUID}.dcm")
            synthetic.write(data_set, paths[-1])
            sent.append((str(data_set.SOPInstanceUID), data_set_of(paths[-1].read_bytes())))
        address = Address(ae_title=ae_title, host="127.0.0.1", port=service.port())
        summary = scu.send(paths, address, calling_ae_title="SENDER", timeout=PATIENCE_SECONDS)
        if summary.associations > 1:
            raise SentAgain
        assert len(paths) == summary.sent
    return sent


def data_set_of(file: bytes) -> bytes:
    """Return the bytes after the File Meta Information, whose group length defines its end (PS3.10 section 7.1)."""
    return file[144 + int.from_bytes(file[140:144], "little") :]


@frozen(kw_only=True)
class Found:
    """What a start finds after a power loss."""

    pending: Mapping[str, bytes | None]  # data sets of pending instances by SOP Instance UID; None: missing object
    rows: dict[str, int]  # number of rows before the start, by SOP Instance UID
    not_entered: dict[str, int]  # number of instances that are stored, not yet entered before the start


@frozen
class NextStart:
    """A start on the content of a disk after a power loss, up to the query of pending instances."""

    folder: Path  # for the content of the disk
    backend: str = "local"
    _catalogue: Catalogue = field(factory=lambda: discover().catalogue())
    _known: dict[frozenset[tuple[str, bytes | None]], Found] = field(factory=dict)  # by tree

    def find(self, tree: Tree) -> Found:
        """Start on this content of the disk. Raises the errors of ledger and storage if they cannot be opened."""
        key = frozenset(tree.items())
        if key not in self._known:
            _lay_out(tree, self.folder)
            self._known[key] = self._start()
        return self._known[key]

    def _start(self) -> Found:
        # The syncs of this start are not tested.
        text = CONFIGURATION.format(backend=self.backend, path=self.folder / DATA, durability=Durability.PROCESS.value)
        config = load(text, folder=self.folder, catalogue=self._catalogue).config
        assert config is not None
        data_folder = DataFolder.of(config)
        data_folder.prepare(is_new=True)  # the power may fail while the first start creates the folder
        with (
            closing(data_folder.open_ledger(config.ledger_url)) as ledger,
            closing(data_folder.open_storage(config.storage, self._catalogue)) as storage,
        ):
            ledger.migrate()
            waiting = not_entered(data_folder.path, storage, ledger)
            with ledger.read() as transaction:
                rows = Counter(transaction.execute(sqlalchemy.select(table.c.sop_instance_uid)).scalars())
            storage.recover()
            resources = Resources(ledger=ledger, storage=storage, clock=SystemClock())
            follower = Follower(
                data_folder.path / FOLDER, RowEntry(config, resources, HOST), resources, lambda _results: None
            )
            follower.follow()  # what is left of the journals: the host starts first
            follower.close()
            Store(config, resources).recover()
            found = dict(_pending(config, ledger, storage))
        return Found(pending=found, rows=rows, not_entered=Counter(one.sop_instance_uid for one in waiting))


def _pending(config: Config, ledger: Ledger, storage: StorageBackend[Any]) -> Iterator[tuple[str, bytes | None]]:
    for ae_title in config.ae_titles:
        with ledger.read() as transaction:
            pending = instances.pending_after(transaction, 0, 1000, ae_title)
        for instance in pending:
            try:
                with storage.read(instance.storage_key) as file:
                    yield instance.sop_instance_uid, data_set_of(file.read())
            except StoredObjectMissing:
                yield instance.sop_instance_uid, None


def _lay_out(tree: Tree, folder: Path) -> None:
    """Write exactly these files into the folder.

    Folders of an earlier tree may stay: a start creates missing folders.
    """
    for parent, _folders, files in os.walk(folder):
        for name in files:
            Path(parent, name).unlink()
    for path, content in tree.items():
        if content is None:
            (folder / path).mkdir(exist_ok=True)
        else:
            (folder / path).write_bytes(content)


def tree_of(root: PurePosixPath) -> Tree:
    """Return the actual content of the disk."""
    paths = Path(root).rglob("*")
    return {str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in paths}
