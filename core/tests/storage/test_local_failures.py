"""The `local` storage backend: durability, full and failing disks, and recovery after a crash."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import NoSettings, StorageContext, StorageFull, StoredObjectMissing
from dicom_adapter.storage.local.backend import LocalStorage
from dicom_adapter.storage.local.buffers import LARGE_BYTES
from dicom_adapter.storage.local.segment import BLOCK, SEGMENT, Segment
from support.local_storage import (
    content,
    contents,
    failing,
    finished,
    is_sealed,
    kill_local_storage,
    open_descriptors,
    opened,
    restarted,
    segment_of,
    segments,
    stored,
)

SMALL = pytest.mark.parametrize("segment_blocks", [2])  # a segment is full after its first object

UNKNOWN = "0" * 32 + "-1"
NEARLY_KEYS = [
    "",
    "/etc/passwd",
    "0" * 32,
    "0" * 32 + "-",
    "0" * 32 + "-0x1",
    "0" * 32 + "--1",
    "A" * 32 + "-1",
    "0" * 31 + "-1",
    "0" * 32 + "-1\n",
    "0" * 32 + "-" + "f" * 11,
    "0" * 31 + "\0-1",
]


# --- durability -------------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files and folders that are synced, in order."""
    calls: list[str] = []

    def recording(sync: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            sync(descriptor)

        return call

    monkeypatch.setattr(os, "fsync", recording(os.fsync))
    monkeypatch.setattr(os, "fdatasync", recording(os.fdatasync))
    return calls


def test_one_sync_covers_all_objects_of_a_segment(durable: LocalStorage, recorded: list[str]) -> None:
    """The name of the segment is synced only once."""
    keys = [finished(durable, b"x") for _ in range(20)]
    durable.sync(keys)
    name = segment_of(durable, keys[0]).name
    assert [name, "instances"] == recorded
    stored(durable, b"y")
    assert [name, "instances", name] == recorded


def test_new_folders_are_durable_after_open(tmp_path: Path, recorded: list[str]) -> None:
    """The folders are synced before a file is created in them."""
    for _storage in opened(tmp_path / "data", durable=True):
        assert ["data", tmp_path.name] == recorded


def test_nothing_is_synced_without_durability(tmp_path: Path, recorded: list[str]) -> None:
    """`durability = "process"` survives the end of a process, but not a power loss."""
    for storage in opened(tmp_path / "data", durable=False):
        assert b"x" == content(storage, stored(storage, b"x"))
    assert [] == recorded


# --- full and failing disks -------------------------------------------------------------------------------------------


NO_SPACE = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])


