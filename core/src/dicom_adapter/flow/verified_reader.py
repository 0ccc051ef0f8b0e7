"""Step 5 (`submit`) of the flow: read a stored object for upload, and detect changes since it was received."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO, Protocol

from dicom_adapter.api.errors import Permanent
from dicom_adapter.dicom.part10 import BEFORE_META, OUTPUT_PREAMBLE, PREAMBLE
from dicom_adapter.dicom.part10_reader import checksum_start


class StoredObjectChanged(Permanent):
    """A stored object differs from the received data set."""


class ExpectedObject(Protocol):
    """The columns of the ledger that describe a stored object: some attributes of `InstanceStorageInfo`."""

    @property
    def instance_id(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def checksum(self) -> int: ...


class VerifiedReader(io.RawIOBase):
    """Reads a stored object once, from its beginning, and computes its checksum.

    If the size or the checksum differs from the ledger, the reader raises StoredObjectChanged instead of returning the
    last bytes. The mark in the preamble of an output is not returned: the preamble is empty, as the pipeline wrote it.
    """

    def __init__(self, file: BinaryIO, instance: ExpectedObject, *, returns_mark: bool = False) -> None:
        """`file` is seekable, at its beginning. With `returns_mark`, the file is returned as it is stored."""
        super().__init__()
        self._file = file
        self._instance = instance
        self._beginning = b""  # the first BEFORE_META bytes of the file, which contain the length of the header
        # Offset of the first byte that `_check` adds to the checksum: a minimum until `_find_data_set` sets the value
        self._skip = BEFORE_META
        self._size = 0  # bytes read so far
        self._is_marked: bool | None = False if returns_mark else None  # None: unknown, because nothing was read
        self._checksum = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        # The default `read`, based on `readinto`, zeroes and copies a buffer of `size` bytes: too slow for uploads.
        if size is None or size < 0:
            return super().read(-1)
        piece = self._file.read(size)
        if self._size < PREAMBLE and self._finds_mark(piece):
            count = min(PREAMBLE - self._size, len(piece))
            piece = bytes(count) + piece[count:]
        self._check(memoryview(piece), wanted=size)
        return piece

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # io passes a memoryview
        count = self._file.readinto(buffer)  # type: ignore[attr-defined] # binary files have this method
        if self._size < PREAMBLE and self._finds_mark(bytes(memoryview(buffer)[: min(count, PREAMBLE)])):
            marked = min(PREAMBLE - self._size, count)
            memoryview(buffer)[:marked] = bytes(marked)
        self._check(memoryview(buffer)[:count], wanted=len(buffer))
        return int(count)

    def _finds_mark(self, piece: bytes) -> bool:
        """Return whether the file has the mark of an output. The first `piece` may be shorter than the mark."""
        if self._is_marked is None and piece:  # `read(0)` shows nothing
            beginning = piece[:PREAMBLE]
            if len(beginning) < PREAMBLE:
                beginning += self._file.read(PREAMBLE - len(beginning))
                self._file.seek(len(piece))
            self._is_marked = beginning == OUTPUT_PREAMBLE
        return bool(self._is_marked)

    def _check(self, piece: memoryview, wanted: int) -> None:
        if self._size < BEFORE_META:
            self._find_data_set(piece)
        self._checksum = zlib.crc32(piece[max(0, self._skip - self._size) :], self._checksum)
        self._size += len(piece)
        # Verify with the last piece, not at the end of the file: a caller that knows the size may not read further.
        if (wanted and not piece) or self._size >= self._instance.size_bytes:
            self._verify()

    def _find_data_set(self, piece: memoryview) -> None:
        # The length of the header is read from the file: earlier versions of the adapter wrote a shorter header.
        self._beginning += piece[: BEFORE_META - self._size]
        if len(self._beginning) == BEFORE_META:
            start = checksum_start(self._beginning)
            self._skip = max(start, BEFORE_META)
            self._checksum = zlib.crc32(self._beginning[start:])

    def _verify(self) -> None:
        instance = self._instance
        if self._size < BEFORE_META:  # the end of a short file
            self._checksum = zlib.crc32(self._beginning)
        if (self._size, self._checksum) != (instance.size_bytes, instance.checksum):
            raise StoredObjectChanged(
                f"the stored object of instance {instance.instance_id} has changed: {self._size} bytes with checksum "
                f"{self._checksum:08x} instead of {instance.size_bytes} with {instance.checksum:08x}"
            )

    def close(self) -> None:
        self._file.close()
        super().close()
