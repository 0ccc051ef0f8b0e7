"""A backup that is made while instances arrive and are reclaimed is consistent, and can be restored elsewhere."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config as AlembicConfig
from attrs import evolve
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from dicom_adapter import InstanceStorageInfo, JobState, Permanent, Refused, Retriable
from dicom_adapter.cli import backup as cli_backup
from dicom_adapter.config.model import Config
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.ledger import Ledger, instances
from dicom_adapter.ledger.migration import MIGRATIONS
from dicom_adapter.ledger.schema import instances as table
from dicom_adapter.ledger.schema import jobs as jobs_table
from dicom_adapter.operations import backup as backup_module
from dicom_adapter.operations.audit import Audit, AuditReport
from dicom_adapter.operations.backup import Backup
from dicom_adapter.operations.backup_folder import Manifest
from dicom_adapter.operations.restore import Restore, RestoreResult
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.storage_generation import StorageGeneration
from dicom_adapter.runtime.storage_marker import create_marker
from dicom_adapter.testing import Adapter
from support.local_storage import failing

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[storage]
path = "data"
durability = "process"
backend = "local"
[ae-titles.LUNG]
processor = "by-study"
[ae-titles.LUNG.settings]
pipeline-one = "p1"
pipeline-two = "p2"
[ae-titles.WAIT]
processor = "by-study"
settings = { timeout = 1000, pipeline-one = "p1" }
"""
ALWAYS = 1000  # number of calls, larger than in any test


class Interposed:
    """A storage that calls a function before each read of an object."""

    def __init__(self, storage: Any, before_read: Callable[[str], None]) -> None:
        self._storage = storage
        self._before_read = before_read

    def read(self, key: str) -> Any:
        self._before_read(key)
        return self._storage.read(key)


class BackedUp:
    """An adapter, its backups, and the data folders to which they are restored."""

    def __init__(self, adapter: Adapter, folder: Path) -> None:
        self.adapter = adapter
        self.folder = folder
        self.restored = folder / "restored"

    def receive(self, ae_title: str, **attributes: Any) -> InstanceStorageInfo:
        [answer] = self.adapter.receive(make_instance(**attributes), ae_title=ae_title)
        assert answer.instance is not None
        return answer.instance

    def back_up(self, name: str = "backup", before_read: Callable[[str], None] = lambda _key: None) -> Manifest:
        """Make a backup of the adapter as it is now."""
        adapter = self.adapter
        storage: Any = Interposed(adapter.storage, before_read)
        resources = Resources(ledger=adapter.ledger, storage=storage, clock=adapter.clock)
        return Backup(resources, adapter.config.storage.path, CONFIGURATION).run(self.folder / name)

    def restore(self, name: str = "backup", backend: str = "local", **changes: Any) -> RestoreResult:
        """Restore a backup to the folder `restored`."""
        config = self.restored_config(backend)
        folder = DataFolder.of(config)
        catalogue = self.adapter._plugins.catalogue()
        values = {"open_storage": lambda: folder.open_storage(config.storage, catalogue)} | changes
        return Restore(folder, clock=self.adapter.clock, **values).run(self.folder / name)

    def restored_config(self, backend: str = "local") -> Config:
        storage = evolve(self.adapter.config.storage, path=self.restored, backend=backend)
        return evolve(self.adapter.config, storage=storage)

    def continue_restored(self, backend: str = "local") -> None:
        """Start the adapter on the restored data folder."""
        self.adapter.restart_with(self.restored_config(backend))

    def audit(self) -> AuditReport:
        resources = Resources(ledger=self.adapter.ledger, storage=self.adapter.storage, clock=self.adapter.clock)
        return Audit(resources, is_running=lambda: False, verify=True).run()

    def require_clean(self) -> None:
        assert {} == self.audit().found

    def received(self) -> set[int]:
        with self.adapter.ledger.read() as transaction:
            return set(transaction.execute(select(table.c.instance_id)).scalars())


@pytest.fixture
def site(make_adapter: MakeAdapter, tmp_path: Path) -> BackedUp:
    return BackedUp(make_adapter(CONFIGURATION), tmp_path)


