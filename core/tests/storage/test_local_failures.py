"""The `local` storage backend: durability, full and broken disks, and starts after a crash."""

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
    """The names of what is synced, in order."""
    calls: list[str] = []

    def recording(sync: Callable[[int], None]) -> Callable[[int], None]:
        def call(descriptor: int) -> None:
            calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
            sync(descriptor)

        return call

    monkeypatch.setattr(os, "fsync", recording(os.fsync))
    monkeypatch.setattr(os, "fdatasync", recording(os.fdatasync))
    return calls


def test_one_sync_serves_all_of_a_segment(durable: LocalStorage, recorded: list[str]) -> None:
    """Its name only once."""
    keys = [finished(durable, b"x") for _ in range(20)]
    durable.sync(keys)
    name = segment_of(durable, keys[0]).name
    assert [name, "instances"] == recorded
    stored(durable, b"y")
    assert [name, "instances", name] == recorded


def test_new_folders_are_durable_once_opened(tmp_path: Path, recorded: list[str]) -> None:
    """Before anything is put into them."""
    for _storage in opened(tmp_path / "data", durable=True):
        assert ["data", tmp_path.name] == recorded


def test_without_durability_nothing_is_synced(tmp_path: Path, recorded: list[str]) -> None:
    """`durability = "process"`: a process may end, the power must not."""
    for storage in opened(tmp_path / "data", durable=False):
        assert b"x" == content(storage, stored(storage, b"x"))
    assert [] == recorded


# --- full and broken disks --------------------------------------------------------------------------------------------


NO_SPACE = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])


@NO_SPACE
def test_no_space_while_writing(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """StorageFull, and what had been written gives its room back; the segment is used again."""
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
def test_no_space_for_the_last_bytes(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """The header of the record is as much as its content."""
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
def test_no_space_for_objects_that_wait_for_their_sync(
    storage: LocalStorage,
    monkeypatch: pytest.MonkeyPatch,
    free_blocks: Callable[[LocalStorage], int],
    error: int,
) -> None:
    """It is StorageFull for all that waits in the segment, and what comes next goes elsewhere."""
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
def test_no_space_for_another_segment(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """When not even an empty one can be made, that is StorageFull too, and nothing of it is left."""
    before = open_descriptors(storage)
    with monkeypatch.context() as full:
        full.setattr(os, "pwritev", failing(error))
        with pytest.raises(StorageFull):
            storage.writer().finish()
    assert ([], before) == (segments(storage), open_descriptors(storage))


@NO_SPACE
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_no_space_while_syncing(durable: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int, call: str) -> None:
    """Whether the data or the folder cannot be synced: none of the batch was ever written."""
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
    """A later sync may report success for what was lost (fsync(2)): what else waits in it fails too.

    What was durable before stays, and what comes next goes elsewhere.
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
    """After `kill -9`: stored objects stay, incomplete ones are deleted and their space is freed."""
    kept = stored(durable, b"kept")
    size = segment_of(durable, kept).stat().st_size
    durable.writer().write(os.urandom(10 * BLOCK))
    kill_local_storage(durable)
    again = restarted(durable)
    assert {kept: b"kept"} == contents(again)
    assert segment_of(durable, kept).stat().st_size <= size + BLOCK
    assert is_sealed(segment_of(durable, kept))


def test_a_restart_deletes_records_that_are_not_whole(durable: LocalStorage) -> None:
    """A power loss may leave a header whose content is lost, between others. Tried: without the check, it is a key."""
    first, torn, last = (stored(durable, bytes([number]) * 9000) for number in range(3))
    path = segment_of(durable, torn)
    kill_local_storage(durable)
    with path.open("r+b") as file:
        file.seek(int(torn[33:], 16) * BLOCK + BLOCK)
        file.write(bytes(BLOCK))
    again = restarted(durable)
    assert {first: bytes(9000), last: b"\2" * 9000} == contents(again)


def test_a_restart_deletes_empty_segments(durable: LocalStorage) -> None:
    """Also one whose beginning never got to the disk; files of others stay."""
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
    """So a start is fast, however much is stored."""
    key = stored(durable, b"x")
    monkeypatch.setattr(Segment, "walk", failing(errno.EIO))
    monkeypatch.setattr(Segment, "is_empty", lambda _segment: False)
    again = restarted(durable)
    assert b"x" == content(again, key)


def test_before_the_first_start_there_is_nothing_to_recover(tmp_path: Path) -> None:
    """Not even the folder exists."""
    LocalStorage(NoSettings(), StorageContext(path=tmp_path / "none", durable=True)).recover()
    assert [] == list(tmp_path.iterdir())


def test_existing_segments_are_not_written_after_a_restart(durable: LocalStorage) -> None:
    """New objects are written to new segments, so existing ones cannot be damaged."""
    kept = stored(durable, b"kept")
    kill_local_storage(durable)
    again = restarted(durable)
    later = stored(again, b"later")
    assert kept[:32] != later[:32]
    assert {kept: b"kept", later: b"later"} == contents(again)
    again.close()


# --- keys are not paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*NEARLY_KEYS, UNKNOWN])
def test_other_texts_than_keys_name_nothing(storage: LocalStorage, key: str) -> None:
    """Nothing but a key that this backend could have made becomes a path; nothing is deleted with such a text."""
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
def test_a_block_in_which_nothing_begins_is_missing(storage: LocalStorage, block: str) -> None:
    """The segment's own header, the middle of an object, and what lies beyond its end."""
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