@NO_SPACE
def test_a_full_disk_raises_storage_full_while_writing(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """The space of the incomplete object is freed, and the segment is used again."""
    kept = stored(storage, b"kept")
    size = segment_of(storage, kept).stat().st_size
    writer = storage.writer()
    writer.write(bytes(LARGE_BYTES + 1))
    with monkeypatch.context() as full:
        full.setattr(os, "pwritev", failing(error))
        with pytest.raises(StorageFull):
            writer.write(bytes(LARGE_BYTES + 1))
    assert size <= segment_of(storage, kept).stat().st_size <= size + BLOCK
    writer.discard()
    later = stored(storage, b"x")
    assert {kept: b"kept", later: b"x"} == contents(storage)
    assert 1 == len(segments(storage))


@NO_SPACE
def test_a_full_disk_raises_storage_full_for_the_last_bytes(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """A failure to write the record's header is handled like a failure to write the content."""
    writer = storage.writer()
    writer.write(b"x")
    with monkeypatch.context() as full:
        full.setattr(os, "pwritev", failing(error))
        with pytest.raises(StorageFull):
            writer.finish()
    writer.discard()
    assert [] == list(storage.keys())
    with pytest.raises(ValueError, match="finished or discarded"):
        writer.finish()


@NO_SPACE
def test_a_full_disk_fails_all_objects_that_wait_in_the_segment(
    storage: LocalStorage,
    monkeypatch: pytest.MonkeyPatch,
    free_blocks: Callable[[LocalStorage], int],
    error: int,
) -> None:
    """All of them raise StorageFull, and later objects use another segment."""
    kept, before = stored(storage, b"kept"), free_blocks(storage)
    keys, other = [finished(storage, os.urandom(50_000)) for _ in range(3)], finished(storage, b"other")
    with monkeypatch.context() as full:
        full.setattr(os, "pwritev", failing(error))
        with pytest.raises(StorageFull):
            storage.sync(keys)
    with pytest.raises(StorageFull):
        storage.sync([other])
    later = stored(storage, b"x")
    assert later[:32] != kept[:32]
    assert {kept: b"kept", later: b"x"} == contents(storage)
    assert before == free_blocks(storage)


@NO_SPACE
def test_a_full_disk_raises_storage_full_for_a_new_segment(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """The file system cannot create even an empty segment. No file remains."""
    before = open_descriptors(storage)
    with monkeypatch.context() as full:
        full.setattr(os, "pwritev", failing(error))
        with pytest.raises(StorageFull):
            storage.writer().finish()
    assert ([], before) == (segments(storage), open_descriptors(storage))


@NO_SPACE
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_full_disk_raises_storage_full_while_syncing(
    durable: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int, call: str
) -> None:
    """The data or the folder cannot be synced; no object of the batch is stored."""
    before = open_descriptors(durable)
    keys = [finished(durable, b"x"), finished(durable, b"y")]
    with monkeypatch.context() as full:
        full.setattr(os, call, failing(error))
        with pytest.raises(StorageFull):
            durable.sync(keys)
    assert [] == list(durable.keys())
    assert before == open_descriptors(durable)
    assert b"z" == content(durable, stored(durable, b"z"))


def test_a_segment_is_not_used_after_a_failed_sync(durable: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later sync may report success although data was lost (fsync(2)), so all unsynced objects in the segment fail.

    Objects that were durable before are kept, and later objects use another segment.
    """
    earlier = stored(durable, b"earlier")
    key, other = finished(durable, b"x"), finished(durable, b"y")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            durable.sync([key])
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        durable.sync([other])
    later = stored(durable, b"z")
    assert later[:32] != earlier[:32]
    assert {earlier: b"earlier", later: b"z"} == contents(durable)
    assert not is_sealed(segment_of(durable, earlier))


def test_a_writer_that_has_ended_refuses_further_calls(storage: LocalStorage) -> None:
    """A write after `finish` or `discard` is a bug of the caller."""
    for end in ("finish", "discard"):
        writer = storage.writer()
        getattr(writer, end)()
        with pytest.raises(ValueError, match="finished or discarded"):
            writer.write(b"x")
        with pytest.raises(ValueError, match="finished or discarded"):
            writer.finish()


# --- after a crash ----------------------------------------------------------------------------------------------------


def test_a_restart_deletes_half_written_objects(durable: LocalStorage) -> None:
    """After `kill -9`, stored objects are kept; incomplete objects are deleted and their space is freed."""
    kept = stored(durable, b"kept")
    size = segment_of(durable, kept).stat().st_size
    durable.writer().write(os.urandom(10 * BLOCK))
    kill_local_storage(durable)
    again = restarted(durable)
    assert {kept: b"kept"} == contents(again)
    assert segment_of(durable, kept).stat().st_size <= size + BLOCK
    assert is_sealed(segment_of(durable, kept))


def test_a_restart_deletes_incomplete_records(durable: LocalStorage) -> None:
    """A power loss may keep a header and lose its content.

    Verified to fail when the content is not checked: the record has a key.
    """
    first, torn, last = (stored(durable, bytes([number]) * 9000) for number in range(3))
    path = segment_of(durable, torn)
    kill_local_storage(durable)
    with path.open("r+b") as file:
        file.seek(int(torn[33:], 16) * BLOCK + BLOCK)
        file.write(bytes(BLOCK))
    again = restarted(durable)
    assert {first: bytes(9000), last: b"\2" * 9000} == contents(again)


def test_a_restart_deletes_empty_segments(durable: LocalStorage) -> None:
    """A segment without a header on the disk is deleted, too. Files of other programs are kept."""
    writer = durable.writer()
    writer.write(b"half")
    root = durable.context.path / "instances"
    (root / ("0" * 32 + ".segment")).write_bytes(bytes(SEGMENT.size))
    (root / ("1" * 32 + ".segment")).write_bytes(b"")
    (root / "notes.txt").write_bytes(b"foreign")
    kill_local_storage(durable)
    assert [] == list(restarted(durable).keys())
    assert [root / "notes.txt"] == segments(durable)


@SMALL
def test_a_restart_does_not_read_sealed_segments(durable: LocalStorage, monkeypatch: Any) -> None:
    """The duration of a start does not depend on the number of stored objects."""
    key = stored(durable, b"x")
    monkeypatch.setattr(Segment, "walk", failing(errno.EIO))
    monkeypatch.setattr(Segment, "is_empty", lambda _segment: False)
    again = restarted(durable)
    assert b"x" == content(again, key)


def test_recovery_before_the_first_start_does_nothing(tmp_path: Path) -> None:
    """The folder of the storage does not exist yet."""
    LocalStorage(NoSettings(), StorageContext(path=tmp_path / "none", durable=True)).recover()
    assert [] == list(tmp_path.iterdir())


def test_existing_segments_are_not_written_after_a_restart(durable: LocalStorage) -> None:
    """New objects are written to new segments, so existing segments cannot be damaged."""
    kept = stored(durable, b"kept")
    kill_local_storage(durable)
    again = restarted(durable)
    later = stored(again, b"later")
    assert kept[:32] != later[:32]
    assert {kept: b"kept", later: b"later"} == contents(again)
    again.close()


# --- keys are not paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*NEARLY_KEYS, UNKNOWN])
def test_an_invalid_key_names_no_object(storage: LocalStorage, key: str) -> None:
    """A text that is not a key of this backend never becomes a path, and nothing is deleted."""
    kept = stored(storage, b"x")
    with pytest.raises(StoredObjectMissing):
        storage.read(key)
    with pytest.raises(StoredObjectMissing):
        storage.sync([key])
    if key != UNKNOWN:
        with pytest.raises(StoredObjectMissing):
            storage.delete([kept, key])
    assert [kept] == list(storage.keys())


@pytest.mark.parametrize("block", ["0", "2", "3", "ffffffffff"])
def test_a_block_in_which_no_record_begins_is_missing(storage: LocalStorage, block: str) -> None:
    """The block is the segment's header, the middle of an object, or a block after the end."""
    kept = stored(storage, bytes(2 * BLOCK))
    key = f"{kept[:32]}-{block}"
    with pytest.raises(StoredObjectMissing):
        storage.read(key)
    storage.delete([key])
    assert bytes(2 * BLOCK) == content(storage, kept)


def test_foreign_files_are_not_keys(storage: LocalStorage) -> None:
    """Files of operators or other programs are neither listed nor changed."""
    root = storage.context.path / "instances"
    for name in ("notes.txt", "1" * 32 + ".dcm", "1" * 32 + ".segment~"):
        (root / name).write_bytes(b"foreign")
    assert [] == list(storage.keys())
    assert 3 == len(segments(storage))
