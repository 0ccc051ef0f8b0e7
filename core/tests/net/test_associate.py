"""Association requests that violate the standard are accepted if their meaning is clear, as by other acceptors."""

from __future__ import annotations

import socket
import struct
from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_adapter.dicom.part10 import file_header
from dicom_adapter.net.associate import AssociateRequest, decode_request, encode_accept
from dicom_adapter.net.negotiation import negotiate
from dicom_adapter.net.pdu import InvalidPdu
from support.conversation import (
    APPLICATION_CONTEXT,
    CT,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    context,
    item,
    pdu,
    pdus,
)
from support.listening import SECONDS, Listen

MAXIMUM_LENGTH = struct.pack(">BxHI", 0x51, 4, 16384)
USER = MAXIMUM_LENGTH + item(0x52, "1.2.3")
# Results for the contexts of `request()`: context ID, result, transfer syntax
NORMAL = [(1, 0, EXPLICIT), (3, 0, IMPLICIT)]


def request(
    *,
    called: bytes = b"LUNG".ljust(16),
    calling: bytes = b"CT1".ljust(16),
    contexts: tuple[bytes, ...] = (context(1), context(3, VERIFICATION, (IMPLICIT,))),
    application: bytes = item(0x10, APPLICATION_CONTEXT),
    user: bytes = item(0x50, USER),
    after: bytes = b"",
) -> bytes:
    fixed = struct.pack(">H2x16s16s32x", 1, called, calling)
    return pdu(0x01, fixed + application + b"".join(contexts) + user + after)


def bare_context(number: int, *items: bytes) -> bytes:
    return item(0x20, bytes((number, 0, 0, 0)) + b"".join(items))


ABSTRACT, TRANSFER = item(0x30, CT), item(0x40, IMPLICIT)
VERIFY = context(3, VERIFICATION, (IMPLICIT,))

# Requests, each with the expected results of its contexts. In a dirty buffer, a NUL and bytes of an earlier text follow
# the text. The acceptors of DCMTK 3.6.7 and Orthanc 1.10 accept all these requests except those marked *: there, they
# close the connection or abort.
TOLERATED = {
    "called AE title with a dirty buffer": (request(called=b"LUNG\0\xa3junk\x01\x02abc\\e"), NORMAL),
    "calling AE title with a dirty buffer": (request(calling=b"CT1\0\xa3junk\x01\x02abc\\ef"), NORMAL),
    "calling AE title that is not ASCII": (request(calling=b"M\xc3\x9cLLER\\A".ljust(16)), NORMAL),
    "calling AE title with control characters": (request(calling=b"CT\x1b[1\r\n".ljust(16)), NORMAL),
    "no calling AE title *": (request(calling=b" " * 16), NORMAL),
    "1 pad byte in the user information *": (request(user=item(0x50, USER + b"\0")), NORMAL),
    "3 pad bytes in the user information *": (request(user=item(0x50, USER + b"\0\0\0")), NORMAL),
    "user information cut off *": (request(user=item(0x50, USER + b"\x54\0\0\xff")), NORMAL),
    "maximum length of 2 bytes": (request(user=item(0x50, item(0x51, b"\x40\0"))), NORMAL),
    "maximum length of 0 bytes": (request(user=item(0x50, item(0x51, b""))), NORMAL),
    "role with a wrong length *": (request(user=item(0x50, USER + b"\x54\0\0\x03\0\x09x")), NORMAL),
    "role of 1 byte *": (request(user=item(0x50, USER + b"\x54\0\0\x01\0")), NORMAL),
    "no user information": (request(user=b""), NORMAL),
    "user information twice": (request(user=item(0x50, USER) * 2), NORMAL),
    "application context twice": (request(application=item(0x10, APPLICATION_CONTEXT) * 2), NORMAL),
    "the same context twice": (request(contexts=(context(1), context(1))), [(1, 0, EXPLICIT)]),
    "an ID for two contexts": (request(contexts=(context(1), context(1, VERIFICATION))), [(1, 0, EXPLICIT)]),
    "even and zero context": (request(contexts=(context(2), context(0))), [(2, 0, EXPLICIT), (0, 0, EXPLICIT)]),
    "context without an abstract syntax": (
        request(contexts=(bare_context(1, TRANSFER), VERIFY)),
        [(1, 3, IMPLICIT), NORMAL[1]],
    ),
    "context with two abstract syntaxes": (
        request(contexts=(bare_context(1, ABSTRACT, item(0x30, VERIFICATION), TRANSFER), VERIFY)),
        [(1, 3, IMPLICIT), NORMAL[1]],
    ),
    "context without a transfer syntax *": (
        request(contexts=(bare_context(1, ABSTRACT), VERIFY)),
        [(1, 4, IMPLICIT), NORMAL[1]],
    ),
    "pad byte in a context *": (
        request(contexts=(bare_context(1, ABSTRACT, TRANSFER, b"\0"), VERIFY)),
        [(1, 0, IMPLICIT), NORMAL[1]],
    ),
    "UIDs with a dirty buffer": (
        request(contexts=(context(1, CT + "\0zz", (IMPLICIT + "\0yy",)), VERIFY)),
        [(1, 0, IMPLICIT), NORMAL[1]],
    ),
    "3 pad bytes at the end *": (request(after=b"\0\0\0"), NORMAL),
}
REGULAR = {
    "as usual": (request(), NORMAL),
    "AE titles padded with NUL": (request(called=b"LUNG".ljust(16, b"\0"), calling=b"CT1\0 \0".ljust(16)), NORMAL),
    "UIDs padded with NUL": (
        request(contexts=(context(1, CT + "\0", (IMPLICIT + "\0",)), VERIFY)),
        [(1, 0, IMPLICIT), NORMAL[1]],
    ),
    "unknown items": (request(user=item(0x50, USER + bytes(8)), after=item(0x77, b"abc")), NORMAL),
    "empty implementation class": (request(user=item(0x50, MAXIMUM_LENGTH + item(0x52, ""))), NORMAL),
}


