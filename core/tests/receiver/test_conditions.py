"""The conditions for associations are read once for many associations, but never lead to an outdated rejection."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dicom_adapter.api.receiving import AssociationRequest, Rejection
from dicom_adapter.api.values import Capacity
from dicom_adapter.receiver.conditions import RECENT_SECONDS, CurrentConditions
from dicom_adapter.receiver.receiver import Receiver
from dicom_adapter.testing import Adapter

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[storage]
backend = "memory"
path = "data"
reserve = "1 MB"
durability = "process"
[ae-titles.LUNG]
processor = "by-study"
settings = { pipeline-a = "1" }
"""
REQUEST = AssociationRequest(called_ae_title="LUNG", calling_ae_title="CT1", peer_address="10.0.0.7")


class Disk:
    """The disk of a storage backend; counts how often its free space is read."""

    def __init__(self) -> None:
        self.free_bytes = 10**9
        self.readings = 0

    def capacity(self) -> Capacity:
        self.readings += 1
        return Capacity(total_bytes=2 * 10**9, free_bytes=self.free_bytes)


@pytest.fixture
def adapter(make_adapter: MakeAdapter) -> Adapter:
    return make_adapter(CONFIGURATION)


@pytest.fixture
def disk(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(adapter.storage, "capacity", disk.capacity)
    return disk


def test_conditions_are_read_again_after_a_short_time(adapter: Adapter, disk: Disk) -> None:
    """Verified to fail when they are kept for ever, and when they are not kept."""
    now = 100.0
    conditions = CurrentConditions(adapter.resources, lambda: now)
    for _association in range(3):
        conditions.recent()
    assert 1 == disk.readings
    now += RECENT_SECONDS * 1.01
    conditions.recent()
    assert 2 == disk.readings


def test_a_rejection_is_decided_under_present_conditions(
    adapter: Adapter, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified to fail when an association is rejected because the disk was full at the last reading."""
    monkeypatch.setattr("dicom_adapter.receiver.conditions.RECENT_SECONDS", 1000.0)
    receiver = Receiver(adapter.config, adapter.resources, None)
    disk.free_bytes = 1000
    assert Rejection.LOCAL_LIMIT_EXCEEDED is receiver.decide("a", REQUEST, 0, 0).rejection
    disk.free_bytes = 10**9
    assert receiver.decide("b", REQUEST, 0, 0).rejection is None
    receiver.close()
