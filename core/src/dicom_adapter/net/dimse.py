"""Decode and encode the command sets of DIMSE messages (PS3.7), always implicit VR little endian (section 6.3.1)."""

from __future__ import annotations

import struct
from enum import IntEnum

from attrs import frozen

from dicom_adapter.net.pdu import InvalidPdu

ELEMENT = struct.Struct("<HHI")  # group, element, length of the value in bytes
NO_DATA_SET = 0x0101  # Command Data Set Type (0000,0800); any other value: a data set follows
RESPONSE = 0x8000  # bit of Command Field (0000,0100), set in responses
ERROR_COMMENT_LENGTH = 64  # characters of (0000,0902), VR LO

AFFECTED_SOP_CLASS_UID, REQUESTED_SOP_CLASS_UID = 0x0002, 0x0003
COMMAND_FIELD, MESSAGE_ID, MESSAGE_ID_RESPONDED_TO = 0x0100, 0x0110, 0x0120
DATA_SET_TYPE, STATUS, ERROR_COMMENT = 0x0800, 0x0900, 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000


class CommandField(IntEnum):
    """Command Field values that the acceptor distinguishes (annex E)."""

    C_STORE_RQ = 0x0001
    C_ECHO_RQ = 0x0030
    C_CANCEL_RQ = 0x0FFF


class DimseStatus(IntEnum):
    """Statuses that do not depend on the service class (annex C)."""

    SUCCESS = 0x0000
    UNRECOGNIZED_OPERATION = 0x0211


@frozen
class Command:
    """Decoded command set of a request."""

    field: int
    message_id: int
    has_data_set: bool
    sop_class_uid: str  # Affected SOP Class UID or Requested SOP Class UID
    sop_instance_uid: str  # Affected SOP Instance UID


def decode_command(data: bytes) -> Command:
    """Decode a command set. Raises InvalidPdu."""
    elements = _elements(data)
    return Command(
        field=_short(elements, COMMAND_FIELD),
        message_id=_short(elements, MESSAGE_ID, 0),  # C-CANCEL and responses have (0000,0120) instead
        has_data_set=_short(elements, DATA_SET_TYPE) != NO_DATA_SET,
        sop_class_uid=_uid(elements.get(AFFECTED_SOP_CLASS_UID) or elements.get(REQUESTED_SOP_CLASS_UID, b"")),
        sop_instance_uid=_uid(elements.get(AFFECTED_SOP_INSTANCE_UID, b"")),
    )


def _elements(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(data):
        if offset + ELEMENT.size > len(data):
            raise InvalidPdu("a command set ends in the middle of an element")
        group, element, length = ELEMENT.unpack_from(data, offset)
        offset += ELEMENT.size
        if group != 0x0000:
            raise InvalidPdu(
                f"element ({group:04X},{element:04X}) is not valid in a command set: its group must be 0000"
            )
        if offset + length > len(data):
            raise InvalidPdu(f"a command set ends in the middle of element (0000,{element:04X}) of {length} bytes")
        found[element] = data[offset : offset + length]
        offset += length
    return found


def _short(elements: dict[int, bytes], element: int, default: int | None = None) -> int:
    value = elements.get(element)
    if value is None and default is not None:
        return default
    if value is None or len(value) != 2:
        raise InvalidPdu(f"a command set has no element (0000,{element:04X}) of 2 bytes")
    return int.from_bytes(value, "little")


def _uid(value: bytes) -> str:
    return value.decode("ascii", "backslashreplace").rstrip(" \0")


def encode_response(request: Command, status: int, comment: str = "") -> bytes:
    """Encode the command set of a response without a data set. `comment`: reason of a failure."""
    parts = [
        _element(AFFECTED_SOP_CLASS_UID, _padded(request.sop_class_uid, b"\0")) if request.sop_class_uid else b"",
        _element(COMMAND_FIELD, struct.pack("<H", request.field | RESPONSE)),
        _element(MESSAGE_ID_RESPONDED_TO, struct.pack("<H", request.message_id)),
        _element(DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        _element(STATUS, struct.pack("<H", status)),
        _element(ERROR_COMMENT, _padded(comment[:ERROR_COMMENT_LENGTH], b" ")) if comment else b"",
        _element(AFFECTED_SOP_INSTANCE_UID, _padded(request.sop_instance_uid, b"\0"))
        if request.sop_instance_uid
        else b"",
    ]
    body = b"".join(parts)
    return _element(0x0000, struct.pack("<I", len(body))) + body


def _element(element: int, value: bytes) -> bytes:
    return ELEMENT.pack(0x0000, element, len(value)) + value


def _padded(text: str, padding: bytes) -> bytes:
    value = text.encode("ascii", "replace")
    return value + padding * (len(value) % 2)
