"""PDUs of a requestor, encoded byte by byte, so that tests can also send invalid PDUs."""

from __future__ import annotations

import struct
from collections.abc import Iterable

CT, EXPLICIT, IMPLICIT = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
VERIFICATION = "1.2.840.10008.1.1"
APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
COMMAND, LAST = 1, 2  # bits of the message control header (PS3.8 annex E.2)


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    """Encode a PDU. `length` replaces the true length in the header."""
    return struct.pack(">BxI", kind, len(body) if length is None else length) + body


def item(kind: int, body: str | bytes) -> bytes:
    data = body.encode() if isinstance(body, str) else body
    return struct.pack(">BxH", kind, len(data)) + data


def context(number: int, abstract: str = CT, syntaxes: Iterable[str] = (EXPLICIT,)) -> bytes:
    return item(0x20, bytes((number, 0, 0, 0)) + item(0x30, abstract) + b"".join(item(0x40, uid) for uid in syntaxes))


def associate(
    *contexts: bytes,
    version: int = 1,
    called: bytes = b"LUNG",
    application: str = APPLICATION_CONTEXT,
    maximum_length: int = 16384,
    more: bytes = b"",
) -> bytes:
    """Encode an A-ASSOCIATE-RQ."""
    proposed = contexts or (context(1), context(3, VERIFICATION, (IMPLICIT,)))
    user = struct.pack(">BxHI", 0x51, 4, maximum_length) + item(0x52, "1.2.3") + more
    fixed = struct.pack(">H2x16s16s32x", version, called.ljust(16), b"CT1".ljust(16))
    return pdu(0x01, fixed + item(0x10, application) + b"".join(proposed) + item(0x50, user))


def pdv(data: bytes, control: int, context_id: int = 1) -> bytes:
    return struct.pack(">IBB", len(data) + 2, context_id, control) + data


def p_data(*pdvs: bytes) -> bytes:
    return pdu(0x04, b"".join(pdvs))


def element(number: int, value: bytes) -> bytes:
    """Encode an element of group 0000, as in command sets (PS3.7 section 6.3.1)."""
    return struct.pack("<HHI", 0, number, len(value)) + value


def command_set(field: int = 0x0001, *, data_set: bool = True, message_id: int = 7, instance: str = "1.2.3.4") -> bytes:
    """Encode a command set: a C-STORE-RQ, unless `field` is another command."""
    name = instance.encode() + b"\0" * (len(instance) % 2)
    body = b"".join(
        (
            element(0x0002, CT.encode() + b"\0"),
            element(0x0100, struct.pack("<H", field)),
            element(0x0110, struct.pack("<H", message_id)),
            element(0x0700, struct.pack("<H", 0)) if field == 0x0001 else b"",  # priority
            element(0x0800, struct.pack("<H", 0x0001 if data_set else 0x0101)),
            element(0x1000, name),
        )
    )
    return element(0x0000, struct.pack("<I", len(body))) + body


def store(data: bytes, pieces: int = 1, message_id: int = 7, instance: str = "1.2.3.4") -> bytes:
    """Encode a C-STORE request whose data set is split into this number of fragments."""
    size = -(-len(data) // pieces) or 1
    parts = [data[start : start + size] for start in range(0, len(data), size)] or [b""]
    controls = [0] * (len(parts) - 1) + [LAST]
    return p_data(pdv(command_set(message_id=message_id, instance=instance), COMMAND | LAST)) + b"".join(
        p_data(pdv(part, control)) for part, control in zip(parts, controls, strict=True)
    )


def echo(message_id: int = 9) -> bytes:
    return p_data(pdv(command_set(0x0030, data_set=False, message_id=message_id), COMMAND | LAST, 3))


RELEASE_RQ = pdu(0x05, bytes(4))
RELEASE_RP = pdu(0x06, bytes(4))
ABORT = pdu(0x07, bytes(4))


def pdus(data: bytes) -> list[tuple[int, bytes]]:
    """Split received bytes into PDUs: types and bodies."""
    found = []
    while data:
        kind, length = struct.unpack_from(">BxI", data)
        assert len(data) >= 6 + length
        found.append((kind, data[6 : 6 + length]))
        data = data[6 + length :]
    return found


def abort_of(data: bytes) -> tuple[int, int] | None:
    """Return source and reason of the last A-ABORT in the received bytes."""
    aborts = [body for kind, body in pdus(data) if kind == 0x07]
    return (aborts[-1][2], aborts[-1][3]) if aborts else None
