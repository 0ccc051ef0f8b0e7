"""Decode A-ASSOCIATE-RQ and encode A-ASSOCIATE-AC (PS3.8 sections 9.3.2 and 9.3.3, annex D; PS3.7 annex D)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import field, frozen

from dicom_adapter.net.codes import RejectReason
from dicom_adapter.net.pdu import InvalidPdu

PROTOCOL_VERSION = 1  # the bit that must be set
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 annex A.2.1
MAX_CONTEXTS = 128  # their IDs are the odd numbers of one byte
FIXED = struct.Struct(">H2x16s16s32s")  # version, called and calling AE title, reserved

APPLICATION_CONTEXT_ITEM, PROPOSED_CONTEXT_ITEM, RESULT_CONTEXT_ITEM, USER_INFORMATION_ITEM = 0x10, 0x20, 0x21, 0x50
ABSTRACT_SYNTAX_ITEM, TRANSFER_SYNTAX_ITEM = 0x30, 0x40
MAXIMUM_LENGTH_ITEM, CLASS_UID_ITEM, WINDOW_ITEM, ROLE_ITEM, VERSION_NAME_ITEM = 0x51, 0x52, 0x53, 0x54, 0x55

# A-ASSOCIATE-RJ by the service-provider (ACSE) itself (PS3.8 table 9-21)
APPLICATION_CONTEXT_NOT_SUPPORTED: RejectReason = (1, 1, 2)
PROTOCOL_VERSION_NOT_SUPPORTED: RejectReason = (1, 2, 2)


@frozen
class ProposedContext:
    """Presentation context that the requestor proposes."""

    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@frozen
class ContextResult:
    """Answer to a proposed presentation context, with a result of PS3.8 table 9-18."""

    context_id: int
    result: int
    abstract_syntax: str
    transfer_syntax: str  # significant when accepted


@frozen(kw_only=True)
class AssociateRequest:
    """Decoded A-ASSOCIATE-RQ."""

    protocol_version: int
    called_ae_title: str  # without padding
    calling_ae_title: str
    application_context: str
    contexts: tuple[ProposedContext, ...]
    maximum_length: int = 0  # of a P-DATA-TF to the requestor, in bytes; 0: no limit
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    roles: Mapping[str, tuple[bool, bool]] = field(factory=dict)  # by SOP class: SCU and SCP role proposed
    has_window: bool = False  # the requestor negotiates the asynchronous operations window
    echoed: bytes = field(default=bytes(64), repr=False)  # AE titles and reserved bytes, which A-ASSOCIATE-AC repeats

    @property
    def provider_rejection(self) -> RejectReason | None:
        """Reason why the service-provider rejects the association before the service-user decides, or None."""
        if not self.protocol_version & PROTOCOL_VERSION:
            return PROTOCOL_VERSION_NOT_SUPPORTED
        if self.application_context != APPLICATION_CONTEXT:
            return APPLICATION_CONTEXT_NOT_SUPPORTED
        return None


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode_request(body: bytes) -> AssociateRequest:
    """Decode an A-ASSOCIATE-RQ without its PDU header. Raises InvalidPdu."""
    if len(body) < FIXED.size:
        raise InvalidPdu(f"A-ASSOCIATE-RQ of {len(body)} bytes")
    version, called, calling, reserved = FIXED.unpack_from(body)
    items = list(_items(body[FIXED.size :]))
    names = [data for kind, data in items if kind == APPLICATION_CONTEXT_ITEM]
    if len(names) != 1:
        raise InvalidPdu(f"A-ASSOCIATE-RQ with {len(names)} application contexts")
    users = [data for kind, data in items if kind == USER_INFORMATION_ITEM]
    if len(users) != 1:
        raise InvalidPdu(f"A-ASSOCIATE-RQ with {len(users)} user information items")
    return AssociateRequest(
        protocol_version=version,
        called_ae_title=_text(called),
        calling_ae_title=_text(calling),
        application_context=_text(names[0]),
        contexts=_contexts([data for kind, data in items if kind == PROPOSED_CONTEXT_ITEM]),
        echoed=called + calling + reserved,
        **_user_information(users[0]),
    )


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Split items or sub-items: type, reserved byte, length of the rest in two bytes."""
    offset = 0
    while offset < len(data):
        if offset + 4 > len(data):
            raise InvalidPdu("an item of an A-ASSOCIATE-RQ ends in its header")
        kind, length = struct.unpack_from(">BxH", data, offset)
        offset += 4
        if offset + length > len(data):
            raise InvalidPdu(f"item 0x{kind:02X} of an A-ASSOCIATE-RQ is shorter than its length field")
        yield kind, data[offset : offset + length]
        offset += length


