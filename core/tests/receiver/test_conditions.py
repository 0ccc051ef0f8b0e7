"""Associations are decided from conditions in memory, which are read again after a short time or before a rejection."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from attrs import evolve

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


def test_conditions_are_kept_for_a_short_time(adapter: Adapter, disk: Disk) -> None:
    """Verified to fail when they are kept for ever, and when they are not kept."""
    now = 100.0
    conditions = CurrentConditions(adapter.resources, lambda: now)
    assert conditions.recent() is None
    read = conditions.read()
    now += RECENT_SECONDS
    assert read is conditions.recent()
    now += RECENT_SECONDS / 100
    assert conditions.recent() is None
    assert 1 == disk.readings


@pytest.fixture
def receiver(adapter: Adapter, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A receiver that has accepted an association, and keeps its conditions for longer than the test takes."""
    monkeypatch.setattr("dicom_adapter.receiver.conditions.RECENT_SECONDS", 1000.0)
    receiver = Receiver(adapter.config, adapter.resources, None)
    assert receiver.decide_at_once("first", REQUEST, 0, 0) is None  # the conditions are unknown
    assert receiver.decide("first", REQUEST, 0, 0).rejection is None
    assert 1 == disk.readings
    yield receiver
    receiver.close()


def decision_at_once(receiver: Receiver, request: AssociationRequest = REQUEST, associations: int = 0) -> object:
    """Return the rejection, or None if the association is accepted; or "undecided"."""
    decision = receiver.decide_at_once("next", request, associations, 0)
    return "undecided" if decision is None else decision.rejection


def test_associations_are_decided_from_memory(receiver: Receiver, adapter: Adapter, disk: Disk) -> None:
    """Neither ledger nor disk is read. Verified to fail when the conditions are read for each association."""
    adapter.ledger.close()
    many = adapter.config.dicom.max_associations
    assert decision_at_once(receiver) is None
    unknown = evolve(REQUEST, called_ae_title="OTHER")
    assert Rejection.CALLED_AE_TITLE_NOT_RECOGNIZED is decision_at_once(receiver, unknown)
    assert Rejection.LOCAL_LIMIT_EXCEEDED is decision_at_once(receiver, associations=many)
    assert 1 == disk.readings


def test_a_rejection_for_a_passing_cause_is_decided_under_present_conditions(receiver: Receiver, disk: Disk) -> None:
    """Verified to fail when an association is rejected because the disk was full at the last reading."""
    disk.free_bytes = 1000
    assert Rejection.LOCAL_LIMIT_EXCEEDED is receiver.decide("a", REQUEST, 0, 0).rejection
    assert "undecided" == decision_at_once(receiver)
    disk.free_bytes = 10**9
    assert receiver.decide("b", REQUEST, 0, 0).rejection is None
    assert decision_at_once(receiver) is None


def test_a_changed_configuration_needs_new_conditions(receiver: Receiver, adapter: Adapter) -> None:
    """The lane of a new AE title may be stopped."""
    receiver.configure(adapter.config)
    assert "undecided" == decision_at_once(receiver)
