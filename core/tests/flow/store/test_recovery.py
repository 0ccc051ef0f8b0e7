"""Recovery: rows that the ledger has lost are entered again from recovery records, completely, in order, and once."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import select, text
from typer.testing import CliRunner

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import LedgerUnavailable, StorageFull
from dicom_adapter.api.hookspecs import hookimpl
from dicom_adapter.api.receiving import StoreOutcome, StoreRequest, StoreResult
from dicom_adapter.api.storage import StorageBackend, StorageContext
from dicom_adapter.api.values import InstanceStorageInfo
from dicom_adapter.cli import app
from dicom_adapter.config import Config, load
from dicom_adapter.flow.enter.received_instance import ReceivedInstance
from dicom_adapter.flow.enter.rows import DIFFERENT
from dicom_adapter.flow.store.commit import Store
from dicom_adapter.ledger import Ledger, arrivals, instance_rows, instances, receiver_runs, recorded_events
from dicom_adapter.ledger.filters import Filters
from dicom_adapter.ledger.microseconds import EPOCH
from dicom_adapter.ledger.schema import IS_QUARANTINED
from dicom_adapter.ledger.schema import instances as table
from dicom_adapter.plugins.registry import discover
from dicom_adapter.runtime.data_folder import DataFolder
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.storage.local.backend import LocalStorage
from dicom_adapter.storage.local.segment import Segment
from dicom_adapter.testing import Plugin
from support.local_storage import kill_local_storage

CT = "1.2.840.10008.5.1.4.1.1.2"
CONFIGURATION = """
[storage]
backend = "{backend}"
path = "data"
watermark-percent = 100
reserve = 0

[submitters.clara]
type = "memory"
folder = "platform"
[ae-titles.KEEP.settings]
pipeline-one = "p1"
[ae-titles.OVER]
overwrite-same-instance = true
[ae-titles.OVER.settings]
pipeline-one = "p1"
"""
UNCONFIGURED = CONFIGURATION.replace("ae-titles.KEEP", "ae-titles.OTHER")


class SmallSegments(LocalStorage):
    """A backend with a separate segment for each instance."""

    name = "small-segments"

    def __init__(self, settings: NoSettings, context: StorageContext) -> None:
        super().__init__(settings, context, segment_bytes=1)


class SmallSegmentsPlugin:
    @hookimpl
    def dicom_adapter_storage_backends(self) -> list[type[StorageBackend[Any]]]:
        return [SmallSegments]


class Ticking:
    """A clock that advances by a second each time it is read."""

    def __init__(self) -> None:
        self._now = EPOCH + timedelta(days=365)

    def now(self) -> datetime:
        self._now += timedelta(seconds=1)
        return self._now

    def system_time(self) -> datetime:
        return self._now

    def set_back(self) -> None:
        self._now -= timedelta(hours=1)


class Process:
    """A receiver process that consists of its store only, on a data folder that earlier processes used."""

    def __init__(
        self, folder: Path, clock: Ticking, text: str = CONFIGURATION, backend: str = "local", **options: float
    ) -> None:
        """Open the data folder. `options` are those of the store."""
        catalogue = discover(Plugin(SmallSegmentsPlugin())).catalogue()
        loaded = load(text.format(backend=backend), folder=folder, catalogue=catalogue)
        assert loaded.config is not None, loaded.problems
        self.config: Config = loaded.config
        self.folder = folder / "data"
        data_folder = DataFolder.of(self.config)
        data_folder.prepare(is_new=True)
        self.ledger: Ledger = data_folder.open_ledger(self.config.ledger_url)
        self.ledger.migrate()
        self.storage: StorageBackend[Any] = data_folder.open_storage(self.config.storage, catalogue)
        self.store = Store(self.config, Resources(ledger=self.ledger, storage=self.storage, clock=clock), **options)  # type: ignore[arg-type] # times in seconds

    def arrive(self, uid: str, *, ae_title: str = "KEEP", patient: bytes = b"P1") -> ReceivedInstance:
        """Receive an instance completely, but do not commit it."""
        incoming = self.store.begin(request(uid, ae_title))
        incoming.write([encode(uid, patient)])
        received = incoming.end()
        assert isinstance(received, ReceivedInstance)
        return received

    def send(self, *uids: str, ae_title: str = "KEEP", patient: bytes = b"P1") -> list[StoreResult]:
        """Receive these instances and commit them in one group."""
        return self.store.commit([self.arrive(uid, ae_title=ae_title, patient=patient) for uid in uids])

    def kill(self) -> None:
        """Close descriptors and release locks, without any orderly close."""
        if isinstance(self.storage, LocalStorage):
            kill_local_storage(self.storage)
        self.close()

    def close(self) -> None:
        self.storage.close()
        self.ledger.close()

    def pending(self, ae_title: str = "KEEP") -> list[InstanceStorageInfo]:
        with self.ledger.read() as transaction:
            return instances.pending_after(transaction, 0, 1000, ae_title)

    def uids(self, ae_title: str = "KEEP") -> list[str]:
        return [instance.sop_instance_uid for instance in self.pending(ae_title)]

    def recovered(self) -> list[int | None]:
        """Return the ids of the instances with an event `instance_recovered`."""
        with self.ledger.read() as transaction:
            recorded = [event for _number, event in recorded_events.after(transaction, 0, 1000)]
        return [event.instance_id for event in recorded if event.event == "instance_recovered"]

    def content(self, instance: InstanceStorageInfo) -> bytes:
        with self.storage.read(instance.storage_key) as file:
            return file.read()


class Site:
    """A data folder, and the processes that use it one after the other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clock = Ticking()
        self._processes: list[Process] = []

    def start(self, text: str = CONFIGURATION, backend: str = "local", **options: float) -> Process:
        self._processes.append(Process(self._folder, self._clock, text, backend, **options))
        return self._processes[-1]

    def set_clock_back(self) -> None:
        self._clock.set_back()

    def keep_ledger(self) -> dict[Path, bytes]:
        """Return the current content of the ledger's files."""
        return {path: path.read_bytes() for path in self._ledger_files() if path.suffix != ".sqlite-shm"}

    def lose(self, kept: dict[Path, bytes]) -> None:
        """Simulate a power loss: restore an earlier content of the ledger."""
        self._processes[-1].kill()
        for path in self._ledger_files():
            path.unlink()
        for path, content in kept.items():
            path.write_bytes(content)

    def _ledger_files(self) -> list[Path]:
        return sorted((self._folder / "data").glob("ledger.sqlite*"))

    def close(self) -> None:
        for process in self._processes:
            with suppress(OSError):
                process.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.close()


