"""The `local` storage backend: writing, reading and deleting objects, and the use of segments."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import NoSettings, StorageContext, StoredObjectMissing
from dicom_adapter.storage.local import segment
from dicom_adapter.storage.local.backend import LocalStorage, dicom_adapter_storage_backends
from dicom_adapter.storage.local.buffers import LARGE_BYTES, LARGE_TOTAL_BYTES
from dicom_adapter.storage.local.segment import BLOCK, RECORD
from dicom_adapter.testing.stored_objects import finish_object
from support.local_storage import (
    content,
    contents,
    finished,
    is_sealed,
    open_descriptors,
    restarted,
    segment_of,
    segments,
    stored,
)

SMALL = pytest.mark.parametrize("segment_blocks", [2])  # a segment is full after its first object


# --- writing and reading ----------------------------------------------------------------------------------------------


def test_pieces_are_written_together(storage: LocalStorage) -> None:
    """The pieces keep their order, whatever their number."""
    writer = storage.writer()
    writer.write(b"head ")
    writer.write_pieces([bytes([number % 256]) for number in range(3000)])
    key = writer.finish()
    assert b"head " + bytes(number % 256 for number in range(3000)) == content(storage, key)


def test_objects_of_an_ended_process_can_be_synced(storage: LocalStorage) -> None:
    """The segment was closed and is opened again."""
    keys = [finished(storage, b"x"), finished(storage, b"y")]
    storage.sync(keys)
    restarted(storage).sync(keys)


def test_consecutive_writers_share_a_segment(storage: LocalStorage) -> None:
    """The objects in the segment may be synced or not."""
    keys = [stored(storage, b"x") for _ in range(5)] + [finished(storage, b"y") for _ in range(5)]
    assert 1 == len({key[:32] for key in keys}) == len(segments(storage))


@pytest.mark.parametrize(("size", "count"), [(5000, 1), (LARGE_BYTES + 1, 3)])
def test_concurrent_writers_share_a_segment_unless_their_files_are_large(
    storage: LocalStorage, size: int, count: int
) -> None:
    """Large files are written while they arrive, each to a separate segment. Later objects can use these segments."""
    for _round in range(3):
        writers = [storage.writer() for _ in range(3)]
        for number, writer in enumerate(writers):
            writer.write(bytes([number]) * size)
        keys = [writer.finish() for writer in writers]
        assert [bytes([number]) * size for number in range(3)] == [content(storage, key) for key in keys]
    assert count == len(segments(storage))


def test_the_memory_for_buffered_files_is_limited(storage: LocalStorage) -> None:
    """At the limit, a file is written while it arrives. Writers that have finished or discarded do not count."""
    size = LARGE_BYTES // 2
    writers = [storage.writer() for _ in range(LARGE_TOTAL_BYTES // LARGE_BYTES)]
    for writer in writers:
        writer.write(bytes(size))
    assert [] == segments(storage)
    late = storage.writer()
    late.write(bytes(size))
    assert 1 == len(segments(storage))
    storage.sync([late.finish(), writers[0].finish()])
    for writer in writers[1:]:
        writer.discard()
    again = [storage.writer() for _ in writers]
    for writer in again:
        writer.write(bytes([1]) * size)
    assert 1 == len(segments(storage))
    keys = [writer.finish() for writer in again]
    storage.sync(keys)
    assert [bytes([1]) * size] * len(keys) == [content(storage, key) for key in keys]


def test_a_reused_buffer_writes_no_bytes_of_an_earlier_object(storage: LocalStorage) -> None:
    """The content is followed by zeros up to the next block."""
    for size in (50_000, 3, 200_000, 70_000):
        key = stored(storage, bytes([255]) * size)
        path, start = segment_of(storage, key), int(key[33:], 16) * BLOCK
        end = start + RECORD.size + size
        assert bytes(-end % BLOCK) == path.read_bytes()[end : end + -end % BLOCK]


def test_objects_that_wait_for_their_sync_count_as_used_space(
    storage: LocalStorage, free_blocks: Callable[[LocalStorage], int]
) -> None:
    """The space of these objects is counted before they are written to the disk."""
    before = free_blocks(storage)
    keys = [finished(storage, bytes(LARGE_BYTES)) for _ in range(20)]
    assert before - free_blocks(storage) == 20 * (LARGE_BYTES // BLOCK + 1)
    storage.delete(keys[:10])
    storage.sync(keys[10:])
    assert before == free_blocks(storage)


@pytest.mark.parametrize("refused", ["open", "pwritev"])
def test_the_page_cache_is_used_without_direct_writes(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """A file system may refuse O_DIRECT when a file is opened, or refuse the alignment of the blocks."""
    call = getattr(os, refused)
    direct: list[int] = []

    def is_direct(target: Any, *arguments: Any) -> bool:
        flags = arguments[0] if refused == "open" else fcntl.fcntl(target, fcntl.F_GETFL)
        return bool(flags & os.O_DIRECT)

    def refusing(target: Any, *arguments: Any, **options: Any) -> Any:
        if is_direct(target, *arguments):
            direct.append(1)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return call(target, *arguments, **options)

    monkeypatch.setattr(os, refused, refusing)
    contents = [os.urandom(size) for size in (100, 5000, 300_000)]
    keys = [finished(storage, content) for content in contents]
    storage.sync(keys)
    assert contents == [content(storage, key) for key in keys]
    assert direct


def test_short_writes_are_completed(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may write less than requested and returns the number of bytes."""
    writev = os.pwritev

    def less(descriptor: int, pieces: Sequence[memoryview], offset: int) -> int:
        return writev(descriptor, [pieces[0][: max(BLOCK, len(pieces[0]) // 2 // BLOCK * BLOCK)]], offset)

    monkeypatch.setattr(os, "pwritev", less)
    contents = [os.urandom(size) for size in (100, 50_000, 300_000)]
    keys = [finished(storage, content) for content in contents]
    storage.sync(keys)
    assert contents == [content(storage, key) for key in keys]


def test_the_space_of_deleted_objects_is_freed(storage: LocalStorage) -> None:
    """The space is freed at once, while other objects remain in the segment."""
    key, other = stored(storage, os.urandom(1 << 20)), stored(storage, b"y")
    before = segment_of(storage, key).stat().st_blocks
    storage.delete([key])
    assert before - segment_of(storage, other).stat().st_blocks >= (1 << 20) // 512
    assert b"y" == content(storage, other)


@pytest.mark.parametrize("segment_blocks", [3])
def test_the_space_is_freed_with_the_segment_without_hole_punching(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The space is freed when the last object of the segment is deleted."""

    def no_holes(*_arguments: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(segment, "_punch_hole", no_holes)
    first, second = stored(storage, b"x"), stored(storage, b"y")
    storage.delete([first])
    assert [second] == list(storage.keys())
    with pytest.raises(StoredObjectMissing):
        storage.read(first)
    storage.delete([second])
    assert [] == segments(storage)


@SMALL
def test_an_open_object_stays_readable_after_its_deletion(storage: LocalStorage) -> None:
    """The object can be read even if its segment is deleted."""
    key = stored(storage, b"x")
    with storage.read(key) as reader:
        assert b"x" == reader.read()
        storage.delete([key])
        assert [] == segments(storage)


def test_capacity_is_that_of_the_disk(storage: LocalStorage) -> None:
    """Free space is the space that an unprivileged service can use."""
    capacity = storage.capacity()
    disk = os.statvfs(storage.context.path)
    assert disk.f_blocks * disk.f_frsize == capacity.total_bytes
    assert 0 < capacity.free_bytes < capacity.total_bytes


def test_only_the_service_user_may_read(storage: LocalStorage) -> None:
    """The folder and the segments can be read by the service's user only."""
    stored(storage, b"x")
    root = storage.context.path / "instances"
    assert 0o700 == stat.S_IMODE(root.stat().st_mode)
    assert [0o600] == [stat.S_IMODE(path.stat().st_mode) for path in segments(storage)]


def test_the_backend_is_registered_by_the_plugin_hook() -> None:
    """The module's hook returns the backend under its name in the configuration."""
    assert {"local": LocalStorage} == {backend.name: backend for backend in dicom_adapter_storage_backends()}


# --- segments are created and deleted ---------------------------------------------------------------------------------


@SMALL
def test_a_full_segment_is_sealed_closed_and_deleted_when_it_is_empty(durable: LocalStorage) -> None:
    """A segment is sealed only after all its records are synced."""
    before = open_descriptors(durable)
    key = finished(durable, b"x")
    [path] = segments(durable)
    assert not is_sealed(path)
    durable.sync([key])
    assert is_sealed(path)
    assert before == open_descriptors(durable)
    durable.delete([key])
    assert [] == segments(durable)


@pytest.mark.parametrize("segment_blocks", [4])
def test_a_full_segment_stays_open_until_all_its_records_are_synced(durable: LocalStorage) -> None:
    """A record that is deleted before its sync does not delay the sealing."""
    first, second, third = (finished(durable, b"x") for _ in range(3))
    [path] = segments(durable)
    durable.sync([first])
    durable.delete([second])
    assert not is_sealed(path)
    durable.sync([third])
    assert is_sealed(path)
    assert {first, third} == set(durable.keys())


def recorded(storage: LocalStorage) -> Path:
    """Write and sync an object with a recovery record. Return its segment."""
    key = finish_object(storage, b"x", record=b"record")
    storage.sync([key])
    return segment_of(storage, key)


@SMALL
def test_a_segment_with_recovery_records_is_not_sealed_before_a_mark_of_it_is_confirmed(durable: LocalStorage) -> None:
    """Its records are read by the next start until then. A mark covers the segments that are synced when it is made.

    Verified to fail when a mark covers the segments of its confirmation, or confirms at once.
    """
    before = open_descriptors(durable)
    early = recorded(durable)
    mark = durable.mark()
    late = recorded(durable)
    assert [False, False] == [is_sealed(early), is_sealed(late)]
    mark.confirm()
    assert [True, False] == [is_sealed(early), is_sealed(late)]
    durable.mark().confirm()
    assert is_sealed(late)
    assert before == open_descriptors(durable)


def test_a_mark_does_not_cover_later_records_of_its_segment(durable: LocalStorage) -> None:
    """The segment is not full, so later objects are added to it. A start must read it if they are not confirmed.

    Verified to fail when a mark is kept as a list of segments without the number of their records.
    """
    path = recorded(durable)
    mark = durable.mark()
    assert path == recorded(durable)
    mark.confirm()
    durable.close()
    assert not is_sealed(path)


@SMALL
def test_a_large_object_is_completed_in_its_segment(durable: LocalStorage) -> None:
    """The object may have any size. The next object uses another segment."""
    large = os.urandom(20 * BLOCK)
    keys = [stored(durable, large), stored(durable, b"x")]
    assert large == content(durable, keys[0])
    assert 2 == len(segments(durable))


def test_empty_segments_are_deleted_on_close(storage: LocalStorage) -> None:
    """Segments with open writers are kept until the writers end. No descriptor remains open."""
    before = open_descriptors(storage)
    keys = [stored(storage, b"x") for _ in range(3)]
    storage.delete(keys)
    assert 1 == len(segments(storage))
    assert stored(storage, b"x")[:32] == keys[0][:32]
    storage.delete(list(storage.keys()))
    storage.close()
    assert ([], before) == (segments(storage), open_descriptors(storage))


# --- several threads and processes ------------------------------------------------------------------------------------


def test_another_process_reads_and_deletes_in_an_open_segment(storage: LocalStorage) -> None:
    """The segment stays, and its writer continues. Verified to fail when there is no lock: the segment is deleted."""
    key = stored(storage, b"shared")
    second = LocalStorage(NoSettings(), storage.context)
    second.open()
    assert ([key], b"shared") == (list(second.keys()), content(second, key))
    writer = storage.writer()
    writer.write(b"meanwhile")
    second.delete([key])
    assert [segment_of(storage, key)] == segments(storage)
    later = writer.finish()
    storage.sync([later])
    assert ([later], b"meanwhile") == (list(second.keys()), content(second, later))


def delete_in_a_process(context: StorageContext, keys: Any, deleted: Any) -> None:
    """Delete the keys that arrive, until None."""
    storage = LocalStorage(NoSettings(), context)
    storage.open()
    while (key := keys.get()) is not None:
        storage.delete([key])
        deleted.put(key)
    storage.close()


@pytest.mark.parametrize("segment_blocks", [16])
def test_another_process_deletes_while_this_one_writes(durable: LocalStorage) -> None:
    """Segments fill and are deleted. All remaining objects are intact."""
    spawn = multiprocessing.get_context("spawn")
    keys, deleted = spawn.Queue(), spawn.Queue()
    process = spawn.Process(target=delete_in_a_process, args=(durable.context, keys, deleted))
    process.start()
    kept: dict[str, bytes] = {}
    for number in range(200):
        data = str(number).encode() * (number % 50 * 40)
        key = stored(durable, data)
        if number % 4:
            keys.put(key)
        else:
            kept[key] = data
    keys.put(None)
    gone = [deleted.get(timeout=60) for _ in range(150)]
    process.join(60)
    assert (150, 0) == (len(set(gone)), process.exitcode)
    assert kept == contents(durable)


@pytest.mark.parametrize("segment_blocks", [8])
def test_concurrent_threads_lose_no_object(storage: LocalStorage) -> None:
    """Many threads write, sync, read and delete.

    Every object that is kept is intact, and no descriptor remains open.
    """
    before = open_descriptors(storage)

    def write_and_maybe_delete(number: int) -> tuple[str, bytes]:
        data = str(number).encode() * number
        key = stored(storage, data[: number // 2], data[number // 2 :])
        assert data == content(storage, key)
        if number % 2:
            storage.delete([key])
        return key, data

    with ThreadPoolExecutor(8) as pool:
        objects = list(pool.map(write_and_maybe_delete, range(200)))
    kept = dict(objects[::2])
    assert kept == contents(storage)
    storage.close()
    assert before == open_descriptors(storage)
