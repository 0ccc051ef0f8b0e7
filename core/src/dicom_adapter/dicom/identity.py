"""Identity of an instance: the few attributes that the ledger needs, read while the data set arrives.

`IdentityReader` iterates over the elements of the encoded data set. It reads only their headers and the values of the
identity (PS3.5 sections 7.1 and 7.5). If the encoding is unusual, pydicom parses the beginning of the data set instead.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from attrs import field, frozen
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian

from dicom_adapter.api.errors import Refused

UID_GRAMMAR = re.compile(r"[0-9.]{1,64}")
REPLACEMENT = "\ufffd"  # stands in decoded text for bytes that cannot be decoded
UNDEFINED_LENGTH = 0xFFFFFFFF  # PS3.5 section 7.1.1
HEAD_LIMIT = 4 << 20  # bytes at the beginning of a data set that must contain the attributes

SPECIFIC_CHARACTER_SET = 0x00080005
SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
PATIENT_ID = 0x00100020
ISSUER_OF_PATIENT_ID = 0x00100021
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
IDENTITY_TAGS = frozenset(
    {
        SPECIFIC_CHARACTER_SET,
        SOP_CLASS_UID,
        SOP_INSTANCE_UID,
        PATIENT_ID,
        ISSUER_OF_PATIENT_ID,
        STUDY_INSTANCE_UID,
        SERIES_INSTANCE_UID,
    }
)
# Value representations by the size of their length field (PS3.5 section 7.1.2), without UN, which may contain anything.
SHORT_VRS = {vr.encode() for vr in re.findall("..", "AEASATCSDADSDTFLFDISLOLTPNSHSLSSSTTMUIULUS")}
LONG_VRS = {vr.encode() for vr in re.findall("..", "OBODOFOLOVOWSQSVUCURUTUV")}
ITEM_GROUP, ENDS = 0xFFFE, {0xFFFEE00D, 0xFFFEE0DD}  # items, and the ends of items and sequences (PS3.5 table 7.5-1)


class UnreadableDataSet(Refused):
    """The data set cannot be parsed (*cannot understand*)."""


class Mismatch(Refused):
    """The data set contradicts the request or its SOP class (*data set does not match SOP class*)."""


@frozen(kw_only=True)
class Identity:
    """Identifying attributes of an instance, without padding."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    patient_id: str = field(repr=False)
    issuer_of_patient_id: str = field(repr=False)


class IdentityReader:
    """Reads the identity from the beginning of a data set that arrives in pieces. Not thread-safe."""

    def __init__(self, transfer_syntax_uid: str) -> None:
        self.needs_more = True  # False: call `identity` without feeding the rest of the data set
        self._transfer_syntax_uid = transfer_syntax_uid
        order = ">" if transfer_syntax_uid == ExplicitVRBigEndian else "<"
        self._element, self._long = struct.Struct(order + "HH2sH").unpack_from, struct.Struct(order + "I").unpack_from
        self._is_implicit = transfer_syntax_uid == ImplicitVRLittleEndian
        self._head = bytearray()
        self._at = 0  # offset of the next element
        self._depth = 0  # number of open sequences and items of undefined length
        self._is_usual = True  # False: pydicom has to parse the data set
        self._is_past = False  # True after the last attribute of the identity
        self._values: dict[int, bytes] = {}

    def feed(self, piece: bytes | memoryview) -> None:
        """Receive the next piece."""
        self._head += piece
        if self._is_usual:
            self._advance()
        self.needs_more = not self._is_past and len(self._head) < HEAD_LIMIT

    def identity(self) -> Identity:
        """Return the identity. Call it when `needs_more` is False, or when no more pieces will arrive.

        Raises UnreadableDataSet, or Mismatch if a UID is missing or malformed (PS3.5 section 9).
        """
        if self._is_past and self._values:
            return _identity(self._values)
        return identify(bytes(self._head), self._transfer_syntax_uid)

    def _advance(self) -> None:
        head, size, at = self._head, len(self._head), self._at
        element, long, is_implicit = self._element, self._long, self._is_implicit
        while at + 12 <= size:
            group, number, vr, length = element(head, at)
            tag = group << 16 | number
            if tag > SERIES_INSTANCE_UID and not self._depth:
                self._is_past = True
                return
            value = at + 8
            if is_implicit or group == ITEM_GROUP:
                length = long(head, at + 4)[0]
            elif vr not in SHORT_VRS:
                if vr not in LONG_VRS:
                    self._is_usual = False
                    return
                length, value = long(head, at + 8)[0], at + 12
            if length == UNDEFINED_LENGTH:
                self._depth += 1
                length = 0
            elif tag in ENDS:
                self._depth -= 1
            elif tag in IDENTITY_TAGS and not self._depth:
                if value + length > size:
                    break
                self._values[tag] = bytes(head[value : value + length])
            at = value + length
        self._at = at