def decoded(data: bytes) -> AssociateRequest:
    return decode_request(data[6:])


def results(proposed: AssociateRequest) -> list[tuple[int, int, str]]:
    return [(answer.context_id, answer.result, answer.transfer_syntax) for answer in negotiate(proposed.contexts)]


@pytest.mark.parametrize("name", TOLERATED)
def test_an_irregular_request_is_tolerated(name: str) -> None:
    """The missing items are not needed, or the context is declined. The irregularity is reported.

    Verified to fail when a request aborts the association.
    """
    data, expected = TOLERATED[name]
    decoded_request = decoded(data)
    assert expected == results(decoded_request)
    assert (None, "LUNG") == (decoded_request.provider_rejection, decoded_request.called_ae_title)
    assert 1 == len(decoded_request.irregularities)


@pytest.mark.parametrize("name", REGULAR)
def test_a_regular_request_has_no_irregularities(name: str) -> None:
    data, expected = REGULAR[name]
    assert expected == results(decoded(data))
    assert () == decoded(data).irregularities


def test_more_than_128_contexts_are_tolerated() -> None:
    """IDs that are proposed again do not count."""
    decoded_request = decoded(request(contexts=tuple(context(2 * (number % 128) + 1) for number in range(130))))
    assert 128 == len(decoded_request.contexts)
    assert "more than 128 presentation contexts" in decoded_request.irregularities


@pytest.mark.parametrize(
    "application",
    [b"", item(0x10, "1.2.3"), item(0x10, APPLICATION_CONTEXT) + item(0x10, "1.2.3")],
    ids=["none", "another", "several"],
)
def test_another_application_context_is_rejected(application: bytes) -> None:
    assert (1, 1, 2) == decoded(request(application=application)).provider_rejection


@pytest.mark.parametrize(
    ("sent", "title"),
    [
        (b"CT1\0dirty", "CT1"),
        (b"  CT 1  ", "CT 1"),
        (b"M\xdcLLER", "M\\xdcLLER"),
        (b"A\\B", "A\\x5cB"),
        (b"A\nB\x1b", "A\\x0aB\\x1b"),
        (b"", ""),
    ],
)
def test_ae_titles_are_escaped(sent: bytes, title: str) -> None:
    """Therefore log lines and the ledger contain no control characters, and different AE titles stay different."""
    assert title == decoded(request(calling=sent.ljust(16))).calling_ae_title


