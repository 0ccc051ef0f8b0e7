"""A start deletes the stored objects that a killed receiver has left without a row: their instances have no answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter.config import Config, load
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.enter import open_commit, rows
from dicom_adapter.flow.enter.journal import FOLDER
from dicom_adapter.flow.enter.open_commit import SUFFIX
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.store import commit
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import instances
from dicom_adapter.plugins.registry import discover
from dicom_adapter.runtime.clock import SystemClock
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.simulation.adapter import encode, make_request
from dicom_adapter.storage.files import FileStorage
from support.killed import until_killed

CONFIGURATION = """
[storage]
backend = "files"
path = "data"
watermark-percent = 100
reserve = 0
[submitters.platform]
type = "memory"
[ae-titles.A.settings]
pipeline-one = "p1"
"""


class Process:
    """A receiver process that consists of its store. The backend `files` keeps no recovery records."""

    def __init__(self, folder: Path) -> None:
        catalogue = discover().catalogue()
        loaded = load(CONFIGURATION, folder=folder, catalogue=catalogue)
        assert loaded.config is not None, loaded.problems
        self.config: Config = loaded.config
        data_folder = DataFolder.of(self.config)
        data_folder.prepare(is_new=True)
        self.ledger = data_folder.open_ledger(self.config.ledger_url)
        self.ledger.migrate()
        self.storage = data_folder.open_storage(self.config.storage, catalogue)
        self.store = Store(self.config, Resources(ledger=self.ledger, storage=self.storage, clock=SystemClock()))

    def start(self) -> None:
        """Recover as a start of the service does: first the host, then the receiver."""
        self.storage.recover()
        self.start_receiver()

    def start_receiver(self) -> None:
        """Recover as a receiver does that is restarted alone."""
        self.store.recover()
        self.store.open_log(self.folder)

    def arrive(self, seed: str) -> ReceivedInstance:
        data_set = make_instance(rows=2, columns=2, seed=seed)
        incoming = self.store.begin(make_request(data_set, "A", "CT1", "0" * 32))
        incoming.write([encode(data_set)])
        received = self.store.end(incoming)
        assert isinstance(received, ReceivedInstance)
        return received

    def send(self, *seeds: str) -> None:
        results = self.store.commit([self.arrive(seed) for seed in seeds])
        assert all(result.outcome.is_acknowledged for result in results)

    @property
    def folder(self) -> Path:
        return self.config.storage.path / FOLDER

    @property
    def keys(self) -> set[str]:
        return set(self.storage.keys())

    @property
    def with_row(self) -> set[str]:
        with self.ledger.read() as transaction:
            return instances.keys_with_rows(transaction, self.keys)

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    def close(self) -> None:
        self.store.close()
        self.storage.close()
        self.ledger.close()


@pytest.fixture
def make_process(tmp_path: Path) -> Iterator[Callable[[], Process]]:
    made: list[Process] = []

    def make() -> Process:
        made.append(Process(tmp_path))
        return made[-1]

    yield make
    for process in made:
        with suppress(OSError):
            process.close()


MakeProcess = Callable[[], Process]


def send_until_killed(make_process: MakeProcess, where: Any = FileStorage, name: str = "sync") -> None:
    """Send three instances, of which the third was acknowledged before, to a receiver that is killed."""

    def prepare() -> Process:
        process = make_process()
        process.start()
        process.send("earlier")
        return process

    until_killed(prepare, lambda process: process.send("one", "two", "earlier"), where, name)


KILLED_AFTER = {
    "write": (Store, "end", 1),
    "sync": (FileStorage, "sync", 1),
    "rows": (rows.RowWriter, "enter", 1),
    "commit of the rows": (commit.RowEntry, "enter_new", 3),
    "deletion of a dropped duplicate": (commit, "delete_stored_objects", 3),
    "answer": (Store, "commit", 3),
}


@pytest.mark.parametrize("point", KILLED_AFTER)
def test_a_kill_leaves_no_object_without_a_row_after_the_next_start(make_process: MakeProcess, point: str) -> None:
    """The acknowledged instance is kept, and so are instances whose rows were committed.

    Verified to fail when keys are noted only after the sync, and when the start deletes no or every noted object.
    """
    where, name, kept = KILLED_AFTER[point]
    send_until_killed(make_process, where, name)
    started = make_process()
    started.start()
    assert kept == len(started.with_row)
    assert started.keys == started.with_row
    started.send("one", "two")
    assert 3 == len(started.with_row) == len(started.keys)


@pytest.mark.parametrize(
    "where, name", [(instances, "keys_with_rows"), (FileStorage, "delete"), (commit, "delete_unanswered")]
)
def test_a_start_that_is_killed_is_repeated(make_process: MakeProcess, where: Any, name: str) -> None:
    """Verified to fail when the file is deleted before the objects."""
    send_until_killed(make_process)
    until_killed(make_process, Process.start, where, name)
    started = make_process()
    started.start()
    assert 1 == len(started.keys) == len(started.with_row)


def test_a_start_does_not_touch_the_objects_of_a_receiver_that_runs(make_process: MakeProcess) -> None:
    """Another receiver of the service has synced an object and is about to enter its row.

    Verified to fail when the lock is not checked.
    """
    running, starting = make_process(), make_process()
    running.start()
    enter = running.store._entry.enter_new

    def enter_later(*arguments: Any, **options: Any) -> Any:
        starting.start_receiver()
        return enter(*arguments, **options)

    running.store._entry.enter_new = enter_later  # type: ignore[method-assign]
    running.send("one")
    assert 1 == len(starting.keys) == len(starting.with_row)


def test_objects_that_cannot_be_deleted_are_deleted_at_a_later_start(
    make_process: MakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start succeeds. Verified to fail when the file is deleted although the objects were not."""
    send_until_killed(make_process)
    with monkeypatch.context() as patch:
        patch.setattr(FileStorage, "delete", failing)
        make_process().start()
    started = make_process()
    assert 4 == len(started.keys)
    started.start()
    assert 1 == len(started.keys)


def failing(*_arguments: Any) -> None:
    raise OSError


def test_nothing_is_deleted_after_a_power_loss(
    make_process: MakeProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file may be an earlier one, with keys of acknowledged instances, and their rows may be lost.

    Verified to fail when the identity of the start of the computer is not compared.
    """
    send_until_killed(make_process)
    boot_id = tmp_path / "boot-id"
    boot_id.write_text("another start")
    monkeypatch.setattr(open_commit, "BOOT_ID", boot_id)
    started = make_process()
    started.start()
    assert 4 == len(started.keys)
    assert 1 == len(started.files)  # its own


def test_a_file_has_no_keys_between_commits_and_is_deleted_at_the_end(make_process: MakeProcess) -> None:
    """Verified to fail when a file keeps its keys until the next commit."""
    process = make_process()
    process.start()
    process.send("one", "two")
    [file] = process.files
    assert b"" == file.read_bytes()
    process.close()
    assert [] == process.files
