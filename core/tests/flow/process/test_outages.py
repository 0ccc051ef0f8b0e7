"""An outage of the storage backend is nobody's fault: what waits for it goes on when it is over."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, BinaryIO

import pytest

from dicom_adapter.ledger.schema import LaneState
from dicom_adapter.testing import Adapter, make_instance

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[ae-titles.LUNG]
processor = "by-study"
settings = { required = "AccessionNumber", pipeline-one = "p1" }
"""


def test_a_processor_that_reads_headers_waits_until_they_can_be_read(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the disk is away, no instance is quarantined and no lane is stopped."""
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


def test_one_file_that_cannot_be_read_holds_up_no_other(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is quarantined after three tries, as long as it alone cannot be read: until then its lane says what it is at.

    Tried: without that, the lane begins again for ever. Tried: with tries counted that failed while nothing could be
    read, the test before this one fails.
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
    [told] = [event.detail["reason"] for event in adapter.events if event.event == "instance_quarantined"]
    assert "the stored file of instance 1 cannot be read (EIO): 3 tries, while other stored objects can be read" == told


def reason(adapter: Adapter) -> str:
    assert LaneState.RUNNING is adapter.lanes["LUNG"].state
    return adapter.lanes["LUNG"].reason


def test_an_instance_whose_stored_object_is_gone_is_quarantined(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That will not pass by waiting; the others go on."""
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
