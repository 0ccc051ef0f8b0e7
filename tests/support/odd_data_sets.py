"""Data sets in explicit VR little endian that are difficult to parse."""

from __future__ import annotations

from collections.abc import Callable

from pydicom.dataset import Dataset

from dicom_adapter.simulation.adapter import encode

PIXEL_DATA = 0x7FE00010
PIXELS = b"\xe0\x7f\x10\x00"  # the encoded tag of Pixel Data
SEQUENCE = b"\x40\x00\x75\x02SQ\x00\x00\xff\xff\xff\xff"  # (0040,0275), of undefined length
ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
DELIMITERS = b"\xfe\xff\x0d\xe0\x00\x00\x00\x00\xfe\xff\xdd\xe0\x00\x00\x00\x00"  # of an item and of a sequence


def with_nested_sequences(dataset: Dataset, levels: int = 500) -> bytes:
    """Return the encoded data set with a sequence that contains sequences."""
    return _before_pixels(dataset, (SEQUENCE + ITEM) * levels + DELIMITERS * levels)


def with_endless_sequence(dataset: Dataset) -> bytes:
    """Return the encoded data set with a sequence that has no end."""
    return _before_pixels(dataset, SEQUENCE + ITEM)


def with_nul_in_character_set(dataset: Dataset) -> bytes:
    """Return the encoded data set with the character set "ISO_IR\\0192"."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return encode(dataset).replace(b"ISO_IR 192", b"ISO_IR\x00192")


def with_unknown_character_set(dataset: Dataset) -> bytes:
    """Return the encoded data set with a character set that Python has, but not for text."""
    dataset.SpecificCharacterSet = "ISO_IR 192"
    return encode(dataset).replace(b"ISO_IR 192", b"rot13     ")


def with_huge_length(dataset: Dataset) -> bytes:
    """Return the encoded data set with a value that is said to have almost 4 GiB."""
    return _before_pixels(dataset, b"\x42\x00\x11\x00OB\x00\x00\xfe\xff\xff\xff")


ODD: tuple[Callable[[Dataset], bytes], ...] = (
    with_nested_sequences,
    with_endless_sequence,
    with_nul_in_character_set,
    with_unknown_character_set,
    with_huge_length,
)


def _before_pixels(dataset: Dataset, elements: bytes) -> bytes:
    head, pixels, rest = encode(dataset).partition(PIXELS)
    return head + elements + pixels + rest


def reversed_elements(dataset: Dataset) -> bytes:
    """Return the encoded data set with its elements, all but Pixel Data, in descending order."""
    tags = sorted((element.tag for element in dataset if element.tag != PIXEL_DATA), reverse=True)
    _head, pixels, rest = encode(dataset).partition(PIXELS)
    return b"".join(_encode_one(dataset, tag) for tag in tags) + pixels + rest


def _encode_one(dataset: Dataset, tag: int) -> bytes:
    single = Dataset()
    single.file_meta = dataset.file_meta
    single[tag] = dataset[tag]
    return encode(single)