def identify(data_set: bytes, transfer_syntax_uid: str) -> Identity:
    """Read the identity from the beginning of an encoded data set with pydicom. Raises as `IdentityReader.identity`."""
    elements = parse(
        data_set,
        transfer_syntax_uid,
        stop_when=lambda tag, _vr, _length: int(tag) > SERIES_INSTANCE_UID,
        specific_tags=[BaseTag(tag) for tag in IDENTITY_TAGS],
    )
    if not elements:
        raise UnreadableDataSet("the data set has none of the attributes that identify an instance")
    return _identity({tag: encoded_value(elements, tag) for tag in IDENTITY_TAGS})


def parse(data_set: bytes, transfer_syntax_uid: str, **options: Any) -> Dataset:
    """Parse a data set with pydicom. It must not be deflated. Raises UnreadableDataSet."""
    transfer_syntax = UID(transfer_syntax_uid)
    try:
        return read_dataset(
            BytesIO(data_set),
            is_implicit_VR=transfer_syntax == ImplicitVRLittleEndian,
            is_little_endian=transfer_syntax != ExplicitVRBigEndian,
            **options,
        )
    except Exception as failure:  # noqa: BLE001 - pydicom raises many types for bytes that are not a data set
        raise _parse_error(failure) from None


def _parse_error(failure: Exception) -> UnreadableDataSet:
    return UnreadableDataSet(f"the data set cannot be parsed ({type(failure).__name__})")


def encoded_value(elements: Dataset, tag: int) -> bytes:
    """Return a value as it is encoded. To decode it with pydicom could raise warnings that quote patient data."""
    try:
        element = elements.get_item(tag) if tag in elements else None
    except Exception as failure:  # noqa: BLE001 - pydicom parses empty values again, and raises as above
        raise _parse_error(failure) from None
    if not isinstance(element, RawDataElement) or element.value is None:
        return b""
    if len(element.value) < element.length < UNDEFINED_LENGTH:  # pydicom does not report a truncated value
        raise UnreadableDataSet("the data set ends in the middle of an attribute")
    return element.value


def _identity(values: Mapping[int, bytes]) -> Identity:
    charset = values.get(SPECIFIC_CHARACTER_SET, b"")
    return Identity(
        sop_class_uid=_uid(values, SOP_CLASS_UID, "SOP Class UID"),
        sop_instance_uid=_uid(values, SOP_INSTANCE_UID, "SOP Instance UID"),
        study_instance_uid=_uid(values, STUDY_INSTANCE_UID, "Study Instance UID"),
        series_instance_uid=_uid(values, SERIES_INSTANCE_UID, "Series Instance UID"),
        patient_id=_text(values.get(PATIENT_ID, b""), charset),
        issuer_of_patient_id=_text(values.get(ISSUER_OF_PATIENT_ID, b""), charset),
    )


def _uid(values: Mapping[int, bytes], tag: int, title: str) -> str:
    text = values.get(tag, b"").rstrip(b"\x00 ").decode("ascii", "replace")
    if not text:
        raise Mismatch(f"the data set has no {title}")
    if not UID_GRAMMAR.fullmatch(text):
        raise Mismatch(f"the {title} is not a UID: 1 to 64 digits and periods")
    return text


def _text(value: bytes, charset: bytes) -> str:
    value = value.rstrip(b"\x00 ")
    try:
        return value.decode("ascii").strip(" ")
    except UnicodeDecodeError:
        return _decode(value, charset).strip(" ")


def _decode(value: bytes, charset: bytes) -> str:
    """Decode text. Bytes that are invalid in its character set are escaped, so that two IDs never become equal."""
    names = charset.decode("ascii", "replace").rstrip("\x00 ").split("\\")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = decode_bytes(value, convert_encodings(names), set())
        text.encode()  # lone surrogates cannot be encoded
    except (LookupError, ValueError):  # pydicom also accepts Python's codecs that are not for text
        text = REPLACEMENT
    return value.decode("ascii", "backslashreplace") if REPLACEMENT in text else text