def receive_every_state(site: BackedUp) -> dict[str, int]:
    """Receive an instance for each state, and return the number of instances in each state."""
    site.receive("LUNG", seed="reclaimed")
    site.adapter.advance(5)
    site.adapter.platform.fail("start", Permanent("refused"), times=ALWAYS, pipeline_id="p2")
    site.receive("LUNG", seed="needed by a faulted job")
    site.adapter.advance(5)
    site.receive("WAIT", seed="pending")
    quarantined = site.receive("WAIT", seed="quarantined")
    with site.adapter.ledger.write() as transaction:
        instances.quarantine(transaction, quarantined.instance_id, "test", site.adapter.clock.now())
    return {"pending": 1, "quarantined": 1, "released": 1, "reclaimed": 1}


@pytest.mark.parametrize(("before", "after"), [("local", "local"), ("local", "files"), ("files", "local")])
def test_a_restored_backup_has_every_instance_and_no_problem(
    make_adapter: MakeAdapter, tmp_path: Path, before: str, after: str
) -> None:
    """The storage backend may be another one after the restore."""
    site = BackedUp(make_adapter(CONFIGURATION.replace('"local"', f'"{before}"')), tmp_path)
    states = receive_every_state(site)
    manifest = site.back_up()
    assert (3, 3) == (manifest.instances, site.restore(backend=after).instances)
    site.continue_restored(after)
    assert states == site.adapter.states
    site.require_clean()


def test_an_instance_about_to_be_reclaimed_is_reclaimed_in_the_backup(site: BackedUp) -> None:
    """No job needs it, so its object is not copied."""
    free = site.receive("WAIT", seed="free")
    site.adapter.host.run_until_idle = lambda: None  # type: ignore[method-assign] # the host does not reclaim it
    with site.adapter.ledger.write() as transaction:
        instances.release(transaction, [free.instance_id], site.adapter.clock.now())
    assert 0 == site.back_up().instances
    site.restore()
    site.continue_restored()
    assert {"reclaimed": 1} == site.adapter.states
    site.require_clean()


def test_unfinished_jobs_continue_after_a_restore(site: BackedUp) -> None:
    """Their next step counts as attempted: the original may have attempted it after the backup."""
    site.adapter.platform.fail("create_job", Retriable("down"), times=1, pipeline_id="p2")
    site.receive("LUNG", seed="one")
    site.adapter.advance(5)
    assert {JobState.SUBMITTED, JobState.QUEUED} == {job.state for job in site.adapter.jobs}
    site.back_up()
    site.restore()
    with closing(Ledger(f"sqlite:///{site.restored / 'ledger.sqlite'}")) as ledger, ledger.read() as transaction:
        repeated = transaction.execute(select(jobs_table.c.state, jobs_table.c.repeated)).all()
    assert {("submitted", False), ("queued", True)} == {tuple(row) for row in repeated}
    site.continue_restored()
    site.adapter.advance(3600)
    assert [JobState.SUBMITTED] * 2 == [job.state for job in site.adapter.jobs]
    site.require_clean()


# --- while the service works ----------------------------------------------------------------------------------------


@settings(max_examples=5, deadline=None)
@example(["reclaim"], 200)  # before the first object is read
@example(["LUNG", *["nothing"] * 5, "WAIT"], 200)  # before an object is read in the last round
@example(["LUNG", *["nothing"] * 5, "reclaim"], 200)
@given(st.lists(st.sampled_from(["LUNG", "WAIT", "reclaim", "nothing"]), max_size=12), st.sampled_from([1, 3, 200]))
def test_a_backup_is_consistent_whatever_happens_between_two_objects(
    tmp_path_factory: pytest.TempPathFactory, actions: list[str], few: int
) -> None:
    """Instances arrive, and others are reclaimed, before an object is read. `few`: see FEW in the module.

    The result is the ledger of one moment after the begin of the backup.

    Verified to fail when the ledger is copied before the objects, when the last objects are not those of the copied
    ledger, and when a deleted object does not cause another try.
    """
    folder = tmp_path_factory.mktemp("site")
    with closing(Adapter(folder, CONFIGURATION)) as adapter, pytest.MonkeyPatch.context() as patched:
        patched.setattr(backup_module, "FEW", few)
        site = BackedUp(adapter, folder)
        for number in range(3):
            site.receive("LUNG", seed=f"lung {number}")
            site.receive("WAIT", seed=f"wait {number}")
        acknowledged = site.received()
        remaining = iter(actions)

        def act(_key: str) -> None:
            action = next(remaining, "nothing")
            if action == "reclaim":
                adapter.advance(5)
            elif action != "nothing":
                site.receive(action)

        assert () == site.back_up(before_read=act).not_copied
        site.restore()
        site.continue_restored()
        assert acknowledged <= site.received()
        site.require_clean()


