"""Formats of the DICOM upper layer (PS3.8 section 9.3) and of DIMSE commands (PS3.7 annex E), for a requestor."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from attrs import field, frozen

# The adapter's own UID and version name, as in the files that it stores (PS3.7 annex D.3.3.2).
IMPLEMENTATION_CLASS_UID = "2.25.308205291862746372187430846471190541725"
IMPLEMENTATION_VERSION_NAME = "DICOM-ADAPTER-01"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)  # types of PDUs
PDU_HEADER = struct.Struct(">BxI")  # type, length of the rest
PDV_HEADER = struct.Struct(">IBB")  # length of the rest, context ID, message control header
DATA_HEADER = struct.Struct(">BxIIBB")  # both headers of a P-DATA-TF with one presentation data value
ITEM_HEADER = struct.Struct(">BxH")  # type, length of the rest
ELEMENT_HEADER = struct.Struct("<HHI")  # of a command element: group, element, length of the value
COMMAND, LAST = 0b01, 0b10  # bits of the message control header (PS3.8 annex E.2)
MAX_RECEIVED_PDU = 1 << 16  # bytes; responses are short
MAX_ASSOCIATE_BYTES = 1 << 18  # longest A-ASSOCIATE-AC that is read
MAX_CONTEXTS = 128  # in one association: their IDs are the odd numbers of one byte (PS3.8 section 9.3.2.2)
ACCEPTED = 0  # result of a presentation context

# Types of the items of A-ASSOCIATE-RQ and A-ASSOCIATE-AC (PS3.8 section 9.3 and annex D, PS3.7 annex D.3.3.2)
APPLICATION_CONTEXT_ITEM, PROPOSED_CONTEXT_ITEM, CONTEXT_RESULT_ITEM = 0x10, 0x20, 0x21
ABSTRACT_SYNTAX_ITEM, TRANSFER_SYNTAX_ITEM, USER_INFORMATION_ITEM = 0x30, 0x40, 0x50
MAX_LENGTH_ITEM, CLASS_UID_ITEM, VERSION_NAME_ITEM = 0x51, 0x52, 0x55

# Command elements of group 0000 (PS3.7 table E.1-1)
AFFECTED_SOP_CLASS_UID = 0x0002
REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_RESPONDED_TO = 0x0120
PRIORITY = 0x0700
DATA_SET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
REQUESTED_SOP_INSTANCE_UID = 0x1001
EVENT_TYPE_ID = 0x1002
ACTION_TYPE_ID = 0x1008

# Values of COMMAND_FIELD; a response has bit 0x8000
C_STORE_RQ, C_ECHO_RQ, N_EVENT_REPORT_RQ, N_ACTION_RQ, RESPONSE = 0x0001, 0x0030, 0x0100, 0x0130, 0x8000
NO_DATA_SET, HAS_DATA_SET = 0x0101, 0x0001  # values of DATA_SET_TYPE
MEDIUM_PRIORITY = 0

REJECTION_RESULTS = {1: "permanent", 2: "transient"}
REJECTION_REASONS = {  # by source and reason (PS3.8 table 9-21)
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
CONTEXT_REASONS = {  # result of a presentation context (PS3.8 table 9-18)
    1: "user rejection",
    2: "no reason given",
    3: "abstract syntax not supported",
    4: "transfer syntaxes not supported",
}


class Pair(NamedTuple):
    """The SOP class and the transfer syntax of a presentation context, which a peer accepts or refuses."""

    sop_class_uid: str
    transfer_syntax_uid: str


class InvalidBytes(ValueError):
    """The peer sent bytes that are not a valid PDU or DIMSE message, or that do not fit the association."""


@frozen(kw_only=True)
class Acceptance:
    """The content of an A-ASSOCIATE-AC."""

    results: Mapping[int, int]  # result by context ID
    max_pdu: int  # longest P-DATA-TF that the peer accepts, without the header of 6 bytes; 0: no limit
    version_name: str = field(default="")  # of the peer's implementation


@frozen(kw_only=True)
class Message:
    """A complete DIMSE message."""

    context_id: int
    command: Mapping[int, bytes]  # values of the command elements, by element number
    data_set: bytes = field(default=b"", repr=False)

    def number(self, element: int) -> int:
        """Return the value of an element of VR US. Raises InvalidBytes if it is missing."""
        value = self.command.get(element, b"")
        if len(value) != 2:
            raise InvalidBytes(f"a message lacks the command element (0000,{element:04X})")
        return int.from_bytes(value, "little")

    def text(self, element: int) -> str:
        """Return the value of an element as text; "" if it is missing."""
        return self.command.get(element, b"").rstrip(b"\0 ").decode("ascii", "replace")


# --- association ------------------------------------------------------------------------------------------------------


def associate_request(called: str, calling: str, pairs: Sequence[Pair]) -> bytes:
    """Encode an A-ASSOCIATE-RQ. The context ID of the pair with number n, from 0, is 2 n + 1."""
    contexts = (
        _item(
            PROPOSED_CONTEXT_ITEM,
            bytes((2 * number + 1, 0, 0, 0))
            + _item(ABSTRACT_SYNTAX_ITEM, pair.sop_class_uid.encode("ascii"))
            + _item(TRANSFER_SYNTAX_ITEM, pair.transfer_syntax_uid.encode("ascii")),
        )
        for number, pair in enumerate(pairs)
    )
    user_information = (
        _item(MAX_LENGTH_ITEM, MAX_RECEIVED_PDU.to_bytes(4, "big"))
        + _item(CLASS_UID_ITEM, IMPLEMENTATION_CLASS_UID.encode("ascii"))
        + _item(VERSION_NAME_ITEM, IMPLEMENTATION_VERSION_NAME.encode("ascii"))
    )
    titles = called.encode("ascii").ljust(16) + calling.encode("ascii").ljust(16)
    body = b"".join(
        (
            struct.pack(">HH", 1, 0),  # protocol version
            titles,
            bytes(32),
            _item(APPLICATION_CONTEXT_ITEM, APPLICATION_CONTEXT.encode("ascii")),
            *contexts,
            _item(USER_INFORMATION_ITEM, user_information),
        )
    )
    return PDU_HEADER.pack(ASSOCIATE_RQ, len(body)) + body


def _item(kind: int, content: bytes) -> bytes:
    return ITEM_HEADER.pack(kind, len(content)) + content


def parse_acceptance(body: bytes) -> Acceptance:
    """Parse an A-ASSOCIATE-AC without its header. Raises InvalidBytes."""
    results, max_pdu, version_name = {}, 0, ""
    for kind, content in _items(body[68:]):  # after protocol version, AE titles and reserved bytes
        if kind == CONTEXT_RESULT_ITEM and len(content) >= 4:
            results[content[0]] = content[2]
        elif kind == USER_INFORMATION_ITEM:
            for inner, value in _items(content):
                if inner == MAX_LENGTH_ITEM and len(value) == 4:
                    max_pdu = int.from_bytes(value, "big")
                elif inner == VERSION_NAME_ITEM:
                    version_name = value.decode("ascii", "replace").strip("\0 ")
    return Acceptance(results=results, max_pdu=max_pdu, version_name=version_name)


def _items(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        if at + ITEM_HEADER.size > len(content):
            raise InvalidBytes("an item of the association response is truncated")
        kind, length = ITEM_HEADER.unpack_from(content, at)
        at += ITEM_HEADER.size
        if at + length > len(content):
            raise InvalidBytes("an item of the association response is truncated")
        yield kind, content[at : at + length]
        at += length


def describe_rejection(body: bytes) -> str:
    """Return the content of an A-ASSOCIATE-RJ in words."""
    if len(body) != 4:
        raise InvalidBytes("an A-ASSOCIATE-RJ has the wrong length")
    _reserved, result, source, reason = body
    words = REJECTION_REASONS.get((source, reason), f"source {source}, reason {reason}")
    return f"{words} ({REJECTION_RESULTS.get(result, f'result {result}')})"


def abort_request() -> bytes:
    """Encode an A-ABORT by the service user."""
    return PDU_HEADER.pack(ABORT, 4) + bytes(4)


# --- messages ---------------------------------------------------------------------------------------------------------


def encode_command(elements: Mapping[int, int | str]) -> bytes:
    """Encode a command set (implicit VR little endian): numbers as US, texts as UI."""
    body = b"".join(_element(element, elements[element]) for element in sorted(elements))
    return ELEMENT_HEADER.pack(0, 0, 4) + len(body).to_bytes(4, "little") + body


def _element(element: int, value: int | str) -> bytes:
    if isinstance(value, int):
        encoded = value.to_bytes(2, "little")
    else:
        encoded = value.encode("ascii")
        encoded += b"\0" * (len(encoded) % 2)
    return ELEMENT_HEADER.pack(0, element, len(encoded)) + encoded


def decode_command(content: bytes) -> dict[int, bytes]:
    """Return the values of a command set by element number. Raises InvalidBytes."""
    elements, at = {}, 0
    while at < len(content):
        if at + ELEMENT_HEADER.size > len(content):
            raise InvalidBytes("a command set is truncated")
        group, element, length = ELEMENT_HEADER.unpack_from(content, at)
        at += ELEMENT_HEADER.size
        if group or at + length > len(content):
            raise InvalidBytes("a command set is truncated, or has elements of other groups")
        elements[element] = content[at : at + length]
        at += length
    return elements


def data_values(body: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield context ID, message control header and fragment of each value in a P-DATA-TF. Raises InvalidBytes."""
    at = 0
    while at < len(body):
        if at + PDV_HEADER.size > len(body):
            raise InvalidBytes("a P-DATA-TF is truncated")
        length, context_id, control = PDV_HEADER.unpack_from(body, at)
        end = at + 4 + length
        if length < 2 or end > len(body):
            raise InvalidBytes("a presentation data value has the wrong length")
        yield context_id, control, body[at + PDV_HEADER.size : end]
        at = end


def require_response(message: Message, context_id: int, message_id: int, request: int) -> None:
    """Raise InvalidBytes if a message is not the response to a request."""
    kind, responded_to = message.number(COMMAND_FIELD), message.number(MESSAGE_ID_RESPONDED_TO)
    if (message.context_id, kind, responded_to) != (context_id, request | RESPONSE, message_id):
        raise InvalidBytes("a message is not the response to the request")
    message.number(STATUS)


def without_first(buffers: list[bytes | memoryview], count: int) -> list[bytes | memoryview]:
    """Return `buffers` without the first `count` bytes."""
    for number, buffer in enumerate(buffers):
        if count < len(buffer):
            return [memoryview(buffer)[count:], *buffers[number + 1 :]]
        count -= len(buffer)
    return []
