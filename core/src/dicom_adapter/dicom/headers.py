"""Parse the headers of stored Part 10 files with pydicom.

A failure to read a file may be a temporary outage of the storage, which affects every file. A failure to parse a file
is permanent, and affects one instance. pydicom raises errors of many types, including OSError, for files that it cannot
parse. So the type of an error does not show which of the two failures occurred.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar

from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_adapter.api.errors import describe_failure, reports_no_resources
from dicom_adapter.dicom.encoding import UNDEFINED_LENGTH, encoding_of
from dicom_adapter.dicom.identity import UnreadableDataSet

T = TypeVar("T")

PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # Float Pixel Data, Double Float Pixel Data, Pixel Data
END_OF_SEQUENCE = b"\xfe\xff\xdd\xe0\0\0\0\0"  # Sequence Delimitation Item, in little endian
LARGE = 1 << 16  # bytes: if elements follow the pixel data, longer values are not read


def read_header(file: BinaryIO, **options: Any) -> Dataset:
    """Parse a Part 10 file without its pixel data. `options` are options of pydicom's `dcmread`.

    Raises OSError if the file cannot be read, and UnreadableDataSet if it cannot be parsed.
    """
    source = _Source(file)
    try:
        header = dcmread(source, stop_before_pixels=True, **options)
        if source.has_elements_after_pixels(header):  # not allowed (PS3.5 section 7.1), but sent
            source.seek(0)
            header = dcmread(source, defer_size=LARGE, **options)
            for tag in PIXELS:
                header.pop(tag, None)
    except Exception as failure:
        source.raise_failure()
        if isinstance(failure, OSError) and reports_no_resources(failure):
            raise  # for example, too many files were open to import a module of pydicom; a later attempt may succeed
        raise UnreadableDataSet(f"its header cannot be parsed ({describe_failure(failure)})") from None
    source.raise_failure()  # pydicom treats some read errors as the end of the file
    return header


class _Source:
    """A file that records the first failed operation, and never requests more bytes than the file has."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._failure: OSError | None = None
        self._size: int | None = None

    def raise_failure(self) -> None:
        """Raise the first failure, if any."""
        if self._failure is not None:
            raise self._failure

    def read(self, size: int = -1) -> bytes:
        if size > 0:  # a malformed length may be 4 GiB, for which no memory must be allocated
            size = min(size, max(self._end() - self.tell(), 0))
        return self._attempt(self._file.read, size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._attempt(self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._attempt(self._file.tell)

    def has_elements_after_pixels(self, header: Dataset) -> bool:
        """Return whether elements follow the pixel data. pydicom has stopped at the beginning of the pixel data."""
        at, end = self.tell(), self._end()
        if at == end:
            return False
        encoding = encoding_of(header.file_meta.get("TransferSyntaxUID", ""))
        start = self.read(12)
        at += 8 if encoding.is_implicit else 12
        if at > end:
            return False
        (length,) = encoding.long(start, 4 if encoding.is_implicit else 8)
        if length != UNDEFINED_LENGTH:
            return bool(at + length < end)
        self.seek(end - 8)
        return self.read(8) != END_OF_SEQUENCE  # the end of encapsulated pixel data

    def _end(self) -> int:
        if self._size is None:
            at = self.tell()
            self._size = self.seek(0, os.SEEK_END)
            self.seek(at)
        return self._size

    def _attempt(self, operation: Callable[..., T], *arguments: int) -> T:
        try:
            return operation(*arguments)
        except OSError as failure:
            self._failure = self._failure or failure
            raise
