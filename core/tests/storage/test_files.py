"""The `files` storage backend: durability, full and failing disks, and recovery after a crash."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dicom_adapter import NoSettings, StorageContext, StorageFull, StoredObjectMissing
from dicom_adapter.storage.files import OPEN_LIMIT, FileStorage, dicom_adapter_storage_backends

UNKNOWN = "0" * 32
NEARLY_KEYS = ["", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n", "0" * 31 + "\0"]


@pytest.fixture(params=[True, False], ids=["durable", "not-durable"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileStorage]:
    yield from opened(tmp_path / "data", durable=request.param)


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[FileStorage]:
    yield from opened(tmp_path / "data", durable=True)


def opened(path: Path, *, durable: bool) -> Iterator[FileStorage]:
    storage = FileStorage(NoSettings(), StorageContext(path=path, durable=durable))
    storage.open()
    yield storage
    storage.close()


def finished(storage: FileStorage, *pieces: bytes | memoryview) -> str:
    writer = storage.writer()
    for piece in pieces:
        writer.write(piece)
    return writer.finish()


def stored(storage: FileStorage, *pieces: bytes) -> str:
    key = finished(storage, *pieces)
    storage.sync([key])
    return key


def content(storage: FileStorage, key: str) -> bytes:
    with storage.read(key) as reader:
        return reader.read()


def files(storage: FileStorage) -> list[Path]:
    return [path for path in storage.context.path.rglob("*") if path.is_file()]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- writing and reading ----------------------------------------------------------------------------------------------


def test_short_writes_are_completed(storage: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte is lost when the kernel writes only three bytes at a time."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, piece: write(descriptor, memoryview(piece)[:3]))
    assert content(storage, stored(storage, b"0123456789")) == b"0123456789"


def test_a_key_is_readable_only_after_sync(storage: FileStorage) -> None:
    """Neither `read` nor `keys` returns a file that is finished but not synced."""
    key = finished(storage, b"x")
    assert list(storage.keys()) == []
    with pytest.raises(StoredObjectMissing):
        storage.read(key)
    storage.sync([key])
    assert [key] == list(storage.keys())


def test_more_files_than_descriptors_can_be_written(durable: FileStorage) -> None:
    """The number of open descriptors that wait for `sync` is limited, and all of them are closed in the end."""
    before = open_descriptors()
    keys = [finished(durable, b"x") for _ in range(OPEN_LIMIT + 20)]
    assert before + OPEN_LIMIT == open_descriptors()
    durable.sync(keys)
    assert before == open_descriptors()
    assert set(keys) == set(durable.keys())


def test_capacity_is_that_of_the_disk(storage: FileStorage) -> None:
    """Free space is the space that an unprivileged service can use."""
    capacity = storage.capacity()
    disk = os.statvfs(storage.context.path)
    assert disk.f_blocks * disk.f_frsize == capacity.total_bytes
    assert 0 < capacity.free_bytes < capacity.total_bytes


def test_only_the_service_user_may_read(storage: FileStorage) -> None:
    """Folders and files can be read by the service's user only."""
    finished(storage, b"waiting")
    stored(storage, b"stored")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in storage.context.path.rglob("*")}
    assert {0o600} == {mode for path, mode in modes.items() if path.is_file()}
    assert {0o700} == {mode for path, mode in modes.items() if path.is_dir()}


def test_the_backend_is_registered_by_the_plugin_hook() -> None:
    """The module's hook returns the backend under its name in the configuration."""
    assert {"files": FileStorage} == {backend.name: backend for backend in dicom_adapter_storage_backends()}


# --- durability -------------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return the list of disk operations in order: ("fsync" or "rename", the name at that moment)."""
    calls: list[tuple[str, str]] = []
    fsync, rename = os.fsync, Path.replace

    def recording_fsync(descriptor: int) -> None:
        calls.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def recording_rename(self: Path, target: Path) -> Path:
        calls.append(("rename", str(target)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "replace", recording_rename)
    return calls


def test_sync_writes_data_then_names_then_folders(durable: FileStorage, recorded: list[tuple[str, str]]) -> None:
    """`sync` writes the data of each file before the file's name, and each folder once, after all names in it."""
    keys = [finished(durable, b"x") for _ in range(3)]
    durable.sync(keys)
    instances = durable.context.path / "instances"
    for key in keys:
        data = recorded.index(("fsync", str(instances / "incoming" / f"{key}.part")))
        name = recorded.index(("rename", str(instances / key[:2] / f"{key}.dcm")))
        folder = recorded.index(("fsync", str(instances / key[:2])))
        assert data < name < folder
    assert 3 + 3 + len({key[:2] for key in keys}) == len(recorded)


def test_the_files_of_one_batch_share_a_folder(durable: FileStorage, recorded: list[tuple[str, str]]) -> None:
    """A batch needs one fsync of a folder, not one for each file. The next batch uses another folder."""
    batches = [[finished(durable, b"x") for _ in range(4)]]
    durable.sync(batches[0])
    batches.append([finished(durable, b"x") for _ in range(4)])
    assert [len({key[:2] for key in batch}) for batch in batches] == [1, 1]
    assert batches[0][0][:2] != batches[1][0][:2]


def test_new_folders_are_durable_after_open(tmp_path: Path, recorded: list[tuple[str, str]]) -> None:
    """The name of a shard folder is durable before a file is written to it."""
    for storage in opened(tmp_path / "data", durable=True):
        assert ("fsync", str(tmp_path / "data" / "instances")) in recorded
        assert ("fsync", str(tmp_path / "data")) in recorded
        recorded.clear()
        key = stored(storage, b"x")
        assert ("fsync", str(tmp_path / "data" / "instances" / key[:2])) in recorded


def test_nothing_is_synced_without_durability(tmp_path: Path, recorded: list[tuple[str, str]]) -> None:
    """With `durability = "process"`, files are only renamed."""
    for storage in opened(tmp_path / "data", durable=False):
        stored(storage, b"x")
    assert [call for call, _ in recorded] == ["rename"]


# --- full and failing disks -------------------------------------------------------------------------------------------


def failing(error: int, after: int = 0) -> Callable[..., Any]:
    """Return a system call that succeeds `after` times and then fails with `error`."""
    calls = iter(range(after))

    def call(*_arguments: Any, **_options: Any) -> None:
        if next(calls, None) is None:
            raise OSError(error, os.strerror(error))

    return call


NO_SPACE = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])


