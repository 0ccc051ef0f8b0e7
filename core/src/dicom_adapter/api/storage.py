"""`StorageBackend`: keeps stored objects, which are Part 10 files (PS3.10), until no job needs them any more.

The ledger records which stored object belongs to which instance. A backend handles only keys and bytes. The backend
generates the keys. A key never contains data that a peer sent (AE titles, UIDs, patient IDs).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar, Generic, TypeVar

from attrs import frozen

from dicom_adapter.api.declare import set_settings_type
from dicom_adapter.api.values import Capacity

SettingsT = TypeVar("SettingsT")


@frozen(kw_only=True)
class StorageContext:
    """Information from the core for each backend, besides the backend's settings."""

    path: Path  # the adapter's data folder; a backend uses the sub-folder `instances`
    durable: bool  # True for durability = "fsync": every key for which `sync` returned survives a power loss


class InstanceWriter(ABC):
    """Writes one Part 10 file in pieces. Not thread-safe: each writer is used by one thread."""

    @abstractmethod
    def write(self, piece: bytes | memoryview) -> None:
        """Append `piece`. The caller may reuse its buffer as soon as the call returns.

        Raises StorageFull when there is no free space. After an error, only `discard` may be called.
        """

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all pieces in order. Override this method if one call is faster than a call for each piece."""
        for piece in pieces:
            self.write(piece)

    def write_recovery_record(self, record: bytes) -> None:
        """Store `record` with the object, but not as a part of its content.

        The core calls this method at most once, before `finish`, and only if the backend has `keeps_recovery_records`.
        Raises ValueError when the record is longer than the backend can store. A backend must accept records of up to
        1000 bytes. After the error, the core stores the object without a record, and syncs the ledger before it
        acknowledges the instance.
        """
        raise NotImplementedError(f"{type(self).__name__} does not keep recovery records")

    @abstractmethod
    def finish(self) -> str:
        """Complete the file and return its key. The file is durable when `StorageBackend.sync` of the key returns."""

    @abstractmethod
    def discard(self) -> None:
        """Delete everything written, finished or not. Never raises for a file that is already deleted."""


class StorageMark:
    """The objects that a storage backend had synced at one moment: the result of `StorageBackend.mark`.

    Backends with recovery records return a subclass that overrides `confirm`.
    """

    def confirm(self) -> None:
        """Drop the recovery records of the objects of this mark: all their rows are durable in the ledger.

        Called from any thread, also during a `StorageBackend.sync`, and also after objects of the mark were deleted. A
        mark may never be confirmed, for example because a later mark is confirmed instead: it covers all objects of the
        earlier ones. A repeated call, the confirmation of an earlier mark, and a call after `StorageBackend.close` have
        no effect.
        """


class StorageBackend(ABC, Generic[SettingsT]):
    """Base class of all storage backends.

    Life cycle: the constructor (without side effects), `open`, then all other methods, from any thread and from several
    processes at once, then `close`. `recover` is called once per start of the service, before any process writes.

    **Recovery records.** An instance is acknowledged when its stored object and all that is known of it are durable.
    This takes two syncs: a sync of the storage and a sync of the ledger. A backend can make the second sync
    unnecessary: it stores a *recovery record*, a few hundred bytes, with the object and in the same sync. The record
    holds everything that the core needs to enter the row. The instance is then acknowledged before its row is entered,
    and the ledger is synced about once per second for all instances together. This sync is the *checkpoint*. If the
    power fails before the checkpoint, rows are missing from the ledger, and the next start enters them from the
    recovery records.

    A checkpoint has two steps, because instances arrive while the ledger is synced. `mark` determines which objects it
    covers. `StorageMark.confirm` reports afterwards that the rows of these objects are durable.

    A backend that stores recovery records sets `keeps_recovery_records = True`. The content of a record is opaque to
    the backend. The receiver calls, in this order::

        writer = storage.writer()
        writer.write_pieces(pieces)           # as often as data arrives
        writer.write_recovery_record(record)  # once, when the data set is complete
        key = writer.finish()
        storage.sync([key])                   # object and record are durable together
                                              # the core acknowledges the instance, and enters its row afterwards
        mark = storage.mark()                 # about once per second; the mark covers all keys that were synced before
                                              # the core enters their rows and syncs the ledger; meanwhile, further keys
                                              # may be synced
        mark.confirm()                        # drop the records of the keys that the mark covers, and no others

    and at its next start, before it accepts associations::

        with storage.unconfirmed_records() as records:
            ...                               # the core enters missing rows and syncs the ledger

    The backend guarantees:

    - After `sync`, the record survives everything that the object survives: the end of the process and, if
      `StorageContext.durable` is set, a power loss. An object that survives still has its record.
    - A record is kept until one of these events: a mark that was made after the `sync` of its key is confirmed; a block
      of `unconfirmed_records` that returned the record ends without an exception; its object is deleted. A record whose
      mark was confirmed is not returned after an orderly `close`. If the process is killed instead, the record may be
      returned; the core does not enter its row again. After the other events, the record is never returned again.
    - Records of a process that still runs are not returned to another process: several receivers use one storage.
    """

    name: ClassVar[str]  # value of `backend` in [storage] that selects this class
    keeps_recovery_records: ClassVar[bool] = False
    """True if the backend implements `write_recovery_record`, `mark` and `unconfirmed_records`. If False, the
    core syncs the ledger before every acknowledgement."""
    settings_type: ClassVar[type]  # settings class, from the class argument: `class Mine(StorageBackend[MySettings])`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        set_settings_type(cls, StorageBackend)

    def __init__(self, settings: SettingsT, context: StorageContext) -> None:
        self.settings = settings
        self.context = context

    def open(self) -> None:
        """Prepare for use in this process: create folders, connect."""

    def recover(self) -> None:
        """Delete half-written files of killed processes. No writer is open in any process during this call."""

    @abstractmethod
    def writer(self) -> InstanceWriter:
        """Begin a new stored object. Raises StorageFull when there is no free space."""

    @abstractmethod
    def sync(self, keys: Sequence[str]) -> None:
        """Make all `keys` durable: data, names and recovery records, as `StorageContext.durable` requires.

        Raises StorageFull or OSError on failure; the caller then treats all `keys` as never written.
        """

    def mark(self) -> StorageMark:
        """Return a mark of all objects that this backend has synced. Its `confirm` drops their recovery records.

        The receiver calls this method about once per second while instances arrive, and when it stops, but never during
        a `sync`. Objects that are synced afterwards, also those that are finished already, are not covered: they keep
        their records when the mark is confirmed. If a process ends without a confirmation, the next start gets its
        records from `unconfirmed_records`.
        """
        return StorageMark()

    @contextmanager
    def unconfirmed_records(self) -> Iterator[Sequence[tuple[str, bytes]]]:
        """Context manager: returns the (key, record) pairs of ended processes whose marks were not confirmed.

        The receiver uses this context manager once per start, before it accepts associations. When the block ends
        without an exception, the rows are durable in the ledger, and these records are never returned again. When the
        block raises, the next caller gets the same records again. Records of deleted objects are not returned. Records
        of objects that were finished but not synced may be returned, if object and record are complete.
        """
        yield ()

    def kept_records(self) -> Iterator[tuple[str, bytes]]:
        """Iterate over the (key, record) pairs of all processes, also of running ones, and change nothing.

        An audit and other commands use this method to show instances that are stored, not yet entered in the ledger.
        Records of confirmed marks may be among the records. Records that are just being written may be missing.
        """
        return iter(())

    @abstractmethod
    def read(self, key: str) -> BinaryIO:
        """Open a stored object for reading, seekable, at position 0. Raises StoredObjectMissing."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete the objects and free their space. A key that is already deleted is not an error."""

    @abstractmethod
    def keys(self) -> Iterator[str]:
        """Iterate over the keys of all finished objects, in any order."""

    @abstractmethod
    def capacity(self) -> Capacity | None:
        """Return total and free space, or None if the backend has no known limit."""

    def close(self) -> None:
        """Release everything that `open` acquired."""
