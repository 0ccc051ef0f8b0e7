"""The `local` storage backend: what it promises when all goes well, and what is left when it does not."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import NoSettings, StorageContext, StorageFull, StoredObjectMissing
from dicom_adapter.storage.local import segment
from dicom_adapter.storage.local.backend import SEGMENT_BYTES, LocalStorage, dicom_adapter_storage_backends
from dicom_adapter.storage.local.buffers import LARGE_BYTES, LARGE_TOTAL_BYTES
from dicom_adapter.storage.local.segment import BLOCK, RECORD, SEGMENT, Segment
from support.local_storage import kill_local_storage

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


SMALL = pytest.mark.parametrize("segment_blocks", [2])  # a segment is full after its first object


@pytest.fixture
def segment_blocks() -> int:
    """Blocks after which a segment is full."""
    return SEGMENT_BYTES // BLOCK


@pytest.fixture(params=[True, False], ids=["durable", "not-durable"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, segment_blocks: int) -> Iterator[LocalStorage]:
    yield from opened(tmp_path / "data", durable=request.param, segment_blocks=segment_blocks)


@pytest.fixture
def durable(tmp_path: Path, segment_blocks: int) -> Iterator[LocalStorage]:
    yield from opened(tmp_path / "data", durable=True, segment_blocks=segment_blocks)


def opened(path: Path, *, durable: bool, segment_blocks: int = SEGMENT_BYTES // BLOCK) -> Iterator[LocalStorage]:
    context = StorageContext(path=path, durable=durable)
    storage = LocalStorage(NoSettings(), context, segment_bytes=segment_blocks * BLOCK)
    storage.open()
    yield storage
    storage.close()


def finished(storage: LocalStorage, *pieces: bytes | memoryview) -> str:
    writer = storage.writer()
    for piece in pieces:
        writer.write(piece)
    return writer.finish()


def stored(storage: LocalStorage, *pieces: bytes) -> str:
    key = finished(storage, *pieces)
    storage.sync([key])
    return key


def content(storage: LocalStorage, key: str) -> bytes:
    with storage.read(key) as reader:
        return reader.read()


def contents(storage: LocalStorage) -> dict[str, bytes]:
    found = list(storage.keys())
    assert len(found) == len(set(found))
    return {key: content(storage, key) for key in found}


def segments(storage: LocalStorage) -> list[Path]:
    return sorted((storage.context.path / "instances").iterdir())


def segment_of(storage: LocalStorage, key: str) -> Path:
    return storage.context.path / "instances" / f"{key[:32]}.segment"


def restarted(storage: LocalStorage) -> LocalStorage:
    again = LocalStorage(NoSettings(), storage.context)
    again.open()
    again.recover()
    return again


def open_descriptors(storage: LocalStorage) -> int:
    """Of its segments, also of those that are deleted. Others in this process open and close theirs meanwhile."""
    opened = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # another thread has closed it meanwhile
            opened.append(str(link.readlink()))
    return sum(target.startswith(f"{storage.context.path}/") for target in opened)


# --- what goes in comes out -------------------------------------------------------------------------------------------


def test_pieces_are_written_together(storage: LocalStorage) -> None:
    """In their order, as many as there are."""
    writer = storage.writer()
    writer.write(b"head ")
    writer.write_pieces([bytes([number % 256]) for number in range(3000)])
    key = writer.finish()
    assert b"head " + bytes(number % 256 for number in range(3000)) == content(storage, key)


def test_objects_of_an_ended_process_can_be_synced(storage: LocalStorage) -> None:
    """The segment is closed, and read again for that."""
    keys = [finished(storage, b"x"), finished(storage, b"y")]
    storage.sync(keys)
    restarted(storage).sync(keys)


def test_writers_that_take_turns_share_a_segment(storage: LocalStorage) -> None:
    """One after the other, synced or not."""
    keys = [stored(storage, b"x") for _ in range(5)] + [finished(storage, b"y") for _ in range(5)]
    assert 1 == len({key[:32] for key in keys}) == len(segments(storage))


@pytest.mark.parametrize(("size", "count"), [(5000, 1), (LARGE_BYTES + 1, 3)])
def test_writers_at_the_same_time_share_a_segment_unless_their_files_are_large(
    storage: LocalStorage, size: int, count: int
) -> None:
    """Those that are written as they come have one each, and leave it to others."""
    for _round in range(3):
        writers = [storage.writer() for _ in range(3)]
        for number, writer in enumerate(writers):
            writer.write(bytes([number]) * size)
        keys = [writer.finish() for writer in writers]
        assert [bytes([number]) * size for number in range(3)] == [content(storage, key) for key in keys]
    assert count == len(segments(storage))


def test_what_is_held_of_all_files_together_has_a_limit(storage: LocalStorage) -> None:
    """Who comes when it is reached is written as it comes; who has ended does not count, however that was."""
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


def test_nothing_of_an_earlier_object_is_left_in_the_room_of_a_later_one(storage: LocalStorage) -> None:
    """What they are put together in is used again; behind a content there are zeros up to the next block."""
    for size in (50_000, 3, 200_000, 70_000):
        key = stored(storage, bytes([255]) * size)
        path, start = segment_of(storage, key), int(key[33:], 16) * BLOCK
        end = start + RECORD.size + size
        assert bytes(-end % BLOCK) == path.read_bytes()[end : end + -end % BLOCK]


@pytest.fixture
def free_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[LocalStorage], int]:
    """Return a function for the free blocks of a storage on a disk whose free space does not change."""
    disk = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda _path: disk)
    return lambda storage: storage.capacity().free_bytes // BLOCK


def test_objects_that_wait_for_their_sync_count_as_used_space(
    storage: LocalStorage, free_blocks: Callable[[LocalStorage], int]
) -> None:
    """So the free space of the disk is known before the objects are written to it."""
    before = free_blocks(storage)
    keys = [finished(storage, bytes(LARGE_BYTES)) for _ in range(20)]
    assert before - free_blocks(storage) == 20 * (LARGE_BYTES // BLOCK + 1)
    storage.delete(keys[:10])
    storage.sync(keys[10:])
    assert before == free_blocks(storage)


@pytest.mark.parametrize("refused", ["open", "pwritev"])
def test_where_there_is_no_way_past_the_page_cache_it_goes_through_it(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """File systems refuse O_DIRECT when a file is opened, or when blocks are not as they want them."""
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
    keys = [finished(storage, one) for one in contents]
    storage.sync(keys)
    assert contents == [content(storage, key) for key in keys]
    assert direct


def test_a_write_that_takes_less_is_completed(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may do so, and then says how much it took."""
    writev = os.pwritev

    def less(descriptor: int, pieces: Sequence[memoryview], offset: int) -> int:
        return writev(descriptor, [pieces[0][: max(BLOCK, len(pieces[0]) // 2 // BLOCK * BLOCK)]], offset)

    monkeypatch.setattr(os, "pwritev", less)
    contents = [os.urandom(size) for size in (100, 50_000, 300_000)]
    keys = [finished(storage, one) for one in contents]
    storage.sync(keys)
    assert contents == [content(storage, key) for key in keys]


def test_the_room_of_what_is_deleted_goes_back(storage: LocalStorage) -> None:
    """At once, whatever else is in its segment."""
    key, other = stored(storage, os.urandom(1 << 20)), stored(storage, b"y")
    before = segment_of(storage, key).stat().st_blocks
    storage.delete([key])
    assert before - segment_of(storage, other).stat().st_blocks >= (1 << 20) // 512
    assert b"y" == content(storage, other)


@pytest.mark.parametrize("segment_blocks", [3])
def test_where_there_are_no_holes_the_room_goes_back_with_the_segment(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last object takes it along."""

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
def test_what_is_read_stays_readable_while_it_is_open(storage: LocalStorage) -> None:
    """Its segment goes meanwhile."""
    key = stored(storage, b"x")
    with storage.read(key) as reader:
        assert b"x" == reader.read()
        storage.delete([key])
        assert [] == segments(storage)


def test_capacity_is_that_of_the_disk(storage: LocalStorage) -> None:
    """Free room is what an unprivileged service may still fill."""
    capacity = storage.capacity()
    disk = os.statvfs(storage.context.path)
    assert disk.f_blocks * disk.f_frsize == capacity.total_bytes
    assert 0 < capacity.free_bytes < capacity.total_bytes


def test_nobody_else_may_read(storage: LocalStorage) -> None:
    """Folder and segments are the service's own."""
    stored(storage, b"x")
    root = storage.context.path / "instances"
    assert 0o700 == stat.S_IMODE(root.stat().st_mode)
    assert [0o600] == [stat.S_IMODE(path.stat().st_mode) for path in segments(storage)]


def test_it_is_registered_as_any_plugin_is() -> None:
    """The module's hook returns the backend under the name that the configuration uses."""
    assert {"local": LocalStorage} == {backend.name: backend for backend in dicom_adapter_storage_backends()}


# --- segments come and go ---------------------------------------------------------------------------------------------


@SMALL
def test_a_full_segment_is_sealed_closed_and_dropped_when_it_is_empty(durable: LocalStorage) -> None:
    """Not before what is in it is synced."""
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
def test_a_full_segment_waits_for_all_that_is_in_it(durable: LocalStorage) -> None:
    """What is deleted before its sync does not hold it up."""
    first, second, third = (finished(durable, b"x") for _ in range(3))
    [path] = segments(durable)
    durable.sync([first])
    durable.delete([second])
    assert not is_sealed(path)
    durable.sync([third])
    assert is_sealed(path)
    assert {first, third} == set(durable.keys())


@SMALL
def test_a_large_object_is_finished_in_the_segment_where_it_was_begun(durable: LocalStorage) -> None:
    """However large it is; the next one has another segment."""
    large = os.urandom(20 * BLOCK)
    keys = [stored(durable, large), stored(durable, b"x")]
    assert large == content(durable, keys[0])
    assert 2 == len(segments(durable))


def test_nothing_is_left_of_segments_that_are_empty_in_the_end(storage: LocalStorage) -> None:
    """Those that are still written are kept while they are; no descriptor is lost."""
    before = open_descriptors(storage)
    keys = [stored(storage, b"x") for _ in range(3)]
    storage.delete(keys)
    assert 1 == len(segments(storage))
    assert stored(storage, b"x")[:32] == keys[0][:32]
    storage.delete(list(storage.keys()))
    storage.close()
    assert ([], before) == (segments(storage), open_descriptors(storage))


def is_sealed(path: Path) -> bool:
    found = Segment.open(path)
    try:
        return found.is_sealed
    finally:
        found.close()


# --- several at once --------------------------------------------------------------------------------------------------


def test_another_process_reads_and_deletes_in_a_segment_that_is_written(storage: LocalStorage) -> None:
    """The segment stays, and its writer continues. Tried: without the lock, the segment is deleted."""
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
    """Delete whatever is asked for, until None."""
    storage = LocalStorage(NoSettings(), context)
    storage.open()
    while (key := keys.get()) is not None:
        storage.delete([key])
        deleted.put(key)
    storage.close()


@pytest.mark.parametrize("segment_blocks", [16])
def test_another_process_deletes_while_this_one_writes(durable: LocalStorage) -> None:
    """Segments fill and go; what was not deleted is whole."""
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
def test_threads_fill_segments_without_losing_one(storage: LocalStorage) -> None:
    """Writers, syncs, reads and deletes from many threads: every kept object is whole, and no descriptor is lost."""
    before = open_descriptors(storage)

    def life(number: int) -> tuple[str, bytes]:
        data = str(number).encode() * number
        key = stored(storage, data[: number // 2], data[number // 2 :])
        assert data == content(storage, key)
        if number % 2:
            storage.delete([key])
        return key, data

    with ThreadPoolExecutor(8) as pool:
        lives = list(pool.map(life, range(200)))
    kept = dict(lives[::2])
    assert kept == contents(storage)
    storage.close()
    assert before == open_descriptors(storage)


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


def test_without_durability_nothing_waits_for_the_disk(tmp_path: Path, recorded: list[str]) -> None:
    """`durability = "process"`: a process may end, the power must not."""
    for storage in opened(tmp_path / "data", durable=False):
        assert b"x" == content(storage, stored(storage, b"x"))
    assert [] == recorded


# --- no room, and other failures --------------------------------------------------------------------------------------


def failing(error: int, after: int = 0) -> Callable[..., Any]:
    """A system call that works `after` times and then fails with `error`."""
    calls = iter(range(after))

    def call(*_arguments: Any, **_options: Any) -> None:
        if next(calls, None) is None:
            raise OSError(error, os.strerror(error))

    return call


NO_ROOM = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])


@NO_ROOM
def test_no_room_while_writing(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
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


@NO_ROOM
def test_no_room_for_the_end(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
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


@NO_ROOM
def test_no_room_for_what_waits(
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


@NO_ROOM
def test_no_room_for_another_segment(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """When not even an empty one can be made, that is StorageFull too, and nothing of it is left."""
    before = open_descriptors(storage)
    with monkeypatch.context() as full:
        full.setattr(os, "pwritev", failing(error))
        with pytest.raises(StorageFull):
            storage.writer().finish()
    assert ([], before) == (segments(storage), open_descriptors(storage))


@NO_ROOM
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_no_room_while_syncing(durable: LocalStorage, monkeypatch: pytest.MonkeyPatch, error: int, call: str) -> None:
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


def test_a_segment_whose_sync_failed_is_not_trusted_again(
    durable: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_writer_that_ended_takes_nothing_more(storage: LocalStorage) -> None:
    """To go on writing after `finish` or `discard` is a bug in the caller and says so."""
    for end in ("finish", "discard"):
        writer = storage.writer()
        getattr(writer, end)()
        with pytest.raises(ValueError, match="finished or discarded"):
            writer.write(b"x")
        with pytest.raises(ValueError, match="finished or discarded"):
            writer.finish()


# --- after a crash ----------------------------------------------------------------------------------------------------


def test_a_restart_takes_away_what_was_half_written(durable: LocalStorage) -> None:
    """After `kill -9`: what was stored stays, what had no end goes, and its room."""
    kept = stored(durable, b"kept")
    size = segment_of(durable, kept).stat().st_size
    durable.writer().write(os.urandom(10 * BLOCK))
    kill_local_storage(durable)
    again = restarted(durable)
    assert {kept: b"kept"} == contents(again)
    assert segment_of(durable, kept).stat().st_size <= size + BLOCK
    assert is_sealed(segment_of(durable, kept))


def test_a_restart_takes_away_records_that_are_not_whole(durable: LocalStorage) -> None:
    """A power loss may leave a header whose content is lost, between others. Tried: without the check, it is a key."""
    first, torn, last = (stored(durable, bytes([number]) * 9000) for number in range(3))
    path = segment_of(durable, torn)
    kill_local_storage(durable)
    with path.open("r+b") as file:
        file.seek(int(torn[33:], 16) * BLOCK + BLOCK)
        file.write(bytes(BLOCK))
    again = restarted(durable)
    assert {first: bytes(9000), last: b"\2" * 9000} == contents(again)


def test_a_restart_drops_segments_without_anything_in_them(durable: LocalStorage) -> None:
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
def test_a_restart_does_not_read_what_is_sealed(durable: LocalStorage, monkeypatch: Any) -> None:
    """However much is stored, a start is quick."""
    key = stored(durable, b"x")
    monkeypatch.setattr(Segment, "walk", failing(errno.EIO))
    monkeypatch.setattr(Segment, "is_empty", lambda _segment: False)
    again = restarted(durable)
    assert b"x" == content(again, key)


def test_before_the_first_start_there_is_nothing_to_mend(tmp_path: Path) -> None:
    """Not even a folder."""
    LocalStorage(NoSettings(), StorageContext(path=tmp_path / "none", durable=True)).recover()
    assert [] == list(tmp_path.iterdir())


def test_what_a_restart_leaves_is_not_written_again(durable: LocalStorage) -> None:
    """New objects go to new segments: nobody can hit what is there."""
    kept = stored(durable, b"kept")
    kill_local_storage(durable)
    again = restarted(durable)
    later = stored(again, b"later")
    assert kept[:32] != later[:32]
    assert {kept: b"kept", later: b"later"} == contents(again)
    again.close()


# --- keys are not paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*NEARLY_KEYS, UNKNOWN])
def test_what_is_no_key_is_missing(storage: LocalStorage, key: str) -> None:
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
    """What an operator or another program left in the folder is neither listed nor touched."""
    root = storage.context.path / "instances"
    for name in ("notes.txt", "1" * 32 + ".dcm", "1" * 32 + ".segment~"):
        (root / name).write_bytes(b"foreign")
    assert [] == list(storage.keys())
    assert 3 == len(segments(storage))
