"""A storage backend in memory. Its objects survive restarts of the simulated adapter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableMapping, Sequence
from io import BytesIO
from typing import BinaryIO, ClassVar
from uuid import uuid4

from dicom_adapter.api.declare import NoSettings
from dicom_adapter.api.errors import StoredObjectMissing
from dicom_adapter.api.storage import InstanceWriter, StorageBackend
from dicom_adapter.api.values import Capacity


class MemoryStorage(StorageBackend[NoSettings]):
    """Base class of the classes that `memory_storage` creates."""

    name = "memory"
    objects: ClassVar[MutableMapping[str, bytes]]  # synced objects by key
    finished: ClassVar[MutableMapping[str, bytes]]  # finished objects that are not synced yet, by key

    def recover(self) -> None:
        self.finished.clear()

    def writer(self) -> InstanceWriter:
        return _Writer(self.finished)

    def sync(self, keys: Sequence[str]) -> None:
        missing = [key for key in keys if key not in self.finished and key not in self.objects]
        if missing:
            raise StoredObjectMissing(f"storage key {missing[0]!r}: there is no such object")
        for key in keys:
            if key in self.finished:
                self.objects[key] = self.finished.pop(key)

    def read(self, key: str) -> BinaryIO:
        try:
            return BytesIO(self.objects[key])
        except KeyError:
            raise StoredObjectMissing(f"storage key {key!r}: there is no such object") from None

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)
            self.finished.pop(key, None)

    def keys(self) -> Iterator[str]:
        return iter(list(self.objects))

    def capacity(self) -> Capacity | None:
        return None


class _Writer(InstanceWriter):
    def __init__(self, finished: MutableMapping[str, bytes]) -> None:
        self._finished = finished
        self._key = uuid4().hex
        self._pieces = bytearray()

    def write(self, piece: bytes | memoryview) -> None:
        self._pieces += piece

    def finish(self) -> str:
        self._finished[self._key] = bytes(self._pieces)
        return self._key

    def discard(self) -> None:
        self._finished.pop(self._key, None)


def memory_storage() -> type[MemoryStorage]:
    """Create a storage class whose instances share their stored objects. Classes of several calls share nothing."""

    class SharedMemoryStorage(MemoryStorage):
        objects: ClassVar[MutableMapping[str, bytes]] = {}
        finished: ClassVar[MutableMapping[str, bytes]] = {}

    return SharedMemoryStorage
