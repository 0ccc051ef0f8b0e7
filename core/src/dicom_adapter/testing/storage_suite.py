"""Conformance suite for storage backends: subclass it to test that yours keeps the contract."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import StorageFull, StoredObjectMissing
from dicom_adapter.api.storage import InstanceWriter, StorageBackend, StorageContext
from dicom_adapter.testing.stored_objects import HOSTILE_KEYS, content, finished, recoverable, stored, unconfirmed

MakeBackend = Callable[[], StorageBackend[Any]]
MIB = 1 << 20
LARGE = 64 * MIB
MOST_MEMORY = 16 * MIB  # for writing and reading an object of LARGE bytes


class BaseStorageBackendTests:
    """Subclass it with `backend`, and `settings` if your backend has any; pytest collects the subclass.

        class TestPlainFolder(BaseStorageBackendTests):
            backend = PlainFolder

    Each test opens its backends on a folder of its own, with and without `durable`.
    """

    backend: ClassVar[type[StorageBackend[Any]]]
    streams: ClassVar[bool] = True  # False for a backend that holds whole objects in memory by design

    def settings(self, folder: Path) -> Any:  # noqa: ARG002 - for subclasses
        """The backend's settings; `folder` is the test's."""
        return NoSettings()

    def leftovers(self, storage: StorageBackend[Any]) -> int | None:  # noqa: ARG002 - for subclasses
        """Return how many stored objects and parts of objects use space, or None if that is not known."""
        return None

    def kill(self, storage: StorageBackend[Any]) -> None:
        """Release the locks and descriptors that the kernel takes from a killed process.

        Needed if the backend `keeps_recovery_records`.
        """
        raise NotImplementedError(
            "a backend with keeps_recovery_records = True implements here what the end of a process takes from it"
        )

    @pytest.fixture
    def no_space(self) -> Callable[[StorageBackend[Any]], AbstractContextManager[None]]:
        """Function of a backend that returns a context without free space. Override it to test that case."""
        pytest.skip("the fixture `no_space` is not overridden: a full storage is not tested")

    # --- fixtures

    @pytest.fixture(params=[True, False], ids=["durable", "not-durable"])
    def durable(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture
    def make_backend(self, durable: bool, tmp_path: Path) -> Iterator[MakeBackend]:
        """Open a backend as another process of the service does. All use the same folder."""
        made: list[StorageBackend[Any]] = []

        def make() -> StorageBackend[Any]:
            made.append(self._closed(tmp_path, durable=durable))
            made[-1].open()
            return made[-1]

        yield make
        for storage in made:
            storage.close()

    @pytest.fixture
    def storage(self, make_backend: MakeBackend) -> StorageBackend[Any]:
        return make_backend()

    def _closed(self, folder: Path, *, durable: bool) -> StorageBackend[Any]:
        path = folder / "data"
        path.mkdir(exist_ok=True)
        return self.backend(self.settings(folder), StorageContext(path=path, durable=durable))

    # --- life cycle

    def test_it_is_complete_and_has_a_name(self) -> None:
        """The configuration selects it by `name`, and no abstract method is missing."""
        missing = sorted(getattr(self.backend, "__abstractmethods__", ()))
        assert [] == missing, f"these methods are missing: {', '.join(missing)}"
        name = getattr(self.backend, "name", None)
        assert isinstance(name, str), "the class attribute `name` is missing, by which the configuration selects it"

    def test_the_constructor_changes_nothing(self, tmp_path: Path) -> None:
        """`check` calls constructors, too: create files and connections in `open`."""
        self.settings(tmp_path)
        (tmp_path / "data").mkdir()
        before = sorted(tmp_path.rglob("*"))
        self._closed(tmp_path, durable=True)
        assert before == sorted(tmp_path.rglob("*")), "the constructor made files or folders: move that into open()"

    def test_it_can_be_closed_and_opened_again(self, make_backend: MakeBackend) -> None:
        """Stored objects are there after a stop of the service."""
        first = make_backend()
        key = stored(first, b"kept")
        first.close()
        first.open()
        assert b"kept" == content(first, key), "a stored object is gone after close() and open()"
        assert b"kept" == content(make_backend(), key), "a new backend does not find a stored object"

    # --- writing and reading

    def test_written_pieces_are_read_back(self, storage: StorageBackend[Any]) -> None:
        """Pieces of any kind and size make one object."""
        key = stored(storage, b"DICM", b"", memoryview(b"-pixels-")[1:7], b"!")
        assert b"DICMpixels!" == content(storage, key), "the content is not what was written"

    def test_a_piece_may_be_reused_as_soon_as_write_returns(self, storage: StorageBackend[Any]) -> None:
        """The receiver reads the next piece into the same buffer."""
        buffer = bytearray(b"first")
        writer = storage.writer()
        writer.write(memoryview(buffer))
        buffer[:] = b"other"
        key = writer.finish()
        storage.sync([key])
        assert b"first" == content(storage, key), "write() kept the caller's buffer, which was reused meanwhile"

    def test_objects_that_are_written_at_the_same_time_do_not_mix(self, storage: StorageBackend[Any]) -> None:
        """Several associations of one process write at once, each a piece at a time."""
        writers = [storage.writer() for _ in range(3)]
        for piece in (b"a", b"b"):
            for number, writer in enumerate(writers):
                writer.write(piece + str(number).encode())
        keys = [writer.finish() for writer in writers]
        storage.sync(keys)
        assert [b"a0b0", b"a1b1", b"a2b2"] == [content(storage, key) for key in keys], "objects got mixed up"

    def test_readers_are_seekable_and_independent(self, storage: StorageBackend[Any]) -> None:
        """Uploads of one instance to several platforms read at the same time, each from where it is."""
        key = stored(storage, b"0123456789")
        with storage.read(key) as first, storage.read(key) as second:
            assert b"012" == first.read(3)
            assert b"0123" == second.read(4), "two readers of one object share their position"
            first.seek(8)
            assert (b"89", 10) == (first.read(), first.tell()), "a reader must be able to seek"

    def test_a_large_object_needs_little_memory(self, storage: StorageBackend[Any]) -> None:
        """64 MiB are written and read in pieces: an instance may be larger than the memory."""
        if not self.streams:
            pytest.skip("streams = False: it holds whole objects in memory")
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
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert LARGE == size, f"{size} bytes were read of {LARGE}"
        assert most < MOST_MEMORY, f"an object of {LARGE // MIB} MiB took {most // MIB} MiB of memory: it is held whole"

    def test_many_threads_do_not_disturb_each_other(self, storage: StorageBackend[Any]) -> None:
        """Writers, syncs, reads and deletes at once: every object that is kept is whole."""

        def life(number: int) -> tuple[str, bytes]:
            data = bytes([number]) * (number * 100)
            key, unwanted, abandoned = stored(storage, data), stored(storage, b"unwanted"), storage.writer()
            abandoned.write(b"abandoned")
            abandoned.discard()
            storage.delete([unwanted])
            return key, content(storage, key)

        with ThreadPoolExecutor(8) as threads:
            kept = dict(threads.map(life, range(1, 41)))
        assert [number * 100 for number in range(1, 41)] == [len(data) for data in kept.values()], "objects were cut"
        assert set(kept) == set(storage.keys()), "keys() must list the objects that are kept, and no others"
        assert self.leftovers(storage) in (None, 40), "a deleted or discarded object still uses space"

    # --- keys

    def test_keys_are_new_texts(self, storage: StorageBackend[Any], make_backend: MakeBackend) -> None:
        """The ledger stores them. No two objects of any processes have the same key."""
        other = make_backend()
        keys = [finished(place, b"x") for _ in range(100) for place in (storage, other)]
        storage.sync(keys[::2])
        other.sync(keys[1::2])
        assert len(keys) == len(set(keys)), "two objects got the same key"
        unfit = [key for key in keys if not isinstance(key, str) or not key.isascii() or not 1 <= len(key) <= 200]
        assert [] == unfit, "keys must be ASCII texts of 1 to 200 characters"

    def test_stored_objects_are_listed(self, storage: StorageBackend[Any], make_backend: MakeBackend) -> None:
        """`keys` lists what was synced and not deleted: an audit compares it with the ledger."""
        kept, deleted = stored(storage, b"kept"), stored(storage, b"deleted")
        storage.delete([deleted])
        written = storage.writer()
        written.write(b"half")
        assert [kept] == list(storage.keys()), "keys() must list stored objects, and nothing half-written or deleted"
        assert [kept] == list(make_backend().keys()), "keys() must list the objects that other processes have stored"
        written.discard()

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_other_texts_than_keys_name_nothing(self, storage: StorageBackend[Any], tmp_path: Path, key: str) -> None:
        """Keys are read from the ledger, which may be damaged: no text leads outside of the backend's own folder."""
        kept, outside = stored(storage, b"kept"), [tmp_path / "outside", tmp_path / "data" / "outside"]
        for path in outside:
            path.write_bytes(b"not yours")
        with pytest.raises(StoredObjectMissing):
            storage.read(key)
        try:
            storage.delete([key])
        except StoredObjectMissing:
            pass  # allowed as well: it cannot be an object of this backend
        assert all(path.exists() for path in outside), (
            f"delete([{key!r}]) deleted a file outside of the backend's folder"
        )
        assert [kept] == list(storage.keys()), f"delete([{key!r}]) deleted another object"

    # --- durability: the success of a C-STORE rests on `sync`

    def test_many_objects_are_synced_in_one_call_and_again(self, storage: StorageBackend[Any]) -> None:
        """A repeated sync does no harm."""
        keys = [finished(storage, str(number).encode()) for number in range(40)]
        storage.sync(keys)
        storage.sync(keys)
        storage.sync([])
        assert [str(number).encode() for number in range(40)] == [content(storage, key) for key in keys]

    def test_sync_fails_if_an_object_is_missing(self, storage: StorageBackend[Any]) -> None:
        """No instance may be acknowledged that is not durable, whatever else is in the batch."""
        gone = finished(storage, b"gone")
        storage.delete([gone])
        with pytest.raises((StorageFull, OSError, StoredObjectMissing)):
            storage.sync([finished(storage, b"there"), gone])

    def test_another_process_sees_what_was_synced(
        self, storage: StorageBackend[Any], make_backend: MakeBackend
    ) -> None:
        """The receiver writes, the host reads and deletes."""
        key, host = stored(storage, b"shared"), make_backend()
        assert b"shared" == content(host, key), "another process cannot read a stored object"
        host.delete([key])
        with pytest.raises(StoredObjectMissing):
            storage.read(key)

    def test_recovery_keeps_synced_objects_and_nothing_half_written(self, make_backend: MakeBackend) -> None:
        """After `kill -9`: acknowledged objects are there, the rest uses no space."""
        killed = make_backend()
        kept = stored(killed, b"kept")
        finished(killed, b"never synced")
        half = killed.writer()
        half.write(b"half")
        try:
            started = make_backend()
            started.recover()
            there = list(started.keys())
            assert kept in there, "after recover(), a synced object is gone"
            whole = {b"kept", b"never synced"}  # a finished object may be there if it is whole
            assert whole >= {content(started, key) for key in there}, "recover() did not delete a half-written object"
            assert b"kept" == content(started, kept)
            assert self.leftovers(started) in (None, len(there)), "recover() did not delete a half-written object"
        finally:
            half.discard()  # the killed process has ended

    # --- recovery records: the core enters lost rows of the ledger again from them

    def test_recovery_records_are_kept_until_they_are_confirmed(self, make_backend: MakeBackend) -> None:
        """The next start gets all synced records of a killed process, until a block ends without an exception."""
        killed = make_backend()
        if not self._keeps_recovery_records(killed):
            return
        keys = [recoverable(killed, size, b"record %d" % size) for size in (0, 5, MIB + 5)]
        killed.sync([*keys, finished(killed, b"without")])
        assert [] == unconfirmed(make_backend()), "unconfirmed_records() returned records of a process that still runs"
        expected = {key: b"record %d" % size for key, size in zip(keys, (0, 5, MIB + 5), strict=True)}
        self.kill(killed)
        started = make_backend()
        with pytest.raises(InterruptedError), started.unconfirmed_records():
            raise InterruptedError
        assert expected == dict(unconfirmed(started)), (
            "unconfirmed_records() must return all records until its block ends without an exception"
        )
        assert [] == unconfirmed(make_backend()), "unconfirmed_records() returned records that were confirmed before"
        assert bytes(MIB + 5) == content(started, keys[-1]), "the recovery record became a part of the object's content"

    def test_recovery_records_before_a_checkpoint_are_not_returned(self, make_backend: MakeBackend) -> None:
        """After `checkpoint` and an orderly stop, the next start has nothing to read."""
        storage = make_backend()
        if not self._keeps_recovery_records(storage):
            return
        storage.sync([recoverable(storage, 5, b"confirmed")])
        storage.checkpoint()
        storage.close()
        assert [] == unconfirmed(make_backend()), "unconfirmed_records() returned a record that checkpoint() covers"

    def test_a_checkpoint_keeps_the_records_of_later_objects(self, make_backend: MakeBackend) -> None:
        """It covers the keys that were synced before it, not those that were finished and not synced."""
        killed = make_backend()
        if not self._keeps_recovery_records(killed):
            return
        late = recoverable(killed, 5, b"late")
        killed.checkpoint()
        killed.sync([late])
        self.kill(killed)
        assert (late, b"late") in unconfirmed(make_backend()), (
            "checkpoint() dropped the recovery record of an object that was synced after it"
        )

    def test_a_recovery_record_may_have_a_thousand_bytes(self, storage: StorageBackend[Any]) -> None:
        """A longer one than the backend stores is a ValueError, and the object can be stored without it."""
        if not self._keeps_recovery_records(storage):
            return
        storage.sync([recoverable(storage, 5, bytes(1000))])
        writer = storage.writer()
        writer.write(b"x")
        with pytest.raises(ValueError, match="record"):
            writer.write_recovery_record(bytes(10_000_000))
        key = writer.finish()
        storage.sync([key])
        assert b"x" == content(storage, key)

    def _keeps_recovery_records(self, storage: StorageBackend[Any]) -> bool:
        """Return the backend's flag; check that a backend without recovery records refuses them."""
        if not self.backend.keeps_recovery_records:
            writer = storage.writer()
            with pytest.raises(NotImplementedError):
                writer.write_recovery_record(b"although keeps_recovery_records is False")
            writer.discard()
        return self.backend.keeps_recovery_records

    # --- discard and delete

    def test_discarded_objects_are_gone(self, storage: StorageBackend[Any]) -> None:
        """Before or after `finish`, once or twice."""
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

    def test_deleting_a_deleted_object_is_no_error(self, storage: StorageBackend[Any]) -> None:
        """The adapter deletes first and records it afterwards, so a crash repeats deletions."""
        key, other, unsynced = stored(storage, b"x"), stored(storage, b"y"), finished(storage, b"z")
        storage.delete(iter([key, unsynced]))
        storage.delete([key, unsynced])
        assert [other] == list(storage.keys()), "delete() must delete its keys, and no others"
        assert self.leftovers(storage) in (None, 1), "a deleted object still uses space"

    def test_a_missing_object_raises_stored_object_missing(self, storage: StorageBackend[Any]) -> None:
        """Any other error is treated as a transient outage: the adapter would wait forever."""
        key = stored(storage, b"x")
        storage.delete([key])
        with pytest.raises(StoredObjectMissing):
            storage.read(key)

    # --- free space

    def test_the_capacity_is_reported(self, storage: StorageBackend[Any]) -> None:
        """The watermark is checked against it. None means that there is no limit."""
        capacity = storage.capacity()
        if capacity is not None:
            assert 0 <= capacity.free_bytes <= capacity.total_bytes, (
                f"free space must be a part of the total: {capacity}"
            )

    def test_without_free_space_it_raises_storage_full_and_keeps_nothing(
        self, storage: StorageBackend[Any], no_space: Callable[[StorageBackend[Any]], AbstractContextManager[None]]
    ) -> None:
        """`StorageFull` is answered as *out of resources*, and senders retry later."""
        kept = stored(storage, b"kept")
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
        assert b"again" == content(storage, stored(storage, b"again")), (
            "it stays full although there is free space again"
        )
