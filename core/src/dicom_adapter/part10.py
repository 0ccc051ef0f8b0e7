"""DICOM files (PS3.10): the header that goes before a received data set, and the few attributes that the ledger needs.

The data set itself is never decoded and encoded again; it is stored as it came.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from io import BytesIO
from typing import Any

from attrs import field, frozen
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.config import IGNORE, settings
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_adapter.errors import Refused

IMPLEMENTATION_CLASS_UID = "2.25.308205291862746372187430846471190541725"  # ours, made from a UUID (PS3.5 B.2)
IMPLEMENTATION_VERSION_NAME = "DICOM-ADAPTER-01"  # at most 16 characters (VR SH)

UID_GRAMMAR = re.compile(r"[0-9.]{1,64}")
REPLACEMENT = "\ufffd"  # stands for what could not be decoded
BEFORE_META = 128 + 4 + 12  # bytes: preamble, prefix, and the group length element (PS3.10 section 7.1)
UNDEFINED_LENGTH = 0xFFFFFFFF  # PS3.5 section 7.1.1
INFLATED_HEADER_LIMIT = 1 << 20  # bytes of a deflated data set that are inflated to find its attributes

TRANSFER_SYNTAX_UID = 0x00020010
SOURCE_AE_TITLE = 0x00020016
RECEIVING_AE_TITLE = 0x00020018
SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
PATIENT_ID = 0x00100020
ISSUER_OF_PATIENT_ID = 0x00100021
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
_WANTED = [
    SPECIFIC_CHARACTER_SET,
    SOP_CLASS_UID,
    SOP_INSTANCE_UID,
    PATIENT_ID,
    ISSUER_OF_PATIENT_ID,
    STUDY_INSTANCE_UID,
    SERIES_INSTANCE_UID,
]


class Unreadable(Refused):
    """The data set cannot be parsed (C-STORE status 0xC000, *cannot understand*)."""


class Mismatch(Refused):
    """The data set is not what the C-STORE request or its SOP class says (status 0xA900)."""


def keep_values_out_of_warnings() -> None:
    """Have pydicom take values as they are: its warnings about malformed ones quote them. For a whole process."""
    settings.reading_validation_mode = IGNORE


@frozen(kw_only=True)
class Identity:
    """What an instance says of itself, padding removed."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str
    issuer_of_patient_id: str


def file_header(
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    source_ae_title: str,
    receiving_ae_title: str | None = None,
) -> bytes:
    """Preamble, prefix and File Meta Information (PS3.10 section 7.1) in explicit VR little endian.

    `receiving_ae_title`: None leaves it out, as the first versions did.
    """
    meta = b"".join(
        (
            struct.pack("<HH2sHI2s", 0x0002, 0x0001, b"OB", 0, 2, b"\x00\x01"),
            _short(0x0002, b"UI", sop_class_uid),
            _short(0x0003, b"UI", sop_instance_uid),
            _short(0x0010, b"UI", transfer_syntax_uid),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _short(0x0016, b"AE", source_ae_title),
            b"" if receiving_ae_title is None else _short(0x0018, b"AE", receiving_ae_title),
        )
    )
    length = struct.pack("<HH2sHI", 0x0002, 0x0000, b"UL", 4, len(meta))
    return b"\x00" * 128 + b"DICM" + length + meta


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", "replace")  # a caller may have put anything into its AE title
    if len(value) % 2:
        value += b"\x00" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value


