"""Odd association requests: each is what a requestor sends first on a new connection."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from attrs import frozen

from support.conversation import (
    ABORT,
    APPLICATION_CONTEXT,
    CT,
    EXPLICIT,
    IMPLICIT,
    RELEASE_RQ,
    VERIFICATION,
    echo,
    item,
    pdu,
)

CALLED = b"CORPUS"
PRIVATE, NONSENSE, DEFLATED = "1.3.46.670589.33.1.4.1", "not-a-uid", "1.2.840.10008.1.2.1.99"
BIG_ENDIAN, JPEG = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50"
HANGING_PROTOCOL, COLOR_PALETTE = "1.2.840.10008.5.1.4.38.1", "1.2.840.10008.5.1.4.39.1"
STUDY_ROOT_FIND, PERFORMED_STEP = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.3.1.2.3.3"


@frozen(kw_only=True)
class OddAssociation:
    """The first bytes of a connection. After an acceptance, a C-ECHO follows in context 3 if it was accepted."""

    name: str
    data: bytes


def context(number: int, abstract: bytes | str | None, syntaxes: Iterable[bytes | str], result: int = 0) -> bytes:
    """Encode a presentation context; `abstract` None omits the abstract syntax."""
    parts = [] if abstract is None else [item(0x30, abstract)]
    return item(0x20, bytes((number, 0, result, 0)) + b"".join([*parts, *(item(0x40, syntax) for syntax in syntaxes)]))


STORE, ECHO = context(1, CT, [EXPLICIT]), context(3, VERIFICATION, [IMPLICIT])
MAXIMUM, CLASS = struct.pack(">BxHI", 0x51, 4, 16384), item(0x52, "1.2.3")
USER = item(0x50, MAXIMUM + CLASS)
APPLICATION = item(0x10, APPLICATION_CONTEXT)


def request(
    *items: bytes,
    called: bytes = CALLED.ljust(16),
    calling: bytes = b"ODD".ljust(16),
    version: int = 1,
    reserved: bytes = bytes(32),
    length: int | None = None,
) -> bytes:
    """Encode an A-ASSOCIATE-RQ.

    `items`: by default those of a usual request. `length`: that of the PDU header, if it is not the correct one.
    """
    body = b"".join(items or (APPLICATION, STORE, ECHO, USER))
    return pdu(0x01, struct.pack(">H2x16s16s", version, called, calling) + reserved + body, length)


def odd_associations() -> Iterator[OddAssociation]:
    for cases in (_fixed_fields(), _application(), _contexts(), _transfer_syntaxes(), _user_information(), _others()):
        for name, data in cases.items():
            yield OddAssociation(name=name, data=data)


def _fixed_fields() -> dict[str, bytes]:
    return {
        "protocol version 0": request(version=0),
        "protocol version 2": request(version=2),
        "protocol versions 1 and 2": request(version=3),
        "called AE title with NULs": request(called=CALLED.ljust(16, b"\0")),
        "called AE title with a dirty buffer": request(called=CALLED + b"\0garbage\xff\xfe"),
        "called AE title with leading blanks": request(called=CALLED.rjust(16)),
        "called AE title in lower case": request(called=CALLED.lower().ljust(16)),
        "called AE title of blanks": request(called=b" " * 16),
        "called AE title of NULs": request(called=bytes(16)),
        "called AE title that is not ASCII": request(called=b"CORP\xdcS".ljust(16)),
        "calling AE title that is not ASCII": request(calling=b"R\xd6NTGEN".ljust(16)),
        "calling AE title of blanks": request(calling=b" " * 16),
        "calling AE title of NULs": request(calling=bytes(16)),
        "calling AE title with a backslash": request(calling=b"A\\B".ljust(16)),
        "calling AE title with a control character": request(calling=b"A\nB".ljust(16)),
        "calling AE title with a dirty buffer": request(calling=b"ODD\0garbage\xff\xfe\xfd\xfc\xfb"),
        "reserved bytes that are not 0": request(reserved=b"\xff" * 32),
    }


def _application() -> dict[str, bytes]:
    return {
        "another application context": request(item(0x10, "1.2.3"), STORE, ECHO, USER),
        "an empty application context": request(item(0x10, ""), STORE, ECHO, USER),
        "application context with a NUL": request(item(0x10, APPLICATION_CONTEXT + "\0"), STORE, ECHO, USER),
        "application context with a blank": request(item(0x10, APPLICATION_CONTEXT + " "), STORE, ECHO, USER),
        "no application context": request(STORE, ECHO, USER),
        "application context twice": request(APPLICATION, APPLICATION, STORE, ECHO, USER),
    }


def _contexts() -> dict[str, bytes]:
    def proposing(*contexts: bytes) -> bytes:
        return request(APPLICATION, *contexts, USER)

    many = [context(2 * number + 1, CT if number != 1 else VERIFICATION, [IMPLICIT]) for number in range(128)]
    return {
        "no presentation context": request(APPLICATION, USER),
        "an unknown abstract syntax": proposing(context(1, "1.2.3.4", [EXPLICIT]), ECHO),
        "an empty abstract syntax": proposing(context(1, "", [EXPLICIT]), ECHO),
        "a context without abstract syntax": proposing(context(1, None, [EXPLICIT]), ECHO),
        "abstract syntax with a NUL": proposing(context(1, CT + "\0", [EXPLICIT]), ECHO),
        "abstract syntax with a blank": proposing(context(1, CT + " ", [EXPLICIT]), ECHO),
        "abstract syntax twice": proposing(
            item(0x20, bytes((1, 0, 0, 0)) + item(0x30, CT) * 2 + item(0x40, EXPLICIT)), ECHO
        ),
        "an even context id": proposing(context(2, CT, [EXPLICIT]), ECHO),
        "context id 0": proposing(context(0, CT, [EXPLICIT]), ECHO),
        "one context id twice": proposing(STORE, context(1, CT, [IMPLICIT]), ECHO),
        "128 contexts": proposing(*many),
        "129 contexts": proposing(*many, context(1, CT, [IMPLICIT])),
        "a result in a proposed context": proposing(context(1, CT, [EXPLICIT], result=4), ECHO),
        "the class of hanging protocols": proposing(context(1, HANGING_PROTOCOL, [EXPLICIT]), ECHO),
        "the class of color palettes": proposing(context(1, COLOR_PALETTE, [EXPLICIT]), ECHO),
        "a query": proposing(context(1, STUDY_ROOT_FIND, [EXPLICIT]), ECHO),
        "a performed procedure step": proposing(context(1, PERFORMED_STEP, [EXPLICIT]), ECHO),
        "only a query": proposing(context(1, STUDY_ROOT_FIND, [EXPLICIT])),
    }


def _transfer_syntaxes() -> dict[str, bytes]:
    lists: dict[str, list[bytes | str]] = {
        "no transfer syntax": [],
        "an empty transfer syntax": [""],
        "an empty transfer syntax first": ["", EXPLICIT],
        "a private transfer syntax": [PRIVATE],
        "a private transfer syntax first": [PRIVATE, EXPLICIT],
        "a transfer syntax that is no UID": [NONSENSE],
        "a transfer syntax that is no UID first": [NONSENSE, EXPLICIT],
        "transfer syntax with a NUL": [EXPLICIT + "\0"],
        "transfer syntax with a blank": [EXPLICIT + " "],
        "only deflated": [DEFLATED],
        "deflated first": [DEFLATED, EXPLICIT],
        "only big endian": [BIG_ENDIAN],
        "only JPEG": [JPEG],
        "JPEG, then explicit": [JPEG, EXPLICIT],
        "implicit, then explicit": [IMPLICIT, EXPLICIT],
        "100 transfer syntaxes": [*(f"1.2.3.{number}" for number in range(99)), EXPLICIT],
    }
    return {name: request(APPLICATION, context(1, CT, syntaxes), ECHO, USER) for name, syntaxes in lists.items()}


def _user_information() -> dict[str, bytes]:
    def with_user(*items: bytes) -> bytes:
        return request(APPLICATION, STORE, ECHO, *items)

    def length(value: int) -> bytes:
        return item(0x50, struct.pack(">BxHI", 0x51, 4, value) + CLASS)

    identity = struct.pack(">BBH", 1, 0, 4) + b"user" + struct.pack(">H", 0)
    return {
        "no user information": with_user(),
        "empty user information": with_user(item(0x50, b"")),
        "user information twice": with_user(USER, USER),
        "user information first": request(USER, APPLICATION, STORE, ECHO),
        "maximum length 0": with_user(length(0)),
        "maximum length 1": with_user(length(1)),
        "maximum length 128": with_user(length(128)),
        "maximum length 0xFFFFFFFF": with_user(length(0xFFFFFFFF)),
        "a maximum length of 2 bytes": with_user(item(0x50, struct.pack(">BxHH", 0x51, 2, 16384) + CLASS)),
        "no maximum length": with_user(item(0x50, CLASS)),
        "no implementation class UID": with_user(item(0x50, MAXIMUM)),
        "an empty implementation class UID": with_user(item(0x50, MAXIMUM + item(0x52, ""))),
        "a version name of 20 characters": with_user(item(0x50, MAXIMUM + CLASS + item(0x55, "V" * 20))),
        "an asynchronous window": with_user(item(0x50, MAXIMUM + CLASS + item(0x53, struct.pack(">HH", 8, 8)))),
        "a user identity": with_user(item(0x50, MAXIMUM + CLASS + item(0x58, identity))),
        "an unknown sub-item": with_user(item(0x50, MAXIMUM + CLASS + item(0x99, "whatever"))),
        "1 pad byte in user information": with_user(item(0x50, MAXIMUM + CLASS + bytes(1))),
        "3 pad bytes in user information": with_user(item(0x50, MAXIMUM + CLASS + bytes(3))),
        "a sub-item that is too long": with_user(item(0x50, MAXIMUM + struct.pack(">BxH", 0x52, 99) + b"1.2.3")),
    }


def _others() -> dict[str, bytes]:
    return {
        "pad bytes behind the last item": request(APPLICATION, STORE, ECHO, USER, bytes(2)),
        "an unknown item": request(APPLICATION, item(0x99, "whatever"), STORE, ECHO, USER),
        "an item that is too long": request(APPLICATION, STORE, ECHO, struct.pack(">BxH", 0x50, 999) + MAXIMUM),
        "a request of 10 bytes": pdu(0x01, bytes(10)),
        "two requests": request() + request(),
        "data before the association": echo(),
        "a release before the association": RELEASE_RQ,
        "an abort before the association": ABORT,
        "an unknown PDU": pdu(0x42, bytes(20)),
        "an HTTP request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "a TLS handshake": bytes.fromhex("16030100c8010000c40303") + bytes(193),
    }
