"""`StorageBackend`: the place where instances wait, as Part 10 files (PS3.10), until nobody needs them.

The ledger knows which stored object belongs to which instance; a backend knows nothing but keys and bytes. Keys are
made by the backend. Nothing that a peer sent (AE titles, UIDs, patient IDs) ever becomes a part of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, ClassVar, Generic, TypeVar

from attrs import frozen

from dicom_adapter.api.declare import settings_argument
from dicom_adapter.api.values import Capacity

SettingsT = TypeVar("SettingsT")


@frozen(kw_only=True)
class StorageContext:
    """What the core tells every backend besides its own settings."""

    path: Path  # the adapter's data folder; a backend uses the sub-folder `instances`
    durable: bool  # durability = "fsync": what `sync` returned for survives a power loss


class InstanceWriter(ABC):
    """Takes one Part 10 file in pieces. Used by one thread."""

    @abstractmethod
    def write(self, piece: bytes | memoryview) -> None:
        """Append `piece`; it may be reused by the caller as soon as the call returns.

        Raises StorageFull when there is no room. The writer may then only be discarded.
        """

    def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Append all of them, as `write` does each: a backend that can do it in one step is faster so."""
        for piece in pieces:
            self.write(piece)

    def label(self, label: bytes) -> None:
        """Take what is to be kept with the file, once, before `finish`. Only of backends with `keeps_labels`.

        Raises ValueError when it is too long for the backend.
        """
        raise NotImplementedError(f"{type(self).__name__} keeps no labels")

    @abstractmethod
    def finish(self) -> str:
        """End the file and return its key. It is durable after `StorageBackend.sync` has returned for that key."""

    @abstractmethod
    def discard(self) -> None:
        """Remove what was written, finished or not. Never raises for what is already gone."""


class StorageBackend(ABC, Generic[SettingsT]):
    """The base of all storage backends.

    Life cycle: constructed (no side effects), `open`, then the other calls from any thread and from several processes
    at once, `close`. `recover` is called once per start of the service, before any process writes.
    """

    name: ClassVar[str]  # what `[storage] backend` calls it
    keeps_labels: ClassVar[bool] = False
    """Whether its writers take labels. The core then makes the rows of the ledger durable together with the stored
    objects, by one `sync`; else the ledger needs a sync of its own for everything that is acknowledged. When one sender
    is alone, the core calls `sync` in the network thread: it must not take longer than a local disk does."""
    settings_type: ClassVar[type]  # set from the class argument: `class Mine(StorageBackend[MySettings])`

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        settings_argument(cls, StorageBackend)

    def __init__(self, settings: SettingsT, context: StorageContext) -> None:
        self.settings = settings
        self.context = context

    def open(self) -> None:
        """Prepare for use in this process: make folders, connect."""

    def recover(self) -> None:
        """Remove what a killed process left half written. No writer is open anywhere while this runs."""

    @abstractmethod
    def writer(self) -> InstanceWriter:
        """Begin a new stored object. Raises StorageFull when there is no room."""

    @abstractmethod
    def sync(self, keys: Sequence[str]) -> None:
        """Return when all `keys`, data and names, are durable as `StorageContext.durable` says.

        Raises StorageFull or OSError when that failed; the keys are then to be treated as never written.
        """

    def settle(self) -> None:
        """The labels of all that this backend has synced are durable elsewhere: nobody asks for them any more."""

    @contextmanager
    def unsettled(self) -> Iterator[Sequence[tuple[str, bytes]]]:
        """Keys and labels of what was stored by processes that have ended before they said that it is settled.

        It is when the block ends; when it raises, the next one who asks is told of them again.
        """
        yield ()

    @abstractmethod
    def read(self, key: str) -> BinaryIO:
        """Open a stored object for reading, positioned at its start, seekable. Raises StoredObjectMissing."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Give back the room of `keys`. What is already gone is not an error."""

    @abstractmethod
    def keys(self) -> Iterator[str]:
        """All finished objects, in no order."""

    @abstractmethod
    def capacity(self) -> Capacity | None:
        """Total and free room, or None when the backend has no limit that it knows."""

    def close(self) -> None:
        """Let go of everything that `open` took."""
