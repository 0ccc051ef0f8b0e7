"""Read the texts of some top-level elements of a stored Part 10 file, without parsing the rest of it.

This takes a fraction of the time that pydicom needs for a header. Elements are found at any position before the pixel
data. The contents of other elements, such as deeply nested sequences, are skipped; long values are not read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import BinaryIO

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from dicom_adapter.dicom.elements import VALUE_LIMIT, CompleteElementScanner, ElementScanner
from dicom_adapter.dicom.encoding import UNDEFINED_LENGTH
from dicom_adapter.dicom.identity import SPECIFIC_CHARACTER_SET, UnreadableDataSet, decode_text
from dicom_adapter.dicom.part10 import data_set_offset

TEXT_VRS = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
NONE_REQUIRED: frozenset[int] = frozenset()
DECISIVE = frozenset({SPECIFIC_CHARACTER_SET})
PIXEL_GROUP = 0x7FE0
FIRST_PIECE = 8 << 10  # bytes: most headers are shorter
PIECE = 64 << 10  # bytes of each following piece

OnOmitted = Callable[[str, str], None]  # keyword; reason without patient data


def _ignore(_keyword: str, _reason: str) -> None: ...


def read_texts(
    file: BinaryIO, transfer_syntax_uid: str, keywords: Iterable[str], on_omitted: OnOmitted = _ignore
) -> dict[str, str]:
    """Return the value of each attribute, "" if it is missing. Multiple values are separated by backslashes.

    A value of more than 64 KiB is omitted: it is returned as "", and reported to `on_omitted`. `file` is seekable.
    Bytes that are invalid in the character set are escaped. Raises ValueError for a keyword that has no text value,
    OSError if the file cannot be read, and UnreadableDataSet if it is not a Part 10 file, or is deflated.
    """
    tags = _tags(tuple(keywords))
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        raise UnreadableDataSet("its data set is deflated, which the adapter does not support")
    wanted = frozenset(tags.values()) | DECISIVE
    scanner = CompleteElementScanner(transfer_syntax_uid, wanted, NONE_REQUIRED, DECISIVE)
    _scan(file, scanner)
    for keyword, tag in tags.items():
        if tag in scanner.too_long and tag not in scanner.values:
            on_omitted(keyword, _describe_length(scanner.too_long[tag]))
    charset = scanner.values.get(SPECIFIC_CHARACTER_SET, b"")
    return {
        keyword: _decode(scanner.values.get(tag, b""), charset, is_name=_vr(tag) == "PN")
        for keyword, tag in tags.items()
    }


def _scan(file: BinaryIO, scanner: ElementScanner) -> None:
    piece = file.read(FIRST_PIECE)
    try:
        offset = data_set_offset(piece)
    except ValueError as failure:
        raise UnreadableDataSet(f"its header cannot be parsed: {failure}") from None
    if offset > len(piece):
        file.seek(offset)
    scanner.feed(piece[offset:])
    while scanner.needs_more and scanner.last.tag >> 16 != PIXEL_GROUP:
        if scanner.to_skip > PIECE:
            file.seek(scanner.skip(), os.SEEK_CUR)
        piece = file.read(PIECE)
        if not piece:
            break
        scanner.feed(piece)
    scanner.end()


def _describe_length(length: int) -> str:
    if length == UNDEFINED_LENGTH:
        return "its value has an undefined length"
    return f"its value has {length} bytes, more than {VALUE_LIMIT}"


@lru_cache(maxsize=64)
def _tags(keywords: tuple[str, ...]) -> Mapping[str, int]:
    tags = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    wrong = [keyword for keyword, tag in tags.items() if tag is None or _vr(tag) not in TEXT_VRS]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not keywords of DICOM attributes with text values")
    return {keyword: tag for keyword, tag in tags.items() if tag is not None}


@lru_cache(maxsize=1024)
def _vr(tag: int) -> str:
    return dictionary_VR(tag)


@lru_cache(maxsize=4096)
def _decode(value: bytes, charset: bytes, *, is_name: bool) -> str:
    return decode_text(value, charset, PN_DELIMS if is_name else TEXT_VR_DELIMS)