def element(tag: int, vr: bytes, value: bytes) -> bytes:
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def encode(uid: str, patient: bytes = b"P1") -> bytes:
    elements = [
        (0x00080016, b"UI", CT.encode()),
        (0x00080018, b"UI", uid.encode()),
        (0x00080050, b"SH", b"ACC-1"),
        (0x00100020, b"LO", patient),
        (0x0020000D, b"UI", b"1.2.3"),
        (0x0020000E, b"UI", b"1.2.3.1"),
    ]
    return b"".join(element(*arguments) for arguments in elements)


def request(uid: str, ae_title: str) -> StoreRequest:
    return StoreRequest(
        ae_title=ae_title,
        calling_ae_title="CT1",
        peer_address="10.0.0.7",
        association_id="a" * 32,
        sop_class_uid=CT,
        sop_instance_uid=uid,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


# --- recovered instances ----------------------------------------------------------------------------------------------


def test_lost_rows_are_entered_again_in_order(site: Site) -> None:
    """They have all columns. `received_at` is the time at which the data set was complete, and the ids are new."""
    first = site.start()
    first.send("1.1", "1.2")
    kept = site.keep_ledger()
    first.send("1.3")
    first.send("1.4", "1.5", patient=b"P\xc4")
    before = first.pending()
    contents = [first.content(instance) for instance in before]
    site.lose(kept)

    second = site.start()
    assert ["1.1", "1.2"] == second.uids()
    assert 3 == second.store.recover()
    after = second.pending()
    assert before[:2] == after[:2]
    times = [instance.received_at for instance in after]
    assert times == sorted(times)
    assert [evolve(row, instance_id=0, received_at=EPOCH) for row in before] == [
        evolve(row, instance_id=0, received_at=EPOCH) for row in after
    ]
    assert contents == [second.content(instance) for instance in after]
    assert [instance.instance_id for instance in after[2:]] == second.recovered()
    of_patient = Filters(patient_id=after[-1].patient_id, accession_number="ACC-1")
    with second.ledger.read() as transaction:
        assert 2 == len(instance_rows.newest(transaction, 9, filters=of_patient))


def test_ids_of_lost_rows_are_not_reused(site: Site) -> None:
    """Another component may have stored id 3; the id must not refer to a different instance later."""
    first = site.start()
    first.send("1.1", "1.2")
    kept = site.keep_ledger()
    first.send("1.3", "1.4")
    first.send("1.4", ae_title="OVER")
    first.send("1.4", ae_title="OVER")
    had = {instance.instance_id for instance in first.pending() + first.pending("OVER")}
    site.lose(kept)

    second = site.start()
    second.store.recover()
    second.send("1.5")
    numbers = {instance.instance_id for instance in second.pending() + second.pending("OVER")}
    assert ({1, 2}, 6) == (had & numbers, len(numbers))
    assert max(had) < min(numbers - had)


def test_recovered_rows_are_in_the_order_of_arrival(site: Site) -> None:
    """The names of segments have no order."""
    first = site.start(backend="small-segments")
    kept = site.keep_ledger()
    uids = [f"1.{number}" for number in range(30)]
    for uid in uids:
        first.send(uid)
    site.lose(kept)

    second = site.start(backend="small-segments")
    assert 30 == second.store.recover()
    assert uids == second.uids()


def test_stored_instances_without_a_row_are_entered(site: Site) -> None:
    """The process was killed between sync and commit. The sender may not send the instance again."""
    first = site.start()
    first.send("1.1")
    first.storage.sync([first.arrive("1.2").storage_key])
    first.kill()

    second = site.start()
    assert 1 == second.store.recover()
    assert ["1.1", "1.2"] == second.uids()


def test_a_start_without_a_ledger_recovers_all_instances_without_a_checkpoint(site: Site) -> None:
    """The complete ledger is lost."""
    first = site.start()
    first.send("1.1", "1.2")
    first.send("1.3", ae_title="OVER")
    site.lose({})

    second = site.start()
    assert 3 == second.store.recover()
    assert (["1.1", "1.2"], ["1.3"]) == (second.uids(), second.uids("OVER"))


def test_recovered_newer_arrivals_replace_older_ones(site: Site) -> None:
    """The setting of the AE title applies. Without replacement a duplicate is stored once."""
    first = site.start()
    kept = site.keep_ledger()
    first.send("1.1", ae_title="OVER")
    first.send("1.1", ae_title="OVER", patient=b"P2")
    first.send("1.1")
    [duplicate] = first.send("1.1")
    assert duplicate.instance is None
    site.lose(kept)

    second = site.start()
    second.store.recover()
    [over], [once] = second.pending("OVER"), second.pending()
    assert ("P2", "P1") == (over.patient_id, once.patient_id)
    assert second.content(over).endswith(encode("1.1", b"P2"))
    assert second.content(once).endswith(encode("1.1"))


def test_instances_of_a_removed_ae_title_are_recovered(site: Site) -> None:
    """The recovered instances are pending."""
    first = site.start()
    kept = site.keep_ledger()
    first.send("1.1", "1.2")
    site.lose(kept)

    second = site.start(UNCONFIGURED)
    assert 2 == second.store.recover()
    assert ["1.1", "1.2"] == second.uids()


# --- instances that are not recovered ---------------------------------------------------------------------------------


def test_no_row_is_entered_twice(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the next start nor a start after an interrupted recovery enters a row again."""
    first = site.start()
    kept = site.keep_ledger()
    first.send("1.1", "1.2")
    site.lose(kept)

    second = site.start()
    unconfirmed_records = second.storage.unconfirmed_records

    @contextmanager
    def interrupted() -> Iterator[Any]:
        with unconfirmed_records() as records:
            yield records
            raise InterruptedError

    monkeypatch.setattr(second.storage, "unconfirmed_records", interrupted)
    with pytest.raises(InterruptedError):
        second.store.recover()
    assert ["1.1", "1.2"] == second.uids()
    second.kill()
    for _start in range(2):
        again = site.start()
        assert 0 == again.store.recover()
        assert ["1.1", "1.2"] == again.uids()
        assert all(again.content(instance) for instance in again.pending())
        again.kill()


def test_reclaimed_instances_are_not_recovered(site: Site) -> None:
    """A power loss may have undone the deletion of their objects after their rows were deleted."""
    first = site.start()
    first.send("1.1", "1.2")
    with first.ledger.write() as transaction:
        transaction.execute(text("DELETE FROM instances"))
    first.kill()

    second = site.start()
    assert 0 == second.store.recover()
    assert [] == second.uids()


def test_an_object_with_a_row_is_not_entered_without_a_high_water_mark(site: Site) -> None:
    """An object never has two rows."""
    first = site.start()
    first.send("1.1", "1.2")
    with first.ledger.write() as transaction:
        transaction.execute(text("DELETE FROM commits"))
        transaction.execute(text("UPDATE instances SET state = 'quarantined' WHERE sop_instance_uid = '1.2'"))
    first.kill()

    second = site.start()
    assert 0 == second.store.recover()
    assert ["1.1"] == second.uids()


def test_refused_instances_are_not_recovered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of one instance failed, and that of the next one succeeded."""
    first = site.start()
    refused = first.arrive("1.1")
    with monkeypatch.context() as broken:
        broken.setattr(arrivals, "enter", failing)
        broken.setattr(first.storage, "delete", lambda _keys: None)  # as after a power loss that restored the object
        [answer] = first.store.commit([refused])
    assert StoreOutcome.FAILED is answer.outcome
    first.send("1.2")
    first.kill()

    second = site.start()
    assert 0 == second.store.recover()
    assert ["1.2"] == second.uids()


def failing(*_arguments: object) -> None:
    raise LedgerUnavailable("disk I/O error", is_io_error=True)


def test_recovery_records_of_other_versions_are_ignored(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The objects of these records are kept. An audit finds objects without a row."""
    first = site.start()
    kept = site.keep_ledger()
    with monkeypatch.context() as later:
        later.setattr("dicom_adapter.flow.enter.recovery_records.VERSION", 99)
        first.send("1.1")
    first.send("1.2")
    site.lose(kept)

    second = site.start()
    assert 1 == second.store.recover()
    assert ["1.2"] == second.uids()
    assert 2 == len(list(second.storage.keys()))


def test_a_recovered_replacement_is_quarantined_after_a_change_of_the_setting(site: Site) -> None:
    """The older instance is pending again."""
    first = site.start()
    kept = site.keep_ledger()
    first.send("1.1", ae_title="OVER")
    first.send("1.1", ae_title="OVER", patient=b"P2")
    site.lose(kept)

    second = site.start(CONFIGURATION.replace("overwrite-same-instance = true", ""))
    assert 2 == second.store.recover()
    assert ["P1"] == [instance.patient_id for instance in second.pending("OVER")]
    with second.ledger.read() as transaction:
        [(held, reason)] = transaction.execute(select(table.c.patient_id, table.c.reason).where(IS_QUARANTINED)).all()
    assert ("P2", DIFFERENT) == (held, reason)
    assert 2 == len(list(second.storage.keys()))


def test_a_recovered_older_arrival_does_not_replace_a_newer_one(site: Site) -> None:
    """Another receiver acknowledged the newer arrival while the receiver of the older one was down."""
    first = site.start()
    older = first.arrive("1.1", ae_title="OVER")
    first.storage.sync([older.storage_key])
    other = site.start()
    other.send("1.1", ae_title="OVER", patient=b"P2")
    first.kill()

    again = site.start()
    assert 0 == again.store.recover()
    [pending] = again.pending("OVER")
    assert "P2" == pending.patient_id
    assert 1 == len(list(again.storage.keys()))


def test_a_clock_that_is_set_back_does_not_change_the_order(site: Site) -> None:
    """The later arrival replaces the earlier one."""
    first = site.start()
    kept = site.keep_ledger()
    first.send("1.1", ae_title="OVER")
    site.set_clock_back()
    first.send("1.1", ae_title="OVER", patient=b"P2")
    site.lose(kept)

    second = site.start()
    second.store.recover()
    [pending] = second.pending("OVER")
    assert "P2" == pending.patient_id


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_failed_recovery_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed recovery raises an error, and the next recovery succeeds."""
    first = site.start()
    kept = site.keep_ledger()
    first.send("1.1", "1.2")
    site.lose(kept)

    second = site.start()
    with monkeypatch.context() as broken:
        broken.setattr(arrivals, "enter", failing)
        with pytest.raises(LedgerUnavailable):
            second.store.recover()
    assert [] == second.uids()
    assert 2 == second.store.recover()
    assert ["1.1", "1.2"] == second.uids()


def test_a_recovered_duplicate_replaces_a_pending_instance_whose_object_is_lost(site: Site) -> None:
    """Otherwise the only complete copy would get no row."""
    first = site.start()
    first.send("1.1")
    kept = site.keep_ledger()
    first.storage.delete([first.pending()[0].storage_key])
    first.storage.sync([first.arrive("1.1").storage_key, first.arrive("1.2").storage_key])
    site.lose(kept)

    second = site.start()
    assert 2 == second.store.recover()
    assert ["1.1", "1.2"] == sorted(second.uids())
    assert {instance.storage_key for instance in second.pending()} == set(second.storage.keys())


def test_deletions_by_the_host_do_not_disturb_a_recovery(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host does not lock segments that the next start must read."""
    first = site.start()
    first.send("1.1")
    first.storage.sync([first.arrive("1.2").storage_key])
    keys = [instance.storage_key for instance in first.pending()]
    first.kill()

    host, receiver = site.start(), site.start()
    recovered_rows: list[int] = []
    close = Segment.close

    def closing(segment: Segment) -> None:
        if not recovered_rows:
            recovered_rows.append(0)
            recovered_rows.append(receiver.store.recover())
        close(segment)

    monkeypatch.setattr(Segment, "close", closing)
    host.storage.delete(keys)
    assert [0, 1] == recovered_rows
    assert "1.2" in receiver.uids()


def test_instances_of_a_running_process_are_not_recovered(site: Site) -> None:
    """One of several receivers restarts while the others run."""
    first = site.start()
    first.storage.sync([first.arrive("1.1").storage_key])
    second = site.start()
    assert 0 == second.store.recover()
    assert [] == second.uids()


def test_a_repair_enters_lost_rows_as_a_start_does(site: Site, tmp_path: Path) -> None:
    """The repair does not report an object without a row."""
    first = site.start()
    first.storage.sync([first.arrive("1.1").storage_key])
    first.kill()
    configuration = tmp_path / "adapter.toml"
    configuration.write_text(CONFIGURATION.format(backend="local"), encoding="utf-8")
    result = CliRunner().invoke(app, ["audit", "--repair", "--config", str(configuration)])
    assert 0 == result.exit_code, result.output
    second = site.start()
    assert (["1.1"], 0) == (second.uids(), second.store.recover())


# --- syncs of the ledger ----------------------------------------------------------------------------------------------


def synced_commits(process: Process, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list that records whether each transaction is synced."""
    write, seen = process.ledger.write, list[bool]()

    def recording(*, synced: bool = True, waits: bool = True) -> Any:
        seen.append(synced)
        return write(synced=synced, waits=waits)

    monkeypatch.setattr(process.ledger, "write", recording)
    return seen


def unconfirmed(process: Process) -> list[tuple[str, bytes]]:
    """Return the recovery records that the next start must read."""
    with process.storage.unconfirmed_records() as records:
        return list(records)


def test_every_commit_without_recovery_records_is_synced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend `files` does not support recovery records."""
    process = site.start(backend="files")
    seen = synced_commits(process, monkeypatch)
    process.send("1.1", "1.2")
    assert [True] == seen
    assert 0 == process.store.recover()


def test_the_high_water_mark_is_committed_with_the_rows(site: Site) -> None:
    """The next receiver run has a mark of its own."""
    first = site.start()
    first.send("1.1", "1.2")
    first.send("1.3")
    assert [3] == reached(first)
    first.kill()
    second = site.start()
    second.store.recover()
    second.send("1.4")
    assert [1, 3] == reached(second)


def reached(process: Process) -> list[int]:
    with process.ledger.read() as transaction:
        return sorted(receiver_runs.high_water_marks(transaction).values())


def refusing(*_arguments: object) -> None:
    raise ValueError("a value cannot be stored")


def no_space(_keys: object) -> None:
    raise StorageFull("full")
