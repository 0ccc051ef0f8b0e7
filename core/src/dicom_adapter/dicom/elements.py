"""Scan an encoded data set while it arrives: values of some top-level elements, and how the data set is encoded.

The scanner reads the header of every top-level data element (PS3.5 section 7.1) and skips the values that nobody asked
for, so that it finds an element wherever it is, and holds no more than its own values. It enters sequences, items and
Pixel Data only where their length is undefined (PS3.5 section 7.5), to find their ends.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from attrs import define, field, frozen
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

UNDEFINED_LENGTH = 0xFFFFFFFF  # PS3.5 section 7.1.1
PIXEL_DATA = 0x7FE00010
ITEM_GROUP, ITEM, ENDS = 0xFFFE, 0xFFFEE000, frozenset({0xFFFEE00D, 0xFFFEE0DD})  # PS3.5 table 7.5-1
# Value representations by the size of their length field (PS3.5 section 7.1.2).
SHORT_VRS = {vr.encode() for vr in re.findall("..", "AEASATCSDADSDTFLFDISLOLTPNSHSLSSSTTMUIULUS")}
LONG_VRS = {vr.encode() for vr in re.findall("..", "OBODOFOLOVOWSQSVUCUNURUTUV")}

NOTHING: frozenset[Any] = frozenset()
LONG = 1 << 16  # bytes: the length of a value that gets a closer look in implicit VR
VALUE_LIMIT = 1 << 16  # bytes: a wanted value that is longer is refused; the longest legal one has 64 characters
BEGINNING = 1024  # bytes that decide how the data set is encoded
DEEPEST = 10_000  # sequences and items of undefined length in one another
CERTAIN = 3  # elements that follow one another in an encoding: then it is this encoding


@frozen(eq=False)
class Encoding:
    """How data elements are encoded: implicit or explicit VR, and the byte order."""

    name: str
    is_implicit: bool
    order: str  # as `struct` has it

    header: Any = field(init=False, repr=False)  # group, element, VR and length of 16 bits
    long: Any = field(init=False, repr=False)  # a length of 32 bits
    implicit_header: Any = field(init=False, repr=False)  # group, element, length of 32 bits
    quick: Any = field(
        init=False, repr=False
    )  # the tag as a number of this byte order, VR, length; without VR if implicit

    def __attrs_post_init__(self) -> None:
        formats = {
            "header": "HH2sH",
            "implicit_header": "HHI",
            "long": "I",
            "quick": "II" if self.is_implicit else "I2sH",
        }
        for name, code in formats.items():
            object.__setattr__(self, name, struct.Struct(self.order + code).unpack_from)

    def quick_tags(self, tags: Iterable[int]) -> frozenset[int]:
        """Return tags as `quick` returns them."""
        encoded = (struct.pack(self.order + "HH", tag >> 16, tag & 0xFFFF) for tag in tags)
        return frozenset(struct.unpack(self.order + "I", four)[0] for four in encoded)


IMPLICIT = Encoding("implicit VR little endian", is_implicit=True, order="<")
EXPLICIT = Encoding("explicit VR little endian", is_implicit=False, order="<")
BIG_ENDIAN = Encoding("explicit VR big endian", is_implicit=False, order=">")
ENCODINGS = (IMPLICIT, EXPLICIT, BIG_ENDIAN)
NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}


@lru_cache(maxsize=1024)
def encoding_of(transfer_syntax_uid: str) -> Encoding:
    """Return the encoding of a transfer syntax. All but two are explicit VR little endian (PS3.5 annex A)."""
    return {ImplicitVRLittleEndian: IMPLICIT, ExplicitVRBigEndian: BIG_ENDIAN}.get(UID(transfer_syntax_uid), EXPLICIT)


@lru_cache(maxsize=64)
def _stops(encoding: Encoding, wanted: frozenset[int]) -> frozenset[int]:
    """Return the tags at which `_skip_quickly` stops, as `Encoding.quick` returns them."""
    return encoding.quick_tags(wanted | {PIXEL_DATA, ITEM} | ENDS)


@lru_cache(maxsize=1024)
def has_encapsulated_pixels(transfer_syntax_uid: str) -> bool | None:
    """Return whether Pixel Data is encapsulated (PS3.5 section A.4); None: the transfer syntax is not known."""
    uid = UID(transfer_syntax_uid)
    if uid in NATIVE:
        return False
    return True if uid.is_transfer_syntax and not uid.is_private else None


class ElementPlace(NamedTuple):
    """An element of a data set: its tag, and its offset in bytes."""

    tag: int
    offset: int

    def __str__(self) -> str:
        return f"({self.tag >> 16:04X},{self.tag & 0xFFFF:04X}) at offset {self.offset}"


NOWHERE = ElementPlace(-1, -1)


class ElementHeader(NamedTuple):
    """The header of an element."""

    tag: int
    vr: bytes  # b"" in implicit VR, and for items and delimiters
    length: int  # of the value, in bytes
    value: int  # offset of the value in the scanned bytes


@define
class ElementScanner:
    """Scans one data set that arrives in pieces. Not thread-safe."""

    transfer_syntax_uid: str
    wanted: frozenset[int]  # tags of top-level elements
    required: frozenset[int]  # those of `wanted` without which the result is useless
    values: dict[int, bytes] = field(factory=dict)  # the wanted values found so far
    is_past: bool = False  # all elements up to the greatest of `wanted` are in order, and `required` is among them
    problem: str = ""  # reason why the rest of the data set cannot be scanned, unless it `is_past`
    conflict: str = ""  # reason why two values of a wanted element contradict each other
    mismatch: str = ""  # reason why the data set is not encoded as its transfer syntax requires
    last: ElementPlace = NOWHERE  # the last top-level element
    disorder: ElementPlace | None = (
        None  # the first one with a tag that is less than that before it (PS3.5 section 7.1)
    )
    _encoding: Encoding = field(init=False)
    _greatest: int = field(init=False)  # of `wanted`
    _is_decided: bool = False  # the encoding was compared with the beginning of the data set
    _rest: bytes = b""  # incomplete header or value
    _start: int = 0  # offset of `_rest` in the data set
    _skip: int = 0  # bytes of a value that are still to be skipped
    _outer: list[Encoding] = field(factory=list)  # for each open sequence or item: the encoding around it

    def __attrs_post_init__(self) -> None:
        self._encoding = encoding_of(self.transfer_syntax_uid)
        self._greatest = max(self.wanted)

    @property
    def needs_more(self) -> bool:
        """Return whether the rest of the data set can still change the result."""
        return not (self.problem or self.conflict or len(self.values) == len(self.wanted))

    def feed(self, piece: bytes | memoryview) -> None:
        """Scan the next piece."""
        size = len(piece)
        if self._skip >= size:
            self._skip -= size
            self._start += size
            return
        if self._skip:
            piece = piece[self._skip :]
            self._start += self._skip
            self._skip = 0
        self._scan(self._rest + piece if self._rest else piece)

    def end(self) -> None:
        """Scan what is left after the last piece, and set `problem` if the data set is incomplete."""
        if not self._is_decided:
            self._decide(self._rest)
            self._scan(self._rest)
        if self.needs_more and (self._rest or self._skip or self._outer):
            self.problem = f"the data set ends in the middle of {self.last}{self._after_disorder()}"

    def _scan(self, data: bytes | memoryview) -> None:
        if not self._is_decided:
            if len(data) < BEGINNING:
                self._rest = bytes(data)
                return
            self._decide(data)
        if self.needs_more:
            at = self._elements(data)
            self._start += min(at, len(data))
            self._rest, self._skip = bytes(data[at:]), max(at - len(data), 0)

    def _decide(self, beginning: bytes | memoryview) -> None:
        """Set `mismatch` if the data set is certainly encoded in another way than its transfer syntax requires."""
        self._is_decided = True
        if beginning[128:132] == b"DICM":
            self.problem = "the data set begins with the header of a DICOM file (PS3.10), which C-STORE does not send"
            return
        if _is_certain(beginning, self._encoding):
            return
        for encoding in ENCODINGS:
            if encoding is not self._encoding and _is_certain(beginning, encoding):
                self.mismatch = (
                    f"the data set is encoded in {encoding.name}; "
                    f"its transfer syntax {UID(self.transfer_syntax_uid).name} requires {self._encoding.name}"
                )
                self._encoding = encoding
                return

    def _elements(self, data: bytes | memoryview) -> int:
        """Scan complete elements; return the offset in `data` of the next one, which may be after its end."""
        at = self._skip_plain(data, 0)
        while self.needs_more and (element := self._read_header(data, at)) is not None:
            if not (self._outer or element.tag >> 16 == ITEM_GROUP or self._read_top_level(data, at, element)):
                break
            at = self._skip_plain(data, self._step_over(element))
        return at

    def _skip_plain(self, data: bytes | memoryview, at: int) -> int:
        """Skip the elements that nobody wants, as far as their headers allow; return the offset of the next one."""
        if self.is_past or self._outer:
            return self._skip_quickly(data, at)
        size, wanted, is_implicit = len(data), self.wanted, self._encoding.is_implicit
        header = self._encoding.implicit_header if is_implicit else self._encoding.header
        last, last_at = self.last.tag, self.last.offset - self._start
        while at + 8 <= size:
            if is_implicit:
                group, number, length = header(data, at)
                is_plain = length < LONG
            else:
                group, number, vr, length = header(data, at)
                is_plain = vr in SHORT_VRS
            tag = group << 16 | number
            if not is_plain or tag in wanted or group == ITEM_GROUP:
                break
            if tag <= last:
                self._note_disorder(ElementPlace(tag, self._start + at))
            last, last_at = tag, at
            at += 8 + length
        self.last = ElementPlace(last, self._start + last_at)
        return at

    def _skip_quickly(self, data: bytes | memoryview, at: int) -> int:
        """Skip as `_skip_plain` does, without regard to the order: a data set may have thousands of these elements."""
        encoding = self._encoding
        stops = _stops(encoding, NOTHING if self._outer else self.wanted)
        return (_skip_implicit if encoding.is_implicit else _skip_explicit)(data, at, encoding, stops)

    def _read_header(self, data: bytes | memoryview, at: int) -> ElementHeader | None:
        """Return the header of an element; None if it is incomplete, or invalid, which sets `problem`."""
        if at + 8 > len(data):
            return None
        group, number, vr, length = self._encoding.header(data, at)
        tag = group << 16 | number
        if self._encoding.is_implicit or group == ITEM_GROUP:
            return ElementHeader(tag, b"", self._encoding.long(data, at + 4)[0], at + 8)
        if _has_long_length(vr, length):
            if at + 12 > len(data):
                return None
            return ElementHeader(tag, vr, self._encoding.long(data, at + 8)[0], at + 12)
        if not _has_short_length(vr):
            self.problem = self._not_an_element(self._start + at)
            return None
        return ElementHeader(tag, vr, length, at + 8)

    def _read_top_level(self, data: bytes | memoryview, at: int, element: ElementHeader) -> bool:
        """Read a value if it is wanted, and check Pixel Data. Return False if the value is incomplete or refused."""
        place = ElementPlace(element.tag, self._start + at)
        if element.tag in self.wanted:
            if element.length > VALUE_LIMIT:
                self.problem = f"{place} has {element.length} bytes, more than {VALUE_LIMIT}"
                return False
            if element.value + element.length > len(data):
                return False
            self._keep(place, bytes(data[element.value : element.value + element.length]))
        elif element.tag == PIXEL_DATA and element.length:
            self._check_pixels(element.length == UNDEFINED_LENGTH)
        if element.tag <= self.last.tag:
            self._note_disorder(place)
        self.last = place
        if element.tag == self._greatest and self.disorder is None:
            self.is_past = self.values.keys() >= self.required
        return True

    def _step_over(self, element: ElementHeader) -> int:
        """Return the offset of the next element: after the value, or in it if its length is undefined."""
        if element.tag in ENDS:
            if self._outer:
                self._encoding = self._outer.pop()
            return element.value  # some writers set a length, which PS3.5 section 7.5 requires to be 0
        if element.length != UNDEFINED_LENGTH:
            return element.value + element.length
        if len(self._outer) == DEEPEST:
            self.problem = f"{self.last} has more than {DEEPEST} nested sequences and items"
        self._outer.append(self._encoding)
        if element.vr == b"UN":
            self._encoding = IMPLICIT  # PS3.5 section 6.2.2 (CP-246), in big endian as well
        return element.value

    def _keep(self, place: ElementPlace, value: bytes) -> None:
        if self.values.setdefault(place.tag, value) != value:
            self.conflict = f"the data set has a second {place}, with another value"

    def _check_pixels(self, is_encapsulated: bool) -> None:
        if (not is_encapsulated) is has_encapsulated_pixels(self.transfer_syntax_uid):
            found, wanted = ("encapsulated", "native") if is_encapsulated else ("native", "encapsulated")
            name = UID(self.transfer_syntax_uid).name
            self.mismatch = f"its Pixel Data is {found}; its transfer syntax {name} requires {wanted} Pixel Data"

    def _not_an_element(self, offset: int) -> str:
        after = "at its beginning" if self.last.offset < 0 else f"at offset {offset}, after {self.last}"
        return f"the data set has no valid data element {after}{self._after_disorder()}"

    def _note_disorder(self, place: ElementPlace) -> None:
        self.disorder = self.disorder or place

    def _after_disorder(self) -> str:
        """Return a hint: after a wrong length, bytes of values are read as elements, which are in no order."""
        return (
            f"; {self.disorder} is out of order, perhaps because the length before it is wrong" if self.disorder else ""
        )


def _has_long_length(vr: bytes, short_length: int) -> bool:
    """Return whether a length of 32 bits follows the VR, as in every VR since 2000 (PS3.5 section 7.1.2)."""
    return vr in LONG_VRS or (_is_new(vr) and not short_length)  # the reserved field is 0


def _has_short_length(vr: bytes) -> bool:
    """Return whether a length of 16 bits follows the VR, or what some writers put for a VR that they do not know."""
    return vr in SHORT_VRS or vr in (b"??", b"  ", b"\x00\x00") or _is_new(vr)


def _is_new(vr: bytes) -> bool:
    return vr not in SHORT_VRS and vr.isalpha() and vr.isupper()


def _skip_implicit(data: bytes | memoryview, at: int, encoding: Encoding, stops: frozenset[int]) -> int:
    size, quick = len(data), encoding.quick
    while at + 8 <= size:
        tag, length = quick(data, at)
        if tag in stops or length == UNDEFINED_LENGTH:
            break
        at += 8 + length
    return at


def _skip_explicit(data: bytes | memoryview, at: int, encoding: Encoding, stops: frozenset[int]) -> int:
    size, quick, long = len(data), encoding.quick, encoding.long
    while at + 12 <= size:
        tag, vr, length = quick(data, at)
        if tag in stops:
            break
        if vr in SHORT_VRS:
            at += 8 + length
        elif vr in LONG_VRS:
            (length,) = long(data, at + 8)
            if length == UNDEFINED_LENGTH:
                break
            at += 12 + length
        else:
            break
    return at


def _is_certain(beginning: bytes | memoryview, encoding: Encoding) -> bool:
    """Return whether the first elements follow one another in this encoding, with ascending tags."""
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
