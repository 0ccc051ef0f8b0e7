"""The encodings of data elements (PS3.5 section 7.1): read headers, and detect the encoding of a data set."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from attrs import field, frozen
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

UNDEFINED_LENGTH = 0xFFFFFFFF  # PS3.5 section 7.1.1
# Value representations by the size of their length field (PS3.5 section 7.1.2).
SHORT_VRS = {vr.encode() for vr in re.findall("..", "AEASATCSDADSDTFLFDISLOLTPNSHSLSSSTTMUIULUS")}
LONG_VRS = {vr.encode() for vr in re.findall("..", "OBODOFOLOVOWSQSVUCUNURUTUV")}
PLACEHOLDERS = (b"??", b"  ", b"\x00\x00")  # some writers put these for a VR that they do not know
CERTAIN = 3  # the number of consecutive headers that must be valid in an encoding, so that it is certain
ITEM_GROUP = 0xFFFE


@frozen(eq=False)
class Encoding:
    """How data elements are encoded: implicit or explicit VR, and the byte order."""

    name: str
    is_implicit: bool
    order: str  # byte order, as `struct` names it

    # Functions that read from a buffer at an offset:
    header: Any = field(init=False, repr=False)  # group, element, VR, and a length of 16 bits
    implicit_header: Any = field(init=False, repr=False)  # group, element, and a length of 32 bits
    long: Any = field(init=False, repr=False)  # a length of 32 bits
    # The tag as one number of 32 bits in this byte order (see `raw_tags`), VR unless implicit, and length.
    raw_header: Any = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        formats = {
            "header": "HH2sH",
            "implicit_header": "HHI",
            "long": "I",
            "raw_header": "II" if self.is_implicit else "I2sH",
        }
        for name, code in formats.items():
            object.__setattr__(self, name, struct.Struct(self.order + code).unpack_from)

    def raw_tags(self, tags: Iterable[int]) -> frozenset[int]:
        """Return tags as `raw_header` reads them: in little endian, the element is the upper half of the number."""
        encoded = (struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF) for tag in tags)
        return frozenset(struct.unpack(self.order + "I", four)[0] for four in encoded)


IMPLICIT = Encoding("implicit VR little endian", is_implicit=True, order="<")
EXPLICIT = Encoding("explicit VR little endian", is_implicit=False, order="<")
BIG_ENDIAN = Encoding("explicit VR big endian", is_implicit=False, order=">")
ENCODINGS = (IMPLICIT, EXPLICIT, BIG_ENDIAN)
# Transfer syntaxes with native Pixel Data
NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}


@lru_cache(maxsize=1024)
def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Return the encoding of a transfer syntax. All but two are explicit VR little endian (PS3.5 annex A)."""
    return {ImplicitVRLittleEndian: IMPLICIT, ExplicitVRBigEndian: BIG_ENDIAN}.get(UID(transfer_syntax_uid), EXPLICIT)


@lru_cache(maxsize=1024)
def has_encapsulated_pixels(transfer_syntax_uid: str) -> bool | None:
    """Return whether Pixel Data is encapsulated (PS3.5 section A.4); None: the transfer syntax is not known."""
    uid = UID(transfer_syntax_uid)
    if uid in NATIVE:
        return False
    return True if uid.is_transfer_syntax and not uid.is_private else None


def transfer_syntax_name(transfer_syntax_uid: str) -> str:
    """Return the name of a transfer syntax for messages; the UID itself if it is not known."""
    return UID(transfer_syntax_uid).name


def has_long_length(vr: bytes, short_length: int) -> bool:
    """Return whether a length of 32 bits follows the VR, as in every VR since 2000 (PS3.5 section 7.1.2)."""
    return vr in LONG_VRS or (_is_new(vr) and not short_length)  # the two bytes after the VR are reserved and 0


def has_short_length(vr: bytes) -> bool:
    """Return whether a length of 16 bits follows this VR, or this placeholder for a VR."""
    return vr in SHORT_VRS or vr in PLACEHOLDERS or _is_new(vr)


def _is_new(vr: bytes) -> bool:
    """Return whether this may be a VR of a later edition of PS3.5."""
    return vr not in SHORT_VRS and vr.isalpha() and vr.isupper()


def detect_other_encoding(beginning: bytes | memoryview, expected: Encoding) -> Encoding | None:
    """Return the encoding of a data set if it is certainly not the expected one, otherwise None."""
    if _is_certain(beginning, expected):
        return None
    others = (encoding for encoding in ENCODINGS if encoding is not expected)
    return next((encoding for encoding in others if _is_certain(beginning, encoding)), None)


def _is_certain(beginning: bytes | memoryview, encoding: Encoding) -> bool:
    """Return whether the first headers are valid in this encoding, with ascending tags."""
    at, found, last, size = 0, 0, -1, len(beginning)
    while at + 8 <= size and found < CERTAIN:
        group, number, vr, length = encoding.header(beginning, at)
        tag = group << 16 | number
        value = at + 8
        if encoding.is_implicit:
            length = encoding.long(beginning, at + 4)[0]
        elif vr in LONG_VRS and at + 12 <= size:
            length, value = encoding.long(beginning, at + 8)[0], at + 12
        elif vr not in SHORT_VRS:
            return False
        if tag <= last or group == ITEM_GROUP:
            return False
        at, found, last = value + length, found + 1, tag
    return found == CERTAIN or (found > 0 and at == size)
