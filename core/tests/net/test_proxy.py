"""The PROXY protocol: headers byte by byte, and connections through a load balancer."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_adapter.config.listening import TlsConfig
from dicom_adapter.net import admission
from dicom_adapter.net.proxy import (
    FIXED,
    LOCAL,
    LONGEST_BODY,
    PROXY,
    SIGNATURE,
    TCP4,
    TCP6,
    InvalidProxyHeader,
    ProxyHeader,
)
from dicom_adapter.net.tls import client_context
from support.certificates import Pki
from support.conversation import associate
from support.listening import SECONDS, Listen, wait_until

PROXIES = (ip_network("127.0.0.1"),)
BEHIND = b"what follows"


def binary(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + FIXED.pack(command, family, len(body)) + body


def addresses(source: str, destination: str) -> bytes:
    """Return two addresses and two ports, as in a header of version 2."""
    return ip_address(source).packed + ip_address(destination).packed + b"\xd4\x31\x2b\x68"


IPV4 = binary(PROXY, TCP4, addresses("192.0.2.7", "198.51.100.1"))
GOOD = [  # headers, each with the address of the peer that it names
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 54321 11112\r\n", "192.0.2.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 54321 11112\r\n", "2001:db8::7"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (IPV4, "192.0.2.7"),
    (binary(PROXY, TCP6, addresses("2001:db8::7", "2001:db8::1")), "2001:db8::7"),
    (binary(PROXY, TCP4, addresses("192.0.2.7", "198.51.100.1") + b"\x04\0\x03abc"), "192.0.2.7"),  # with a TLV
    (binary(LOCAL, TCP4, addresses("192.0.2.7", "198.51.100.1")), None),  # a health check of the proxy
    (binary(PROXY, 0, b""), None),
]
BAD = [
    b"GET / HTTP/1.1\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 54321\r\n",
    b"PROXY TCP4 2001:db8::7 198.51.100.1 54321 11112\r\n",
    b"PROXY TCP9 192.0.2.7 198.51.100.1 54321 11112\r\n",
    b"PROXY TCP4 pacs.example 198.51.100.1 54321 11112\r\n",
    b"PROXY " + b"x" * 200,
    binary(0x11, TCP4, b""),
    binary(PROXY, TCP4, b"12345678901"),
    binary(PROXY, 0x31, b"\0" * 216),
    binary(PROXY, TCP4, b"\0" * (LONGEST_BODY + 1)),
]


def read(data: bytes, step: int = 1 << 20) -> tuple[ProxyHeader, bytes]:
    """Read a header as from a socket, at most `step` bytes at a time. Returns the header and the bytes after it."""
    header = ProxyHeader()
    while header.bytes_to_read:
        piece = data[: min(header.bytes_to_read, step)]
        assert piece, "it wants more than there is"
        header.feed(piece)
        data = data[len(piece) :]
    return header, data


@pytest.mark.parametrize("step", [1, 3, 1 << 20])
@pytest.mark.parametrize(("data", "source"), GOOD)
def test_a_header_is_read_to_its_end_and_no_further(data: bytes, source: str | None, step: int) -> None:
    """The bytes after the header belong to TLS or DICOM, however the header is split."""
    header, rest = read(data + BEHIND, step)
    assert (source, BEHIND) == (header.source, rest)


@pytest.mark.parametrize("data", BAD)
def test_an_invalid_header_is_refused(data: bytes) -> None:
    """The headers have wrong keywords, unknown versions or invalid addresses, or are too long."""
    with pytest.raises(InvalidProxyHeader):
        read(data)


@given(st.binary(max_size=300))
def test_random_bytes_give_a_header_or_a_refusal(data: bytes) -> None:
    """In all other cases the parser needs more bytes, but never more than its limit."""
    for beginning in (b"", b"PROXY ", SIGNATURE):
        header = ProxyHeader()
        left = beginning + data
        try:
            while header.bytes_to_read and left:
                piece, left = left[: header.bytes_to_read], left[header.bytes_to_read :]
                header.feed(piece)
        except InvalidProxyHeader:
            continue
        assert header.bytes_to_read <= LONGEST_BODY


# --- connections ------------------------------------------------------------------------------------------------------


def request_association(connection: socket.socket, header: bytes) -> int:
    """Send a header and an association request. Returns the type of the PDU in response, or 0 if there is none."""
    connection.settimeout(SECONDS)
    connection.sendall(header + associate())
    try:
        return (connection.recv(1) or b"\0")[0]
    except ConnectionResetError:
        return 0


def connect(port: int, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), SECONDS, source_address=(source, 0))


ACCEPTED = 0x02


def test_the_proxy_header_names_the_peer(listen: Listen) -> None:
    """The header has version 1 or 2. If the header has no address, the peer is the proxy."""
    listening = listen(proxies=PROXIES)
    for header in (GOOD[0][0], IPV4, binary(LOCAL, 0, b"")):
        with connect(listening.port) as connection:
            assert ACCEPTED == request_association(connection, header)
    peers = [request.peer_address for request in listening.decisions.requests]
    assert ["192.0.2.7", "192.0.2.7", "127.0.0.1"] == peers


def test_headers_from_other_addresses_are_not_accepted(listen: Listen) -> None:
    """From another address, a header is an invalid PDU. Connections without a header are accepted directly."""
    listening = listen(proxies=PROXIES)
    with connect(listening.port, "127.0.0.2") as connection:
        assert ACCEPTED != request_association(connection, GOOD[0][0])
    with connect(listening.port, "127.0.0.2") as connection:
        assert ACCEPTED == request_association(connection, b"")
    assert ["127.0.0.2"] == [request.peer_address for request in listening.decisions.requests]


def test_a_proxy_must_send_a_header(listen: Listen) -> None:
    """Otherwise the connection is closed: without a header, all peers behind the proxy would count as one peer."""
    listening = listen(proxies=PROXIES)
    with connect(listening.port) as connection:
        assert 0 == request_association(connection, b"")
    assert "it does not begin with a PROXY header" == listening.wait_for("proxy_header_refused")["reason"]
    wait_until(lambda: listening.server.admission.connections == 0)


def test_a_header_must_arrive_in_time(listen: Listen) -> None:
    """A connection without a complete header is closed, and its slot is free again."""
    listening = listen(proxies=PROXIES, association_timeout=0.2)
    for beginning in (b"", b"PROXY TCP4"):
        with connect(listening.port) as connection:
            connection.sendall(beginning)
            assert b"" == connection.recv(1)
    listening.wait_for("proxy_header_refused", times=2)
    wait_until(lambda: listening.server.admission.connections == 0)


def test_a_health_check_of_a_proxy_is_not_logged(listen: Listen) -> None:
    """Load balancers connect and close every few seconds."""
    listening = listen(proxies=PROXIES)
    connect(listening.port).close()
    with connect(listening.port) as connection:
        assert ACCEPTED == request_association(connection, IPV4)
    assert [] == listening.logged("proxy_header_refused")


def test_limits_apply_to_the_peer_that_the_header_names(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit for one peer does not apply to a load balancer, but to each peer behind it."""
    monkeypatch.setattr(admission, "SPARE_CONNECTIONS_PER_PEER", 0)
    listening = listen(proxies=PROXIES, max_associations_per_peer=1)
    other = GOOD[0][0].replace(b"192.0.2.7", b"192.0.2.8")
    with connect(listening.port) as first, connect(listening.port) as second, connect(listening.port) as third:
        assert ACCEPTED == request_association(first, IPV4)
        assert 0 == request_association(second, IPV4)
        assert ACCEPTED == request_association(third, other)
    assert "192.0.2.7" == listening.wait_for("connection_refused")["peer"]


def test_the_header_comes_before_tls(listen: Listen, tmp_path: Path) -> None:
    """The header is sent in clear text, as by load balancers. No byte of the handshake is lost."""
    pki = Pki(tmp_path / "pki")
    certificate, key = pki.adapter()
    listening = listen(proxies=PROXIES, tls=TlsConfig(certificate=certificate, key=key))
    with connect(listening.port) as plain:
        plain.sendall(IPV4)
        with client_context(pki.authority).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            assert ACCEPTED == request_association(connection, b"")
    assert ["192.0.2.7"] == [request.peer_address for request in listening.decisions.requests]