@given(st.binary(max_size=16))
@settings(max_examples=300, deadline=None)
def test_the_header_of_a_stored_file_is_valid_for_any_calling_ae_title(calling: bytes) -> None:
    """Source Application Entity Title has one value of at most 16 characters (PS3.5 section 6.2).

    Verified to fail when the escaped title is written.
    """
    title = decoded(request(calling=calling.ljust(16))).calling_ae_title
    meta = dcmread(BytesIO(file_header(CT, "1.2.3", EXPLICIT, title, "LUNG"))).file_meta
    assert 1 >= meta["SourceApplicationEntityTitle"].VM
    value = meta.SourceApplicationEntityTitle
    assert len(value) <= 16
    assert all(" " <= character <= "~" and character != "\\" for character in value)
    assert "LUNG" == meta.ReceivingApplicationEntityTitle


def test_a_valid_calling_ae_title_is_stored_unchanged() -> None:
    meta = dcmread(BytesIO(file_header(CT, "1.2.3", EXPLICIT, "CT 1?~[]", "LUNG"))).file_meta
    assert "CT 1?~[]" == meta.SourceApplicationEntityTitle
    meta = dcmread(BytesIO(file_header(CT, "1.2.3", EXPLICIT, "M\\xdcLLER", "LUNG"))).file_meta
    assert "M?LLER" == meta.SourceApplicationEntityTitle


@given(
    st.sampled_from([request(), *(data for data, _expected in TOLERATED.values())]),
    st.lists(st.tuples(st.integers(6, 300), st.integers(0, 255)), max_size=6),
    st.binary(max_size=20),
)
@settings(max_examples=500, deadline=None)
def test_any_garbage_in_a_request_is_decoded_or_invalid(
    data: bytes, changes: list[tuple[int, int]], noise: bytes
) -> None:
    """No other exception is raised, and the number of reported irregularities has a limit."""
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    for body in (bytes(changed[6:]), bytes(changed[6:]) + noise, bytes(changed[6:-20]) + noise):
        try:
            decoded_request = decode_request(body)
        except InvalidPdu:
            continue
        contexts = decoded_request.contexts
        assert len({proposed.context_id for proposed in contexts}) == len(negotiate(contexts))
        assert len(decoded_request.irregularities) <= 20


def test_an_irregular_request_is_accepted_and_logged_once(listen: Listen) -> None:
    listening = listen()
    data = request(called=b"LUNG\0\xa3junk", calling=b"M\xdcLLER".ljust(16), user=item(0x50, USER + b"\0"))
    for sent in (request(), data):
        with socket.create_connection(("127.0.0.1", listening.port), SECONDS) as connection:
            connection.sendall(sent)
            header = connection.recv(6, socket.MSG_WAITALL)
            body = connection.recv(int.from_bytes(header[2:], "big"), socket.MSG_WAITALL)
            assert [0x02] == [kind for kind, _body in pdus(header + body)]
    [logged] = listening.logged("association_request_irregular")
    assert ("LUNG", "M\\xdcLLER", "127.0.0.1") == (logged["ae_title"], logged["calling_ae_title"], logged["peer"])
    assert {
        "the called AE title is followed by NUL and other bytes",
        "the calling AE title has characters that are not allowed",
        "pad bytes after the items",
    } == set(logged["tolerated"])


def test_a_declined_context_with_a_huge_name_is_answered() -> None:
    """Its name is not repeated in the response: escaped, it would not fit an item."""
    huge = item(0x40, b"\xff" * 60_000)
    decoded_request = decoded(request(contexts=(bare_context(1, ABSTRACT, huge), VERIFY)))
    response = encode_accept(decoded_request, negotiate(decoded_request.contexts), 16384, ("1.2.3", "TEST"))
    assert [(1, 4, IMPLICIT), NORMAL[1]] == results(decoded_request)
    assert len(response) < 1000
