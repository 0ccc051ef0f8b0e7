"""The data set of a Part 10 file (PS3.10), read in large pieces, so that it can be sent exactly as it is encoded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from dicom_adapter import Permanent, Retriable

PIECE_BYTES = 1 << 20  # an upload has two pieces in memory; large pieces need fewer system calls
BEFORE_META = 128 + 4 + 12  # bytes: preamble, prefix, and the group length element (PS3.10 section 7.1)
META_BEGINNING = b"DICM\x02\x00\x00\x00UL\x04\x00"  # bytes 128 to 139: prefix; tag, VR and length of the first element

Piece = tuple[memoryview, bool]  # a part of the data set, and whether it is the last one


def data_set_pieces(source: BinaryIO, size_bytes: int) -> Iterator[Piece]:
    """Yield the data set of a file of `size_bytes` bytes. Raises Permanent for any other file.

    Each piece is yielded only after the next read, so that a file of wrong length never becomes a complete data set.
    The errors of `source.read` are passed on, except OSError, which becomes Retriable.
    """
    piece = _read(source, min(PIECE_BYTES, size_bytes))
    total, offset = len(piece), _data_set_offset(piece)
    while True:
        following = _read(source, min(PIECE_BYTES, size_bytes - total) or 1)
        total += len(following)
        if total > size_bytes or (not following and total < size_bytes):
            length = "more" if total > size_bytes else f"only {total}"
            raise Permanent(f"the stored file has {length} bytes where {size_bytes} were recorded")
        yield memoryview(piece)[offset:], not following
        if not following:
            return
        piece, offset = following, 0


def _data_set_offset(beginning: bytes) -> int:
    if len(beginning) < BEFORE_META or beginning[128:140] != META_BEGINNING:
        raise Permanent("the stored file is not a DICOM file: it has no File Meta Information (PS3.10 section 7.1)")
    offset = BEFORE_META + int.from_bytes(beginning[140:144], "little")
    if offset > len(beginning):
        raise Permanent(f"the File Meta Information of the stored file has {offset} bytes: more than the file or 1 MiB")
    return offset


def _read(source: BinaryIO, count: int) -> bytes:
    """Read `count` bytes, or fewer at the end of the file: a raw file may return less before its end."""
    try:
        piece = source.read(count)
        if not piece or len(piece) == count:
            return piece
        pieces = [piece]
        missing = count - len(piece)
        while missing and (piece := source.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
    except OSError as failure:
        raise Retriable(f"reading the stored file failed ({type(failure).__name__})") from failure
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
