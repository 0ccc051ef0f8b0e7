"""A full storage: senders are refused temporarily, nothing acknowledged is lost, and traffic resumes automatically."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from dicom_adapter.api.receiving import Rejection
from dicom_adapter.net.codes import REJECT_REASON, CStoreStatus
from dicom_adapter.service.launch import LaunchedService
from support import Run, stored_records
from support.full_disk import KB, MB, Disk, image, store, submitted
from support.requestor import associate, rejection, wait_for_rejection

pytestmark = pytest.mark.slow

Launch = Callable[..., LaunchedService]


QUIET = 15  # seconds until a group is due, so that a test can fill the disk on a slow machine


def stored(disk: Disk) -> list[str]:
    """Return all records in the local storage, including incomplete records."""
    return stored_records(disk.path / "data")


def test_a_full_disk_loses_no_instance_and_traffic_resumes(launch: Launch, disk: Disk) -> None:
    """Without configured limits, C-STOREs are refused with 0xA700, and incomplete files are deleted.

    Jobs of acknowledged instances are submitted, and the open association can use their space. Verified to fail when
    ENOSPC is answered with 0x0110, or a writer does not delete its file after a failure.
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
    )  # a part of the instance was written
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


def test_rows_are_entered_and_jobs_submitted_while_the_disk_is_full(launch: Launch, disk: Disk) -> None:
    """The host enters no row before the disk is full. Otherwise, the space of the instances would never be freed.

    Verified to fail when no block is allocated for the progress of the follower.
    """
    service = launch(ledger="elsewhere", quiet=5)
    port = service.port()
    _service, host, _receiver = service.pids()
    os.kill(host, signal.SIGSTOP)
    association = associate(port, "LUNG")
    assert CStoreStatus.SUCCESS == store(association)
    association.release()
    disk.fill()
    os.kill(host, signal.SIGCONT)
    service.wait_for("instances_reclaimed")
    assert [] == service.logged("worker_failed")


RESERVE = "watermark-percent = 100\nreserve = '16 MiB'"
PAGE = 4096  # bytes; the unit of allocation
LIMIT = 16 * 2**20  # bytes: half of the disk


@pytest.mark.parametrize("limits", ["watermark-percent = 50\nreserve = 0", RESERVE], ids=["watermark", "reserve"])
def test_limits_take_effect_as_configured(launch: Launch, disk: Disk, limits: str) -> None:
    """With more free space than the limit, all is accepted. With less, associations are rejected and C-STOREs refused.

    Verified to fail when the limit is checked only at the start, or only for new associations.
    """
    service = launch(ledger="elsewhere", limits=limits, quiet=3600)  # no job frees space
    association = associate(service.port(), "LUNG")
    disk.fill(leave=LIMIT + 100 * KB)
    assert CStoreStatus.SUCCESS == store(association)
    assert rejection(service.port(), "LUNG") is None

    disk.fill(leave=LIMIT - PAGE)
    assert REJECT_REASON[Rejection.LOCAL_LIMIT_EXCEEDED] == wait_for_rejection(service.port(), "LUNG") == (2, 3, 2)
    assert CStoreStatus.OUT_OF_RESOURCES == store(association) == 0xA700

    disk.clear()
    assert rejection(service.port(), "LUNG") is None
    assert CStoreStatus.SUCCESS == store(association)
    association.release()


@pytest.mark.dcmtk
def test_dcmtk_reports_a_transient_rejection(launch: Launch, disk: Disk, dcmtk: Run) -> None:
    """DCMTK interprets the rejection as transient. Verified to fail when the rejection is permanent."""
    service = launch(ledger="elsewhere", limits=RESERVE)
    service.port()
    disk.fill()
    result = dcmtk("echoscu", "--verbose", "-aec", "LUNG", "127.0.0.1", service.port(), check=False)
    assert 0 != result.returncode
    assert "Result: Rejected Transient" in result.stdout + result.stderr
    assert "Local Limit Exceeded" in result.stdout + result.stderr


def test_the_reserve_is_not_used_by_one_large_instance(launch: Launch, disk: Disk) -> None:
    """A data set that would use the reserve is refused, a smaller data set is stored.

    Verified to fail when the size of the data set is ignored.
    """
    service = launch(ledger="elsewhere", limits=RESERVE, quiet=3600)
    association = associate(service.port(), "LUNG")
    disk.fill(leave=LIMIT + 1 * MB)
    assert CStoreStatus.OUT_OF_RESOURCES == store(association, image(kilobytes=2000))
    assert CStoreStatus.SUCCESS == store(association, image(kilobytes=500))
    association.release()
