"""An outage of the storage backend is nobody's fault: what waits for it goes on when it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import pytest

from dicom_adapter.testing import Adapter, make_instance

MakeAdapter = Callable[..., Adapter]

CONFIGURATION = """
[submitters.platform]
type = "fake"
[ae-titles.LUNG.settings]
group-by = "AccessionNumber"
pipeline-one = "p1"
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
    adapter.receive(make_instance(accession_number="A-1"), ae_title="LUNG")
    adapter.advance(600)
    assert {"pending": 1} == adapter.states
    is_away = False
    adapter.advance(10)
    assert {"reclaimed": 1} == adapter.states


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
