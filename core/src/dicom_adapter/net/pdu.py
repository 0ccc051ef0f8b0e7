"""Formats of the PDUs of the DICOM upper layer (PS3.8 section 9.3), and the reasons for A-ABORT."""

from __future__ import annotations

import struct
from enum import Enum

from dicom_adapter.api.errors import Refused

# Limit of an A-ASSOCIATE-RQ or -AC: twice the size of a request with 128 contexts that each propose all existing
# transfer syntaxes.
ASSOCIATE_LIMIT_BYTES = 1 << 18
FIXED_LENGTHS = {0x03: 4, 0x05: 4, 0x06: 4, 0x07: 4}  # by type, for the PDUs that have a fixed length
PDU_NAMES = {
    0x01: "A-ASSOCIATE-RQ",
    0x02: "A-ASSOCIATE-AC",
    0x03: "A-ASSOCIATE-RJ",
    0x04: "P-DATA-TF",
    0x05: "A-RELEASE-RQ",
    0x06: "A-RELEASE-RP",
    0x07: "A-ABORT",
}
HEADER = struct.Struct(">BxI")  # of a PDU: type, length of the rest
PDV_HEADER = struct.Struct(">IBB")  # of a presentation data value: length of the rest, context ID, control header
SINGLE_VALUE = struct.Struct(">BxIIBB")  # both headers of a P-DATA-TF that has exactly one presentation data value
COMMAND, LAST = 0b01, 0b10  # bits of the message control header (PS3.8 annex E.2); receivers ignore its other bits


class AbortSource(int, Enum):
    """Source field of A-ABORT (PS3.8 table 9-26)."""

    SERVICE_USER = 0
    SERVICE_PROVIDER = 2


class AbortReason(int, Enum):
    """Reason field of A-ABORT (PS3.8 table 9-26); significant with the source SERVICE_PROVIDER."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    UNRECOGNIZED_PDU_PARAMETER = 4
    UNEXPECTED_PDU_PARAMETER = 5
    INVALID_PDU_PARAMETER_VALUE = 6


class InvalidPdu(Refused):
    """The peer sent bytes that are not a valid PDU or DIMSE message, or that contradict the negotiation."""

    def __init__(self, reason: str, abort_reason: AbortReason = AbortReason.INVALID_PDU_PARAMETER_VALUE) -> None:
        super().__init__(reason)
        self.abort_reason = abort_reason  # value of the field in A-ABORT


def check_header(pdu_type: int, length: int, maximum_length: int) -> None:
    """Raise InvalidPdu if the header of a PDU is not valid. Called before any byte of the body is stored.

    `maximum_length`: longest P-DATA-TF that is allowed, in bytes; 0: no limit.
    """
    if pdu_type not in PDU_NAMES:
        raise InvalidPdu(f"unknown PDU type 0x{pdu_type:02X}", AbortReason.UNRECOGNIZED_PDU)
    name = PDU_NAMES[pdu_type]
    if length != FIXED_LENGTHS.get(pdu_type, length):
        raise InvalidPdu(f"{name} of {length} bytes instead of {FIXED_LENGTHS[pdu_type]}")
    if pdu_type == 0x04 and maximum_length and length > maximum_length:
        raise InvalidPdu(f"P-DATA-TF of {length} bytes, above the negotiated {maximum_length}")
    if pdu_type in (0x01, 0x02) and length > ASSOCIATE_LIMIT_BYTES:
        raise InvalidPdu(f"{name} of {length} bytes, above {ASSOCIATE_LIMIT_BYTES}")
    if pdu_type == 0x04 and length < PDV_HEADER.size:
        raise InvalidPdu(f"P-DATA-TF of {length} bytes has no presentation data value")
