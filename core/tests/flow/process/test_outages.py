"""Outages of the storage backend, or of what a processor needs, are no failures: the lane continues after their end."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import pytest

from dicom_adapter import InstanceStorageInfo, JobProcessorBase, NoSettings, Retriable, hookimpl
from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.testing import Adapter, Plugin, make_instance
from support.odd_data_sets import ODD

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[ae-titles.LUNG]
processor = "by-study"
settings = { required = "AccessionNumber", pipeline-one = "p1" }
"""


def test_a_processor_that_reads_headers_waits_until_they_can_be_read(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a long outage, no instance is quarantined and no lane is stopped."""
    adapter = make_adapter(CONFIGURATION)
    is_away = True
    read = adapter.storage.read

    def reading(key: str) -> BinaryIO:
        if is_away:
            raise OSError("the disk is away")
        return read(key)

    monkeypatch.setattr(adapter.storage, "read", reading)
    adapter.receive(*(make_instance(accession_number=f"A-{n}") for n in range(2)), ae_title="LUNG")
    adapter.advance(600)
    assert {"pending": 2} == adapter.states
    assert "waits for the storage backend: the stored file of instance 1 cannot be read (OSError)" == reason(adapter)
    is_away = False
    adapter.advance(10)
    assert {"reclaimed": 2} == adapter.states
    assert "" == reason(adapter)


def test_a_processor_that_waits_for_a_resource_is_reported(make_adapter: MakeAdapter) -> None:
    """The report has the message of the processor, until a turn is committed.

    Verified to fail when such turns are only logged: a lane without any progress is green.
    """
    away = [Retriable("the licence server is away")]

    class Waiting(JobProcessorBase):  # type: ignore[type-arg] # without settings
        name = "waiting"

        def handle_instance(self, instance: InstanceStorageInfo) -> None:
            if away:
                raise away[0]
            self.remove_instances([instance])

    class Processors:
        @hookimpl
        def dicom_adapter_processors(self) -> list[type]:
            return [Waiting]

    adapter = make_adapter('[ae-titles.LUNG]\nprocessor = "waiting"\nsubmitter = "memory"\n', Plugin(Processors()))
    adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(1.5)
    assert "" == reason(adapter)
    adapter.advance(3)
    assert "its turns are retried: the licence server is away" == reason(adapter)
    away.clear()
    adapter.advance(3)
    assert "" == reason(adapter)


class Timed(JobProcessorBase[NoSettings]):
    """A processor that needs a resource in `open`, or in a timer."""

    name = "timed"
    away: ClassVar[set[str]] = set()  # where the resource is missing

    def open(self) -> None:
        self.require("open")

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        self.call_later(5, lambda: self.require("timer"))

    def require(self, place: str) -> None:
        if place in self.away:
            raise Retriable("the licence server is away")


class TimedPlugin:
    @hookimpl
    def dicom_adapter_processors(self) -> list[type[Timed]]:
        return [Timed]


@pytest.mark.parametrize("place", ["open", "timer"])
def test_an_outage_is_reported_until_its_end_wherever_the_resource_is_needed(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Before each retry of a timer, all instances are delivered again; their turns succeed.

    Verified to fail when any turn that succeeds ends the outage of a timer, and when an outage of `open` has no end
    without a further instance.
    """
    monkeypatch.setattr(Timed, "away", set[str]())
    adapter = make_adapter('[ae-titles.LUNG]\nprocessor = "timed"\n', Plugin(TimedPlugin()))
    if place == "timer":
        adapter.receive(make_instance(), make_instance(), ae_title="LUNG")
    Timed.away.add(place)
    adapter.restart()
    adapter.advance(20)
    assert "its turns are retried: the licence server is away" == reason(adapter)
    Timed.away.clear()
    adapter.advance(3)
    assert "" == reason(adapter)


def test_one_unreadable_file_does_not_block_others(make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instance of the only unreadable file is quarantined after three attempts.

    Until then, the lane shows the reason.

    Verified to fail when the number of attempts has no limit (then the lane rebuilds its processor forever), or
    attempts also count while no file can be read (then the previous test fails).
    """
    adapter = make_adapter(CONFIGURATION)
    read = adapter.storage.read
    spoilt: list[str] = []

    def reading(key: str) -> BinaryIO:
        if not spoilt or key in spoilt:
            spoilt[:] = [key]
            raise OSError(errno.EIO, "Input/output error", "/where/it/lies")
        return read(key)

    monkeypatch.setattr(adapter.storage, "read", reading)
    adapter.receive(*(make_instance(accession_number=f"A-{n}") for n in range(3)), ae_title="LUNG")
    adapter.advance(1.5)
    assert {"pending": 3} == adapter.states
    assert "waits for the storage backend: the stored file of instance 1 cannot be read (EIO)" == reason(adapter)
    adapter.advance(10)
    assert {"quarantined": 1, "reclaimed": 2} == adapter.states
    assert "" == reason(adapter)
    [cause] = [event.detail["reason"] for event in adapter.events if event.event == "instance_quarantined"]
    assert (
        "the stored file of instance 1 cannot be read (EIO): 3 tries, while other stored objects can be read" == cause
    )


@pytest.mark.parametrize("failure", [ValueError, EOFError, BlockingIOError, RecursionError, MemoryError, UnicodeError])
def test_a_header_that_cannot_be_parsed_is_quarantined_at_once(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    """The type of the parser's error does not matter: an OSError of pydicom is no outage of the storage either.

    Verified to fail when OSError is caught around reading and parsing: the lane waits for the storage backend.
    """
    adapter = make_adapter(CONFIGURATION)
    with monkeypatch.context() as patch:

        def failing(*_: Any, **__: Any) -> None:
            raise failure

        patch.setattr("dicom_adapter.dicom.headers.dcmread", failing)
        adapter.receive(make_instance(accession_number="A-1"), ae_title="LUNG")
    assert ({"quarantined": 1}, "") == (adapter.states, reason(adapter))
    [cause] = [event.detail["reason"] for event in adapter.events if event.event == "instance_quarantined"]
    assert f"its header cannot be parsed ({failure.__name__} at " in cause
    adapter.receive(make_instance(accession_number="A-2"), ae_title="LUNG")
    adapter.advance(10)
    assert {"quarantined": 1, "reclaimed": 1} == adapter.states


@pytest.mark.parametrize("make", ODD)
def test_an_odd_data_set_never_blocks_its_lane(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], bytes]
) -> None:
    """It is processed, or quarantined with the true reason; the next instance is processed."""
    adapter = make_adapter(CONFIGURATION)
    with monkeypatch.context() as patch:
        patch.setattr("dicom_adapter.simulation.adapter.encode", make)
        adapter.receive(make_instance(accession_number="A-1"), ae_title="LUNG")
    adapter.receive(make_instance(accession_number="A-2"), ae_title="LUNG")
    adapter.advance(10)
    assert "" == reason(adapter)
    assert adapter.states in ({"quarantined": 1, "reclaimed": 1}, {"reclaimed": 2})


def test_no_instance_is_quarantined_because_descriptors_are_missing(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reads of other stored objects succeed by chance, when a descriptor becomes free.

    Verified to fail when the failure counts as one of the stored object.
    """
    adapter = make_adapter(CONFIGURATION)
    read = adapter.storage.read
    unlucky: list[str] = []

    def reading(key: str) -> BinaryIO:
        if not unlucky or key in unlucky:
            unlucky[:] = [key]
            raise OSError(errno.EMFILE, "Too many open files")
        return read(key)

    monkeypatch.setattr(adapter.storage, "read", reading)
    adapter.receive(*(make_instance(accession_number=f"A-{n}") for n in range(3)), ae_title="LUNG")
    adapter.advance(600)
    assert {"pending": 3} == adapter.states
    monkeypatch.undo()
    adapter.advance(10)
    assert {"reclaimed": 3} == adapter.states


def reason(adapter: Adapter) -> str:
    assert LaneState.RUNNING is adapter.lanes["LUNG"].state
    return adapter.lanes["LUNG"].reason


def test_an_instance_without_its_stored_object_is_quarantined(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing object is not an outage that will end. Other instances are processed."""
    adapter = make_adapter(CONFIGURATION)
    sync = adapter.storage.sync

    def syncing(keys: Any) -> None:
        sync(keys)
        adapter.storage.delete(keys)

    monkeypatch.setattr(adapter.storage, "sync", syncing)
    adapter.receive(make_instance(accession_number="A-1"), ae_title="LUNG")
    monkeypatch.undo()
    adapter.receive(make_instance(accession_number="A-2"), ae_title="LUNG")
    adapter.advance(10)
    assert {"quarantined": 1, "reclaimed": 1} == adapter.states


class Writer(JobProcessorBase[NoSettings]):
    """A processor with data of its own."""

    name = "writer"

    def handle_instance(self, instance: InstanceStorageInfo) -> None:
        raise NotImplementedError


class WriterPlugin:
    @hookimpl
    def dicom_adapter_processors(self) -> list[type[Writer]]:
        return [Writer]


def test_no_folder_of_a_processor_is_created_while_the_disk_is_missing(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    """The mount point is there, without the disk. Later, the disk would hide whatever was created there.

    Verified to fail when the folder is created without a check of the storage.
    """
    adapter = make_adapter('[ae-titles.A]\nprocessor = "writer"', Plugin(WriterPlugin()))
    mount_point, disk = tmp_path / "data", tmp_path / "disk"
    mount_point.rename(disk)
    mount_point.mkdir()
    with pytest.raises(Retriable, match="is missing"):
        adapter.ask("A", lambda writer: writer.data_folder)
    assert [] == list(mount_point.iterdir())
    mount_point.rmdir()
    disk.rename(mount_point)
    assert adapter.ask("A", lambda writer: writer.data_folder).is_dir()
