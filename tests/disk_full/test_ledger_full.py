"""A full disk of the ledger: instances are refused, no acknowledged one is lost, and traffic resumes automatically."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset
from pynetdicom.association import Association

from dicom_adapter.api.receiving import Rejection, StoreOutcome
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.flow.free_space import LEDGER_RESERVE_BYTES
from dicom_adapter.net.codes import REJECT_REASON, CStoreStatus
from dicom_adapter.service.launch import LaunchedService
from dicom_adapter.storage.local.segment import BLOCK, Segment
from dicom_adapter.testing.fixtures import MakeAdapter
from support.full_disk import MB, Disk, image, store, submitted
from support.requestor import associate, rejection, wait_for_acceptance, wait_for_rejection

pytestmark = pytest.mark.slow

Launch = Callable[..., LaunchedService]

QUIET = 15  # seconds until a group is due, so that a test can fill the disk on a slow machine


def store_some(association: Association, count: int = 3) -> list[Dataset]:
    """Store a few instances, which must be acknowledged."""
    data_sets = [image() for _number in range(count)]
    assert [CStoreStatus.SUCCESS] * count == [store(association, data_set) for data_set in data_sets]
    return data_sets


def uids(data_sets: list[Dataset]) -> list[str]:
    return sorted(str(data_set.SOPInstanceUID) for data_set in data_sets)


@pytest.mark.parametrize("storage", ["disk", "elsewhere"])
def test_the_service_survives_a_full_ledger(launch: Launch, disk: Disk, storage: str) -> None:
    """While the disk is full, instances are refused. Failed turns are retried when there is free space.

    The stored objects are on the ledger's disk, or on another disk. A host that dies during this time is restarted.

    Verified to fail when the ledger's free space is not checked: associations are accepted.
    """
    service = launch(storage=storage, quiet=QUIET)
    association = associate(service.port(), "LUNG")
    before = store_some(association)
    disk.fill()
    assert REJECT_REASON[Rejection.LOCAL_LIMIT_EXCEEDED] == wait_for_rejection(service.port(), "LUNG")
    assert [CStoreStatus.OUT_OF_RESOURCES] * 2 == [store(association) for _number in range(2)]
    _service, host, receiver = service.pids()
    service.wait_for("worker_failed")  # a turn that cannot be committed
    os.kill(host, signal.SIGKILL)
    service.wait_for("process_failed", name="host")
    assert [] == service.logged("job_submitted")

    disk.clear()
    wait_for_acceptance(service.port(), "LUNG")  # a new host has entered the rows that the full ledger could not take
    after = store_some(association)
    association.release()
    service.wait_for("job_submitted", times=len(before + after))
    assert uids(before + after) == submitted(service)
    assert receiver == service.pids()[2]


def test_a_start_with_a_full_disk_waits_for_free_space(launch: Launch, disk: Disk) -> None:
    """The reason is logged, the start is retried and can be stopped, and acknowledged instances are kept.

    Verified to fail when the service ends when its host cannot start.
    """
    first = launch(quiet=QUIET)
    before = store_some(associate(first.port(), "LUNG"))
    first.kill()
    disk.fill()

    second = launch()
    second.wait_for("process_failed", name="host")
    assert 0 == second.stop()
    third = launch()
    reason = third.wait_for("process_failed", name="host")["reason"]
    assert (
        f"the data folder {disk.path / 'data'} cannot be used: the ledger is not available: database or disk is full"
        == reason
    )
    disk.clear()
    third.wait_for("job_submitted", times=len(before))
    assert uids(before) == submitted(third)


def test_incomplete_objects_are_deleted_before_the_ledger_is_opened(launch: Launch, disk: Disk) -> None:
    """A killed receiver has filled the disk with an incomplete object.

    Verified to fail when the ledger is opened first.
    """
    first = launch(quiet=QUIET)
    before = store_some(associate(first.port(), "LUNG"))
    first.kill()
    disk.fill(leave=6 * MB)  # the ledger's write-ahead log grows to 4 MB before its pages are reused
    incomplete = Segment.create(disk.path / "data" / "instances" / f"{'0' * 32}.segment")
    os.posix_fallocate(incomplete.descriptor, BLOCK, disk.free)
    os.pwrite(incomplete.descriptor, b"half written", BLOCK)
    incomplete.close()

    second = launch()
    second.wait_for("job_submitted", times=len(before))
    assert uids(before) == submitted(second)
    assert [] == second.logged("process_failed")


def test_instances_never_use_the_space_that_their_jobs_need(launch: Launch, disk: Disk) -> None:
    """Senders fill the disk without configured limits; the processing of the jobs frees space.

    Verified to fail when the ledger's free space is not checked: the disk becomes completely full; and when
    associations are accepted until the disk is full: their instances are refused.
    """
    service = launch(quiet=QUIET)
    association = associate(service.port(), "LUNG")
    sent = []
    for kilobytes in (2000, 200, 20, 1):  # until the smallest instance is refused, too
        while CStoreStatus.SUCCESS == store(association, data_set := image(kilobytes)):
            sent.append(data_set)
    # The range is wide, because the last instance was refused after it was written, and then deleted.
    assert LEDGER_RESERVE_BYTES - 3 * MB < disk.free < LEDGER_RESERVE_BYTES + 1 * MB
    assert REJECT_REASON[Rejection.LOCAL_LIMIT_EXCEEDED] == wait_for_rejection(service.port(), "LUNG")
    service.wait_for("job_submitted", times=len(sent))
    service.wait_for("instances_reclaimed")
    assert CStoreStatus.SUCCESS == store(association)
    assert rejection(service.port(), "LUNG") is None
    association.release()
    assert uids(sent) == submitted(service)


def test_an_instance_whose_row_cannot_be_written_leaves_no_object(
    make_adapter: MakeAdapter, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite reports the full disk after the object is stored.

    Verified to fail when the status is 0x0110, or the object is kept.
    """
    adapter = make_adapter(IN_PROCESS.format(ledger=disk.path / "ledger.sqlite"))
    answers = adapter.receive(make_instance(), ae_title="LUNG")
    disk.fill()
    monkeypatch.setattr(adapter.host, "run_until_idle", lambda: None)
    while answers[-1].outcome is StoreOutcome.STORED:  # the write-ahead log may have a free page
        answers += adapter.receive(make_instance(), ae_title="LUNG")
    assert StoreOutcome.OUT_OF_SPACE is answers.pop().outcome
    assert {answer.instance.storage_key for answer in answers if answer.instance} == set(adapter.storage.keys())

    disk.clear()
    monkeypatch.undo()
    answers += adapter.receive(make_instance(), ae_title="LUNG")
    adapter.advance(5)
    assert {"reclaimed": len(answers)} == adapter.states


IN_PROCESS = """
[storage]
path = "data"
[ledger]
url = "sqlite:///{ledger}"
[submitters.platform]
type = "fake"
[ae-titles.LUNG.settings]
pipeline-one = "p1"
"""
