"""Segments: records after writes, torn writes, forgeries and deletions."""

from __future__ import annotations

import errno
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread

from dicom_adapter.dicom.synthetic import make_instance, write
from dicom_adapter.storage.local import segment as module
from dicom_adapter.storage.local.segment import BLOCK, MAX_PIECES, RECORD, SEGMENT, Record, Segment, write_all


@pytest.fixture
def segment(tmp_path: Path) -> Iterator[Segment]:
    segment = Segment.create(tmp_path / "one.segment")
    yield segment
    segment.close()


def append(segment: Segment, content: bytes, *, checksum: int | None = None) -> Record:
    """Write a record after the last one."""
    record = Record(
        start=segment.end,
        length=len(content),
        checksum=zlib.crc32(content) if checksum is None else checksum,
        is_alive=True,
    )
    write_all(segment.descriptor, [content], record.content)
    segment.write_header(record)
    segment.end = record.end
    return record


def content(segment: Segment, record: Record) -> bytes:
    """Read a record through another descriptor."""
    with Segment.open(segment.path).reader(record) as reader:
        return reader.read()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def failing_with(code: int) -> object:
    """Return a system call that fails with this error code."""

    def fail(*_arguments: int) -> None:
        raise OSError(code, os.strerror(code))

    return fail


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, BLOCK - RECORD.size, BLOCK - RECORD.size + 1, BLOCK, 3 * BLOCK + 7])
def test_records_of_every_size_are_found_and_read(segment: Segment, size: int) -> None:
    """Each record begins at a block, so it can be found without an index."""
    contents = [os.urandom(size), b"next", os.urandom(size)]
    records = [append(segment, content) for content in contents]

    assert records == list(segment.records())
    assert contents == [content(segment, record) for record in records]
    assert all(record.start % BLOCK == 0 and segment.is_whole(record) for record in records)


def test_a_reader_stays_within_its_record(segment: Segment) -> None:
    """The reader reads and seeks as in a separate file. Adjacent records cannot be read."""
    append(segment, b"before")
    record = append(segment, b"0123456789")
    append(segment, b"after")
    with Segment.open(segment.path).reader(record) as reader:
        assert (b"0123456789", b"") == (reader.read(), reader.read())
        assert 6 == reader.seek(-4, os.SEEK_END)
        assert (b"67", 8) == (reader.read(2), reader.tell())
        assert (20, b"") == (reader.seek(20), reader.read())
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            reader.seek(-99, os.SEEK_END)


def test_pydicom_reads_a_record(segment: Segment, tmp_path: Path) -> None:
    """pydicom reads the name of a buffered file.

    Verified to fail when the reader has no name: no header can be read.
    """
    write(make_instance(patient_id="P1"), tmp_path / "one.dcm")
    append(segment, b"before")
    record = append(segment, (tmp_path / "one.dcm").read_bytes())
    with Segment.open(segment.path).reader(record) as reader:
        assert "P1" == dcmread(reader, stop_before_pixels=True).PatientID


def test_more_pieces_than_one_system_call_accepts_are_written(segment: Segment) -> None:
    """Verified to fail when all pieces are passed to one call: the call fails with `Invalid argument`."""
    pieces = [bytes([number % 256]) for number in range(2 * MAX_PIECES)]
    end = write_all(segment.descriptor, pieces, BLOCK)

    assert BLOCK + len(pieces) == end
    assert b"".join(pieces) == os.pread(segment.descriptor, len(pieces), BLOCK)