def _contexts(items: list[bytes]) -> tuple[ProposedContext, ...]:
    found = {context.context_id: context for context in map(_context, items)}
    if not items or len(items) > MAX_CONTEXTS or len(found) < len(items):
        raise InvalidPdu(f"A-ASSOCIATE-RQ with {len(items)} presentation contexts of {len(found)} different IDs")
    return tuple(found.values())


def _context(data: bytes) -> ProposedContext:
    if len(data) < 4 or not data[0] % 2:
        raise InvalidPdu("a presentation context has no odd ID")
    parts = list(_items(data[4:]))
    abstract = [_text(name) for kind, name in parts if kind == ABSTRACT_SYNTAX_ITEM]
    transfer = tuple(_text(name) for kind, name in parts if kind == TRANSFER_SYNTAX_ITEM)
    if len(abstract) != 1 or not transfer:
        raise InvalidPdu(f"presentation context {data[0]} needs one abstract syntax and at least one transfer syntax")
    return ProposedContext(data[0], abstract[0], transfer)


def _user_information(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    roles: dict[str, tuple[bool, bool]] = {}
    for kind, value in _items(data):
        if kind == MAXIMUM_LENGTH_ITEM:
            found["maximum_length"] = _number(value)
        elif kind == CLASS_UID_ITEM:
            found["implementation_class_uid"] = _text(value)
        elif kind == VERSION_NAME_ITEM:
            found["implementation_version_name"] = _text(value)
        elif kind == WINDOW_ITEM:
            found["has_window"] = True
        elif kind == ROLE_ITEM:
            roles.update([_role(value)])
    return {**found, "roles": roles}


def _number(value: bytes) -> int:
    if len(value) != 4:
        raise InvalidPdu(f"maximum length in {len(value)} bytes instead of 4")
    return int.from_bytes(value, "big")


def _role(value: bytes) -> tuple[str, tuple[bool, bool]]:
    length = int.from_bytes(value[:2], "big")
    if len(value) != 2 + length + 2:
        raise InvalidPdu("the length of a role selection does not match its SOP class UID")
    return _text(value[2:-2]), (value[-2] == 1, value[-1] == 1)


def _text(data: bytes) -> str:
    """Decode a name, which may contain any byte: bytes that are not ASCII are escaped."""
    return data.decode("ascii", "backslashreplace").strip(" \0")


# --- encoding ---------------------------------------------------------------------------------------------------------


def encode_accept(
    request: AssociateRequest,
    contexts: Iterable[ContextResult],
    maximum_length: int,
    implementation: tuple[str, str],
) -> bytes:
    """Encode a complete A-ASSOCIATE-AC. `implementation`: class UID and version name."""
    contexts = list(contexts)
    body = [struct.pack(">H2x", PROTOCOL_VERSION), request.echoed]
    body.append(_item(APPLICATION_CONTEXT_ITEM, APPLICATION_CONTEXT.encode()))
    for context in contexts:
        syntax = _item(TRANSFER_SYNTAX_ITEM, context.transfer_syntax.encode("ascii", "replace"))
        body.append(_item(RESULT_CONTEXT_ITEM, bytes((context.context_id, 0, context.result, 0)) + syntax))
    user = [
        _item(MAXIMUM_LENGTH_ITEM, struct.pack(">I", maximum_length)),
        _item(CLASS_UID_ITEM, implementation[0].encode()),
    ]
    if request.has_window:
        user.append(_item(WINDOW_ITEM, struct.pack(">HH", 1, 1)))  # one operation at a time, PS3.7 annex D.3.3.3
    accepted = {context.abstract_syntax for context in contexts if context.result == 0}
    user += [_role_result(name, scu) for name, (scu, _scp) in request.roles.items() if name in accepted]
    user.append(_item(VERSION_NAME_ITEM, implementation[1].encode()))
    body.append(_item(USER_INFORMATION_ITEM, b"".join(user)))
    whole = b"".join(body)
    return struct.pack(">BxI", 0x02, len(whole)) + whole


def _role_result(sop_class_uid: str, scu: bool) -> bytes:
    """Accept the SCU role if the requestor proposed it, and never the SCP role (PS3.7 annex D.3.3.4)."""
    name = sop_class_uid.encode("ascii", "replace")
    return _item(ROLE_ITEM, struct.pack(">H", len(name)) + name + bytes((int(scu), 0)))


def _item(kind: int, data: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(data)) + data
