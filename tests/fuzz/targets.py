"""The targets of the fuzzer: each accepts any bytes, must not raise, and has seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from attrs import frozen
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from dicom_adapter.api.errors import Refused
from dicom_adapter.dicom.identity import IdentityReader
from dicom_adapter.dicom.synthetic import make_instance
from dicom_adapter.net.acceptor import Acceptor, StoreAborted, StoreCompleted, StoreRequested
from dicom_adapter.net.indications import AssociateIndication, AssociationEnd, ProviderRejection, ReleaseIndication
from dicom_adapter.net.negotiation import negotiate
from dicom_adapter.net.proxy import SIGNATURE, InvalidProxyHeader, ProxyHeader
from support.conversation import ABORT, EXPLICIT, IMPLICIT, RELEASE_RQ, associate, echo, store

BIG_ENDIAN = "1.2.840.10008.1.2.2"
SYNTAXES = (EXPLICIT, IMPLICIT, BIG_ENDIAN)
LONGEST_PDUS = (0, 4096, 16384)
OURS = ("1.2.3.4", "FUZZ")  # implementation class UID and version name


@frozen
class Target:
    """A function to fuzz."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


def acceptor(data: bytes) -> None:
    """Feed one side of a connection. The first byte selects the fragmentation and the maximum length of PDUs."""
    if not data:
        return
    size, peer = 1 + data[0] % 97, Acceptor(LONGEST_PDUS[data[0] % len(LONGEST_PDUS)])
    received, is_open, ends = 0, False, 0
    for start in range(1, len(data), size):
        for event in peer.receive(memoryview(data)[start : start + size]):
            if isinstance(event, memoryview):
                assert is_open, "a fragment outside of a data set"
                received += len(event)
            elif isinstance(event, AssociateIndication):
                peer.accept(negotiate(event.request.contexts), OURS)
            elif isinstance(event, (StoreRequested, StoreCompleted, StoreAborted)):
                assert is_open is not isinstance(event, StoreRequested), (
                    "a nested data set, or an end without a beginning"
                )
                is_open = isinstance(event, StoreRequested)
                if isinstance(event, StoreCompleted):
                    peer.answer(event.command, 0)
            else:
                assert isinstance(event, (AssociationEnd, ProviderRejection, ReleaseIndication)), event
                ends += isinstance(event, AssociationEnd)
        peer.take_outgoing()
    for event in peer.closed():
        is_open = is_open and not isinstance(event, StoreAborted)
        ends += isinstance(event, AssociationEnd)
    assert not is_open, "a data set without an end"
    assert ends <= 1, "an association that ends twice"
    assert received <= len(data), "more bytes than were sent"


def identity(data: bytes) -> None:
    """Feed a data set. The first byte selects the fragmentation and the transfer syntax."""
    if not data:
        return
    size, reader = 1 + data[0] % 251, IdentityReader(SYNTAXES[data[0] % len(SYNTAXES)])
    for start in range(1, len(data), size):
        if reader.needs_more:
            reader.feed(memoryview(data)[start : start + size])
    with suppress(Refused):
        reader.identity()


def proxy(data: bytes) -> None:
    """Feed a PROXY protocol header and the bytes after it."""
    header = ProxyHeader()
    with suppress(InvalidProxyHeader):
        while header.bytes_to_read and data:
            piece, data = data[: header.bytes_to_read], data[header.bytes_to_read :]
            header.feed(piece)


def _data_set(number: int) -> bytes:
    encoded = DicomBytesIO()
    encoded.is_implicit_VR = SYNTAXES[number] == IMPLICIT
    encoded.is_little_endian = SYNTAXES[number] != BIG_ENDIAN
    write_dataset(encoded, make_instance(rows=2, columns=2))
    return bytes((number,)) + encoded.getvalue()


TARGETS: Mapping[str, Target] = {
    "acceptor": Target(
        acceptor,
        [
            b"\x01" + associate() + store(b"data set", 3) + echo() + RELEASE_RQ,
            b"\x60" + associate() + store(b"a data set cut off", 2)[:-9] + ABORT,
            b"\x30" + associate(called=b"NOBODY", version=2) + echo(),
        ],
    ),
    "identity": Target(identity, [_data_set(number) for number in range(len(SYNTAXES))]),
    "proxy": Target(
        proxy, [b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 104\r\n", SIGNATURE + b"\x21\x11\x00\x0c" + bytes(12)]
    ),
}
