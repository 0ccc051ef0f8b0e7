"""The PDUs that the benchmark's sender sends (PS3.8 section 9.3, PS3.7 sections 6.3 and 9.3), encoded in advance.

Only the needed parts are implemented: CT images in Explicit VR Little Endian, C-ECHO, and their responses.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from attrs import frozen

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
IMPLEMENTATION_CLASS_UID = "2.25.310547219873645098761529384756102938475"

STORAGE, ECHO = 1, 3  # presentation context IDs
CONTEXTS = {
    STORAGE: (CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN),
    ECHO: (VERIFICATION, IMPLICIT_VR_LITTLE_ENDIAN),
}
ACCEPT, REJECT, P_DATA, RELEASE_ANSWER = 0x02, 0x03, 0x04, 0x06  # PDU types
HEADER = struct.Struct(">BxI")
FRAGMENT = struct.Struct(">IBB")  # header of a PDV: length of the rest, context ID, control
COMMAND, LAST = 0x01, 0x02  # control bits
MAX_RECEIVED = 16384  # maximum length of PDUs that the sender receives
RELEASE_REQUEST = HEADER.pack(0x05, 4) + bytes(4)

STATUS = struct.pack("<HHI", 0x0000, 0x0900, 2)  # the element Status without its value
UID_CHARACTERS = 44  # length of the UIDs of `make_uid`


def make_uid(kind: int, number: int) -> str:
    """Return a UID of constant, even length, which needs no padding. `kind`: 1 to 9."""
    return f"2.25.{kind * 10**38 + number}"


# Placeholders in the data sets. Each sender replaces study and series once, and the instance for each message.
INSTANCE_PLACEHOLDER, STUDY_PLACEHOLDER, SERIES_PLACEHOLDER = (make_uid(kind, 10**38 - 1) for kind in (7, 8, 9))


def associate_request(called: str, calling: str) -> bytes:
    """Encode an A-ASSOCIATE-RQ that proposes CONTEXTS."""
    contexts = [
        _item(0x20, bytes((number, 0, 0, 0)) + _item(0x30, abstract.encode()) + _item(0x40, transfer.encode()))
        for number, (abstract, transfer) in CONTEXTS.items()
    ]
    limits = _item(0x51, struct.pack(">I", MAX_RECEIVED)) + _item(0x52, IMPLEMENTATION_CLASS_UID.encode())
    fixed = struct.pack(">H2x16s16s32x", 1, called.ljust(16).encode(), calling.ljust(16).encode())
    body = b"".join((fixed, _item(0x10, APPLICATION_CONTEXT.encode()), *contexts, _item(0x50, limits)))
    return HEADER.pack(0x01, len(body)) + body


def _item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(data)) + data


@frozen
class Accepted:
    """The relevant content of an A-ASSOCIATE-AC."""

    contexts: frozenset[int]
    maximum_length: int  # length of PDUs that the acceptor receives; 0: no limit


def read_accept(body: bytes) -> Accepted:
    """Decode an A-ASSOCIATE-AC without its header."""
    items = list(_items(body[68:]))  # after the fields of fixed length
    contexts = frozenset(data[0] for kind, data in items if kind == 0x21 and data[2] == 0)
    user = [part for kind, data in items if kind == 0x50 for part in _items(data)]
    lengths = [int.from_bytes(data, "big") for kind, data in user if kind == 0x51]
    return Accepted(contexts, lengths[0] if lengths else 0)


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < len(data):
        kind, length = struct.unpack_from(">BxH", data, offset)
        yield kind, data[offset + 4 : offset + 4 + length]
        offset += 4 + length


@frozen
class Message:
    """A C-STORE request with its data set, as PDUs in which the SOP Instance UID can be replaced."""

    data: bytearray
    places: Sequence[int]  # offsets of the SOP Instance UID in the command set and in the data set

    def rename(self, uid: str) -> bytearray:
        """Return the PDUs for the instance `uid`: the same buffer, changed in place."""
        encoded = uid.encode()
        for place in self.places:
            self.data[place : place + UID_CHARACTERS] = encoded
        return self.data


def store_request(data_set: bytes, study: str, series: str, longest_pdu: int) -> Message:
    """Encode a C-STORE request for `data_set`, which has placeholders, in PDUs of at most `longest_pdu` bytes."""
    named = data_set.replace(STUDY_PLACEHOLDER.encode(), study.encode()).replace(
        SERIES_PLACEHOLDER.encode(), series.encode()
    )
    command = _command_set(
        (0x0002, CT_IMAGE_STORAGE.encode()),  # affected SOP class
        (0x0100, struct.pack("<H", 0x0001)),  # C-STORE-RQ
        (0x0110, struct.pack("<H", 1)),  # message ID
        (0x0700, struct.pack("<H", 0)),  # priority: medium
        (0x0800, struct.pack("<H", 0x0000)),  # with a data set
        (0x1000, INSTANCE_PLACEHOLDER.encode()),
    )
    data = bytearray(_pdus(STORAGE, COMMAND, command, longest_pdu) + _pdus(STORAGE, 0, named, longest_pdu))
    places = _places(data, INSTANCE_PLACEHOLDER.encode())
    if len(places) != 2:
        raise ValueError(f"PDUs of {longest_pdu} bytes split the SOP Instance UID; use longer PDUs")
    return Message(data, places)


def echo_request() -> bytes:
    """Encode a C-ECHO request."""
    command = _command_set(
        (0x0002, VERIFICATION.encode()),
        (0x0100, struct.pack("<H", 0x0030)),
        (0x0110, struct.pack("<H", 1)),
        (0x0800, struct.pack("<H", 0x0101)),  # without a data set
    )
    return _pdus(ECHO, COMMAND, command, MAX_RECEIVED)


def _command_set(*elements: tuple[int, bytes]) -> bytes:
    """Encode a command set in Implicit VR Little Endian, with its group length (PS3.7 section 6.3.1)."""
    even = [(element, value + bytes(len(value) % 2)) for element, value in elements]
    rest = b"".join(struct.pack("<HHI", 0, element, len(value)) + value for element, value in even)
    return struct.pack("<HHII", 0, 0, 4, len(rest)) + rest


def _pdus(context: int, control: int, data: bytes, longest_pdu: int) -> bytes:
    size = longest_pdu - FRAGMENT.size
    fragments = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(
        HEADER.pack(P_DATA, FRAGMENT.size + len(fragment))
        + FRAGMENT.pack(len(fragment) + 2, context, control | (LAST if number == len(fragments) else 0))
        + fragment
        for number, fragment in enumerate(fragments, start=1)
    )


def _places(data: bytearray, wanted: bytes) -> list[int]:
    found, place = [], data.find(wanted)
    while place >= 0:
        found.append(place)
        place = data.find(wanted, place + 1)
    return found


def read_fragments(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield control byte and data of each PDV of a P-DATA-TF without its header."""
    offset = 0
    while offset < len(body):
        length, _context, control = FRAGMENT.unpack_from(body, offset)
        yield control, body[offset + FRAGMENT.size : offset + 4 + length]
        offset += 4 + length


def status_of(command: bytes) -> int:
    """Return the status in the command set of a response. Raises ValueError for a command set without a status."""
    place = command.find(STATUS)  # the texts before the status are ASCII and cannot contain these bytes
    if place < 0:
        raise ValueError("a response without a status (0000,0900)")
    return int.from_bytes(command[place + len(STATUS) :][:2], "little")
