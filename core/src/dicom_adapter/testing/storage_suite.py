"""What the adapter relies on in a storage backend, as tests to subclass."""

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

MakeBackend = Callable[[], StorageBackend[Any]]
MIB = 1 << 20
LARGE = 64 * MIB
LITTLE = 16 * MIB  # of memory, for an object that is LARGE
HOSTILE = [
    "",
    ".",
    "..",
    "../outside",
    "../../outside",
    "/etc/hostname",
    "a/../../outside",
    "a\0b",
    "a\nb",
    "ключ",
    "k" * 5000,
]


class BaseStorageBackendTests:
    """Subclass it with `backend`, and `settings` if yours has any; pytest collects the subclass.

        class TestPlainFolder(BaseStorageBackendTests):
            backend = PlainFolder

    Each test opens backends on a folder of its own, durable ones and others.
    """

    backend: ClassVar[type[StorageBackend[Any]]]
    streams: ClassVar[bool] = True  # False for one that keeps whole objects in memory, by design

    def settings(self, folder: Path) -> Any:  # noqa: ARG002 - for subclasses
        """The backend's settings; `folder` is the test's."""
        return NoSettings()

    def leftovers(self, storage: StorageBackend[Any]) -> int | None:  # noqa: ARG002 - for subclasses
        """How many stored objects and parts of such take room, if that can be told: what was given up must not."""
        return None

    def kill(self, storage: StorageBackend[Any]) -> None:
        """Release the locks and descriptors that the kernel takes from a killed process.

        Needed if the backend `keeps_recovery_records`.
        """
        raise NotImplementedError(
            "a backend with keeps_recovery_records = True implements here what the end of a process takes from it"
        )

    @pytest.fixture
    def no_room(self) -> Callable[[StorageBackend[Any]], AbstractContextManager[None]]:
        """A context in which a backend has no room left; override it to have that tested."""
        pytest.skip("the fixture `no_room` is not overridden: a backend without room is not tested")

    # --- what the tests work with

    @pytest.fixture(params=[True, False], ids=["durable", "not-durable"])
    def durable(self, request: pytest.FixtureRequest) -> bool:
        return bool(request.param)

    @pytest.fixture
    def make_backend(self, durable: bool, tmp_path: Path) -> Iterator[MakeBackend]:
        """Opens backends, one as in each process of the service, all on the same folder."""
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

    # --- the life of a backend

    def test_it_is_complete_and_has_a_name(self) -> None:
        """The configuration chooses it by `name`, and every abstract method is there."""
        missing = sorted(getattr(self.backend, "__abstractmethods__", ()))
        assert [] == missing, f"these methods are missing: {', '.join(missing)}"
        name = getattr(self.backend, "name", None)
        assert isinstance(name, str), "the class attribute `name` is missing, by which the configuration chooses it"

    def test_to_make_one_changes_nothing(self, tmp_path: Path) -> None:
        """Constructors are called by `check` too: what there is to prepare is prepared in `open`."""
        self.settings(tmp_path)
        (tmp_path / "data").mkdir()
        before = sorted(tmp_path.rglob("*"))
        self._closed(tmp_path, durable=True)
        assert before == sorted(tmp_path.rglob("*")), "the constructor made files or folders: that belongs into open()"

    def test_it_may_be_closed_and_opened_again(self, make_backend: MakeBackend) -> None:
        """What is stored is there after a stop of the service."""
        first = make_backend()
        key = stored(first, b"kept")
        first.close()
        first.open()
        assert b"kept" == content(first, key), "what was stored is gone after close() and open()"
        assert b"kept" == content(make_backend(), key), "what was stored is not there for a backend that is made anew"

    # --- what goes in comes out

    def test_what_was_written_comes_back(self, storage: StorageBackend[Any]) -> None:
        """Pieces of any kind and size make one object."""
        key = stored(storage, b"DICM", b"", memoryview(b"-pixels-")[1:7], b"!")
        assert b"DICMpixels!" == content(storage, key), "the pieces did not come back as they were written"

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

    def test_a_large_object_passes_through_little_memory(self, storage: StorageBackend[Any]) -> None:
        """64 MiB are written and read in pieces: an instance may be larger than the memory that there is."""
        if not self.streams:
            pytest.skip("streams = False: it keeps whole objects in memory")
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
        assert LARGE == size, f"{size} bytes came back of {LARGE}"
        assert most < LITTLE, f"an object of {LARGE // MIB} MiB took {most // MIB} MiB of memory: it is held whole"

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
        assert set(kept) == set(storage.keys()), "keys() does not list what is kept, and nothing else"
        assert self.leftovers(storage) in (None, 40), "what was deleted or discarded still takes room"

    # --- keys

    def test_keys_are_new_texts(self, storage: StorageBackend[Any], make_backend: MakeBackend) -> None:
        """The ledger keeps them; no two objects, of whatever process, have the same one."""
        other = make_backend()
        keys = [finished(place, b"x") for _ in range(100) for place in (storage, other)]
        storage.sync(keys[::2])
        other.sync(keys[1::2])
        assert len(keys) == len(set(keys)), "two objects got the same key"
        unfit = [key for key in keys if not isinstance(key, str) or not key.isascii() or not 1 <= len(key) <= 200]
        assert [] == unfit, "keys must be ASCII texts of 1 to 200 characters"

    def test_what_is_stored_is_listed(self, storage: StorageBackend[Any], make_backend: MakeBackend) -> None:
        """`keys` gives what was synced and not deleted: an audit compares that with the ledger."""
        kept, deleted = stored(storage, b"kept"), stored(storage, b"deleted")
        storage.delete([deleted])
        written = storage.writer()
        written.write(b"half")
        assert [kept] == list(storage.keys()), "keys() must list what is stored, and nothing half written or deleted"
        assert [kept] == list(make_backend().keys()), "keys() must list what other processes have stored"
        written.discard()

    @pytest.mark.parametrize("key", HOSTILE)
    def test_what_is_no_key_names_nothing(self, storage: StorageBackend[Any], tmp_path: Path, key: str) -> None:
        """Keys come from the ledger, which may be damaged: none leads out of the backend's own place."""
        kept, outside = stored(storage, b"kept"), [tmp_path / "outside", tmp_path / "data" / "outside"]
        for path in outside:
            path.write_bytes(b"not yours")
        with pytest.raises(StoredObjectMissing):
            storage.read(key)
        try:
            storage.delete([key])
        except StoredObjectMissing:
            pass  # as well: what it never made cannot have been there
        assert all(path.exists() for path in outside), f"delete([{key!r}]) deleted what is not the backend's"
        assert [kept] == list(storage.keys()), f"delete([{key!r}]) deleted another object"

    # --- durability: the success of a C-STORE rests on `sync`

    def test_many_are_synced_at_once_and_again(self, storage: StorageBackend[Any]) -> None:
        """A batch in one call; to repeat it does no harm."""
        keys = [finished(storage, str(number).encode()) for number in range(40)]
        storage.sync(keys)
        storage.sync(keys)
        storage.sync([])
        assert [str(number).encode() for number in range(40)] == [content(storage, key) for key in keys]

    def test_sync_fails_when_something_is_not_there(self, storage: StorageBackend[Any]) -> None:
        """Nobody is told that an instance is safe when it is not, whatever else is in the batch."""
        gone = finished(storage, b"gone")
        storage.delete([gone])
        with pytest.raises((StorageFull, OSError, StoredObjectMissing)):
            storage.sync([finished(storage, b"there"), gone])

    def test_another_process_sees_what_was_synced(
        self, storage: StorageBackend[Any], make_backend: MakeBackend
    ) -> None:
        """The receiver writes, the host reads and deletes."""
        key, host = stored(storage, b"shared"), make_backend()
        assert b"shared" == content(host, key), "what one process has stored, another one cannot read"
        host.delete([key])
        with pytest.raises(StoredObjectMissing):
            storage.read(key)

    def test_recovery_keeps_what_was_synced_and_nothing_half_written(self, make_backend: MakeBackend) -> None:
        """After `kill -9`: what was acknowledged is there, the rest takes no room."""
        killed = make_backend()
        kept = stored(killed, b"kept")
        finished(killed, b"never synced")
        half = killed.writer()
        half.write(b"half")
        try:
            started = make_backend()
            started.recover()
            there = list(started.keys())
            assert kept in there, "after recover() what was synced is gone"
            whole = {b"kept", b"never synced"}  # what was finished may be there, as long as it is whole
            assert whole >= {content(started, key) for key in there}, "recover() has left what was half written"
            assert b"kept" == content(started, kept)
            assert self.leftovers(started) in (None, len(there)), "recover() has left what was half written"
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

    # --- giving up, giving back

    def test_what_is_discarded_is_gone(self, storage: StorageBackend[Any]) -> None:
        """Before or after `finish`, once or twice."""
        early, late = storage.writer(), storage.writer()
        for writer in (early, late):
            writer.write(b"x")
        key = late.finish()
        for writer in (early, late, early, late):
            writer.discard()
        with pytest.raises(StoredObjectMissing):
            storage.read(key)
        assert [] == list(storage.keys()), "keys() lists what was discarded"
        assert self.leftovers(storage) in (None, 0), "what was discarded still takes room"

    def test_to_delete_what_is_gone_is_no_error(self, storage: StorageBackend[Any]) -> None:
        """The adapter deletes first and writes it down afterwards, so a crash repeats deletions."""
        key, other, unsynced = stored(storage, b"x"), stored(storage, b"y"), finished(storage, b"z")
        storage.delete(iter([key, unsynced]))
        storage.delete([key, unsynced])
        assert [other] == list(storage.keys()), "delete() has to delete its keys, and no others"
        assert self.leftovers(storage) in (None, 1), "what was deleted still takes room"

    def test_a_missing_object_is_said_to_be_missing(self, storage: StorageBackend[Any]) -> None:
        """Other errors are taken for an outage, which may pass: the adapter would wait for ever."""
        key = stored(storage, b"x")
        storage.delete([key])
        with pytest.raises(StoredObjectMissing):
            storage.read(key)

    # --- room

    def test_the_room_is_told(self, storage: StorageBackend[Any]) -> None:
        """Or it is None, where there is no limit; the watermark is judged by it."""
        capacity = storage.capacity()
        if capacity is not None:
            assert 0 <= capacity.free_bytes <= capacity.total_bytes, (
                f"free room must be a part of the total: {capacity}"
            )

    def test_without_room_it_says_so_and_leaves_nothing(
        self, storage: StorageBackend[Any], no_room: Callable[[StorageBackend[Any]], AbstractContextManager[None]]
    ) -> None:
        """`StorageFull` is answered as *out of resources*, and senders come back later."""
        kept = stored(storage, b"kept")
        with no_room(storage):
            writer: InstanceWriter | None = None
            with pytest.raises(StorageFull):
                writer = storage.writer()
                writer.write(bytes(MIB))
                storage.sync([writer.finish()])
            if writer is not None:
                writer.discard()
        assert [kept] == list(storage.keys())
        assert self.leftovers(storage) in (None, 1), "what could not be stored still takes room"
        assert b"again" == content(storage, stored(storage, b"again")), "it stays full although there is room again"


def finished(storage: StorageBackend[Any], *pieces: bytes | memoryview) -> str:
    """An object that is whole and not synced; returns its key."""
    writer = storage.writer()
    for piece in pieces:
        writer.write(piece)
    return writer.finish()


def recoverable(storage: StorageBackend[Any], size: int, record: bytes) -> str:
    """Finish an object of `size` zeros with a recovery record, without a sync, and return its key."""
    writer = storage.writer()
    writer.write(bytes(size))
    writer.write_recovery_record(record)
    return writer.finish()


def unconfirmed(storage: StorageBackend[Any]) -> list[tuple[str, bytes]]:
    """Return the unconfirmed records, and confirm them."""
    with storage.unconfirmed_records() as records:
        return list(records)


def stored(storage: StorageBackend[Any], *pieces: bytes | memoryview) -> str:
    """An object that is durable; returns its key."""
    key = finished(storage, *pieces)
    storage.sync([key])
    return key


def content(storage: StorageBackend[Any], key: str) -> bytes:
    """All of an object."""
    with storage.read(key) as reader:
        return reader.read()
