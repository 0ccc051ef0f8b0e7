"""Blocks of a segment are allocated ahead of its records, count as free space, and are freed with the last record."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from dicom_adapter.storage.local import segment as module
from dicom_adapter.storage.local.backend import LocalStorage
from dicom_adapter.storage.local.segment import BLOCK, PREALLOCATED_BYTES
from support.local_storage import content, failing, is_sealed, kill_local_storage, restarted, segments, stored

FREE_BLOCKS = 1 << 30  # of the simulated disk without the segments
AHEAD = PREALLOCATED_BYTES // BLOCK


@pytest.fixture(autouse=True)
def disk(durable: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whose free space changes with the segments only."""

    def statvfs(_path: object) -> Any:
        return SimpleNamespace(f_bavail=FREE_BLOCKS - allocated(durable), f_frsize=BLOCK, f_blocks=2 * FREE_BLOCKS)

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr(os, "fstatvfs", statvfs)
    stored(durable, b"")
    if allocated(durable) < AHEAD:
        pytest.skip("this file system allocates no blocks ahead")


def allocated(storage: LocalStorage) -> int:
    """Return the number of allocated blocks of all segments."""
    return sum(path.stat().st_blocks for path in segments(storage)) * 512 // BLOCK


def free_blocks(storage: LocalStorage) -> int:
    return storage.capacity().free_bytes // BLOCK


def test_blocks_ahead_count_as_free_space(durable: LocalStorage) -> None:
    """Only the blocks of records count as used, before and after they are written.

    Verified to fail when the blocks ahead count as used, and when records that wait for their sync count twice.
    """
    assert FREE_BLOCKS - 2 == free_blocks(durable)  # the header of the segment, and one record
    for number in range(1, 5):
        writer = durable.writer()
        writer.write(bytes(2 * PREALLOCATED_BYTES // 64))
        key = writer.finish()
        expected = FREE_BLOCKS - 2 - number * (AHEAD // 32 + 1)
        assert expected == free_blocks(durable)
        durable.sync([key])
        assert expected == free_blocks(durable)
    assert AHEAD == allocated(durable)


def test_more_blocks_are_allocated_before_the_first_are_used_up(durable: LocalStorage) -> None:
    for _ in range(20):
        stored(durable, bytes(1 << 20))
    assert 2 * AHEAD == allocated(durable)


@pytest.mark.parametrize("end", [LocalStorage.close, kill_local_storage])
def test_blocks_ahead_are_freed_at_the_end_and_after_a_crash(
    durable: LocalStorage, end: Callable[[LocalStorage], None]
) -> None:
    """Verified to fail when a closed segment keeps the blocks, or when a start does not free them."""
    key = stored(durable, b"content")
    end(durable)
    new = restarted(durable)
    assert 3 == allocated(new)
    assert b"content" == content(new, key)
    new.close()


@pytest.mark.parametrize("segment_blocks", [4])
def test_blocks_ahead_are_freed_with_a_full_segment(durable: LocalStorage) -> None:
    """Verified to fail when a sealed segment keeps them."""
    stored(durable, b"another")
    stored(durable, b"a third")
    [path] = segments(durable)
    assert is_sealed(path)
    assert 4 == allocated(durable)


@pytest.mark.parametrize("problem", ["fallocate", "little free space"])
def test_instances_are_stored_without_blocks_ahead(
    durable: LocalStorage, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    """The file system allocates no blocks ahead, or other files need the free space."""
    durable.close()
    if problem == "fallocate":
        monkeypatch.setattr(module, "_allocate", failing(errno.EOPNOTSUPP))
    else:
        monkeypatch.setattr(os, "fstatvfs", lambda _file: SimpleNamespace(f_bavail=10, f_frsize=BLOCK))
    storage = restarted(durable)
    before = allocated(storage)
    key = stored(storage, b"content")
    assert b"content" == content(storage, key)
    assert before + 2 == allocated(storage)
    assert FREE_BLOCKS - allocated(storage) == free_blocks(storage)
    storage.close()
