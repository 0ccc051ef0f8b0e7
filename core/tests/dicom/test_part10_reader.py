"""Files of unknown origin: their identity, their completeness, and the bytes that are stored."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from dicom_adapter.dicom.part10 import data_set_offset, file_header
from dicom_adapter.dicom.part10_reader import META_LIMIT, FileOfUnknownOrigin, Part10Reader

CT = "1.2.840.10008.5.1.4.1.1.2"
NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]


def file_of(syntax: UID = ExplicitVRLittleEndian, *, with_group_length: bool = True) -> bytes:
    """Encode a small image, as pydicom writes it; without a group length, as old programs do."""
    image = Dataset()
    # With these two, the reader finds every value that it looks for.
    image.SpecificCharacterSet, image.IssuerOfPatientID = "ISO_IR 192", "HOSPITAL"
    image.SOPClassUID, image.SOPInstanceUID = CT, "1.2.3.4"
    image.StudyInstanceUID, image.SeriesInstanceUID, image.PatientID = "1.2.3", "1.2.3.5", "P1"
    image.Rows = image.Columns = 8
    image.BitsAllocated = 8
    pixels = bytes(range(64))
    image.PixelData = encapsulate([pixels]) if syntax.is_encapsulated else pixels
    image["PixelData"].VR = "OB" if syntax.is_encapsulated else "OW"
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID, image.file_meta.MediaStorageSOPInstanceUID = CT, "1.2.3.4"
    image.file_meta.TransferSyntaxUID = syntax
    image.preamble = b"\0" * 128
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=with_group_length)
    return file.getvalue()


def read(content: bytes, piece: int = 1 << 20) -> tuple[FileOfUnknownOrigin, bytes]:
    """Read a file in pieces of this size; return the result and the stored bytes."""
    reader = Part10Reader(unsupported_transfer_syntaxes={DeflatedExplicitVRLittleEndian})
    stored = []
    for start in range(0, len(content), piece):
        stored += map(bytes, reader.feed(memoryview(content)[start : start + piece]))
    stored += map(bytes, reader.end())
    return reader.result(), b"".join(stored)


@pytest.mark.parametrize("syntax", [*NATIVE, JPEGBaseline8Bit])
@pytest.mark.parametrize("piece", [1, 7, 144, 1 << 20])
def test_a_complete_file_is_stored_unchanged_with_its_identity(syntax: UID, piece: int) -> None:
    content = file_of(syntax)
    found, stored = read(content, piece)
    assert (content, "") == (stored, found.problem)
    identity = found.identity
    assert ("1.2.3.4", "1.2.3", "P1") == (identity.sop_instance_uid, identity.study_instance_uid, identity.patient_id)
    assert (syntax, CT, "1.2.3.4") == (
        found.transfer_syntax_uid,
        found.header_sop_class_uid,
        found.header_sop_instance_uid,
    )
    assert (len(content), zlib.crc32(content[data_set_offset(content) :])) == (found.size_bytes, found.checksum)


def test_a_header_without_group_length_gets_one() -> None:
    """Readers of stored objects rely on it; the data set is the same."""
    content = file_of(with_group_length=False)
    with pytest.raises(ValueError, match="not a DICOM file"):
        data_set_offset(content)
    found, stored = read(content, 50)
    assert (True, "") == (found.is_part10, found.problem)
    assert stored.endswith(content[-200:])
    assert zlib.crc32(stored[data_set_offset(stored) :]) == found.checksum
    assert dcmread(io.BytesIO(stored)) == dcmread(io.BytesIO(content))


def test_a_wrong_group_length_is_corrected() -> None:
    content = bytearray(file_of())
    struct.pack_into("<I", content, 140, 4)
    _found, stored = read(bytes(content))
    assert file_of() == stored


@pytest.mark.parametrize("syntax", [*NATIVE, JPEGBaseline8Bit])
def test_a_file_that_ends_in_an_element_has_a_problem_and_is_stored_as_it_is(syntax: UID) -> None:
    """A file that ends after an element may be complete.

    Verified to fail when the scanner stops at the Pixel Data, as it does for received data sets.
    """
    content = file_of(syntax)
    parsed = dcmread(io.BytesIO(content))
    tags = parsed.keys()
    raw = [parsed.get_item(tag) for tag in tags]
    known = [element for element in raw if isinstance(element, RawDataElement)]
    ends = {element.value_tell + element.length for element in known if element.length < len(content)}
    ends.add(known[0].value_tell - 8)  # the end of the element before it, which pydicom has decoded
    for length in set(range(132, len(content))) - ends:
        found, stored = read(content[:length])
        assert found.is_part10, length
        assert found.problem, length
        assert content[:length] == stored


def test_what_is_known_of_a_truncated_file_is_reported() -> None:
    found, _stored = read(file_of()[:-1])
    identity = found.identity
    assert ("1.2.3.4", "1.2.3", "P1") == (identity.sop_instance_uid, identity.study_instance_uid, identity.patient_id)
    assert "ends in the middle of (7FE0,0010)" in found.problem


@pytest.mark.parametrize("content", [b"", b"{}", b"%PDF-1.7" * 100, file_of()[132:], b"\0" * 131])
def test_a_file_that_does_not_begin_as_part_10_is_another_file(content: bytes) -> None:
    found, stored = read(content, 10)
    assert (False, "") == (found.is_part10, found.problem)
    assert (content, zlib.crc32(content), len(content)) == (stored, found.checksum, found.size_bytes)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\0" * 128 + b"DICM", "it ends in the middle of its header"),
        (b"\0" * 128 + b"DICM" + b"\x08\0\x05\0CS\x02\0ab", "it has no File Meta Information"),
        (b"\0" * 128 + b"DICM" + b"\x02\0\x10\0\x01\x02\0\0", "no valid data element at offset 132"),
        (
            b"\0" * 128 + b"DICM" + b"\x02\0\x02\0UI\x02\0" + b"1\0" + b"\x08\0\x05\0CS\0\0",
            "has no Transfer Syntax UID",
        ),
        (b"\0" * 128 + b"DICM" + b"\x02\0\x10\0UI\x02\0" + b"x\0" + b"\x08\0\x05\0CS\0\0", "is not a UID"),
        (
            b"\0" * 128 + b"DICM" + b"\x02\0\x02\x01OB\0\0\0\0\x10\0" + b"a" * META_LIMIT,
            f"has more than {META_LIMIT} bytes",
        ),
        (file_header(CT, "1.2", DeflatedExplicitVRLittleEndian, "A") + b"\x4b\x02\0" * 9, "is not supported"),
    ],
)
def test_a_broken_header_is_a_problem(content: bytes, problem: str) -> None:
    found, stored = read(content, 100)
    assert problem in found.problem
    assert content == stored


@given(st.binary(max_size=400), st.integers(1, 200), st.booleans())
def test_any_bytes_are_read_without_an_error(data: bytes, piece: int, has_prefix: bool) -> None:
    """The bytes are stored unchanged, unless the header gets its group length."""
    content = b"\0" * 128 + b"DICM" + data if has_prefix else data
    found, stored = read(content, piece)
    assert len(stored) == found.size_bytes
    if not has_prefix and data[128:132] != b"DICM":
        assert content == stored
    assert found == read(content)[0]