def test_a_backup_that_cannot_keep_up_is_refused(site: BackedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    """In each try, the object that is copied is deleted immediately before. Nothing is left at the destination."""
    monkeypatch.setattr(backup_module, "MAX_TRIES", 3)

    def reclaim(_key: str) -> None:
        site.adapter.advance(5)
        site.receive("LUNG")

    site.receive("LUNG")
    with pytest.raises(Refused, match="faster than they could be copied"):
        site.back_up(before_read=reclaim)
    assert [] == list(site.folder.glob("backup*"))


def test_instances_whose_objects_are_lost_or_damaged_are_reported(site: BackedUp) -> None:
    """The others are in the backup. After the restore, an audit finds the same problem."""
    lost, damaged, _kept = (site.receive("WAIT", seed=seed) for seed in ("lost", "damaged", "kept"))
    site.adapter.storage.delete([lost.storage_key])
    with site.adapter.ledger.write() as transaction:
        transaction.execute(table.update().where(table.c.instance_id == damaged.instance_id).values(checksum=1))
    manifest = site.back_up()
    assert [lost.instance_id, damaged.instance_id] == [each.instance_id for each in manifest.not_copied]
    assert ["no such object", "has changed"] == [
        next(words for words in ("no such object", "has changed") if words in each.reason)
        for each in manifest.not_copied
    ]
    result = site.restore()
    assert (1, 2) == (result.instances, len(result.not_restored))
    site.continue_restored()
    assert {"object-missing"} == set(site.audit().found)


# --- files ----------------------------------------------------------------------------------------------------------


def test_files_of_plugins_are_copied(site: BackedUp) -> None:
    """Databases are copied with the transactions in their logs, and without the logs. A name may have any character."""
    folder = site.adapter.config.storage.path / "processors" / "4c554e47?mode=rw"
    (folder / "more").mkdir(parents=True, exist_ok=True)
    (folder / "more" / "notes-wal").write_text("a file", encoding="utf-8")
    with closing(sqlite3.connect(folder / "index.sqlite")) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE pins (uid TEXT)")
        database.execute("INSERT INTO pins VALUES ('1.2.3')")
        database.commit()
        assert (folder / "index.sqlite-wal").stat().st_size
        site.back_up()
    site.restore()
    restored = site.restored / "processors" / "4c554e47?mode=rw"
    assert "a file" == (restored / "more" / "notes-wal").read_text(encoding="utf-8")
    with closing(sqlite3.connect(restored / "index.sqlite")) as database:
        assert [("1.2.3",)] == database.execute("SELECT uid FROM pins").fetchall()


def test_the_configuration_is_copied(site: BackedUp) -> None:
    site.back_up()
    assert CONFIGURATION == (site.folder / "backup" / "configuration.toml").read_text(encoding="utf-8")


def test_only_the_user_who_made_the_backup_can_read_it(site: BackedUp) -> None:
    site.receive("WAIT")
    site.back_up()
    paths = [site.folder / "backup", *(site.folder / "backup").rglob("*")]
    assert {(True, 0o700), (False, 0o600)} == {(path.is_dir(), path.stat().st_mode & 0o777) for path in paths}


def test_a_backup_needs_a_new_or_empty_folder(site: BackedUp) -> None:
    (site.folder / "backup").mkdir()
    site.back_up()
    with pytest.raises(Refused, match="is not an empty folder"):
        site.back_up()
    with pytest.raises(Refused, match="does not exist; create it, or mount its disk"):
        site.back_up("missing/backup")
    with pytest.raises(Refused, match="is in the data folder"):
        site.back_up("data/backup")
    (site.folder / "again.incomplete").mkdir()
    with pytest.raises(Refused, match="was killed; if none is running, delete it"):
        site.back_up("again")


def downgrade_schema(path: Path) -> None:
    """Replace a ledger by a ledger of an earlier version with the same rows."""
    earlier = path.with_name("earlier.sqlite")
    with closing(Ledger(f"sqlite:///{earlier}")) as ledger, ledger._engine.connect() as connection:
        alembic = AlembicConfig(attributes={"connection": connection})
        alembic.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(alembic, "0006")
        connection.commit()
    with closing(sqlite3.connect(earlier)) as database:
        database.execute(f"ATTACH '{path}' AS later")
        for (name,) in database.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
            if name not in ("alembic_version", "sqlite_sequence"):
                columns = ", ".join(row[1] for row in database.execute(f"PRAGMA main.table_info({name})"))
                database.execute(f"INSERT INTO main.{name} ({columns}) SELECT {columns} FROM later.{name}")
        database.commit()
    earlier.replace(path)


def test_a_backup_of_an_earlier_version_is_restored(site: BackedUp) -> None:
    """The schema of the restored ledger is upgraded, as at a start."""
    states = receive_every_state(site)
    site.back_up()
    backup = site.folder / "backup"
    manifest = backup / "manifest.json"
    before = sha256((backup / "ledger.sqlite").read_bytes()).hexdigest()
    size = (backup / "ledger.sqlite").stat().st_size
    downgrade_schema(backup / "ledger.sqlite")
    ledger = (backup / "ledger.sqlite").read_bytes()
    text = manifest.read_text(encoding="utf-8").replace(before, sha256(ledger).hexdigest())
    manifest.write_text(text.replace(f'"bytes": {size},', f'"bytes": {len(ledger)},'), encoding="utf-8")
    assert 3 == site.restore().instances
    site.continue_restored()
    assert states == site.adapter.states
    site.require_clean()


def test_a_backup_needs_free_space(site: BackedUp, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before anything is copied, and when the disk becomes full meanwhile."""
    site.receive("WAIT")
    little = shutil.disk_usage(site.folder)._replace(free=10**7)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _path: little)
        with pytest.raises(Refused, match="has 10,000,000 bytes free; use a larger disk"):
            site.back_up()

    def fill(_key: str) -> None:
        monkeypatch.setattr(os, "pwritev", failing(errno.ENOSPC))

    with pytest.raises(Refused, match="is full; use a larger disk"):
        site.back_up(before_read=fill)
    assert [] == list(site.folder.glob("backup*"))


# --- restore --------------------------------------------------------------------------------------------------------


def test_a_restored_storage_is_not_the_original(site: BackedUp) -> None:
    """The ledger of the one and the instances of the other cannot be used together, in both directions."""
    site.receive("WAIT")
    clock, before = site.adapter.clock, site.adapter.ledger
    original = create_marker(site.adapter.config.storage.path, durable=True)
    StorageGeneration(original, before, clock, is_durable=True).advance()
    site.back_up()
    site.restore()
    restored = create_marker(site.restored, durable=True)
    assert original.identity != restored.identity
    with closing(Ledger(f"sqlite:///{site.restored / 'ledger.sqlite'}")) as after:
        StorageGeneration(restored, after, clock, is_durable=True).require_match()
        for marker, ledger in ((original, after), (restored, before)):
            with pytest.raises(Refused, match="the ledger belongs to another storage"):
                StorageGeneration(marker, ledger, clock, is_durable=True).require_match()


def test_a_restore_that_is_killed_leaves_a_storage_that_cannot_be_started(site: BackedUp) -> None:
    """Until the ledger is in its place, a start with a new ledger is refused."""
    site.receive("WAIT")
    site.back_up()
    config = site.restored_config()
    folder = DataFolder.of(config)
    refusals = []

    def open_storage() -> Any:
        marker = folder.require_marker()
        with closing(Ledger("sqlite:///" + str(site.folder / "new.sqlite"))) as ledger:
            ledger.migrate()
            with pytest.raises(Refused) as refusal:
                StorageGeneration(marker, ledger, site.adapter.clock, is_durable=True).require_match()
            refusals.append(str(refusal.value))
        assert not (site.restored / "ledger.sqlite").exists()
        return folder.open_storage(config.storage, site.adapter._plugins.catalogue())

    site.restore(open_storage=open_storage)
    assert "the ledger is new, but the storage belongs to another ledger" in refusals[0]


def test_a_restore_that_fails_leaves_nothing(site: BackedUp) -> None:
    site.receive("WAIT")
    site.back_up()

    def open_storage() -> Any:
        raise OSError(5, "Input/output error")

    (site.restored / "lost+found").mkdir(parents=True)
    with pytest.raises(OSError, match="Input/output error"):
        site.restore(open_storage=open_storage)
    assert [site.restored / "lost+found"] == list(site.restored.iterdir())
    site.restore()


def test_a_restore_never_overwrites(site: BackedUp) -> None:
    site.back_up()
    site.restore()
    with pytest.raises(Refused, match="is not empty; a restore needs a new data folder"):
        site.restore()


@pytest.mark.parametrize(("is_alone", "message"), [(False, "another process uses"), (True, "is not empty")])
def test_a_restore_deletes_nothing_of_a_process_that_was_faster(
    site: BackedUp, monkeypatch: pytest.MonkeyPatch, is_alone: bool, message: str
) -> None:
    """Both found the folder empty. Verified to fail when the folder is emptied after this refusal."""
    site.back_up()
    exclusive = DataFolder.exclusive

    @contextmanager
    def late(folder: DataFolder) -> Iterator[bool]:
        with exclusive(folder):
            (folder.path / "theirs").write_text("data", encoding="utf-8")
            yield is_alone

    monkeypatch.setattr(DataFolder, "exclusive", late)
    with pytest.raises(Refused, match=message):
        site.restore()
    assert "data" == (site.restored / "theirs").read_text(encoding="utf-8")


def test_files_of_a_restore_are_private_whatever_the_umask(tmp_path: Path) -> None:
    """The data folder may be a mount point that other users can enter. Verified to fail with the umask of the shell."""
    before = os.umask(0o022)
    try:
        with cli_backup._exit_on_failure("nothing was restored"):
            (tmp_path / "ledger.sqlite").touch()
        assert 0o022 == os.umask(0o022)
    finally:
        os.umask(before)
    assert 0o600 == (tmp_path / "ledger.sqlite").stat().st_mode & 0o777


def damage(backup: Path, what: str) -> None:
    """Damage a backup."""
    if what == "no manifest":
        (backup / "manifest.json").unlink()
    elif what == "other manifest":
        (backup / "manifest.json").write_text("[]", encoding="utf-8")
    elif what == "later format":
        path = backup / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"format": 2}), encoding="utf-8")
    elif what == "ledger changed":
        with (backup / "ledger.sqlite").open("r+b") as file:
            file.seek(5000)
            file.write(b"damage")
    elif what == "segment missing":
        [segment] = (backup / "objects" / "instances").iterdir()
        segment.unlink()
    elif what == "segment shortened":
        [segment] = (backup / "objects" / "instances").iterdir()
        with segment.open("r+b") as file:
            file.truncate(4096)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no manifest", "is not a complete backup"),
        ("other manifest", "is not the manifest of a backup"),
        ("later format", "has format 2, and this version of dicom-adapter restores format 1"),
        ("ledger changed", "ledger.sqlite has changed since the backup was made"),
        ("segment missing", r"\.segment is missing"),
        ("segment shortened", r"\.segment has changed"),
    ],
)
def test_a_damaged_backup_is_refused(site: BackedUp, what: str, message: str) -> None:
    """Nothing is created."""
    site.receive("WAIT")
    site.back_up()
    damage(site.folder / "backup", what)
    with pytest.raises(Refused, match=message):
        site.restore()
    assert not site.restored.exists()


def test_a_damaged_object_does_not_prevent_the_restore_of_the_others(site: BackedUp) -> None:
    """The checksum of each object is verified."""
    kept, damaged = (site.receive("WAIT", seed=seed) for seed in ("kept", "damaged"))
    site.back_up()
    [segment] = (site.folder / "backup" / "objects" / "instances").iterdir()
    with segment.open("r+b") as file:
        file.seek(segment.stat().st_size - 4096 - 2000)
        file.write(b"damage")
    result = site.restore()
    assert [damaged.instance_id] == [each.instance_id for each in result.not_restored]
    assert "has changed" in result.not_restored[0].reason
    site.continue_restored()
    assert {kept.instance_id, damaged.instance_id} == site.received()
