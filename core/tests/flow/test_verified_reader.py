"""A stored object is verified while it is read, in whatever pieces, and with whichever header it was stored."""

from __future__ import annotations

import io
import zlib

import pytest
from attrs import frozen

from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.flow.verified_reader import Changed, VerifiedReader

DATA_SET = bytes(range(256)) * 3
HEADERS = [file_header("1.2", "1.2.3", "1.2.4", "CT1", receiver) for receiver in ("LUNG", None)]


@frozen
class Stored:
    """What the ledger says."""

    instance_id: int
    size_bytes: int
    checksum: int


def reader(content: bytes, stored: Stored) -> VerifiedReader:
    return VerifiedReader(io.BytesIO(content), stored)


@pytest.mark.parametrize("piece", [1, 143, 144, 145, 10_000, -1])
@pytest.mark.parametrize("header", HEADERS, ids=["present", "earlier"])
def test_it_is_read_as_it_is(header: bytes, piece: int) -> None:
    """And verified: a changed last byte does not come out."""
    stored = Stored(7, len(header) + len(DATA_SET), zlib.crc32(DATA_SET))
    whole = reader(header + DATA_SET, stored)
    assert header + DATA_SET == b"".join(iter(lambda: whole.read(piece), b""))
    spoilt = reader(header + DATA_SET[:-1] + b"\0", stored)
    with pytest.raises(Changed, match="instance 7 has changed"):
        while spoilt.read(piece):
            pass


@pytest.mark.parametrize("content", [b"", b"short", b"no DICOM" * 100, HEADERS[0]])
def test_what_is_no_stored_file_is_noticed(content: bytes) -> None:
    """Whatever it is instead."""
    with pytest.raises(Changed, match="instance 7 has changed"):
        reader(content, Stored(7, 1000, zlib.crc32(DATA_SET))).read()
