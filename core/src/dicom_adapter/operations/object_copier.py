"""Copy stored objects from one storage to another, for backups and restores. Each object is verified."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from attrs import define, field

from dicom_adapter.api.errors import DicomAdapterError, StoredObjectMissing, describe_failure
from dicom_adapter.api.storage import StorageBackend
from dicom_adapter.flow.verified_reader import StoredObjectChanged, VerifiedReader
from dicom_adapter.ledger.balance import ObjectRow

PIECE_BYTES = 1 << 20  # bytes that are copied together
SYNC_BYTES, SYNC_OBJECTS = 64 << 20, 1000  # objects are synced together, up to this size and number


class ObjectNotCopied(DicomAdapterError):
    """A stored object is missing, differs from the received data set, or cannot be read."""


@define
class ObjectCopier:
    """Copier of stored objects. Errors of the target storage are raised unchanged. Not thread-safe."""

    source: StorageBackend[Any]
    target: StorageBackend[Any]
    keys: dict[int, str] = field(factory=dict)  # key in the target storage, by the number of the instance
    _unsynced: list[str] = field(factory=list)
    _unsynced_bytes: int = 0

    def copy(self, row: ObjectRow) -> None:
        """Copy the object of an instance. Raises ObjectNotCopied; nothing is then stored in the target."""
        writer = self.target.writer()
        try:
            for piece in self._read(row):
                writer.write(piece)
            key = writer.finish()
        except BaseException:
            writer.discard()
            raise
        self.keys[row.instance_id] = key
        self._unsynced.append(key)
        self._unsynced_bytes += row.size_bytes
        if self._unsynced_bytes >= SYNC_BYTES or len(self._unsynced) >= SYNC_OBJECTS:
            self.sync()

    def sync(self) -> None:
        """Make all copied objects durable."""
        if self._unsynced:
            self.target.sync(self._unsynced)
        self._unsynced, self._unsynced_bytes = [], 0

    def delete(self, numbers: set[int]) -> None:
        """Delete the copied objects of these instances from the target."""
        self.sync()
        self.target.delete([self.keys.pop(number) for number in numbers])

    def _read(self, row: ObjectRow) -> Iterator[bytes]:
        """Yield the pieces of an object. Raises ObjectNotCopied for errors of reading, and for no other errors."""
        try:
            with VerifiedReader(self.source.read(row.storage_key), row, returns_mark=True) as reader:
                while piece := cast(BinaryIO, reader).read(PIECE_BYTES):
                    yield piece
        except (StoredObjectMissing, StoredObjectChanged) as failure:
            raise ObjectNotCopied(str(failure)) from None
        except Exception as failure:  # noqa: BLE001 - a storage backend is a plugin and may raise anything
            raise ObjectNotCopied(f"its stored object cannot be read: {describe_failure(failure)}") from None