@NO_SPACE
def test_a_full_disk_raises_storage_full_while_writing(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """No file and no descriptor remain. The next instance is stored when there is free space."""
    before = open_descriptors()
    writer = storage.writer()
    writer.write(b"fits")
    with monkeypatch.context() as full:
        full.setattr(os, "write", failing(error))
        with pytest.raises(StorageFull):
            writer.write(b"does not")
    assert files(storage) == []
    assert before == open_descriptors()
    writer.discard()
    assert content(storage, stored(storage, b"x")) == b"x"


@NO_SPACE
def test_a_full_disk_raises_storage_full_for_a_new_file(
    storage: FileStorage, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """The file system cannot create even an empty file."""
    with monkeypatch.context() as full:
        full.setattr(os, "open", failing(error))
        with pytest.raises(StorageFull):
            storage.writer()


@NO_SPACE
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_full_disk_raises_storage_full_while_syncing(
    durable: FileStorage, monkeypatch: pytest.MonkeyPatch, error: int, after: int
) -> None:
    """The data or the folder cannot be synced; no object of the batch is stored."""
    before = open_descriptors()
    keys = [finished(durable, b"x"), finished(durable, b"y")]
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", failing(error, after))
        with pytest.raises(StorageFull):
            durable.sync(keys)
    assert files(durable) == []
    assert before == open_descriptors()


def test_a_failing_disk_is_not_reported_as_full(durable: FileStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other errors keep their type. No file remains."""
    key, earlier = finished(durable, b"x"), stored(durable, b"y")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            durable.sync([key, earlier])
    assert [earlier] == list(durable.keys())
    assert len(files(durable)) == 1


def test_a_synced_file_cannot_be_discarded(storage: FileStorage) -> None:
    """A synced file may have been acknowledged. A file that is finished but not synced is deleted."""
    writer, unsynced = storage.writer(), storage.writer()
    kept, gone = writer.finish(), unsynced.finish()
    storage.sync([kept])
    writer.discard()
    unsynced.discard()
    assert ([kept], 1) == (list(storage.keys()), len(files(storage)))
    with pytest.raises(StoredObjectMissing):
        storage.sync([gone])


def test_a_writer_that_has_ended_refuses_further_calls(storage: FileStorage) -> None:
    """A write after `finish` or `discard` is a bug of the caller."""
    writer = storage.writer()
    writer.discard()
    with pytest.raises(ValueError, match="finished or discarded"):
        writer.write(b"x")
    with pytest.raises(ValueError, match="finished or discarded"):
        writer.finish()


def test_recovery_deletes_half_written_files(tmp_path: Path) -> None:
    """After `kill -9`, synced files are kept and all other files are deleted."""
    killed = FileStorage(NoSettings(), StorageContext(path=tmp_path, durable=True))
    killed.recover()  # before the first start, the folder does not exist either
    killed.open()
    kept = stored(killed, b"kept")
    finished(killed, b"never synced")
    killed.writer().write(b"half")
    restarted = FileStorage(NoSettings(), killed.context)
    restarted.open()
    restarted.recover()
    assert [kept] == list(restarted.keys())
    assert [f"{kept}.dcm"] == [path.name for path in files(restarted)]
    killed.close()


def test_close_deletes_unsynced_files(tmp_path: Path) -> None:
    """Unsynced files were not acknowledged."""
    before = open_descriptors()
    for storage in opened(tmp_path, durable=True):
        finished(storage, b"x")
    assert files(storage) == []
    assert before == open_descriptors()


# --- keys are not paths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*NEARLY_KEYS, UNKNOWN])
def test_an_invalid_key_names_no_file(storage: FileStorage, key: str) -> None:
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


def test_foreign_files_are_not_keys(storage: FileStorage) -> None:
    """Files of operators or other programs are neither listed nor changed."""
    shard = storage.context.path / "instances" / "00"
    for name in ("notes.txt", "1" * 32 + ".dcm", "0" * 32 + ".dcm~", "0" * 32):
        (shard / name).write_bytes(b"foreign")
    assert list(storage.keys()) == []
    assert len(files(storage)) == 4
