"""Health is red, with the numbers, while a full disk causes refusals, and green again when there is space."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dicom_adapter.net.codes import CStoreStatus
from dicom_adapter.service.launch import LaunchedService
from support.full_disk import MB, Disk, image, store
from support.health import red, wait_until, wait_until_red
from support.requestor import associate, rejection

pytestmark = pytest.mark.slow

Launch = Callable[..., LaunchedService]

RESERVE = "watermark-percent = 100\nreserve = '10 MB'"


def test_instances_that_do_not_fit_are_red_although_associations_are_accepted(launch: Launch, disk: Disk) -> None:
    """The free space is just above the reserve: each data set is refused after it has arrived, and deleted.

    Verified to fail when the health looks at the free space only: it is green, and the AE title is served.
    """
    service = launch(ledger="elsewhere", limits=RESERVE, quiet=3600)
    service.port()
    wait_until_red(set(), service)
    disk.fill(leave=20 * MB)
    association = associate(service.port(), "LUNG")
    statuses = [store(association, image(kilobytes=500)) for _number in range(40)]
    refused = statuses.count(CStoreStatus.OUT_OF_RESOURCES)
    assert 0 < refused < 40
    assert rejection(service.port(), "LUNG") is None
    counted = f"{refused} instances refused since "
    report = wait_until(lambda parts: parts.get("refusals of receiver", "").startswith(counted), service)
    [reason] = red(report).values()
    assert " bytes left, reserve = 10000000; the largest data set has 50" in reason
    assert ("refusing", reason) == (report["aeTitles"][0]["state"], report["aeTitles"][0]["reason"])
    disk.clear()
    report = wait_until(lambda parts: not parts, service)
    assert ("served", "") == (report["aeTitles"][0]["state"], report["aeTitles"][0]["reason"])
    association.release()


def test_a_full_disk_of_the_ledger_is_red(launch: Launch, disk: Disk) -> None:
    """Nothing has to be refused first. Verified to fail when only the storage's disk is checked."""
    service = launch(storage="elsewhere")
    service.port()
    wait_until_red(set(), service)
    disk.fill(leave=1 * MB)
    report = wait_until(lambda parts: "ledger" in parts, service)
    assert red(report)["ledger"].endswith(" bytes left, 16777216 are needed")
    assert "refusing" == report["aeTitles"][0]["state"]
    disk.clear()
    wait_until_red(set(), service)
