"""The conformance suite for storage backends: subclass it to test that your backend follows the contract."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from io import SEEK_CUR
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import StorageFull, StoredObjectMissing
from dicom_adapter.api.storage import InstanceWriter, StorageBackend, StorageContext
from dicom_adapter.testing.storage_records import MIB, MakeBackend, RecoveryRecordTests
from dicom_adapter.testing.stored_objects import INVALID_KEYS, finish_object, read_content, store

LARGE = 64 * MIB  # size in bytes of an object that does not fit into MAX_MEMORY
MAX_MEMORY = 16 * MIB  # bytes; maximum memory for writing and reading this object


class BaseStorageBackendTests(RecoveryRecordTests):
    """Base class of tests: subclass it with `backend`, and with `settings` if your backend has settings.

        class TestPlainFolder(BaseStorageBackendTests):
            backend = PlainFolder

    Pytest collects the subclass. Each test uses a new folder and runs twice: with `durable` true and false.
    """

    backend: ClassVar[type[StorageBackend[Any]]]
    streams: ClassVar[bool] = True  # False for a backend that holds whole objects in memory by design

    def settings(self, folder: Path) -> Any:  # noqa: ARG002 - for subclasses
        """Return the backend's settings. `folder` is the temporary folder of the test."""
        return NoSettings()

    def leftovers(self, storage: StorageBackend[Any]) -> int | None:  # noqa: ARG002 - for subclasses
        """Return the number of objects and partial objects that use space, or None if it is unknown."""
        return None

    @pytest.fixture
    def no_space(self) -> Callable[[StorageBackend[Any]], AbstractContextManager[None]]:
        """A function that returns, for a backend, a context without free space. Override it to test a full storage."""
        pytest.skip("the fixture `no_space` is not overridden: a full storage is not tested")

    # --- fixtures

    @pytest.fixture(params=[True, False], ids=["durable", "not-durable"])
    def durable(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture
    def make_backend(self, durable: bool, tmp_path: Path) -> Iterator[MakeBackend]:
        """A factory of open backends on the same folder, as several processes of the service open them."""
        made: list[StorageBackend[Any]] = []

        def make() -> StorageBackend[Any]:
            made.append(self._make_closed(tmp_path, durable=durable))
            made[-1].open()
            return made[-1]

        yield make
        for storage in made:
            storage.close()

    @pytest.fixture
    def storage(self, make_backend: MakeBackend) -> StorageBackend[Any]:
        return make_backend()

    def _make_closed(self, folder: Path, *, durable: bool) -> StorageBackend[Any]:
        path = folder / "data"
        path.mkdir(exist_ok=True)
        return self.backend(self.settings(folder), StorageContext(path=path, durable=durable))

    # --- life cycle

    def test_backend_is_complete_and_has_a_name(self) -> None:
        """All abstract methods are implemented, and `name`, by which the configuration selects the class, is set."""
        missing = sorted(getattr(self.backend, "__abstractmethods__", ()))
        assert [] == missing, f"these methods are missing: {', '.join(missing)}"
        name = getattr(self.backend, "name", None)
        assert isinstance(name, str), "the class attribute `name` is missing"

    def test_constructor_has_no_side_effects(self, tmp_path: Path) -> None:
        """`dicom-adapter check` calls constructors, too: create files and connections in `open`."""
        self.settings(tmp_path)
        (tmp_path / "data").mkdir()
        before = sorted(tmp_path.rglob("*"))
        self._make_closed(tmp_path, durable=True)
        assert before == sorted(tmp_path.rglob("*")), "the constructor created files or folders: move that to open()"

    def test_backend_can_be_reopened(self, make_backend: MakeBackend) -> None:
        """Stored objects are still there after a restart of the service."""
        first = make_backend()
        key = store(first, b"kept")
        first.close()
        first.open()
        assert b"kept" == read_content(first, key), "a stored object is gone after close() and open()"
        assert b"kept" == read_content(make_backend(), key), "a new backend does not find a stored object"

    # --- writing and reading

    def test_written_pieces_are_read_back(self, storage: StorageBackend[Any]) -> None:
        """Pieces of any buffer type and size form one object."""
        key = store(storage, b"DICM", b"", memoryview(b"-pixels-")[1:7], b"!")
        assert b"DICMpixels!" == read_content(storage, key), "the content is not what was written"

    def test_buffer_may_be_reused_after_write(self, storage: StorageBackend[Any]) -> None:
        """The receiver reads the next piece into the same buffer."""
        buffer = bytearray(b"first")
        writer = storage.writer()
        writer.write(memoryview(buffer))
        buffer[:] = b"other"
        key = writer.finish()
        storage.sync([key])
        assert b"first" == read_content(storage, key), "write() kept the caller's buffer, which was reused meanwhile"

    def test_concurrently_written_objects_do_not_mix(self, storage: StorageBackend[Any]) -> None:
        """Several associations of one process write at the same time, piece by piece."""
        writers = [storage.writer() for _ in range(3)]
        for piece in (b"a", b"b"):
            for number, writer in enumerate(writers):
                writer.write(piece + str(number).encode())
        keys = [writer.finish() for writer in writers]
        storage.sync(keys)
        assert [b"a0b0", b"a1b1", b"a2b2"] == [read_content(storage, key) for key in keys], "objects were mixed up"

    def test_readers_are_seekable_and_independent(self, storage: StorageBackend[Any]) -> None:
        """Uploads of one instance to several platforms read at the same time, each from its own position."""
        key = store(storage, b"0123456789")
        with storage.read(key) as first, storage.read(key) as second:
            assert b"012" == first.read(3)
            assert b"0123" == second.read(4), "two readers of one object share their position"
            first.seek(8)
            assert (b"89", 10) == (first.read(), first.seek(0, SEEK_CUR)), "a reader must be able to seek"

    def test_large_object_needs_little_memory(self, storage: StorageBackend[Any]) -> None:
        """An object of 64 MiB is written and read in pieces: an instance may be larger than the memory."""
        if not self.streams:
            pytest.skip("streams = False: the backend holds whole objects in memory")
        tracemalloc.start()
        try:
            writer = storage.writer()
            for _ in range(LARGE // MIB):
                writer.write(bytes(MIB))
            key = writer.finish()
            storage.sync([key])
            size = 0
            with storage.read(key) as reader:
                while piece := reader.read(MIB):
                    size += len(piece)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert LARGE == size, f"{size} of {LARGE} bytes were read"
        assert peak < MAX_MEMORY, (
            f"an object of {LARGE // MIB} MiB took {peak // MIB} MiB of memory: write and read it in pieces"
        )

    def test_backend_is_thread_safe(self, storage: StorageBackend[Any]) -> None:
        """Threads write, sync, read and delete at the same time: every remaining object is complete."""

        def use_backend(number: int) -> tuple[str, bytes]:
            data = bytes([number]) * (number * 100)
            key, unwanted, abandoned = store(storage, data), store(storage, b"unwanted"), storage.writer()
            abandoned.write(b"abandoned")
            abandoned.discard()
            storage.delete([unwanted])
            return key, read_content(storage, key)

        with ThreadPoolExecutor(8) as threads:
            kept = dict(threads.map(use_backend, range(1, 41)))
        sizes = [len(data) for data in kept.values()]
        assert [number * 100 for number in range(1, 41)] == sizes, "an object is incomplete"
        assert set(kept) == set(storage.keys()), "keys() must list the remaining objects, and no others"
        assert self.leftovers(storage) in (None, 40), "a deleted or discarded object still uses space"

    # --- keys

    def test_keys_are_unique_ascii_strings(self, storage: StorageBackend[Any], make_backend: MakeBackend) -> None:
        """The ledger stores the keys. Two objects never have the same key, even if different processes write them."""
        other = make_backend()
        keys = [finish_object(place, b"x") for _ in range(100) for place in (storage, other)]
        storage.sync(keys[::2])
        other.sync(keys[1::2])
        assert len(keys) == len(set(keys)), "two objects got the same key"
        invalid = [key for key in keys if not isinstance(key, str) or not key.isascii() or not 1 <= len(key) <= 200]
        assert [] == invalid, "keys must be ASCII strings of 1 to 200 characters"

    def test_stored_objects_are_listed(self, storage: StorageBackend[Any], make_backend: MakeBackend) -> None:
        """`keys` lists the objects that were synced and not deleted: an audit compares them with the ledger."""
        kept, deleted = store(storage, b"kept"), store(storage, b"deleted")
        storage.delete([deleted])
        written = storage.writer()
        written.write(b"half")
        assert [kept] == list(storage.keys()), "keys() must list stored objects only, not partial or deleted ones"
        assert [kept] == list(make_backend().keys()), "keys() must list the objects that other processes have stored"
        written.discard()

    @pytest.mark.parametrize("key", INVALID_KEYS)
    def test_invalid_keys_access_nothing(self, storage: StorageBackend[Any], tmp_path: Path, key: str) -> None:
        """Keys are read from the ledger, which may be damaged: no key gives access outside of the backend's folder."""
        kept, outside = store(storage, b"kept"), [tmp_path / "outside", tmp_path / "data" / "outside"]
        for path in outside:
            path.write_bytes(b"not an object of the backend")
        with pytest.raises(StoredObjectMissing):
            storage.read(key)
        try:
            storage.delete([key])
        except StoredObjectMissing:
            pass  # allowed, too: no object has such a key
        assert all(path.exists() for path in outside), (
            f"delete([{key!r}]) deleted a file outside of the backend's folder"
        )
        assert [kept] == list(storage.keys()), f"delete([{key!r}]) deleted another object"

    # --- durability: a C-STORE is acknowledged after `sync`

    def test_sync_of_many_objects_can_be_repeated(self, storage: StorageBackend[Any]) -> None:
        """A repeated sync has no effect."""
        keys = [finish_object(storage, str(number).encode()) for number in range(40)]
        storage.sync(keys)
        storage.sync(keys)
        storage.sync([])
        assert [str(number).encode() for number in range(40)] == [read_content(storage, key) for key in keys]

    def test_sync_fails_if_an_object_is_missing(self, storage: StorageBackend[Any]) -> None:
        """One missing object fails the whole batch: an instance that is not durable must not be acknowledged."""
        missing = finish_object(storage, b"missing")
        storage.delete([missing])
        with pytest.raises((StorageFull, OSError, StoredObjectMissing)):
            storage.sync([finish_object(storage, b"present"), missing])

    def test_another_process_sees_what_was_synced(
        self, storage: StorageBackend[Any], make_backend: MakeBackend
    ) -> None:
        """The receiver writes, the host reads and deletes."""
        key, host = store(storage, b"shared"), make_backend()
        assert b"shared" == read_content(host, key), "another process cannot read a stored object"
        host.delete([key])
        with pytest.raises(StoredObjectMissing):
            storage.read(key)

    def test_recovery_keeps_synced_objects_and_deletes_partial_ones(self, make_backend: MakeBackend) -> None:
        """After `kill -9`, acknowledged objects are complete, and partial objects use no space."""
        killed = make_backend()
        kept = store(killed, b"kept")
        finish_object(killed, b"never synced")
        half = killed.writer()
        half.write(b"half")
        try:
            started = make_backend()
            started.recover()
            keys = list(started.keys())
            assert kept in keys, "after recover(), a synced object is missing"
            complete = {b"kept", b"never synced"}  # an object that was finished and not synced may remain
            assert complete >= {read_content(started, key) for key in keys}, "recover() did not delete a partial object"
            assert b"kept" == read_content(started, kept)
            assert self.leftovers(started) in (None, len(keys)), "recover() did not delete a partial object"
        finally:
            half.discard()  # releases the locks and descriptors of the killed process

    # --- discard and delete

    def test_discarded_objects_are_gone(self, storage: StorageBackend[Any]) -> None:
        """`discard` deletes an object before and after `finish`, and may be called twice."""
        early, late = storage.writer(), storage.writer()
        for writer in (early, late):
            writer.write(b"x")
        key = late.finish()
        for writer in (early, late, early, late):
            writer.discard()
        with pytest.raises(StoredObjectMissing):
            storage.read(key)
        assert [] == list(storage.keys()), "keys() lists a discarded object"
        assert self.leftovers(storage) in (None, 0), "a discarded object still uses space"

    def test_deleting_a_deleted_object_succeeds(self, storage: StorageBackend[Any]) -> None:
        """The adapter records a deletion only afterwards, so after a crash it may delete the same object again."""
        key, other, unsynced = store(storage, b"x"), store(storage, b"y"), finish_object(storage, b"z")
        storage.delete(iter([key, unsynced]))
        storage.delete([key, unsynced])
        assert [other] == list(storage.keys()), "delete() must delete its keys, and no others"
        assert self.leftovers(storage) in (None, 1), "a deleted object still uses space"

    def test_missing_object_raises_stored_object_missing(self, storage: StorageBackend[Any]) -> None:
        """After any other error, the adapter would retry forever, because it treats the error as transient."""
        key = store(storage, b"x")
        storage.delete([key])
        with pytest.raises(StoredObjectMissing):
            storage.read(key)

    # --- free space

    def test_the_capacity_is_reported(self, storage: StorageBackend[Any]) -> None:
        """The watermark is a percentage of the capacity. None means that there is no limit."""
        capacity = storage.capacity()
        if capacity is not None:
            assert 0 <= capacity.free_bytes <= capacity.total_bytes, (
                f"free_bytes must be between 0 and total_bytes: {capacity}"
            )

    def test_full_storage_raises_storage_full_and_keeps_nothing(
        self, storage: StorageBackend[Any], no_space: Callable[[StorageBackend[Any]], AbstractContextManager[None]]
    ) -> None:
        """The receiver answers StorageFull with the status *out of resources*, and senders retry later."""
        kept = store(storage, b"kept")
        with no_space(storage):
            writer: InstanceWriter | None = None
            with pytest.raises(StorageFull):
                writer = storage.writer()
                writer.write(bytes(MIB))
                storage.sync([writer.finish()])
            if writer is not None:
                writer.discard()
        assert [kept] == list(storage.keys())
        assert self.leftovers(storage) in (None, 1), "an object that could not be stored still uses space"
        assert b"again" == read_content(storage, store(storage, b"again")), (
            "the backend stays full although there is free space again"
        )
