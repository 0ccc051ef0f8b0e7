"""Scan an encoded data set while it arrives: read some of its top-level elements, and check its encoding.

The scanner reads the header of every top-level element (PS3.5 section 7.1) and skips the values that are not wanted. So
it finds a wanted element at any position, and keeps only the wanted values in memory. It enters a sequence, an item or
Pixel Data only if the length is undefined (PS3.5 section 7.5), to find the end.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from attrs import Factory, define, field

from dicom_adapter.dicom.encoding import (
    IMPLICIT,
    LONG_VRS,
    SHORT_VRS,
    UNDEFINED_LENGTH,
    Encoding,
    detect_other_encoding,
    encoding_of,
    has_encapsulated_pixels,
    has_long_length,
    has_short_length,
    transfer_syntax_name,
)

PIXEL_DATA = 0x7FE00010
ITEM_GROUP, ITEM, ENDS = 0xFFFE, 0xFFFEE000, frozenset({0xFFFEE00D, 0xFFFEE0DD})  # PS3.5 table 7.5-1
NOTHING: frozenset[Any] = frozenset()
# bytes: in implicit VR, the fast loop stops at an element with a value of this length or longer
ONE_BY_ONE = 1 << 16
WINDOW = 1 << 12  # bytes that the fast loop scans at a time; the wanted elements are near the beginning
# bytes: a longer value of a decisive element is refused, that of another wanted element is skipped
VALUE_LIMIT = 1 << 16
BEGINNING = 1024  # bytes that are collected before the encoding is checked
DEEPEST = 10_000  # limit of nested sequences and items of undefined length


@lru_cache(maxsize=64)
def _stops(encoding: Encoding, wanted: frozenset[int]) -> frozenset[int]:
    """Return the tags at which `_skip_without_order` stops, in the form of `Encoding.raw_header`."""
    return encoding.raw_tags(wanted | {PIXEL_DATA, ITEM} | ENDS)


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
    # Those of `wanted` that must be unambiguous: a value that is too long, or a second value, is refused. Of the other
    # wanted elements, a value that is too long is skipped, and the first of several values is kept.
    decisive: frozenset[int] = field(default=Factory(lambda scanner: scanner.wanted, takes_self=True))
    needs_more: bool = True  # False: the rest of the data set cannot change the result
    values: dict[int, bytes] = field(factory=dict)  # the wanted values found so far
    too_long: dict[int, int] = field(factory=dict)  # lengths of the wanted values that were skipped, in bytes
    # All tags up to the greatest of `wanted` were read in ascending order, and all of `required` are among them.
    is_past_wanted: bool = False
    # Reason why the rest of the data set cannot be scanned; unimportant if `is_past_wanted` or `is_complete`
    problem: str = ""
    conflict: str = ""  # reason why two values of a wanted element contradict each other
    mismatch: str = ""  # reason why the data set is not encoded as its transfer syntax requires
    last: ElementPlace = NOWHERE  # the last top-level element
    # The first top-level element whose tag is not greater than that of the element before it (PS3.5 section 7.1).
    disorder: ElementPlace | None = None
    _encoding: Encoding = field(init=False)
    _greatest: int = field(init=False)  # of `wanted`
    _has_checked_pixels: bool = False
    _is_decided: bool = False  # the encoding was compared with the beginning of the data set
    _rest: bytes = b""  # incomplete header or value
    _start: int = 0  # offset of `_rest` in the data set
    _skip: int = 0  # bytes of a value that are still to be skipped
    _outer: list[Encoding] = field(factory=list)  # for each open sequence or item: the encoding around it

    def __attrs_post_init__(self) -> None:
        self._encoding = encoding_of(self.transfer_syntax_uid)
        self._greatest = max(self.wanted)

    def _wants_more(self) -> bool:
        return not (self.problem or self.conflict or (self._has_checked_pixels and self.is_complete))

    @property
    def is_complete(self) -> bool:
        """Return whether every decisive element was found."""
        return self.values.keys() >= self.decisive

    @property
    def to_skip(self) -> int:
        """Number of the next bytes that do not matter, because they belong to a value that is not wanted."""
        return self._skip

    def skip(self) -> int:
        """Return `to_skip`. The caller skips these bytes: they are not fed."""
        count, self._skip = self._skip, 0
        self._start += count
        return count

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
            self._is_decided = True
            self._decide(self._rest)
            self._scan(self._rest)
        if self._wants_more() and (self._rest or self._skip or self._outer):
            self.problem = f"the data set ends in the middle of {self.last}{self._after_disorder()}"

    def _scan(self, data: bytes | memoryview) -> None:
        offset = 0
        if not self._is_decided:
            if len(data) < BEGINNING:
                self._rest = bytes(data)
                return
            offset = self._begin(data)
        if self._wants_more():
            offset = self._elements(data, offset)
            self._start += min(offset, len(data))
            self._rest, self._skip = bytes(data[offset:]), max(offset - len(data), 0)
        self.needs_more = self._wants_more()

    def _begin(self, data: bytes | memoryview) -> int:
        """Scan the beginning of the data set, and decide in which encoding it is. Return the offset of the rest."""
        self._is_decided = True
        offset = self._skip_plain(data, 0)
        if self.is_past_wanted:  # then it is encoded as required: in another encoding, the first header is invalid
            return offset
        self.values.clear()
        self.last = NOWHERE
        self._decide(data)
        return 0

    def _decide(self, beginning: bytes | memoryview) -> None:
        """Set `mismatch` if the data set is certainly not encoded as its transfer syntax requires."""
        if beginning[128:132] == b"DICM":
            self.problem = "the data set begins with the header of a DICOM file (PS3.10), which C-STORE does not send"
            return
        other = detect_other_encoding(beginning, self._encoding)
        if other is not None:
            name = transfer_syntax_name(self.transfer_syntax_uid)
            required = self._encoding.name
            self.mismatch = f"the data set is encoded in {other.name}; its transfer syntax {name} requires {required}"
            self._encoding = other

    def _elements(self, data: bytes | memoryview, at: int) -> int:
        """Scan complete elements from offset `at`; return the offset of the next one, which may be after the end."""
        at = self._skip_plain(data, at)
        while self._wants_more() and (element := self._read_header(data, at)) is not None:
            if not (self._outer or element.tag >> 16 == ITEM_GROUP or self._read_top_level(data, at, element)):
                break
            at = self._skip_plain(data, self._step_over(element))
        return at

    def _skip_plain(self, data: bytes | memoryview, at: int) -> int:
        """Scan short elements in a fast loop; return the offset of the first element that needs more."""
        if self.is_past_wanted or self._outer or self.disorder is not None or self.last.tag >= self._greatest:
            return self._skip_without_order(data, at)
        window = bytes(data[at : at + WINDOW])  # a copy: slices of bytes are faster than slices of a view
        encoding, last = self._encoding, self.last.tag
        scan = _scan_implicit if encoding.is_implicit else _scan_explicit
        offset, last, last_offset = scan(window, encoding, self.wanted, self.values, last, self._greatest)
        if offset:
            self.last = ElementPlace(last, self._start + at + last_offset)
            self._note_if_past_wanted()
        at += offset
        return self._skip_without_order(data, at) if self.is_past_wanted else at

    def _skip_without_order(self, data: bytes | memoryview, at: int) -> int:
        """Skip elements as `_skip_plain` does, but faster, without a check of the order.

        It is used for elements after the last wanted one, and in sequences: there may be thousands of them.
        """
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
        if has_long_length(vr, length):
            if at + 12 > len(data):
                return None
            return ElementHeader(tag, vr, self._encoding.long(data, at + 8)[0], at + 12)
        if not has_short_length(vr):
            self.problem = self._not_an_element(self._start + at)
            return None
        return ElementHeader(tag, vr, length, at + 8)

    def _read_top_level(self, data: bytes | memoryview, at: int, element: ElementHeader) -> bool:
        """Read a value if it is wanted, and check Pixel Data. Return False if the value is incomplete or refused."""
        place = ElementPlace(element.tag, self._start + at)
        is_too_long = element.length > VALUE_LIMIT
        if element.tag in self.decisive or (element.tag in self.wanted and not is_too_long):
            if is_too_long:
                self.problem = f"{place} has {element.length} bytes, more than {VALUE_LIMIT}"
                return False
            if element.value + element.length > len(data):
                return False
            self._keep(place, bytes(data[element.value : element.value + element.length]))
        elif element.tag in self.wanted:
            self.too_long.setdefault(element.tag, element.length)
        elif element.tag == PIXEL_DATA and element.length:
            self._check_pixels(element.length == UNDEFINED_LENGTH)
        if element.tag <= self.last.tag:
            self._note_disorder(place)
        self.last = place
        self._note_if_past_wanted()
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
        if self.values.setdefault(place.tag, value) != value and place.tag in self.decisive:
            self.conflict = f"the data set has a second {place}, with another value"

    def _check_pixels(self, is_encapsulated: bool) -> None:
        self._has_checked_pixels = True
        if (not is_encapsulated) is has_encapsulated_pixels(self.transfer_syntax_uid):
            found, wanted = ("encapsulated", "native") if is_encapsulated else ("native", "encapsulated")
            name = transfer_syntax_name(self.transfer_syntax_uid)
            self.mismatch = f"its Pixel Data is {found}; its transfer syntax {name} requires {wanted} Pixel Data"

    def _not_an_element(self, offset: int) -> str:
        after = "at its beginning" if self.last.offset < 0 else f"at offset {offset}, after {self.last}"
        return f"the data set has no valid data element {after}{self._after_disorder()}"

    def _note_if_past_wanted(self) -> None:
        if self.last.tag == self._greatest and self.disorder is None:
            self.is_past_wanted = self.values.keys() >= self.required

    def _note_disorder(self, place: ElementPlace) -> None:
        self.disorder = self.disorder or place

    def _after_disorder(self) -> str:
        """Return a hint if elements are out of order: after a wrong length, bytes of values are read as elements."""
        return (
            f"; {self.disorder} is out of order, perhaps because the length before it is wrong" if self.disorder else ""
        )


class CompleteElementScanner(ElementScanner):
    """Scans a data set to its end, so that `end` also finds a data set that ends in the middle of its Pixel Data."""

    def _wants_more(self) -> bool:
        return not (self.problem or self.conflict)


def _scan_implicit(
    data: bytes, encoding: Encoding, wanted: frozenset[int], values: dict[int, bytes], last: int, greatest: int
) -> tuple[int, int, int]:
    """Scan elements from the beginning of `data`, and put the wanted values into `values`.

    Stops at the first element that needs more: an incomplete one, one out of order, a tag greater than `greatest`, a
    long or undefined length, or a second value of a wanted element.

    Returns the offset of this element, and tag and offset of the element before it.
    """
    header, offset, last_offset, stop = encoding.implicit_header, 0, 0, len(data) - 8
    while offset <= stop:
        group, number, length = header(data, offset)
        tag = group << 16 | number
        if not last < tag <= greatest or length >= ONE_BY_ONE:
            break
        if tag in wanted:
            if tag in values or offset + length > stop:
                break
            values[tag] = data[offset + 8 : offset + 8 + length]
        last, last_offset = tag, offset
        offset += 8 + length
    return offset, last, last_offset


def _scan_explicit(
    data: bytes, encoding: Encoding, wanted: frozenset[int], values: dict[int, bytes], last: int, greatest: int
) -> tuple[int, int, int]:
    """Scan as `_scan_implicit` does. Stops also at a VR that is not among SHORT_VRS."""
    header, offset, last_offset, stop, short_vrs = encoding.header, 0, 0, len(data) - 8, SHORT_VRS
    while offset <= stop:
        group, number, vr, length = header(data, offset)
        tag = group << 16 | number
        if not last < tag <= greatest or vr not in short_vrs:
            break
        if tag in wanted:
            if tag in values or offset + length > stop:
                break
            values[tag] = data[offset + 8 : offset + 8 + length]
        last, last_offset = tag, offset
        offset += 8 + length
    return offset, last, last_offset


def _skip_implicit(data: bytes | memoryview, at: int, encoding: Encoding, stops: frozenset[int]) -> int:
    size, raw_header = len(data), encoding.raw_header
    while at + 8 <= size:
        tag, length = raw_header(data, at)
        if tag in stops or length == UNDEFINED_LENGTH:
            break
        at += 8 + length
    return at


def _skip_explicit(data: bytes | memoryview, at: int, encoding: Encoding, stops: frozenset[int]) -> int:
    size, raw_header, long = len(data), encoding.raw_header, encoding.long
    while at + 12 <= size:
        tag, vr, length = raw_header(data, at)
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
