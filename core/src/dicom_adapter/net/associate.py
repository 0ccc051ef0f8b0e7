"""Decode A-ASSOCIATE-RQ and encode A-ASSOCIATE-AC (PS3.8 sections 9.3.2 and 9.3.3, annex D; PS3.7 annex D)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from attrs import field, frozen

from dicom_adapter.net.codes import RejectReason
from dicom_adapter.net.pdu import InvalidPdu

PROTOCOL_VERSION = 1  # the bit of the field Protocol-version that must be set
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"  # PS3.7 annex A.2.1
MAX_CONTEXTS = 128  # their IDs are the odd numbers of one byte
FIXED = struct.Struct(">H2x16s16s32s")  # version, called and calling AE title, reserved
ITEM = struct.Struct(">BxH")  # header of an item: type, length of the rest
LONGEST_CACHED_BYTES = 4096  # longest request whose decoded form is cached
CONTEXT_HEADER_BYTES = 4  # ID of a presentation context, reserved bytes
PADDING = b" \0"
AE_TITLE_BYTES = re.compile(rb"[\x20-\x5b\x5d-\x7e]+")  # PS3.5 section 6.2: no control characters, no backslash

APPLICATION_CONTEXT_ITEM, PROPOSED_CONTEXT_ITEM, RESULT_CONTEXT_ITEM, USER_INFORMATION_ITEM = 0x10, 0x20, 0x21, 0x50
ABSTRACT_SYNTAX_ITEM, TRANSFER_SYNTAX_ITEM = 0x30, 0x40
MAXIMUM_LENGTH_ITEM, CLASS_UID_ITEM, WINDOW_ITEM, ROLE_ITEM, VERSION_NAME_ITEM = 0x51, 0x52, 0x53, 0x54, 0x55

# A-ASSOCIATE-RJ by the service-provider (ACSE) itself (PS3.8 table 9-21)
APPLICATION_CONTEXT_NOT_SUPPORTED: RejectReason = (1, 1, 2)
PROTOCOL_VERSION_NOT_SUPPORTED: RejectReason = (1, 2, 2)
# For each of these reasons: its name, and its description for the log and the operator
PROVIDER_REJECTIONS: Mapping[RejectReason, tuple[str, str]] = {
    APPLICATION_CONTEXT_NOT_SUPPORTED: (
        "APPLICATION_CONTEXT_NOT_SUPPORTED",
        f"the application context is not that of DICOM, {APPLICATION_CONTEXT}",
    ),
    PROTOCOL_VERSION_NOT_SUPPORTED: (
        "PROTOCOL_VERSION_NOT_SUPPORTED",
        f"version {PROTOCOL_VERSION} of the upper layer protocol is not requested",
    ),
}


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
    transfer_syntax: str  # significant if the context is accepted


@frozen(kw_only=True)
class AssociateRequest:
    """Decoded A-ASSOCIATE-RQ."""

    protocol_version: int
    called_ae_title: str  # without padding
    calling_ae_title: str
    application_context: str
    contexts: tuple[ProposedContext, ...]
    maximum_length: int = 0  # longest P-DATA-TF that the requestor receives, in bytes; 0: no limit
    implementation_class_uid: str = ""
    implementation_version_name: str = ""
    # By SOP class UID: whether the requestor proposes the SCU role, and whether it proposes the SCP role.
    roles: Mapping[str, tuple[bool, bool]] = field(factory=dict)
    has_window: bool = False  # the requestor negotiates the asynchronous operations window
    echoed: bytes = field(default=bytes(64), repr=False)  # AE titles and reserved bytes, which A-ASSOCIATE-AC repeats
    irregularities: tuple[str, ...] = ()  # tolerated violations of the standard; they quote no text of the peer

    @property
    def provider_rejection(self) -> RejectReason | None:
        """Reason why the service-provider rejects the association before the service-user decides, or None."""
        if not self.protocol_version & PROTOCOL_VERSION:
            return PROTOCOL_VERSION_NOT_SUPPORTED
        if self.application_context != APPLICATION_CONTEXT:
            return APPLICATION_CONTEXT_NOT_SUPPORTED
        return None


# --- decoding ---------------------------------------------------------------------------------------------------------

Irregularities: TypeAlias = dict[str, None]  # an ordered set: keys in the order of their discovery


def decode_request(body: bytes) -> AssociateRequest:
    """Decode an A-ASSOCIATE-RQ without its PDU header. Raises InvalidPdu.

    Irregularities are tolerated if the meaning of the request is still clear: other acceptors tolerate them, so devices
    with such requests exist.
    Decoded requests are cached, because many devices open an association for each instance with the same request.
    """
    return _decode(body) if len(body) > LONGEST_CACHED_BYTES else _decode_cached(body)


@lru_cache(maxsize=64)
def _decode_cached(body: bytes) -> AssociateRequest:
    return _decode(body)


def _decode(body: bytes) -> AssociateRequest:
    if len(body) < FIXED.size:
        raise InvalidPdu(f"A-ASSOCIATE-RQ of {len(body)} bytes")
    found: Irregularities = {}
    version, called, calling, reserved = FIXED.unpack_from(body)
    items = list(_items(body[FIXED.size :], found))
    names = [_uid(data, found) for kind, data in items if kind == APPLICATION_CONTEXT_ITEM]
    if len(names) > 1:
        found["several application contexts"] = None
    users = [data for kind, data in items if kind == USER_INFORMATION_ITEM]
    if len(users) != 1:
        found["several user information items" if users else "no user information"] = None
    return AssociateRequest(
        protocol_version=version,
        called_ae_title=_ae_title(called, "called", found),
        calling_ae_title=_ae_title(calling, "calling", found),
        application_context=names[0] if len(set(names)) == 1 else "",
        contexts=_contexts([data for kind, data in items if kind == PROPOSED_CONTEXT_ITEM], found),
        echoed=called + calling + reserved,
        **_user_information(users, found),
        irregularities=tuple(found),
    )


def _items(data: bytes, found: Irregularities, *, is_cut_tolerated: bool = False) -> Iterator[tuple[int, bytes]]:
    """Split items or sub-items: type, reserved byte, length of the rest in two bytes.

    `is_cut_tolerated`: an item that is longer than the rest of the data is ignored.
    """
    offset = 0
    while offset < len(data):
        if offset + ITEM.size > len(data):
            found["pad bytes after the items"] = None
            return
        kind, length = ITEM.unpack_from(data, offset)
        offset += ITEM.size
        if offset + length > len(data):
            if not is_cut_tolerated:
                raise InvalidPdu(f"item 0x{kind:02X} of an A-ASSOCIATE-RQ is shorter than its length field")
            found["an item of the user information is shorter than its length field"] = None
            return
        yield kind, data[offset : offset + length]
        offset += length


def _contexts(items: list[bytes], found: Irregularities) -> tuple[ProposedContext, ...]:
    contexts: dict[int, ProposedContext] = {}
    for item in items:
        if item[:1] and item[0] in contexts:
            found["a presentation context ID is proposed more than once: the first one counts"] = None
        else:
            context = _context(item, found)
            contexts[context.context_id] = context
    if not contexts:
        raise InvalidPdu("A-ASSOCIATE-RQ without presentation contexts")
    if len(items) > MAX_CONTEXTS:
        found[f"more than {MAX_CONTEXTS} presentation contexts"] = None
    return tuple(contexts.values())


def _context(data: bytes, found: Irregularities) -> ProposedContext:
    """Decode a presentation context. A context that lacks a syntax is declined later; the others are not affected."""
    if len(data) < CONTEXT_HEADER_BYTES:
        raise InvalidPdu(f"a presentation context of {len(data)} bytes")
    if not data[0] % 2:
        found["a presentation context has an even ID"] = None
    parts = list(_items(data[CONTEXT_HEADER_BYTES:], found))
    abstract = [_uid(name, found) for kind, name in parts if kind == ABSTRACT_SYNTAX_ITEM]
    transfer = tuple(_uid(name, found) for kind, name in parts if kind == TRANSFER_SYNTAX_ITEM)
    if len(abstract) != 1:
        found[f"a presentation context with {'several abstract syntaxes' if abstract else 'no abstract syntax'}"] = None
    if not transfer:
        found["a presentation context with no transfer syntax"] = None
    return ProposedContext(data[0], abstract[0] if len(abstract) == 1 else "", transfer)


def _user_information(items: Iterable[bytes], irregularities: Irregularities) -> dict[str, Any]:
    """Decode the user information. Sub-items that cannot be decoded are ignored: their defaults are safe."""
    decoded: dict[str, Any] = {}
    roles: dict[str, tuple[bool, bool]] = {}
    for data in items:
        for kind, value in _items(data, irregularities, is_cut_tolerated=True):
            if kind == MAXIMUM_LENGTH_ITEM:
                decoded["maximum_length"] = _number(value, irregularities)
            elif kind == CLASS_UID_ITEM:
                decoded["implementation_class_uid"] = _uid(value, irregularities)
            elif kind == VERSION_NAME_ITEM:
                decoded["implementation_version_name"] = _text(value)
            elif kind == WINDOW_ITEM:
                decoded["has_window"] = True
            elif kind == ROLE_ITEM:
                roles.update(_role(value, irregularities))
    return {**decoded, "roles": roles}


def _number(value: bytes, found: Irregularities) -> int:
    if len(value) != 4:
        found["a maximum length that does not have 4 bytes"] = None
    return int.from_bytes(value[:4], "big")


def _role(value: bytes, found: Irregularities) -> dict[str, tuple[bool, bool]]:
    """Decode a role selection. Without a valid one, the requestor is the SCU, the only role that is supported."""
    length = int.from_bytes(value[:2], "big")
    if len(value) != 2 + length + 2:
        found["a role selection whose length does not match its SOP class UID"] = None
        return {}
    return {_uid(value[2:-2], found): (value[-2] == 1, value[-1] == 1)}


def _uid(data: bytes, found: Irregularities) -> str:
    name = data.strip(PADDING)
    if b"\0" in name:
        found["a UID is followed by NUL and other bytes"] = None
        name = name.partition(b"\0")[0].rstrip(b" ")
    return name.decode("ascii", "backslashreplace")


def _text(data: bytes) -> str:
    """Decode a name, which may contain any byte: bytes that are not ASCII are escaped."""
    return data.decode("ascii", "backslashreplace").strip(" \0")


def _ae_title(data: bytes, which: str, found: Irregularities) -> str:
    """Decode an AE title. Bytes that are not allowed in an AE title (PS3.5 section 6.2) are escaped, such as \\xff.

    A NUL ends the AE title: some devices send the whole buffer of a C string.
    """
    title = data.strip(PADDING)
    if b"\0" in title:
        found[f"the {which} AE title is followed by NUL and other bytes"] = None
        title = title.partition(b"\0")[0].rstrip(b" ")
    if AE_TITLE_BYTES.fullmatch(title):
        return title.decode("ascii")
    found[f"the {which} AE title has characters that are not allowed" if title else f"no {which} AE title"] = None
    return "".join(chr(byte) if AE_TITLE_BYTES.fullmatch(bytes((byte,))) else f"\\x{byte:02x}" for byte in title)


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
    encoded = b"".join(body)
    return struct.pack(">BxI", 0x02, len(encoded)) + encoded


def _role_result(sop_class_uid: str, scu: bool) -> bytes:
    """Accept the SCU role if the requestor proposed it, and never the SCP role (PS3.7 annex D.3.3.4)."""
    name = sop_class_uid.encode("ascii", "replace")
    return _item(ROLE_ITEM, struct.pack(">H", len(name)) + name + bytes((int(scu), 0)))


def _item(kind: int, data: bytes) -> bytes:
    return ITEM.pack(kind, len(data)) + data
