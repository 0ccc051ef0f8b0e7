"""Fixtures for the `local` storage backend. The tests of other backends have separate fixtures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_adapter.storage.local import segment
from dicom_adapter.storage.local.backend import SEGMENT_BYTES, LocalStorage
from dicom_adapter.storage.local.segment import BLOCK
from support.local_storage import opened


@pytest.fixture
def segment_blocks() -> int:
    """Return the number of blocks after which a segment is full."""
    return SEGMENT_BYTES // BLOCK


@pytest.fixture(params=[True, False], ids=["durable", "not-durable"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, segment_blocks: int) -> Iterator[LocalStorage]:
    yield from opened(tmp_path / "data", durable=request.param, segment_blocks=segment_blocks)


@pytest.fixture
def durable(tmp_path: Path, segment_blocks: int) -> Iterator[LocalStorage]:
    yield from opened(tmp_path / "data", durable=True, segment_blocks=segment_blocks)


@pytest.fixture
def free_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[LocalStorage], int]:
    """Return a function for the free blocks of a storage on a disk whose free space does not change.

    No blocks are allocated ahead.
    """
    monkeypatch.setattr(segment, "PREALLOCATION_NEEDS_BYTES", 1 << 63)
    disk = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda _path: disk)
    return lambda storage: storage.capacity().free_bytes // BLOCK
