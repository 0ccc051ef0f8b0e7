"""The check of the free space at the end of each instance."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dicom_adapter.api.values import Capacity
from dicom_adapter.config.model import StorageConfig
from dicom_adapter.flow.store import limits
from dicom_adapter.flow.store.limits import PLENTY_BYTES, StoreLimits
from dicom_adapter.runtime.resources import Resources

RESERVE = 1_000_000


class Disk:
    """A disk for instances and ledger with an adjustable number of free bytes."""

    def __init__(self, free_bytes: int) -> None:
        self.free = free_bytes
        self.checks = 0

    def capacity(self) -> Capacity:
        self.checks += 1
        return Capacity(total_bytes=1000 * PLENTY_BYTES, free_bytes=self.free)

    def free_bytes(self) -> int:
        return self.free


@pytest.fixture
def storage() -> StorageConfig:
    return StorageConfig(path=cast(Any, "data"), reserve=RESERVE, watermark_percent=100)


def limits_of(disk: Disk) -> StoreLimits:
    return StoreLimits(Resources(ledger=cast(Any, disk), storage=cast(Any, disk), clock=cast(Any, None)))


def test_each_instance_causes_a_check_unless_there_is_plenty_of_space(
    storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified to fail when a check is skipped while little space is left: the second instance is accepted."""
    monkeypatch.setattr(limits, "FREE_SPACE_SECONDS", 1000.0)
    monkeypatch.setattr(StoreLimits, "_full_ae_titles", lambda _limits: {})
    disk = Disk(RESERVE + PLENTY_BYTES - 1)
    checked = limits_of(disk)
    assert "" == checked.refusal_after("LUNG", storage)
    disk.free = RESERVE - 1
    assert "reserve" in checked.refusal_after("LUNG", storage)
    disk.free = 2 * PLENTY_BYTES
    assert ["", "", ""] == [checked.refusal_after("LUNG", storage) for _ in range(3)]
    assert 3 == disk.checks


def test_a_check_that_found_plenty_of_space_is_valid_for_a_short_time_only(
    storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verified to fail when the validity is not limited."""
    monkeypatch.setattr(limits, "FREE_SPACE_SECONDS", 0.0)
    monkeypatch.setattr(StoreLimits, "_full_ae_titles", lambda _limits: {})
    disk = Disk(2 * PLENTY_BYTES)
    checked = limits_of(disk)
    assert "" == checked.refusal_after("LUNG", storage)
    disk.free = RESERVE - 1
    assert "reserve" in checked.refusal_after("LUNG", storage)
