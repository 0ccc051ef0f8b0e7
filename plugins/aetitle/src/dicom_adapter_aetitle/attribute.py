"""Grouping by any DICOM attribute: find the attribute by keyword or tag, and read its values."""

from __future__ import annotations

import difflib
import re
import struct
from typing import Any

from attrs import frozen
from pydicom.datadict import dictionary_keyword, dictionary_VR, keyword_dict
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import FLOAT_VR, INT_VR, STR_VR

from dicom_adapter import Unprocessable

BUILT_IN = ("study", "patient", "series")  # groupings by fields that every instance has: no header needs to be read

NEARLY_THE_SAME, SIMILAR = 0.9, 0.6  # cutoffs of difflib: a name is suggested if its similarity is at least this

PADDING = " \0"  # PS3.5 6.2: values are padded to even length with a space, UIDs with NUL

_PLAIN_VRS = frozenset(vr.value for vr in STR_VR | INT_VR | FLOAT_VR)  # each value is a string or a number
_FIRST_TAG = 0x00080000  # lower tags belong to commands (PS3.7) and file meta information, never to a data set
_END_TAG = 0x7FE00008  # pixel data starts here; a processor reads only the header before it
_TAG = re.compile(r"\(([0-9A-Fa-f]{4}),([0-9A-Fa-f]{4})\)|([0-9A-Fa-f]{8})")

# Exceptions that pydicom raises for a value that does not fit its VR.
_BAD_VALUE = (ValueError, TypeError, OverflowError, NotImplementedError, struct.error)


@frozen
class Attribute:
    """A standard attribute with a plain value."""

    tag: BaseTag
    keyword: str  # "AccessionNumber"

    def __str__(self) -> str:
        return f"{self.keyword} ({self.tag.group:04X},{self.tag.element:04X})"


def find_attribute(text: str) -> Attribute:
    """Return the attribute with this keyword or tag.

    Raises ValueError with a message to be printed after the value: `'x' must be …`.
    """
    tag = _tag_of(text)
    try:
        keyword, vr = dictionary_keyword(tag), dictionary_VR(tag)
    except KeyError:
        raise ValueError("must be an attribute of the DICOM data dictionary; private attributes cannot group") from None
    if not _FIRST_TAG <= tag < _END_TAG:
        raise ValueError(f"must be an attribute of the data set that comes before its pixel data; {keyword} is not")
    if vr not in _PLAIN_VRS:
        raise ValueError(f"must be an attribute with a plain value; {keyword} has VR {vr}")
    return Attribute(tag, keyword)


def read_values(attribute: Attribute, header: Dataset) -> tuple[str, ...]:
    """Return the attribute's values without padding; () if the attribute is missing or empty.

    Raises Unprocessable if a value cannot be read.
    """
    if attribute.tag not in header:
        return ()
    try:
        element = header[attribute.tag]
        if element.VR not in _PLAIN_VRS:
            raise ValueError
        values = tuple(str(value).strip(PADDING) for value in _as_list(element.value))
    except _BAD_VALUE:
        # pydicom's message quotes the value, which may identify the patient: `from None` keeps it out of the log.
        raise Unprocessable(f"{attribute}, which groups instances, has a value that cannot be read") from None
    return values if any(values) else ()


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (MultiValue, list, tuple)) else [value]


def _tag_of(text: str) -> BaseTag:
    match = _TAG.fullmatch(text)
    if match:
        return Tag(int("".join(match.groups(default="")), 16))
    if text and text in keyword_dict:  # the dictionary has retired attributes with an empty keyword
        return Tag(keyword_dict[text])
    raise ValueError(
        'must be "study", "patient", "series", a DICOM keyword such as "AccessionNumber" '
        f'or a tag such as "(0008,0050)"{_did_you_mean(text)}'
    )


def _did_you_mean(text: str) -> str:
    """Return a suggestion: a keyword that is nearly the same, else "study", "patient" or "series", else a keyword.

    Returns "" if no name is similar.
    """
    keywords = {name.casefold(): name for name in keyword_dict if name}
    built_in = {name: name for name in BUILT_IN}
    for known, cutoff in ((keywords, NEARLY_THE_SAME), (built_in, SIMILAR), (keywords, SIMILAR)):
        nearest = difflib.get_close_matches(text.casefold(), known, n=1, cutoff=cutoff)
        if nearest:
            return f'; did you mean "{known[nearest[0]]}"?'
    return ""
