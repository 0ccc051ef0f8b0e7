"""Reading the texts of some elements of stored files."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from random import Random

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_adapter.dicom.identity import UnreadableDataSet
from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.dicom.texts import read_texts
from dicom_adapter.simulation.adapter import encode
from support.odd_data_sets import ODD, reversed_elements

KEYWORDS = ("PatientName", "StudyDescription", "BodyPartExamined")
EXPECTED = {"PatientName": "A^B", "StudyDescription": "HEAD", "BodyPartExamined": ""}


def instance(**attributes: object) -> Dataset:
    return make_instance(**{"patient_name": "A^B", "StudyDescription": "HEAD", "BodyPartExamined": "", **attributes})  # type: ignore[arg-type]


def texts(data_set: bytes, transfer_syntax: str = ExplicitVRLittleEndian) -> dict[str, str]:
    return read_texts(
        BytesIO(file_header("1.2", "1.3", transfer_syntax, "SENDER") + data_set), transfer_syntax, KEYWORDS
    )


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_texts_are_read_in_every_encoding(syntax: str) -> None:
    """Padding is removed, and a missing value is an empty text."""
    assert EXPECTED == texts(encode(instance(transfer_syntax=syntax)), syntax)


@pytest.mark.parametrize("make", [*ODD, reversed_elements])
def test_other_elements_do_not_matter(make: Callable[[Dataset], bytes]) -> None:
    """Their order and their contents do not change the texts.

    Verified to fail when the header is parsed with pydicom.
    """
    assert EXPECTED == texts(make(instance()))


def test_elements_are_found_behind_many_others() -> None:
    """A value of less than 1 MiB is skipped, wherever the pieces of the file end."""
    for size in Random(1).sample(range(100_000), 20):
        assert EXPECTED == texts(encode(instance(EncapsulatedDocument=b"x" * (2 * size))))


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Müller^Jörg"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_texts_are_decoded_with_their_character_set(charset: object, name: str) -> None:
    """With code extensions, all bytes of a text may be ASCII."""
    assert name == texts(encode(instance(SpecificCharacterSet=charset, patient_name=name)))["PatientName"]


def test_only_the_beginning_of_a_large_file_is_read() -> None:
    """The pixel data are not read."""
    content = encode(instance(rows=1024, columns=1024))
    file = BytesIO(file_header("1.2", "1.3", ExplicitVRLittleEndian, "SENDER") + content)
    assert EXPECTED == read_texts(file, ExplicitVRLittleEndian, KEYWORDS)
    assert file.tell() <= 2**16


LONG = 70_000  # bytes: more than the limit for a value


def read_omitting(content: bytes, syntax: str, *keywords: str) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the texts, and the omitted attributes with the reasons."""
    omitted: list[tuple[str, str]] = []
    file = BytesIO(file_header("1.2", "1.3", syntax, "SENDER") + content)
    return read_texts(file, syntax, keywords, lambda *one: omitted.append(one)), omitted


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("length", [LONG, 3 << 20])
def test_a_text_that_is_too_long_is_omitted_and_later_texts_are_read(syntax: str, length: int) -> None:
    """Verified to fail when `ElementScanner.decisive` contains the attribute of the long text."""
    data_set = instance(transfer_syntax=syntax, RetrieveURL="x" * length)  # (0008,1190), before the other texts
    found, omitted = read_omitting(encode(data_set), syntax, "RetrieveURL", "PatientName", "BodyPartExamined")
    assert {"RetrieveURL": "", "PatientName": "A^B", "BodyPartExamined": ""} == found
    assert [("RetrieveURL", f"its value has {length} bytes, more than 65536")] == omitted


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_texts_after_a_very_long_value_are_read(syntax: str) -> None:
    """The value itself is not read. Verified to fail when reading ends at a value of more than 1 MiB."""
    data_set = instance(transfer_syntax=syntax)
    data_set.add_new(0x00091001, "UN", b"x" * (5 << 20))
    data_set.add_new(0x00090010, "LO", "VENDOR")
    file = Counted(file_header("1.2", "1.3", syntax, "SENDER") + encode(data_set))
    assert "A^B" == read_texts(file, syntax, ["PatientName"])["PatientName"]
    assert file.bytes_read < 1 << 18


class Counted(BytesIO):
    """A file that counts the bytes that were read."""

    bytes_read = 0

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        self.bytes_read += len(piece)
        return piece


def test_of_several_values_the_first_is_read_and_later_texts_are_read() -> None:
    """An attribute must not occur twice. Verified to fail when `ElementScanner.decisive` contains all wanted ones."""
    content = encode(instance())
    twice = b"\x08\x00\x30\x10LO\x04\x00" + b"BODY"  # (0008,1030) Study Description
    place = content.index(b"\x10\x00\x10\x00PN")
    assert EXPECTED == texts(content[:place] + twice + content[place:])


def test_unreadable_files_and_wrong_keywords_are_refused() -> None:
    """The bytes are not a DICOM file, the data set is deflated, or a keyword has no text value."""
    with pytest.raises(UnreadableDataSet, match="not a DICOM file"):
        read_texts(BytesIO(b"x" * 1000), ExplicitVRLittleEndian, KEYWORDS)
    with pytest.raises(UnreadableDataSet, match="deflated"):
        texts(b"", DeflatedExplicitVRLittleEndian)
    with pytest.raises(ValueError, match="Rows, Unknown: not keywords"):
        read_texts(BytesIO(), ExplicitVRLittleEndian, ["PatientName", "Rows", "Unknown"])
