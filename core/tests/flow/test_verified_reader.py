"""A stored object is verified while it is read, for all sizes of pieces, and headers of this and an earlier version."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator

import pytest
from attrs import frozen

from dicom_adapter.dicom.part10 import file_header, mark_output
from dicom_adapter.flow.verified_reader import StoredObjectChanged, VerifiedReader

DATA_SET = bytes(range(256)) * 3
HEADERS = [file_header("1.2", "1.2.3", "1.2.4", "CT1", receiver) for receiver in ("LUNG", None)]


@frozen
class Stored:
    """The row of an instance."""

    instance_id: int
    size_bytes: int
    checksum: int


def reader(content: bytes, stored: Stored) -> VerifiedReader:
    return VerifiedReader(io.BytesIO(content), stored)


# 144 bytes: the part of a file up to the length of its header
@pytest.mark.parametrize("piece", [1, 143, 144, 145, 10_000, -1])
@pytest.mark.parametrize("header", HEADERS, ids=["current-version", "earlier-version"])
def test_an_unchanged_file_is_read_and_a_changed_one_raises(header: bytes, piece: int) -> None:
    """The error is raised before the changed last byte is returned."""
    stored = Stored(7, len(header) + len(DATA_SET), zlib.crc32(DATA_SET))
    whole = reader(header + DATA_SET, stored)
    assert header + DATA_SET == b"".join(iter(lambda: whole.read(piece), b""))
    changed = reader(header + DATA_SET[:-1] + b"\0", stored)
    with pytest.raises(StoredObjectChanged, match="instance 7 has changed"):
        while changed.read(piece):
            pass


@pytest.mark.parametrize("piece", [1, 60, 127, 128, 129, 10_000, -1])
@pytest.mark.parametrize("into", [False, True], ids=["read", "readinto"])
def test_the_mark_of_an_output_is_not_returned(piece: int, into: bool) -> None:
    """It is returned as it is stored only to copies of the storage.

    Verified to fail when the first piece is compared without the rest of the preamble.
    """
    content = HEADERS[0] + DATA_SET
    stored = Stored(7, len(content), zlib.crc32(DATA_SET))
    marked = mark_output(content)
    assert content != marked

    def pieces(file: VerifiedReader) -> Iterator[bytes]:
        buffer = bytearray(piece if piece > 0 else len(content))
        read = (lambda: bytes(buffer[: file.readinto(memoryview(buffer))])) if into else (lambda: file.read(piece))
        return iter(read, b"")

    assert content == b"".join(pieces(reader(marked, stored)))
    assert marked == b"".join(pieces(VerifiedReader(io.BytesIO(marked), stored, returns_mark=True)))


@pytest.mark.parametrize("into", [False, True], ids=["read", "readinto"])
def test_the_mark_of_an_output_is_not_returned_after_a_read_of_no_bytes(into: bool) -> None:
    """Verified to fail when a piece without bytes decides that the file has no mark."""
    content = HEADERS[0] + DATA_SET
    file = reader(mark_output(content), Stored(7, len(content), zlib.crc32(DATA_SET)))
    assert not (file.readinto(memoryview(bytearray())) if into else file.read(0))
    assert content == file.read()


def test_the_preamble_of_a_program_is_kept() -> None:
    """A program may use the preamble, for example to make a file readable as TIFF (PS3.10 section 7.1)."""
    content = b"II*\0".ljust(128, b"\0") + HEADERS[0][128:] + DATA_SET
    assert content == mark_output(content) == reader(content, Stored(7, len(content), zlib.crc32(DATA_SET))).read()


@pytest.mark.parametrize("content", [b"", b"short", b"no DICOM" * 100, HEADERS[0]])
def test_a_file_with_other_content_raises(content: bytes) -> None:
    with pytest.raises(StoredObjectChanged, match="instance 7 has changed"):
        reader(content, Stored(7, 1000, zlib.crc32(DATA_SET))).read()