def test_short_writes_are_completed(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    """No byte is lost if the kernel writes only three bytes at a time."""
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwritev", lambda descriptor, pieces, at: pwrite(descriptor, pieces[0][:3], at))
    monkeypatch.setattr(os, "pwrite", lambda descriptor, piece, at: pwrite(descriptor, bytes(piece[:3]), at))
    assert BLOCK + 10 == write_all(segment.descriptor, [b"0123", b"456789"], BLOCK)
    assert b"0123456789" == os.pread(segment.descriptor, 10, BLOCK)


def test_content_that_looks_like_a_record_is_not_read_as_a_record(segment: Segment, tmp_path: Path) -> None:
    """A sender may send a copy of a segment, whose nonce differs from that of the segment that stores the copy."""
    other = Segment.create(tmp_path / "other.segment")
    append(other, b"forged")
    forged = os.pread(other.descriptor, 3 * BLOCK, 0)
    other.close()
    padding = bytes(BLOCK - RECORD.size)  # places the forged header where the header of a record would be
    record = append(segment, padding + forged)

    assert [record] == list(segment.walk())
    assert all(segment.record_at(start) is None for start in range(record.start + BLOCK, record.end, BLOCK))


def test_a_record_without_its_header_is_not_read(segment: Segment) -> None:
    """The blocks of the record are treated as incomplete."""
    record = append(segment, b"whole")
    write_all(segment.descriptor, [b"x" * (2 * BLOCK)], segment.end + RECORD.size)

    assert [record] == list(segment.records())
    assert [record, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK] == list(segment.walk())


@pytest.mark.parametrize("offset", range(RECORD.size))
def test_a_header_with_a_changed_bit_is_not_read(segment: Segment, offset: int) -> None:
    """The bit may be at any position."""
    record = append(segment, b"content")
    place = record.start + offset
    (byte,) = os.pread(segment.descriptor, 1, place)
    os.pwrite(segment.descriptor, bytes([byte ^ 4]), place)

    assert segment.record_at(record.start) is None


def test_content_with_a_wrong_checksum_or_length_is_incomplete(segment: Segment) -> None:
    """The content has a changed byte, or its end is missing."""
    changed, cut = append(segment, b"changed", checksum=zlib.crc32(b"as sent")), append(segment, b"cut" * BLOCK)
    segment.truncate(cut.start + BLOCK)

    assert [False, False] == [segment.is_whole(record) for record in (changed, cut)]


# --- deleted records --------------------------------------------------------------------------------------------------


def test_a_deleted_record_becomes_a_hole(segment: Segment) -> None:
    """The space of the record is freed at once, and adjacent records are kept."""
    first, second, third = (append(segment, os.urandom(64 * BLOCK)) for _ in range(3))
    before = os.fstat(segment.descriptor).st_blocks
    segment.free(second)

    assert [first, third] == list(segment.walk())
    assert all(segment.is_whole(record) for record in (first, third))
    assert before - os.fstat(segment.descriptor).st_blocks >= 64 * BLOCK // 512


@pytest.mark.parametrize("code", sorted(module.NO_HOLES))
def test_a_deleted_record_is_marked_without_hole_punching(
    segment: Segment, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The record is skipped and not counted."""
    monkeypatch.setattr(module, "_punch_hole", failing_with(code))
    first, second = append(segment, b"first"), append(segment, b"second")
    segment.free(first)

    assert [second] == list(segment.records())
    dead = segment.record_at(first.start)
    assert dead is not None
    assert not dead.is_alive
    segment.free(second)
    assert segment.is_empty()


def test_other_failures_of_hole_punching_are_raised(segment: Segment, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failing disk is not a file system without hole punching."""
    monkeypatch.setattr(module, "_punch_hole", failing_with(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        segment.free(append(segment, b"x"))


# --- segments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beginning", [b"", b"dicom", bytes(SEGMENT.size), b"x" * BLOCK])
def test_files_that_are_not_segments_are_refused(tmp_path: Path, beginning: bytes) -> None:
    """No descriptor remains open."""
    path = tmp_path / "x.segment"
    path.write_bytes(beginning)
    before = open_descriptors()
    with pytest.raises(ValueError, match="not a segment"):
        Segment.open(path)
    assert before == open_descriptors()


def test_no_file_remains_of_a_segment_that_cannot_be_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is deleted and its descriptor closed."""
    before = open_descriptors()
    with monkeypatch.context() as full:
        full.setattr(os, "pwritev", failing_with(errno.ENOSPC))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            Segment.create(tmp_path / "x.segment")
    assert (before, []) == (open_descriptors(), list(tmp_path.iterdir()))


def test_nonces_are_unique_and_not_shown(segment: Segment, tmp_path: Path) -> None:
    """A sender that knew a nonce could forge records."""
    other = Segment.create(tmp_path / "other.segment")
    assert segment.nonce != other.nonce
    assert repr(segment.nonce) not in repr(segment)
    other.close()


def test_a_segment_is_locked_while_a_process_writes_it(segment: Segment) -> None:
    """The lock is effective within one process, too, until the segment is closed."""
    second = Segment.open(segment.path, to_change=True)
    assert not second.try_lock()
    segment.close()
    assert second.try_lock()
    second.close()


def test_a_sealed_segment_stays_sealed(segment: Segment) -> None:
    """Sealing changes no other byte."""
    record = append(segment, b"x")
    assert not segment.is_sealed
    segment.mark_sealed()
    again = Segment.open(segment.path)
    assert (True, segment.nonce, [record]) == (again.is_sealed, again.nonce, list(again.records()))
    again.close()
