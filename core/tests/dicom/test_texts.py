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


def test_unreadable_files_and_wrong_keywords_are_refused() -> None:
    """The bytes are not a DICOM file, the data set is deflated, or a keyword has no text value."""
    with pytest.raises(UnreadableDataSet, match="not a DICOM file"):
        read_texts(BytesIO(b"x" * 1000), ExplicitVRLittleEndian, KEYWORDS)
    with pytest.raises(UnreadableDataSet, match="deflated"):
        texts(b"", DeflatedExplicitVRLittleEndian)
    with pytest.raises(ValueError, match="Rows, Unknown: not keywords"):
        read_texts(BytesIO(), ExplicitVRLittleEndian, ["PatientName", "Rows", "Unknown"])
