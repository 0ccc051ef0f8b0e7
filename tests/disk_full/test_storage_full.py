"""Storage fills up: senders are told to come back, nothing acknowledged is lost, and traffic resumes by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dicom_adapter.api.receiving import Rejection
from dicom_adapter.net.codes import REJECT_REASON, CStoreStatus
from dicom_adapter.service.launch import LaunchedService
from support import Run, stored_records
from support.full_disk import KB, MB, Disk, image, store, submitted
from support.requestor import associate, rejection

pytestmark = pytest.mark.slow

Launch = Callable[..., LaunchedService]


QUIET = 15  # seconds: nothing becomes a job while a test fills the disk, on a machine that does much else


def stored(disk: Disk) -> list[str]:
    """Everything in the local storage, half written or not."""
    return stored_records(disk.path / "data")


def test_a_full_disk_loses_nothing_and_work_goes_on(launch: Launch, disk: Disk) -> None:
    """Without any limit the disk itself says no: 0xA700, and no half file stays.

    The jobs of what was acknowledged before are submitted all the same, their room comes back, and an association that
    was open all the time can use it. Tried: 0x0110 for ENOSPC; a writer that leaves its file after a failure.
    """
    service = launch(ledger="elsewhere", quiet=QUIET)
    association = associate(service.port(), "LUNG")
    first = [image(kilobytes=500) for _number in range(2)]
    assert [CStoreStatus.SUCCESS] * 2 == [store(association, data_set) for data_set in first]

    disk.fill()
    assert [CStoreStatus.OUT_OF_RESOURCES] * 2 == [store(association, image(kilobytes)) for kilobytes in (20, 2000)]
    disk.fill(leave=300 * KB)
    assert CStoreStatus.OUT_OF_RESOURCES == store(
        association, image(kilobytes=500)
    )  # when a part of it is written already
    assert 2 == len(stored(disk))
    assert rejection(service.port(), "LUNG") is None
    disk.fill()

    service.wait_for("job_submitted", times=2)
    service.wait_for("instances_reclaimed", times=2)
    assert disk.free >= 1000 * KB
    last = image(kilobytes=500)
    assert CStoreStatus.SUCCESS == store(association, last)
    association.release()
    service.wait_for("job_submitted", times=3)
    service.wait_for("instances_reclaimed", times=3)
    assert sorted(data_set.SOPInstanceUID for data_set in [*first, last]) == submitted(service)
    assert [] == stored(disk)
    assert [] == service.logged("worker_failed") + service.logged("process_died")


RESERVE = "watermark-percent = 100\nreserve = '16 MiB'"
PAGE = 4096  # bytes: what a file grows by
LIMIT = 16 * 2**20  # bytes: half of the disk


@pytest.mark.parametrize("limits", ["watermark-percent = 50\nreserve = 0", RESERVE], ids=["watermark", "reserve"])
def test_limits_act_as_configured(launch: Launch, disk: Disk, limits: str) -> None:
    """Just above the limit everything is taken; below it associations are rejected and C-STOREs answered with 0xA700.

    As soon as there is room again, so is the service. Tried: a limit that is looked at once, at the start; one that
    only new associations meet.
    """
    service = launch(ledger="elsewhere", limits=limits, quiet=3600)  # no job gives room back
    association = associate(service.port(), "LUNG")
    disk.fill(leave=LIMIT + 100 * KB)
    assert CStoreStatus.SUCCESS == store(association)
    assert rejection(service.port(), "LUNG") is None

    disk.fill(leave=LIMIT - PAGE)
    assert REJECT_REASON[Rejection.LOCAL_LIMIT_EXCEEDED] == rejection(service.port(), "LUNG") == (2, 3, 2)
    assert CStoreStatus.OUT_OF_RESOURCES == store(association) == 0xA700

    disk.clear()
    assert rejection(service.port(), "LUNG") is None
    assert CStoreStatus.SUCCESS == store(association)
    association.release()


@pytest.mark.dcmtk
def test_dcmtk_is_told_to_come_back(launch: Launch, disk: Disk, dcmtk: Run) -> None:
    """Another implementation reads the rejection as it is meant. Tried: a rejection that is permanent."""
    service = launch(ledger="elsewhere", limits=RESERVE)
    service.port()
    disk.fill()
    told = dcmtk("echoscu", "--verbose", "-aec", "LUNG", "127.0.0.1", service.port(), check=False)
    assert 0 != told.returncode
    assert "Result: Rejected Transient" in told.stdout + told.stderr
    assert "Local Limit Exceeded" in told.stdout + told.stderr


def test_the_reserve_is_not_used_up_by_one_large_instance(launch: Launch, disk: Disk) -> None:
    """What arrives counts: a data set that would reach into the reserve is refused, a smaller one is taken.

    Tried: the size left out.
    """
    service = launch(ledger="elsewhere", limits=RESERVE, quiet=3600)
    association = associate(service.port(), "LUNG")
    disk.fill(leave=LIMIT + 1 * MB)
    assert CStoreStatus.OUT_OF_RESOURCES == store(association, image(kilobytes=2000))
    assert CStoreStatus.SUCCESS == store(association, image(kilobytes=500))
    association.release()