def data_set_offset(beginning: bytes) -> int:
    """Where the data set of a Part 10 file begins; `beginning`: its first BEFORE_META bytes at least.

    Raises ValueError when that is no Part 10 file.
    """
    if len(beginning) < BEFORE_META or beginning[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise ValueError("it is no DICOM file: it does not begin with File Meta Information (PS3.10 section 7.1)")
    (length,) = struct.unpack_from("<I", beginning, BEFORE_META - 4)
    return BEFORE_META + int(length)


@frozen(kw_only=True)
class StoredFile:
    """What a Part 10 file of the adapter says of itself."""

    identity: Identity = field(repr=False)
    transfer_syntax_uid: str
    source_ae_title: str  # the caller; "" when the header does not name it
    receiving_ae_title: str  # the called AE title; "" when an earlier version wrote the header
    data_set: bytes = field(repr=False)


def read_file(content: bytes) -> StoredFile:
    """Take a whole Part 10 file apart. Raises Unreadable or Mismatch, also when it is cut off."""
    try:
        offset = data_set_offset(content)
        meta = read_dataset(BytesIO(content[BEFORE_META:offset]), is_implicit_VR=False, is_little_endian=True)
    except Exception as failure:  # noqa: BLE001 - pydicom raises many kinds for bytes that are no data set
        raise Unreadable(f"its header cannot be parsed ({type(failure).__name__})") from None
    transfer_syntax_uid = _raw(meta, TRANSFER_SYNTAX_UID).rstrip(b"\x00 ").decode("ascii", "replace")
    data_set = content[offset:]
    identity = identify(data_set, transfer_syntax_uid)
    _require_whole(data_set, UID(transfer_syntax_uid))
    return StoredFile(
        identity=identity,
        transfer_syntax_uid=transfer_syntax_uid,
        source_ae_title=_ae_title(meta, SOURCE_AE_TITLE),
        receiving_ae_title=_ae_title(meta, RECEIVING_AE_TITLE),
        data_set=data_set,
    )


def _require_whole(data_set: bytes, transfer_syntax: UID) -> None:
    """Raise Unreadable when the data set ends in the middle of something."""
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        inflating = zlib.decompressobj(-zlib.MAX_WBITS)
        rest = data_set
        while rest and not inflating.eof:
            inflating.decompress(rest, INFLATED_HEADER_LIMIT)
            rest = inflating.unconsumed_tail
        if not inflating.eof:
            raise Unreadable("the deflated data set is cut off")
        return
    elements = _parse(data_set, transfer_syntax)
    for tag in sorted(elements.keys()):  # without decoding the values
        _raw(elements, tag)


def _ae_title(meta: Dataset, tag: int) -> str:
    return _raw(meta, tag).decode("ascii", "replace").strip(" \x00")


def identify(data_set: bytes, transfer_syntax_uid: str) -> Identity:
    """Read the attributes that the ledger needs from an encoded data set.

    Raises Unreadable when it cannot be parsed, Mismatch when a UID is missing or malformed (PS3.5 section 9).
    """
    elements = _first_elements(data_set, UID(transfer_syntax_uid))
    if not elements:
        raise Unreadable("the data set has none of the attributes that every instance has")
    charset = _raw(elements, SPECIFIC_CHARACTER_SET)
    return Identity(
        sop_class_uid=_uid(elements, SOP_CLASS_UID, "SOP Class UID"),
        sop_instance_uid=_uid(elements, SOP_INSTANCE_UID, "SOP Instance UID"),
        study_instance_uid=_uid(elements, STUDY_INSTANCE_UID, "Study Instance UID"),
        series_instance_uid=_uid(elements, SERIES_INSTANCE_UID, "Series Instance UID"),
        patient_id=_text(_raw(elements, PATIENT_ID), charset),
        issuer_of_patient_id=_text(_raw(elements, ISSUER_OF_PATIENT_ID), charset),
    )


def _first_elements(data_set: bytes, transfer_syntax: UID) -> Dataset:
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        data_set = _inflate_beginning(data_set)
    tags = [BaseTag(tag) for tag in _WANTED]
    return _parse(data_set, transfer_syntax, stop_when=_beyond_what_is_wanted, specific_tags=tags)


def _parse(data_set: bytes, transfer_syntax: UID, **options: Any) -> Dataset:
    try:
        return read_dataset(
            BytesIO(data_set),
            is_implicit_VR=transfer_syntax == ImplicitVRLittleEndian,
            is_little_endian=transfer_syntax.is_private or transfer_syntax.is_little_endian,
            **options,
        )
    except Exception as failure:  # noqa: BLE001 - pydicom raises many kinds for bytes that are no data set
        raise Unreadable(f"the data set cannot be parsed ({type(failure).__name__})") from None


def _inflate_beginning(data_set: bytes) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data_set, INFLATED_HEADER_LIMIT)
    except zlib.error:
        raise Unreadable("the deflated data set cannot be inflated") from None


def _beyond_what_is_wanted(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return int(tag) > SERIES_INSTANCE_UID


def _raw(elements: Dataset, tag: int) -> bytes:
    """The value as it was sent. pydicom's decoded values would come with warnings that quote them."""
    element = elements.get_item(tag) if tag in elements else None
    if not isinstance(element, RawDataElement) or element.value is None:
        return b""
    if len(element.value) < element.length < UNDEFINED_LENGTH:  # pydicom reads as much as there is
        raise Unreadable("the data set ends in the middle of an attribute")
    return element.value


def _uid(elements: Dataset, tag: int, title: str) -> str:
    text = _raw(elements, tag).rstrip(b"\x00 ").decode("ascii", "replace")
    if not text:
        raise Mismatch(f"the data set has no {title}")
    if not UID_GRAMMAR.fullmatch(text):
        raise Mismatch(f"the {title} is not a UID: 1 to 64 digits and periods")
    return text


def _text(raw: bytes, charset: bytes) -> str:
    raw = raw.rstrip(b"\x00 ")
    try:
        return raw.decode("ascii").strip(" ")
    except UnicodeDecodeError:
        return _decode(raw, charset).strip(" ")


def _decode(raw: bytes, charset: bytes) -> str:
    """Bytes that are no text in their character set are escaped, not replaced: two IDs must never become one."""
    names = charset.decode("ascii", "replace").rstrip("\x00 ").split("\\")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = decode_bytes(raw, convert_encodings(names), set())
        text.encode()  # lone surrogates cannot be written down
    except (LookupError, ValueError):  # pydicom also takes names of Python's codecs, some of which are not for text
        text = REPLACEMENT
    return raw.decode("ascii", "backslashreplace") if REPLACEMENT in text else text
