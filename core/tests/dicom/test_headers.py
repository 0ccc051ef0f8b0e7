"""Parsing the headers of stored files: failures to read and failures to parse are different."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from corpus.encoding import Element, changed, fragments, plain
from corpus.encoding import encode as encode_elements
from dicom_adapter.dicom.headers import read_header
from dicom_adapter.dicom.identity import UnreadableDataSet
from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.simulation.adapter import encode

HEADER = file_header("1.2", "1.3", ExplicitVRLittleEndian, "SENDER")
DATA_SET = encode(make_instance(rows=1, columns=1))


class BrokenFile(BytesIO):
    """A file whose disk fails after some bytes."""

    def __init__(self, content: bytes, readable: int) -> None:
        super().__init__(content)
        self._readable = readable

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() + (size or 0) > self._readable:
            raise OSError("Input/output error")
        return super().read(size)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of pydicom, about malformed values
@given(st.binary(max_size=400), st.integers(0, len(DATA_SET)), st.binary(max_size=40))
def test_any_bytes_are_parsed_or_refused(beginning: bytes, at: int, inserted: bytes) -> None:
    """No other exception is raised, whatever a device sends.

    Verified to fail when only the errors of pydicom's own classes are caught.
    """
    for content in (beginning, HEADER + beginning, HEADER + DATA_SET[:at] + inserted + DATA_SET[at:]):
        try:
            assert isinstance(read_header(BytesIO(content)), Dataset)
        except UnreadableDataSet as failure:
            assert "its header cannot be parsed" in str(failure)


@pytest.mark.parametrize("readable", range(0, len(HEADER + DATA_SET), 97))
def test_a_failure_to_read_is_raised_as_it_is(readable: int) -> None:
    """A file of which only a part can be read is not treated as malformed or as shorter.

    Verified to fail when the errors of the file are not recorded.
    """
    with pytest.raises(OSError, match="Input/output error"):
        read_header(BrokenFile(HEADER + DATA_SET[:-2], readable))


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, JPEGBaseline8Bit]
)
@pytest.mark.parametrize("keyword", ["PatientID", "StudyDate"])
def test_elements_after_the_pixel_data_are_found(syntax: UID, keyword: str) -> None:
    """Some senders do not sort the elements by tag; the pixel data are not kept.

    Verified to fail when parsing ends at the pixel data.
    """
    pixels = Element(0x7FE00010, "OW", bytes(200_000))
    if syntax == JPEGBaseline8Bit:
        pixels = fragments(b"\xff\xd8" + bytes(100_000))
    elements = {**plain(), "pixels": pixels}
    late = elements.pop({"PatientID": "patient", "StudyDate": "date"}[keyword])
    content = file_header("1.2", "1.3", syntax, "SENDER") + encode_elements([*elements.values(), late], syntax)
    header = read_header(BytesIO(content))
    assert late.value.decode() == header[keyword].value
    assert "PixelData" not in header
    assert late.value.decode() == read_header(BytesIO(content), specific_tags=[keyword])[keyword].value


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGBaseline8Bit])
def test_pixel_data_at_the_end_are_not_read(syntax: UID) -> None:
    """A processor may read the header of every instance, so this must be fast."""
    pixels = fragments(bytes(1 << 20)) if syntax == JPEGBaseline8Bit else Element(0x7FE00010, "OW", bytes(1 << 20))
    content = file_header("1.2", "1.3", syntax, "SENDER") + encode_elements(changed(pixels=pixels), syntax)
    file = CountingFile(content)
    assert "PID-1" == read_header(file).PatientID
    assert file.bytes_read < 20_000


class CountingFile(BytesIO):
    """A file that counts the bytes that are read."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data
