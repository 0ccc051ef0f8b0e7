"""Encode data elements in any encoding, valid or not."""

from __future__ import annotations

import struct

from attrs import frozen

IMPLICIT, EXPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
JPEG, RLE, JPEG_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90"
NAMES = {
    IMPLICIT: "implicit",
    EXPLICIT: "explicit",
    BIG_ENDIAN: "big endian",
    JPEG: "JPEG",
    RLE: "RLE",
    JPEG_2000: "JPEG 2000",
}
UNDEFINED = 0xFFFFFFFF  # length of a value that ends with a delimiter
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD  # tags
LONG_VRS = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
CT = "1.2.840.10008.5.1.4.1.1.2"
SOP_INSTANCE_UID = "1.2.826.0.1.3680043.10.1.4"


@frozen
class Element:
    """A data element before it is encoded."""

    tag: int
    vr: str
    value: bytes
    length: int | None = None  # the encoded length, if it is not that of the value
    is_padded: bool = True  # to an even length

    def encode(self, syntax: str) -> bytes:
        """Encode the element (PS3.5 section 7.1)."""
        value = self.value
        if self.is_padded and len(value) % 2:
            value += b"\0" if self.vr in ("UI", "OB", "UN") else b" "
        size = len(value) if self.length is None else self.length
        order = ">" if syntax == BIG_ENDIAN else "<"
        tag = struct.pack(order + "HH", self.tag >> 16, self.tag & 0xFFFF)
        if syntax == IMPLICIT or not self.vr:
            return tag + struct.pack(order + "I", size) + value
        vr = self.vr.encode("latin-1")
        if self.vr in LONG_VRS:
            return tag + vr + b"\0\0" + struct.pack(order + "I", size) + value
        return tag + vr + struct.pack(order + "H", size & 0xFFFF) + value


def encode(elements: list[Element], syntax: str) -> bytes:
    return b"".join(element.encode(syntax) for element in elements)


def plain() -> dict[str, Element]:
    """Return the elements of a small CT instance by a short name, in the order of their tags."""
    return {
        "charset": Element(0x00080005, "CS", b"ISO_IR 100"),
        "class": Element(0x00080016, "UI", CT.encode()),
        "instance": Element(0x00080018, "UI", SOP_INSTANCE_UID.encode()),
        "date": Element(0x00080020, "DA", b"20240301"),
        "modality": Element(0x00080060, "CS", b"CT"),
        "name": Element(0x00100010, "PN", b"Synthetic^Patient"),
        "patient": Element(0x00100020, "LO", b"PID-1"),
        "issuer": Element(0x00100021, "LO", b"HOSPITAL"),
        "study": Element(0x0020000D, "UI", b"1.2.826.0.1.3680043.10.1.1"),
        "series": Element(0x0020000E, "UI", b"1.2.826.0.1.3680043.10.1.2"),
        "number": Element(0x00200013, "IS", b"1"),
        "samples": Element(0x00280002, "US", b"\1\0"),
        "photometric": Element(0x00280004, "CS", b"MONOCHROME2"),
        "pixels": Element(0x7FE00010, "OW", bytes(range(128))),
    }


def changed(**changes: Element | None) -> list[Element]:
    """Return the plain elements with some replaced, removed (None) or added, sorted by tag."""
    elements = {**plain(), **changes}
    return sorted((element for element in elements.values() if element is not None), key=lambda element: element.tag)


def sequence(syntax: str, content: bytes, *, has_delimiters: bool = True) -> Element:
    """Return a sequence of undefined length with one item of undefined length. The delimiters may be missing."""
    end_of_item, end_of_sequence = (
        Element(tag, "", b"").encode(syntax) if has_delimiters else b"" for tag in (ITEM_END, SEQUENCE_END)
    )
    item = Element(ITEM, "", content + end_of_item, UNDEFINED).encode(syntax)
    return Element(0x00081140, "SQ", item + end_of_sequence, UNDEFINED)


def fragments(*parts: bytes, has_table: bool = True) -> Element:
    """Return encapsulated Pixel Data (PS3.5 section A.4). `has_table`: whether it has a Basic Offset Table."""
    items = ([b""] if has_table else []) + list(parts)
    encoded = b"".join(Element(ITEM, "", part).encode(EXPLICIT) for part in items)
    return Element(0x7FE00010, "OB", encoded + Element(SEQUENCE_END, "", b"").encode(EXPLICIT), UNDEFINED)
