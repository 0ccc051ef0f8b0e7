"""The ledger's disk is full: nothing is acknowledged without its row, and everything goes on when there is room."""

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
from support.requestor import associate, rejection

pytestmark = pytest.mark.slow

Launch = Callable[..., LaunchedService]

QUIET = 15  # seconds: nothing becomes a job while a test fills the disk, on a machine that does much else


def store_some(association: Association, count: int = 3) -> list[Dataset]:
    """Store a few instances and see them acknowledged."""
    data_sets = [image() for _number in range(count)]
    assert [CStoreStatus.SUCCESS] * count == [store(association, data_set) for data_set in data_sets]
    return data_sets


def uids(data_sets: list[Dataset]) -> list[str]:
    return sorted(str(data_set.SOPInstanceUID) for data_set in data_sets)


@pytest.mark.parametrize("storage", ["disk", "elsewhere"])
def test_a_full_ledger_is_survived(launch: Launch, disk: Disk, storage: str) -> None:
    """Whether its disk holds the instances too, or not: senders are refused, what waits goes on later, by itself.

    A host that dies meanwhile comes back too. Tried: without the look at the ledger's room, associations are accepted.
    """
    service = launch(storage=storage, quiet=QUIET)
    association = associate(service.port(), "LUNG")
    before = store_some(association)
    disk.fill()
    assert REJECT_REASON[Rejection.LOCAL_LIMIT_EXCEEDED] == rejection(service.port(), "LUNG")
    assert [CStoreStatus.OUT_OF_RESOURCES] * 2 == [store(association) for _number in range(2)]
    _service, host, receiver = service.pids()
    service.wait_for("worker_failed")  # a turn that cannot be written down
    os.kill(host, signal.SIGKILL)
    service.wait_for("process_failed", name="host")
    assert [] == service.logged("job_submitted")

    disk.clear()
    assert rejection(service.port(), "LUNG") is None
    after = store_some(association)
    association.release()
    service.wait_for("job_submitted", times=len(before + after))
    assert uids(before + after) == submitted(service)
    assert receiver == service.pids()[2]


def test_a_start_with_a_full_disk_waits_for_room(launch: Launch, disk: Disk) -> None:
    """It says what is wrong, tries again by itself, and can be stopped meanwhile; what was acknowledged is there.

    Tried: the service ends when its host cannot start.
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


def test_what_a_killed_receiver_left_half_written_makes_room_for_the_start(launch: Launch, disk: Disk) -> None:
    """The disk is full of it: it goes before the ledger is written. Tried: the other way round."""
    first = launch(quiet=QUIET)
    before = store_some(associate(first.port(), "LUNG"))
    first.kill()
    disk.fill(leave=1 * MB)
    left = Segment.create(disk.path / "data" / "instances" / f"{'0' * 32}.segment")
    os.posix_fallocate(left.descriptor, BLOCK, disk.free)
    os.pwrite(left.descriptor, b"half written", BLOCK)
    left.close()

    second = launch()
    second.wait_for("job_submitted", times=len(before))
    assert uids(before) == submitted(second)
    assert [] == second.logged("process_failed")


def test_instances_never_take_the_room_that_their_own_jobs_need(launch: Launch, disk: Disk) -> None:
    """Filled by senders alone, and without any limit configured, the disk becomes free again by itself.

    Tried: without the look at the ledger's room all of it is used up; with associations accepted until there is none,
    one is, whose instances are refused.
    """
    service = launch(quiet=QUIET)
    association = associate(service.port(), "LUNG")
    sent = []
    for kilobytes in (2000, 200, 20, 1):  # until not even the smallest is taken
        while CStoreStatus.SUCCESS == store(association, data_set := image(kilobytes)):
            sent.append(data_set)
    assert (
        LEDGER_RESERVE_BYTES - 3 * MB < disk.free < LEDGER_RESERVE_BYTES + 1 * MB
    )  # the last one was written, and taken back
    assert REJECT_REASON[Rejection.LOCAL_LIMIT_EXCEEDED] == rejection(service.port(), "LUNG")
    service.wait_for("job_submitted", times=len(sent))
    service.wait_for("instances_reclaimed")
    assert CStoreStatus.SUCCESS == store(association)
    assert rejection(service.port(), "LUNG") is None
    association.release()
    assert uids(sent) == submitted(service)


def test_an_instance_whose_row_finds_no_room_leaves_nothing(
    make_adapter: MakeAdapter, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite itself says so, when the object is stored already. Tried: 0x0110 for that; the object is left behind."""
    adapter = make_adapter(IN_PROCESS.format(ledger=disk.path / "ledger.sqlite"))
    answers = adapter.receive(make_instance(), ae_title="LUNG")
    disk.fill()
    monkeypatch.setattr(adapter.host, "run_until_idle", lambda: None)
    while answers[-1].outcome is StoreOutcome.STORED:  # the write-ahead log may have a page to spare
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
